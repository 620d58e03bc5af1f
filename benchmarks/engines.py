"""Is another engine faster than TensorFlow on this CPU?

    python -m pip install onnx onnxruntime torch
    python benchmarks/engines.py [--rounds 5] [--threads 2]

The default network with the same weights and tiles in Keras on TensorFlow as `apply.py` uses it, ONNX Runtime, and
PyTorch (channels last, traced and frozen). Each engine is a process of its own; they take turns, and the median of
the ratios of a turn counts, of wall time and of CPU time (which other work on the machine disturbs less).
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FLOP_PER_VOXEL = 1.994e6  # of a forward pass of the default network
TILES = ("16x96x96", "32x128x128")


def make_tensorflow(folder):
    """The engine of `apply.py`."""
    from rcan.keras_setup import keras
    from rcan.restoration.engine import KerasEngine

    engine = KerasEngine(keras.saving.load_model(folder / "network.keras", compile=False))
    return lambda batch: engine(batch[0])[np.newaxis]


def make_onnxruntime(folder):
    """A session without threads that wait busily for each other: faster on a machine that does other work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(folder / "network.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"raw": batch})[0]


def make_torch(folder):
    """The operators of the ONNX graph one by one, traced."""
    import onnx
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
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

    network = Network().eval().to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(network, torch.rand(1, 8, 32, 32, 1)))

    def run(batch):
        with torch.no_grad():
            return traced(torch.from_numpy(batch)).numpy()

    return run


ENGINES = {"tensorflow": make_tensorflow, "onnxruntime": make_onnxruntime, "torch": make_torch}


def work(name, folder):
    """Answer tiles on standard input with wall and CPU seconds on standard output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = ENGINES[name](folder)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        batch = np.load(line.strip())
        started, cpu = time.perf_counter(), time.process_time()
        restored = run(batch)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        np.save(folder / f"{name}.npy", restored)
        print(seconds, cpu, file=out, flush=True)


def race(folder, rounds, threads):
    """Print speed and ratios of all engines for each tile."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"TF_NUM_INTRAOP_THREADS": str(threads)}
    workers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--work", name, "--folder", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )
        for name in ENGINES
    }  # fmt: skip
    for name, worker in workers.items():
        if worker.stdout.readline() != "ready\n":
            raise SystemExit(f"{name} does not start: is it installed?")

    def ask(name, path):
        workers[name].stdin.write(f"{path}\n")
        workers[name].stdin.flush()
        return tuple(map(float, workers[name].stdout.readline().split()))

    for tile in TILES:
        shape = tuple(map(int, tile.split("x")))
        path = folder / f"{tile}.npy"
        np.save(path, np.random.default_rng(0).random((1, *shape, 1), np.float32))
        for name in ENGINES:
            ask(name, path)  # the first call of a shape prepares
        expected = np.load(folder / "tensorflow.npy")
        turns = [{name: ask(name, path) for name in random.sample([*ENGINES], len(ENGINES))} for _ in range(rounds)]
        for name in ENGINES:
            wall, cpu = np.median([turn[name] for turn in turns], axis=0)
            ratios = np.median([np.divide(turn["tensorflow"], turn[name]) for turn in turns], axis=0)
            error = np.abs(np.load(folder / f"{name}.npy") - expected).max() / expected.std()
            gigaflop = FLOP_PER_VOXEL * math.prod(shape) / 1e9
            print(
                f"{tile:11} {name:12} {gigaflop / wall:6.1f} GFLOP/s, {gigaflop / cpu:6.1f} per CPU; over TensorFlow "
                f"{ratios[0]:.2f} (wall), {ratios[1]:.2f} (CPU); largest difference {error:.1e}",
                flush=True,
            )
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


def main():
    """Make the network, and race."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.folder)
        return
    from onnx_graph import to_onnx

    from rcan.model import build_rcan

    with tempfile.TemporaryDirectory() as folder:
        network = build_rcan()
        network.save(Path(folder) / "network.keras")
        (Path(folder) / "network.onnx").write_bytes(to_onnx(network))
        race(Path(folder), arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
