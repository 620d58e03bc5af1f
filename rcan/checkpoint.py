"""The run folder: everything that a training run leaves behind, and how it is read again.

A run folder describes itself::

    best.keras      the network with the lowest validation loss so far
    last.keras      the network after the newest epoch
    history.csv     losses and measures of every epoch (history.png: the same, drawn)
    config.json     every key of the configuration, resolved
    training.json   versions, data, intensity ranges, patch shape, seed
    checkpoints/    the last two states of the training, complete with optimizer and position, to go on from
    measured/       intensity ranges and positions of signal, so that a second run need not look for them
    patches.png     some validation patches as the newest network restores them
    train/, validation/   TensorBoard events

Files appear under these names only when they are whole.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rcan.files import naming, read_json, whole_file, write_json

__all__ = [
    "FIRST_STATE",
    "check_run_dir",
    "create_run",
    "digest_model",
    "find_model",
    "load_model",
    "load_state",
    "note_about",
    "read_about",
    "save_model",
    "save_state",
    "write_history",
]

_MODELS = ("best.keras", "last.keras")
_RESULTS = (*_MODELS, "history.csv", "history.png", "restored.png", "patches.png")
_DESCRIPTION = ("config.json", "training.json")  # written before the first step
_FOLDERS = ("train", "validation")
_NOTES = ("spread", "trusted_range")  # what is found out about a network after its training
_KEPT_STATES = 2
FIRST_STATE = "epoch_000000_000000000"  # of a run that has not done a step: nothing is lost with it


def check_run_dir(run_dir, *, overwrite=False):
    """Check that a run can be written to a folder; nothing is changed.

    Parameters
    ----------
    run_dir : path or None
    overwrite : bool
        Whether an earlier run may be there.

    Raises
    ------
    ValueError
        If no folder is named.
    FileExistsError
        If it is a file, holds another run and `overwrite` is not set, or holds a `config.json` that no run wrote.
    OSError
        If it cannot be made or written.
    """
    if run_dir is None:
        raise ValueError("output_dir is missing: name the run folder in the config file or with -o.")
    run_dir = Path(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file: output_dir must be a folder. Name another with -o.")
    nearest = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(
            f"{run_dir} cannot be made: {nearest} is a file. Name another folder with -o."
        )
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} may not be written to: name another folder with -o.")
    config, about = (run_dir / name for name in _DESCRIPTION)
    if config.exists() and not about.exists():
        raise FileExistsError(
            f"{config} was not written by a run: a run writes a file of that name. Name another folder with -o."
        )
    results = [run_dir / name for name in _RESULTS if (run_dir / name).exists()]
    results += [folder for folder in _state_dirs(run_dir) if folder.name != FIRST_STATE]
    if not results or overwrite:
        return
    done, epochs = _progress(run_dir)
    if done is None:
        how, ways = f"already holds a run ({results[0].name})", "replace the run with --overwrite"
    elif done < epochs:
        how = f"holds an unfinished run (epoch {done + 1} of {epochs})"
        ways = "go on with --resume, or replace it with --overwrite"
    else:
        how = f"already holds a run of {epochs} epochs"
        ways = "prolong it with --resume and more --epochs, or replace it with --overwrite"
    raise FileExistsError(f"{run_dir} {how}: name another folder with -o, {ways}.")


def _progress(run_dir):
    """Epochs done and to do of the run in a folder, None where it cannot go on."""
    for folder in reversed(_state_dirs(run_dir)):
        try:
            state = read_json(folder / "state.json")
            return state["epoch"], state["epoch"] if state["is_finished"] else state["epochs"]
        except (OSError, ValueError, KeyError):
            continue
    return None, None


def _state_dirs(run_dir):
    """Saved states, the oldest first."""
    folders = (Path(run_dir) / "checkpoints").glob("epoch_*")
    return sorted(folder for folder in folders if re.fullmatch(r"epoch_\d{6}_\d{9}", folder.name))


def _remove_partials(run_dir):
    """Remove what a killed run was writing."""
    for path in (run_dir / "checkpoints").glob(".epoch_*.partial-*"):
        shutil.rmtree(path)
    for name in (*_RESULTS, *_DESCRIPTION):
        for path in run_dir.glob(f".{Path(name).stem}.partial-*"):
            path.unlink()


def _files_of_run(run_dir):
    """What a run has left in a folder; `train` and `validation` may be a user's own, with images in them."""
    if not (run_dir / "training.json").exists():
        return []
    events = [path for name in _FOLDERS for path in (run_dir / name).glob("events.out*")]
    return [path for name in (*_RESULTS, *_DESCRIPTION) if (path := run_dir / name).exists()] + events


def create_run(run_dir, *, overwrite=False):
    """Make a run folder, empty of earlier runs; one that ended before its first epoch counts for nothing.

    Parameters
    ----------
    run_dir : path
        Made with its parents where it does not exist. Files that no run writes stay where they are.
    overwrite : bool
        Remove the files of an earlier run.

    Raises
    ------
    ValueError, OSError
        As `check_run_dir`, or if the folder cannot be written; nothing is removed then.
    """
    check_run_dir(run_dir, overwrite=overwrite)
    run_dir = Path(run_dir)
    old = _files_of_run(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with whole_file(run_dir / "training.json") as partial:  # fails before anything is removed
        partial.write_text("{}")
    if old:
        _remove_partials(run_dir)
        for folder in _state_dirs(run_dir):
            shutil.rmtree(folder)
    for path in old:
        if path.name != "training.json":
            path.unlink()
        if path.parent != run_dir and not any(path.parent.iterdir()):
            path.parent.rmdir()


def save_state(run_dir, name, arrays, state):
    """Save all that a training needs to go on; the two newest states are kept.

    Parameters
    ----------
    run_dir : path
        Its `best.keras` is kept with the state.
    name : str
        As `FIRST_STATE`; sorts after the names before.
    arrays : list of ndarray
    state : dict
        JSON.

    Raises
    ------
    OSError
        If the disk is full, say; the earlier states stay.
    """
    run_dir = Path(run_dir)
    folder = run_dir / "checkpoints" / name
    partial = folder.with_name(f".{name}.partial-{os.getpid()}")
    try:
        with naming(run_dir):
            partial.mkdir(parents=True)
            with open(partial / "variables.npz", "wb") as file:
                np.savez(file, *arrays)
                file.flush()
                os.fsync(file.fileno())
            if (run_dir / "best.keras").exists():
                _link(run_dir / "best.keras", partial / "best.keras")
            write_json(partial / "state.json", state)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in _state_dirs(run_dir)[:-_KEPT_STATES]:
        shutil.rmtree(old)


def _link(source, target):
    """A second name for a file that is only ever replaced, never changed; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def load_state(run_dir, *, repair=True):
    """Load the newest state that is whole, and put the best network of that moment back in its place.

    Parameters
    ----------
    run_dir : path
    repair : bool
        Put the best network back and remove damaged states; otherwise nothing is changed.

    Returns
    -------
    arrays : list of ndarray
        None where no state was saved.
    state : dict

    Raises
    ------
    ValueError
        If states were saved, but none is whole.

    Warns
    -----
    UserWarning
        If a newer one is damaged.
    """
    run_dir, folders = Path(run_dir), _state_dirs(run_dir)
    for folder in reversed(folders):
        try:
            with open(folder / "variables.npz", "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as failure:
            warnings.warn(f"{folder} is damaged and passed over ({failure}).", stacklevel=2)
            continue
        if not repair:
            return arrays, state
        _remove_partials(run_dir)
        for damaged in folders[folders.index(folder) + 1 :]:  # it would pass for newer than what comes
            shutil.rmtree(damaged)
        (run_dir / "best.keras").unlink(missing_ok=True)
        if (folder / "best.keras").exists():
            with whole_file(run_dir / "best.keras") as partial:
                shutil.copyfile(folder / "best.keras", partial)
        return arrays, state
    if folders:
        raise ValueError(
            f"{run_dir}: none of its {len(folders)} checkpoints is whole. Start again with --overwrite."
        )
    return None, None


def save_model(model, path):
    """Save a Keras model; the file at `path` is the old or the new one, never half of it.

    Parameters
    ----------
    model : keras.Model
    path : path
        Ends in ``.keras``.
    """
    with whole_file(path) as partial:
        model.save(partial)


def write_history(path, epochs):
    """Write one line for each epoch as CSV.

    Parameters
    ----------
    path : path
    epochs : list of dict
        All with the same keys.
    """
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, epochs[0].keys())
        writer.writeheader()
        writer.writerows(epochs)


def find_model(model_dir):
    """Find the model file that `model_dir` means.

    Parameters
    ----------
    model_dir : path
        A run folder (its best model is taken, the newest where there is no best), or a ``.keras`` file.

    Returns
    -------
    path : Path

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    model_dir = Path(model_dir)
    if model_dir.suffix == ".keras" and model_dir.is_file():
        return model_dir
    for name in _MODELS:
        if (model_dir / name).is_file():
            return model_dir / name
    reason = "is not a .keras file" if model_dir.exists() else "does not exist"
    if model_dir.is_dir():
        reason = f"has neither {' nor '.join(_MODELS)}"
    if any(model_dir.glob("*.hdf5")):
        reason += ", but .hdf5 files, which this version does not read"
    raise FileNotFoundError(
        f"{model_dir} {reason}: -m takes the folder that train.py wrote, or a .keras file."
    )


def load_model(model_dir):
    """Load a trained network and what is known about it.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    model : keras.Model
        Ready to be called; not compiled.
    about : dict
        Contents of the `training.json` beside the model, empty where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If a file cannot be read as what it should be.
    """
    import keras

    import rcan.model  # noqa: F401  registers PixelShuffle

    path = find_model(model_dir)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as failure:
        reason = str(failure).strip().splitlines()[0] if zipfile.is_zipfile(path) else "no zip archive."
        raise ValueError(
            f"{path} is damaged, or no Keras model that can be loaded. Copy it again, or name another with -m. "
            f"({reason})"
        ) from failure
    return model, read_about(path)


def read_about(model_dir):
    """Read what is known about a trained network, without loading it.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    about : dict
        Contents of the `training.json` beside the model, empty where there is none. What `note_about` has added for
        another network than that of now is left out.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If it is not JSON.
    """
    path = find_model(model_dir).with_name("training.json")
    about = read_json(path) if path.is_file() else {}
    if all(key not in about for key in _NOTES):
        return about
    digest = digest_model(model_dir)
    return {key: fact for key, fact in about.items() if key not in _NOTES or fact["model"] == digest}


def note_about(model_dir, key, facts):
    """Add to a network's `training.json` what was found out about it later.

    Parameters
    ----------
    model_dir : path
        A run folder, or a ``.keras`` file beside its `training.json`.
    key : {"spread", "trusted_range"}
    facts : dict
        JSON. Kept with the digest of the network, as a training that goes on makes another network.

    Raises
    ------
    FileNotFoundError
        If there is no `training.json`.
    OSError
        If it cannot be written.
    """
    path = find_model(model_dir).with_name("training.json")
    about = read_json(path)
    write_json(path, {**about, key: {**facts, "model": digest_model(model_dir)}})


def digest_model(model_dir):
    """A word that differs where networks differ.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    digest : str
        16 hexadecimal digits.
    """
    return hashlib.sha256(find_model(model_dir).read_bytes()).hexdigest()[:16]
