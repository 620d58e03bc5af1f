"""What a network reads and writes: dimensions, channels and sizes, found out without computing anything."""

import functools

import numpy as np

__all__ = ["check_architecture", "grid_of", "upscaling_of"]

_MULTIPLE = 840  # voxels, of all grids up to 8
_WIDEST = 64  # voxels, of what a layer looks at or steps over
_RULE = "a network takes one image of any size and returns one of the same size, or of a whole number of times it"


def check_architecture(model):
    """Refuse a model that cannot restore images in tiles: a ValueError says why, and what a network must be."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs: {_RULE}.")
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    for kind, (_, *sizes, channels) in zip(("reads", "writes"), shapes, strict=True):
        if len(sizes) not in (2, 3) or channels is None or set(sizes) != {None}:
            raise ValueError(
                f"it {kind} arrays of {_in_words(sizes, channels)}: (batch, Z, Y, X, channels) or (batch, Y, X, "
                "channels) are expected, with any sizes and a fixed number of channels."
            )
    if len(shapes[0]) != len(shapes[1]):
        raise ValueError(f"it reads {len(shapes[0]) - 2} spatial axes and writes {len(shapes[1]) - 2}: {_RULE}.")
    for layer in model.layers:
        for name in ("kernel_size", "strides", "dilation_rate", "pool_size"):
            sizes = np.ravel(getattr(layer, name, 1))
            if max(sizes) > _WIDEST:
                raise ValueError(
                    f"its layer {layer.name} has a {name} of {max(sizes)}: it would look beyond any tile. At most "
                    f"{_WIDEST} are allowed."
                )
    for size in (_MULTIPLE, _MULTIPLE + 1):
        found = _output_sizes(model, size)
        if any(length < _MULTIPLE or length % (length // _MULTIPLE) for length in found):
            written = "x".join(map(str, found))
            raise ValueError(f"of {'x'.join([str(size)] * len(found))} voxels it makes {written}: {_RULE}.")


def _in_words(sizes, channels):
    return f"({', '.join('any' if size is None else str(size) for size in ('batch', *sizes, channels))})"


def upscaling_of(model):
    """Voxels that a model writes for each voxel that it reads, on each spatial axis."""
    return tuple(length // _MULTIPLE for length in _output_sizes(model, _MULTIPLE))


def grid_of(model):
    """Voxels that a model reads for each voxel of its feature maps, on each spatial axis: it reads multiples of it.

    Of one voxel more than a multiple it makes as many as of the next multiple.
    """
    sizes, factors = _output_sizes(model, _MULTIPLE + 1), upscaling_of(model)
    return tuple(length // factor - _MULTIPLE for length, factor in zip(sizes, factors, strict=True))


@functools.lru_cache(maxsize=2)  # both sizes of the network in use: each takes a call of all its layers
def _output_sizes(model, size):
    """Voxels that a model writes on each spatial axis of an input of this size."""
    shape = (1, *(size,) * (len(model.input_shape) - 2), model.input_shape[-1])
    return model.compute_output_shape(shape)[1:-1]
