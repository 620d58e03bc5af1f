"""Check that a raw volume and its ground truth can be a training pair."""

import math
import os
import warnings

import numpy as np

from rcan.regions import cut_into_slabs, scale_region

SLAB_VOXELS = 2**21  # voxels of ground truth compared at a time, 8 MB in float32
MIN_CORRELATION = 0.1  # below it two images look unrelated: pure noise gives 0, weak but real signal more


def check_pair(raw, gt):
    """Check that two volumes can be a training pair; both are read once, slab by slab.

    Parameters
    ----------
    raw, gt : Volume

    Returns
    -------
    correlation : float
        Pearson's, between raw and ground truth.

    Raises
    ------
    ValueError
        If both are one file, have different numbers of frames or shapes that do not fit, hold NaN or infinite
        values, or are constant.

    Warns
    -----
    UserWarning
        If the Pearson correlation of raw and ground truth is near or below zero.
    """
    if os.path.samefile(raw.path, gt.path):
        raise ValueError(f"{raw.path} is both raw and gt of a pair: nothing can be learned. Name two files.")
    if [[*frame.values()] for frame in raw.frames] != [[*frame.values()] for frame in gt.frames]:
        counts = [
            " x ".join(f"{last + 1} {axis}" for axis, last in volume.frames[-1].items()) or "1"
            for volume in (gt, raw)
        ]
        raise ValueError(
            f"{gt.path} has {counts[0]} frames (time points, or axes outside {gt.block_axes}) but "
            f"{raw.path} has {counts[1]}: they must agree. Crop one, or name the axes with raw_data_format and "
            "gt_data_format if two are swapped."
        )
    small, large = raw.shape[:-1], gt.shape[:-1]
    if len(small) != len(large) or any(b < a or b % a for a, b in zip(small, large, strict=True)):
        axes = raw.block_axes.replace("C", "")
        raise ValueError(
            f"{gt.path} is {large} but {raw.path} is {small} ({axes}): gt must measure "
            "a whole multiple of raw along each axis. Crop one of them, or name its axes with raw_data_format or "
            "gt_data_format if two are swapped."
        )
    invalid, lowest, highest, correlation = _compare(raw, gt)
    for volume, count, low, high in zip((raw, gt), invalid, lowest, highest, strict=True):
        if count:
            raise ValueError(
                f"{volume.path} holds {count} values that are NaN or infinite: all must be finite numbers. "
                "Replace them, or leave the image out."
            )
        if low == high:
            raise ValueError(f"{volume.path} is {low:g} everywhere: nothing can be learned. Leave it out.")
    if correlation < MIN_CORRELATION:
        warnings.warn(
            f"{raw.path} and {gt.path} have a correlation of {correlation:.2f}, near or below zero: they may "
            "not belong together. Look at both, and check the pairing and the axes.",
            stacklevel=2,
        )
    return correlation


def _compare(raw, gt):
    """Count of values that are not finite, minimum and maximum of both volumes, and their correlation."""
    factors = [b // a for a, b in zip(raw.shape[:-1], gt.shape[:-1], strict=True)]
    centre = tuple(slice(factor // 2, None, factor) for factor in factors)  # of the gt voxels in a raw voxel
    num_voxels = SLAB_VOXELS // (math.prod(factors) * max(raw.shape[-1], gt.shape[-1]))
    invalid, lowest, highest = np.zeros(2, int), np.full(2, np.inf), np.full(2, -np.inf)
    shift, sums = None, np.zeros(6)  # number, x, y, xx, yy, xy; the shift keeps the differences exact
    for raw_frame, gt_frame in zip(raw.frames, gt.frames, strict=True):
        for region in cut_into_slabs(raw.shape[:-1], num_voxels):
            slabs = raw.read(raw_frame, region), gt.read(gt_frame, scale_region(region, factors))
            invalid += [slab.size - np.count_nonzero(np.isfinite(slab)) for slab in slabs]
            if invalid.any():
                continue
            lowest = np.minimum(lowest, [slab.min() for slab in slabs])
            highest = np.maximum(highest, [slab.max() for slab in slabs])
            means = [slab.mean(axis=-1, dtype=np.float64) for slab in (slabs[0], slabs[1][centre])]
            shift = shift or [mean.mean() for mean in means]
            x, y = (mean - s for mean, s in zip(means, shift, strict=True))
            sums += (x.size, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())
    if invalid.any():
        return invalid, lowest, highest, math.nan
    x, y, xx, yy, xy = sums[1:] / sums[0]
    scale = math.sqrt(max(xx - x * x, 0) * max(yy - y * y, 0))
    return invalid, lowest, highest, (xy - x * y) / scale if scale else 0.0
