"""The files of a run that go with an exported network, by which this package restores as with the run folder.

They tell no folders of the machine that it was trained on: files that were learned from are named without them.
"""

import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath

from rcan.atomic_io import read_json, write_json
from rcan.run_folder.layout import MODELS
from rcan.run_folder.models import find_model, has_record, save_model

__all__ = ["CARD", "copy_run_files", "is_hub_folder", "read_config"]

CARD = "README.md"
_RECORD, _CONFIG = "training.json", "config.json"


def copy_run_files(folder, model_dir, model, record):
    """Write the network of a run, the record of its training and its settings into a folder; returns their names.

    A file of Keras is copied byte by byte: what `rcan evaluate` and `rcan limits` have added to the record holds for
    these bytes. Records and settings are left out where there are none.
    """
    source, folder = find_model(model_dir), Path(folder)
    if source.suffix == ".keras":
        shutil.copyfile(source, folder / MODELS[0])
    else:
        save_model(model, folder / MODELS[0])
    written = [MODELS[0]]
    if has_record(model_dir):
        pairs = {name: tuple(map(_name_files, getattr(record, name))) for name in ("training", "validation")}
        write_json(folder / _RECORD, _without_folders(record.model_copy(update=pairs).as_json()))
        written.append(_RECORD)
    if config := read_config(model_dir):
        write_json(folder / _CONFIG, _without_folders(config))
        written.append(_CONFIG)
    return written


def read_config(model_dir):
    """The contents of the config.json that a training has written beside a network; None without one."""
    path = find_model(model_dir).with_name(_CONFIG)
    return read_json(path) if has_record(model_dir) and path.is_file() else None


def is_hub_folder(folder):
    """Whether a folder holds what is exported for Hugging Face and nothing else, such as a repository of Git."""
    names = {path.name for path in folder.iterdir()}
    return CARD in names and names <= {CARD, MODELS[0], _RECORD, _CONFIG}


def _name_files(pair):
    return pair.model_copy(update={kind: PureWindowsPath(getattr(pair, kind)).name for kind in ("raw", "gt")})


def _without_folders(value):
    """JSON whose absolute paths, of any system, have become the names of files."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return PureWindowsPath(value).name if is_path else value
