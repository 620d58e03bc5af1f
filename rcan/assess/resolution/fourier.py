"""Fourier ring correlation: up to which frequency two exposures of an object agree.

The correlation of two images with independent noise is, ring by ring, ``snr / (1 + snr)``, where ``snr`` is the
signal's power over the noise's at that frequency [1]_. It falls below 1/7 where the signal has 1/6 of the noise's
power. Rings run through all sections together, so that those with more signal weigh more.

A single exposure is split like the squares of a checkerboard [2]_. Each half keeps its pixels' positions and has 0
elsewhere: the halves are not shifted against each other, and their correlation needs no calibration for that. They
have half of the pixels, thus half of the signal-to-noise ratio of the whole; ``2 c / (1 + c)`` is the correlation
that two exposures like the whole would have.

References
----------
.. [1] Nieuwenhuizen et al., Nat. Methods 10, 557 (2013), doi:10.1038/nmeth.2448; Banterle et al., J. Struct. Biol.
   183, 363 (2013), doi:10.1016/j.jsb.2013.05.004
.. [2] Koho et al., Nat. Commun. 10, 3103 (2019), doi:10.1038/s41467-019-11024-z, which also measures stacks along
   z in sectors around the axis; its halves are thinned out to squares instead, and calibrated
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from rcan.assess.resolution.sections import DIRECTIONS, cut_sections

__all__ = ["FourierCurve", "fourier_curves", "single_image_curves"]

_SMOOTHED = 3  # of the frequencies that a single section resolves are averaged; fewer where there are more sections
_SPAN = 1 / 20  # of the curve, at most; as Nieuwenhuizen et al.
_SURE = 3  # standard deviations of the correlation of noise


@dataclasses.dataclass(frozen=True)
class FourierCurve:
    """Fourier ring correlation over frequency, and the resolution read from it.

    The resolution is the inverse of the first frequency at which the correlation falls below the threshold; two voxels
    if it never does, None if the images do not correlate.
    """

    frequencies: np.ndarray  # (rings,), cycles/µm, from twice the lowest one of the image up to Nyquist
    correlation: np.ndarray  # (rings,), smoothed, at most 1
    threshold: float
    resolution: float | None  # µm
    at_limit: bool  # the correlation never falls below the threshold: the sampling limits the resolution


def fourier_curves(one, other, voxel_size, *, threshold=1 / 7):
    """Fourier ring correlation of two exposures of the same object, ``lateral`` and ``axial``.

    None where a voxel size is unknown or an axis has fewer than 16 voxels; a ValueError says where the shapes differ.
    """
    curves = {}
    for direction in DIRECTIONS:
        sections = cut_sections([one, other], voxel_size, direction)
        curves[direction] = _correlate(((rings, pair, 1.0) for rings, pair in sections), threshold)
    return curves


def single_image_curves(image, voxel_size, *, threshold=1 / 7):
    """The same of two exposures like the given one, from its checkerboard halves."""
    return {
        direction: _correlate(_split(image, voxel_size, direction), threshold, share=1 / 2) for direction in DIRECTIONS
    }


def _split(image, voxel_size, direction):
    for rings, (section,) in cut_sections([image], voxel_size, direction):
        is_white = np.indices(section.shape).sum(axis=0) % 2 == 0
        yield rings, (section * is_white, section * ~is_white), rings.checkerboard_band


def _correlate(pairs, threshold, share=1):
    """Correlation of pairs of sections that have `share` of the pixels of an exposure.

    `pairs` yields rings, two sections and the weights of the coefficients.
    """
    sums, num_sections = 0, 0
    for rings, sections, weights in pairs:
        one, other = (weights * rings.transform(section) for section in sections)
        powers = [spectrum.real**2 + spectrum.imag**2 for spectrum in (one, other)]
        cross = one.real * other.real + one.imag * other.imag
        counts = rings.independence * rings.sum(np.broadcast_to(weights, cross.shape))
        sums = sums + np.stack([rings.sum(cross), *map(rings.sum, powers), counts])
        num_sections += 1
    if not num_sections:
        return None
    kept = sums[3] > 0  # the checkerboard's band ends before the last ring
    kept[: rings.first] = False
    frequencies, sums = rings.frequencies[kept], sums[:, kept]

    cross, *powers, _ = sums
    norm = np.sqrt(np.prod(powers, axis=0))
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm != 0)
    width = _SMOOTHED * rings.oversampling / math.sqrt(num_sections)
    width = max(1, min(round(width), int(_SPAN * len(correlation))))
    correlation = ndimage.uniform_filter1d(correlation, width, mode="nearest")
    correlation = np.maximum(correlation, -share / (2 - share))  # which the next line takes to -1
    correlation = correlation / (share + (1 - share) * correlation)

    below = np.flatnonzero(~(correlation >= threshold))  # whatever is not a number, too
    at_limit = not len(below)
    end = len(correlation) - 1 if at_limit else below[0]
    if end == 0 or not _is_sure(sums[:, : end + 1]):
        return FourierCurve(frequencies, correlation, threshold, None, False)
    around = [end, end - 1]
    crossing = np.interp(threshold, correlation[around], frequencies[around])
    limit = rings.frequencies[-1] if at_limit else crossing
    return FourierCurve(frequencies, correlation, threshold, float(1 / limit), at_limit)


def _is_sure(sums):
    """Whether independent noise is unlikely to correlate as the coefficients of all these rings do together."""
    cross, *powers, count = sums.sum(axis=1)
    return cross > _SURE * np.sqrt(np.prod(powers) / count)
