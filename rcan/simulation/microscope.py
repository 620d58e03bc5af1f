"""From a density to pictures: optics, photons, camera, and pairs of a raw and a sharp picture."""

import math
import warnings

import numpy as np
from scipy import ndimage

from rcan.intensity import normalise, to_dtype
from rcan.simulation.phantoms import require_zyx

__all__ = ["blur", "degrade", "density_from_image", "expose", "gaussian_widths", "simulate_pair"]

_FWHM_OF_SIGMA = math.sqrt(8 * math.log(2))  # 2.3548, of a Gaussian
_GT_SCALE = 20_000  # grey value of signal 1 in the ground truth of a phantom
_WHITE = 65_535  # highest grey value of a camera
_TOLERATED_NEGATIVE = 0.001  # share of the voxels: so few change no mean that matters


def gaussian_widths(numerical_aperture=1.4, wavelength=0.52, refractive_index=1.515):
    """Full widths at half maximum of the Gaussian nearest to a wide-field microscope's focus.

    The Gaussian and the diffraction-limited focus (scalar Debye integral) agree to second order around the
    centre [1]_. A Gaussian has no haze far out of focus: it stands for optically sectioned or deconvolved
    images.

    Parameters
    ----------
    numerical_aperture : float
        Above 0 and below the refractive index.
    wavelength : float
        Of the emitted light in vacuum, in µm.
    refractive_index : float
        Of the immersion medium; the specimen is taken to match it.

    Returns
    -------
    fwhm : tuple of float
        In µm, (Z, Y, X): the axial width and twice the lateral one.

    Raises
    ------
    ValueError
        If the aperture or the wavelength is out of range.

    References
    ----------
    .. [1] Zhang, Zerubia, Olivo-Marin, Appl. Opt. 46, 1819 (2007), doi:10.1364/AO.46.001819: the
       three-dimensional, nonparaxial wide-field case

    Examples
    --------
    >>> [round(width, 3) for width in gaussian_widths(1.4, 0.52, 1.515)]
    [0.516, 0.19, 0.19]
    """
    if not wavelength > 0:
        raise ValueError(f"wavelength is {wavelength}: it must be above 0, in µm. Green light has 0.52.")
    if not 0 < numerical_aperture < refractive_index:
        raise ValueError(
            f"numerical_aperture is {numerical_aperture}: it must be above 0 and below the refractive index, "
            f"{refractive_index}. Lower it, or set the index of the immersion (water 1.33, oil 1.515)."
        )
    wavenumber = 2 * np.pi * refractive_index / wavelength  # radians per µm in the medium
    cosine = math.sqrt(1 - (numerical_aperture / refractive_index) ** 2)  # of the steepest ray
    # means over the rays of the pupil, weighted by sqrt(cos θ) sin θ dθ
    weight = (1 - cosine**1.5) / 1.5
    mean_cosine = (1 - cosine**2.5) / 2.5 / weight
    mean_square = (1 - cosine**3.5) / 3.5 / weight
    lateral = 1 / (wavenumber * math.sqrt(1 - mean_square))
    axial = 1 / (wavenumber * math.sqrt(2 * (mean_square - mean_cosine**2)))
    return tuple(_FWHM_OF_SIGMA * sigma for sigma in (axial, lateral, lateral))


def blur(density, *, fwhm, voxel_size, factor=1, already=0):
    """Blur with a Gaussian that leaves points `factor` times as wide as the sharp optics would.

    An image that was taken through optics is blurred `already`. Squared widths of Gaussians add up, so
    it lacks ``fwhm * sqrt(factor**2 - already**2)``.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
    fwhm : tuple of float
        Full width at half maximum of a point in the sharp image, in µm, (Z, Y, X); 0 leaves an axis as it is.
    voxel_size : tuple of float
        In µm, (Z, Y, X).
    factor : float
        Width of a point afterwards, in units of `fwhm`; the paper's study has 2, 3 and 4.
    already : float
        Width of a point before, in units of `fwhm`: 0 for a phantom, 1 for a sharp image.

    Returns
    -------
    blurred : ndarray of shape (Z, Y, X, C), float32
        The volume is mirrored at its borders, so that the sum stays the same.

    Raises
    ------
    ValueError
        If the factor is below `already`, a width is below 0, or a voxel size is not above 0.

    Examples
    --------
    >>> point = np.zeros((1, 1, 5, 1))
    >>> point[0, 0, 2] = 1
    >>> blur(point, fwhm=(0, 0, 0.2), voxel_size=(0.3, 0.1, 0.1)).ravel().round(2)
    array([0.03, 0.23, 0.47, 0.23, 0.03], dtype=float32)
    """
    require_zyx("voxel_size", voxel_size, unit="µm")
    require_zyx("fwhm", fwhm, unit="µm", or_zero=True)
    if not 0 <= already <= factor:
        raise ValueError(
            f"factor is {factor} but the image is blurred by {already} already: the factor must be at least "
            "that, and neither may be below 0. Blurring cannot sharpen; raise the factor."
        )
    missing = math.sqrt(factor**2 - already**2) / _FWHM_OF_SIGMA
    sigma = missing * np.asarray(fwhm) / np.asarray(voxel_size)  # voxels
    return ndimage.gaussian_filter(np.asarray(density, np.float32), (*sigma, 0), mode="reflect")


def expose(image, *, photons, background=2.0, offset=100, gain=2.0, read_noise=1.6, rng):
    """Take a picture: photons arrive at random, the camera amplifies, adds noise and digitises.

    With the expected signal ``S = photons * image``, the grey values are
    ``offset + gain * (Poisson(S + background) + Normal(0, read_noise))``, rounded. Their mean is
    ``offset + gain * (S + background)``, their variance ``gain**2 * (S + background + read_noise**2) + 1/12``
    (1/12 is the rounding), and the signal-to-noise ratio is ``S / sqrt(S + background + read_noise**2)``.
    The defaults are typical of a scientific CMOS camera.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
        Relative signal, 0 or more.
    photons : float
        Detected photons expected from signal 1, at each voxel.
    background : float
        Detected photons expected at every voxel besides: stray light, dark current.
    offset : float
        Grey value without light.
    gain : float
        Grey values for each detected photon.
    read_noise : float
        In electrons, root mean square.
    rng : numpy.random.Generator

    Returns
    -------
    picture : ndarray of shape (Z, Y, X, C), uint16
        Grey values; what is brighter than 65535 saturates, what falls below 0 becomes 0.

    Warns
    -----
    UserWarning
        If a voxel saturates, or more than 0.1 % of them fall below 0: their share, and the way out.

    Raises
    ------
    ValueError
        If photons, background, gain or read noise are below 0.

    Examples
    --------
    >>> expose(np.zeros(3), photons=100, background=0, read_noise=0, rng=np.random.default_rng(0))
    array([100, 100, 100], dtype=uint16)
    """
    levels = {"photons": photons, "background": background, "gain": gain, "read_noise": read_noise}
    for name, value in levels.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: it must be 0 or more. Set it to 0 to go without.")
    electrons = rng.poisson(photons * np.asarray(image, np.float64) + background)
    electrons = electrons + rng.normal(0, read_noise, electrons.shape)
    return _digitise(offset + gain * electrons, name="raw", way_out="lower gain, photons or offset")


def _digitise(grey, *, name, way_out):
    """Round and clip to uint16, and warn of what that loses: all above white, and much of the noise below 0."""
    grey = np.rint(grey)
    saturated, negative = np.mean(grey > _WHITE), np.mean(grey < 0)
    if saturated:
        warnings.warn(
            f"{_percent(saturated)} of the {name} voxels saturate at {_WHITE}: {way_out}.", stacklevel=3
        )
    if negative > _TOLERATED_NEGATIVE:
        warnings.warn(
            f"{_percent(negative)} of the {name} voxels fall below 0 and become 0: raise the offset.",
            stacklevel=3,
        )
    return to_dtype(grey, np.uint16)[0]


def _percent(share):
    return f"{100 * share:.2f} %" if share >= 0.0001 else "less than 0.01 %"


def density_from_image(image):
    """Take a real, sharp volume for the density of its specimen: background 0, signal about 1.

    Each channel's percentile 2 becomes 0, as does everything below, and its percentile 99.9 becomes 1;
    brighter voxels stay brighter.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
        Grey values.

    Returns
    -------
    density : ndarray of shape (Z, Y, X, C), float32

    Raises
    ------
    ValueError
        If both percentiles of a channel are the same grey value.

    Examples
    --------
    >>> density_from_image(np.linspace(0, 1000, 1001).reshape(1, 1, -1, 1))[0, 0, [0, 20, 999], 0]
    array([0., 0., 1.], dtype=float32)
    """
    ranges = np.percentile(image, (2, 99.9), axis=(0, 1, 2)).T  # (C, 2)
    for channel, (low, high) in enumerate(ranges):
        if not high > low:
            raise ValueError(
                f"channel {channel} of the image has {low:g} at percentile 2 and {high:g} at 99.9: they must "
                "differ to tell signal from background. The image is nearly constant; choose another one."
            )
    return np.maximum(normalise(image, ranges), 0)


def degrade(density, *, voxel_size, fwhm, photons, blur_factor=2, already=0, rng, **camera):
    """Raw image of a density: blurred beyond the sharp optics and exposed to few photons.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
        A phantom, or a real volume from `density_from_image` with ``already=1``.
    voxel_size, fwhm : tuple of float
        In µm, (Z, Y, X): of the voxels, and of a point in the sharp image.
    photons : float
        Detected photons expected from density 1.
    blur_factor, already : float
        Width of a point in the raw image and in `density`, in units of `fwhm`; see `blur`.
    rng : numpy.random.Generator
    **camera
        `background`, `offset`, `gain` and `read_noise` of `expose`.

    Returns
    -------
    raw : ndarray of shape (Z, Y, X, C), uint16

    Raises
    ------
    ValueError
        As `blur` and `expose`, whose warnings apply as well.

    Examples
    --------
    >>> sharp = density_from_image(np.random.default_rng(0).normal(100, 10, (4, 8, 8, 1)))
    >>> degrade(sharp, voxel_size=(0.3, 0.1, 0.1), fwhm=(0.5, 0.2, 0.2), photons=20, blur_factor=3, already=1,
    ...         rng=np.random.default_rng(0)).dtype
    dtype('uint16')
    """
    blurred = blur(density, fwhm=fwhm, voxel_size=voxel_size, factor=blur_factor, already=already)
    return expose(blurred, photons=photons, rng=rng, **camera)


def simulate_pair(density, *, voxel_size, fwhm, photons, blur_factor=2, rng, **camera):
    """Raw and ground-truth image of the same phantom: blurred and noisy, sharp and free of noise.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
        From `make_phantom`; signal 1 has grey value 20000 in the ground truth.
    voxel_size, fwhm : tuple of float
        In µm, (Z, Y, X): of the voxels, and of a point in the ground truth.
    photons : float
        Detected photons expected from density 1 in the raw image.
    blur_factor : float
        Width of a point in the raw image, in units of `fwhm`: 1 for noise alone, 2, 3 and 4 in the paper's
        study.
    rng : numpy.random.Generator
    **camera
        `background`, `offset`, `gain` and `read_noise` of `expose`.

    Returns
    -------
    raw, gt : ndarray of shape (Z, Y, X, C), uint16

    Raises
    ------
    ValueError
        As `blur` and `expose`, whose warnings apply as well.

    Examples
    --------
    >>> from rcan.simulation.phantoms import make_phantom
    >>> rng, voxel_size = np.random.default_rng(0), (0.3, 0.1, 0.1)
    >>> phantom = make_phantom("spheres", (8, 32, 32), voxel_size=voxel_size, rng=rng)
    >>> raw, gt = simulate_pair(phantom, voxel_size=voxel_size, fwhm=gaussian_widths(), photons=20, rng=rng)
    >>> raw.shape, gt.shape
    ((8, 32, 32, 1), (8, 32, 32, 1))
    """
    optics = {"voxel_size": voxel_size, "fwhm": fwhm}
    raw = degrade(density, **optics, photons=photons, blur_factor=blur_factor, rng=rng, **camera)
    gt = _GT_SCALE * blur(density, **optics)
    return raw, _digitise(gt, name="gt", way_out="scale the density to signal 1")
