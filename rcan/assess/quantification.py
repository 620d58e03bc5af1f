"""Can one measure intensities in a restored image, and where is it wrong?

Images are `(Z, Y, X, C)` or `(Y, X, C)` with background 0 and signal 1.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rcan.intensity import match_affine
from rcan.scores import SMALLEST_VARIANCE

__all__ = ["Quantification", "local_error", "quantify"]

_NUM_BINS = 20
_WINDOW = 2  # voxels along x, sigma of the window of the local error


class Quantification(NamedTuple):
    """How the intensities of a restored channel follow the true ones, from `quantify`.

    The line ``restored = slope * truth + offset`` of least squares is ideal with 1 and 0. A slope below 1 says that
    bright voxels come out too dark, or dark ones too bright. Numbers that a constant image does not have are NaN, and
    those of empty bins.
    """

    slope: float
    offset: float
    r_squared: float  # share of the variance of the restored intensities that the line explains
    edges: np.ndarray  # (B + 1,), of bins of the true intensity: lowest, evenly from percentile 0.1 to 99.9, highest
    counts: np.ndarray  # (B,), voxels in each bin
    truth: np.ndarray  # (B,), their mean true intensity
    means: np.ndarray  # (B,), mean of the restored ones
    deviations: np.ndarray  # (B,), standard deviation of the restored ones
    bias: np.ndarray  # (B,), means - truth


def quantify(restored, gt):
    """Compare restored with true intensities, voxel by voxel and without an affine match: a list, one for each channel.

    A ValueError says where the shapes, (Z, Y, X, C) or (Y, X, C), differ.

    >>> gt = np.linspace(0, 1, 1000).reshape(1, 10, 100, 1)
    >>> line = quantify(0.8 * gt + 0.1, gt)[0]
    >>> round(line.slope, 3), round(line.offset, 3), round(line.r_squared, 3), round(float(line.bias[-1]), 2)
    (0.8, 0.1, 1.0, -0.09)
    """
    if restored.shape != gt.shape:
        raise ValueError(f"restored is {restored.shape} but gt is {gt.shape}: the shapes must be equal.")
    return [_quantify(*(image[..., c].ravel() for image in (restored, gt))) for c in range(gt.shape[-1])]


def _quantify(restored, gt):
    mean, mean_gt = (image.mean(dtype=np.float64) for image in (restored, gt))
    centred, centred_gt = restored - mean, gt - mean_gt
    variance, variance_gt, covariance = (np.mean(centred**2), np.mean(centred_gt**2), np.mean(centred * centred_gt))
    is_constant, is_constant_gt = variance < SMALLEST_VARIANCE, variance_gt < SMALLEST_VARIANCE
    slope = np.nan if is_constant_gt else float(covariance / variance_gt)
    r_squared = np.nan if is_constant or is_constant_gt else float(covariance**2 / variance / variance_gt)

    edges = _edges(gt)
    inside = np.searchsorted(edges[1:-1], gt, side="right")  # number of each voxel's bin
    num_bins = len(edges) - 1
    counts = np.bincount(inside, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        truth, means = (np.bincount(inside, weights=image, minlength=num_bins) / counts for image in (gt, restored))
        squares = np.bincount(inside, weights=(restored - means[inside]) ** 2, minlength=num_bins)
        deviations = np.sqrt(squares / counts)
    offset = float(mean - slope * mean_gt)
    return Quantification(slope, offset, r_squared, edges, counts, truth, means, deviations, means - truth)


def _edges(gt):
    lowest, low, high, highest = np.percentile(gt.astype(np.float64), (0, 0.1, 99.9, 100))
    if not high > low:  # few voxels differ from the others
        low, high = lowest, highest
    if not high > low:
        return np.array([lowest, highest])
    return np.array([lowest, *np.linspace(low, high, _NUM_BINS + 1)[1:-1], highest])


def local_error(restored, gt, *, voxel_size=(None, None, None), level=0.1):
    """Map how far a restored image is from the ground truth around each voxel, after the affine match.

    The error is the root mean square of the difference within a Gaussian window of sigma 2 voxels along x, and as
    many µm along the other axes (2 voxels where a size of `voxel_size`, (z, y, x) in µm, is not known).

    Returns
    -------
    error : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
        In units of the signal: 0.1 is a tenth of the ground truth's range from background to signal.
    share : float
        Of the voxels of all channels, those whose error exceeds `level`.

    Examples
    --------
    >>> gt = np.linspace(0, 1, 1600).reshape(1, 40, 40, 1)
    >>> restored = gt.copy()
    >>> restored[:, :10, ::2] += 0.5
    >>> error, share = local_error(restored, gt)
    >>> error.shape, 0.2 < share < 0.4
    ((1, 40, 40, 1), True)
    """
    squared = ((match_affine(restored, gt) - gt) ** 2).astype(np.float32)
    *others, x = voxel_size[-(gt.ndim - 1) :]
    sigma = [_WINDOW * x / size if x and size else _WINDOW for size in others]
    error = np.sqrt(ndimage.gaussian_filter(squared, (*sigma, _WINDOW, 0)))
    return error, float(np.mean(error > level))
