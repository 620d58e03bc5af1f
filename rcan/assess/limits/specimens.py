"""Test samples: ground truth, and the density of fluorophores that it is an image of.

They are phantoms, or parts of a user's sharp images.
"""

import itertools
import warnings
from dataclasses import dataclass

import numpy as np

from rcan.atomic_io import printable_name
from rcan.fingerprint.measure import SIGNAL_PERCENTILES
from rcan.intensity import normalise
from rcan.io.opening import open_volume
from rcan.ranges import percentile_range
from rcan.regions import split_from_centre
from rcan.simulation.optics import blur
from rcan.simulation.phantoms import make_phantom

__all__ = ["Specimen", "choose_specimens", "cut_specimens", "draw_specimens", "range_of"]

_LEAST_SIGNAL = 0.5  # percentile 99.9 of a part's density, where the volume's is 1; darker parts show nothing


@dataclass(frozen=True)
class Specimen:
    """Ground truth, and the density that is exposed, each (Z, Y, X, C)."""

    name: str
    density: np.ndarray  # background 0, signal about 1
    gt: np.ndarray  # background 0 and signal 1 by the network's percentiles
    voxel_size: tuple  # (Z, Y, X), µm
    source_blur: int  # width of a point in `density`, in units of the sharp optics': 0 of a phantom, 1 of a real volume


def choose_specimens(options, settings, paths, count, *, series=0):
    """Draw `count` phantoms where `paths` is None, or cut parts of images: a list of `Specimen`, and sentences on them.

    `series` is that of random numbers: phantoms to learn from and to test on differ.
    """
    size, fwhm = "x".join(map(str, options.shape)), settings.microscope.fwhm
    shared = {"shape": options.shape, "percentiles": settings.percentiles}
    if paths is None:
        voxel_size = settings.voxel_size
        specimens = draw_specimens(
            count, kind=options.phantoms, voxel_size=voxel_size, fwhm=fwhm, seed=(options.seed, series), **shared
        )
        microns = "x".join(f"{length:g}" for length in voxel_size)
        kind = f"{options.phantoms} phantoms of {size} voxels (Z, Y, X) of {microns} µm"
        return specimens, [f"{count} {kind} are exposed at each step."]
    specimens = cut_specimens(paths, count, axes=options.axes, voxel_size=options.voxel_size, **shared)
    point, voxel = fwhm[-1], max(specimen.voxel_size[-1] for specimen in specimens)
    if point < voxel:
        warnings.warn(
            f"a point of {point:.2g} µm is narrower than a voxel of {voxel:.2g} µm, and its blur hardly shows: say "
            "with --fwhm how wide a point is in the images.",
            stacklevel=2,
        )
    images = f"{len(paths)} images" if len(paths) > 1 else printable_name(paths[0])
    parts = f"{len(specimens)} part{'s' * (len(specimens) > 1)}"
    notes = [
        f"{count} exposures at each step, of {parts} of {images} of at most {size} voxels (Z, Y, X), "
        f"of time-lapses the frame in the middle: {', '.join(specimen.name for specimen in specimens)}."
    ]
    if len(specimens) < count:
        notes.append("Exposures of one part differ in noise alone, and the intervals with them.")
    return specimens, notes


def draw_specimens(count, *, kind, shape, voxel_size, fwhm, percentiles, seed):
    """Draw phantoms as specimens: the same with the same seed, a sequence of int.

    `kind`, `shape` and `voxel_size` are those of `make_phantom`, `fwhm` is that of a point in the ground truth in µm,
    and `percentiles` become 0 and 1 in it.
    """
    specimens = []
    for number in range(count):
        rng = np.random.default_rng((*seed, number))
        density = make_phantom(kind, shape, voxel_size=voxel_size, rng=rng)
        sharp = blur(density, fwhm=fwhm, voxel_size=voxel_size)
        gt = normalise(sharp, range_of(sharp, percentiles, f"phantom {number}"))
        specimens.append(Specimen(f"{kind}_{number:03d}", density, gt, tuple(voxel_size), 0))
    return specimens


def cut_specimens(paths, count, *, shape, percentiles, axes=None, voxel_size=None):
    """Cut parts of sharp volumes as specimens: at least one and at most `count`, all of one number of channels.

    The central part of each volume, of `shape` (Z, Y, X) or cut down to the volume, comes first, then the parts around
    it, of each volume in turn; parts without signal are skipped. Of a time-lapse the frame in the middle is taken. The
    percentiles of the whole volume become 0 and 1 in the ground truth. Axes and voxel size, (Z, Y, X) in µm, are given
    where the files do not. A ValueError or OSError says which file cannot be read, does not give its voxel size, is
    nearly constant, or has other channels.
    """
    cut = (_parts(path, shape, percentiles, axes, voxel_size) for path in paths[:count])
    rounds = itertools.zip_longest(*cut)
    found = (specimen for turn in rounds for specimen in turn if specimen)
    specimens = list(itertools.islice(found, count))
    if not specimens:
        raise ValueError(
            f"{paths[0]} has no part of {'x'.join(map(str, shape))} voxels with signal: name a larger --shape, or "
            "another image."
        )
    channels = specimens[0].gt.shape[-1]
    for specimen in specimens:
        if specimen.gt.shape[-1] != channels:
            raise ValueError(
                f"{specimen.name} has {specimen.gt.shape[-1]} channels, {specimens[0].name} has {channels}: all must "
                "have as many. Name them in separate calls."
            )
    return specimens


def _parts(path, shape, percentiles, axes, voxel_size):
    """Parts of one volume that have signal, from its centre outwards."""
    volume = open_volume(path, axes=axes)
    voxel_size = voxel_size or volume.voxel_size
    if None in voxel_size:
        raise ValueError(f"{path} does not give its voxel size: name it in µm with --voxel_size Z,Y,X.")
    frames = [volume.frames[len(volume.frames) // 2]]
    ranges = percentile_range(volume, SIGNAL_PERCENTILES, frames=frames)
    gt_ranges = ranges
    if tuple(percentiles) != SIGNAL_PERCENTILES:
        gt_ranges = percentile_range(volume, percentiles, frames=frames)
    for region in split_from_centre(volume.shape[:-1], shape):
        block = volume.read(frames[0], region, dtype=None)
        density = np.maximum(normalise(block, ranges), 0)
        if np.percentile(density, SIGNAL_PERCENTILES[1]) < _LEAST_SIGNAL:
            continue
        where = ",".join(f"{part.start}:{part.stop}" for part in region)
        name = printable_name(volume.path)
        name = name if density.shape == volume.shape else f"{name}[{where}]"
        yield Specimen(name, density, normalise(block, gt_ranges), tuple(voxel_size), 1)


def range_of(image, percentiles, name):
    """Grey values (C, 2) at two percentiles of each channel of an image in memory; `name` is for the error.

    `rcan.ranges.percentile_range` gives the same of a file.
    """
    ranges = np.percentile(image, percentiles, axis=(0, 1, 2)).T  # (C, 2)
    if not np.all(ranges[:, 1] > ranges[:, 0]):
        raise ValueError(
            f"{name} is the same grey value nearly everywhere, and cannot be normalised: leave out so few photons, or "
            "name a larger --shape."
        )
    return ranges
