"""Measurements of volumes before a training: each file is read as seldom as possible, and kept results are used.

A first pass over both volumes of a pair checks their values and finds their intensity ranges. What needs the ranges,
the places with signal, takes a second pass over the ground truth (`rcan.data.foreground`). A digest and a fingerprint
are made of a few blocks.
"""

import hashlib
import math
import warnings

import numpy as np

from rcan.data.pair_check import check_pair, find_upscaling
from rcan.fingerprint.records import FINGERPRINT_VERSION, Fingerprint
from rcan.ranges import RangeFinder, finish_range
from rcan.regions import cut_into_slabs, region_at, scale_region

SLAB_VOXELS = 2**21  # voxels of ground truth read at a time, 8 MB in float32
MIN_CORRELATION = 0.1  # below it two images look unrelated: pure noise gives 0, weak but real signal more


def survey_pair(raw, gt, percentiles, cache, *, smoothed=False):
    """Check two volumes, and find the grey values that become 0 and 1 in each: two arrays (C, 2).

    Those of raw are of `smoothed` voxels where that is asked for, see `rcan.ranges.percentile_range`.
    A pair that has passed before is not read again. A ValueError says that frames or shapes do not fit, that values
    are infinite, or that a volume is constant; missing voxels (NaN) and a correlation near or below zero are warned of.
    """
    key = cache.key([raw, gt], percentiles=percentiles, smoothed=smoothed)
    known = cache.get(key, ["raw_range", "gt_range"])
    if known:
        return np.array(known["raw_range"]), np.array(known["gt_range"])
    check_pair(raw, gt)
    finders = [
        RangeFinder(volume, percentiles, smoothed=smoothed and volume is raw, skips_missing=True)
        for volume in (raw, gt)
    ]
    correlation, num_missing = _read_pair(raw, gt, finders)
    if correlation < MIN_CORRELATION:
        warnings.warn(
            f"{raw.path} and {gt.path} have a correlation of {correlation:.2f}, near or below zero: they may "
            "not belong together. Look at both, and check the pairing and the axes.",
            stacklevel=2,
        )
    ranges = [finish_range(finder, volume) for finder, volume in zip(finders, (raw, gt), strict=True)]
    raw.close(), gt.close()  # frees what was decoded
    if correlation >= MIN_CORRELATION and not num_missing:  # of the others it is warned every time
        cache.put(key, {"raw_range": ranges[0].tolist(), "gt_range": ranges[1].tolist()})
    return ranges


def _read_pair(raw, gt, finders):
    """Read both volumes once, slab by slab: check their values, fill the finders.

    Returns the correlation, and how many values are missing in both together.
    """
    factors = find_upscaling(raw.shape, gt.shape)
    num_voxels = SLAB_VOXELS // (math.prod(factors) * max(raw.shape[-1], gt.shape[-1]))
    invalid, missing = np.zeros(2, int), np.zeros(2, int)
    lowest, highest = np.full(2, np.inf), np.full(2, -np.inf)
    correlator = _Correlator(factors)
    for frames in zip(raw.frames, gt.frames, strict=True):
        for region in cut_into_slabs(raw.shape[:-1], num_voxels):
            regions = region, scale_region(region, factors)
            places = zip((raw, gt), frames, regions, strict=True)
            stored = [volume.read(frame, part, dtype=None) for volume, frame, part in places]
            with np.errstate(over="ignore"):  # what no float32 can hold becomes infinite
                slabs = [slab.astype(np.float32) for slab in stored]
            invalid += [np.count_nonzero(np.isinf(slab)) for slab in slabs]
            missing += [np.count_nonzero(np.isnan(slab)) for slab in slabs]
            if invalid.any():
                continue
            lowest = np.minimum(lowest, [np.fmin.reduce(slab, axis=None) for slab in slabs])
            highest = np.maximum(highest, [np.fmax.reduce(slab, axis=None) for slab in slabs])
            correlator.add(*slabs)
            for finder, *part in zip(finders, frames, regions, stored, strict=True):
                finder.add(*part)
    for volume, count, low, high in zip((raw, gt), invalid, lowest, highest, strict=True):
        if count:
            raise ValueError(
                f"{volume.path} holds {count} values that are infinite: all must be finite numbers. Replace them, or "
                "leave the image out."
            )
        if low == high:
            raise ValueError(f"{volume.path} is {low:g} everywhere: nothing can be learned. Leave it out.")
    for volume, count in zip((raw, gt), missing, strict=True):
        if count:
            share = count / (len(volume.frames) * math.prod(volume.shape))
            warnings.warn(
                f"{volume.path}: {100 * share:.2g} % of the voxels are missing (NaN): nothing is learned from them.",
                stacklevel=3,
            )
    return correlator.correlation(), missing.sum()


class _Correlator:
    """Pearson's correlation of a volume and a larger one, mean over channels, from their slabs."""

    def __init__(self, factors):
        self._centre = tuple(slice(factor // 2, None, factor) for factor in factors)  # of the gt in a raw voxel
        self._shift = None  # about the means: differences stay exact
        self._sums = np.zeros(6)  # of 1, x, y, xx, yy, xy

    def add(self, raw, gt):
        """Add a slab of both."""
        means = [slab.mean(axis=-1, dtype=np.float64) for slab in (raw, gt[self._centre])]
        present = ~np.isnan(means[0] + means[1])
        if not present.any():
            return
        means = [mean[present] for mean in means]
        self._shift = self._shift or [mean.mean() for mean in means]
        x, y = (mean - shift for mean, shift in zip(means, self._shift, strict=True))
        self._sums += (x.size, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())

    def correlation(self):
        """Correlation of all that was added; 0 where one is constant."""
        x, y, xx, yy, xy = self._sums[1:] / max(self._sums[0], 1)
        scale = math.sqrt(max(xx - x * x, 0) * max(yy - y * y, 0))
        return (xy - x * y) / scale if scale else 0.0


def digest_of(volume, cache):
    """Text that differs where volumes differ, as far as a few planes of the first frame tell."""
    key = cache.key([volume], what="digest")
    known = cache.get(key, ["digest"])
    if known:
        return known["digest"]
    digest = hashlib.sha256()
    depth, *plane = (1, *volume.shape[:-1])[-3:]
    for z in sorted({depth // 4, depth // 2, 3 * depth // 4}):
        region = region_at((z, 0, 0), (1, *plane))[-len(volume.shape) + 1 :]
        digest.update(volume.read(region=region, dtype=None).tobytes())
    volume.close()  # frees what was decoded
    cache.put(key, {"digest": digest.hexdigest()[:24]})
    return digest.hexdigest()[:24]


def fingerprint_of(view, cache):
    """Fingerprint of a `NetworkView`, as `rcan.fingerprint.measure.measure_fingerprint`."""
    key = cache.key([view.volume], what="fingerprint", version=FINGERPRINT_VERSION)
    known = cache.get(key, ["channels"])
    if known:
        view.keep_fingerprint(Fingerprint.checked(known))
        return view.fingerprint()
    fingerprint = view.fingerprint()
    view.volume.close()  # frees what was decoded
    cache.put(key, fingerprint.model_dump(mode="json"))
    return fingerprint
