"""The arithmetic that a network is computed in: float32, or bfloat16 where that is fast and as good.

A number in bfloat16 has the range of a float32 and 8 of its 24 bits: products of two take a half or a quarter of the
time where the processor has instructions for them, and many times as long where it has none. Sums of the products are
float32. Here the first and the last layer of a network, and all outside it (normalisation, blending, loss, scores),
stay float32, and so do the weights that are trained and saved [1]_.

References
----------
.. [1] Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training (2019), arXiv:1905.12322; Micikevicius et al.,
   Mixed Precision Training, ICLR (2018), arXiv:1710.03740
"""

import time
import warnings

import numpy as np

from rcan.hardware import ChosenPrecision, Support, find_bfloat16
from rcan.keras_setup import keras, layers

__all__ = ["choose_for_network", "choose_precision", "suit_network", "with_precision"]

_LARGEST_DIFFERENCE = 1 / 20  # between outputs in bfloat16 and in float32, in units of the error of the latter
_FAST_BACKENDS = ("tensorflow", "torch")  # JAX takes as long in bfloat16 as in float32 on a CPU
_TRIAL_SECONDS = 0.2  # for each precision
_NOTICED = 1.1  # times as long


def choose_precision(asked, *, on_gpu, num_gpus=None):
    """Choose what to compute in on the CPU, or on the first GPUs: a `ChosenPrecision`.

    ``auto`` is bfloat16 where the hardware has instructions for it, float32 elsewhere. Another choice is taken as it
    is; a warning says how many times as long as float32 it takes on a CPU without them, by a trial of half a second.
    """
    support = find_bfloat16(on_gpu=on_gpu, num_gpus=num_gpus)
    if support.is_fast and not on_gpu and keras.backend.backend() not in _FAST_BACKENDS:
        support = Support(False, f"{keras.backend.backend()} is not faster in bfloat16 on a CPU")
    if asked == "auto":
        return ChosenPrecision("mixed_bfloat16" if support.is_fast else "float32", support.reason)
    if asked != "float32" and not on_gpu and not (support.is_fast and asked == "mixed_bfloat16"):
        _warn_if_slow(asked, support.reason)
    return ChosenPrecision(asked, "as asked for")


def _warn_if_slow(name, reason):
    seconds = [_time_convolutions(policy) for policy in ("float32", name)]
    factor = seconds[1] / seconds[0]
    if factor > _NOTICED:
        reason = reason if name == "mixed_bfloat16" else "processors compute float16 as float32"
        warnings.warn(
            f"precision {name} takes {factor:.2g} times as long here as float32 ({reason}): name float32.", stacklevel=4
        )


def _time_convolutions(policy):
    """Seconds of some convolutions under a policy of Keras."""
    image = np.ones((1, 8, 32, 32, 16), np.float32)
    steps = [layers.Conv3D(16, 3, padding="same", dtype=policy) for _ in range(3)]
    model = keras.Sequential([keras.Input(image.shape[1:]), *steps])
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    model.predict_on_batch(image)  # which is traced and compiled
    number, started = 0, time.perf_counter()
    while time.perf_counter() < started + _TRIAL_SECONDS:
        model.predict_on_batch(image)
        number += 1
    return (time.perf_counter() - started) / number


def choose_for_network(asked, check, *, on_gpu, num_gpus=None):
    """Choose what to compute a trained network in, as `choose_precision`.

    ``auto`` takes bfloat16 for networks alone whose `check`, the `rcan.run_folder.record.PrecisionCheck` that a
    training makes at its end, says that their output hardly changes with it; `check` is None where there is none.
    """
    chosen = choose_precision(asked, on_gpu=on_gpu, num_gpus=num_gpus)
    return suit_network(chosen, check) if asked == "auto" else chosen


def suit_network(chosen, check):
    """What was chosen for the hardware, or float32 where the `check` of a network does not allow for less."""
    if chosen.name == "float32":
        return chosen
    if not check:
        return ChosenPrecision("float32", "no training.json says that bfloat16 is as good for this network")
    if check.difference > _LARGEST_DIFFERENCE:
        share = f"{100 * check.difference:.2g} % of its error"
        return ChosenPrecision("float32", f"in bfloat16 the output of this network differs by {share}")
    return chosen


def with_precision(model, name):
    """The same network, computed under a policy of Keras; it has the same weights.

    The first and the last layer with weights, and all before and after them, stay float32. A ValueError says that the
    network is not made of layers alone.
    """
    policies = {layer.name: layer.compute_dtype for layer in model.layers}
    weighted = [number for number, layer in enumerate(model.layers) if layer.weights]
    inner = {layer.name for layer in model.layers[weighted[0] + 1 : weighted[-1]]} if weighted else set()
    wanted = {layer: keras.DTypePolicy(name).compute_dtype if layer in inner else "float32" for layer in policies}
    if policies == wanted:
        return model
    if any(isinstance(layer, keras.Model) for layer in model.layers):
        raise ValueError(f"a network that holds other networks cannot be computed in {name}: choose float32.")

    def rebuild(layer):
        """A layer of the same kind, in the precision that it shall have."""
        policy = name if layer.name in inner else "float32"
        return layer.__class__.from_config({**layer.get_config(), "dtype": policy})

    rebuilt = keras.models.clone_model(model, clone_function=rebuild)
    rebuilt.set_weights(model.get_weights())
    return rebuilt
