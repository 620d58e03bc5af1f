"""How much of the time of a training step the data cost, and how fast the step is for this machine.

    python benchmarks/training.py

1. Steps per second as `train.py` does them, in the precision that it chooses, with patches from the sample's files,
   over steps per second with one batch that stays in memory: 1 means that the network never waits for data.
2. Pairs of patches per second of the pipeline alone, 16x256x256 with augmentation, from uncompressed and from
   compressed files, whose decoded strips the cache may keep, and with a cache of nothing.
3. Floating-point operations per second of the training step of the default network over those of a product of two
   float32 matrices in NumPy.

Each ratio is of two sides that alternate in one run; the median counts.
"""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FLOP_PER_VOXEL = 3 * 1.994e6  # of a training step of the default network, forward and twice that backward


def make_learner(config):
    """The network of a config, and what trains it."""
    from rcan.keras_setup import tf
    from rcan.model import build_rcan
    from rcan.training.steps import Learner

    def build():
        return build_rcan(
            num_channels=config.num_channels,
            num_residual_blocks=config.num_residual_blocks,
            num_residual_groups=config.num_residual_groups,
            channel_reduction=config.channel_reduction,
        )

    return Learner(build, config, tf.distribute.get_strategy())


def measure_waiting(folder, *, rounds=9, steps=40):
    """Ratio of the steps per second with and without the pipeline, at the sample's network."""
    from rcan.config import load_config
    from rcan.precision import choose_precision
    from rcan.training.batches import distribute_batches
    from rcan.training.run_data import make_samplers, open_data

    chosen = choose_precision("auto", on_gpu=False)
    print(chosen)
    values = {"output_dir": str(folder), "epochs": 10**4, "precision": chosen.name}
    config = load_config(ROOT / "config.json", values)
    sampler, _ = make_samplers(config, open_data(config))
    learner = make_learner(config)
    options = {"batch_size": config.batch_size, "strategy": learner.strategy}
    stream = iter(distribute_batches(sampler, np.arange(10**6), **options))
    resident = next(stream)

    def run(batches):
        started = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            learner.train(*batch)
        return steps / (time.perf_counter() - started)

    run(itertools.repeat(resident))
    rates = np.array([(run(stream), run(itertools.repeat(resident))) for _ in range(rounds)])
    piped, bare = np.median(rates, axis=0)
    ratio = np.median(rates[:, 0] / rates[:, 1])
    print(f"training steps per second: {piped:.2f} from files, {bare:.2f} from memory, ratio {ratio:.3f}")


def measure_pipeline(folder, *, rounds=5, patches=48):
    """Patches per second of the pipeline alone."""
    import tifffile

    from rcan.config import ImagePair
    from rcan.data.pairs import open_pairs
    from rcan.data.patches import PatchSampler, make_dataset
    from rcan.io.cache import limit_cache

    rng, shape = np.random.default_rng(0), (32, 768, 768)
    for name, compression, cache in (
        ("uncompressed", None, 0),
        ("deflate, decoded strips kept", "zlib", None),
        ("deflate, nothing kept", "zlib", 0),
    ):
        pairs = []
        for number in range(4):
            paths = {kind: folder / f"{name}_{number}_{kind}.tif" for kind in ("raw", "gt")}
            volume = rng.poisson(100 + 50 * rng.random(shape)).astype(np.uint16)
            for path in paths.values():
                options = {"compression": compression, "metadata": {"axes": "ZYX"}}
                tifffile.imwrite(path, volume, photometric="minisblack", **options)
            pairs.append(ImagePair(**paths))
        limit_cache(cache)
        opened = open_pairs(None, pairs)
        sampler = PatchSampler(opened, (16, 256, 256), seed=0, augmented=True, intensity_threshold=0)
        stream, rates = iter(make_dataset(sampler, np.arange(10**6), batch_size=1)), []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            for _ in itertools.islice(stream, patches):
                pass
            rates.append(patches / (time.perf_counter() - started))
        print(f"pairs of patches 16x256x256 per second, {name}: {np.median(rates[1:]):.0f}", flush=True)
        del stream


def measure_arithmetic(folder, *, rounds=5):
    """Operations per second of a training step and of a matrix product."""
    from rcan.config import Config

    values = {"training_image_pairs": [{"raw": "a", "gt": "b"}], "metrics": [], "precision": "float32"}
    config = Config.checked({**values, "output_dir": str(folder), "epochs": 10**4})
    patch = np.random.default_rng(0).random((16, 64, 64, 1), np.float32)
    learner = make_learner(config)
    batch = patch[np.newaxis], patch[np.newaxis]
    matrix = np.random.default_rng(0).random((3000, 3000), np.float32)
    learner.train(*batch), matrix @ matrix
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        learner.train(*batch)
        stepped = time.perf_counter()
        matrix @ matrix
        done = time.perf_counter()
        rates.append((FLOP_PER_VOXEL * patch.size / (stepped - started), 2 * 3000**3 / (done - stepped)))
    step, product = np.median(rates, axis=0) / 1e9
    print(
        f"GFLOP/s: {step:.0f} in a training step (16x64x64), {product:.0f} in a matrix product, "
        f"ratio {step / product:.2f}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for measure in (measure_waiting, measure_pipeline, measure_arithmetic):
            place = Path(scratch) / measure.__name__
            place.mkdir()
            measure(place)
