"""Functions of the caller's own, in the place of ours: the network, the loss, one more augmentation.

They are tried before a run begins, so that a mistake in one of them leaves an earlier run as it is.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from rcan.failures import as_one_line
from rcan.keras_setup import keras, tf
from rcan.run_folder.architecture import check_architecture, upscaling_of


class OwnFunctions(NamedTuple):
    """What `rcan.training.fit.train` takes instead of ours, or None; a TypeError for what cannot be called."""

    network: Callable | None = None
    loss: Callable | None = None
    augment: Callable | None = None

    @classmethod
    def checked(cls, **functions):
        """The functions, if they are such."""
        for name, function in functions.items():
            if function is not None and not callable(function):
                raise TypeError(
                    f"{name} is a {type(function).__name__}: give a function, or leave it out. What can be chosen by "
                    "its name is a key of the config."
                )
        return cls(**functions)

    @property
    def names(self):
        """What they are called, by what they stand for, as in training.json."""
        return {kind: _name_of(function) for kind, function in self._asdict().items() if function is not None}

    def build_network(self, sizes):
        """Build the caller's network for `sizes`, keywords of `rcan.build_rcan`; a ValueError if it does not fit."""
        model, name = self.network(**sizes), self.names["network"]
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise ValueError(
                f"{name} returned a {type(model).__name__}: it must return a keras.Model with inputs and outputs, as "
                "keras.Model(inputs, outputs) makes it."
            )
        try:
            check_architecture(model)
        except ValueError as failure:
            raise ValueError(f"the network of {name} cannot restore images: {failure}") from None
        found = model.input_shape[-1], model.output_shape[-1], upscaling_of(model)
        expected = sizes["num_input_channels"], sizes["num_output_channels"], tuple(sizes["upscaling"])
        if found != expected:
            raise ValueError(
                f"the network of {name} reads {found[0]} channels, writes {found[1]} and upscales by {found[2]}: for "
                f"these data it must read {expected[0]}, write {expected[1]} and upscale by {expected[2]}, as its "
                "arguments say."
            )
        try:
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model), safe_mode=True)
        except Exception as failure:  # of layers that anybody may have written
            raise ValueError(
                f"the network of {name} could be saved but not loaded ({_lines(failure)[0]}): take layers of Keras, "
                "and register your own with keras.saving.register_keras_serializable; Lambda layers are refused."
            ) from failure
        return model

    def check_loss(self, gt):
        """Try the caller's loss on a batch of ground truth; a ValueError says why it cannot be trained by."""
        name, gt = self.names["loss"], tf.where(tf.math.is_nan(gt), 0.0, gt)

        @tf.function
        def differentiate(gt, restored):
            """The loss of each image, and its gradient."""
            with tf.GradientTape() as tape:
                tape.watch(restored)
                losses = per_image(self.loss)(gt, restored)
            return losses, tape.gradient(losses, restored)

        try:
            losses, gradient = differentiate(gt, 0.9 * gt + 0.05)
        except Exception as failure:  # of a function that anybody may have written
            raise ValueError(
                f"the loss {name} cannot be computed ({_lines(failure)[-1]}): write it with keras.ops, not with NumPy."
            ) from failure
        if losses.shape.as_list() not in ([], [gt.shape[0]]):
            raise ValueError(
                f"the loss {name} is of shape {tuple(losses.shape)} for a batch of {gt.shape[0]}: it must be one "
                "number for each image of the batch, or for each voxel, or for all."
            )
        if not tf.reduce_all(tf.math.is_finite(losses)):
            raise ValueError(
                f"the loss {name} is not finite for images near their ground truth: keep it from dividing by 0, and "
                "from roots and logarithms of numbers below 0."
            )
        if gradient is None:
            raise ValueError(f"the loss {name} has no gradient: it must depend on the restored image, smoothly.")


def per_image(loss):
    """The same loss as one number for each image (or for all), the mean where it has one for each voxel."""

    def mean_of_images(gt, restored):
        """Mean over all axes but the first."""
        losses = tf.convert_to_tensor(loss(gt, restored))
        return tf.reduce_mean(losses, axis=list(range(1, losses.shape.rank)))

    return mean_of_images


def _lines(failure):
    """Lines of what an exception says; of Keras the first one, of a traced function the last one says what it is."""
    lines = [as_one_line(line.strip()) for line in str(failure).splitlines() if line.strip()]
    return lines or [type(failure).__name__]


def _name_of(function):
    """Module and name of a function, or of the class of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
