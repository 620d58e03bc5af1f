"""A trained network with the treatment of grey values around it, as one Keras model of stock layers.

What `rcan apply` does to grey values before and after the network depends on the image: its range and its noise. Other
programs cannot measure them as `rcan apply` does. They are therefore taken of one image and become constants of the
model, which is then right for images taken with the same settings.
"""

import numpy as np

from rcan.keras_setup import keras, layers, ops

__all__ = ["INPUT", "OUTPUT", "build_exported"]

INPUT, OUTPUT = "raw", "restored"  # names in the exported graphs


def build_exported(model, *, stabilisation=None, ranges=None):
    """Build the model that is exported: the network, and what is done to grey values before and after it.

    Parameters
    ----------
    model : keras.Model
        Of any precision; it is computed in float32 in what is built.
    stabilisation : rcan.intensity.Stabilisation, optional
        Of the image, for a network whose input is stabilised. Its two channels for each of the image are then made
        inside.
    ranges : array of shape (C, 2), optional
        Grey values of 0 and 1 of the image. The model then reads and writes grey values, and where not given,
        normalised ones.

    Returns
    -------
    exported : keras.Model
        Input ``"raw"``; the layers, operations and weights of Keras alone, but for `PixelShuffle`, which Keras loads
        in safe mode without this package.
    """
    channels = model.input_shape[-1] if stabilisation is None else len(stabilisation.ratio)
    inputs = x = keras.Input((*model.input_shape[1:-1], channels), name=INPUT)
    if ranges is not None:
        low, high = np.asarray(ranges, np.float64).T
        x = _scale(x, 1, -low, "minus_background")  # apart from the division: small ranges far from 0 stay exact
        x = _scale(x, 1 / (high - low), 0, "to_normalised")
    if stabilisation is not None:
        x = _stabilise(x, stabilisation)
    x = _append(model, x)
    if ranges is not None:
        low, high = (ends[np.minimum(np.arange(x.shape[-1]), len(ends) - 1)] for ends in (low, high))
        x = _scale(x, high - low, low, "to_grey_values")
    return keras.Model(inputs, x, name="rcan")


def _scale(x, scale, offset, name):
    """Multiply the channels by numbers, (C,) or one, and add others."""
    scale, offset = (values[0] if len(set(values)) == 1 else values for values in map(_listed, (scale, offset)))
    return layers.Rescaling(scale, offset, name=name)(x)


def _listed(values):
    return np.atleast_1d(np.asarray(values, np.float64)).tolist()


def _stabilise(x, numbers):
    """As `rcan.intensity.stabilise` does; the symbols are those of `rcan.intensity.Stabilisation`."""
    shifted = _scale(x, 1, -numbers.level, "minus_level")
    variance = _scale(shifted, numbers.gain, np.square(numbers.least), "variance")
    root = ops.sqrt(layers.ReLU(name="at_least_zero")(variance))
    transformed = ops.divide(_scale(shifted, 2, 0, "twice"), _scale(root, 1, numbers.least, "denominator"))
    z = _scale(transformed, 1 / numbers.ratio, -numbers.zero / numbers.ratio, "stabilised")
    n = _scale(x, 0, numbers.strength, "noise")
    return layers.Concatenate(name="stabilised_and_noise")([z, n])


def _append(model, x):
    """Put copies of a network's layers, in float32 and with the same weights, behind a tensor."""
    made = {id(model.input): x}
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        config = {**layer.get_config(), "dtype": "float32"}
        if "kernel_initializer" in config:
            config["kernel_initializer"] = "zeros"  # options of others are not known to older versions of Keras
        copy = layer.__class__.from_config(config)
        is_merging = isinstance(layer.input, (list, tuple))
        made[id(layer.output)] = copy([made[id(part)] for part in layer.input] if is_merging else made[id(layer.input)])
        copy.set_weights(layer.get_weights())
    return made[id(model.output)]
