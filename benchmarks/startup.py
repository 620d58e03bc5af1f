"""What `apply.py` costs from its start to the end of the first tile.

    python benchmarks/startup.py [--rounds 5]

One small image, restored with the network of `config.json` in one tile, file to file, over what nothing can go below: a
process that imports Keras with TensorFlow, loads the network and calls it once on the same tile. Both sides take turns,
each in a process of its own; the medians of CPU and wall seconds count.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SHAPE = (16, 64, 64)
BARE = """
import sys, numpy as np
from rcan.keras_setup import keras
model = keras.saving.load_model(sys.argv[1], compile=False)
model.jit_compile = False
model.predict_on_batch(np.zeros((1, *map(int, sys.argv[2:]), 1), np.float32))
"""


def make_inputs(folder):
    """A network and an image."""
    import tifffile

    from rcan.model import build_rcan

    build_rcan(num_channels=16, num_residual_groups=2, num_residual_blocks=2).save(folder / "network.keras")
    image = np.random.default_rng(0).poisson(100, SHAPE).astype(np.uint16)
    tifffile.imwrite(folder / "raw.tif", image, imagej=True, metadata={"axes": "ZYX"})


def measure(command):
    """CPU and wall seconds of a process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main():
    """Print the seconds of both sides and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        sides = {
            "bare": ["-c", BARE, folder / "network.keras", *SHAPE],
            "apply": ["apply.py", "-m", folder / "network.keras", "-i", folder / "raw.tif", "-o", folder / "out.tif"],
        }
        sides["apply"].append("--overwrite")
        seconds = {side: [] for side in sides}
        for number in range(rounds + 1):
            for side, command in sides.items():
                found = measure(command)
                if number:  # the first round fills the caches of the disk
                    seconds[side].append(found)
    for column, what in enumerate(("CPU", "wall")):
        bare, whole = (statistics.median(row[column] for row in seconds[side]) for side in ("bare", "apply"))
        print(f"{what}: bare {bare:.2f} s, apply.py {whole:.2f} s, ratio {whole / bare:.2f}")


if __name__ == "__main__":
    main()
