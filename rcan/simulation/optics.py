"""The optics: how wide a point is in an image, and the blur that makes it so."""

import math

import numpy as np
from scipy import ndimage

__all__ = ["FWHM_OF_SIGMA", "blur", "gaussian_widths", "require_zyx"]

FWHM_OF_SIGMA = math.sqrt(8 * math.log(2))  # 2.3548, of a Gaussian


def gaussian_widths(numerical_aperture=1.4, wavelength=0.52, refractive_index=1.515):
    """Full widths at half maximum, (Z, Y, X) in µm, of the Gaussian nearest to a wide-field microscope's focus.

    The Gaussian and the diffraction-limited focus (scalar Debye integral) agree to second order around the
    centre [1]_. A Gaussian has no haze far out of focus: it stands for optically sectioned or deconvolved images.

    Parameters
    ----------
    numerical_aperture : float
        Above 0 and below the refractive index, else a ValueError.
    wavelength : float
        Of the emitted light in vacuum, in µm, above 0.
    refractive_index : float
        Of the immersion medium; the specimen is taken to match it.

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
    return tuple(FWHM_OF_SIGMA * sigma for sigma in (axial, lateral, lateral))


def blur(density, *, fwhm, voxel_size, factor=1, source_blur=0):
    """Blur with a Gaussian until points are `factor` times as wide as the sharp optics would leave them.

    Squared widths of Gaussians add up: an image whose points are `source_blur` times as wide still lacks
    ``fwhm * sqrt(factor**2 - source_blur**2)``.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
        Mirrored at its borders, so that its sum stays the same.
    fwhm : tuple of float
        Full width at half maximum of a point in the sharp image, in µm, (Z, Y, X); 0 leaves an axis as it is.
    voxel_size : tuple of float
        In µm, (Z, Y, X).
    factor, source_blur : float
        Width of a point in the result and in `density`, in units of `fwhm`: in `density` 0 of a phantom, 1 of a sharp
        image. A ValueError says where the factor is the smaller one.

    Examples
    --------
    >>> point = np.zeros((1, 1, 5, 1))
    >>> point[0, 0, 2] = 1
    >>> blur(point, fwhm=(0, 0, 0.2), voxel_size=(0.3, 0.1, 0.1)).ravel().round(2)
    array([0.03, 0.23, 0.47, 0.23, 0.03], dtype=float32)
    """
    require_zyx("voxel_size", voxel_size, unit="µm")
    require_zyx("fwhm", fwhm, unit="µm", or_zero=True)
    if not 0 <= source_blur <= factor:
        raise ValueError(
            f"factor is {factor} but the image is blurred by {source_blur} already: the factor must be at least "
            "that, and neither may be below 0. Blurring cannot sharpen; raise the factor."
        )
    missing = math.sqrt(factor**2 - source_blur**2) / FWHM_OF_SIGMA
    sigma = missing * np.asarray(fwhm) / np.asarray(voxel_size)  # voxels
    return ndimage.gaussian_filter(np.asarray(density, np.float32), (*sigma, 0), mode="reflect")


def require_zyx(name, values, *, unit, or_zero=False):
    """Check that `values` are three numbers above 0 (or 0 and more); a ValueError names them and their unit."""
    values = np.asarray(values)
    if values.shape != (3,) or not np.all(values >= 0 if or_zero else values > 0):
        rule = "0 or more" if or_zero else "above 0"
        raise ValueError(f"{name} is {values.tolist()}: give three numbers {rule} for (Z, Y, X), in {unit}.")
