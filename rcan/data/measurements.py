"""Measurements of volumes that are kept for this run and the next ones."""

import hashlib
import json
import re
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rcan.atomic_io import atomic_file, preallocate, write_json

_VERSION = 1  # of what is measured: with another number every volume is measured again


class MeasurementCache:
    """Numbers and arrays by key in a folder; without one, in a temporary folder as long as the object lives.

    A key is made of path, size and modification time of every volume that was measured, and of the settings: what
    has changed is measured again.
    """

    def __init__(self, folder=None):
        if folder is None:
            folder = tempfile.mkdtemp(prefix="rcan-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._folder = Path(folder)
        self._used_keys = set()

    def key(self, volumes, **settings):
        """Make the key of a measurement of some volumes with these settings (JSON)."""
        facts = [_VERSION, [volume.signature() for volume in volumes], settings]
        key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:24]
        self._used_keys.add(key)
        return key

    def get(self, key, names):
        """Values that were kept under a key; None without values of all these names, or where they were changed."""
        try:
            kept = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            values, checksum = kept["values"], kept["checksum"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # not measured yet, or damaged
            return None
        is_sound = checksum == _checksum(values) and isinstance(values, dict)
        return values if is_sound and values.keys() >= set(names) else None

    def put(self, key, values):
        """Keep a dictionary of JSON."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{key}.json", {"values": values, "checksum": _checksum(values)})

    @contextmanager
    def new_array(self, key, name, shape, dtype):
        """An array of zeros to fill; it is kept when the `with` block ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self._folder / f"{key}.{name}.npy") as partial:
            array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
            with open(partial, "rb+") as stream:
                preallocate(stream, array.offset, array.nbytes)
            yield array
            array.flush()

    def array(self, key, name):
        """An array that was filled; its file is mapped only as long as the array lives."""
        return np.load(self._folder / f"{key}.{name}.npy", mmap_mode="r")

    def has_arrays(self, key, names):
        """Whether arrays were filled, and can be read."""
        try:
            return all(self.array(key, name) is not None for name in names)
        except (OSError, ValueError):
            return False

    def remove_unused(self):
        """Remove the files of all keys that this run has not asked for; a user's files stay."""
        for path in self._folder.glob("*"):
            ours = re.fullmatch(r"\.?([0-9a-f]{24})\..*", path.name)  # also what was never completed
            if ours and (ours[1] not in self._used_keys or ".partial-" in path.name):
                path.unlink()


def _checksum(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
