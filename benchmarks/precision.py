"""What bfloat16 gains, and what it costs: both sides in one run.

    python benchmarks/precision.py speed
    python benchmarks/precision.py quality FOLDER --data ../shared/data
    python benchmarks/precision.py training FOLDER --data ../shared/data
    python benchmarks/precision.py sample FOLDER [--before CHECKOUT]

`speed`: CPU seconds of a forward pass and of a training step of the default network and of the sample's, in float32
and in bfloat16, in turns; the medians and their ratio, and floating-point operations a second over those of a product
of two matrices in Keras in the same precision.

`quality`: PSNR in both precisions, after an affine match, of three networks on images that they have not learned from:
that of `config.json` on the sample, that of docs/limits.md on real nuclei, and a small 2D one on a real pair of a noisy
and a clean image. The networks are trained in FOLDER, as `train.py` does by itself (`precision` auto), unless they are
there.

`training`: the network for nuclei is trained in float32, and by itself for as many seconds; PSNR of both.

`sample`: wall seconds and test scores of `python train.py -c config.json`, with two seeds, in float32 and by itself,
in turns; with `--before` an older checkout of this program takes its turns, too.
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "mixed_bfloat16")
NETWORKS = {
    "default": ({}, (1, 16, 96, 96, 1), (1, 16, 64, 64, 1)),
    "sample": (
        {"num_channels": 16, "num_residual_groups": 2, "num_residual_blocks": 2},
        (1, 24, 96, 96, 1),
        (1, 8, 64, 64, 1),
    ),
}
FLOP_OF_STEP = 3  # times a forward pass
ROUNDS = 7
NUCLEI = {
    "patch_shape": [16, 64, 64],
    "num_channels": 16,
    "num_residual_groups": 2,
    "num_residual_blocks": 3,
    "channel_reduction": 4,
    "epochs": 28,
    "steps_per_epoch": 40,
    "initial_learning_rate": 0.002,
    "area_ratio_threshold": 0.1,
}
PLANES = {
    "patch_shape": [128, 128],
    "num_channels": 16,
    "num_residual_groups": 2,
    "num_residual_blocks": 2,
    "channel_reduction": 4,
    "epochs": 10,
    "steps_per_epoch": 64,
    "batch_size": 4,
    "initial_learning_rate": 0.001,
    "intensity_threshold": 0,
}
PLANE = "TwoPhoton_MICE"


def cpu_seconds(work):
    """Seconds of CPU that a call takes in this process, all threads together."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def take_turns(sides):
    """Median CPU seconds of each side, by name; each is called once before."""
    for work in sides.values():
        work()
    seconds = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, work in sides.items():
            seconds[name].append(cpu_seconds(work))
    return {name: statistics.median(each) for name, each in seconds.items()}


# Speed


def count_operations(model):
    """Floating-point operations of a forward pass for each voxel."""
    return 2 * sum(int(np.prod(layer.kernel.shape)) for layer in model.layers if hasattr(layer, "kernel"))


def make_product(precision):
    """A product of two matrices in Keras, and its floating-point operations."""
    from rcan.keras_setup import keras, ops, tf

    size, dtype = 2048, keras.DTypePolicy(precision).compute_dtype
    one, other = (ops.cast(np.random.default_rng(i).random((size, size), np.float32), dtype) for i in range(2))
    multiply = tf.function(lambda: ops.matmul(one, other))
    return lambda: multiply().numpy(), 2 * size**3


def measure_speed():
    """Print seconds and ratios of forward passes and training steps."""
    from rcan.config import Config
    from rcan.hardware import find_bfloat16
    from rcan.keras_setup import tf
    from rcan.model import build_rcan
    from rcan.precision import with_precision
    from rcan.restoration.engine import KerasEngine
    from rcan.training.steps import Learner

    print(f"bfloat16: {find_bfloat16(on_gpu=False).reason}")
    products = {precision: make_product(precision) for precision in PRECISIONS}
    seconds = take_turns({precision: work for precision, (work, _) in products.items()})
    peaks = {precision: products[precision][1] / seconds[precision] for precision in PRECISIONS}
    for precision, peak in peaks.items():
        print(f"product of matrices, {precision}: {peak / 1e9:.0f} GFLOP for each second of CPU")
    for name, (options, tile_shape, patch_shape) in NETWORKS.items():
        build = functools.partial(build_rcan, **options)
        model = build()
        tile, patch = (np.random.default_rng(0).random(shape, np.float32) for shape in (tile_shape, patch_shape))
        forward, step = {}, {}
        for precision in PRECISIONS:
            forward[precision] = functools.partial(KerasEngine(with_precision(model, precision)), tile[0])
            config = Config.checked({"training_image_pairs": [{"raw": "a", "gt": "b"}], "precision": precision})
            learner = Learner(build, config, tf.distribute.get_strategy())
            step[precision] = functools.partial(learner.train, patch, patch)
        num_operations = count_operations(model)
        compare(f"{name} network, forward pass", forward, tile.size * num_operations, peaks)
        compare(f"{name} network, training step", step, FLOP_OF_STEP * patch.size * num_operations, peaks)


def compare(title, works, num_operations, peaks):
    """Print the seconds of work in both precisions."""
    seconds = take_turns(works)
    one, other = (seconds[precision] for precision in PRECISIONS)
    shares = " and ".join(f"{num_operations / seconds[each] / peaks[each]:.2f}" for each in PRECISIONS)
    print(
        f"{title}: {one:.3f} s in float32, {other:.3f} s in bfloat16, {one / other:.2f} times as fast; {shares} of the "
        "product of matrices",
        flush=True,
    )


# Quality


def call(*command, cwd=ROOT):
    """Run a command of ours; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_nuclei(folder, data):
    """Pairs of the nuclei of docs/limits.md: left 60 % in X to learn from, right 40 % to test on."""
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    nuclei = tifffile.imread(data / "volumes/nuclei.tif")[15:47]
    middle = int(0.6 * nuclei.shape[-1])
    for name, part, pairs, seed in (("train", nuclei[..., :middle], 4, 0), ("test", nuclei[..., middle:], 1, 1)):
        if (folder / name).exists():
            continue
        tifffile.imwrite(folder / f"{name}.tif", part, imagej=True, metadata={"axes": "ZYX"})
        source = ["--source", folder / f"{name}.tif", "--voxel_size", "0.29,0.26,0.26", "--photons", 15, "--blur", 2]
        call("-m", "rcan", "simulate", folder / name, *source, "--pairs", pairs, "--seed", seed)


def make_plane(folder, data):
    """Pairs of a field of view: its left half to learn from, four exposures, and its right half to test on."""
    import tifffile

    gt = tifffile.imread(data / f"fmd_pairs/gt/{PLANE}.tif")
    raw = [tifffile.imread(data / f"fmd_pairs/raw/{PLANE}_{number}.tif") for number in range(1, 5)]
    half = gt.shape[-1] // 2
    for name, part, images in (("train", slice(None, half), raw), ("test", slice(half, None), raw[:1])):
        for number, image in enumerate(images):
            for kind, plane in (("raw", image), ("gt", gt)):
                path = folder / name / kind / f"{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, plane[:, part])


def train(folder, name, values, *flags):
    """Train a network in a folder unless it is there; the run folder."""
    run_dir = folder / name
    if not (run_dir / "report.html").exists():
        config = folder / f"{name}.json"
        config.write_text(json.dumps(values))
        call("train.py", "-c", config, "-o", run_dir, "--resume", "true", *flags)
    return run_dir


def folders(folder):
    """Training data of a folder, as keys of a configuration."""
    return {"training_data_dir": {"raw": str(folder / "train/raw"), "gt": str(folder / "train/gt")}}


def measure_psnr(run_dir, test, precision):
    """Mean PSNR of the images of a folder, in dB after an affine match."""
    from rcan.assess.volumes import score_pair
    from rcan.config import ImagePair
    from rcan.data.pairs import open_pairs
    from rcan.precision import with_precision
    from rcan.run_folder.models import load_model

    model, record = load_model(run_dir)
    folders = ImagePair(raw=test / "raw", gt=test / "gt")
    opened = open_pairs(folders, [], ndim=len(model.input_shape) - 2, **record.scaling)
    network = with_precision(model, precision)
    return float(np.mean([score_pair(network, pair)[0]["psnr_restored"] for pair in opened]))


def measure_quality(folder, data):
    """Print the PSNR of three networks in both precisions."""
    from rcan.run_folder.models import read_record

    folder.mkdir(parents=True, exist_ok=True)
    make_nuclei(folder / "nuclei_data", data)
    make_plane(folder / "plane_data", data)
    sample = json.loads((ROOT / "config.json").read_text())
    del sample["test_data_dir"]
    sample["training_data_dir"] = {kind: str(ROOT / path) for kind, path in sample["training_data_dir"].items()}
    networks = {
        "sample": (train(folder, "sample", sample), ROOT / "sample/test"),
        "nuclei": (train(folder, "nuclei", {**NUCLEI, **folders(folder / "nuclei_data")}), folder / "nuclei_data/test"),
        PLANE: (train(folder, "plane", {**PLANES, **folders(folder / "plane_data")}), folder / "plane_data/test"),
    }
    for name, (run_dir, test) in networks.items():
        psnrs = [measure_psnr(run_dir, test, precision) for precision in PRECISIONS]
        check = read_record(run_dir).bfloat16_check
        print(
            f"{name}: {psnrs[0]:.4f} dB in float32, {psnrs[1]:.4f} dB in bfloat16, {psnrs[1] - psnrs[0]:+.4f} dB; "
            f"outputs on validation patches differ by {100 * check.difference:.2f} % of the error",
            flush=True,
        )


def measure_training(folder, data):
    """Print the PSNR of two trainings of equal seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    make_nuclei(folder / "nuclei_data", data)
    values = {**NUCLEI, **folders(folder / "nuclei_data")}
    seconds, num_epochs = {}, {"float32": NUCLEI["epochs"]}
    for precision in ("float32", "auto"):
        if precision == "auto":  # how many epochs take as long: by the first ones
            trial = train(folder, "trial", {**values, "epochs": 3})
            num_epochs["auto"] = round(seconds["float32"] / np.mean(read_seconds(trial)[1:]))
        run_dir = train(folder, precision, {**values, "epochs": num_epochs[precision], "precision": precision})
        seconds[precision] = sum(read_seconds(run_dir))
        psnr = measure_psnr(run_dir, folder / "nuclei_data/test", "float32")
        print(f"{precision}: {num_epochs[precision]} epochs in {seconds[precision]:.0f} s: {psnr:.2f} dB", flush=True)


def measure_sample(folder, before):
    """Print wall seconds and scores of trainings of the sample."""
    sides = {"float32": (ROOT, ["--precision", "float32"]), "auto": (ROOT, [])}
    if before:
        sides = {"before": (before, []), **sides}
    for seed in (0, 1):
        for name, (checkout, flags) in sides.items():
            run_dir = folder / f"{name}_{seed}"
            command = ["train.py", "-c", "config.json", "-o", run_dir, "--seed", seed, *flags]
            start = time.perf_counter()
            printed = call(*command, cwd=checkout)
            seconds = time.perf_counter() - start
            (mean,) = (line.split() for line in printed.splitlines() if line.startswith("mean "))
            print(f"{name}, seed {seed}: {seconds:.0f} s; PSNR {mean[2]} dB, SSIM {mean[5]}", flush=True)


def read_seconds(run_dir):
    """Seconds of each epoch of a run."""
    return np.genfromtxt(run_dir / "history.csv", delimiter=",", names=True)["seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "quality", "training", "sample"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    if options.what == "speed":
        measure_speed()
    elif options.what == "sample":
        measure_sample(options.folder.absolute(), options.before and options.before.absolute())
    else:
        work = measure_quality if options.what == "quality" else measure_training
        work(options.folder.absolute(), options.data.absolute())
