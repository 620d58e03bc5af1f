"""Is another engine faster than TensorFlow on this CPU, and does it restore as well?

    python -m pip install onnx onnxruntime openvino nncf torch
    python benchmarks/precision.py quality FOLDER --data ../shared/data     # trains the networks
    python benchmarks/engines.py FOLDER [--rounds 5] [--threads 2] [--networks default,sample,nuclei]

The same weights and tiles in Keras on TensorFlow as `apply.py` uses it, ONNX Runtime, OpenVINO, and PyTorch (channels
last, traced and frozen), in float32, in bfloat16, and in OpenVINO with 8-bit integers, calibrated with tiles of the
training data. Three networks: the default one (not trained, speed alone), that of the sample and that of the nuclei.
Each engine is a process of its own; they take turns, and the median of the ratios of a turn counts, of wall time and
of CPU time (which other work on the machine disturbs less). PSNR is that of the test images, after an affine match.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TILES = {"default": (16, 96, 96), "sample": (24, 96, 96), "nuclei": (32, 128, 96)}
CALIBRATION = 24, (16, 64, 64)  # number and shape of tiles of the training data
OURS = "tensorflow bfloat16"


# The engines: each is made from `network.keras`, `network.onnx` and `calibration.npy` in a folder


def make_tensorflow(folder, precision):
    """The engine of `apply.py`."""
    from rcan.keras_setup import keras
    from rcan.precision import with_precision
    from rcan.restoration.engine import KerasEngine

    model = keras.saving.load_model(folder / "network.keras", compile=False)
    name = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    engine = KerasEngine(with_precision(model, name))
    return lambda batch: engine(batch[0])[np.newaxis]


def make_onnxruntime(folder, precision):
    """A session without threads that wait busily for each other: faster on a machine that does other work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = (folder / "network.onnx").read_bytes()
    if precision == "bfloat16":
        graph = to_bfloat16(graph)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"raw": batch})[0]


def to_bfloat16(serialized):
    """An ONNX graph that casts its input to bfloat16, and its output back."""
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(serialized)
    graph = model.graph
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant).astype(ml_dtypes.bfloat16)
        dims = list(constant.dims)
        constant.CopyFrom(helper.make_tensor(constant.name, TensorProto.BFLOAT16, dims, values.tobytes(), raw=True))
    for node in graph.node:
        node.input[:] = ["raw_low" if name == "raw" else name for name in node.input]
        node.output[:] = ["restored_low" if name == "restored" else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", ["raw"], ["raw_low"], to=TensorProto.BFLOAT16))
    graph.node.append(helper.make_node("Cast", ["restored_low"], ["restored"], to=TensorProto.FLOAT))
    return model.SerializeToString()


def make_openvino(folder, precision):
    """Compiled for the CPU; integers where it can, the rest in bfloat16, after calibration."""
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "network.onnx")
    if precision == "int8":
        import nncf

        tiles = np.load(folder / "calibration.npy")
        model = nncf.quantize(model, nncf.Dataset(tiles, lambda tile: tile[np.newaxis]), subset_size=len(tiles))
    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": count_threads()}
    compiled = core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY"})
    return lambda batch: compiled({"raw": batch})["restored"]


def make_torch(folder, precision):
    """The operators of the ONNX graph one by one, traced."""
    import onnx
    import torch

    torch.set_num_threads(count_threads())
    graph = onnx.load(folder / "network.onnx").graph
    constants = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    operators = {
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Add": torch.add,
        "Mul": torch.mul,
        "GlobalAveragePool": lambda x: x.mean((2, 3, 4), keepdim=True),
    }

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, values in constants.items():
                self.register_buffer(name, values)

        def forward(self, raw):
            known = {"raw": raw, **{name: getattr(self, name) for name in constants}}
            for node in graph.node:
                inputs = [known[name] for name in node.input]
                options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
                if node.op_type == "Conv":
                    result = torch.nn.functional.conv3d(*inputs, padding=tuple(options["pads"][:3]))
                elif node.op_type == "Transpose":
                    result = inputs[0].permute(*options["perm"])
                else:
                    result = operators[node.op_type](*inputs)
                known[node.output[0]] = result
            return known["restored"]

    dtype = getattr(torch, precision)
    network = Network().eval().to(memory_format=torch.channels_last_3d, dtype=dtype)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(network, torch.rand(1, 8, 32, 32, 1, dtype=dtype)))

    def run(batch):
        with torch.no_grad():
            return traced(torch.from_numpy(batch).to(dtype)).float().numpy()

    return run


def count_threads():
    """Threads that an engine may use."""
    return int(os.environ["OMP_NUM_THREADS"])


ENGINES = {
    f"{name} {precision}": (make, precision)
    for name, make, precisions in (
        ("tensorflow", make_tensorflow, ("float32", "bfloat16")),
        ("onnxruntime", make_onnxruntime, ("float32", "bfloat16")),
        ("openvino", make_openvino, ("float32", "bfloat16", "int8")),
        ("torch", make_torch, ("float32", "bfloat16")),
    )
    for precision in precisions
}


# A process for each engine


def work(name, folder):
    """Answer tiles on standard input with wall and CPU seconds on standard output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    make, precision = ENGINES[name]
    try:
        run = make(folder, precision)
    except Exception as failure:
        print(f"no: {failure}".splitlines()[0], file=out, flush=True)
        return
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        batch = np.load(line.strip())
        started, cpu = time.perf_counter(), time.process_time()
        restored = run(batch)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        np.save(folder / f"{name}.npy", restored)
        print(seconds, cpu, file=out, flush=True)


class Worker:
    """An engine in a process of its own; takes tiles as `rcan.restoration.engine.KerasEngine` does."""

    num_devices, factors, grid, num_channels = 1, (1, 1, 1), (1, 1, 1), (1, 1)

    def __init__(self, name, folder, threads):
        self._folder, self._result = folder, folder / f"{name}.npy"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"TF_NUM_INTRAOP_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, folder, "--work", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def answer(self):
        """What the process said, or how it ended."""
        return self._process.stdout.readline().strip() or f"no: it ended with {self._process.wait()}"

    def time(self, tile):
        """Wall and CPU seconds of a tile."""
        np.save(self._folder / "tile.npy", tile[np.newaxis])
        self._process.stdin.write(f"{self._folder / 'tile.npy'}\n")
        self._process.stdin.flush()
        return tuple(map(float, self.answer().split()))

    def __call__(self, tile):
        """The tile restored."""
        self.time(tile)
        return np.load(self._result)[0]

    def stop(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


# The comparison


def prepare(name, source, folder):
    """Write a network as the engines read it, and its calibration tiles; the pairs to test on, and a tile."""
    from rcan.config import ImagePair
    from rcan.data.pairs import open_pairs
    from rcan.export.onnx_graph import to_onnx
    from rcan.model import build_rcan
    from rcan.run_folder.models import load_model

    run_dir, train, test = source
    model, record = load_model(run_dir)

    def read(data):
        folders = ImagePair(raw=data / "raw", gt=data / "gt")
        opened = open_pairs(folders, [], percentiles=record.percentiles, ndim=3)
        return [pair.read(number) for pair in opened for number in range(pair.num_frames)]

    learned, judged = read(train), read(test)
    rng, (number, shape) = np.random.default_rng(0), CALIBRATION
    tiles = [crop(learned[rng.integers(len(learned))][0], shape, rng) for _ in range(number)]
    np.save(folder / "calibration.npy", np.array(tiles))
    network = build_rcan() if name == "default" else model
    network.save(folder / "network.keras")
    (folder / "network.onnx").write_bytes(to_onnx(network))
    return [] if name == "default" else judged, crop(judged[0][0], TILES[name], rng)


def crop(volume, shape, rng):
    """A part of a volume, somewhere."""
    from rcan.regions import region_at

    starts = [rng.integers(size - side + 1) for size, side in zip(volume.shape[:-1], shape, strict=True)]
    return np.ascontiguousarray(volume[region_at(starts, shape)], np.float32)


def race(name, source, rounds, threads):
    """Print speed, ratios and PSNR of all engines with a network."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        judged, tile = prepare(name, source, folder)
        workers = {}
        for engine in ENGINES:  # one after the other: calibration takes all cores
            worker = Worker(engine, folder, threads)
            if (said := worker.answer()) == "ready":
                workers[engine] = worker
            else:
                print(f"{name:8} {engine:20} {said}", flush=True)
        outputs = {engine: worker(tile) for engine, worker in workers.items()}  # the first call prepares
        turns = [{each: workers[each].time(tile) for each in random.sample([*workers], len(workers))}
                 for _ in range(rounds)]  # fmt: skip
        for engine, worker in workers.items():
            wall, cpu = np.median([turn[engine] for turn in turns], axis=0)
            ratios = np.median([np.divide(turn[OURS], turn[engine]) for turn in turns], axis=0)
            apart = np.sqrt(np.mean((outputs[engine] - outputs["tensorflow float32"]) ** 2))
            print(
                f"{name:8} {engine:20} {wall:6.3f} s, {cpu:6.3f} s of CPU; over {OURS} {ratios[0]:.2f} (wall), "
                f"{ratios[1]:.2f} (CPU); RMS difference {apart / outputs['tensorflow float32'].std():.1e}"
                + describe_psnr(worker, judged),
                flush=True,
            )
        for worker in workers.values():
            worker.stop()


def describe_psnr(worker, judged):
    """Mean PSNR of an engine on the test images, in words."""
    from rcan.restoration.tiled import TiledRestorer
    from rcan.scores import compare

    restorer = TiledRestorer(worker, max_voxels=2**20)
    psnrs = [compare(raw, restorer.restore_array(raw), gt)["psnr_restored"] for raw, gt in judged]
    return f"; {np.mean(psnrs):.4f} dB" if psnrs else ""


def main():
    """Race with each network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--networks", default=",".join(TILES))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.folder)
        return
    root = Path(__file__).parents[1]
    sample = arguments.folder / "sample", root / "sample/train", root / "sample/test"
    nuclei = (
        arguments.folder / "nuclei",
        arguments.folder / "nuclei_data/train",
        arguments.folder / "nuclei_data/test",
    )
    sources = {"default": sample, "sample": sample, "nuclei": nuclei}
    for name in arguments.networks.split(","):
        race(name, sources[name], arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
