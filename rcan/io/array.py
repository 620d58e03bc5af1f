"""Images in memory, as a source of volumes."""

from pathlib import Path

import numpy as np

from rcan.io.volume import Volume

__all__ = ["volume_of_array"]


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
