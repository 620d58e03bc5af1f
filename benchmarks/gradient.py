"""Time of a training step with TensorFlow's gradient of Conv3D over that with ours, both in one run.

    python benchmarks/gradient.py

The network is the default one but for its depth (2 groups of 2 blocks, 32 channels), the patch 16x64x64.
The steps of both sides alternate, the median counts. TensorFlow decides at import whether to use oneDNN, so
the measurement is made in a process without and in one with it. Without oneDNN is TensorFlow's own choice on
CPUs that lack AVX512-VNNI and on those that are not x86; `rcan` turns it on where it can.
"""

import os
import subprocess
import sys
import time

PATCH_SHAPE = (1, 16, 64, 64, 1)
NUM_STEPS = 7


def measure():
    """Time the training step of both sides, seconds."""
    import numpy as np

    from rcan.keras_setup import keras
    from rcan.model import build_rcan
    from rcan.training.gradient import use_fast_gradient

    patch = np.random.default_rng(0).random(PATCH_SHAPE, np.float32)
    steps = {}
    for side in ("stock", "fast"):
        keras.utils.set_random_seed(0)
        model = build_rcan(num_residual_groups=2, num_residual_blocks=2)
        if side == "fast":
            use_fast_gradient(model)
        model.compile(optimizer="adam", loss="mae", jit_compile=False)
        losses = [float(model.train_on_batch(patch, patch)) for _ in range(2)]  # also traces the step
        steps[side] = (model, [], losses)
    for _ in range(NUM_STEPS):
        for model, seconds, _ in steps.values():
            started = time.perf_counter()
            model.train_on_batch(patch, patch)
            seconds.append(time.perf_counter() - started)
    stock, fast = (float(np.median(seconds)) for _, seconds, _ in steps.values())
    difference = abs(steps["stock"][2][1] / steps["fast"][2][1] - 1)
    print(f"{stock:.3f} s stock, {fast:.3f} s fast, ratio {stock / fast:.2f}; losses differ by {difference:.0e}")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure()
        sys.exit()
    for use_onednn in ("0", "1"):
        print(f"oneDNN {'on ' if use_onednn == '1' else 'off'}: ", end="", flush=True)
        subprocess.run(
            [sys.executable, __file__, "--measure"],
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": use_onednn},
            check=True,
        )
