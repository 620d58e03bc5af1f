"""The noise of an image, without knowing the camera."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage, optimize

__all__ = ["Noise", "estimate_noise", "saturated_level", "smooth"]

_SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0])
_MAD_OF_SIGMA = 0.674489750196  # median of |x| of a Gaussian of standard deviation 1
_NUM_BINS = 32
_FEWEST_VOXELS = 300  # of a bin
_MODEL_ERROR = 0.02  # of a bin's standard deviation: more voxels do not make a bin count more
_NO_NOISE = 1e-4  # of the range of the image: less cannot be told from none
_PILED_UP = 3  # times as many voxels as have the next lower value have the highest one where it saturates


class Noise(NamedTuple):
    """Variance of the noise as a function of the expected grey value: affine, as of photons and a camera.

    Of ``gain * (level - offset) + read_noise**2`` an image tells the slope, and the variance at its own background;
    offset and read noise cannot be told apart.
    """

    gain: float  # grey values for each photon, 0 or more
    background: float  # grey value of the darkest voxels that were measured
    floor: float  # variance there

    def variance(self, level):
        """Variance at a grey value, in grey values squared; below the background it is that of the background.

        >>> float(Noise(gain=2.0, background=100.0, floor=10.0).variance(120.0))
        50.0
        """
        return self.floor + self.gain * np.maximum(level - self.background, 0)


def estimate_noise(image):
    """Measure how the variance of the noise depends on the intensity, from a single image.

    Second differences along all axes leave of an image what changes from voxel to voxel: noise, and hardly anything
    of structures that the optics have blurred [1]_. Their spread in bins of equal intensity is one point each of the
    photon-transfer curve, through which a robust line is laid [2]_. The spread is a median, so that edges and hot
    voxels do not count. The intensity of a voxel is taken from a ring of neighbours that its difference does not
    touch, or bins would select by the very noise they are to measure.

    The noise must be independent from voxel to voxel. After interpolation, denoising or deconvolution it is not, and
    what is found is the part of it that changes from voxel to voxel. Structure as sharp as a voxel passes for noise.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X) or (Y, X), or a list of those
        Grey values, as the camera gave them; blocks of one image.

    Returns
    -------
    noise : Noise
        Rounding counts as noise (variance 1/12), and of floating-point images what is below a ten-thousandth of
        their range.

    References
    ----------
    .. [1] Immerkær, Comput. Vis. Image Underst. 64, 300 (1996), doi:10.1006/cviu.1996.0060
    .. [2] Foi et al., IEEE Trans. Image Process. 17, 1737 (2008), doi:10.1109/TIP.2008.2001399: signal-dependent
       noise from one image; the curve itself: Janesick, Photon Transfer (2007), doi:10.1117/3.725073

    Examples
    --------
    >>> flat = np.random.default_rng(0).normal(100, 5, (16, 64, 64))
    >>> round(float(estimate_noise(flat).variance(100)) ** 0.5, 1)
    5.0
    """
    blocks = image if isinstance(image, list) else [image]
    highest = saturated_level(blocks)
    parts = [_measure_voxels(block, highest) for block in blocks]
    change, level, ring = (np.concatenate(values) for values in zip(*parts, strict=True))
    if not change.size:  # all is saturated
        return Noise(0.0, float(highest), 1 / 12)
    least = (_NO_NOISE * max(np.ptp(level), abs(level.mean()) * _NO_NOISE)) ** 2
    least = max(least, 1 / 12 if blocks[0].dtype.kind in "iu" else np.finfo(np.float32).tiny)
    bins = [
        (level[inside].mean(), (np.median(np.abs(change[inside])) / _MAD_OF_SIGMA) ** 2, inside.size)
        for inside in _equal_intensity(ring)
    ]
    return _fit(*np.array(bins, np.float64).T, least)


def saturated_level(blocks):
    """The grey value from which voxels are saturated; infinite where the highest one is nothing special."""
    highest = max(block.max() for block in blocks)
    lower = [block[block < highest] for block in blocks]
    below = max((values.max() for values in lower if values.size), default=highest)
    counts = [sum(np.count_nonzero(block == value) for block in blocks) for value in (highest, below)]
    return highest if counts[0] > _PILED_UP * (counts[1] + 1) else np.inf


def smooth(block):
    """Mean of each voxel and its neighbours, and the variance that white noise of variance 1 has in it."""
    block = np.asarray(block, np.float32)
    axes = [axis for axis, size in enumerate(block.shape) if size >= 3]
    for axis in axes:
        block = ndimage.uniform_filter1d(block, 3, axis)
    return block, 3.0 ** -len(axes)


def _measure_voxels(block, highest):
    """Second difference, scaled to the noise's own spread, intensity that it goes with, and that of the ring."""
    block = np.asarray(block, np.float32)
    depth = block.ndim - 2  # of the axes before Y and X
    reach = [1] * depth + [2, 2]
    axes = [axis for axis, size in enumerate(block.shape) if size > 2 * reach[axis]]
    change, level, core, around = block, block, block, block
    for axis in axes:
        change = ndimage.correlate1d(change, _SECOND_DIFFERENCE / np.sqrt(6), axis)
        # a difference has the variances of its voxels, weighted with its squared coefficients
        level = ndimage.correlate1d(level, _SECOND_DIFFERENCE**2 / 6, axis)
        core = ndimage.uniform_filter1d(core, 3, axis)
        around = ndimage.uniform_filter1d(around, 2 * reach[axis] + 1, axis)
    num_core, num_around = 3 ** len(axes), math.prod(2 * reach[axis] + 1 for axis in axes)
    ring = (num_around * around - num_core * core) / (num_around - num_core) if num_around > num_core else level
    inner = tuple(slice(reach[axis], -reach[axis]) if axis in axes else slice(None) for axis in range(block.ndim))
    kept = ndimage.maximum_filter(block, 3)[inner] < highest
    return [values[inner][kept] for values in (change, level, ring)]


def _equal_intensity(ring):
    """Indices of the voxels of each bin; bins are narrow where the noise of photons changes most, at low intensity."""
    low, high = np.percentile(ring, 0.1), ring.max()
    place = np.sqrt(np.clip((ring - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1))
    number = np.minimum((place * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    order, stops = np.argsort(number, kind="stable"), np.cumsum(np.bincount(number, minlength=_NUM_BINS))
    bins, stop = [], stops[-1]
    # from the bright end, where bins are joined until they are large enough
    for start in (0, *stops[:-1])[::-1]:
        if stop - start >= _FEWEST_VOXELS or start == 0:
            bins.append(order[start:stop])
            stop = start
    return [indices for indices in bins if indices.size >= min(_FEWEST_VOXELS, ring.size)]


def _fit(level, variance, count, least):
    """The line through the points of the photon-transfer curve; neither it nor its slope may be below 0."""
    variance = np.maximum(variance, least)
    background, span = level.min(), np.ptp(level)
    unit = np.average(variance, weights=count)
    if not span:  # few voxels, all of one bin
        return Noise(0.0, float(background), float(unit))
    error = np.sqrt(1 / count + _MODEL_ERROR**2)

    def misfit(line):
        """Difference of each point from a line, in units of its own error."""
        model = line[0] + line[1] * (level - background) / span
        return np.log(variance / unit / model) / 2 / error

    start = np.maximum(variance[[np.argmin(level), np.argmax(level)]] / unit, 1e-6)
    bounds = (1e-9, 0), (np.inf, np.inf)
    line = optimize.least_squares(misfit, (start[0], max(start[1] - start[0], 1e-6)), bounds=bounds, loss="soft_l1").x
    return Noise(float(line[1] * unit / span), float(background), float(max(line[0] * unit, least)))
