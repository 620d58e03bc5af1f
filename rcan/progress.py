"""Progress of long work: a bar on a terminal, lines that are replaced in a notebook, lines in a log."""

import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from rcan.inline import InlineText, in_notebook

__all__ = ["Progress", "observed_progress"]

_LOG_INTERVAL = 30  # seconds between the lines of a log
_INLINE_INTERVAL = 0.5  # seconds between two looks of a notebook
_INLINE_WIDTH = 60  # letters of its bar
_MOST_SAID = 5  # lines that a notebook shows above the bar, the last ones
_observer = ContextVar("observer", default=None)  # of the thread


@contextmanager
def observed_progress(observer):
    """Let ``observer(label, done, total)`` follow the work of this thread in the `with` block, instead of a bar.

    It is called at the beginning of each `Progress` and after each advance. An exception that it raises ends the work.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


class Progress:
    """Show how much work is done, how fast it goes, and the time left.

    On a terminal it is a bar on standard error; in a notebook a bar under the last lines that were said; elsewhere a
    line on standard output every half minute and at the end.
    `total`, and `done` of an earlier run, are amounts in `unit`, such as ``"voxel"``; `label` says what is being done.

    Examples
    --------
    >>> with Progress(2, "count", unit="step") as progress:
    ...     progress.advance(2, loss="0.5")  # doctest: +ELLIPSIS
    count: 100% 2/2 [...
    """

    def __init__(self, total, label, *, unit, done=0):
        look = {"unit_scale": True, "leave": False, "dynamic_ncols": True}
        self._observer = _observer.get()
        self._inline = InlineText() if in_notebook() and not self._observer else None
        self._said, self._is_shown = [], False  # what is done at once is not shown in a notebook
        is_hidden = True if self._observer or self._inline else None  # None: where there is no terminal
        self._bar = tqdm(total=total, desc=label, unit=unit, initial=done, disable=is_hidden, **look)
        self._label, self._unit, self._total = label, unit, total
        self._done, self._done_before, self._figures = done, done, {}
        self._started = self._logged = time.monotonic()
        self._tell_observer()

    def _tell_observer(self):
        if self._observer:
            self._observer(self._label, self._done, self._total)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self._bar.close()
        if self._inline and (self._is_shown or time.monotonic() - self._started > _INLINE_INTERVAL):
            self._show_inline(time.monotonic(), is_over=True)

    def advance(self, amount=1, **figures):
        """Count `amount` more as done, and show figures such as ``loss="0.1"``."""
        self._done += amount
        self._figures = figures or self._figures
        self._tell_observer()
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update(amount)
        now = time.monotonic()
        if self._inline and now - self._logged > _INLINE_INTERVAL:
            self._show_inline(now)
        is_logged = self._bar.disable and not self._inline and not self._observer
        if is_logged and (now - self._logged > _LOG_INTERVAL or self._done >= self._total):
            self._logged = now
            print(self._line(now - self._started), flush=True)

    def _show_inline(self, now, *, is_over=False):
        """Show the last lines that were said and, until it is over, a bar."""
        self._logged, self._is_shown = now, True
        line = self._line(now - self._started)
        if not is_over:
            filled = int(_INLINE_WIDTH * min(1, self._done / self._total)) if self._total else 0
            line = f"{line}\n{'█' * filled}{'░' * (_INLINE_WIDTH - filled)}"
        self._inline.show("\n".join([*self._said[-_MOST_SAID:], line]))

    def _line(self, elapsed):
        return tqdm.format_meter(
            self._done,
            self._total,
            elapsed,
            initial=self._done_before,
            prefix=self._label,
            unit=self._unit,
            unit_scale=self._total > 1000,
            postfix=", ".join(f"{name}={value}" for name, value in self._figures.items()) or None,
            bar_format="{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )

    def describe_speed(self):
        """Speed and time left, such as ``"7.3 step/s, 01:15 left"``."""
        elapsed = time.monotonic() - self._started
        speed = (self._done - self._done_before) / elapsed if elapsed else 0
        time_left = tqdm.format_interval((self._total - self._done) / speed) if speed else "?"
        return f"{speed:.3g} {self._unit}/s, {time_left} left"

    def say(self, text):
        """Print a line above the bar; of many a notebook keeps the last ones."""
        if self._inline:
            self._said.append(text)
            self._show_inline(time.monotonic())
        elif self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)
