"""Volumes as pictures within a page: bounded in size, 8-bit, decoded and drawn by page.js."""

import base64
import math

import imagecodecs
import numpy as np

from rcan.figures.rotation import known_voxel_size, rotate_projections
from rcan.figures.style import MAP
from rcan.regions import count_voxels, region_shape
from rcan.report.text import format_sizes

__all__ = ["turn_volumes", "view_volumes"]

_WHITEST = 1.25  # becomes 255; above it, images are clipped
_MOST_BYTES = 3_000_000  # of the images of a viewer, as text
_TYPICAL_BYTES = 0.6  # of a voxel as text, to begin with
_SPRITE_WIDTH = 4096  # pixels; some browsers draw no more than 4096 x 4096
_NUM_VIEWS = 72  # in a full turn
_TURN_SIZE = 220  # pixels
_ROUND = 1, 2, 5  # first digit of the length of a scale bar


def view_volumes(images, *, voxel_size, error=None):
    """What page.js needs to look through volumes, as JSON; the arguments are those of `Page.viewer`."""
    num_channels = next(iter(images.values())).shape[-1]
    images = {name: _first_channel(image) for name, image in images.items()}
    shape = next(iter(images.values())).shape  # (Z, Y, X)
    layers = dict(images)
    high = 1.0
    if error is not None:
        error = _first_channel(error)
        high = float(np.percentile(error, 99.9)) or 1.0
        layers["error"] = error * (_WHITEST / high)
    most_voxels = _MOST_BYTES / _TYPICAL_BYTES / len(layers)
    while True:
        region = _busiest(images[[*images][-1]], most_voxels)
        sprites = {name: _sprite(_to_bytes(layer[region])) for name, layer in layers.items()}
        size = sum(map(len, sprites.values()))
        if size <= _MOST_BYTES:
            break
        most_voxels = 0.95 * count_voxels(region) * _MOST_BYTES / size
    shown = region_shape(region)
    spacing = known_voxel_size(voxel_size)
    return {
        "shape": shown,
        "voxel": spacing,
        "unit": "µm" if voxel_size[-1] else None,
        "bar": _bar_length(shown[2] * spacing[2]) if voxel_size[-1] else None,
        "columns": _columns(shown[2]),
        "whitest": _WHITEST,
        "images": [{"name": name, "sprite": sprite} for name, sprite in sprites.items()],
        "right": [*images].index("restored") if "restored" in images else min(1, len(images) - 1),
        "error": None if error is None else {"high": high, "colors": _color_table()},
        "notes": list(_notes(shape, num_channels, region, voxel_size)),
    }


def turn_volumes(images, *, voxel_size):
    """What page.js needs to turn volumes, as JSON; the arguments are those of `Page.rotation`.

    The sprites hold the first half of a turn: the other half is its mirror image.
    """
    turned = {}
    for name, image in images.items():
        views = rotate_projections(_first_channel(image), voxel_size, num_views=_NUM_VIEWS, most=_TURN_SIZE)
        turned[name] = views[: _NUM_VIEWS // 2]
    height, width = next(iter(turned.values())).shape[1:]
    return {
        "shape": [_NUM_VIEWS // 2, height, width],
        "columns": _columns(width),
        "images": [
            {"name": name, "sprite": _sprite(np.round(255 * views).astype(np.uint8), lossy=True)}
            for name, views in turned.items()
        ],
    }


def _first_channel(image):
    image = np.asarray(image)[..., 0]
    return image.reshape(-1, *image.shape[-2:])  # (Z, Y, X)


def _to_bytes(image):
    return np.round(np.clip(image / _WHITEST, 0, 1) * 255).astype(np.uint8)


def _busiest(image, most_voxels):
    """The region of at most so many voxels with the most signal, as far as its projections on the axes tell."""
    sizes = list(image.shape)
    if math.prod(sizes) > most_voxels:
        plane = most_voxels / min(sizes[0], max(1, round(most_voxels ** (1 / 3) / 2)))
        sizes[1] = max(1, min(sizes[1], int(max(math.sqrt(plane), plane / sizes[2]))))
        sizes[2] = max(1, min(sizes[2], int(plane / sizes[1])))
        sizes[0] = max(1, min(sizes[0], int(most_voxels / sizes[1] / sizes[2])))
    region = []
    for axis, size in enumerate(sizes):
        others = tuple(other for other in range(3) if other != axis)
        profile = np.square(image, dtype=np.float32).mean(axis=others)
        start = int(np.convolve(profile, np.ones(size), "valid").argmax())
        region.append(slice(start, start + size))
    return tuple(region)


def _columns(width):
    """Planes beside each other in a sprite."""
    return max(1, _SPRITE_WIDTH // width)


def _sprite(planes, *, lossy=False):
    """Planes (N, H, W) of bytes as one picture in rows, as a data URI."""
    count, height, width = planes.shape
    columns = _columns(width)
    rows = -(-count // columns)
    filled = np.zeros((rows * columns, height, width), np.uint8)
    filled[:count] = planes
    picture = filled.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)
    if lossy:
        picture = np.repeat(picture[..., np.newaxis], 3, axis=-1)
        kind, encoded = "webp", imagecodecs.webp_encode(picture, level=80, lossless=False)
    else:
        kind, encoded = "png", imagecodecs.png_encode(np.ascontiguousarray(picture), level=9)
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _bar_length(width):
    """A round length, at most a third of the width."""
    most = width / 3 * (1 + 1e-9)  # a third of 0.3 is less than 0.1 in floating point, its logarithm is not
    step = 10.0 ** math.floor(math.log10(most))
    return max(digit * step for digit in _ROUND if digit * step <= most)


def _color_table():
    """256 colours as hexadecimal digits."""
    from matplotlib import colormaps

    return colormaps[MAP](np.arange(256), bytes=True)[:, :3].tobytes().hex()


def _notes(shape, num_channels, region, voxel_size):
    """What a reader has to know of the part that is shown."""
    shown, first = ([getattr(part, end) for part in region] for end in ("stop", "start"))
    shown = tuple(stop - start for stop, start in zip(shown, first, strict=True))
    if shown != shape:
        yield (
            f"Shown are {format_sizes(shown)} of {format_sizes(shape)} voxels (ZYX), from voxel "
            f"{format_sizes(start + 1 for start in first)} on: the part with the most signal."
        )
    if num_channels > 1:
        yield f"Channel 1 of {num_channels}."
    unknown = [axis for axis, size in zip("zyx", voxel_size, strict=True) if not size and shape["zyx".index(axis)] > 1]
    if unknown:
        yield f"The size of voxels along {' and '.join(unknown)} is not known: their proportions are a guess."
