"""Checkpoints of a training: its variables and where it is, from which it goes on."""

import os
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import atomic_file, report_errors_as, write_json
from rcan.run_folder.layout import list_checkpoints, remove_partials
from rcan.run_folder.state import RunState

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

_NUM_KEPT = 2  # the newest ones


class Checkpoint(NamedTuple):
    """All that a training needs to go on; its folder holds the best network so far besides."""

    variables: list  # arrays: weights, optimizer, moving average
    state: RunState


def save_checkpoint(run_dir, checkpoint):
    """Save a checkpoint in a run folder, and remove all but the newest two.

    If the disk is full, say, the earlier checkpoints stay.
    """
    run_dir = Path(run_dir)
    folder = run_dir / "checkpoints" / checkpoint.state.name
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        with report_errors_as(run_dir):
            partial.mkdir(parents=True)
            with open(partial / "variables.npz", "wb") as file:
                np.savez(file, *checkpoint.variables)
                file.flush()
                os.fsync(file.fileno())
            if (run_dir / "best.keras").exists():
                _link(run_dir / "best.keras", partial / "best.keras")
            write_json(partial / "state.json", checkpoint.state.model_dump())
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list_checkpoints(run_dir)[:-_NUM_KEPT]:
        shutil.rmtree(old)


def _link(source, target):
    """Give a file a second name, as it is only ever replaced, never changed; copy it where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def load_checkpoint(run_dir, *, repair=True):
    """Load the newest checkpoint that is not damaged; None where nothing was saved.

    Of damaged ones it is warned; if all are, that is a ValueError. With `repair` they are removed, and `best.keras`
    becomes the best network of that moment again.
    """
    run_dir, folders = Path(run_dir), list_checkpoints(run_dir)
    for folder in reversed(folders):
        try:
            with open(folder / "variables.npz", "rb") as stream, np.load(stream, allow_pickle=False) as file:
                variables = [file[f"arr_{i}"] for i in range(len(file.files))]
            checkpoint = Checkpoint(variables, RunState.load(folder / "state.json"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as failure:
            warnings.warn(f"{folder} is damaged and passed over ({failure}).", stacklevel=2)
            continue
        if repair:
            remove_partials(run_dir)
            for damaged in folders[folders.index(folder) + 1 :]:  # it would pass for newer than what comes
                shutil.rmtree(damaged)
            _restore_best(run_dir, folder)
        return checkpoint
    if folders:
        raise ValueError(f"{run_dir}: none of its {len(folders)} checkpoints is whole. Start again with --overwrite.")
    return None


def _restore_best(run_dir, folder):
    """Let the best network of a checkpoint be that of the run."""
    (run_dir / "best.keras").unlink(missing_ok=True)
    if (folder / "best.keras").exists():
        with atomic_file(run_dir / "best.keras") as partial:
            shutil.copyfile(folder / "best.keras", partial)
