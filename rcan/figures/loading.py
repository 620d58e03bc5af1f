"""Images of any size, small enough to be shown."""

import math
from typing import NamedTuple

import numpy as np

from rcan.figures.rotation import known_voxel_size
from rcan.intensity import normalise
from rcan.regions import cut_into_grid, region_at

__all__ = ["View", "load_for_view"]

_MOST_SHOWN = 2**24  # voxels of an image that is kept, 64 MiB
_MOST_READ = 2**24  # voxels read at a time


class View(NamedTuple):
    """An image that is small enough to be shown."""

    image: np.ndarray  # (Z, Y, X, 1) or (Y, X, 1), float32, background 0 and signal 1
    voxel_size: tuple  # (z, y, x) in µm, of the voxels that are left
    bins: tuple  # voxels of the file along each axis that were averaged into one


def load_for_view(volume, frame, value_range, *, channel=0, most=_MOST_SHOWN, progress=None):
    """Read a frame of a file for a picture: neighbouring voxels are averaged until few enough are left.

    The file is read once, in pieces, and never held as a whole. Averaging makes voxels larger along the axis where
    they are smallest, so that they become more nearly cubes.

    The grey values `value_range` become 0 and 1; at most `most` voxels of the `channel` are left. `progress` is
    advanced by the voxels that are read. Returns a `View`.
    """
    shape = volume.shape[:-1]
    voxel_size = known_voxel_size(volume.voxel_size)[-len(shape) :]
    bins = _choose_bins(shape, voxel_size, most)
    shown = np.empty([-(-size // step) for size, step in zip(shape, bins, strict=True)], np.float32)
    for region in cut_into_grid(shape, _choose_steps(shape, bins)):
        block = volume.read(frame, region, dtype=None)[..., channel]
        if progress:
            progress.advance(block.size)
        block = normalise(block[..., np.newaxis], [value_range])[..., 0]
        block = np.where(np.isnan(block), np.float32(0), block)  # missing voxels are background
        for axis, step in enumerate(bins):
            block = _average(block, axis, step)
        start = [part.start // step for part, step in zip(region, bins, strict=True)]
        shown[region_at(start, block.shape)] = block
    larger = (1,) * (3 - len(bins)) + bins
    sizes = tuple(size and size * step for size, step in zip(volume.voxel_size, larger, strict=True))
    return View(shown[..., np.newaxis], sizes, bins)


def _choose_bins(shape, voxel_size, most):
    """Voxels to average along each axis, so that at most `most` are left."""
    bins = [1] * len(shape)
    while math.prod(-(-size // step) for size, step in zip(shape, bins, strict=True)) > most:
        divisible = [axis for axis, (size, step) in enumerate(zip(shape, bins, strict=True)) if step < size]
        bins[min(divisible, key=lambda axis: bins[axis] * voxel_size[axis])] += 1
    return tuple(bins)


def _choose_steps(shape, bins):
    """Shape of regions of about `_MOST_READ` voxels at most, each of whole bins."""
    steps = []
    for axis, step in enumerate(bins):
        beside = math.prod(steps) * math.prod(shape[axis + 1 :])
        steps.append(min(shape[axis], max(1, _MOST_READ // beside // step) * step))
    return steps


def _average(block, axis, step):
    """Mean of each `step` voxels along an axis; of fewer at the end."""
    if step == 1:
        return block
    starts = np.arange(0, block.shape[axis], step)
    counts = np.diff(starts, append=block.shape[axis])
    sums = np.add.reduceat(block, starts, axis=axis)
    return sums / counts.astype(np.float32).reshape([-1 if i == axis else 1 for i in range(block.ndim)])
