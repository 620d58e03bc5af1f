"""The grey values of background and signal of a volume, which become 0 and 1: two percentiles of each channel.

Volumes of any size are read slab by slab. Integers are counted, other numbers are sampled where there are very many.
"""

import math
import warnings

import numpy as np

from rcan.intensity import CELL, average_cells

__all__ = [
    "ConstantImage",
    "PercentileCounter",
    "PercentileSampler",
    "RangeFinder",
    "finish_range",
    "percentile_range",
]

_SAMPLE_SIZE = 2**24  # values of a floating-point channel that are ranked exactly: 64 MB
_SLAB_SIZE = 2**21  # values read at a time
_RARE = (99.99, 99.999, 100)  # percentiles that become 1 where signal is too rare for the one that is asked for


class ConstantImage(ValueError):
    """A channel has one grey value only; `ranges` (C, 2) are those of all channels, of no width where that is so."""

    def __init__(self, message, ranges):
        super().__init__(message)
        self.ranges = ranges


def percentile_range(volume, percentiles, *, frames=None, channels=None, smoothed=False, skips_missing=False):
    """Grey values at two percentiles of each channel, over frames of a volume.

    Integers of up to 32 bits are counted, so that the result is exact for any size of volume. Other numbers are
    exact up to 17 million values in a channel; beyond, every n-th value is ranked.

    Parameters
    ----------
    volume : rcan.io.volume.Volume
        Read slab by slab, once; 32-bit integers twice. Frames that show another channel (``"C"`` among the looped
        axes) are channels of their own.
    percentiles : tuple of float
        Low and high percentile, ``0 <= low < high <= 100``.
    frames : list of dict, optional
        Some of ``volume.frames``; all where not given.
    channels : sequence of int, optional
        Some of the channels of a block; all where not given.
    smoothed : bool
        Rank the means of squares of 4 x 4 voxels instead of single voxels: noise moves them a quarter as far.
    skips_missing : bool
        Leave out voxels that are NaN instead of refusing them.

    Returns
    -------
    range : ndarray of shape (C, 2), float64
        Grey values that become 0 and 1, for each channel.

    Raises
    ------
    ConstantImage
        If a channel has one grey value only.
    ValueError
        If a value is infinite, or NaN where these are not skipped.

    Warns
    -----
    UserWarning
        If both percentiles of a channel are the same grey value, as where signal is rare: a higher one becomes 1.
    """
    frames = volume.frames if frames is None else frames
    options = {"channels": channels, "smoothed": smoothed, "skips_missing": skips_missing}
    finder = RangeFinder(volume, percentiles, frames=frames, **options)
    _add_frames(finder, volume, frames)
    return finish_range(finder, volume, frames)


def finish_range(finder, volume, frames=None):
    """Return the range of a finder that all blocks have been added to; they are read once more if need be."""
    while (ranges := finder.end_pass()) is None:
        _add_frames(finder, volume, volume.frames if frames is None else frames)
    return ranges


def _add_frames(finder, volume, frames):
    for frame in frames:
        for region in volume.cut(_SLAB_SIZE // volume.shape[-1]):
            finder.add(frame, region, volume.read(frame, region, dtype=None))


class RangeFinder:
    """Finds the range of each channel of a volume from its blocks, see `percentile_range` for the arguments.

    All blocks of all frames are added, in any order, with all channels and in the type of the file. `end_pass` then
    returns the range, or None where all have to be added once more.
    """

    def __init__(self, volume, percentiles, *, frames=None, channels=None, smoothed=False, skips_missing=False):
        self._skips_missing = skips_missing
        self._path, self._percentiles = volume.path, percentiles
        percentiles = (*percentiles, *(rare for rare in _RARE if rare > percentiles[1]))
        self._channels = range(volume.shape[-1]) if channels is None else channels
        frames = volume.frames if frames is None else frames
        self._is_counted = volume.dtype.kind in "iu" and volume.dtype.itemsize <= 4 and not smoothed
        self._counters = {}  # by channel of the frames, None where blocks hold all channels
        for channel in dict.fromkeys(frame.get("C") for frame in frames):
            same = [frame for frame in frames if frame.get("C") == channel]
            self._counters[channel] = (
                PercentileCounter(volume.dtype, volume.shape[-1], percentiles)
                if self._is_counted
                else PercentileSampler(percentiles, same, volume.shape[:-1], cell=CELL if smoothed else 1)
            )

    def add(self, frame, region, block):
        """Add a block (Z, Y, X, C) or (Y, X, C), a region of a frame with start and stop along each spatial axis."""
        if block.dtype.kind == "f" and not (np.isfinite(block) | (self._skips_missing & np.isnan(block))).all():
            raise ValueError(f"{self._path} holds NaN or infinite values: all must be finite numbers. Replace them.")
        counter = self._counters[frame.get("C")]
        counter.add(block) if self._is_counted else counter.add(frame, region, block)

    def end_pass(self):
        """Return the range (C, 2), or None if all blocks have to be added once more."""
        found = {looped: counter.end_pass() for looped, counter in self._counters.items()}
        if any(rows is None for rows in found.values()):
            return None
        ranges = {}  # by channel of the file
        for looped, rows in found.items():
            for channel in self._channels:
                number = channel if looped is None else looped
                ranges[number] = self._choose(number, *rows[channel])
        values = np.array([*ranges.values()], np.float64)
        for channel, (low, high) in ranges.items():
            if not high > low:
                first, last = self._percentiles
                raise ConstantImage(
                    f"{self._path}: percentiles {first:g} and {last:g} of channel {channel} are both {low:g}, and no "
                    "value is higher: the image is constant, or nearly so. Leave it out.",
                    values,
                )
        return values

    def _choose(self, channel, low, high, *rarer):
        """The range of a channel: up to a higher percentile where the one that is asked for is no higher than low."""
        if high > low or not rarer or rarer[-1] <= low:
            return low, high
        place = next(place for place, value in enumerate(rarer) if value > low)
        warnings.warn(
            f"{self._path}: percentiles {self._percentiles[0]:g} and {self._percentiles[1]:g} of channel {channel} are "
            f"both {low:g}, signal is rare: percentile {_RARE[place - len(rarer)]:g}, {rarer[place]:g}, becomes 1.",
            stacklevel=2,
        )
        return low, rarer[place]


class PercentileCounter:
    """Percentiles of each channel of integers of up to 32 bits, as `np.percentile` gives them, from counts.

    A value is a number of one or two digits of 16 bits. The values at the ranks are found digit by digit, from the
    highest: each pass counts the next digit of the values that begin with the digits found already.
    """

    def __init__(self, dtype, num_channels, percentiles):
        num_bits = 8 * np.dtype(dtype).itemsize
        self._bits = min(16, num_bits)  # of a digit
        self._shift = num_bits - self._bits  # of the digit that is counted now
        self._smallest = np.iinfo(dtype).min
        self._percentiles = np.asarray(percentiles)
        self._prefixes = np.zeros((num_channels, 2, len(percentiles)), np.uint64)  # found digits, at both ranks
        self._ranks = None  # among the values that begin with these digits
        self._shares = None  # of the value above in each percentile
        self._start_counts()

    def add(self, block):
        """Count the values of a block (..., C)."""
        base = 2**self._bits
        for channel, counts in enumerate(self._counts):
            values = (block[..., channel].ravel().astype(np.int64) - self._smallest) >> self._shift
            for prefix in counts:
                alike = values if self._ranks is None else values[values >> self._bits == prefix]
                counts[prefix] += np.bincount(alike & (base - 1), minlength=base)

    def end_pass(self):
        """Return the percentiles (C, P), or None if all blocks have to be added once more."""
        if self._ranks is None:
            places = self._percentiles / 100 * (self._counts[0][0].sum() - 1)
            below = np.floor(places)
            ranks = np.stack([below, np.ceil(places)]).astype(np.int64)
            self._ranks, self._shares = np.broadcast_to(ranks, self._prefixes.shape).copy(), places - below
        for index, prefix in np.ndenumerate(self._prefixes):
            cumulated = np.cumsum(self._counts[index[0]][int(prefix)])
            digit = int(np.searchsorted(cumulated, self._ranks[index], side="right"))
            self._ranks[index] -= cumulated[digit - 1] if digit else 0
            self._prefixes[index] = (int(prefix) << self._bits) + digit
        self._shift -= self._bits
        if self._shift >= 0:
            self._start_counts()
            return None
        below, above = np.moveaxis(self._prefixes.astype(np.float64) + self._smallest, 1, 0)  # (C, P) each
        return below + self._shares * (above - below)

    def _start_counts(self):
        """Set the counts of the next digit to zero, of each channel by the digits before."""
        self._counts = [dict.fromkeys(row.ravel().tolist(), 0) for row in self._prefixes]


class PercentileSampler:
    """Percentiles of each channel, of all values or of every n-th if there are more than `_SAMPLE_SIZE`.

    The values are voxels, or means of squares of `cell` x `cell` voxels.
    """

    def __init__(self, percentiles, frames, shape, *, cell=1):
        self._percentiles, self._shape, self._cell = percentiles, shape, cell
        self._step = -(-math.prod(shape) * len(frames) // (_SAMPLE_SIZE * cell**2))
        self._first = {tuple(frame.items()): number * math.prod(shape) for number, frame in enumerate(frames)}
        self._samples = []

    def add(self, frame, region, block):
        """Keep values of a block (..., C), counted through all frames."""
        if self._cell > 1:
            means = average_cells(block, self._cell).reshape(-1, block.shape[-1])
            first = sum(part.start for part in region) % self._step
            self._samples.append(means[first :: self._step])
            return
        places = np.ix_(*(np.arange(part.start, part.stop) for part in region))
        numbers = self._first[tuple(frame.items())] + np.ravel_multi_index(places, self._shape)
        self._samples.append(block[numbers % self._step == 0])

    def end_pass(self):
        """Return the percentiles (C, P)."""
        values = np.concatenate(self._samples).astype(np.float64)
        if not np.isnan(values).any():
            return np.percentile(values, self._percentiles, axis=0).T
        present = [channel[~np.isnan(channel)] for channel in values.T]
        return np.array([np.percentile(channel if channel.size else [0], self._percentiles) for channel in present])
