"""What an exported network takes from one image: its range and noise, and a tile to test with."""

from typing import NamedTuple

import numpy as np

from rcan.data.views import open_network_view
from rcan.intensity import INPUT_CHANNELS, Stabilisation, denormalise, find_stabilisation
from rcan.io.opening import open_volume
from rcan.precision import with_precision
from rcan.regions import region_at
from rcan.restoration.engine import KerasEngine
from rcan.run_folder.architecture import grid_of

__all__ = ["ImageFacts", "measure_image"]

_LARGEST_TILE = 96  # voxels along an axis
_TRIED = 3  # places of the tile along each axis


class ImageFacts(NamedTuple):
    """Facts of an image, as `rcan apply` measures them, and a tile of it, restored as `rcan apply` does."""

    name: str  # of the file
    ranges: np.ndarray  # grey values of 0 and 1, (C, 2)
    stabilisation: Stabilisation | None  # None for a network whose input is not stabilised
    shape: tuple  # of the image, (Z, Y, X) or (Y, X)
    raw: np.ndarray  # the tile, (Z, Y, X, C) or (Y, X, C), grey values, float32
    restored: np.ndarray  # the same by the network in float32, in grey values
    voxel_size: tuple  # of the spatial axes of the tile, in µm; None where not known
    channel_names: tuple | None


def measure_image(path, model, record, *, axes=None, channels=None):
    """Measure an image, and restore the tile of it that has the most contrast of some.

    `model` and `record` are those of `rcan.load_model`. A ValueError or OSError says that the image cannot be read,
    does not fit the network, is constant or too small.
    """
    ndim, num_channels = len(model.input_shape) - 2, model.input_shape[-1] // INPUT_CHANNELS[record.normalization]
    with open_volume(path, axes=axes) as volume:
        view = open_network_view(volume, ndim=ndim, num_channels=num_channels, channels=channels, **record.scaling)
        if len(view.channels) != num_channels:
            raise ValueError(
                f"{path} has {len(view.channels)} channels and the network restores one at a time: choose one with "
                "--channels 0."
            )
        number = next(number for number in range(len(view.frames)) if not view.is_blank(number))
        normalised = _read_tile(view, number, _tile_shape(path, view.volume.shape[:-1], grid_of(model)))
        engine = KerasEngine(with_precision(model, "float32"))
        restored = engine(view.as_input(number, normalised))
        ranges = view.range_of(number)
        raw = denormalise(normalised, ranges)
        stabilisation = None
        if view.is_stabilised:
            stabilisation = find_stabilisation(view.scaled_noise(number), record.noise_range)
        names = volume.channel_names
        return ImageFacts(
            name=volume.path.name,
            ranges=ranges,
            stabilisation=stabilisation,
            shape=view.volume.shape[:-1],
            raw=np.rint(raw) if volume.dtype.kind in "iu" else raw,
            restored=denormalise(restored, ranges[np.minimum(np.arange(restored.shape[-1]), len(ranges) - 1)]),
            voxel_size=volume.voxel_size[-ndim:],
            channel_names=names and tuple(names[channel] for channel in view.channels),
        )


def _tile_shape(path, shape, grid):
    """Spatial shape of the tile: multiples of the grid, as large as the image and the limit allow."""
    tile = tuple(min(size, _LARGEST_TILE) // step * step for size, step in zip(shape, grid, strict=True))
    if not all(tile):
        sizes, least = ("x".join(map(str, sizes)) for sizes in (shape, grid))
        raise ValueError(f"{path} has {sizes} voxels, but the network needs at least {least}: name a larger image.")
    return tile


def _read_tile(view, number, tile_shape):
    """The tile of a frame whose values vary most, normalised."""
    shape = view.volume.shape[:-1]
    ends = [np.linspace(0, size - side, _TRIED).astype(int) for size, side in zip(shape, tile_shape, strict=True)]
    starts = np.unique(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, len(shape)), axis=0)
    tiles = (view.read(number, region_at(map(int, start), tile_shape)) for start in starts)
    return max(tiles, key=np.std)
