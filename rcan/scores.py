"""Scores of images against their ground truth, in NumPy.

Images are (Z, Y, X, C) or (Y, X, C) with background 0 and signal 1. Scores are dictionaries, a number by the name of
its measure. Raw and restored images are first matched to the ground truth by `rcan.intensity.match_affine`.

psnr
    Peak signal-to-noise ratio in dB for a data range of 1, at most 120.
ssim
    Structural similarity [1]_ with a Gaussian window along every axis: of the volume, not of planes.
nrmse
    Root of the summed squared error, relative to that of the summed squared ground truth. It measures the error
    against the signal itself, where PSNR measures it against the data range: an empty background makes no image look
    good. NaN for a ground truth of zeros.
pearson
    Pearson's correlation coefficient, mean over the channels; it needs no match. NaN where a channel is constant.
psnr_unmatched, ssim_unmatched, nrmse_unmatched
    The same without the match: errors of gain and offset count.

References
----------
.. [1] Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
"""

import numpy as np

from rcan.intensity import match_affine

__all__ = [
    "SMALLEST_VARIANCE",
    "SSIM_RADIUS",
    "blank_out",
    "compare",
    "enlarge",
    "format_scores",
    "mean_scores",
    "score",
    "score_image",
    "scores_from_sums",
    "similarity_of_moments",
    "ssim_map",
    "ssim_window",
    "sum_regions",
]

SSIM_RADIUS = 5  # voxels that the window of Wang et al. reaches from its centre
SMALLEST_VARIANCE = 1e-12  # of an image of signal 1; below it is the rounding of a constant
_SSIM_SIGMA = 1.5  # voxels


def ssim_window(size):
    """Weights of the window along an axis of `size` voxels."""
    radius = min(SSIM_RADIUS, (size - 1) // 2)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SSIM_SIGMA) ** 2)
    return weights / weights.sum()


def similarity_of_moments(mean_g, mean_r, gg, rr, gr):
    """SSIM from averages of gt, restored, their squares and their product."""
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_g * mean_r + c1) / (mean_g**2 + mean_r**2 + c1)
    variances = gg - mean_g**2 + rr - mean_r**2
    structure = (2 * (gr - mean_g * mean_r) + c2) / (variances + c2)
    return luminance * structure


def ssim_map(gt, restored):
    """SSIM of every voxel whose whole window lies inside; along long axes, 5 voxels are missing at either end.

    Its mean is that of `rcan.losses.ssim`, which is much slower on a processor.
    """
    from scipy import ndimage  # takes longer to import than a folder of kept scores to print

    def average(image):
        """Average with the window along each axis, where all of the window is inside."""
        for axis, size in enumerate(gt.shape[:-1]):
            weights = ssim_window(size)
            radius = len(weights) // 2
            inside = (slice(None),) * axis + (slice(radius, size - radius),)
            image = ndimage.correlate1d(image, weights, axis)[inside]
        return image

    gt, restored = np.asarray(gt, np.float32), np.asarray(restored, np.float32)
    moments = gt, restored, gt * gt, restored * restored, gt * restored
    return similarity_of_moments(*map(average, moments))


# Scores from sums over voxels, which serve a whole image and its blocks


def sum_regions(image, gt, regions, *, matched_only=False):
    """Sums over the voxels of regions from which their scores follow, by name, each (regions, C).

    `matched_only` leaves out what Pearson's correlation and the scores without a match need.
    """
    gt, image = np.asarray(gt, np.float32), np.asarray(image, np.float32)
    space = tuple(range(gt.ndim - 1))
    sums = {}
    for name, values in _maps(image, gt, matched_only):
        margins = np.subtract(gt.shape, values.shape)[:-1] // 2  # of the window of SSIM
        parts = (
            tuple(slice(max(one.start - m, 0), max(one.stop - m, 0)) for one, m in zip(region, margins, strict=True))
            for region in regions
        )
        sums[name] = np.array([values[part].sum(axis=space, dtype=np.float64) for part in parts])
    return sums


def _maps(image, gt, matched_only):
    """What is summed: one value for each voxel, or for each one with a whole window."""
    compared = {"": match_affine(image, gt).astype(np.float32)}
    yield "count", np.broadcast_to(np.float32(1), gt.shape)
    yield "energy", gt**2
    if not matched_only:
        space = tuple(range(gt.ndim - 1))
        # centred, so that sums of squares keep their precision
        x, y = (one - one.mean(axis=space, dtype=np.float64).astype(np.float32) for one in (image, gt))
        yield from [("x", x), ("y", y), ("xx", x * x), ("yy", y * y), ("xy", x * y)]
        compared["_unmatched"] = image
    for ending, one in compared.items():
        yield "error" + ending, (one - gt) ** 2
        similarity = ssim_map(gt, one)
        yield "similarity" + ending, similarity
    yield "windows", np.broadcast_to(np.float32(1), similarity.shape)


def scores_from_sums(sums):
    """Scores from the sums (..., regions, C) of `sum_regions`, all regions taken together; each of shape (...)."""
    sums = {name: values.sum(axis=-2) for name, values in sums.items()}  # (..., C)
    total = {name: values.sum(axis=-1) for name, values in sums.items()}
    scores = {"pearson": _pearson(sums)} if "xy" in sums else {}
    energy = np.where(total["energy"] > 0, total["energy"], np.nan)
    for ending in ("", "_unmatched"):
        if "error" + ending in total:
            error = total["error" + ending]
            scores["psnr" + ending] = -10 * np.log10(np.maximum(error / total["count"], 1e-12))
            with np.errstate(divide="ignore", invalid="ignore"):  # regions without a whole window
                scores["ssim" + ending] = total["similarity" + ending] / total["windows"]
            scores["nrmse" + ending] = np.sqrt(error / energy)
    return scores


def _pearson(sums):
    count = sums["count"]
    covariance, variance, variance_gt = (
        sums[one + other] / count - sums[one] * sums[other] / count**2 for one, other in ("xy", "xx", "yy")
    )
    is_constant = np.minimum(variance, variance_gt) < SMALLEST_VARIANCE
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(is_constant, np.nan, covariance / np.sqrt(variance * variance_gt))
    return correlation.mean(axis=-1)


# Scores of images


def score(image, gt):
    """PSNR, SSIM and NRMSE after the affine match."""
    return _score_whole(image, gt, matched_only=True)


def score_image(image, gt):
    """All scores of an image (Z, Y, X, C) or (Y, X, C), after the affine match and without it: floats by measure.

    The ground truth, of the same shape (a ValueError says where not), has background 0 and signal 1.

    >>> gt = np.linspace(0, 1, 4096).reshape(1, 64, 64, 1)
    >>> scores = score_image(0.5 * gt + 0.1, gt)
    >>> round(scores["nrmse"], 3), round(scores["nrmse_unmatched"], 3), round(scores["pearson"], 3)
    (0.0, 0.361, 1.0)
    """
    return _score_whole(image, gt)


def _score_whole(image, gt, **options):
    whole = tuple(slice(0, size) for size in gt.shape[:-1])
    scores = scores_from_sums(sum_regions(image, gt, [whole], **options))
    return {name: float(value) for name, value in scores.items()}


def compare(raw, restored, gt):
    """Scores of a frame: `psnr_raw`, `psnr_restored` in dB, `ssim_raw`, `ssim_restored`.

    A smaller raw image is enlarged; one of other channels than gt has the scores NaN.
    """
    raw = enlarge(raw, gt.shape)
    nothing = {"psnr": np.nan, "ssim": np.nan}
    both = {"raw": score(raw, gt) if raw.shape == gt.shape else nothing, "restored": score(restored, gt)}
    return {f"{measure}_{name}": both[name][measure] for measure in ("psnr", "ssim") for name in both}


def enlarge(image, shape):
    """Repeat voxels up to the spatial size of `shape`, a whole multiple of the image's; channels stay."""
    for axis, size in enumerate(shape[:-1]):
        if size != image.shape[axis]:
            image = image.repeat(size // image.shape[axis], axis)
    return image


def blank_out(image, missing):
    """Make missing voxels background, so that they count for no image; `missing` is (..., 1), perhaps smaller."""
    return np.where(enlarge(missing, image.shape), np.float32(0), image)


def mean_scores(rows):
    """Mean of each measure over a list of scores."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def score_rows(scores):
    """Header and rows of a table of the scores of `compare`, given by the name of the volume; of several with the mean.

    >>> score_rows({"a.tif": dict(psnr_raw=20, psnr_restored=25, ssim_raw=0.5, ssim_restored=0.75)})[1]
    [['a.tif', '20.00', '25.00', '+5.00', '0.500', '0.750']]
    """
    scores = {**scores, "mean": mean_scores(list(scores.values()))} if len(scores) > 1 else scores
    rows = [
        [
            name,
            f"{row['psnr_raw']:.2f}",
            f"{row['psnr_restored']:.2f}",
            f"{row['psnr_restored'] - row['psnr_raw']:+.2f}",
            f"{row['ssim_raw']:.3f}",
            f"{row['ssim_restored']:.3f}",
        ]
        for name, row in scores.items()
    ]
    return ["volume", "PSNR raw (dB)", "restored", "gain", "SSIM raw", "restored"], rows


def format_scores(rows):
    """Lay out scores of `compare`, by the name of the volume, as a table; of several with the mean.

    >>> print(format_scores({"a.tif": dict(psnr_raw=20, psnr_restored=25, ssim_raw=0.5, ssim_restored=0.75)}))
           PSNR (dB): raw  restored    gain   SSIM: raw  restored
    a.tif           20.00     25.00   +5.00       0.500     0.750
    """
    _, rows = score_rows(rows)
    width = max(len(name) for name, *_ in rows)
    lines = [f"{'':{width}}  PSNR (dB): raw  restored    gain   SSIM: raw  restored"]
    for name, raw, restored, gain, ssim_raw, ssim_restored in rows:
        lines.append(f"{name:{width}}  {raw:>14}{restored:>10}{gain:>8}{ssim_raw:>12}{ssim_restored:>10}")
    return "\n".join(lines)
