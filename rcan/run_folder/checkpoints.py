"""States of a training, complete with optimizer and position, from which it goes on."""

import json
import os
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rcan.atomic_io import atomic_file, report_errors_as, write_json
from rcan.run_folder.layout import list_states, remove_partials

__all__ = ["load_state", "save_state"]

_KEPT_STATES = 2


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
        with report_errors_as(run_dir):
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
    for old in list_states(run_dir)[:-_KEPT_STATES]:
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
    run_dir, folders = Path(run_dir), list_states(run_dir)
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
        remove_partials(run_dir)
        for damaged in folders[folders.index(folder) + 1 :]:  # it would pass for newer than what comes
            shutil.rmtree(damaged)
        (run_dir / "best.keras").unlink(missing_ok=True)
        if (folder / "best.keras").exists():
            with atomic_file(run_dir / "best.keras") as partial:
                shutil.copyfile(folder / "best.keras", partial)
        return arrays, state
    if folders:
        raise ValueError(
            f"{run_dir}: none of its {len(folders)} checkpoints is whole. Start again with --overwrite."
        )
    return None, None
