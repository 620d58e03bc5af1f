"""CARE of CSBDeep for a given CPU time, for benchmarks/quality.py: restored test images as arrays.

    TF_USE_LEGACY_KERAS=1 python benchmarks/care.py DATA RUN_DIR SECONDS SEED

Its defaults, but for what a short training needs: one patch a step instead of 16, or there would be too few steps;
eight patches to validate on; and the learning rate is halved after 3 epochs, not 10, without a better one. CSBDeep
needs the Keras of TensorFlow before 2.16, which the package tf-keras is (extra `benchmark`).
"""

import os
import sys
from pathlib import Path

import numpy as np

BATCH_SIZE, STEPS, NUM_VALIDATION = 1, 40, 8
PATCHES = {3: (8, 64, 64), 2: (64, 64)}


def read(folder):
    """Images of a folder in the order of their names, with the range that CARE gives them."""
    import tifffile

    return [tifffile.imread(path).astype(np.float32) for path in sorted(folder.glob("*.tif"))]


def normalise(image, low, high):
    """Percentiles become 0 and 1."""
    ends = np.percentile(image, (low, high))
    return ((image - ends[0]) / (ends[1] - ends[0])).astype(np.float32)


def draw_patches(raw, gt, shape, count, rng):
    """Patches with signal, as CSBDeep's default filter takes them: the maximum is above 40 % of that of all."""
    patches = []
    while len(patches) < count:
        number = rng.integers(len(raw))
        start = [rng.integers(size - side + 1) for size, side in zip(gt[number].shape, shape, strict=True)]
        region = tuple(slice(first, first + side) for first, side in zip(start, shape, strict=True))
        if gt[number][region].max() > 0.4 * gt[number].max():
            patches.append((raw[number][region], gt[number][region]))
    return [np.stack(part)[..., np.newaxis] for part in zip(*patches, strict=True)]


def main(data, run_dir, seconds, seed):
    """Train, and write the restored test images."""
    import tensorflow as tf

    try:
        from csbdeep.models import CARE, Config
    except ImportError as failure:
        sys.exit(f'CARE needs the extra "benchmark": python -m pip install -e ".[benchmark]" ({failure})')
    tf.keras.utils.set_random_seed(seed)
    raw = [normalise(image, 3, 99.8) for image in read(data / "train/raw")]
    gt = [normalise(image, 3, 99.8) for image in read(data / "train/gt")]
    rng = np.random.default_rng(seed)
    shape = tuple(min(side, size) // 4 * 4 for side, size in zip(PATCHES[raw[0].ndim], raw[0].shape, strict=True))
    inputs, targets = draw_patches(raw, gt, shape, 512, rng)
    axes = "ZYX"[-raw[0].ndim :]
    config = Config(
        f"{axes}C",
        1,
        1,
        train_batch_size=BATCH_SIZE,
        train_epochs=1000,
        train_steps_per_epoch=STEPS,
        train_tensorboard=False,
        train_reduce_lr={"factor": 0.5, "patience": 3, "min_delta": 0},
    )
    model = CARE(config, "care", basedir=str(run_dir))
    model.prepare_for_training()
    spent = {"start": sum(os.times()[:2])}

    class Stop(tf.keras.callbacks.Callback):
        """End the training when its CPU time is over."""

        def on_train_batch_end(self, batch, logs=None):
            if sum(os.times()[:2]) - spent["start"] > seconds:
                self.model.stop_training = True

    model.callbacks.append(Stop())
    held = (inputs[:NUM_VALIDATION], targets[:NUM_VALIDATION])
    model.train(inputs[NUM_VALIDATION:], targets[NUM_VALIDATION:], validation_data=held)
    spent["all"] = sum(os.times()[:2]) - spent["start"]
    for number, image in enumerate(read(data / "test/raw")):
        restored = model.predict(normalise(image, 3, 99.8), axes, n_tiles=(1,) * image.ndim)
        np.save(run_dir / f"{number}.npy", restored)
    print(f"\n{spent['all']:.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
