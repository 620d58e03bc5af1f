"""Peak memory of the data side of a training: does it grow with the number or the size of the volumes?

    python benchmarks/data_memory.py

Opens pairs of volumes, finds ranges and positions of signal, and streams patches, each case in a process of its
own: 4, 16 and 64 pairs of 32x512x512, then 4 pairs of four times that size, uncompressed and compressed
(`cache_gb` 0.05, smaller than any of the sets). What is counted is the largest resident memory of the process
minus that before the first volume, the median of three.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = [(4, (32, 512, 512)), (16, (32, 512, 512)), (64, (32, 512, 512)), (4, (64, 1024, 512))]
NUM_PATCHES = 800


def peak():
    """Largest resident memory of this process so far, in bytes (Linux; getrusage would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def make_pairs(folder, count, shape, compression):
    """Pairs that differ in name only: many names of few files take no room on the disk."""
    import numpy as np
    import tifffile
    from scipy import ndimage

    rng = np.random.default_rng(0)
    gt = 1000 + 4000 * ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 3)
    for kind, volume in (("raw", rng.poisson(np.maximum(gt, 0) / 50)), ("gt", gt.clip(0))):
        (folder / kind).mkdir()
        first = folder / kind / "0.tif"
        options = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "compression": compression}
        tifffile.imwrite(first, volume.astype(np.uint16), **options)
        for number in range(1, count):
            os.link(first, folder / kind / f"{number}.tif")


def measure(folder):
    """Print the memory that the pairs of a folder take, in bytes."""
    import numpy as np

    from rcan.config import ImagePair
    from rcan.data.measurements import MeasurementCache
    from rcan.data.pairs import open_pairs
    from rcan.data.patches import PatchSampler, make_dataset
    from rcan.io.cache import limit_cache
    from rcan.keras_setup import tf

    limit_cache(5 * 10**7)
    list(tf.data.Dataset.range(2).map(lambda x: x))  # TensorFlow's own threads and buffers
    before = peak()
    cache = MeasurementCache(folder / "measured")
    pairs = open_pairs(ImagePair(raw=folder / "raw", gt=folder / "gt"), [], cache=cache)
    options = {"seed": 0, "augmented": True, "area_ratio_threshold": 0.1, "cache": cache}
    sampler = PatchSampler(pairs, (16, 128, 128), **options)
    for _ in make_dataset(sampler, np.arange(NUM_PATCHES), batch_size=1):
        pass
    print(peak() - before)


def measure_cases(compression):
    """Print a line for each case, and the ratio of the largest to the smallest."""
    found = []
    for count, shape in CASES:
        with tempfile.TemporaryDirectory() as folder:
            make_pairs(Path(folder), count, shape, compression)
            values = []
            for _ in range(3):
                command = [sys.executable, __file__, "--measure", folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                values.append(int(done.stdout.splitlines()[-1]))
                shutil.rmtree(Path(folder) / "measured")
        found.append(sorted(values)[1])
        size = "x".join(map(str, shape))
        print(
            f"{compression or 'uncompressed'}, {count:2} pairs of {size}: {found[-1] / 2**20:.0f} MiB",
            flush=True,
        )
    print(f"{compression or 'uncompressed'}: largest over smallest {max(found) / min(found):.2f}")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(Path(sys.argv[2]))
        sys.exit()
    for compression in (None, "zlib"):
        measure_cases(compression)
