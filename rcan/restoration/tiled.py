"""Restoring a volume of any size, tile by tile, with reading, computing and what comes after going on at once."""

import collections
import concurrent.futures
import functools
import math
import threading
import warnings

import numpy as np

from rcan.regions import intersect, region_shape, relative_region, scale_region, whole_region
from rcan.restoration.engine import SMALLEST_TILE, KerasEngine, find_devices, is_out_of_memory, voxels_within_memory
from rcan.restoration.tiles import Blender, choose_tile, cut_volume

__all__ = ["OVERLAP", "TileTooLarge", "TiledRestorer", "is_computing", "restore", "restore_blocks"]

OVERLAP = 16  # voxels of the feature maps; what lies 8 from the edge of a tile is right to 0.1 % (docs/tiling.md)
_THREAD_NAME = "rcan-tile"


class TileTooLarge(MemoryError):
    """The memory of a device does not hold what a tile of this size needs."""


def restore_blocks(engine, read, shape, *, tile_shape, overlap, part=None, progress=None, seams=None, kept=None):
    """Restore a volume, and yield its parts as soon as they are finished: region of the output, and block.

    ``read(region)`` gives the normalised raw voxels `(Z, Y, X, C)` of a tuple of slices; it is called ahead, in
    another thread. `shape` is the spatial shape of the whole raw volume. With `part`, a region of the output, that
    alone is restored, with the same values as in the whole. `progress` is advanced after every tile, by all raw
    voxels together. `kept`, of `rcan.io.cache.Cache.of`, has restored tiles that are not computed again, and gets
    the others. The regions cover the output once.
    """
    cuts = cut_volume(shape, tile_shape, overlap, engine)
    if part:
        cuts = [
            [cut for cut in axis if cut.write.start < inside.stop and inside.start < cut.write.stop]
            for axis, inside in zip(cuts, part, strict=True)
        ]
    order = _order_of(shape)
    back = tuple(map(order.index, range(len(shape))))
    ordered = [cuts[axis] for axis in order]
    blender = Blender(ordered)
    ramps = [axis[0].write.stop - axis[1].write.start if len(axis) > 1 else 0 for axis in ordered]
    num_voxels, num_tiles = math.prod(shape), math.prod(blender.counts)
    tiles = (tuple(cuts[axis][index[i]].read for axis, i in enumerate(back)) for index in np.ndindex(*blender.counts))
    computed = _compute_ahead(engine, read, tiles, kept)
    for number, (index, tile) in enumerate(zip(np.ndindex(*blender.counts), computed, strict=True)):
        region, block = blender.add(index, tile.transpose(*order, -1))
        if seams:
            seams.add(index, block, ramps)
        region, block = tuple(region[i] for i in back), block.transpose(*back, -1)
        if part:
            region, block = _clip(region, block, part)
        if block.size:
            yield region, block
        if progress:
            progress.advance((number + 1) * num_voxels // num_tiles - number * num_voxels // num_tiles)


def _order_of(shape):
    """Axes in the order in which tiles are visited: the longest is the slowest, as the margins of a whole layer of
    tiles across it are kept; the others as they are stored."""
    longest = max(range(len(shape)), key=shape.__getitem__)
    return (longest, *(axis for axis in range(len(shape)) if axis != longest))


def _clip(region, block, part):
    """The part of a block that lies in a part of the output; it may be nothing."""
    clipped = intersect(region, part)
    return clipped, block[relative_region(clipped, region)]


def _compute_ahead(engine, read, tiles, kept):
    """Restored tiles in order: one thread reads ahead, and one for each device computes."""
    reader = concurrent.futures.ThreadPoolExecutor(1)
    workers = concurrent.futures.ThreadPoolExecutor(engine.num_devices, thread_name_prefix=_THREAD_NAME)
    pending = collections.deque()
    try:
        for region in tiles:
            key = tuple((side.start, side.stop) for side in region)
            tile = kept and kept.get(key)
            if tile is None:
                keep = kept and functools.partial(kept.keep, key)
                pending.append(workers.submit(_compute, engine, reader.submit(read, region), keep))
            else:
                pending.append(workers.submit(lambda tile=tile: tile))
            if len(pending) > engine.num_devices + 1:  # one in work on each device, one waiting, one read
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except Exception:
        workers.shutdown(wait=True, cancel_futures=True)  # other tiles in work hold memory
        raise
    finally:
        for pool in (reader, workers):
            pool.shutdown(wait=False, cancel_futures=True)


def _compute(engine, block, keep):
    block = block.result()
    try:
        tile = engine(block)
    except Exception as failure:
        if is_out_of_memory(failure):
            size = "x".join(map(str, block.shape[:-1]))
            raise TileTooLarge(f"memory is too small for a tile of {size}: name a smaller one.") from failure
        raise
    if keep:
        keep(tile)
    return tile


def is_computing():
    """Whether a tile is still computed somewhere, after an interruption for example: it cannot be stopped."""
    return any(thread.name.startswith(_THREAD_NAME) for thread in threading.enumerate())


class TiledRestorer:
    """Restores volumes of any size with an engine, tile by tile.

    The one place where tiles are planned and, where memory turns out to be too small for them, made smaller. A tile
    has at most `max_voxels` voxels, and the shape that computes the fewest, unless `tile_shape` says otherwise.
    Neighbouring tiles share `overlap` voxels: 16 of the feature maps, or a quarter of a tile that is given or small.
    """

    def __init__(self, engine, *, max_voxels=2**22, tile_shape=None, overlap=None):
        self.engine = engine
        self._max_voxels, self._tile_shape, self._overlap = max_voxels, tile_shape, overlap

    @classmethod
    def of_model(cls, model, **options):
        """Restore with a Keras model on the first device, in tiles that its memory holds."""
        devices = find_devices("auto")[:1]
        return cls(KerasEngine(model), max_voxels=voxels_within_memory(model, devices), **options)

    def with_engine(self, engine):
        """The same tiles for another engine."""
        return TiledRestorer(engine, max_voxels=self._max_voxels, tile_shape=self._tile_shape, overlap=self._overlap)

    def plan(self, shape):
        """Tile and overlap for a volume of a spatial shape."""
        grid = self.engine.grid
        side = math.floor(self._max_voxels ** (1 / len(shape)))
        sides = self._tile_shape or (side,) * len(shape)
        overlap = self._overlap or tuple(min(OVERLAP * step, tile // 4) for step, tile in zip(grid, sides, strict=True))
        if self._tile_shape:
            return tuple(map(min, self._tile_shape, shape)), overlap
        tile_shape = choose_tile(shape, overlap, max_voxels=self._max_voxels, grid=grid)
        return tuple(map(min, tile_shape, shape)), overlap

    def with_fitting_tiles(self, shape, work):
        """Call ``work(tile_shape, overlap)``, again from its start with half the tile while memory is too small."""
        while True:
            try:
                return work(*self.plan(shape))
            except TileTooLarge:
                if not self._halve_tile(shape):
                    raise

    def _halve_tile(self, shape):
        """Make do with half the tile; False where it is as small as can be."""
        before = tile = self.plan(shape)[0]
        if self._tile_shape:
            longest = int(np.argmax(tile))
            tile = (*tile[:longest], tile[longest] // 2, *tile[longest + 1 :])
            self._tile_shape = tile
            self._overlap = self._overlap and tuple(map(min, self._overlap, (side // 2 for side in tile)))
        while not self._tile_shape and tile == before and self._max_voxels > SMALLEST_TILE:
            self._max_voxels = min(self._max_voxels, math.prod(before)) // 2
            tile = self.plan(shape)[0]
        if tile == before or math.prod(tile) < SMALLEST_TILE:
            return False
        sizes = ["x".join(map(str, sides)) for sides in (before, tile)]
        warnings.warn(f"memory is too small for tiles of {sizes[0]}: going on with {sizes[1]}.", stacklevel=3)
        return True

    def restore(self, read, shape, *, part=None, progress=None):
        """Restore a volume that is read by regions, as by `restore_blocks`, or a `part` of its output."""
        part = part or scale_region(whole_region(shape), self.engine.factors)
        restored = np.empty((*region_shape(part), self.engine.num_channels[1]), np.float32)

        def fill(tile_shape, overlap):
            """Restore the part in tiles of a shape."""
            options = {"tile_shape": tile_shape, "overlap": overlap, "part": part, "progress": progress}
            for region, block in restore_blocks(self.engine, read, shape, **options):
                restored[relative_region(region, part)] = block
            return restored

        return self.with_fitting_tiles(shape, fill)

    def restore_array(self, raw):
        """Restore a normalised volume `(Z, Y, X, C)` or plane `(Y, X, C)` in memory."""
        return self.restore(raw.__getitem__, raw.shape[:-1])


def restore(model, raw, *, tile_shape=None, overlap=None):
    """Restore a normalised volume that is in memory.

    Parameters
    ----------
    model : keras.Model
        Maps `(N, Z, Y, X, C)` to a whole multiple of that size, or the same without Z.
    raw : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1.
    tile_shape : tuple of int, optional
        Spatial shape of a tile, cut down to the volume; where not given, the one that computes the fewest voxels.
    overlap : tuple of int, optional
        Voxels that neighbouring tiles share; 16, or a quarter of a tile that is given, where not given.

    Returns
    -------
    restored : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
        Background 0 and signal 1.
    """
    return TiledRestorer.of_model(model, tile_shape=tile_shape, overlap=overlap).restore_array(raw)
