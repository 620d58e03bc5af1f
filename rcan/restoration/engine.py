"""What tiles are computed with: a network on one device or several, alone or as an ensemble of its symmetries."""

import contextlib
import itertools
import math
import queue
import re

import numpy as np

from rcan.hardware import query_gpus
from rcan.keras_setup import keras
from rcan.memory import free_memory
from rcan.run_folder.architecture import grid_of, upscaling_of

__all__ = [
    "Ensemble",
    "KerasEngine",
    "find_devices",
    "is_out_of_memory",
    "voxels_within_memory",
]

MAPS = 8  # feature maps of all channels that a forward pass holds at a time (bfloat16: 11): `benchmarks/memory.py`
SHARE_OF_FREE_MEMORY = 0.5
SMALLEST_TILE = 2**12  # voxels; where memory does not even hold this, it is not the tile that is too large
MAX_TILE_VOXELS = 2**22  # larger tiles save little, and each is a step of the progress
# Where the free memory of a GPU cannot be read; too much is halved when it fails:
ASSUMED_GPU_BYTES = 4 * 2**30


def find_devices(devices):
    """Names of the devices to compute on, as `keras.device` takes them.

    `devices` is ``"auto"`` (all GPUs, or the CPU where there is none), ``"cpu"``, or a number of GPUs (of logical CPU
    devices where there is no GPU). A ValueError says that there are fewer.
    """
    if devices == "cpu":
        return ("cpu:0",)
    if keras.backend.backend() == "torch":  # whose devices Keras does not list
        import torch

        names = [f"gpu:{i}" for i in range(torch.cuda.device_count())] or ["cpu:0"]
    else:
        names = keras.distribution.list_devices()
    kind = names[0].partition(":")[0].upper()
    if devices == "auto":
        return tuple(names[:1] if kind == "CPU" else names)
    if int(devices) > len(names):
        raise ValueError(
            f"devices is {devices} but there {'is' if len(names) == 1 else 'are'} {len(names)} ({kind}): name at most "
            "that many, or auto."
        )
    return tuple(names[: int(devices)])


def voxels_within_memory(model, devices):
    """Voxels of the largest tile that should be computed at a time, 4096 to 4 million.

    The largest power of two that half of the free memory of each device holds, so that a repeated call finds the
    same. A device that is named several times is shared by so many networks.
    """
    on_cpu = devices[0].startswith("cpu")
    num_devices = len({*devices})
    num_bytes = free_memory() / num_devices if on_cpu else _free_gpu_memory(num_devices)
    num_bytes *= num_devices / len(devices)
    num_voxels = SHARE_OF_FREE_MEMORY * num_bytes / (MAPS * _bytes_of_value(model) * _widest_map(model))
    return min(max(2 ** int(math.log2(max(num_voxels, 1))), SMALLEST_TILE), MAX_TILE_VOXELS)


def _bytes_of_value(model):
    """Bytes of a value of the feature maps that most layers make: the first and the last one may be float32."""
    return min(2 if layer.compute_dtype.endswith("float16") else 4 for layer in model.layers)


def _widest_map(model):
    """Most values that a layer makes of one voxel of the input."""
    if set(upscaling_of(model) + grid_of(model)) == {1}:  # all maps have as many voxels as the input
        return max(layer.output.shape[-1] for layer in model.layers)
    ndim, size = len(model.input_shape) - 2, 16
    fixed = keras.models.clone_model(model, input_tensors=keras.Input((*(size,) * ndim, model.input_shape[-1])))
    return max(math.prod(layer.output.shape[1:]) for layer in fixed.layers) / size**ndim


def _free_gpu_memory(num_devices):
    """Free bytes of the fullest of the first GPUs that this process sees."""
    return 2**20 * min(query_gpus("memory.free")[:num_devices], default=ASSUMED_GPU_BYTES / 2**20)


def is_out_of_memory(failure):
    """Whether an exception of any backend says that memory was too small."""
    named = type(failure).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(failure, MemoryError) or "RESOURCE_EXHAUSTED" in str(failure)


class KerasEngine:
    """A network as a function from a tile to the restored tile. Several threads may call it.

    Each device gets a copy of the model; one call uses one that is free. `factors` are the voxels written for each
    voxel read, on each spatial axis, `grid` those read for each voxel of the feature maps; `num_channels` the channels
    read and written. `name` is what messages call the network.
    """

    def __init__(self, model, devices=(None,), *, name="the network"):
        self.num_devices, self._name = len(devices), name
        self.factors, self.grid = upscaling_of(model), grid_of(model)
        self.num_channels = model.input_shape[-1], model.output_shape[-1]
        self._free = queue.SimpleQueue()
        for device in devices:
            copy = model
            if len(devices) > 1:
                with _on(device):
                    copy = keras.models.clone_model(model)
                    copy.set_weights(model.get_weights())
            if keras.backend.backend() == "tensorflow" and not copy.compiled:
                copy.jit_compile = False  # XLA is slower on CPU and fails with older cuDNN
            self._free.put((device, copy))

    def __call__(self, tile):
        """Restore one tile `(Z, Y, X, C)` or `(Y, X, C)`, background 0 and signal 1, float32.

        Where a size is no multiple of the grid, the voxels at its end are repeated.
        """
        missing = [-size % step for size, step in zip(tile.shape[:-1], self.grid, strict=True)]
        inside = tuple(slice(size * factor) for size, factor in zip(tile.shape[:-1], self.factors, strict=True))
        if any(missing):
            tile = np.pad(tile, [*((0, count) for count in missing), (0, 0)], mode="edge")
        device, model = self._free.get()
        try:
            with _on(device):
                return model.predict_on_batch(np.ascontiguousarray(tile)[np.newaxis])[0][inside]
        except (AttributeError, TypeError, KeyError, IndexError) as failure:  # of a layer, whose file is damaged
            # Keras says in the first line where it was, and in the next one what
            lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(failure)).splitlines() if line.strip()]
            reason = (lines[1:2] or lines or [type(failure).__name__])[0]
            raise ValueError(f"{self._name} cannot be computed ({reason}): save or train it again.") from failure
        finally:
            self._free.put((device, model))


def _on(device):
    return contextlib.nullcontext() if device is None else keras.device(device)


class Ensemble:
    """Mean of an engine over its symmetries: the same tile turned by quarters in XY and flipped, and turned back.

    Of a `size` of 8, or 16 with flips in Z. `with_spread` gives the standard deviation of the members as further
    channels. A ValueError says that a 2D network cannot flip Z, or that the upscaling differs in Y and X.
    """

    def __init__(self, engine, size, *, with_spread=False):
        ndim = len(engine.factors)
        if size == 16 and ndim == 2:
            raise ValueError("--ensemble 16 flips Z, which a 2D network does not see: use --ensemble 8.")
        if engine.factors[-2] != engine.factors[-1]:
            raise ValueError(
                f"--ensemble turns tiles in XY but the network enlarges {engine.factors} (Y and X differently): "
                "leave it out."
            )
        self.num_devices, self.factors, self.grid = engine.num_devices, engine.factors, engine.grid
        self.num_channels = engine.num_channels[0], engine.num_channels[1] * (2 if with_spread else 1)
        self._engine, self._size, self._with_spread = engine, size, with_spread

    def __call__(self, tile):
        """As the engine's, with twice the channels where the spread is asked for."""
        plane = tile.ndim - 3, tile.ndim - 2
        flips = [(), plane[:1]] if self._size == 8 else [(), plane[:1], (0,), (0, *plane[:1])]
        mean, squares = 0, 0  # squared differences from the mean, by Welford's rule
        for number, (turn, axes) in enumerate(itertools.product(range(4), flips), 1):
            turned = np.rot90(np.flip(tile, axes), turn, plane)
            member = np.flip(np.rot90(self._engine(turned), -turn, plane), axes).astype(np.float64)
            step = member - mean
            mean = mean + step / number
            squares = squares + step * (member - mean)
        spread = [np.sqrt(squares / self._size)] if self._with_spread else []
        return np.concatenate([mean, *spread], axis=-1).astype(np.float32)
