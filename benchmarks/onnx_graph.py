"""The network as an ONNX graph, for the comparison with other engines.

The graph is written by hand from the layers of a Keras model, with whatever backend Keras runs: the network
has few kinds of layers, and each is one or two ONNX operators. Inside, arrays are channels first, as
ONNX has them; input and output stay `(N, Z, Y, X, C)` (or `(N, Y, X, C)`), with sizes left open.
"""

import keras
import numpy as np

_OPSET, _IR_VERSION = 18, 10  # ONNX Runtime 1.18 and newer read them


def to_onnx(model):
    """Write a Keras model of this package as an ONNX model.

    Parameters
    ----------
    model : keras.Model
        Functional, channels last, of the layers that `build_rcan` uses: convolutions with stride 1,
        global average pooling, `Rescaling`, `Add`, `Multiply`, `PixelShuffle`.

    Returns
    -------
    serialized : bytes
        Input ``"raw"`` and output ``"restored"``, float32, of shape `(N, *spatial, C)`. Whatever the model's
        precision is, all arithmetic is float32.

    Raises
    ------
    ValueError
        If a layer has no counterpart here.
    """
    from onnx import TensorProto, helper

    ndim = len(model.input_shape) - 2
    graph = _Graph()
    names = {model.input.name: graph.add("Transpose", "raw", perm=[0, ndim + 1, *range(1, ndim + 1)])}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        write = _WRITERS.get(type(layer).__name__)
        if write is None:
            raise ValueError(f"layer {layer.name} is a {type(layer).__name__}, which has no counterpart in ONNX here.")
        inputs = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        names[layer.output.name] = write(graph, layer, *(names[tensor.name] for tensor in inputs))
    graph.add("Transpose", names[model.output.name], output="restored", perm=[0, *range(2, ndim + 2), 1])

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, *shape[1:]])

    whole = helper.make_graph(
        graph.nodes,
        model.name,
        [value("raw", model.input_shape)],
        [value("restored", model.output_shape)],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


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


def _convolution(graph, layer, x):
    rank = layer.rank
    plain = (
        layer.padding in ("same", "valid")
        and layer.data_format == "channels_last"
        and set(layer.strides) | set(layer.dilation_rate) | {layer.groups} == {1}
        and all(size % 2 for size in layer.kernel_size)
    )
    activation = keras.activations.serialize(layer.activation)
    if not plain or activation not in _ACTIVATIONS:
        raise ValueError(f"layer {layer.name} has options that have no counterpart in ONNX here.")
    kernel = keras.ops.convert_to_numpy(layer.kernel)  # (*spatial, in, out) -> (out, in, *spatial)
    weights = [graph.constant(kernel.transpose(rank + 1, rank, *range(rank)))]
    if layer.use_bias:
        weights.append(graph.constant(keras.ops.convert_to_numpy(layer.bias)))
    pads = [size // 2 * (layer.padding == "same") for size in layer.kernel_size] * 2
    x = graph.add("Conv", x, *weights, kernel_shape=layer.kernel_size, pads=pads)
    operator = _ACTIVATIONS[activation]
    return graph.add(operator, x) if operator else x


def _pooling(graph, layer, x):
    if not layer.keepdims:
        raise ValueError(f"layer {layer.name} has options that have no counterpart in ONNX here.")
    return graph.add("GlobalAveragePool", x)


def _rescaling(graph, layer, x):
    if layer.scale != 1:
        x = graph.add("Mul", x, graph.constant(layer.scale))
    return graph.add("Add", x, graph.constant(layer.offset)) if layer.offset else x


def _folded(operator):
    """The writer of a layer that takes two or more inputs: Keras' are lists, ONNX' are pairs."""

    def write(graph, layer, x, *others):
        for other in others:
            x = graph.add(operator, x, other)
        return x

    return write


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
_WRITERS = {
    "Conv3D": _convolution,
    "Conv2D": _convolution,
    "GlobalAveragePooling3D": _pooling,
    "GlobalAveragePooling2D": _pooling,
    "Rescaling": _rescaling,
    "Add": _folded("Add"),
    "Multiply": _folded("Mul"),
    "PixelShuffle": _pixel_shuffle,
}
