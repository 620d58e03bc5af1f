"""Ctrl-C and SIGTERM as a wish that is granted between two steps."""

import signal
import threading

from rcan.failures import Terminated

_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class StopRequest:
    """Note the first Ctrl-C or SIGTERM instead of raising an exception; the second one raises it.

    A context manager; does nothing outside the main thread, where Python takes no handlers.
    """

    def __enter__(self):
        self._number, self._earlier = None, {}
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in _EXCEPTIONS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def __bool__(self):
        return self._number is not None

    def _note(self, number, _):
        if self:
            raise _EXCEPTIONS[number]
        self._number = number

    def exception(self, message):
        """The exception that belongs to the signal; that of Ctrl-C where another machine has got it."""
        return _EXCEPTIONS[self._number or signal.SIGINT](message)
