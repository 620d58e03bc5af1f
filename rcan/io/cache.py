"""Arrays that were costly to make, the most recently used ones; `cache` holds decoded parts of all open files."""

import functools
import threading
from collections import OrderedDict, defaultdict
from typing import NamedTuple

from rcan.memory import free_memory

SHARE_OF_FREE_MEMORY = 0.25


class Cache:
    """Arrays by owner and key; the least recently used ones give way when there are too many bytes."""

    def __init__(self, max_bytes=None):
        self.max_bytes = max_bytes  # None: a quarter of the memory that is free when the first array is kept
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._arrays = OrderedDict()
        self._keys = defaultdict(set)

    def get(self, owner, key):
        """Return the array that was kept for an owner under a key, or None."""
        with self._lock:
            if (owner, key) not in self._arrays:
                return None
            self._arrays.move_to_end((owner, key))
            return self._arrays[owner, key]

    def keep(self, owner, key, array):
        """Keep an array, and drop others if need be."""
        with self._lock:
            if self.max_bytes is None:
                self.max_bytes = int(SHARE_OF_FREE_MEMORY * free_memory())
            if (owner, key) not in self._arrays and array.nbytes <= self.max_bytes:
                self._arrays[owner, key] = array
                self._keys[owner].add(key)
                self.num_bytes += array.nbytes
            self._trim()

    def of(self, owner):
        """What is kept for an owner: its `get` and `keep`, without naming it."""
        return CachePart(functools.partial(self.get, owner), functools.partial(self.keep, owner))

    def drop(self, owner):
        """Forget all that is kept for an owner."""
        with self._lock:
            for key in [*self._keys.get(owner, ())]:
                self._forget(owner, key)

    def limit(self, max_bytes):
        """Set `max_bytes`, and drop what is too much."""
        with self._lock:
            self.max_bytes = max_bytes
            self._trim()

    def _trim(self):
        while self.max_bytes is not None and self.num_bytes > self.max_bytes:
            self._forget(*next(iter(self._arrays)))

    def _forget(self, owner, key):
        self.num_bytes -= self._arrays.pop((owner, key)).nbytes
        self._keys[owner].remove(key)
        if not self._keys[owner]:
            del self._keys[owner]


class CachePart(NamedTuple):
    """What a `Cache` keeps for one owner."""

    get: object  # of a key
    keep: object  # an array, under a key


cache = Cache()


def limit_cache(num_bytes):
    """Set how many bytes are kept decoded, for all open files together; None: a quarter of the free memory."""
    cache.limit(num_bytes)
