"""What a worker of a Dask cluster does: it restores parts of files.

A scheduler imports what its tasks name, and may know neither Keras nor a GPU: this module loads Keras in a worker only.
"""

import dataclasses
import glob
import os
import platform
import threading
from pathlib import Path
from typing import NamedTuple

from rcan.failures import describe_failure
from rcan.run_folder.models import read_record

__all__ = ["RemoteEngine", "choose_precision", "perform", "work"]


class RemoteEngine(NamedTuple):
    """What the main process knows of an engine that only the workers have."""

    factors: tuple
    grid: tuple
    num_channels: tuple


def choose_precision(options):
    """What this machine would compute the network in: ``"done"`` and a `ChosenPrecision`, or as `perform`."""
    try:
        from rcan.restoration.engine import find_devices
        from rcan.restoration.setup import choose_for_devices

        devices = find_devices(options.devices)
        (model_dir,) = options.model_dir
        return "done", choose_for_devices(options.precision, read_record(model_dir), devices)
    except Exception as failure:
        return "failed", _describe(failure)


def work(options, model_signature, num_processes, request=None):
    """Restore a part, or say what the main process has to know, see `perform`.

    The network is loaded once while options, network and the number of processes on this machine stay.
    """
    return perform(_load, (options, model_signature, num_processes), request)


def _load(options, model_signature, num_processes):
    from rcan.restoration.setup import load_restorer

    return load_restorer(options, num_processes=num_processes)


_lock = threading.Lock()
_loaded = {}  # the network of the newest job, by what it was loaded from


def perform(load, key, request=None):
    """Do in a worker what the main process has asked for, and raise nothing.

    ``load(*key)`` returns the `FileRestorer`; it is called once while the key stays. A `request` is a part, as
    `rcan.restoration.dask_cluster.Cluster.restore` makes it; without one the result is the `FileRestorer` with a
    `RemoteEngine`. Returns ``"done"``, ``"memory"`` or ``"failed"``, and the result or a message.
    """
    try:
        with _lock:
            if key not in _loaded:
                _loaded.clear()
                _loaded[key] = load(*key)
            restorer = _loaded[key]
        if request:
            return "done", _restore_part(restorer, **request)
        engine = restorer.tiled.engine
        tiled = restorer.tiled.with_engine(RemoteEngine(engine.factors, engine.grid, engine.num_channels))
        return "done", dataclasses.replace(restorer, tiled=tiled)
    except Exception as failure:
        from rcan.restoration.engine import is_out_of_memory

        return "memory" if is_out_of_memory(failure) else "failed", _describe(failure)


def _describe(failure):
    """A line about a failure, with the machine it came from."""
    return f"{' '.join(describe_failure(failure).splitlines())} (on {platform.node()})"


def _restore_part(restorer, *, raw_file, writers, signs, ranges, part, noise=None, **options):
    if not raw_file.path.exists() and not glob.glob(str(raw_file.path)):
        raise FileNotFoundError(f"{raw_file.path} is not seen: all machines must have it under this name.")
    for sign in signs:
        if not os.path.exists(sign):
            folder = Path(sign).parents[1]
            raise FileNotFoundError(f"{folder} is not seen as it is: all machines must write to this folder.")
    guarded = [_GuardedWriter(*pair) for pair in zip(writers, signs, strict=True)]
    report, seams = restorer.restore_part(raw_file, guarded, ranges, noise, part, **options)
    return report.num_clipped, report.num_values, report.num_missing, seams.steps


class _GuardedWriter:
    """A writer that stops when the main process has given up, so that nothing of it comes back after its removal."""

    def __init__(self, writer, sign):
        self._writer, self._sign = writer, sign

    def write(self, frame, region, block):
        """Write a block, or fail where the main process has given up."""
        open(self._sign).close()  # asks a network disk, which remembers what only exists
        self._writer.write(frame, region, block)

    def flush(self):
        """Write what is held back, or fail where the main process has given up."""
        open(self._sign).close()
        self._writer.flush()
