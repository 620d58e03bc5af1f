"""Long work beside napari: in another thread, or by a command in a process of its own."""

import os
import signal
import subprocess
import sys
import traceback
from contextlib import contextmanager, suppress

from napari.qt.threading import WorkerBase, WorkerBaseSignals
from qtpy.QtCore import Signal

from rcan.failures import describe_failure
from rcan.napari.worker import Link
from rcan.progress import observed_progress

__all__ = ["Cancelled", "Job"]

_EXPECTED = (ImportError, MemoryError, OSError, ValueError)


class Cancelled(Exception):
    """The user has asked to stop."""


class _Signals(WorkerBaseSignals):
    """What a `Job` tells: progress (label, thousandths), what its function reports, warnings, and one of three ends."""

    progressed = Signal(str, int)
    reported = Signal(object)
    alerted = Signal(str)  # a warning
    succeeded = Signal(object)  # what the function returns
    failed = Signal(str)  # the reason, in a line
    cancelled = Signal()


class Job(WorkerBase):
    """A function that runs in another thread: ``function(job)``.

    It may call `report`, `warn`, `check`, `run_command` and `run_worker`. Each `rcan.progress.Progress` in it is
    shown, and ends it where it is cancelled.
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

    def warn(self, text):
        """Show a warning."""
        self.alerted.emit(text)

    def show_progress(self, label, done, total):
        """Tell how much is done; a `Cancelled` ends the function where the user has asked for it."""
        self.check()
        self.progressed.emit(label, 1000 * done // max(total, 1))

    def check(self):
        """Raise a `Cancelled` if the user has asked to stop."""
        if self.abort_requested:
            raise Cancelled

    def quit(self):
        """Ask the job to stop; its process gets the signal at which a training saves its state."""
        super().quit()
        if process := self._process:
            process.terminate()

    @contextmanager
    def _open_process(self, arguments, **options):
        """Start a process of Python; the user can end it, and it is gone when the `with` block ends."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        environment["PYTHONSAFEPATH"] = "1"  # the folder of a clone, called rcan, is not the package
        options |= {"stdout": subprocess.PIPE, "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
        self.check()
        with subprocess.Popen([sys.executable, *arguments], env=environment, **options) as process:
            self._process = process
            try:
                if self.abort_requested:  # in the moment before
                    process.terminate()
                yield process
            except BaseException:
                process.kill()
                raise
            finally:
                self._process = None

    def run_command(self, arguments, follow=lambda line: None):
        """Run ``rcan ARGUMENTS`` in a process of its own, and wait for it.

        ``follow(line)`` gets each line that it prints. Its warnings are shown; its errors become a ValueError.
        """
        errors = []
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
        with self._open_process(["-m", "rcan", *map(str, arguments)], **options) as process:
            for line in map(str.rstrip, process.stdout):
                if line.startswith("error: "):
                    errors.append(line.removeprefix("error: "))
                elif line.startswith("warning: "):
                    self.warn(line.removeprefix("warning: "))
                elif line:
                    follow(line)
        if process.returncode == 0:
            return
        self.check()
        raise ValueError("\n".join(errors) or _describe_end(f"rcan {arguments[0]}", process.returncode))

    def run_worker(self, module, task, answers, hearers):
        """Run a module in a process of its own that asks and tells through a `rcan.napari.worker.Link`.

        It gets the `task`, and says ``"done"`` with a result, which is returned, or ``"failed"`` with the reason, which
        becomes a ValueError. `answers` and `hearers` have a function for each other word: those of `answers` return
        what the process waits for.
        """
        with self._open_process(["-m", module], stdin=subprocess.PIPE) as process:
            link = Link(process.stdout, process.stdin)
            try:
                link.tell(*task)
                while True:
                    word, *facts = link.hear()
                    if word == "done":
                        return facts[0]
                    if word == "failed":
                        raise ValueError(facts[0])
                    if word in answers:
                        link.tell(*_answer(answers[word], facts))
                    else:
                        hearers[word](*facts)
            except (EOFError, BrokenPipeError):  # the process is gone
                process.wait()
            finally:
                with suppress(BrokenPipeError):  # of what it has not read
                    process.stdin.close()
        self.check()
        raise ValueError(_describe_end("the process that restores", process.returncode))


def _answer(function, facts):
    """What a function says, as an answer: ``"answered"`` with its result, or ``"failed"`` with the reason."""
    try:
        return "answered", function(*facts)
    except _EXPECTED as failure:
        return "failed", describe_failure(failure)


def _describe_end(name, status):
    """What is said of a process that has ended without a word."""
    if status == -getattr(signal, "SIGKILL", 9):
        return f"{name} was ended by the system, as where memory runs out: use smaller tiles, patches or images."
    return f"{name} has ended with status {status} and no message: the terminal of napari may show more."
