"""How much of the time of `apply` is the network's, and how little is computed twice.

    python benchmarks/apply.py [--shape 64,512,512] [--rounds 3] [--precision auto]

1. Time of the bare network over the fewest tiles that cover a volume, over the time of restoring the same volume from
   file to file (reading, normalising, blending and writing included, start-up excluded), with the default network.
2. The same with a tiny network, whose work is little beside that of reading and writing.
3. Voxels computed over those of the volume for ten real shapes, beside fixed tiles of 16x256x256 and the plan of
   ceil(S / (t - o)) tiles.

Both sides alternate in one run; the median of the ratios counts, of wall time and of the CPU time of the process (which
other work on the machine disturbs less). `engines.py` compares TensorFlow with other engines, `apply_memory.py` shows
the memory.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPES = (
    (16, 256, 256), (17, 88, 89), (21, 700, 900), (32, 512, 512), (33, 152, 172), (45, 1200, 1200),
    (50, 1024, 1024), (60, 256, 256), (64, 2048, 2048), (88, 320, 256), (100, 2048, 2047),
)  # fmt: skip


def measure_efficiency(name, model, shape, rounds, folder):
    """Print the share of the bare network in restoring a file."""
    from rcan.io.opening import create_volume
    from rcan.restoration.engine import KerasEngine, voxels_within_memory
    from rcan.restoration.file import FileRestorer
    from rcan.restoration.tiled import TiledRestorer
    from rcan.restoration.tiles import tile_axis

    rng = np.random.default_rng(0)
    raw = folder / "raw.tif"
    sizes = dict(zip("ZYX", shape, strict=True))
    with create_volume(raw, axes="ZYX", sizes=sizes, dtype="uint16") as file:
        file.write({}, None, rng.poisson(200, (*shape, 1)))
    engine = KerasEngine(model)
    max_voxels = voxels_within_memory(model, ("cpu:0",))
    tile, overlap = TiledRestorer(engine, max_voxels=max_voxels).plan(shape)
    num_tiles = math.prod(len(tile_axis(*axis)) for axis in zip(shape, tile, overlap, strict=True))
    restorer = FileRestorer(TiledRestorer(engine, max_voxels=max_voxels))
    one = rng.random((*tile, 1), np.float32)
    engine(one)  # traces

    def time_of(call):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - wall, time.process_time() - cpu

    rows = []
    for number in range(rounds):
        bare = time_of(lambda: [engine(one) for _ in range(num_tiles)])
        whole = time_of(lambda: restorer.restore(raw, folder / "restored.tif", label=name))
        rows.append((bare, whole))
        print(
            f"  round {number + 1}: bare {bare[0]:.1f} s ({bare[1]:.1f} s of CPU), apply {whole[0]:.1f} s "
            f"({whole[1]:.1f} s of CPU)",
            flush=True,
        )
    rows = np.array(rows)
    wall, cpu = np.median(rows[:, 0] / rows[:, 1], axis=0)
    rate = math.prod(shape) / np.median(rows[:, 1, 0])
    print(
        f"{name}, {'x'.join(map(str, shape))} in {num_tiles} tiles of {'x'.join(map(str, tile))}: bare network / apply "
        f"{wall:.3f} (wall), {cpu:.3f} (CPU); {rate:,.0f} voxels a second",
        flush=True,
    )


def show_voxels():
    """Print voxels computed over those of the volume."""
    from rcan.restoration.engine import MAX_TILE_VOXELS
    from rcan.restoration.tiled import OVERLAP
    from rcan.restoration.tiles import choose_tile, tile_axis

    print("volume          tile         tiles  computed   16x256x256   ceil(S / (t - o))")
    for shape in SHAPES:
        tile = choose_tile(shape, (OVERLAP,) * 3, max_voxels=MAX_TILE_VOXELS)
        counts = [len(tile_axis(size, side, OVERLAP)) for size, side in zip(shape, tile, strict=True)]
        fixed = tuple(map(min, (16, 256, 256), shape))
        fixed_counts = [
            len(tile_axis(size, side, shared)) for size, side, shared in zip(shape, fixed, (2, 32, 32), strict=True)
        ]
        plain_counts = [
            math.ceil(size / (side - shared)) for size, side, shared in zip(shape, fixed, (2, 32, 32), strict=True)
        ]
        computed, as_fixed, as_plain = (
            math.prod(n) * math.prod(t) / math.prod(shape)
            for n, t in ((counts, tile), (fixed_counts, fixed), (plain_counts, fixed))
        )
        print(
            f"{'x'.join(map(str, shape)):15} {'x'.join(map(str, tile)):12} {math.prod(counts):5} {computed:9.2f} "
            f"{as_fixed:12.2f} {as_plain:19.2f}"
        )


def main():
    """Print all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="64,512,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto", help="as of apply.py")
    arguments = parser.parse_args()
    shape = tuple(map(int, arguments.shape.split(",")))
    from rcan.model import build_rcan
    from rcan.precision import choose_precision, with_precision

    show_voxels()
    chosen = choose_precision(arguments.precision, on_gpu=False)
    print(chosen)
    tiny = build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1, channel_reduction=2)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name, model in (("tiny network", tiny), ("default network", build_rcan())):
            measure_efficiency(name, with_precision(model, chosen.name), shape, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
