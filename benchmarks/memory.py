"""Peak memory of a training step, with TensorFlow's gradient of Conv3D and with ours.

    python benchmarks/memory.py

The default network (5 groups of 3 blocks, 32 channels) at 16x128x128, batch 1; each side in a process of its own.
What is counted is the largest resident memory minus that before the first step.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PATCH_SHAPE = (16, 128, 128)


def peak():
    """Largest resident memory of this process so far, in bytes (Linux; getrusage would count its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(side, *shape):
    """Print the memory of three steps on a patch, in bytes."""
    import numpy as np

    import rcan.training.steps as steps_module
    from rcan.config import Config
    from rcan.keras_setup import tf
    from rcan.model import build_rcan

    steps_module.has_fast_stock_gradient = lambda: side == "stock"
    pairs = [{"raw": "a", "gt": "b"}]
    with tempfile.TemporaryDirectory() as folder:
        config = Config.checked({"training_image_pairs": pairs, "output_dir": folder, "metrics": []})
        learner = steps_module.Learner(build_rcan, config, tf.distribute.get_strategy())
        patch = tf.constant(np.random.default_rng(0).random((1, *shape, 1), np.float32))
        before = peak()
        for _ in range(3):
            learner.train(patch, patch)
    print(peak() - before)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        side, *sizes = sys.argv[2:]
        measure(side, *map(int, sizes))
        sys.exit()
    num_voxels = 1
    for size in PATCH_SHAPE:
        num_voxels *= size
    for side in ("stock", "fast"):
        command = [sys.executable, __file__, "--measure", side, *map(str, PATCH_SHAPE)]
        num_bytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        size = f"{num_bytes / 2**30:.2f} GiB, {num_bytes / num_voxels:.0f} bytes a voxel"
        print(f"{side}: {size}, {num_bytes / num_voxels / (4 * 32):.0f} maps of 32 channels")
