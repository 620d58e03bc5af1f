"""Long work beside napari: in another thread, or by a command in a process of its own."""

import os
import signal
import subprocess
import sys
import traceback
import warnings

from napari.qt.threading import WorkerBase, WorkerBaseSignals
from qtpy.QtCore import Signal

from rcan.failures import describe_failure
from rcan.progress import observed_progress

__all__ = ["Cancelled", "Job"]

_EXPECTED = (ImportError, MemoryError, OSError, ValueError)


class Cancelled(Exception):
    """The user has asked to stop."""


class _Signals(WorkerBaseSignals):
    """What a `Job` tells: progress (label, thousandths), things that its function reports, and one of three ends."""

    progressed = Signal(str, int)
    reported = Signal(object)
    succeeded = Signal(object)  # what the function returns
    failed = Signal(str)  # the reason, in a line
    cancelled = Signal()


class Job(WorkerBase):
    """A function that runs in another thread: ``function(job)``.

    It may call `report`, `check` and `run_command`. Each `rcan.progress.Progress` in it is shown, and ends it where it
    is cancelled.
    """

    def __init__(self, function):
        super().__init__(SignalsClass=_Signals)
        self._function, self._process = function, None

    def work(self):
        """Run the function in the thread, and tell how it ends."""
        try:
            with observed_progress(self.show_progress):
                result = self._function(self)
        except Cancelled:
            self.cancelled.emit()
        except Exception as failure:
            if not isinstance(failure, _EXPECTED):
                traceback.print_exception(failure)
            self.failed.emit(describe_failure(failure, where="the terminal shows where"))
        else:
            self.succeeded.emit(result)

    def report(self, thing):
        """Hand something to those that listen to `reported`."""
        self.reported.emit(thing)

    def show_progress(self, label, done, total):
        """Tell how much is done; a `Cancelled` ends the function where the user has asked for it."""
        self.check()
        self.progressed.emit(label, 1000 * done // max(total, 1))

    def check(self):
        """Raise a `Cancelled` if the user has asked to stop."""
        if self.abort_requested:
            raise Cancelled

    def quit(self):
        """Ask the job to stop; a command gets the signal at which a training saves its state."""
        super().quit()
        if self._process:
            self._process.terminate()

    def run_command(self, arguments, follow=lambda line: None):
        """Run ``rcan ARGUMENTS`` in a process of its own, and wait for it.

        ``follow(line)`` gets each line that it prints. Its warnings are raised here; its errors become a ValueError.
        """
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        environment["PYTHONSAFEPATH"] = "1"  # the folder of a clone, called rcan, is not the package
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options |= {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}  # of Windows
        command = [sys.executable, "-m", "rcan", *map(str, arguments)]
        errors = []
        self.check()
        with subprocess.Popen(command, env=environment, encoding="utf-8", errors="replace", **options) as process:
            self._process = process
            if self.abort_requested:  # in the moment before
                process.terminate()
            for line in map(str.rstrip, process.stdout):
                if line.startswith("error: "):
                    errors.append(line.removeprefix("error: "))
                elif line.startswith("warning: "):
                    warnings.warn(line.removeprefix("warning: "), stacklevel=2)
                elif line:
                    follow(line)
        self._process = None
        if process.returncode == 0:
            return
        self.check()
        raise ValueError("\n".join(errors) or _describe_end(arguments[0], process.returncode))


def _describe_end(command, status):
    """What is said of a command that has ended without a word."""
    if status == -getattr(signal, "SIGKILL", 9):
        return f"rcan {command} was ended by the system, as where memory runs out: use smaller patches or images."
    return f"rcan {command} has ended with status {status} and no message: run it in a terminal to see more."
