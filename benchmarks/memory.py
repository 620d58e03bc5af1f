"""Peak memory of a training step and of restoring a tile, in float32 and in bfloat16.

    python benchmarks/memory.py

The network of 5 groups of 3 blocks and 32 channels at 16x128x128, batch 1, with its features on the grid of the image,
as published, and on one of 1x2x2 voxels, as the default recipe has them; each side in a process of its own. A step is
done with TensorFlow's gradient of Conv3D and with ours, which is in float32 alone. What is counted is the largest
resident memory minus that before the first step or tile. A map has 32 channels of a float32 for each voxel.
"""

import itertools
import math
import subprocess
import sys
from pathlib import Path

SHAPE = (16, 128, 128)
SIDES = {
    "step, TensorFlow's gradient, float32": ("step", "stock", "float32"),
    "step, TensorFlow's gradient, bfloat16": ("step", "stock", "mixed_bfloat16"),
    "step, our gradient, float32": ("step", "fast", "float32"),
    "tile, float32": ("tile", "", "float32"),
    "tile, bfloat16": ("tile", "", "mixed_bfloat16"),
}
GRIDS = ("1,1,1", "1,2,2")  # voxels of the image for one of the features


def peak():
    """Largest resident memory of this process so far, in bytes (Linux; getrusage would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def build_network(grid):
    """The network with its features on a grid."""
    from rcan.model import build_rcan

    return build_rcan(downsampling=tuple(map(int, grid.split(","))))


def make_step(gradient, precision, grid, image):
    """A training step on an image."""
    import rcan.training.steps as steps_module
    from rcan.config import Config
    from rcan.keras_setup import tf

    steps_module.has_fast_stock_gradient = lambda: gradient == "stock"
    pairs = [{"raw": "a", "gt": "b"}]
    config = Config.checked({"training_image_pairs": pairs, "metrics": [], "precision": precision})
    learner = steps_module.Learner(lambda: build_network(grid), config, tf.distribute.get_strategy())
    patch = tf.constant(image[None])
    return lambda: learner.train(patch, patch)


def make_tile(precision, grid, image):
    """A tile that is restored, the size of an image."""
    from rcan.precision import with_precision
    from rcan.restoration.engine import KerasEngine

    engine = KerasEngine(with_precision(build_network(grid), precision))
    engine(image[:8, :8, :8])  # traced
    return lambda: engine(image)


def measure(kind, gradient, precision, grid):
    """Print the memory of three steps or tiles, in bytes."""
    import numpy as np

    image = np.random.default_rng(0).random((*SHAPE, 1), np.float32)
    is_step = kind == "step"
    work = make_step(gradient, precision, grid, image) if is_step else make_tile(precision, grid, image)
    before = peak()
    for _ in range(3):
        work()
    print(peak() - before)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(*sys.argv[2:])
        sys.exit()
    for grid, (title, side) in itertools.product(GRIDS, SIDES.items()):
        command = [sys.executable, __file__, "--measure", *side, grid]
        num_bytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        each = num_bytes / math.prod(SHAPE)
        print(
            f"grid {grid}, {title}: {num_bytes / 2**30:.2f} GiB, {each:.0f} bytes a voxel, "
            f"{each / (4 * 32):.1f} maps of 32 channels"
        )
