"""Grey values to numbers near [0, 1] and back.

A network is trained on volumes whose background is 0 and whose signal is 1: a low percentile of each
channel is mapped to 0 and a high one to 1 (nothing is clipped). A *range* is that pair of grey values,
kept for each channel as an array of shape `(C, 2)`; the same range takes a restored volume back to the
unit of its input.

The percentiles of a noisy image are set by its noise, and its noise grows with the signal. Networks for
a range of light are therefore given *stabilised* volumes, whose noise is the same everywhere, in ranges
that are measured on means of some voxels.
"""

import math
import warnings

import numpy as np

from rcan.regions import cut_into_slabs

__all__ = [
    "CELL",
    "INPUT_CHANNELS",
    "ConstantImage",
    "PercentileCounter",
    "PercentileSampler",
    "RangeFinder",
    "average_cells",
    "denormalise",
    "find_noise_range",
    "finish_range",
    "fit_affine",
    "match_affine",
    "normalise",
    "percentile_range",
    "scale_noise",
    "stabilise",
    "to_dtype",
]

_SAMPLE_SIZE = 2**24  # values of a floating-point channel that are ranked exactly: 64 MB
_SLAB_SIZE = 2**21  # values read at a time
_LEAST_NOISE = 1e-6  # of the range: less is none
INPUT_CHANNELS = {"percentiles": 1, "anscombe": 2}  # of a network for each of the image, by its normalisation
_RARE = (99.99, 99.999, 100)  # percentiles that become 1 where signal is too rare for the one that is asked for
CELL = 4  # voxels along Y and X that are averaged where a range shall not move with the noise


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
        for region in cut_into_slabs(volume.shape[:-1], _SLAB_SIZE // volume.shape[-1]):
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
        is_wrong = np.isinf if self._skips_missing else lambda values: ~np.isfinite(values)
        if block.dtype.kind == "f" and is_wrong(block).any():
            raise ValueError(f"{self._path} holds NaN or infinite values: all must be finite numbers. Replace them.")
        counter = self._counters[frame.get("C")]
        counter.add(block) if self._is_counted else counter.add(frame, region, block)

    def end_pass(self):
        """Return the range (C, 2), or None if all blocks have to be added once more."""
        found = {looped: counter.end_pass() for looped, counter in self._counters.items()}
        if any(rows is None for rows in found.values()):
            return None
        ranges = {  # by channel of the file
            channel if looped is None else looped: self._choose(channel if looped is None else looped, *rows[channel])
            for looped, rows in found.items()
            for channel in self._channels
        }
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


def average_cells(block, cell):
    """Means of a block (..., Y, X, C) over squares of `cell` x `cell` voxels, float32; what is left over is left out.

    >>> average_cells(np.arange(8.0).reshape(2, 4, 1), 2)[..., 0]
    array([[2.5, 4.5]], dtype=float32)
    """
    block = np.asarray(block, np.float32)
    for axis in (-3, -2):
        side = min(cell, block.shape[axis])
        inner = np.moveaxis(block, axis, 0)
        inner = inner[: len(inner) // side * side]
        block = np.moveaxis(inner.reshape(-1, side, *inner.shape[1:]).mean(axis=1), 0, axis)
    return block


def normalise(block, ranges):
    """Map grey values to background 0 and signal 1; values beyond are not clipped.

    Parameters
    ----------
    block : ndarray of shape (..., C)
    ranges : ndarray of shape (C, 2)
        Grey values that become 0 and 1.

    Returns
    -------
    normalised : ndarray of shape (..., C), float32

    Examples
    --------
    >>> normalise(np.array([[100.0], [150.0]]), np.array([[100, 200]]))
    array([[0. ],
           [0.5]], dtype=float32)
    """
    block = np.asarray(block)
    work = np.float64 if block.dtype.itemsize > 2 and block.dtype != np.float32 else np.float32
    low, high = np.asarray(ranges, work).T
    with np.errstate(over="ignore"):  # what no float32 can hold becomes infinite
        normalised = block.astype(work)
        normalised -= low
        normalised /= high - low
        return normalised.astype(np.float32, copy=False)


def denormalise(block, ranges):
    """Map background 0 and signal 1 back to grey values: the inverse of `normalise`.

    Parameters
    ----------
    block : ndarray of shape (..., C)
    ranges : ndarray of shape (C, 2)
        Grey values of 0 and 1.

    Returns
    -------
    grey : ndarray of shape (..., C), float32

    Examples
    --------
    >>> denormalise(np.array([[0.5]]), np.array([[100, 200]]))
    array([[150.]], dtype=float32)
    """
    low, high = np.asarray(ranges, np.float64).T
    work = np.float32 if np.abs(ranges).max() < 2**20 else np.float64  # the sum keeps a float32's precision
    return (np.asarray(block, work) * (high - low).astype(work) + low.astype(work)).astype(np.float32)


def stabilise(normalised, noise, noise_range=None):
    """Make the noise of a normalised block the same everywhere, and say how strong it is: the input of a network.

    The generalised Anscombe transform [1]_ for noise whose variance grows with the signal x, as ``floor + gain * (x -
    level)``; background stays 0 and signal 1. With ``F = floor + 3/8 gain**2``::

        t(x) = 2 (x - level) / (sqrt(gain (x - level) + F) + sqrt(F))       noise of standard deviation 1
        s    = max(t(1) - t(0), 1)                                          signal over noise
        z(x) = (t(x) - t(0)) / s                                            noise of at most 1
        n    = 1 - log10(s) / 3                                             1 for s = 1, 0 for s = 1000

    Without photon noise (gain 0) it is a straight line.

    A network is told only of noise that it has learned from, as it would guess about other noise. An image with less
    is taken for one of the least noise, one with more is said to have the most.

    Parameters
    ----------
    normalised : ndarray of shape (..., C)
        Background 0 and signal 1, as `normalise` makes it.
    noise : ndarray of shape (C, 3)
        Gain, level and floor, in units of the normalised block.
    noise_range : ndarray of shape (2, C, 3), optional
        The least and the most noise of the training, from `find_noise_range`.

    Returns
    -------
    stabilised : ndarray of shape (..., 2 C), float32
        First z of all channels, then their n, each of which is the same at every voxel.

    References
    ----------
    .. [1] Starck, Murtagh, Bijaoui, Image Processing and Data Analysis (1998); Makitalo, Foi, IEEE Trans. Image
       Process. 22, 91 (2013), doi:10.1109/TIP.2012.2202675; the noise as an input: Zhang, Zuo, Zhang, IEEE Trans.
       Image Process. 27, 4608 (2018), doi:10.1109/TIP.2018.2839891

    Examples
    --------
    >>> stabilise(np.array([[0.0], [0.25], [1.0]]), np.array([[1e-2, 0, 0]])).round(2)
    array([[0.  , 0.58],
           [0.47, 0.58],
           [1.  , 0.58]], dtype=float32)
    """
    told = ratio = _signal_over_noise(noise)
    if noise_range is not None:
        highest, lowest = map(_signal_over_noise, noise_range)
        noise = np.where((ratio > highest)[:, np.newaxis], noise_range[0], noise)
        ratio, told = np.minimum(ratio, highest), np.clip(ratio, lowest, highest)
    num_channels = len(ratio)
    zero = _anscombe(np.zeros(1, np.float32), noise)
    stabilised = np.empty((*normalised.shape[:-1], 2 * num_channels), np.float32)
    stabilised[..., :num_channels] = (_anscombe(np.asarray(normalised, np.float32), noise) - zero) / ratio
    stabilised[..., num_channels:] = 1 - np.log10(told) / 3
    return stabilised


def _anscombe(x, noise):
    """Give the noise of `x` (..., C) a standard deviation of 1."""
    gain, level, floor = np.asarray(noise, np.float64).T
    least = np.maximum(np.sqrt(floor + 0.375 * gain**2), _LEAST_NOISE).astype(np.float32)  # at the level
    x = x - level.astype(np.float32)
    return 2 * x / (np.sqrt(np.maximum(gain.astype(np.float32) * x + least**2, 0)) + least)


def _signal_over_noise(noise):
    """Distance of signal from background in standard deviations of the stabilised noise (C, 3), at least 1: (C,)."""
    zero, one = (_anscombe(np.full(1, end, np.float32), noise) for end in (0, 1))
    return np.maximum(one - zero, 1)


def find_noise_range(noises):
    """Choose the least and the most noise for each channel: (2, C, 3) of (N, C, 3).

    >>> find_noise_range([[[0.02, 0, 0]], [[0.001, 0, 0]], [[0.01, 0, 0]]])
    array([[[0.001, 0.   , 0.   ]],
           [[0.02 , 0.   , 0.   ]]])
    """
    noises = np.asarray(noises, np.float64)
    ratios = np.array([_signal_over_noise(noise) for noise in noises])  # (N, C)
    channels = np.arange(noises.shape[1])
    return np.stack([noises[ratios.argmax(axis=0), channels], noises[ratios.argmin(axis=0), channels]])


def scale_noise(noise, ranges):
    """Gain, level and floor of noise in grey values, (C, 3), in units of blocks that are normalised by ranges (C, 2).

    >>> scale_noise(np.array([[2.0, 110, 50]]), np.array([[100.0, 200]]))
    array([[0.02 , 0.1  , 0.005]])
    """
    gain, level, floor = np.asarray(noise, np.float64).T
    low, high = np.asarray(ranges, np.float64).T
    span = high - low
    return np.stack([gain / span, (level - low) / span, floor / span**2], axis=-1)


def match_affine(restored, gt):
    """Scale and shift each channel of `restored` (..., C) to lie as close as possible to `gt`.

    Training leaves gain and offset free. Removing both in the least-squares sense lets PSNR and SSIM judge structure
    alone (Weigert et al., Nat. Methods 15, 1090 (2018), doi:10.1038/s41592-018-0216-7). A constant channel becomes
    the mean of `gt`.

    >>> match_affine(np.array([[0.0], [1.0]]), np.array([[10.0], [30.0]]))
    array([[10.],
           [30.]])
    """
    gain, offset = fit_affine([(restored, gt)]).T
    return gain * restored + offset


def fit_affine(frames):
    """Return gain and offset (C, 2) that bring restored frames closest to their ground truth, by least squares.

    `frames` are pairs (restored, gt) of arrays (..., C), which all share one gain and offset for each channel. Those
    of a constant channel are 0 and the mean of gt.

    >>> fit_affine([(np.array([[0.0]]), np.array([[10.0]])), (np.array([[1.0]]), np.array([[30.0]]))])
    array([[20., 10.]])
    """
    count, mean, mean_gt, variance, covariance = 0, 0, 0, 0, 0  # the last two times `count`
    for restored, gt in frames:
        if restored.shape != gt.shape:
            raise ValueError(f"restored is {restored.shape} but gt is {gt.shape}: the shapes must be equal.")
        space = tuple(range(restored.ndim - 1))
        size = restored[..., 0].size
        own_mean, own_mean_gt = (image.mean(axis=space, dtype=np.float64) for image in (restored, gt))
        centred = restored - own_mean
        # sums of squares about the common mean, from those about the means of the parts
        shift, shift_gt, weight = own_mean - mean, own_mean_gt - mean_gt, count * size / (count + size)
        variance = variance + np.sum(centred**2, axis=space) + weight * shift**2
        covariance = covariance + np.sum(centred * (gt - own_mean_gt), axis=space) + weight * shift * shift_gt
        count += size
        mean, mean_gt = mean + shift * size / count, mean_gt + shift_gt * size / count
    gain = np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 0)
    return np.stack([gain, mean_gt - gain * mean], axis=-1)


def to_dtype(block, dtype):
    """Round and clip to an integer type, and count what is clipped; floats only change type.

    >>> to_dtype(np.array([-1.0, 1.6, 300.0]), np.uint8)
    (array([  0,   2, 255], dtype=uint8), 2)
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f" or block.dtype == dtype.newbyteorder("="):
        return block.astype(dtype, order="C", copy=False), 0
    limits = np.iinfo(dtype)
    is_exact = block.dtype == np.float32 and dtype.itemsize <= 2  # a float32 holds the limits of these
    rounded = np.rint(block, dtype=np.float32 if is_exact else np.float64)
    num_clipped = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    return np.clip(rounded, limits.min, limits.max).astype(dtype, order="C"), num_clipped
