"""A network as an ONNX graph.

The graph is written from the layers of a Keras model, whatever backend Keras runs: a network has few kinds of them, and
each is one or two ONNX operators. Inside, arrays are channels first, as ONNX has them; input and output stay
`(N, Z, Y, X, C)` (or `(N, Y, X, C)`), with sizes left open.

Opset 15 is the oldest one that has all operators (`Shape` of some axes), so that many programs read it: ONNX Runtime
from 1.10 on, and the engines of Fiji, which end at 18.
"""

import numpy as np

from rcan.export.wrapping import INPUT, OUTPUT
from rcan.keras_setup import keras

__all__ = ["IR_VERSION", "OPSET", "to_onnx"]

OPSET, IR_VERSION = 15, 8


def to_onnx(model):
    """Write a Keras model of this package as an ONNX model.

    Parameters
    ----------
    model : keras.Model
        Functional, channels last, of the layers that `rcan.build_rcan`, published models and
        `rcan.export.wrapping.build_exported` have.

    Returns
    -------
    serialized : bytes
        Input ``"raw"`` and output ``"restored"``, float32, of shape `(N, *spatial, C)`. Whatever the model's
        precision is, all arithmetic is float32.

    Raises
    ------
    ValueError
        If a layer, or an option of one, has no counterpart here; it is named.
    """
    from onnx import TensorProto, helper

    ndim = len(model.input_shape) - 2
    graph = _Graph()
    names = {id(model.input): graph.add("Transpose", INPUT, perm=[0, ndim + 1, *range(1, ndim + 1)])}
    for layer in model.operations:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        write = _WRITERS.get(type(layer).__name__)
        if write is None:
            raise ValueError(
                f"layer {layer.name} is a {type(layer).__name__}, which has no counterpart in ONNX here: export "
                "--format savedmodel, or a network of the layers of rcan.build_rcan."
            )
        inputs = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        names[id(layer.output)] = write(graph, layer, *(names[id(tensor)] for tensor in inputs))
    graph.add("Transpose", names[id(model.output)], output=OUTPUT, perm=[0, *range(2, ndim + 2), 1])

    def value(name, sizes, channels):
        """Name and shape of an end of the graph."""
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sizes, channels])

    whole = helper.make_graph(
        graph.nodes,
        "rcan",
        [value(INPUT, "zyx"[-ndim:], model.input_shape[-1])],
        [value(OUTPUT, [None] * ndim, model.output_shape[-1])],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="rcan")
    return made.SerializeToString()


class _Graph:
    """Nodes and constants of a graph that is being written."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, operator, *inputs, output=None, **attributes):
        """Append an operator; give the name of its output."""
        from onnx import helper

        output = output or f"{operator.lower()}_{len(self.nodes):03}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values, dtype=np.float32):
        """Store an array; give its name."""
        from onnx import numpy_helper

        name = f"constant_{len(self.constants):03}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name


def _check(layer, is_known):
    if not is_known:
        raise ValueError(
            f"layer {layer.name}, a {type(layer).__name__}, has options that have no counterpart in ONNX here: export "
            "--format savedmodel, or a network of the layers of rcan.build_rcan."
        )


def _activate(graph, layer, x):
    activation = keras.activations.serialize(layer.activation)
    _check(layer, isinstance(activation, str) and activation in _ACTIVATIONS)
    operator = _ACTIVATIONS[activation]
    return graph.add(operator, x) if operator else x


def _weights(graph, layer):
    """Names of kernel and bias; the kernel (*spatial, A, B) of Keras becomes (B, A, *spatial)."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    names = [graph.constant(kernel.transpose(layer.rank + 1, layer.rank, *range(layer.rank)))]
    return names + [graph.constant(keras.ops.convert_to_numpy(layer.bias))] * layer.use_bias


def _is_plain(layer):
    return layer.data_format == "channels_last" and set(layer.dilation_rate) | {getattr(layer, "groups", 1)} == {1}


def _convolution(graph, layer, x):
    _check(layer, _is_plain(layer) and layer.padding in ("same", "valid"))
    if layer.padding == "valid":
        padding = {}
    elif set(layer.strides) == {1} and all(size % 2 for size in layer.kernel_size):
        padding = {"pads": [size // 2 for size in layer.kernel_size] * 2}
    else:  # depends on the size of the image
        padding = {"auto_pad": "SAME_UPPER"}
    options = {"kernel_shape": layer.kernel_size, "strides": layer.strides, **padding}
    return _activate(graph, layer, graph.add("Conv", x, *_weights(graph, layer), **options))


def _transposed_convolution(graph, layer, x):
    beyond = np.subtract(layer.kernel_size, layer.strides)  # voxels, in which the kernels of the ends reach outside
    is_known = layer.padding == "same" and layer.output_padding is None and beyond.min() >= 0
    _check(layer, _is_plain(layer) and is_known)
    pads = [*(beyond // 2).tolist(), *(beyond - beyond // 2).tolist()]
    options = {"kernel_shape": layer.kernel_size, "strides": layer.strides, "pads": pads}
    return _activate(graph, layer, graph.add("ConvTranspose", x, *_weights(graph, layer), **options))


def _pooling(graph, layer, x):
    _check(layer, layer.data_format == "channels_last")
    x = graph.add("GlobalAveragePool", x)
    return x if layer.keepdims else graph.add("Flatten", x)


def _reshape(graph, layer, x):
    """Of published models: (N, C), which was pooled, becomes (N, 1, 1, 1, C)."""
    _, *before = layer.input.shape
    _, *sizes, channels = layer.output.shape
    _check(layer, before == [channels] and set(sizes) == {1})
    return graph.add("Reshape", x, graph.constant([0, channels, *sizes], np.int64))


def _relu(graph, layer, x):
    _check(layer, (layer.max_value, layer.negative_slope, layer.threshold) == (None, 0, 0))
    return graph.add("Relu", x)


def _rescaling(graph, layer, x):
    """Scale and offset are numbers, or one for each channel."""
    rank = len(layer.input.shape) - 2

    def constant(values):
        """Store one number, or one for each channel, in a shape that fits arrays with the channels first."""
        values = np.asarray(values, np.float32)
        return graph.constant(values.reshape(-1, *(1,) * rank) if values.ndim else values)

    if np.any(np.not_equal(layer.scale, 1)):
        x = graph.add("Mul", x, constant(layer.scale))
    return graph.add("Add", x, constant(layer.offset)) if np.any(layer.offset) else x


def _concatenate(graph, layer, *parts):
    _check(layer, layer.axis in (-1, len(layer.output.shape) - 1))
    return graph.add("Concat", *parts, axis=1)


def _folded(operator):
    """The writer of a layer that takes two or more inputs: Keras' are lists, ONNX' are pairs."""

    def write(graph, layer, x, *others):
        """Join the inputs one by one."""
        for other in others:
            x = graph.add(operator, x, other)
        return x

    return write


def _root(graph, layer, x):
    return graph.add("Sqrt", x)


def _pixel_shuffle(graph, layer, x):
    rank = len(layer.factors)
    channels = layer.output.shape[-1]
    batch, spatial = graph.add("Shape", x, end=1), graph.add("Shape", x, start=2)
    channels = graph.constant([channels], np.int64)
    factors = graph.constant(layer.factors, np.int64)
    x = graph.add("Reshape", x, graph.add("Concat", batch, channels, factors, spatial, axis=0))
    # (N, C, z, y, x, Z, Y, X) -> (N, C, Z, z, Y, y, X, x)
    interleaved = [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
    x = graph.add("Transpose", x, perm=[0, 1, *interleaved])
    larger = graph.add("Mul", spatial, factors)
    return graph.add("Reshape", x, graph.add("Concat", batch, channels, larger, axis=0))


_ACTIVATIONS = {"linear": None, "relu": "Relu", "sigmoid": "Sigmoid"}
_WRITERS = {  # by class of Keras
    "Activation": _activate,
    "Add": _folded("Add"),
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed_convolution,
    "Conv3D": _convolution,
    "Conv3DTranspose": _transposed_convolution,
    "Divide": _folded("Div"),
    "GlobalAveragePooling2D": _pooling,
    "GlobalAveragePooling3D": _pooling,
    "Multiply": _folded("Mul"),
    "PixelShuffle": _pixel_shuffle,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Sqrt": _root,
}
