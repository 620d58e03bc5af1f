"""Stop a run between two steps when Ctrl-C or SIGTERM asks for it."""

import signal
import threading

from rcan.failures import Terminated
from rcan.training.devices import is_cluster, sum_over_devices

_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class StopRequest:
    """Note the first Ctrl-C or SIGTERM in the `with` block instead of raising an exception; the second one raises it.

    Outside the main thread, where Python takes no handlers, it notes nothing.
    """

    def __init__(self, strategy):
        self._strategy, self._signal, self._earlier = strategy, None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in _EXCEPTIONS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self._signal is not None:
            raise _EXCEPTIONS[number]
        self._signal = number

    def is_made(self):
        """Whether this process, or one on another machine, was asked to stop: all stop after the same step."""
        is_asked = self._signal is not None
        if not is_cluster(self._strategy):
            return is_asked
        return sum_over_devices(self._strategy, float(is_asked)) > 0

    def exception(self, message):
        """Exception of the signal, with a message; that of Ctrl-C where another machine got the signal."""
        return _EXCEPTIONS[self._signal or signal.SIGINT](message)
