"""What limits are measured on: ground truth, and the density of fluorophores that it is an image of.

Phantoms, or parts of a user's sharp images.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from rcan.atomic_io import printable_name
from rcan.intensity import normalise, percentile_range
from rcan.io.opening import open_volume
from rcan.regions import split_from_centre
from rcan.simulation.microscope import blur
from rcan.simulation.phantoms import make_phantom

__all__ = ["Specimen", "cut_specimens", "draw_specimens", "range_of"]

_PERCENTILES = (2, 99.9)  # that become 0 and 1 in the density of a real volume, as in `density_from_image`
_LEAST_SIGNAL = (
    0.5  # percentile 99.9 of a part's density, where the volume's is 1; a part without signal shows nothing
)


@dataclass(frozen=True)
class Specimen:
    """Ground truth, and the density that is exposed.

    Attributes
    ----------
    name : str
    density : ndarray of shape (Z, Y, X, C)
        Background 0, signal about 1.
    gt : ndarray of shape (Z, Y, X, C)
        Background 0 and signal 1 by the network's percentiles.
    voxel_size : tuple of float
        In µm, (Z, Y, X).
    already : int
        Width of a point in `density`, in units of the sharp optics': 0 of a phantom, 1 of a real volume.
    """

    name: str
    density: np.ndarray
    gt: np.ndarray
    voxel_size: tuple
    already: int


def draw_specimens(count, *, kind, shape, voxel_size, fwhm, percentiles, seed):
    """Phantoms as specimens.

    Parameters
    ----------
    count : int
    kind, shape, voxel_size
        As `rcan.simulation.make_phantom`.
    fwhm : tuple of float
        Of a point in the ground truth, in µm, (Z, Y, X).
    percentiles : tuple of float
        That become 0 and 1 in the ground truth.
    seed : sequence of int
        The same seed gives the same phantoms.

    Returns
    -------
    specimens : list of Specimen
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
    """Parts of sharp volumes as specimens.

    The central part of each volume comes first, then the parts around it, of each volume in turn; parts without signal
    are passed over. Of a time-lapse the frame in the middle is taken.

    Parameters
    ----------
    paths : list of Path
    count : int
        Most specimens.
    shape : tuple of int
        Voxels of a part, (Z, Y, X), cut down to the volume.
    percentiles : tuple of float
        That become 0 and 1 in the ground truth, of the whole volume.
    axes : str, optional
        Of the files, where their metadata is wrong.
    voxel_size : tuple of float, optional
        In µm, (Z, Y, X), where the files do not give it.

    Returns
    -------
    specimens : list of Specimen
        At least one, all of one number of channels.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, does not give its voxel size, is nearly constant, or has other channels.
    """
    cut = (_parts(path, shape, percentiles, axes, voxel_size) for path in paths[:count])
    rounds = itertools.zip_longest(*cut)
    found = (specimen for turn in rounds for specimen in turn if specimen)
    specimens = list(itertools.islice(found, count))
    if not specimens:
        raise ValueError(
            f"{paths[0]} has no part of {_by(shape)} voxels with signal: name a larger --shape, or another image."
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
    ranges = percentile_range(volume, _PERCENTILES, frames=frames)
    gt_ranges = ranges
    if tuple(percentiles) != _PERCENTILES:
        gt_ranges = percentile_range(volume, percentiles, frames=frames)
    for region in split_from_centre(volume.shape[:-1], shape):
        block = volume.read(frames[0], region, dtype=None)
        density = np.maximum(normalise(block, ranges), 0)
        if np.percentile(density, _PERCENTILES[1]) < _LEAST_SIGNAL:
            continue
        where = ",".join(f"{part.start}:{part.stop}" for part in region)
        name = printable_name(volume.path)
        name = name if density.shape == volume.shape else f"{name}[{where}]"
        yield Specimen(name, density, normalise(block, gt_ranges), tuple(voxel_size), 1)


def range_of(image, percentiles, what):
    """Grey values at two percentiles of each channel, as `rcan.intensity.percentile_range` gives them of a file.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
    percentiles : tuple of float
    what : str
        Names the image in the error.

    Returns
    -------
    range : ndarray of shape (C, 2)

    Raises
    ------
    ValueError
        If both percentiles of a channel are the same grey value.
    """
    ranges = np.percentile(image, percentiles, axis=(0, 1, 2)).T  # (C, 2)
    if not np.all(ranges[:, 1] > ranges[:, 0]):
        raise ValueError(
            f"{what} is the same grey value nearly everywhere, and cannot be normalised: leave out so few photons, or "
            "name a larger --shape."
        )
    return ranges


def _by(shape):
    return "x".join(map(str, shape))
