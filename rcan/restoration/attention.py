"""Channel attention that looks at a window instead of at the whole tile.

In training the attention averages over a patch; on a larger tile it averages over more, and what it sees depends on
how the volume was cut. A window of the patch's size, moved over the tile, restores what the network was trained
with [1]_ and makes the result independent of the tile.

The moving average changes slowly. It is therefore computed at eight places along each side of the window and
interpolated linearly, as two products of matrices along each axis: a percent or two of the network's work.

References
----------
.. [1] Chu et al., Improving Image Restoration by Revisiting Global Information Aggregation, ECCV (2022),
   arXiv:2112.04491
"""

import math

from rcan.keras_setup import keras, layers, ops
from rcan.run_folder.architecture import grid_of

__all__ = ["with_local_attention"]

_PLACES = 8  # along a side of the window


def with_local_attention(model, window):
    """Let the channel attention of a network average over a moving window of a spatial shape.

    The window, in voxels of the input, is that of the training patch: on a tile no larger than it nothing changes.
    The network has the same weights and cannot be saved. A ValueError says that it has no global average pooling
    that multiplies feature maps.
    """
    kinds = {type(layer) for layer in model.layers}
    pools = {layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D}
    if not (kinds & pools and layers.Multiply in kinds):
        raise ValueError("the network has no channel attention that could be local: leave --attention out.")

    window = tuple(math.ceil(side / step) for side, step in zip(window, grid_of(model), strict=True))

    def replace(layer):
        """A layer that averages over a window, or multiplies by such averages, or the same layer again."""
        if type(layer) in pools:
            return _WindowAverage(window, name=layer.name, dtype=layer.dtype_policy.name)
        if type(layer) is layers.Multiply:
            return _MultiplyInterpolated(window, name=layer.name, dtype=layer.dtype_policy.name)
        return layer.__class__.from_config(layer.get_config())

    local = keras.models.clone_model(model, clone_function=replace)
    local.set_weights(model.get_weights())
    return local


class _WindowAverage(layers.Layer):
    """Averages of `(N, *spatial, C)` over a window, at a grid of places: `(N, *places, C)`."""

    def __init__(self, window, **options):
        super().__init__(**options)
        self._window = window

    def call(self, x):
        """Average `x`, a spatial axis at a time."""
        for axis, window in enumerate(self._window, 1):
            size = ops.shape(x)[axis]
            width = ops.cast(ops.minimum(window, size), "float32")
            # Of an even-handed window around the place:
            first = ops.floor(_places(size, window) - width / 2 + 1)
            first = ops.clip(first, 0, ops.cast(size, "float32") - width)[:, None]
            voxel = ops.arange(size, dtype="float32")
            inside = ops.logical_and(voxel >= first, voxel < first + width)
            x = _along(ops.cast(inside, x.dtype) / ops.cast(width, x.dtype), x, axis)
        return x

    def compute_output_shape(self, shape):
        """Return the shape of the grid of places; unknown sizes stay unknown."""
        places = (size and -(-size // _step(window)) for size, window in zip(shape[1:-1], self._window, strict=True))
        return (shape[0], *places, shape[-1])


class _MultiplyInterpolated(layers.Layer):
    """Feature maps `(N, *spatial, C)` times a gate that is known at the grid of places."""

    def __init__(self, window, **options):
        super().__init__(**options)
        self._window = window

    def call(self, inputs):
        """Multiply the feature maps by the gate, interpolated an axis at a time."""
        x, gate = inputs
        for axis, window in reversed(list(enumerate(self._window, 1))):
            size = ops.shape(x)[axis]
            places = _places(size, window)
            voxel = ops.clip(ops.arange(size, dtype="float32"), places[0], places[-1])
            weights = ops.maximum(1 - ops.abs(voxel[:, None] - places) / _step(window), 0)
            gate = _along(ops.cast(weights, x.dtype), gate, axis)
        return x * gate

    def compute_output_shape(self, shapes):
        """Return the shape of the feature maps."""
        return shapes[0]


def _step(window):
    return max(1, window // _PLACES)


def _places(size, window):
    """Centres of the cells of the grid, in voxels."""
    step = _step(window)
    return ops.arange((size + step - 1) // step, dtype="float32") * step + (step - 1) / 2


def _along(matrix, x, axis):
    """Apply a matrix to one axis, without moving others."""
    shape = ops.shape(x)
    x = ops.reshape(x, (*shape[:axis], shape[axis], -1))
    return ops.reshape(ops.matmul(matrix, x), (*shape[:axis], ops.shape(matrix)[0], *shape[axis + 1 :]))
