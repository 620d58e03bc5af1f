"""Scores of whole images against their ground truth, in NumPy: (Z, Y, X, C) or (Y, X, C), background 0 and signal 1.

References: Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
"""

import numpy as np
from scipy import ndimage

from rcan.intensity import match_affine

__all__ = [
    "SSIM_RADIUS",
    "compare",
    "enlarge",
    "format_scores",
    "mean_scores",
    "score",
    "similarity_of_moments",
    "ssim_map",
    "ssim_window",
]

_SSIM_SIGMA = 1.5  # width of the Gaussian window, and its reach below, of Wang et al.
SSIM_RADIUS = 5


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
    """Structural similarity of every voxel whose whole window lies inside: `rcan.losses.ssim` is the mean of it.

    For single images in memory, on the processor: much faster there than `rcan.losses.ssim`.

    Parameters
    ----------
    gt, restored : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1.

    Returns
    -------
    similarity : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
        Spatial axes are shorter by the window less one, that is by 10 voxels where they measure 11 or more; as
        many are missing at either end.
    """

    def average(image):
        for axis, size in enumerate(gt.shape[:-1]):
            weights = ssim_window(size)
            radius = len(weights) // 2
            inside = (slice(None),) * axis + (slice(radius, size - radius),)
            image = ndimage.correlate1d(image, weights, axis)[inside]
        return image

    gt, restored = np.asarray(gt, np.float32), np.asarray(restored, np.float32)
    moments = gt, restored, gt * gt, restored * restored, gt * restored
    return similarity_of_moments(*map(average, moments))


def score(restored, gt):
    """PSNR and SSIM of one image after the least-squares affine match to the ground truth.

    Parameters
    ----------
    restored : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Image to judge (raw or restored), in any unit: gain and offset do not count.
    gt : ndarray of the same shape
        Ground truth, background 0 and signal 1.

    Returns
    -------
    scores : dict
        ``{"psnr": dB, "ssim": number}``.
    """
    matched = match_affine(restored, gt)
    error = np.mean((matched - gt) ** 2, dtype=np.float64)
    return {
        "psnr": float(-10 * np.log10(max(error, 1e-12))),
        "ssim": float(np.mean(ssim_map(gt, matched), dtype=np.float64)),
    }


def compare(raw, restored, gt):
    """Scores of one frame.

    Parameters
    ----------
    raw, restored, gt : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        gt with background 0 and signal 1, restored of the same shape. A smaller raw image is enlarged; one of
        other channels is not scored.

    Returns
    -------
    scores : dict
        ``psnr_raw`` and ``psnr_restored`` in dB, ``ssim_raw`` and ``ssim_restored``; after the affine match.
    """
    raw = enlarge(raw, gt.shape)
    nothing = {"psnr": np.nan, "ssim": np.nan}
    both = {"raw": score(raw, gt) if raw.shape == gt.shape else nothing, "restored": score(restored, gt)}
    return {f"{measure}_{name}": both[name][measure] for measure in ("psnr", "ssim") for name in both}


def enlarge(image, shape):
    """Repeat the voxels of an image to the spatial size of a larger one.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C) or (Y, X, C)
    shape : tuple of int
        Each spatial size a whole multiple of the image's.

    Returns
    -------
    enlarged : ndarray
        With the channels of `image`.
    """
    for axis, size in enumerate(shape[:-1]):
        if size != image.shape[axis]:
            image = image.repeat(size // image.shape[axis], axis)
    return image


def mean_scores(rows):
    """Average a list of scores.

    Parameters
    ----------
    rows : list of dict

    Returns
    -------
    means : dict
    """
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def format_scores(rows):
    """Lay out scores as a table for the terminal, with the mean and the gain where there are several.

    Parameters
    ----------
    rows : dict of str to dict
        Scores by the name of the volume.

    Returns
    -------
    table : str

    Examples
    --------
    >>> print(format_scores({"a.tif": dict(psnr_raw=20, psnr_restored=25, ssim_raw=0.5, ssim_restored=0.75)}))
           PSNR (dB): raw  restored    gain   SSIM: raw  restored
    a.tif           20.00     25.00   +5.00       0.500     0.750
    """
    if len(rows) > 1:
        rows = {**rows, "mean": mean_scores(list(rows.values()))}
    width = max(map(len, rows))
    lines = [f"{'':{width}}  PSNR (dB): raw  restored    gain   SSIM: raw  restored"]
    for name, row in rows.items():
        lines.append(
            f"{name:{width}}  {row['psnr_raw']:14.2f}{row['psnr_restored']:10.2f}"
            f"{row['psnr_restored'] - row['psnr_raw']:+8.2f}{row['ssim_raw']:12.3f}{row['ssim_restored']:10.3f}"
        )
    return "\n".join(lines)
