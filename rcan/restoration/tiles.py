"""How a volume is cut into tiles, and how restored tiles become one volume again.

All tiles of a volume have one shape, lie inside it and are spread evenly, so that nothing is padded and no tile
adds nothing. A network sees zeros beyond the edge of a tile and is wrong near it; neighbours therefore overlap.
Of the overlap the outer voxels of each tile are thrown away, and over a quarter of it, in the middle, one tile
fades into the next. The weights of a tile are a product of one weight for each axis, and on each axis the
weights of all tiles add up to one: the blended volume needs no division.

Tiles are visited in C order. What no later tile touches is handed out at once; what is still to be added to is
kept: the ramps of the current tile, of a row and of a layer of tiles, never a whole volume.

The measurements behind these choices are in docs/tiling.md.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

__all__ = ["Blender", "Cut", "choose_tile", "cut_volume", "ramp_of", "tile_axis"]

RAMP_SHARE = 4  # one tile fades into the next over a quarter of the overlap


class Cut(NamedTuple):
    """One tile along one axis."""

    read: slice  # the tile in the input
    crop: slice  # the part of the restored tile that is used, from the tile's own start
    write: slice  # the place of that part in the output
    weight: np.ndarray  # of each voxel of that part, above 0; sums to one over all tiles


def tile_axis(size, tile, overlap, factor=1, step=1):
    """Cut one axis into tiles, as few as possible, and weigh them so that they blend.

    `tile` is cut down to `size`; neighbours share `overlap` voxels at least; `factor` voxels are written for each
    read. Tiles start at multiples of `step`, and so long are they, too; the last one may be shorter.

    >>> [(cut.read.start, cut.read.stop) for cut in tile_axis(100, tile=64, overlap=8)]
    [(0, 64), (36, 100)]
    >>> [(cut.write.start, cut.write.stop) for cut in tile_axis(100, tile=64, overlap=8)]
    [(0, 51), (49, 100)]
    """
    num_steps = math.ceil(size / step)
    tile = min(math.ceil(tile / step), num_steps)
    overlap = min(math.ceil(overlap / step), tile - 1)
    num_tiles = max(1, math.ceil((num_steps - overlap) / (tile - overlap)))
    starts = [step * (i * (num_steps - tile) // max(1, num_tiles - 1)) for i in range(num_tiles)]
    tile, overlap = step * tile, step * overlap
    middles = [(start + tile + after) // 2 for start, after in itertools.pairwise(starts)]
    steps = (after - middle for middle, after in itertools.pairwise(middles))
    ramp = min(ramp_of(overlap), *steps, size)  # no voxel belongs to more than two tiles
    ramps = [(0, 0), *((middle - ramp // 2, middle - ramp // 2 + ramp) for middle in middles), (size, size)]

    rise = np.arange(1, factor * ramp + 1) / (factor * ramp + 1)
    cuts = []
    for start, ((low, rises), (falls, high)) in zip(starts, itertools.pairwise(ramps), strict=True):
        first, last = factor * low, factor * high
        weight = np.ones(last - first)
        weight[: factor * (rises - low)] = rise[: factor * (rises - low)]
        weight[factor * (falls - low) :] = rise[::-1][: factor * (high - falls)]
        offset = factor * start
        cut = slice(start, min(start + tile, size)), slice(first - offset, last - offset), slice(first, last)
        cuts.append(Cut(*cut, weight.astype(np.float32)))
    return cuts


def cut_volume(shape, tile_shape, overlap, engine):
    """Cut all spatial axes of a volume into tiles that suit an engine: a list of `Cut` for each axis."""
    sides = zip(shape, tile_shape, overlap, engine.factors, engine.grid, strict=True)
    return [tile_axis(*side) for side in sides]


def ramp_of(overlap):
    """Voxels over which one tile fades into the next."""
    return math.ceil(overlap / RAMP_SHARE)


def choose_tile(shape, overlap, *, max_voxels, grid=(1, 1, 1)):
    """Choose the spatial shape of tile that computes the fewest voxels for a volume.

    Equal tiles cover the volume, of sizes that are multiples of `grid`. They are larger than the overlap, even where
    that is more than `max_voxels`.

    >>> choose_tile((32, 512, 512), (16, 16, 16), max_voxels=2**22)
    (32, 264, 264)
    """
    grid = grid[-len(shape) :]
    shape, overlap = ([*map(math.ceil, np.divide(sizes, grid))] for sizes in (shape, overlap))
    candidates = [_tile_sizes(size, shared) for size, shared in zip(shape, overlap, strict=True)]
    indices = np.meshgrid(*(np.arange(len(tiles)) for tiles in candidates), indexing="ij", sparse=True)
    tiles = [sizes[index] for sizes, index in zip(candidates, indices, strict=True)]
    counts = [
        np.ceil((size - shared) / np.maximum(1, tile - shared)).clip(1)
        for size, shared, tile in zip(shape, overlap, tiles, strict=True)
    ]
    voxels = math.prod(tiles) * math.prod(grid)
    computed = np.where(voxels <= max_voxels, voxels * math.prod(counts), np.inf)
    if np.isinf(computed).all():
        computed = voxels  # none is small enough: the smallest
    best = np.unravel_index(np.argmin(computed), computed.shape)
    return tuple(int(sizes[i]) * step for sizes, i, step in zip(candidates, best, grid, strict=True))


def _tile_sizes(size, overlap):
    """Sizes of tile that cover an axis exactly, for each number of tiles, from one to many: at most 64."""
    overlap = min(overlap, size - 1)
    most = max(1, (size - overlap) // (overlap + 1))  # a tile has as many voxels of its own as it shares
    counts = np.unique(np.geomspace(1, most, 64).round())
    return np.unique(np.ceil((size + (counts - 1) * overlap) / counts).astype(np.int64))[::-1]


class Blender:
    """Weighs restored tiles, adds them up, and hands out what is finished. Tiles come in C order of their indices::

    blender = Blender([tile_axis(100, 64, 8)] * 3)
    for index in np.ndindex(*blender.counts):
        region, block = blender.add(index, tiles[index])
    """

    def __init__(self, cuts):
        self.counts = tuple(map(len, cuts))
        self._cuts = cuts
        # What the next tile along each axis has to add, in strips, one for each tile along the axis after it:
        self._next_carry = [{} for _ in cuts]
        # The same, left by the tile, row and layer before; a strip is dropped once it is added:
        self._carry = [{} for _ in cuts]

    def add(self, index, tile):
        """Add one restored tile `(z, y, x, C)`, margins included; returns what no later tile touches.

        That is its region in the output, and its block, float32. The regions of all tiles cover the output once.
        """
        cuts = [axis[i] for axis, i in zip(self._cuts, index, strict=True)]
        tile = tile[tuple(cut.crop for cut in cuts)].astype(np.float32)  # a copy, which is written into
        for axis, cut in enumerate(cuts):
            if cut.weight.min() < 1:
                tile *= cut.weight.reshape((-1,) + (1,) * (tile.ndim - 1 - axis))
        inside = tuple(slice(0, self._length(axis, i)) for axis, i in enumerate(index))
        region = tuple(
            slice(cut.write.start, cut.write.start + part.stop) for cut, part in zip(cuts, inside, strict=True)
        )
        block = tile[inside]
        for axis in range(len(cuts)):
            if not any(index[axis + 1 :]):  # a new tile, row or layer begins
                self._carry[axis], self._next_carry[axis] = self._next_carry[axis], {}
            if index[axis]:
                self._add_carry(axis, index, region, block)
            if index[axis] + 1 < self.counts[axis]:
                # finished on the axes before, all of it on those behind
                self._leave_carry(axis, index, tile[(*inside[:axis], slice(inside[axis].stop, None))], inside)
        return region, block

    def _leave_carry(self, axis, index, part, inside):
        """Add a part of a tile to what is left to the next one along an axis."""
        if axis + 1 == len(index):
            self._next_carry[axis][0] = part.copy()
            return
        behind = [cuts[i].write for cuts, i in zip(self._cuts[axis + 2 :], index[axis + 2 :], strict=True)]
        whole = [cuts[-1].write.stop for cuts in self._cuts[axis + 2 :]]
        # Along the axis after; what is beyond belongs to the strip of the next tile there:
        end = inside[axis + 1].stop
        lead = (slice(None),) * (axis + 1)
        pieces = (part[(*lead, slice(0, end))], part[(*lead, slice(end, None))])
        for strip, piece in enumerate(pieces, index[axis + 1]):
            length = piece.shape[axis + 1]
            if not length:
                continue
            if strip not in self._next_carry[axis]:
                size = self._length(axis + 1, strip)
                shape = (*part.shape[: axis + 1], size, *whole, part.shape[-1])
                self._next_carry[axis][strip] = np.zeros(shape, np.float32)
            self._next_carry[axis][strip][(*lead, slice(0, length), *behind)] += piece

    def _length(self, axis, i):
        """Voxels along an axis that tile i finishes."""
        cuts = self._cuts[axis]
        end = cuts[i + 1].write.start if i + 1 < len(cuts) else cuts[i].write.stop
        return end - cuts[i].write.start

    def _add_carry(self, axis, index, region, block):
        """Add what the tiles before along an axis have left."""
        strip = index[axis + 1] if axis + 1 < len(index) else 0
        carry = self._carry[axis][strip]
        place = (slice(None),) * (axis + 2) + region[axis + 2 :]
        block[(slice(None),) * axis + (slice(0, carry.shape[axis]),)] += carry[place]
        if all(i + 1 == count for i, count in zip(index[axis + 2 :], self.counts[axis + 2 :], strict=True)):
            del self._carry[axis][strip]
