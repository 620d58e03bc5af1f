"""Single voxels that are far too bright, of a hot pixel or a cosmic ray, replaced by what is around them."""

import numpy as np

from rcan.fingerprint.measure import measure_fingerprint
from rcan.regions import region_shape

__all__ = ["DespikedSource", "despike"]

_AROUND = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2) if (y, x) != (1, 1)]
_SIGMAS = 8  # of the noise above the second brightest neighbour
_MOST_PARTS = 1000  # of the places that are kept, until they are merged
_TIMES_SPREAD = 4  # above it, as far as it is from the darkest one


def despike(volume, noise=None):
    """Show a volume without its spikes.

    A spike is brighter than its eight neighbours in the plane, but for one, which may be a spike, too: above the others
    by more than eight standard deviations of the noise, and by more than four times what these differ by. Its value
    becomes the median of the eight. No lens makes such a voxel of an object, as long as a pixel is not larger than the
    resolution. Three spikes side by side are left alone.

    Parameters
    ----------
    volume : rcan.io.volume.Volume
    noise : dict, optional
        A (gain, level, floor) in grey values by number of the channel, as `rcan.fingerprint.records` has them; measured
        where not given. Spikes hardly change it.

    Returns
    -------
    despiked : Volume
        Its `source` is a `DespikedSource`.
    """
    if noise is None:
        blocks = volume.with_block_axes("ZYXC" if "Z" in volume.axes else "YXC")
        measured = measure_fingerprint(blocks, frames=blocks.frames)
        noise = {channel.number: channel.noise_model() for channel in measured.channels}
    return volume.of_source(DespikedSource(volume.source, noise))


class DespikedSource:
    """The array of an image without spikes, see `despike`; a `rcan.io.volume.Source`.

    `noise` is that of each channel. `num_spikes` counts those in all that has been read, each once.
    """

    def __init__(self, source, noise):
        self._source, self.noise = source, noise
        self.path, self.axes, self.shape, self.dtype = source.path, source.axes, source.shape, source.dtype
        self.voxel_size, self.time_step, self.channel_names = source.voxel_size, source.time_step, source.channel_names
        self._plane = [source.axes.index(axis) for axis in "YX"]
        self._outer = [axis for axis in range(len(source.axes)) if axis not in self._plane]
        self._found = []  # places of spikes in the array, counted through; some more than once

    @property
    def num_spikes(self):
        """Number of spikes that were found."""
        return len(self._merge_found())

    def read(self, region):
        """Read a part of the array, see `rcan.io.volume.Source`; the voxels around it are read, too."""
        wider, missing = list(region), [(0, 0)] * len(region)
        for axis in self._plane:
            start, stop = region[axis].start - 1, region[axis].stop + 1
            missing[axis] = int(start < 0), int(stop > self.shape[axis])
            wider[axis] = slice(max(start, 0), min(stop, self.shape[axis]))
        padded = np.pad(self._source.read(tuple(wider)), missing, mode="reflect")
        padded = np.moveaxis(padded, self._plane, (-2, -1))
        planes = padded[..., 1:-1, 1:-1].copy()
        place = [region[axis].start for axis in self._outer + self._plane]
        where, values = self._find(planes, padded, place)
        planes[tuple(where.T)] = values
        self._count(where + place)
        return np.ascontiguousarray(np.moveaxis(planes, (-2, -1), self._plane)).reshape(region_shape(region))

    def _find(self, planes, padded, place):
        """Indices of spikes in planes (..., Y, X), and what they are replaced by.

        `padded` has one voxel more on all sides of the planes; `place` is where the planes begin in the image.
        """
        height, width = planes.shape[-2:]
        beside = [padded[..., y : y + height, x : x + width] for y, x in _AROUND]
        is_above = np.zeros(planes.shape, np.int8)
        for neighbours in beside:
            is_above += planes > neighbours
        where = np.argwhere(is_above >= len(_AROUND) - 1)
        index = tuple(where.T)
        around = np.sort(np.array([neighbours[index] for neighbours in beside], np.float64), axis=0)
        low, high = around[0], around[-2]
        excess = planes[index].astype(np.float64) - high
        gain, level, floor = self._noise_at(where, place)
        variance = floor + gain * (np.maximum(high - level, 0) + excess)
        is_spike = (excess > _TIMES_SPREAD * (high - low)) & (excess**2 > _SIGMAS**2 * variance)
        medians = around[3:5, is_spike].mean(axis=0)
        return where[is_spike], (np.rint(medians) if self.dtype.kind in "iu" else medians).astype(self.dtype)

    def _count(self, places):
        sizes = [self.shape[axis] for axis in self._outer + self._plane]
        self._found.append(np.ravel_multi_index(tuple(places.T), sizes))
        if len(self._found) > _MOST_PARTS:
            self._merge_found()

    def _merge_found(self):
        """Keep the place of each spike once, and return all."""
        self._found = [np.unique(np.concatenate([np.zeros(0, np.int64), *self._found]))]
        return self._found[0]

    def _noise_at(self, where, place):
        """Gain, level and floor of the noise at voxels, by their channel."""
        models = np.array([self.noise[number] for number in sorted(self.noise)])
        numbers = np.zeros(len(where), int)
        if "C" in self.axes:
            axis = self._outer.index(self.axes.index("C"))
            numbers = where[:, axis] + place[axis]
        return models[numbers].T

    def signature(self):
        """Return what changes with the file, and with what counts as a spike."""
        return {**self._source.signature(), "despiked": self.noise}

    def close(self):
        """Free what has been decoded."""
        self._source.close()
