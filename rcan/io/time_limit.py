"""An end to opening a file that never ends: damaged metadata can send a reader round in circles."""

import contextlib
import signal
import threading

_SECONDS = 60  # beyond what the size explains
_SLOWEST_DISK = 10e6  # bytes a second
_SECONDS_OF_FOLDER = 600  # whose size is not known: a plate has thousands of small files


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
    seconds = _SECONDS_OF_FOLDER
    if path.is_file():
        seconds = _SECONDS + path.stat().st_size / _SLOWEST_DISK

    def end(*_):
        raise ValueError(
            f"{path} has not been opened after {seconds:.0f} seconds: it is damaged, or its disk does not answer. Copy "
            "or export it again."
        )

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # once more each second: a library may swallow an exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
