"""What is in a run folder: made for a new run, and kept from being replaced by accident."""

import os
import re
import shutil
from pathlib import Path

from rcan.atomic_io import atomic_file, read_json

__all__ = [
    "FIRST_STATE",
    "MODELS",
    "check_run_dir",
    "create_run",
    "list_states",
    "remove_partials",
]

MODELS = ("best.keras", "last.keras")
FIRST_STATE = "epoch_000000_000000000"  # of a run that has not done a step: nothing is lost with it
_RESULTS = (*MODELS, "history.csv", "history.png", "restored.png", "patches.png", "report.html")
_DESCRIPTION = ("config.json", "training.json")  # written before the first step
_FOLDERS = ("train", "validation")


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
    results += [folder for folder in list_states(run_dir) if folder.name != FIRST_STATE]
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
    for folder in reversed(list_states(run_dir)):
        try:
            state = read_json(folder / "state.json")
            return state["epoch"], state["epoch"] if state["is_finished"] else state["epochs"]
        except (OSError, ValueError, KeyError):
            continue
    return None, None


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
    with atomic_file(run_dir / "training.json") as partial:  # fails before anything is removed
        partial.write_text("{}")
    if old:
        remove_partials(run_dir)
        for folder in list_states(run_dir):
            shutil.rmtree(folder)
    for path in old:
        if path.name != "training.json":
            path.unlink()
        if path.parent != run_dir and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _files_of_run(run_dir):
    """What a run has left in a folder; `train` and `validation` may be a user's own, with images in them."""
    if not (run_dir / "training.json").exists():
        return []
    events = [path for name in _FOLDERS for path in (run_dir / name).glob("events.out*")]
    return [path for name in (*_RESULTS, *_DESCRIPTION) if (path := run_dir / name).exists()] + events


def list_states(run_dir):
    """List the folders of the states that have been saved, the oldest first.

    Parameters
    ----------
    run_dir : path

    Returns
    -------
    folders : list of Path
    """
    folders = (Path(run_dir) / "checkpoints").glob("epoch_*")
    return sorted(folder for folder in folders if re.fullmatch(r"epoch_\d{6}_\d{9}", folder.name))


def remove_partials(run_dir):
    """Remove what a killed run was writing.

    Parameters
    ----------
    run_dir : Path
    """
    for path in (run_dir / "checkpoints").glob(".epoch_*.partial-*"):
        shutil.rmtree(path)
    for name in (*_RESULTS, *_DESCRIPTION):
        for path in run_dir.glob(f".{Path(name).stem}.partial-*"):
            path.unlink()
