"""How sure scores are: confidence intervals, over volumes or, where these are few, over the blocks of each."""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from rcan.regions import split_evenly
from rcan.scores import scores_from_sums, sum_regions

__all__ = ["Blocks", "Interval", "bootstrap_blocks", "bootstrap_interval", "score_blocks"]

_NUM_RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


class Blocks(NamedTuple):
    """The blocks of a volume: scores of each, as `rcan.scores.score_image`, and sums (blocks, C) by name.

    The mean of the scores is not the score of the volume: an empty block has a very high PSNR.
    """

    rows: list
    sums: dict


def score_blocks(image, gt, *, num_blocks=16):
    """Score blocks of nearly equal size that cover a volume, with the affine match of the whole volume.

    There are at most `num_blocks`, as long as wide. The windows of SSIM reach into neighbouring blocks. A ValueError
    says where there are fewer than two.

    >>> gt = np.linspace(0, 1, 4096).reshape(1, 64, 64, 1)
    >>> len(score_blocks(gt, gt).rows)
    16
    """
    regions = split_evenly(gt.shape[:-1], num_blocks)
    if len(regions) < 2:
        raise ValueError(
            f"num_blocks is {num_blocks} for an image of {gt.shape} (ZYXC): there must be two blocks or more. Raise "
            "num_blocks, or take a larger image."
        )
    sums = sum_regions(image, gt, regions)
    each = scores_from_sums({name: values[:, np.newaxis] for name, values in sums.items()})
    rows = [{name: float(values[i]) for name, values in each.items()} for i in range(len(regions))]
    return Blocks(rows, sums)


def bootstrap_blocks(volumes, *, seed, minus=None, weights=None, level=0.95):
    """Confidence intervals of mean scores, from the blocks of volumes that are too few to be resampled themselves.

    Each resample draws every volume's blocks with replacement, scores those drawn together as one image, and
    averages the volumes. The intervals tell how much the scores depend on which part of a specimen is imaged. They
    know nothing of how other specimens differ, and neighbouring blocks with the same structure make them too narrow.

    Parameters
    ----------
    volumes : list of Blocks
    seed : int
    minus : list of Blocks, optional
        Of another method for the same volumes: the intervals are those of the differences, with the same blocks drawn
        for both.
    weights : sequence of float, optional
        Of the volumes in the mean; equal where not given.
    level : float
        Share of such intervals that hold the true value, above 0 and below 1.

    Returns
    -------
    intervals : dict of str to (float, float)
        Low and high end for each measure, by the method of `bootstrap_interval`.
    """
    rng = np.random.default_rng(seed)
    resamples = []
    for blocks, others in zip(volumes, minus or [None] * len(volumes), strict=True):
        size = len(blocks.rows)
        counts = rng.multinomial(size, np.full(size, 1 / size), _NUM_RESAMPLES)  # how often each block is drawn
        scores = _score_drawn(blocks, counts)
        base = _score_drawn(others, counts) if others else dict.fromkeys(scores, 0)
        resamples.append({name: values - base[name] for name, values in scores.items()})
    smallest = min(len(blocks.rows) for blocks in volumes)
    means = {name: np.average([row[name] for row in resamples], axis=0, weights=weights) for name in resamples[0]}
    return {name: _percentile_interval(values, smallest, level) for name, values in means.items()}


def _score_drawn(blocks, counts):
    """Scores (resamples,) of the blocks that were drawn together, `counts` (resamples, blocks) times each."""
    return scores_from_sums({name: counts[..., np.newaxis] * values for name, values in blocks.sums.items()})


def bootstrap_interval(values, *, seed, level=0.95):
    """Confidence interval of a mean, by the bootstrap.

    Resampled means lie too close together, by ``sqrt((n - 1) / n)`` and as the normal distribution does compared
    with Student's. The expanded percentile interval [1]_ makes up for both by taking percentiles further out. For
    normal values, intervals of 95 % hold the true mean in 94 to 95 % of the cases from 8 values on, in 92 % with 5.
    With fewer, no resampling can do it: the interval ends at the extreme values, which enclose the true mean in 75 %
    of the cases with 3 and in half of them with 2. Take `bootstrap_blocks` there.

    Parameters
    ----------
    values : sequence of float
        One for each volume: a score, or the difference of the scores of two methods on the same volume.
    seed : int
    level : float
        Share of such intervals that hold the true mean, above 0 and below 1.

    Returns
    -------
    low, high : float
        NaN where there are fewer than two values, or one of them is NaN.

    References
    ----------
    .. [1] Hesterberg, Am. Stat. 69, 371 (2015), doi:10.1080/00031305.2015.1089789

    Examples
    --------
    >>> low, high = bootstrap_interval([20.0, 22.0, 21.0, 23.0, 21.0, 22.0], seed=0)
    >>> 20 < low < 21.5 < high < 23
    True
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    counts = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), _NUM_RESAMPLES)
    return _percentile_interval(counts @ values / len(values), len(values), level)


def _percentile_interval(resamples, size, level):
    """Expanded percentile interval of resampled means of `size` values."""
    tail = special.ndtr(math.sqrt(size / (size - 1)) * special.stdtrit(size - 1, (1 - level) / 2))
    low, high = np.quantile(resamples, (tail, 1 - tail))
    return float(low), float(high)
