"""How often the first of two networks in a row computes a voxel, by the memory that keeps its tiles.

    python benchmarks/chain.py [--shape 64,2048,2048] [--max_voxels 4194304] [--kept 1.5,0.5,0.25]

`kept` are sizes of that memory, a quarter of what is free, in units of the image between in float32. The networks copy
their input: their tiles are counted, not timed. The second one normalises by the noise (`anscombe`), which takes range
and fingerprint of the image between.
"""

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np


class CountingEngine:
    """A network that copies the first channel of a tile; `num_voxels` have been computed."""

    num_devices, factors, grid, num_voxels = 1, (1, 1, 1), (1, 1, 1), 0

    def __init__(self, num_inputs):
        self.num_channels = num_inputs, 1

    def __call__(self, tile):
        """Copy a tile."""
        self.num_voxels += tile[..., 0].size
        return tile[..., :1]


def count(shape, max_voxels, num_bytes):
    """Computed voxels of two networks in a row that keep so many bytes of tiles, for each voxel of the image."""
    import rcan.io.cache
    from rcan.io.opening import create_volume
    from rcan.restoration.file import FileRestorer
    from rcan.restoration.settings import RestoreSettings
    from rcan.restoration.tiled import TiledRestorer

    rcan.io.cache.free_memory = lambda: num_bytes / rcan.io.cache.SHARE_OF_FREE_MEMORY
    engines = CountingEngine(1), CountingEngine(2)
    settings = RestoreSettings(), RestoreSettings(normalization="anscombe")
    first, second = (
        FileRestorer(TiledRestorer(engine, max_voxels=max_voxels), each)
        for engine, each in zip(engines, settings, strict=True)
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.tif"
        with create_volume(raw, axes="ZYX", sizes=dict(zip("ZYX", shape, strict=True)), dtype="uint16") as file:
            for plane in range(shape[0]):
                region = (slice(plane, plane + 1), *map(slice, shape[1:]))
                file.write({}, region, rng.poisson(100, (1, *shape[1:], 1)).astype(np.uint16))
        replace(second, earlier=(first,)).restore(raw, Path(folder) / "restored.tif")
    return [engine.num_voxels / math.prod(shape) for engine in engines]


def main():
    """Print a line for each size of the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="64,2048,2048")
    parser.add_argument("--max_voxels", type=int, default=2**22)
    parser.add_argument("--kept", default="1.5,0.5,0.25")
    arguments = parser.parse_args()
    shape = tuple(map(int, arguments.shape.split(",")))
    for kept in map(float, arguments.kept.split(",")):
        first, second = count(shape, arguments.max_voxels, kept * 4 * math.prod(shape))
        print(
            f"{'x'.join(map(str, shape))}, kept {kept:g} of the image: first network {first:.2f}, second {second:.2f} "
            f"computed voxels for each, {first / second:.1f} times as many",
            flush=True,
        )


if __name__ == "__main__":
    main()
