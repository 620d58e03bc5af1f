"""Images in memory, as a source of volumes and as what blocks are written to."""

import math
from pathlib import Path

import numpy as np

from rcan.io.volume import Volume, place_block
from rcan.memory import free_memory

__all__ = ["ArraySink", "ArraySource", "volume_of_array"]

_STORED_AXES = "PTCZYX"  # in memory: what is shown at a time, a plane or a volume of a channel, lies in one piece


class ArraySource:
    """An array as the stored array of an image; `name` stands in messages where files have their path."""

    channel_names = time_step = None

    def __init__(self, array, axes, *, name, voxel_size):
        self._array, self.axes, self.shape, self.dtype = array, axes, array.shape, array.dtype
        self.path, self.voxel_size = Path(name), voxel_size

    def read(self, region):
        """Read a part of the array."""
        return self._array[region]

    def signature(self):
        """Return what makes the array another one: there is no file that could change."""
        return {"array": id(self._array)}

    def close(self):
        """Keep the array: nothing has been decoded."""


def volume_of_array(image, *, name="image", voxel_size=(None, None, None)):
    """Take an array (Z, Y, X, C) or (Y, X, C) for a `Volume` of one frame; `voxel_size` is (z, y, x) in µm."""
    axes = "ZYXC" if image.ndim == 4 else "YXC"
    return Volume(ArraySource(np.asarray(image), axes, name=name, voxel_size=voxel_size), axes, axes)


class ArraySink:
    """An array in memory that blocks are written to, see `rcan.io.volume.Sink`; `sizes` are by axis.

    `array` has the `axes` in their order. A ValueError says that the free memory does not hold it.
    """

    def __init__(self, path, axes, sizes, dtype):
        self.path, self.axes, self.display_range, self.notes = path, axes, None, {}
        self._sizes = {axis: sizes[axis] if axis in axes else 1 for axis in _STORED_AXES}
        shape = [*self._sizes.values()]
        num_bytes, free = math.prod(shape) * np.dtype(dtype).itemsize, free_memory()
        if num_bytes > free:
            raise ValueError(
                f"{path} would take {num_bytes / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free: write it to a "
                "file (OME-Zarr)."
            )
        self._stored = np.zeros(shape, dtype)
        dropped = tuple(place for place, axis in enumerate(_STORED_AXES) if axis not in axes)
        kept = [axis for axis in _STORED_AXES if axis in axes]
        self.array = self._stored.squeeze(dropped).transpose([kept.index(axis) for axis in axes])

    def write(self, frame, region, block):
        """Write one block, see `rcan.io.volume.Sink.write`."""
        block, (*region, channels) = place_block(self.path, frame, region, block, self._sizes)
        place = (frame.get("P", 0), frame.get("T", 0), channels, *region)
        self._stored[place] = np.moveaxis(block, -1, 0)

    def complete(self):
        """Return None: there is no file."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass
