"""Whether raw and ground truth show the same place: the shift between them, to a fraction of a voxel."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from rcan.atomic_io import printable_name
from rcan.regions import region_at, scale_region

__all__ = ["Shift", "find_shift", "measure_shift", "warn_of_shifts"]

_BLOCK = (32, 128, 128)  # raw voxels that are compared, at most
_FARTHEST = (8, 16, 16)  # voxels that are looked for, at most a quarter of the block
_SIGMAS = (0.5, 1.5, 1.5)  # voxels of smoothing, against noise
_MOST_PAIRS = 8  # of a training that are looked at, evenly spread
_LEAST_SHIFT = 0.75  # voxels that are warned of
_LEAST_CORRELATION = 0.3  # at the shift: below it the images may have little in common
_LEAST_GAIN = 0.02  # of the correlation, over that without a shift


class Shift(NamedTuple):
    """How far raw lies beyond its ground truth."""

    voxels: tuple  # of raw, along (Z, Y, X) or (Y, X)
    correlation: float  # of the two at this shift
    unshifted: float  # correlation of the two as they are
    is_inside: bool  # among the shifts that were looked for: at the end of the search it may be any

    @property
    def is_certain(self):
        """Whether it is a shift, as far as one block tells."""
        is_far = max(map(abs, self.voxels)) >= _LEAST_SHIFT
        is_better = self.correlation >= max(_LEAST_CORRELATION, self.unshifted + _LEAST_GAIN)
        return is_far and is_better and self.is_inside

    def __str__(self):
        return f"{', '.join(f'{step:.1f}' for step in self.voxels)} voxels ({'ZYX'[-len(self.voxels) :]})"


def find_shift(raw, gt):
    """Find how far one image lies beyond another one, whatever their blur, noise and unit.

    The correlation is computed for all shifts at once, each over the voxels that both images have then (Padfield,
    doi:10.1109/TIP.2011.2181402); its peak is found to a fraction of a voxel with a parabola along each axis.

    Parameters
    ----------
    raw, gt : ndarray of shape (Z, Y, X) or (Y, X)
        The same field of view in the same voxels, of finite values.

    Returns
    -------
    shift : Shift

    Examples
    --------
    >>> gt = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(8, 40, 40)), 2)
    >>> [round(step) for step in find_shift(np.roll(gt, (1, -3), (1, 2)), gt).voxels]
    [0, 1, -3]
    """
    sigmas, farthest = _SIGMAS[-raw.ndim :], _FARTHEST[-raw.ndim :]
    raw, gt = (ndimage.gaussian_filter(np.asarray(image, np.float64), sigmas) for image in (raw, gt))
    most = [min(limit, size // 4) for limit, size in zip(farthest, raw.shape, strict=True)]
    correlation = _correlate(raw - raw.mean(), gt - gt.mean(), most)
    peak = np.unravel_index(np.argmax(correlation), correlation.shape)
    steps = [_refine(correlation, peak, axis) for axis in range(raw.ndim)]
    return Shift(
        tuple(round(float(at + step - limit), 2) + 0.0 for at, step, limit in zip(peak, steps, most, strict=True)),
        float(correlation[peak]),
        float(correlation[tuple(most)]),
        all(0 < at < 2 * limit for at, limit in zip(peak, most, strict=True) if limit),
    )


def _correlate(raw, gt, most):
    """Correlation of two images for all shifts up to `most` voxels along each axis; no shift is in the middle."""
    shape = [fft.next_fast_len(size + limit, real=True) for size, limit in zip(raw.shape, most, strict=True)]
    places = np.ix_(*[np.r_[size - limit : size, 0 : limit + 1] for size, limit in zip(shape, most, strict=True)])
    ones, of_raw, of_gt = (fft.rfftn(image, shape) for image in (np.ones(raw.shape), raw, gt))

    def overlap(one, other):
        """Sums of products over the voxels that both have, for each shift."""
        return fft.irfftn(one * np.conj(other), shape)[places]

    number = np.maximum(np.rint(overlap(ones, ones)), 1)
    raw_sum, gt_sum = overlap(of_raw, ones), overlap(ones, of_gt)
    raw_spread = overlap(fft.rfftn(raw**2, shape), ones) - raw_sum**2 / number
    gt_spread = overlap(ones, fft.rfftn(gt**2, shape)) - gt_sum**2 / number
    spread = np.sqrt(np.maximum(raw_spread, 0) * np.maximum(gt_spread, 0))
    product = overlap(of_raw, of_gt) - raw_sum * gt_sum / number
    return np.divide(product, spread, where=spread > 1e-9 * spread.max(), out=np.zeros_like(spread))


def _refine(correlation, peak, axis):
    """How far from a peak the top of the parabola through it and its neighbours lies, -0.5 to 0.5."""
    line = np.moveaxis(correlation, axis, -1)[tuple(np.delete(peak, axis))]
    at = peak[axis]
    if not 0 < at < len(line) - 1:
        return 0.0
    before, top, after = line[at - 1 : at + 2]
    curvature = before - 2 * top + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


def measure_shift(pair, cache):
    """Find the shift of a `Pair`, in a block with much signal of its first frame and channel; a `Shift`."""
    key = cache.key([pair.raw.volume, pair.gt.volume], what="shift")
    if known := cache.get(key, ["shift"]):
        voxels, *others = known["shift"]
        return Shift(tuple(voxels), *others)
    region, gt = max(
        (_read_gt(pair, region) for region in _blocks(pair.raw.shape[:-1])), key=lambda read: read[1].std()
    )
    shift = find_shift(np.nan_to_num(pair.raw.read(0, region)[..., 0]), gt)
    cache.put(key, {"shift": [*shift]})
    return shift


def _blocks(shape):
    """Regions to choose from: in the middle, and in the middle of each quarter."""
    size = [min(side, most) for side, most in zip(shape, _BLOCK[-len(shape) :], strict=True)]
    starts = []
    for y, x in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):
        centres = [*(length // 2 for length in shape[:-2]), shape[-2] * y // 4, shape[-1] * x // 4]
        places = zip(centres, size, shape, strict=True)
        starts.append(tuple(min(max(centre - side // 2, 0), length - side) for centre, side, length in places))
    return [region_at(start, size) for start in dict.fromkeys(starts)]  # in a small image they are the same


def _read_gt(pair, region):
    """A region of raw, and the ground truth there in the voxels of raw."""
    gt = np.nan_to_num(pair.gt.read(0, scale_region(region, pair.upscaling))[..., 0])
    for axis, factor in enumerate(pair.upscaling):
        gt = gt.reshape(*gt.shape[:axis], -1, factor, *gt.shape[axis + 1 :]).mean(axis=axis + 1)
    return region, gt


def warn_of_shifts(pairs, cache):
    """Warn of pairs whose raw and ground truth are out of register; of many pairs some are looked at."""
    numbers = np.unique(np.linspace(0, len(pairs) - 1, min(_MOST_PAIRS, len(pairs))).round().astype(int))
    shifts = {number: measure_shift(pairs[number], cache) for number in numbers.tolist()}
    shifted = {number: shift for number, shift in shifts.items() if shift.is_certain}
    if shifted:
        number, shift = max(shifted.items(), key=lambda item: max(map(abs, item[1].voxels)))
        name = printable_name(pairs[number].raw.volume.path)
        warnings.warn(
            f"{len(shifted)} of {len(shifts)} pairs that were looked at are out of register: {name} lies {shift} "
            "beyond its ground truth. From such pairs a network learns to blur: align them before the training.",
            stacklevel=2,
        )
