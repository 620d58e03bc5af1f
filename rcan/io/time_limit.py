"""An end to opening a file that never ends: damaged metadata can send a reader round in circles."""

import contextlib
import functools
import itertools
import os
import signal
import threading

from rcan.io.paths import VENDOR_SUFFIXES

_SECONDS = 60  # beyond what the size explains
_SLOWEST_DISK = 10e6  # bytes a second
_SECONDS_OF_A_FILE = 0.2  # beside it: the files of a set are opened together
_SECONDS_OF_OTHERS = 600  # formats whose size tells little: a plate of Zarr images has thousands of small files


@contextlib.contextmanager
def limited_time(path):
    """End what takes far longer than opening a file of this size can take, by a ValueError.

    Only the main thread of a process can be interrupted; elsewhere, and on Windows, there is no limit. A clock that the
    caller has set is left to the caller.
    """
    is_possible = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not is_possible or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    seconds = _choose_seconds(path)

    def end(*_):
        """Handle SIGALRM."""
        raise ValueError(
            f"{path} has not been opened after {seconds:.0f} seconds: it is damaged, or its disk is too slow. Copy it "
            "to a disk of this machine, or export it again."
        )

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # once more each second: a library may swallow an exception
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # also where it rang just now
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _choose_seconds(path):
    if not path.is_file() or path.suffix.lower() in VENDOR_SUFFIXES:
        return _SECONDS_OF_OTHERS
    return _SECONDS + path.stat().st_size / _SLOWEST_DISK + _SECONDS_OF_A_FILE * _count_files(path.parent)


@functools.lru_cache(maxsize=64)
def _count_files(folder):
    """Files of a folder, at most 10,000, counted once: the files of a folder are opened one after the other."""
    with os.scandir(folder) as entries:
        return sum(1 for _ in itertools.islice(entries, 10_000))
