"""What a network makes of images without structure.

Three null images are restored beside the real one:

* ``noise``: background and the noise of the camera, nothing else;
* ``flat``: an even brightness, halfway between background and signal, with the noise that goes with it;
* ``shuffled``: the real raw volume with its Fourier phases drawn anew, as in the surrogates of [1]_: the same power at
  every spatial frequency, but nothing in its place.

A null image is given to the network in the unit of the real volume, where background is 0 and signal 1. An image
without a specimen that is restored alone is normalised by its own percentiles, which stretch noise to the contrast of
a signal: this is measured, too (``stretched``).

The number is a *contrast*: the standard deviation of the result, less its slow variation, over that of the ground
truth. Results are in the unit of the ground truth, by the line that matches the real result to it. 0 is nothing, 1 as
much structure as the specimen has. Noise never vanishes altogether: compare the number with that of the best Gaussian
filter, which is linear, and averages noise but cannot invent anything. Of the shuffled volume, which has fluctuations
of all sizes, a linear filter leaves about as much as of the real one; a network that makes more of it takes texture
for specimen. The ``brightest`` voxels, the 99.9th percentile above the median, show structure that is rare and bright
and hardly changes a standard deviation.

References
----------
.. [1] Theiler et al., Testing for nonlinearity in time series: the method of surrogate data, Physica D 58, 77 (1992),
   doi:10.1016/0167-2789(92)90102-S
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from rcan.data.views import NetworkView, view_image
from rcan.fingerprint.noise import estimate_noise
from rcan.intensity import fit_affine
from rcan.io.array import volume_of_array
from rcan.regions import central_region, count_voxels, whole_region
from rcan.scores import enlarge

__all__ = [
    "NULLS",
    "Filter",
    "NullResult",
    "best_gaussian",
    "classical_filter",
    "make_nulls",
    "measure_contrast",
    "measure_nulls",
    "null_voxels",
    "run_null_tests",
    "shuffle_phases",
]

NULLS = {"noise": "noise alone", "flat": "flat field", "shuffled": "shuffled phases"}
_FLAT_LEVEL = 0.5  # between background and signal
_SLOW = 8  # voxels: the sigma of what counts as slow variation
_MARGIN = 8  # voxels at the border, where a network sees zeros beyond the image
_BRIGHTEST = 99.9  # percentile
_MOST_PAIRS = 3
_MOST_VOXELS = 2**19  # of the ground truth, of a pair
_SIGMAS = 0, 0.5, 0.75, 1, 1.5, 2, 3  # voxels


class NullResult(NamedTuple):
    """What a filter makes of a null image; `stretched`, of that image restored alone: None for the real image."""

    contrast: float
    brightest: float
    stretched_contrast: float | None = None
    stretched_brightest: float | None = None


def make_nulls(raw, *, rng):
    """Make images without structure that have the noise or the spectrum of a raw image.

    `raw` is (Z, Y, X, C) or (Y, X, C), background 0 and signal 1. Its noise is measured, and drawn anew from normal
    distributions. Returns images by the names of `NULLS`.
    """
    noises = [estimate_noise(raw[..., channel]) for channel in range(raw.shape[-1])]
    levels = {"noise": [noise.background for noise in noises], "flat": [_FLAT_LEVEL] * len(noises)}
    nulls = {}
    for name, means in levels.items():
        variances = [noise.variance(mean) for noise, mean in zip(noises, means, strict=True)]
        nulls[name] = (means + np.sqrt(variances) * rng.standard_normal(raw.shape)).astype(np.float32)
    return {**nulls, "shuffled": shuffle_phases(raw, rng=rng)}


def shuffle_phases(image, *, rng):
    """Draw the Fourier phases of an image anew: the power at every spatial frequency stays, on average, and the mean.

    Channels get the same phases. The image is mirrored at its borders, so that opposite borders that differ make no
    streaks.
    """
    space = tuple(range(image.ndim - 1))
    mirrored = np.pad(
        np.asarray(image, np.float32), [(0, size) for size in image.shape[:-1]] + [(0, 0)], mode="symmetric"
    )
    spectrum = np.abs(fft.rfftn(mirrored, axes=space))
    mean = image.mean(axis=space, dtype=np.float64)
    phases = fft.rfftn(rng.standard_normal((*mirrored.shape[:-1], 1), dtype=np.float32), axes=space)
    phases /= np.maximum(np.abs(phases), np.finfo(np.float32).tiny)
    spectrum = spectrum * phases
    spectrum[(0,) * len(space)] = 0
    shuffled = fft.irfftn(spectrum, mirrored.shape[:-1], axes=space)
    return (shuffled[whole_region(image.shape[:-1])] + mean).astype(np.float32)


def measure_contrast(image):
    """Standard deviation of what varies faster than over eight voxels, away from the borders.

    Of several channels, the root of the mean square.
    """
    inside = np.asarray(_inside(image), np.float32)
    fast = inside - ndimage.gaussian_filter(inside, (*(_SLOW,) * (image.ndim - 1), 0), mode="reflect")
    return float(np.sqrt(np.mean(np.var(fast, axis=tuple(range(image.ndim - 1)), dtype=np.float64))))


def _inside(image):
    margins = (min(_MARGIN, size // 4) for size in image.shape[:-1])
    return image[tuple(slice(margin, size - margin) for margin, size in zip(margins, image.shape, strict=False))]


class Filter(NamedTuple):
    """The network, or what it is compared with: a function of a normalised raw image, and one of an image alone.

    The second one gets an image in any unit, and normalises it by itself.
    """

    apply: Callable
    apply_alone: Callable


def measure_nulls(filters, raw, gt, nulls):
    """Measure what filters make of the null images of `make_nulls`.

    `filters` are `Filter`s by name; results of the size of raw are enlarged to that of the ground truth. `raw` and `gt`
    are the real image and its ground truth.

    Returns a `NullResult` by null image and filter, where the null image ``"none"`` is the real one, and the middle
    plane (Y, X) of the first channel of each result in the unit of gt. Filters of the planes are also ``"input"``, in
    the unit of raw, and ``"NAME alone"``, of the image restored alone.
    """
    images, truth = {"none": raw, **nulls}, measure_contrast(gt)
    results = {null: {} for null in images}
    planes = {null: {"input": _middle_plane(enlarge(image, gt.shape))} for null, image in images.items()}
    for name, (apply, apply_alone) in filters.items():
        line = fit_affine([(enlarge(apply(raw), gt.shape), gt)])
        for null, image in images.items():
            result = _in_unit(apply(image), line, gt)
            measured = _measure(result, truth)
            planes[null][name] = _middle_plane(result)
            if null != "none":
                stretched = _in_unit(apply_alone(image), line, gt)
                measured += _measure(stretched, truth)
                planes[null][f"{name} alone"] = _middle_plane(stretched)
            results[null][name] = NullResult(*measured)
    return results, planes


def _in_unit(result, line, gt):
    return (line[:, 0] * enlarge(result, gt.shape) + line[:, 1]).astype(np.float32)


def _measure(result, truth):
    """Contrast, in units of that of the ground truth, and brightest voxels."""
    inside = _inside(result)
    low, high = np.percentile(inside, (50, _BRIGHTEST), axis=tuple(range(inside.ndim - 1)))
    contrast = measure_contrast(result) / truth if truth else np.nan
    return contrast, float(np.max(high - low))


def _middle_plane(image):
    return image[..., 0] if image.ndim == 3 else image[len(image) // 2, ..., 0]


def classical_filter(apply, scaling):
    """Make a `Filter` of a function; it gets images in the ranges that the network has, but not stabilised."""
    return Filter(apply, lambda image: apply(_view_alone(image, scaling).read(0)))


def _view_alone(image, scaling):
    """An image in memory as the network sees it; one that is constant, in the unit that it has."""
    try:
        return view_image(image, **scaling)
    except ValueError:
        return NetworkView(volume_of_array(image), fixed_range=[(0, 1)] * image.shape[-1])


def best_gaussian(raw, gt):
    """The Gaussian filter whose result correlates best with the ground truth, as a function, and its sigma in voxels.

    `raw`, of the channels of `gt`, is enlarged to its size. Tried are none, or 0.5 to 3 voxels laterally and none, half
    or as many axially.
    """
    ratios = (0, 0.5, 1) if gt.ndim == 4 else (0,)
    sigmas = {(ratio * side, side, side, 0)[-gt.ndim :] for side in _SIGMAS for ratio in ratios}

    def smooth(image, sigma):
        """Blur an image on the grid of the ground truth."""
        return ndimage.gaussian_filter(enlarge(np.asarray(image, np.float32), gt.shape), sigma)

    def correlation(sigma):
        """Correlation of the blurred raw image with the ground truth."""
        return np.corrcoef(smooth(raw, sigma).ravel(), gt.ravel())[0, 1]

    best = max(sorted(sigmas), key=correlation)
    return functools.partial(smooth, sigma=best), best[:-1]


def run_null_tests(subjects, restorer, *, scaling, seed, progress):
    """Give a network the null images of at most three pairs, evenly chosen: their first frame, its central part.

    `scaling` is the network's, as of a `TrainingRecord`; `progress` is advanced by `null_voxels`. Returns what
    `measure_nulls` does: medians over the pairs, for the filters ``raw`` and ``best Gaussian`` (where raw and ground
    truth have the same channels) and ``restored``; and the planes of the first pair.
    """
    measured, shown = [], None
    for number, (subject, part) in enumerate(_choose_parts(subjects)):
        raw, gt = subject.read(subject.numbers[0], part)
        filters = {}
        if raw.shape[-1] == gt.shape[-1]:
            filters["raw"] = classical_filter(lambda image: image, scaling)
            filters["best Gaussian"] = classical_filter(best_gaussian(raw, gt)[0], scaling)
        filters["restored"] = _network_filter(restorer, subject, scaling)
        nulls = make_nulls(raw, rng=np.random.default_rng((seed, number)))
        results, planes = measure_nulls(filters, raw, gt, nulls)
        measured.append(results)
        shown = shown or planes
        progress.advance(_count_voxels(part))
    medians = {
        null: {name: _median([results[null][name] for results in measured]) for name in filters}
        for null, filters in measured[0].items()
    }
    return medians, shown


def _network_filter(restorer, subject, scaling):
    """The network as a filter of images in the unit of a subject's first frame."""
    number = subject.numbers[0]
    return Filter(
        lambda image: restorer.restore_array(subject.raw.as_input(number, image)),
        lambda image: restorer.restore_array(_view_alone(image, scaling).read_input(0)),
    )


def _median(results):
    columns = zip(*results, strict=True)
    return NullResult(*(None if None in values else float(np.median(values)) for values in columns))


def null_voxels(subjects):
    """Raw voxels that `run_null_tests` restores."""
    return sum(_count_voxels(part) for _, part in _choose_parts(subjects))


def _count_voxels(part):
    return (1 + 2 * len(NULLS)) * count_voxels(part)


def _choose_parts(subjects):
    """Some pairs, and the part of each that is used."""
    numbers = np.unique(np.linspace(0, len(subjects) - 1, min(_MOST_PAIRS, len(subjects))).round().astype(int))
    shapes = ((subjects[i], subjects[i].raw.shape[:-1]) for i in numbers)
    return [(subject, central_region(shape, _MOST_VOXELS // math.prod(subject.upscaling))) for subject, shape in shapes]
