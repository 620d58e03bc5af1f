"""How good a restoration is: scores against the ground truth, and how sure they are.

Images are `(Z, Y, X, C)` or `(Y, X, C)` with background 0 and signal 1, so that the data range is 1. Where a name
says nothing else, an image is scored after the least-squares affine match of `rcan.intensity.match_affine`, raw and
restored volumes alike.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from rcan.intensity import match_affine
from rcan.regions import split_evenly
from rcan.restoration.tiled import restore
from rcan.scores import compare, enlarge, mean_scores, ssim_map

__all__ = [
    "Blocks",
    "bootstrap_blocks",
    "bootstrap_interval",
    "score_blocks",
    "score_image",
    "score_pair",
]

_NUM_RESAMPLES = 10_000
_SMALLEST_VARIANCE = 1e-12  # of an image of signal 1: what is below is rounding of a constant


def score_image(image, gt):
    """Score an image against the ground truth, after an affine match and as it is.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Raw, restored or filtered, background 0 and signal 1.
    gt : ndarray of the same shape
        Ground truth, background 0 and signal 1.

    Returns
    -------
    scores : dict of str to float
        ``psnr``
            Peak signal-to-noise ratio in dB for a data range of 1, at most 120.
        ``ssim``
            Structural similarity [1]_ with a Gaussian window along every axis: of the volume, not of planes; see
            `rcan.losses.ssim`.
        ``nrmse``
            Root of the summed squared error, relative to that of the summed squared ground truth:
            ``normalized_root_mse(..., normalization="euclidean")`` of scikit-image. It measures the error against
            the signal itself, where PSNR measures it against the data range, so that an empty background makes no
            image look good.
        ``pearson``
            Pearson's correlation coefficient, mean over the channels. It needs no match.
        ``psnr_unmatched``, ``ssim_unmatched``, ``nrmse_unmatched``
            The same of the image as it is: errors of gain and offset count.

        A constant channel of the image or of the ground truth makes ``pearson`` NaN, a ground truth of zeros makes
        ``nrmse`` NaN.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    .. [1] Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861

    Examples
    --------
    >>> gt = np.linspace(0, 1, 4096).reshape(1, 64, 64, 1)
    >>> scores = score_image(0.5 * gt + 0.1, gt)
    >>> round(scores["nrmse"], 3), round(scores["nrmse_unmatched"], 3), round(scores["pearson"], 3)
    (0.0, 0.361, 1.0)
    """
    sums = _sum_blocks(image, gt, split_evenly(gt.shape[:-1], 1))
    return {name: float(value) for name, value in _scores(sums).items()}


@dataclass(frozen=True)
class Blocks:
    """Scores of a volume's blocks, from `score_blocks`.

    Attributes
    ----------
    rows : list of dict of str to float
        The scores of each block by itself, as `score_image`. Their mean is not the score of the volume: an empty
        block has a very high PSNR.
    sums : dict of str to ndarray of shape (N, C)
        Sums over each block's voxels from which the scores of blocks taken together follow.
    """

    rows: list
    sums: dict


def score_blocks(image, gt, *, num_blocks=16):
    """Score the blocks of a volume, with the affine match of the whole volume.

    Parameters
    ----------
    image, gt : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        As `score_image`.
    num_blocks : int
        At least 2. The longest side (in voxels) of the blocks is halved as long as this gives no more.

    Returns
    -------
    blocks : Blocks
        Of nearly equal size, covering the volume. The SSIM of a block is that of its voxels within the volume,
        with windows that reach into its neighbours.

    Raises
    ------
    ValueError
        If the shapes differ, `num_blocks` is below 2, or there are too few voxels for two blocks.

    Examples
    --------
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
    sums = _sum_blocks(image, gt, regions)
    each = _scores({name: values[:, np.newaxis] for name, values in sums.items()})
    rows = [{name: float(values[i]) for name, values in each.items()} for i in range(len(regions))]
    return Blocks(rows, sums)


def bootstrap_blocks(volumes, *, seed, minus=None, weights=None, level=0.95):
    """Confidence intervals of scores, from the blocks of volumes that are too few to be resampled themselves.

    Each resample draws every volume's blocks with replacement, scores those drawn together as one image, and
    averages the volumes. The intervals tell how much the scores depend on what is in view. They know nothing of how
    other specimens differ from these, and neighbouring blocks that show the same structure make them too narrow.

    Parameters
    ----------
    volumes : list of Blocks
    seed : int
    minus : list of Blocks, optional
        Of another method for the same volumes: the intervals are of the scores of `volumes` less those of `minus`,
        with the same blocks drawn for both.
    weights : sequence of float, optional
        Of the volumes in the mean; equal where not given.
    level : float
        Share of such intervals that hold the true value, above 0 and below 1.

    Returns
    -------
    intervals : dict of str to (float, float)
        Lower and upper end for each score of `score_image`, by the method of `bootstrap_interval`.
    """
    rng = np.random.default_rng(seed)
    resamples = []
    for blocks, others in zip(volumes, minus or [None] * len(volumes), strict=True):
        size = len(blocks.rows)
        times = rng.multinomial(size, np.full(size, 1 / size), _NUM_RESAMPLES)  # each block is drawn
        scores = _draw(blocks, times)
        base = _draw(others, times) if others else dict.fromkeys(scores, 0)
        resamples.append({name: values - base[name] for name, values in scores.items()})
    smallest = min(len(blocks.rows) for blocks in volumes)
    means = {
        name: np.average([row[name] for row in resamples], axis=0, weights=weights) for name in resamples[0]
    }
    return {name: _interval(values, smallest, level) for name, values in means.items()}


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
        One for each volume: a score, or the difference of two methods' scores on the same volume (of restored less
        the best reference, say), whose interval tells whether one method is better.
    seed : int
        The same seed and values give the same interval.
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
    times = np.random.default_rng(seed).multinomial(
        len(values), np.full(len(values), 1 / len(values)), _NUM_RESAMPLES
    )
    return _interval(times @ values / len(values), len(values), level)


def _interval(resamples, size, level):
    """Expanded percentile interval of resampled means of `size` values."""
    tail = special.ndtr(math.sqrt(size / (size - 1)) * special.stdtrit(size - 1, (1 - level) / 2))
    low, high = np.quantile(resamples, (tail, 1 - tail))
    return float(low), float(high)


def _sum_blocks(image, gt, regions):
    """Sums over the voxels of each region, by name, each `(N, C)`, for `_scores`."""
    gt, image = np.asarray(gt, np.float32), np.asarray(image, np.float32)
    space = tuple(range(gt.ndim - 1))
    sums = {}
    for name, values in _maps(image, gt):
        margins = np.subtract(gt.shape, values.shape)[:-1] // 2  # of the SSIM's window
        parts = (
            tuple(
                slice(max(one.start - m, 0), max(one.stop - m, 0))
                for one, m in zip(region, margins, strict=True)
            )
            for region in regions
        )
        sums[name] = np.array([values[part].sum(axis=space, dtype=np.float64) for part in parts])
    return sums


def _maps(image, gt):
    """What `_scores` needs the sums of: one value for each voxel, or for each one with a whole window."""
    matched = match_affine(image, gt).astype(np.float32)
    space = tuple(range(gt.ndim - 1))
    yield "count", np.broadcast_to(np.float32(1), gt.shape)
    yield "energy", gt**2
    # centred, so that sums of squares keep their precision
    x, y = (one - one.mean(axis=space, dtype=np.float64).astype(np.float32) for one in (image, gt))
    yield from [("x", x), ("y", y)]
    yield from ((name, one * other) for name, one, other in [("xx", x, x), ("yy", y, y), ("xy", x, y)])
    for kind, one in [("", matched), ("_unmatched", image)]:
        yield "error" + kind, (one - gt) ** 2
        similarity = ssim_map(gt, one)
        yield "similarity" + kind, similarity
    yield "windows", np.broadcast_to(np.float32(1), similarity.shape)


def _draw(blocks, times):
    """Scores of blocks taken together, each so many times as `times` of shape (R, N) says; `(R,)` each."""
    return _scores({name: times[..., np.newaxis] * values for name, values in blocks.sums.items()})


def _scores(sums):
    """Scores from sums of shape (..., N, C) over N blocks; `(...)` each."""
    sums = {name: values.sum(axis=-2) for name, values in sums.items()}  # (..., C)
    count = sums["count"]
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance, variance, variance_gt = (
            sums[one + other] / count - sums[one] * sums[other] / count**2
            for one, other in ("xy", "xx", "yy")
        )
        is_constant = np.minimum(variance, variance_gt) < _SMALLEST_VARIANCE
        pearson = np.where(is_constant, np.nan, covariance / np.sqrt(variance * variance_gt))
        total = {name: values.sum(axis=-1) for name, values in sums.items()}
        scores = {"pearson": pearson.mean(axis=-1)}
        for kind in ("", "_unmatched"):
            error = total["error" + kind]
            scores["psnr" + kind] = -10 * np.log10(np.maximum(error / total["count"], 1e-12))
            scores["ssim" + kind] = total["similarity" + kind] / total["windows"]
            scores["nrmse" + kind] = np.sqrt(error / np.where(total["energy"] > 0, total["energy"], np.nan))
    return scores


def score_pair(model, pair, *, tile_shape=None):
    """Restore a pair's raw volume and score raw and restored against the ground truth.

    Parameters
    ----------
    model : keras.Model
    pair : rcan.data.pairs.Pair
    tile_shape : tuple of int, optional
        As `rcan.restoration.restore`.

    Returns
    -------
    scores : dict
        ``psnr_raw``, ``psnr_restored`` in dB, ``ssim_raw``, ``ssim_restored``: means over the frames.
    images : dict of str to ndarray of shape (Z, Y, X, C) or (Y, X, C)
        The last frame's ``raw``, ``restored`` and ``ground truth``, matched, background 0 and signal 1.
    """
    frames = []
    for number in range(pair.num_frames):
        raw, gt = pair.read(number)
        restored = restore(model, raw, tile_shape=tile_shape)
        frames.append(compare(raw, restored, gt))
    images = {"raw": enlarge(raw, gt.shape), "restored": restored}
    images = {name: match_affine(image, gt) for name, image in images.items() if image.shape == gt.shape}
    return mean_scores(frames), {**images, "ground truth": gt}
