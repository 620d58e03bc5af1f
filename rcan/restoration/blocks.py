"""The frames of an image as a network restores them, block by block."""

import numpy as np

from rcan.regions import count_voxels, cut_into_slabs, region_shape, scale_region, shrink_region
from rcan.restoration.tiled import restore_blocks
from rcan.scores import enlarge

__all__ = ["restored_blocks"]

_COPIED_VOXELS = 2**22  # at a time


def restored_blocks(engine, raw, tiles, *, numbers=None, part=None, progress=None, seams=None, cache=None):
    """Number of the frame, region and restored block, normalised, of all frames of a `NetworkView` or some.

    `tiles` are their shape and overlap; `part`, `progress` and `seams` are as in
    `rcan.restoration.tiled.restore_blocks`. A tile that is in the `cache`, a `rcan.io.cache.Cache`, is not computed
    again.
    """
    tile_shape, overlap = tiles
    for number in range(len(raw.frames)) if numbers is None else numbers:
        if raw.is_blank(number):
            yield from _copied_blocks(engine, raw, number, part=part, progress=progress)
            continue
        blocks = restore_blocks(
            engine,
            lambda region, number=number: raw.read_input(number, region),
            raw.volume.shape[:-1],
            tile_shape=tile_shape,
            overlap=overlap,
            part=part,
            progress=progress,
            seams=seams,
            kept=cache and cache.of(number),
        )
        for region, block in blocks:
            yield number, region, block


def _copied_blocks(engine, raw, number, *, part, progress):
    """The same of a frame of one grey value, as it is: a network would make something of nothing."""
    shape = raw.volume.shape[:-1]
    regions = cut_into_slabs(shape, _COPIED_VOXELS) if part is None else [shrink_region(part, engine.factors)]
    num_channels = engine.num_channels[1]
    for region in regions:
        target = scale_region(region, engine.factors)
        block = np.zeros((*region_shape(target), num_channels), np.float32)
        copied = raw.read(number, region)[..., :num_channels]
        block[..., : copied.shape[-1]] = enlarge(copied, block.shape)
        if progress:
            progress.advance(count_voxels(region))
        yield number, target, block
