"""The camera: photons become grey values, with noise."""

import warnings
from contextlib import contextmanager

import numpy as np

from rcan.intensity import to_dtype

__all__ = ["digitise", "each_warning_once", "expose"]

_WHITE = 65_535  # highest grey value of a camera
_TOLERATED_NEGATIVE = 0.001  # share of the voxels: so few change no mean that matters


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
        Grey values; what is brighter than 65535 saturates, what falls below 0 becomes 0. A warning says so where a
        voxel saturates, or more than 0.1 % of them fall below 0.

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
    return digitise(offset + gain * electrons, name="raw", way_out="lower gain, photons or offset")


def digitise(grey, *, name, way_out):
    """Round and clip to uint16, and warn of what that loses: all above white, and much of the noise below 0."""
    grey = np.rint(grey)
    saturated, negative = np.mean(grey > _WHITE), np.mean(grey < 0)
    if saturated:
        warnings.warn(f"{_percent(saturated)} of the {name} voxels saturate at {_WHITE}: {way_out}.", stacklevel=3)
    if negative > _TOLERATED_NEGATIVE:
        warnings.warn(
            f"{_percent(negative)} of the {name} voxels fall below 0 and become 0: raise the offset.", stacklevel=3
        )
    return to_dtype(grey, np.uint16)[0]


def _percent(share):
    return f"{100 * share:.2f} %" if share >= 0.0001 else "less than 0.01 %"


@contextmanager
def each_warning_once():
    """Hold warnings back, and give each way out (what is behind the colon) once however many images need it."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for message in {str(warning.message).rpartition(":")[2]: warning.message for warning in caught}.values():
        warnings.warn(message, stacklevel=2)
