"""Models of the published program (Chen et al. 2021): files of Keras 2, read without running anything that is in them.

The architecture is JSON, from which the same network is built of stock layers; the arrays are HDF5. Python code that
such a file holds, of `Lambda` layers, is never looked at, let alone run. The two scalings of the image are known by
their names, the scaling of a block's residual by its place and by its factor, which stands beside the code as JSON. Any
other one is refused.
"""

import json
import math
import re
from pathlib import Path

import numpy as np

__all__ = ["PUBLISHED_SUFFIXES", "choose_published", "load_published"]

PUBLISHED_SUFFIXES = (".hdf5", ".h5")
_LOSS = re.compile(r"_(\d+\.\d+)$")  # at the end of a name such as weights_012_0.03456789
_SCALINGS = {"lambda_standardize": (2.0, -1.0), "lambda_destandardize": (0.5, 0.5)}  # factor and offset, by name
_ACTIVATIONS = ("linear", "relu", "sigmoid")
_WRAPPED = ("Model", "Functional")  # a network as a layer of another one, which ran it on several GPUs
_AROUND_IT = ("InputLayer", "Lambda", "Concatenate", *_WRAPPED)
_FIXED = {  # values of a convolution that published networks have
    "padding": "same",
    "data_format": "channels_last",
    "strides": 1,
    "dilation_rate": 1,
    "groups": 1,
}


def choose_published(folder):
    """The model of a folder with the lowest loss in its name, or the only one; None where there is none.

    A ValueError if there are several, and none has a loss in its name.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in PUBLISHED_SUFFIXES and path.is_file())
    losses = {path: float(found[1]) for path in files if (found := _LOSS.search(path.stem))}
    if losses:
        return min(losses, key=losses.get)
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:5])
        raise ValueError(
            f"{folder} holds {len(files)} models without a loss in their names ({names}): name the file with -m."
        )
    return files[0] if files else None


def load_published(path):
    """Build the network of a file, with its weights; a ValueError says why that is not possible."""
    import h5py

    from rcan.run_folder.model_file import count_weights

    if not h5py.is_hdf5(path):
        raise ValueError("no HDF5 file.")
    with h5py.File(path) as file:
        if "model_config" not in file.attrs or "model_weights" not in file:
            raise ValueError("no complete model of Keras 2: the architecture or the weights are missing.")
        num_stored = count_weights(file, stored=Path(path).stat().st_size)
        config = _unwrap(json.loads(_text(file.attrs["model_config"])))
        _check_size(config, num_stored)
        arrays = _read_arrays(file["model_weights"])
    model, layers = _build(config)
    for layer in layers:
        _give(layer, arrays)
    if arrays:
        raise ValueError(f"{len(arrays)} more arrays are stored than its layers have.")
    return model


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _unwrap(model):
    """Configuration of the network itself, taken out of what ran it on several GPUs."""
    if model["class_name"] not in _WRAPPED:
        raise ValueError(f"a {model['class_name']} model: a functional one is expected.")
    layers = model["config"]["layers"]
    inner = [layer for layer in layers if layer["class_name"] in _WRAPPED]
    if not inner:
        return model["config"]
    if len(inner) > 1 or any(layer["class_name"] not in _AROUND_IT for layer in layers):
        raise ValueError("models are nested in it in a way that published ones are not.")
    return _unwrap(inner[0])


def _check_size(config, num_stored):
    """Refuse an architecture that would make more weights than are stored."""
    filters = [layer["config"].get("filters", 0) for layer in config["layers"]]
    if max(filters, default=0) > num_stored:
        raise ValueError(f"a layer has {max(filters):,} filters, but {num_stored:,} weights are stored.")


# Layers


def _build(config):
    """The network of stock layers, and its layers with weights in their order."""
    from rcan.keras_setup import keras

    described = {layer["config"].get("name", layer.get("name")): layer for layer in config["layers"]}
    tensors, weighted = {}, []
    for name, layer in described.items():
        sources = _sources(layer)
        if any(source not in tensors for source in sources):
            raise ValueError(f"layer {name} stands before what it reads.")
        made = _make_scaling(keras, name, described) if _is_code(layer) else _make_layer(keras, name, layer)
        inputs = [tensors[source] for source in sources]
        tensors[name] = made if not inputs else made(inputs[0] if len(inputs) == 1 else inputs)
        if inputs and made.weights:
            weighted.append(made)
    ends = [_ends(config[key]) for key in ("input_layers", "output_layers")]
    if [len(each) for each in ends] != [1, 1]:
        raise ValueError("one input and one output are expected.")
    return keras.Model(tensors[ends[0][0]], tensors[ends[1][0]]), weighted


def _sources(layer):
    """Names of the layers that a layer reads."""
    nodes = layer["inbound_nodes"]
    if len(nodes) > 1:
        raise ValueError(f"layer {layer['config']['name']} is used {len(nodes)} times.")
    return [source[0] for node in nodes for source in node]


def _ends(places):
    """Names of the input or output layers; Keras writes one of them with or without a list around it."""
    places = [places] if places and isinstance(places[0], str) else places
    return [place[0] for place in places]


def _make_layer(keras, name, layer):
    """A stock layer, or the symbolic tensor of an input; a ValueError if published networks have no such layer."""
    kind, config = layer["class_name"], layer["config"]
    if kind == "InputLayer":
        _, *sizes, channels = config.get("batch_input_shape") or config["batch_shape"]
        return keras.Input((*(None for _ in sizes), channels), name=name)
    if kind in ("Conv2D", "Conv3D"):
        return _make_convolution(keras, name, kind, config)
    if kind == "Rescaling":
        return keras.layers.Rescaling(float(config["scale"]), float(config["offset"]), name=name)
    if kind in ("Activation", "ReLU"):
        return keras.layers.Activation(_activation(name, config.get("activation", "relu")), name=name)
    if kind == "Reshape":
        return keras.layers.Reshape([int(size) for size in config["target_shape"]], name=name)
    if kind in ("GlobalAveragePooling2D", "GlobalAveragePooling3D"):
        return getattr(keras.layers, kind)(keepdims=bool(config.get("keepdims", False)), name=name)
    if kind in ("Add", "Multiply"):
        return getattr(keras.layers, kind)(name=name)
    raise ValueError(f"layer {name} is a {kind}, which published networks do not have.")


def _is_code(layer):
    return layer["class_name"] == "Lambda"


def _make_scaling(keras, name, described):
    """The stock layer that stands for Python code; the code itself is not looked at."""
    scaling = _SCALINGS.get(re.sub(r"_\d+$", "", name))
    if scaling is None and _scales_residual(name, described):
        scaling = _find_factor(described[name]["config"]), 0.0
        if scaling[0] is None:
            raise ValueError(
                f"layer {name} is Python code (Lambda), which is not run: it stands where the residual of a block is "
                "scaled, but by what is said in the code alone. Save the network with the factor as an argument or a "
                "default value of the function."
            )
    if scaling is None:
        raise ValueError(
            f"layer {name} is Python code (Lambda), which is not run: only the scalings {' and '.join(_SCALINGS)}, and "
            "a constant factor of a block's residual, are known."
        )
    return keras.layers.Rescaling(*scaling, name=name)


def _scales_residual(name, described):
    """Whether a layer lies between the end of a block and the sum with what the block began with."""
    before = _sources(described[name])
    after = [other for other, layer in described.items() if name in _sources(layer)]
    if [len(before), len(after)] != [1, 1] or described[after[0]]["class_name"] != "Add":
        return False
    others = [source for source in _sources(described[after[0]]) if source != name]
    ends_block = described[before[0]]["class_name"] in ("Multiply", "Conv2D", "Conv3D")
    return ends_block and len(others) == 1 and others[0] in _ancestors(before[0], described)


def _ancestors(name, described):
    """Names of all layers that a layer depends on."""
    found, left = set(), [name]
    while left:
        new = {*_sources(described[left.pop()])} - found
        found |= new
        left += new
    return found


def _find_factor(config):
    """The one number beside the code of a function of one tensor: of its arguments, else its defaults and closure.

    Keras 2 writes a function as `[code, defaults, closure]`. None where there is no number, or anything else with it.
    """
    function, arguments = config.get("function"), config.get("arguments")
    values = [*arguments.values()] if isinstance(arguments, dict) else []
    if not values and isinstance(function, list):
        values = [value for part in function[1:3] if isinstance(part, list) for value in part]
    is_number = len(values) == 1 and isinstance(values[0], (int, float)) and not isinstance(values[0], bool)
    return float(values[0]) if is_number and math.isfinite(values[0]) else None


def _make_convolution(keras, name, kind, config):
    for key, expected in _FIXED.items():
        values = config.get(key, expected)
        if any(value != expected for value in (values if isinstance(values, list) else [values])):
            raise ValueError(f"layer {name} has the {key} {values}: published networks have {expected}.")
    return getattr(keras.layers, kind)(
        int(config["filters"]),
        [int(size) for size in config["kernel_size"]],
        padding="same",
        activation=_activation(name, config["activation"]),
        use_bias=bool(config["use_bias"]),
        name=name,
    )


def _activation(name, activation):
    if activation not in _ACTIVATIONS:
        raise ValueError(f"layer {name} has the activation {activation}: {', '.join(_ACTIVATIONS)} are known.")
    return activation


# Arrays


def _read_arrays(group):
    """Name and array of all weights, in the order of the layers."""
    return [
        (f"{layer}/{name}", np.asarray(group[layer][name]))
        for layer in _names(group, "layer_names")
        for name in _names(group[layer], "weight_names")
    ]


def _names(group, attribute):
    """Names in an attribute; Keras 2 divides one of more than 64 KB into attributes with numbers."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    found, number = [], 0
    while f"{attribute}{number}" in group.attrs:
        found += [_text(name) for name in group.attrs[f"{attribute}{number}"]]
        number += 1
    if not number:
        raise ValueError(f"{group.name} lacks its {attribute}.")
    return found


def _give(layer, arrays):
    """Give a layer the next arrays, which are taken away, if they have the right shapes."""
    given = arrays[: len(layer.weights)]
    shapes = [array.shape for _, array in given]
    expected = [tuple(weight.shape) for weight in layer.weights]
    if shapes != expected:
        raise ValueError(f"layer {layer.name} needs arrays of {expected}, stored are {shapes}.")
    layer.set_weights([array for _, array in given])
    del arrays[: len(given)]
