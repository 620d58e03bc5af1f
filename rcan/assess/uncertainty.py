"""What the spread of an ensemble is worth: how often the truth lies within it, and by what it must be multiplied.

The members of an ensemble are one network applied to an image that is turned and flipped. Where they disagree, the
network is unsure; where all of them make the same mistake, they agree. The spread is therefore too small as a rule.
Errors are taken after the affine match of the mean to the ground truth. The factor is the one with which the spread
holds the truth in 68.27 % of the voxels, as a standard deviation should [1]_. It corrects the spread on average over
images like those it was found on, not voxel by voxel, and not for voxels with signal alone.

References
----------
.. [1] Kuleshov, Fenner, Ermon, Accurate Uncertainties for Deep Learning Using Calibrated Regression, ICML (2018),
   arXiv:1807.00263
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from rcan.atomic_io import read_json
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import Pair
from rcan.data.survey import digest_of
from rcan.data.views import NetworkView
from rcan.intensity import fit_affine
from rcan.io.opening import open_volume
from rcan.regions import central_region, region_at
from rcan.run_folder.models import find_model

__all__ = [
    "Coverage",
    "CoverageCurve",
    "Ratios",
    "choose_blocks",
    "find_factor",
    "measure_blocks",
    "measure_coverage",
    "measure_ratios",
    "open_validation",
]

_WITHIN_ONE = math.erf(1 / math.sqrt(2))  # 0.6827, of a normal distribution
_SIGNAL = 0.1  # of the range of the truth; below it is mostly background
_MOST_VALUES = 2**20  # of a frame
_MOST_BLOCKS = 8
_MOST_VOXELS = 2**19  # of the ground truth, of a block
_LARGEST_FACTOR = 1000  # beyond, the members differ by rounding only
_CURVE = np.append(np.linspace(0, 0.95, 20), 0.99)


class Ratios(NamedTuple):
    """Absolute errors in units of the spread, and the true intensities there."""

    errors: np.ndarray  # (N,), infinite where the members agree and are wrong
    truth: np.ndarray  # (N,), background 0 and signal 1

    @classmethod
    def joined(cls, parts):
        """Those of several frames together."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


class CoverageCurve(NamedTuple):
    """Shares of voxels within growing spreads: of a normal distribution, as it is, and with the factor."""

    expected: list
    found: list
    calibrated: list


class Coverage(NamedTuple):
    """Shares of the voxels whose truth lies within one and two spreads: compare with 0.6827 and 0.9545."""

    within_one: float
    within_two: float
    calibrated_within_one: float  # with the factor
    calibrated_within_two: float
    signal_within_one: float | None  # with the factor, where the truth is above a tenth; None without such voxels
    num_voxels: int
    curve: CoverageCurve


def measure_ratios(mean, spread, gt):
    """Compare the errors of a restored frame with the spread of its ensemble.

    `mean` and `spread` are mean and standard deviation of the members, `gt` the ground truth, all (Z, Y, X, C) or
    (Y, X, C). The mean is matched to the ground truth by a line for each channel, and the spread multiplied by its
    slope. Of more than a million values, every n-th is taken.

    >>> gt = np.array([[[0.0], [0.0], [1.0], [1.0]]])
    >>> mean = gt + np.array([[[0.01], [-0.01], [0.01], [-0.01]]])
    >>> measure_ratios(mean, np.full(gt.shape, 0.005), gt).errors.round(1)
    array([2., 2., 2., 2.])
    """
    gain, offset = fit_affine([(mean, gt)]).T
    step = -(-mean.size // _MOST_VALUES)
    errors, spreads, truth = (
        np.asarray(values, np.float64).ravel()[::step]
        for values in (np.abs(gain * mean + offset - gt), np.abs(gain) * spread, gt)
    )
    ratios = np.full(errors.shape, np.inf)
    np.divide(errors, spreads, out=ratios, where=spreads > 0)
    ratios[errors == 0] = 0
    return Ratios(ratios, truth)


def find_factor(ratios):
    """What the spread must be multiplied by to hold the truth in 68.27 % of the voxels.

    None where the members hardly differ: nothing can be made of such a spread.

    >>> round(find_factor(Ratios(np.linspace(0, 1, 10001), np.zeros(10001))), 4)
    0.6827
    """
    factor = float(np.percentile(ratios.errors, 100 * _WITHIN_ONE, method="higher"))
    return factor if 0 < factor < _LARGEST_FACTOR else None


def measure_coverage(ratios, factor):
    """How often the truth lies within the spread, before and after it is multiplied by a factor: a `Coverage`."""
    errors = np.sort(ratios.errors)

    def share(within):
        """Share of the voxels whose error is within so many spreads."""
        return (np.searchsorted(errors, within, side="right") / len(errors)).tolist()

    bounds = stats.norm.ppf((1 + _CURVE) / 2)  # in spreads
    signal = ratios.errors[ratios.truth > _SIGNAL]
    return Coverage(
        within_one=share(1),
        within_two=share(2),
        calibrated_within_one=share(factor),
        calibrated_within_two=share(2 * factor),
        signal_within_one=float(np.mean(signal <= factor)) if len(signal) else None,
        num_voxels=len(errors),
        curve=CoverageCurve(_CURVE.tolist(), share(bounds), share(factor * bounds)),
    )


def choose_blocks(frames):
    """Choose at most eight frames, pairs and numbers, evenly spread: each with the region of its central part."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_MOST_BLOCKS, len(frames))).round().astype(int))
    blocks = []
    for pair, number in (frames[i] for i in chosen):
        most_voxels = _MOST_VOXELS // math.prod(pair.upscaling)
        blocks.append((pair, number, central_region(pair.raw.shape[:-1], most_voxels)))
    return blocks


def measure_blocks(blocks, restorer, *, size, progress):
    """Restore blocks of `choose_blocks` with an ensemble, and hold its spread against the errors: `Ratios`.

    The `rcan.restoration.tiled.TiledRestorer` is that of an `Ensemble` with spread, of `size` members. `progress` is
    advanced by `size` times the raw voxels.
    """
    parts = []
    for pair, number, region in blocks:
        raw, gt = pair.read(number, region)
        mean, spread = np.split(restorer.restore_array(pair.raw.as_input(number, raw)), 2, axis=-1)
        parts.append(measure_ratios(mean, spread, gt))
        progress.advance(size * math.prod(raw.shape[:-1]))
    return Ratios.joined(parts)


def open_validation(model_dir, record, *, ndim):
    """Open the volumes, or their parts, that a network of `ndim` spatial axes was validated on.

    Returns a list of `Pair`, those whose files are there and hold what they held, and the number of the others.
    """
    config = find_model(model_dir).with_name("config.json")
    config = read_json(config) if config.is_file() else {}
    axes = {"raw": config.get("raw_data_format"), "gt": config.get("gt_data_format")}
    scaling = {"raw": record.scaling, "gt": {}}  # the ground truth has the recorded range alone
    pairs = [_open_recorded(each, axes, scaling, "ZYXC" if ndim == 3 else "YXC") for each in record.validation]
    found = [pair for pair in pairs if pair]
    return found, len(pairs) - len(found)


def _open_recorded(recorded, axes, scaling, block_axes):
    """A pair as training.json describes it; None where it is gone or another one now."""
    views, cache = [], MeasurementCache()
    for kind, digest in zip(("raw", "gt"), recorded.digests, strict=False):
        try:
            volume = open_volume(getattr(recorded, kind), axes=axes[kind], block_axes=block_axes)
            view = NetworkView(volume, fixed_range=getattr(recorded, f"{kind}_range"), **scaling[kind])
            whole, shape = volume.shape[:-1], getattr(recorded, f"{kind}_shape")[:-1]
            # versions that did not record where a part begins set the end of the volume aside
            start = getattr(recorded, f"{kind}_start") or tuple(map(int.__sub__, whole, shape))
            if min(start) < 0 or any(np.add(start, shape) > whole):
                return None
            if tuple(shape) != tuple(whole):
                view = view.crop(region_at(start, shape))  # with the noise of the whole, as in the training
            if digest_of(view.volume, cache) != digest:
                return None
        except (OSError, ValueError):
            return None
        views.append(view)
    return Pair(*views) if views else None
