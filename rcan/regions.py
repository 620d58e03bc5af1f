"""Boxes of voxels: a region is a tuple of slices with start and stop, one for each axis."""

import itertools
import math

import numpy as np

__all__ = [
    "central_region",
    "chunk_region",
    "count_voxels",
    "cut_into_grid",
    "cut_into_slabs",
    "do_meet",
    "intersect",
    "paste",
    "region_at",
    "region_shape",
    "relative_region",
    "resolve_region",
    "scale_region",
    "shrink_region",
    "split_evenly",
    "split_from_centre",
    "touched_chunks",
    "whole_region",
]


def whole_region(shape):
    """Return the region of all voxels of an array."""
    return tuple(slice(0, size) for size in shape)


def region_at(start, shape):
    """Return the region that begins at a voxel and has a shape."""
    return tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))


def resolve_region(region, shape):
    """Give every slice a start and a stop within an array: None, open ends and negative numbers are resolved."""
    if region is None:
        return whole_region(shape)
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(region, shape, strict=True))


def region_shape(region):
    """Return the number of voxels along each axis."""
    return tuple(part.stop - part.start for part in region)


def count_voxels(region):
    """Return the number of voxels in a region."""
    return math.prod(region_shape(region))


def scale_region(region, factors):
    """Return the region in an array with `factors` voxels for each voxel, such as the ground truth of a raw image.

    >>> scale_region((slice(1, 3), slice(0, 4)), (1, 2))
    (slice(1, 3, None), slice(0, 8, None))
    """
    return tuple(slice(part.start * f, part.stop * f) for part, f in zip(region, factors, strict=True))


def shrink_region(region, factors):
    """Undo `scale_region`; of a region between its voxels, return the smallest one that covers it.

    >>> shrink_region((slice(1, 3), slice(3, 8)), (1, 2))
    (slice(1, 3, None), slice(1, 4, None))
    """
    return tuple(slice(part.start // f, -(-part.stop // f)) for part, f in zip(region, factors, strict=True))


def do_meet(part, other):
    """Whether two slices have a voxel in common."""
    return part.start < other.stop and part.stop > other.start


def intersect(region, other):
    """Return what two regions have in common; a side on which they do not meet has no voxels."""
    limits = [(max(one.start, two.start), min(one.stop, two.stop)) for one, two in zip(region, other, strict=True)]
    return tuple(slice(first, max(first, last)) for first, last in limits)


def relative_region(region, outer):
    """Return a region counted from the start of another one."""
    return tuple(
        slice(part.start - origin.start, part.stop - origin.start) for part, origin in zip(region, outer, strict=True)
    )


def paste(target, region, piece, place):
    """Copy into the array of a region what the array of another place has in common with it."""
    common = intersect(region, place)
    target[relative_region(common, region)] = piece[relative_region(common, place)]


def chunk_region(number, chunk_shape, shape):
    """Return the region of the chunk of a number, (i, j, ...), in an array; chunks at the end may be smaller."""
    places = zip(number, chunk_shape, shape, strict=True)
    return tuple(slice(i * size, min((i + 1) * size, length)) for i, size, length in places)


def touched_chunks(region, chunk_shape):
    """Return the numbers, (i, j, ...), of all chunks that a region touches."""
    sides = zip(region, chunk_shape, strict=True)
    return itertools.product(*(range(part.start // size, -(-part.stop // size)) for part, size in sides))


def cut_into_grid(shape, steps):
    """Cut an array into regions of `steps` voxels along each axis, in storage order; the last ones may be smaller."""
    counts = [range(-(-size // step)) for size, step in zip(shape, steps, strict=True)]
    return [chunk_region(number, steps, shape) for number in itertools.product(*counts)]


def cut_into_slabs(shape, num_voxels):
    """Cut an array into regions of at most `num_voxels` voxels that follow each other in storage.

    >>> cut_into_slabs((3, 4), 8)
    [(slice(0, 2, None), slice(0, 4, None)), (slice(2, 3, None), slice(0, 4, None))]
    """
    steps = list(shape)
    for axis, size in enumerate(shape):
        steps[axis] = max(1, min(size, num_voxels // math.prod(shape[axis + 1 :])))
    return cut_into_grid(shape, steps)


def split_evenly(shape, num_parts):
    """Cut an array into at most `num_parts` regions of nearly equal size, about as long as wide."""
    parts = np.ones(len(shape), int)
    while 2 * parts.prod() <= num_parts and np.max(shape / parts) >= 2:
        parts[np.argmax(shape / parts)] *= 2
    edges = [np.linspace(0, size, part + 1).astype(int) for size, part in zip(shape, parts, strict=True)]
    return [*itertools.product(*([*map(slice, along, along[1:])] for along in edges))]


def split_from_centre(shape, part_shape):
    """Cut an array into regions of one shape, the first in its middle, the others by their distance from it."""
    sides = []
    for size, part in zip(shape, map(min, shape, part_shape), strict=True):
        first = (size - part) // 2 % part
        sides.append([slice(start, start + part) for start in range(first, size - part + 1, part)])

    def distance(region):
        """Squared distance of a region from the centre of the array, in half voxels."""
        return sum((part.start + part.stop - size) ** 2 for part, size in zip(region, shape, strict=True))

    return sorted(itertools.product(*sides), key=distance)


def central_region(shape, most_voxels):
    """Return the middle of an array, at most `most_voxels` voxels and as near to a cube as the array lets it be.

    >>> central_region((10, 100, 200), 10 * 50 * 50)
    (slice(0, 10, None), slice(25, 75, None), slice(75, 125, None))
    """
    side = max(shape)
    while side > 1 and math.prod(min(size, side) for size in shape) > most_voxels:
        side -= 1
    sizes = [min(size, side) for size in shape]
    return region_at([(whole - size) // 2 for whole, size in zip(shape, sizes, strict=True)], sizes)
