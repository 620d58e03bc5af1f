"""Losses and image-quality measures, for training and for scoring, in two and three dimensions.

Losses and metrics are written in `keras.ops`: they serve Keras on batches of patches, on every backend. There `gt`
and `restored` are `(N, Z, Y, X, C)` or `(N, Y, X, C)`, and results are one value for each image of the batch, shape
`(N,)`. Scores of whole images are of NumPy arrays `(Z, Y, X, C)` or `(Y, X, C)`.

Background is 0 and signal 1, so that the data range is 1.

References: Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
"""

import math

import numpy as np
from keras import ops
from scipy import ndimage

from rcan.intensity import match_affine

__all__ = [
    "METRICS",
    "compare",
    "enlarge",
    "mean_scores",
    "psnr",
    "score",
    "ssim",
    "ssim_map",
    "weighted_loss",
]

_SSIM_SIGMA = 1.5  # width of the Gaussian window, and its reach below, of Wang et al.
_SSIM_RADIUS = 5


def psnr(gt, restored):
    """Peak signal-to-noise ratio in dB, for a data range of 1.

    Parameters
    ----------
    gt, restored : tensor of shape (N, ..., C)
        Images with background 0 and signal 1.

    Returns
    -------
    psnr : tensor of shape (N,)
        In dB; at most 120, where the images are equal to within rounding.

    Examples
    --------
    >>> round(float(psnr(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 0.1))[0]), 3)
    20.0
    """
    error = _mean(ops.square(restored - gt))
    return -10 / math.log(10) * ops.log(ops.maximum(error, 1e-12))


def ssim(gt, restored):
    """Structural similarity with a Gaussian window, for a data range of 1 [1]_.

    The window (sigma 1.5, 11 voxels wide) shrinks to the largest odd size that fits on an axis thinner
    than it; only voxels whose whole window lies inside count. Equal to
    ``skimage.metrics.structural_similarity`` with ``gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1`` where no axis is thinner than 11.

    Parameters
    ----------
    gt, restored : tensor of shape (N, Z, Y, X, C) or (N, Y, X, C)
        Images with background 0 and signal 1.

    Returns
    -------
    ssim : tensor of shape (N,)
        Mean over voxels and channels, at most 1.

    References
    ----------
    .. [1] Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
    """
    moments = ops.stack([gt, restored, gt * gt, restored * restored, gt * restored])
    for axis in range(2, len(moments.shape) - 1):
        moments = _smooth(moments, axis)
    return _mean(_similarity(*(moments[i] for i in range(5))))


def _smooth(x, axis):
    """Average along one axis with the window, keeping only full windows."""
    weights = _window(x.shape[axis] or 2 * _SSIM_RADIUS + 1)
    before, last = (slice(None),) * axis, len(weights) - 1
    shifted = (x[(*before, slice(k, k - last or None))] for k in range(last + 1))
    return sum(float(weight) * part for weight, part in zip(weights, shifted, strict=True))


def _window(size):
    """Weights of the window along an axis of `size` voxels."""
    radius = min(_SSIM_RADIUS, (size - 1) // 2)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SSIM_SIGMA) ** 2)
    return weights / weights.sum()


def _similarity(mean_g, mean_r, gg, rr, gr):
    """SSIM from averages of gt, restored, their squares and their product."""
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_g * mean_r + c1) / (mean_g**2 + mean_r**2 + c1)
    variances = gg - mean_g**2 + rr - mean_r**2
    structure = (2 * (gr - mean_g * mean_r) + c2) / (variances + c2)
    return luminance * structure


def _mean(x):
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))


METRICS = {"psnr": psnr, "ssim": ssim}

_CHARBONNIER_WIDTH = (
    1e-3  # differences below it count by their square, as in Lai et al., CVPR (2017), arXiv:1704.03915
)

_LOSSES = {
    "mae": lambda gt, restored: _mean(ops.abs(restored - gt)),
    "mse": lambda gt, restored: _mean(ops.square(restored - gt)),
    "charbonnier": lambda gt, restored: _mean(ops.sqrt(ops.square(restored - gt) + _CHARBONNIER_WIDTH**2)),
    "ssim": lambda gt, restored: 1 - ssim(gt, restored),
}


def weighted_loss(weights):
    """Make a loss function.

    Parameters
    ----------
    weights : dict of str to float
        Weight of mae, mse, charbonnier (the square root of the squared difference plus ``1e-3**2``, averaged) and
        ssim (1 minus the SSIM).

    Returns
    -------
    loss : callable
        ``loss(gt, restored)`` of two batches gives one value for each image, shape `(N,)`.

    Examples
    --------
    >>> loss = weighted_loss({"mae": 1, "mse": 0.5})
    >>> float(loss(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 2.0))[0])
    4.0
    """
    return lambda gt, restored: sum(weight * _LOSSES[name](gt, restored) for name, weight in weights.items())


def ssim_map(gt, restored):
    """Structural similarity of every voxel whose whole window lies inside: `ssim` is the mean of it.

    For single images in memory, on the processor: much faster there than `ssim`.

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
            weights = _window(size)
            radius = len(weights) // 2
            inside = (slice(None),) * axis + (slice(radius, size - radius),)
            image = ndimage.correlate1d(image, weights, axis)[inside]
        return image

    gt, restored = np.asarray(gt, np.float32), np.asarray(restored, np.float32)
    moments = gt, restored, gt * gt, restored * restored, gt * restored
    return _similarity(*map(average, moments))


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
