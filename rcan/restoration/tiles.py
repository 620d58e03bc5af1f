"""Restoring a volume of any size: tiles, weights, blending.

The volume is cut into tiles of equal size that overlap; the last one on each axis is shifted inward, so
that nothing is ever padded, and where the volume is smaller than a tile it is one tile. Neighbours are
blended with linear ramps. The weights of a tile are a product of one weight for each axis, and on each
axis the weights of all tiles add up to one: the blended volume needs no division.

Tiles are visited in layers along the first axis. A layer's voxels that no later layer touches are
finished and handed out, so that memory holds one layer, however tall the volume is.

The model is any Keras model that maps `(N, Z, Y, X, C)` (or `(N, Y, X, C)`) to the same, or to a whole
multiple of its size on each axis.
"""

import itertools
import math

import keras
import numpy as np

__all__ = ["restore", "restore_slabs", "tile_axis", "upscaling_of"]


def tile_axis(size, tile, overlap, factor=1):
    """Cut one axis into tiles, and weigh them so that they blend.

    Parameters
    ----------
    size : int
        Voxels along the axis.
    tile : int
        Voxels of a tile; cut down to `size`.
    overlap : int
        Voxels that neighbours share at least; cut down to ``tile - 1``.
    factor : int
        Voxels written for each voxel read.

    Yields
    ------
    read : slice
        The tile in the input, always `tile` voxels.
    written : slice
        The tile in the output.
    weight : ndarray of shape (tile * factor,), float32
        Sums to one over all tiles at each voxel.

    Examples
    --------
    >>> [(read.start, read.stop) for read, _, _ in tile_axis(100, tile=64, overlap=8)]
    [(0, 64), (36, 100)]
    """
    tile = min(tile, size)
    overlap = min(overlap, tile - 1)
    num_tiles = max(1, math.ceil((size - overlap) / (tile - overlap)))
    starts = [min(i * (tile - overlap), size - tile) for i in range(num_tiles)]

    reach = factor * overlap + 1  # one voxel more than the overlap keeps the outermost weight above zero
    rise = np.minimum(np.arange(1, factor * tile + 1) / reach, 1)
    windows = np.ones((num_tiles, factor * tile))
    windows[1:] *= rise
    windows[:-1] *= rise[::-1]
    total = np.zeros(factor * size)
    written = [slice(factor * start, factor * (start + tile)) for start in starts]
    for where, window in zip(written, windows, strict=True):
        total[where] += window
    for start, where, window in zip(starts, written, windows, strict=True):
        yield slice(start, start + tile), where, (window / total[where]).astype(np.float32)


def upscaling_of(model):
    """Voxels that a model writes for each voxel that it reads, on each spatial axis.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    factors : tuple of int
    """
    ndim, size = len(model.input_shape) - 2, 16
    shape = model.compute_output_shape((1, *(size,) * ndim, model.input_shape[-1]))
    return tuple(length // size for length in shape[1:-1])


def restore_slabs(model, read, shape, *, tile_shape, overlap=None, progress=None):
    """Restore a volume slab by slab along its first axis.

    Parameters
    ----------
    model : keras.Model
        Maps `(N, Z, Y, X, C)` to a whole multiple of that size, or the same without Z.
    read : callable
        ``read(region)`` gives the normalised raw voxels `(Z, Y, X, C)` of a tuple of slices.
    shape : tuple of int
        Of the whole raw volume, `(Z, Y, X, C)`.
    tile_shape : tuple of int
        Spatial shape of a tile; cut down to the volume.
    overlap : tuple of int, optional
        Voxels that neighbouring tiles share; an eighth of the tile where not given.
    progress : Progress, optional
        Advanced after every tile, by all raw voxels together.

    Yields
    ------
    region : tuple of slice
        Place of the slab in the output. Slabs come in order and cover the output once.
    slab : ndarray of shape (z, Y, X, C), float32
        Restored voxels.
    """
    spatial, factors = shape[:-1], upscaling_of(model)
    overlap = overlap or tuple(tile // 8 for tile in tile_shape)
    layers, *rows = (
        list(tile_axis(*axis)) for axis in zip(spatial, tile_shape, overlap, factors, strict=True)
    )
    rest = tuple(slice(0, size * factor) for size, factor in zip(spatial[1:], factors[1:], strict=True))
    layer_shape = (layers[0][2].size, *(where.stop for where in rest), model.output_shape[-1])
    predict = _compiled(model)

    places, num_voxels = list(itertools.product(*rows)), math.prod(spatial)
    num_tiles, num_done = len(layers) * len(places), 0
    layer = np.zeros(layer_shape, np.float32)
    for number, (taken, written, weight) in enumerate(layers):
        raw = read((taken, *(slice(0, size) for size in spatial[1:])))
        for tiles in places:
            inside = (slice(None), *(tile[0] for tile in tiles))
            block = predict(np.ascontiguousarray(raw[inside])[np.newaxis])[0]
            for axis, along in enumerate([weight, *(tile[2] for tile in tiles)]):
                block = block * along.reshape((-1,) + (1,) * (block.ndim - 1 - axis))
            layer[(slice(None), *(tile[1] for tile in tiles))] += block
            if progress:
                progress.advance(
                    (num_done + 1) * num_voxels // num_tiles - num_done * num_voxels // num_tiles
                )
            num_done += 1
        is_last = number + 1 == len(layers)
        finished = (written.stop if is_last else layers[number + 1][1].start) - written.start
        yield (slice(written.start, written.start + finished), *rest), layer[:finished].copy()
        layer[: len(layer) - finished] = layer[finished:].copy()
        layer[len(layer) - finished :] = 0


def _compiled(model):
    """A function from a batch of tiles to restored tiles, traced once for each shape of tile."""
    if keras.backend.backend() == "tensorflow" and not model.compiled:
        model.jit_compile = False  # XLA is slower on CPU and fails with older cuDNN
    return model.predict_on_batch


def restore(model, raw, *, tile_shape, overlap=None):
    """Restore a normalised volume that is in memory.

    Parameters
    ----------
    model : keras.Model
        Maps `(N, Z, Y, X, C)` to a whole multiple of that size, or the same without Z.
    raw : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1.
    tile_shape : tuple of int
        Spatial shape of a tile; cut down to the volume.
    overlap : tuple of int, optional
        Voxels that neighbouring tiles share; an eighth of the tile where not given.

    Returns
    -------
    restored : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
        Background 0 and signal 1.
    """
    slabs = restore_slabs(model, raw.__getitem__, raw.shape, tile_shape=tile_shape, overlap=overlap)
    return np.concatenate([slab for _, slab in slabs])
