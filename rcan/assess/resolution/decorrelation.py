"""Image decorrelation analysis: the highest frequency at which one image has structure that is not noise.

The image is correlated with itself after all its Fourier coefficients were set to equal strength and those beyond
a radius to 0 [1]_. Over that radius the correlation rises as long as coefficients are added that are stronger than
noise, and falls after: it peaks at the end of the structure. Structure that is weak against coarser parts of the
image shows in a series of high-pass filters, from weak to strong. The resolution is the inverse of the highest
frequency at which the image or one of the filtered ones peaks: ``2 * pixel / r``, with r in units of Nyquist.

References
----------
.. [1] Descloux, Grussmayer, Radenovic, Nat. Methods 16, 918 (2019), doi:10.1038/s41592-019-0515-7
"""

import dataclasses

import numpy as np
from scipy import signal

from rcan.assess.resolution.sections import DIRECTIONS, cut_sections

__all__ = ["DecorrelationCurves", "decorrelation_curves"]

_NUM_FILTERS = 10  # of each of the two series, the second one around the best of the first
_FINEST = 0.15  # pixels: width of the strongest high-pass filter
_COARSEST = 2  # pixels, over the peak of the image itself in units of Nyquist: that of the weakest
_LEAST_HEIGHT = 0.05  # of a peak; noise alone has lower ones
_LEAST_DROP = 0.0005  # of the correlation beyond a peak; where it only rises, there is no peak


@dataclasses.dataclass(frozen=True)
class DecorrelationCurves:
    """Decorrelation curves of an image and of its high-pass filtered versions."""

    frequencies: np.ndarray  # (rings,), cycles/µm, up to Nyquist
    widths: np.ndarray  # (filters,), µm: sigma of the Gaussian that is subtracted; infinite for the image, the first
    correlations: np.ndarray  # (filters, rings)
    peaks: np.ndarray  # (filters, 2): frequency and height of the peak; NaN where there is none
    resolution: float | None  # µm; None if no curve has a peak


def decorrelation_curves(image, voxel_size):
    """Decorrelation curves of an image, ``lateral`` and ``axial``.

    None where a voxel size is unknown or an axis has fewer than 16 voxels.
    """
    return {direction: _analyse(cut_sections([image], voxel_size, direction)) for direction in DIRECTIONS}


def _analyse(sections):
    sums = 0
    for rings, (section,) in sections:
        strength = abs(rings.transform(section))
        sums = sums + np.stack([rings.sum(strength), rings.sum(strength**2), rings.counts])
    if np.ndim(sums) == 0:
        return None
    frequencies, nyquist = rings.frequencies, rings.frequencies[-1]
    start = _find_peak(frequencies, _decorrelate(frequencies, sums, np.inf))[0]
    start = frequencies[rings.first] if np.isnan(start) else start
    coarse = np.geomspace(_COARSEST * nyquist / start, _FINEST, _NUM_FILTERS) * 0.5 / nyquist
    peaks = [_find_peak(frequencies, _decorrelate(frequencies, sums, width))[0] for width in coarse]
    best = np.argmax(np.nan_to_num(peaks))
    around = coarse[[max(best - 1, 0), min(best + 1, _NUM_FILTERS - 1)]]

    widths = np.array([np.inf, *sorted({*coarse, *np.geomspace(*around, _NUM_FILTERS)}, reverse=True)])
    correlations = np.stack([_decorrelate(frequencies, sums, width) for width in widths])
    peaks = np.array([_find_peak(frequencies, correlation) for correlation in correlations])
    highest = np.nan_to_num(peaks[:, 0]).max()
    return DecorrelationCurves(frequencies, widths, correlations, peaks, float(1 / highest) if highest > 0 else None)


def _decorrelate(frequencies, sums, width):
    """Correlation over radius of the image, filtered, with itself of equal strength within the radius."""
    strength, power, counts = sums
    kept = 1 - np.exp(-2 * (np.pi * frequencies * width) ** 2)  # transfer function of the high-pass filter
    norm = np.sqrt(np.sum(kept**2 * power) * np.cumsum(counts))
    return np.divide(np.cumsum(kept * strength), norm, out=np.zeros_like(norm), where=norm != 0)


def _find_peak(frequencies, correlation):
    """Frequency and height of the highest peak, between the rings; not a number where there is none."""
    peaks, _ = signal.find_peaks(correlation, height=_LEAST_HEIGHT, prominence=_LEAST_DROP)
    if not len(peaks):
        return np.nan, np.nan
    peak = peaks[np.argmax(correlation[peaks])]
    before, top, after = correlation[peak - 1 : peak + 2]
    shift = 0.5 * (before - after) / (before - 2 * top + after)  # of the parabola through the three
    return frequencies[peak] + shift * (frequencies[1] - frequencies[0]), top - 0.25 * (before - after) * shift
