"""Grey values to numbers near [0, 1] and back.

A network is trained on volumes whose background is 0 and whose signal is 1: a low percentile of each
channel is mapped to 0 and a high one to 1 (nothing is clipped). A *range* is that pair of grey values,
kept for each channel as an array of shape `(C, 2)`; the same range takes a restored volume back to the
unit of its input.

The percentiles of a noisy image are set by its noise, and its noise grows with the signal. Networks for
a range of light are therefore given *stabilised* volumes, whose noise is the same everywhere, in ranges
that are measured on means of some voxels.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "CELL",
    "INPUT_CHANNELS",
    "Stabilisation",
    "average_cells",
    "denormalise",
    "find_noise_range",
    "find_stabilisation",
    "fit_affine",
    "match_affine",
    "normalise",
    "scale_noise",
    "stabilise",
    "to_dtype",
]

_LEAST_NOISE = 1e-6  # of the range: less is none
INPUT_CHANNELS = {"percentiles": 1, "anscombe": 2}  # of a network for each of the image, by its normalisation
CELL = 4  # voxels along Y and X that are averaged where a range shall not move with the noise


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
    noise_range : array-like of shape (2, C, 3), optional
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
    numbers = find_stabilisation(noise, noise_range)
    num_channels = len(numbers.ratio)
    stabilised = np.empty((*normalised.shape[:-1], 2 * num_channels), np.float32)
    transformed = _anscombe(np.asarray(normalised, np.float32), numbers.gain, numbers.level, numbers.least)
    stabilised[..., :num_channels] = (transformed - numbers.zero) / numbers.ratio
    stabilised[..., num_channels:] = numbers.strength
    return stabilised


class Stabilisation(NamedTuple):
    """The numbers that `stabilise` computes with, each (C,), float32::

    t(x) = 2 (x - level) / (sqrt(gain (x - level) + least**2) + least)
    z(x) = (t(x) - zero) / ratio
    n = strength
    """

    gain: np.ndarray
    level: np.ndarray
    least: np.ndarray
    zero: np.ndarray
    ratio: np.ndarray
    strength: np.ndarray


def find_stabilisation(noise, noise_range=None):
    """The numbers by which `stabilise`, which has the same arguments, treats an image of a noise (C, 3)."""
    told = ratio = _signal_over_noise(noise)
    if noise_range is not None:
        highest, lowest = map(_signal_over_noise, noise_range)
        noise = np.where((ratio > highest)[:, np.newaxis], noise_range[0], noise)
        ratio, told = np.minimum(ratio, highest), np.clip(ratio, lowest, highest)
    terms = _anscombe_terms(noise)
    return Stabilisation(*terms, _anscombe(np.zeros(1, np.float32), *terms), ratio, 1 - np.log10(told) / 3)


def _anscombe_terms(noise):
    """Gain, level, and the standard deviation at the level that is computed with, each (C,), of noise (C, 3)."""
    gain, level, floor = np.asarray(noise, np.float64).T
    least = np.maximum(np.sqrt(floor + 0.375 * gain**2), _LEAST_NOISE)
    return gain.astype(np.float32), level.astype(np.float32), least.astype(np.float32)


def _anscombe(x, gain, level, least):
    """Give the noise of `x` (..., C) a standard deviation of 1."""
    x = x - level
    return 2 * x / (np.sqrt(np.maximum(gain * x + least**2, 0)) + least)


def _signal_over_noise(noise):
    """Distance of signal from background in standard deviations of the stabilised noise (C, 3), at least 1: (C,)."""
    zero, one = (_anscombe(np.full(1, end, np.float32), *_anscombe_terms(noise)) for end in (0, 1))
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
