"""What commands that simulate images ask of optics and camera, and how they tell what the camera loses."""

import warnings
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field

from rcan.options import option

__all__ = [
    "APERTURE",
    "BACKGROUND",
    "GAIN",
    "OFFSET",
    "READ_NOISE",
    "REFRACTIVE_INDEX",
    "WAVELENGTH",
    "Micrometres",
    "PhantomKind",
    "Width",
    "check_sharpness",
    "choose_widths",
    "each_warning_once",
]

Micrometres = Annotated[float, Field(gt=0)]
PhantomKind = Literal["spheres", "hollow", "filaments", "membranes", "mixture"]
Width = Annotated[float, Field(ge=0)]

APERTURE = option(1.4, "numerical aperture of the objective", gt=0)
WAVELENGTH = option(0.52, "wavelength of the emitted light in vacuum, µm", gt=0)
REFRACTIVE_INDEX = option(1.515, "refractive index of the immersion medium: water 1.33, oil 1.515", gt=0)
BACKGROUND = option(
    2, "detected photons that every voxel has besides its signal: stray light, dark current", ge=0
)
OFFSET = option(100, "grey value without light", ge=0)
GAIN = option(2, "grey values for each detected photon", gt=0)
READ_NOISE = option(1.6, "noise of the camera's readout, electrons, root mean square", ge=0)

_OPTICS = ("numerical_aperture", "wavelength", "refractive_index")


def check_sharpness(options):
    """Check that the sharpness of the ground truth is said once, and that the optics can be.

    Parameters
    ----------
    options : Settings
        With `fwhm`, `numerical_aperture`, `wavelength` and `refractive_index`.

    Raises
    ------
    ValueError
        If both a width and the optics are given, or the aperture is not below the refractive index.
    """
    for name in _OPTICS:
        if options.fwhm and name in options.model_fields_set:
            raise ValueError(
                f"--{name} says how sharp the ground truth is, and so does --fwhm: leave one of them out."
            )
    if options.fwhm is None and options.numerical_aperture >= options.refractive_index:
        raise ValueError(
            f"--numerical_aperture is {options.numerical_aperture:g}: it must be below --refractive_index, "
            f"{options.refractive_index:g}."
        )


def choose_widths(options):
    """Full widths at half maximum of a point in the ground truth, in µm, (Z, Y, X): as said, else by the optics.

    Parameters
    ----------
    options : Settings
        As for `check_sharpness`.

    Returns
    -------
    fwhm : tuple of float
    """
    from rcan.simulation.microscope import gaussian_widths

    return options.fwhm or gaussian_widths(*(getattr(options, name) for name in _OPTICS))


@contextmanager
def each_warning_once():
    """Hold warnings back, and give each way out (what is behind the colon) once however many images need it."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for message in {str(warning.message).rpartition(":")[2]: warning.message for warning in caught}.values():
        warnings.warn(message, stacklevel=2)
