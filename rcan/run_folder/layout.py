"""Which files a run folder has: made for a new run, and kept from being replaced by accident."""

import os
import re
import shutil
from pathlib import Path

from rcan.atomic_io import atomic_file
from rcan.run_folder.state import RunState

__all__ = ["MODELS", "check_run_dir", "create_run", "list_checkpoints", "remove_partials"]

MODELS = ("best.keras", "last.keras")
_BEFORE_FIRST_STEP = RunState(epochs=0).name  # the checkpoint of a run that nothing is lost with
_RESULTS = (*MODELS, "history.csv", "history.png", "restored.png", "patches.png", "report.html")
_DESCRIPTION = ("config.json", "training.json")  # written before the first step
_EVENT_FOLDERS = ("train", "validation")


def check_run_dir(run_dir, *, overwrite=False):
    """Check that a run can be written to a folder, which may hold an earlier run only with `overwrite`.

    Nothing is changed. A ValueError says that no folder is named, an OSError that it cannot be made or written, or
    that a file or another run is in the way.
    """
    if run_dir is None:
        raise ValueError("output_dir is missing: name the run folder in the config file or with -o.")
    run_dir = Path(run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file: output_dir must be a folder. Name another with -o.")
    nearest = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{run_dir} cannot be made: {nearest} is a file. Name another folder with -o.")
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} may not be written to: name another folder with -o.")
    config, record = (run_dir / name for name in _DESCRIPTION)
    if config.exists() and not record.exists():
        raise FileExistsError(
            f"{config} was not written by a run: a run writes a file of that name. Name another folder with -o."
        )
    results = [run_dir / name for name in _RESULTS if (run_dir / name).exists()]
    results += [folder for folder in list_checkpoints(run_dir) if folder.name != _BEFORE_FIRST_STEP]
    if results and not overwrite:
        raise FileExistsError(f"{run_dir} {_describe_run(run_dir, results[0])}.")


def _describe_run(run_dir, result):
    """Say how far the run in a folder is, and what can be done."""
    for folder in reversed(list_checkpoints(run_dir)):
        try:
            state = RunState.load(folder / "state.json")
        except (OSError, ValueError):
            continue
        if state.is_finished:
            epochs = "epoch" if state.epoch == 1 else "epochs"
            return (
                f"already holds a run of {state.epoch} {epochs}: name another folder with -o, prolong it with --resume "
                "and more --epochs, or replace it with --overwrite"
            )
        return (
            f"holds an unfinished run (epoch {state.epoch + 1} of {state.epochs}): name another folder with -o, go on "
            "with --resume, or replace it with --overwrite"
        )
    return f"already holds a run ({result.name}): name another folder with -o, replace the run with --overwrite"


def create_run(run_dir, *, overwrite=False):
    """Make a run folder and its parents, without the files of an earlier run; other files stay where they are.

    What ended before its first epoch is no run. Errors are those of `check_run_dir`; nothing is removed then.
    """
    check_run_dir(run_dir, overwrite=overwrite)
    run_dir = Path(run_dir)
    old = _list_run_files(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with atomic_file(run_dir / "training.json") as partial:  # fails before anything is removed
        partial.write_text("{}")
    if old:
        remove_partials(run_dir)
        for folder in list_checkpoints(run_dir):
            shutil.rmtree(folder)
    for path in old:
        if path.name != "training.json":
            path.unlink()
        if path.parent != run_dir and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _list_run_files(run_dir):
    """List the files that a run has left; `train` and `validation` may hold images of a user besides."""
    if not (run_dir / "training.json").exists():
        return []
    events = [path for name in _EVENT_FOLDERS for path in (run_dir / name).glob("events.out*")]
    return [path for name in (*_RESULTS, *_DESCRIPTION) if (path := run_dir / name).exists()] + events


def list_checkpoints(run_dir):
    """List the folders of all checkpoints, the oldest first."""
    folders = (Path(run_dir) / "checkpoints").glob("epoch_*")
    return sorted(folder for folder in folders if re.fullmatch(r"epoch_\d{6}_\d{9}", folder.name))


def remove_partials(run_dir):
    """Remove incomplete files that a killed run has left."""
    for path in (run_dir / "checkpoints").glob(".epoch_*.partial-*"):
        shutil.rmtree(path)
    for name in (*_RESULTS, *_DESCRIPTION):
        for path in run_dir.glob(f".{Path(name).stem}.partial-*"):
            path.unlink()
