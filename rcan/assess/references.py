"""What one would get without a network: classical filters and deconvolution, each at its best.

Every method is tried with a few settings, and the one that comes closest to the ground truth is kept. That flatters
them, as no one who restores a new image knows its truth: a network that is better than these references is better
than what the methods can give in practice.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from rcan.intensity import match_affine
from rcan.regions import central_region
from rcan.scores import enlarge, score_image
from rcan.simulation.optics import FWHM_OF_SIGMA

__all__ = ["Reference", "best_references"]

_MOST_SEARCHED = 2**20  # voxels in which settings are compared
_ELONGATION = 2.7  # axial to lateral width of the focus of a wide-field microscope, NA 1.4 in oil

_GAUSSIAN_SIGMAS = (0.5, 0.75, 1, 1.5, 2, 3)  # voxels
_MEDIAN_SIZES = (3, 5, 7)  # voxels
_BLUR_SIGMAS = (1, 1.5, 2, 3)  # voxels, where the blur is not stated
_NUM_ITERATIONS = (5, 10, 20, 40)
_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.2)  # of non-local means, in units of the noise


class Reference(NamedTuple):
    """An image restored by a classical method with its best setting."""

    image: np.ndarray  # (Z, Y, X, C) or (Y, X, C), float32, in the unit of raw
    setting: str  # such as "sigma 1 x 1.5 voxels (Z x YX)"
    scores: dict  # from `rcan.scores.score_image`


def best_references(raw, gt, *, voxel_size, fwhm=None):
    """Restore an image by classical methods, each with the setting of highest PSNR.

    Settings are compared by the PSNR after the affine match to the ground truth; of images of more than a million
    voxels, in the middle of the image. Along a row of settings of growing strength the search ends once the PSNR
    falls.

    - *Gaussian*: sigma from 0.5 to 3 voxels laterally; axially none, as many voxels, or as many µm.
    - *median*: windows of 3, 5 and 7 voxels laterally; axially 1 or 3.
    - *Richardson-Lucy* [1]_ [2]_ with 5 to 40 iterations and the Gaussian blur that is stated, or else one of
      sigma 1 to 3 voxels laterally and axially 2.7 times as many µm. The constant background of the photons enters
      the model of the image, so that the estimate is 0 or more and its background near 0.
    - *non-local means* [3]_ of the square root of the photons, which makes their noise the same everywhere [4]_, with
      patches of 5 voxels, at most 3 voxels apart along each axis. The noise is estimated from the finest diagonal
      details in planes [5]_; the strength h is 0.2 to 1.2 times as much.

    Photons are never negative, but images whose background is 0 are: for the last two methods they are shifted up by
    minus their percentile 0.1, and what is still darker becomes 0.

    Parameters
    ----------
    raw : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1. An image smaller than gt by whole factors is enlarged by repeating voxels.
    gt : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1, of the same channels.
    voxel_size : tuple of (float or None)
        Of gt, (z, y, x) in µm. Where z or x is unknown, settings in µm are left out or taken in voxels.
    fwhm : tuple of float, optional
        Full widths at half maximum of the blur of raw, (Z, Y, X) in µm; 0 for none along an axis.

    Returns
    -------
    references : dict of str to Reference
        By method. All channels of an image share the setting.

    Raises
    ------
    ValueError
        If the channels of raw are not those of gt, or `fwhm` is given but the voxel size is unknown.

    References
    ----------
    .. [1] Richardson, J. Opt. Soc. Am. 62, 55 (1972), doi:10.1364/JOSA.62.000055
    .. [2] Lucy, Astron. J. 79, 745 (1974), doi:10.1086/111605
    .. [3] Buades, Coll, Morel, CVPR (2005), doi:10.1109/CVPR.2005.38
    .. [4] Anscombe, Biometrika 35, 246 (1948), doi:10.1093/biomet/35.3-4.246
    .. [5] Donoho, Johnstone, Biometrika 81, 425 (1994), doi:10.1093/biomet/81.3.425

    Examples
    --------
    >>> gt = np.zeros((4, 32, 32, 1), np.float32)
    >>> gt[:, 8:24, 8:24] = 1
    >>> raw = gt + np.random.default_rng(0).normal(0, 0.1, gt.shape).astype(np.float32)
    >>> best = best_references(raw, gt, voxel_size=(0.3, 0.1, 0.1))["median"]
    >>> best.setting, best.scores["psnr"] > 23
    ('3 x 3 x 3 voxels (Z x Y x X)', True)
    """
    raw = enlarge(np.asarray(raw, np.float32), gt.shape)
    if raw.shape != gt.shape:
        raise ValueError(
            f"raw is {raw.shape} but gt is {gt.shape} (ZYXC): classical methods keep the channels, so both must have "
            "the same. Leave the references out, or give the channels that correspond."
        )
    middle = central_region(gt.shape[:-1], _MOST_SEARCHED)
    methods = {
        "Gaussian": _gaussian_settings(gt.ndim, voxel_size),
        "median": _median_settings(gt.ndim),
        "Richardson-Lucy": _richardson_lucy_settings(gt.ndim, voxel_size, fwhm),
        "non-local means": [[(f"h {h:g} x the noise", partial(_nl_means, strength=h)) for h in _STRENGTHS]],
    }
    references = {}
    for name, rows in methods.items():
        setting, restore = _choose(rows, raw[middle], gt[middle])
        image = restore(raw)
        references[name] = Reference(image, setting, score_image(image, gt))
    return references


def _choose(rows, raw, gt):
    """The best of settings (label, function), given in rows of growing strength."""
    least, best = math.inf, rows[0][0]
    for row in rows:
        before = math.inf
        for label, restore in row:
            error = np.mean((match_affine(restore(raw), gt) - gt) ** 2)
            if error < least:
                least, best = error, (label, restore)
            if error > before:
                break
            before = error
    return best


# Gaussian and median


def _gaussian_settings(ndim, voxel_size):
    z, _, x = voxel_size
    ratios = [0] if ndim == 3 else sorted({0, 1, x / z if z and x else 1})
    sigmas = [[_zyx(ratio * sigma, sigma, ndim) for sigma in _GAUSSIAN_SIGMAS] for ratio in ratios]
    return [[(_describe_sigma(sigma), partial(_gaussian, sigma=sigma)) for sigma in row] for row in sigmas]


def _zyx(axial, lateral, ndim):
    """One number for each spatial axis of an image that has channels."""
    return (axial, lateral, lateral)[-(ndim - 1) :]


def _describe_sigma(sigma):
    axial = [f"{axis:.2g}" for axis in sigma[:-2]]
    return f"sigma {' x '.join([*axial, f'{sigma[-1]:.2g}'])} voxels" + " (Z x YX)" * bool(axial)


def _gaussian(image, sigma):
    return ndimage.gaussian_filter(image, (*sigma, 0))


def _median_settings(ndim):
    sizes = [[_zyx(depth, size, ndim) for size in _MEDIAN_SIZES] for depth in ((1, 3) if ndim == 4 else (1,))]
    return [[(_describe_median(size), partial(_median, size=size)) for size in row] for row in sizes]


def _describe_median(size):
    return f"{' x '.join(map(str, size))} voxels ({' x '.join('ZYX'[-len(size) :])})"


def _median(image, size):
    return ndimage.median_filter(image, (*size, 1))


# Richardson-Lucy


def _richardson_lucy_settings(ndim, voxel_size, fwhm):
    return [
        [
            (f"{count} iterations, {label}", partial(_richardson_lucy, sigma=sigma, num_iterations=count))
            for count in _NUM_ITERATIONS
        ]
        for label, sigma in _blurs(ndim, voxel_size, fwhm)
    ]


def _blurs(ndim, voxel_size, fwhm):
    """Label and sigma in voxels of the blurs to try."""
    if fwhm is None:
        z, _, x = voxel_size
        ratio = _ELONGATION * x / z if z and x else 1
        sigmas = [_zyx(ratio * sigma, sigma, ndim) for sigma in _BLUR_SIGMAS]
        return [(_describe_sigma(sigma), sigma) for sigma in sigmas]
    known, widths = voxel_size[-(ndim - 1) :], fwhm[-(ndim - 1) :]
    if not all(known):
        raise ValueError(
            f"fwhm is {tuple(fwhm)} µm but voxel_size is {tuple(voxel_size)}: a blur in µm needs voxels of known size. "
            "State the voxel size, or leave fwhm out."
        )
    sigma = tuple(width / FWHM_OF_SIGMA / size for width, size in zip(widths, known, strict=True))
    return [(f"blur {' x '.join(f'{width:.3g}' for width in widths)} µm", sigma)]


def _richardson_lucy(image, sigma, num_iterations):
    """Estimate x >= 0 such that the blurred x and the background together are close to the image.

    The Gaussian, mirrored at the borders, is its own transpose, and the sum of its weights is 1.
    """
    background = _background(image)
    photons = np.maximum(image + background, 0)
    estimate = np.broadcast_to(photons.mean(axis=tuple(range(image.ndim - 1))), image.shape)
    for _ in range(num_iterations):
        expected = np.maximum(_gaussian(estimate, sigma) + background, 1e-6)
        estimate = estimate * _gaussian(photons / expected, sigma)
    return estimate


def _background(image):
    """What makes (nearly) all values of a channel positive, (C,)."""
    low = np.percentile(image, 0.1, axis=tuple(range(image.ndim - 1)))
    return np.maximum(-low, 0).astype(np.float32)


# Non-local means


def _nl_means(image, strength):
    from skimage.restoration import denoise_nl_means

    background = _background(image)
    roots = np.sqrt(np.maximum(image + background, 0))
    restored = np.empty_like(image)
    for channel in range(image.shape[-1]):
        root = roots[..., channel]
        noise = _estimate_noise(root)
        result = denoise_nl_means(root, patch_size=5, patch_distance=3, h=strength * noise, sigma=noise)
        restored[..., channel] = result.reshape(root.shape)  # scikit-image drops the axis of a single plane
    return restored**2 - background


def _estimate_noise(image):
    """Standard deviation from the finest diagonal details of planes: half of a - b - c + d over 2 x 2 voxels."""
    details = np.diff(np.diff(image, axis=-1), axis=-2) / 2
    return max(float(np.median(np.abs(details))) / 0.6745, 1e-6)  # 0.6745: median of |normal|
