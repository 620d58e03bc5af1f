"""A network as a package of bioimage.io, specification 0.5, with weights for Keras 3 and for ONNX.

Range and noise of an image are constants: a program that reads a package can measure percentiles of an image, but can
neither measure its noise nor, in the postprocessing, go back to its grey values. The range is in the package's
preprocessing and postprocessing (`scale_linear`), where it can be read and changed; the noise is inside the weights.
"""

import io
import os
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np

from rcan.atomic_io import list_versions
from rcan.export.card_facts import gather_facts
from rcan.export.card_trust import describe_misuse
from rcan.export.documentation import write_documentation
from rcan.export.onnx_graph import OPSET, to_onnx
from rcan.export.run_files import copy_run_files
from rcan.export.tensors import axes_of, describe_ends, has_stock_layers
from rcan.export.wrapping import INPUT, OUTPUT, build_exported
from rcan.failures import as_one_line, install_command
from rcan.keras_setup import keras
from rcan.report.methods import CITATIONS, describe_scaling
from rcan.restoration.tiled import OVERLAP
from rcan.run_folder.architecture import grid_of, upscaling_of

__all__ = ["write_package"]

_HALO = OVERLAP // 2  # voxels of the feature maps at the edge of a tile that rcan apply throws away, too
_DOI = "10.1038/s41592-021-01155-x"
_TAGS = ("fluorescence-light-microscopy", "image-restoration", "denoising", "rcan", "tensorflow", "fiji")
_TOLERANCE = 1e-4  # of the range, between what computes a network


def write_package(path, options, model, record, image):
    """Write a package, and test it by bioimageio.core; returns a description.

    `options` are `ExportOptions`, `model` and `record` those of `rcan.load_model`, `image` is the `ImageFacts` that the
    package is made for. A ValueError says which detail the specification does not allow, or that a test has failed.
    """
    from bioimageio.spec import save_bioimageio_package
    from pydantic import ValidationError

    exported = build_exported(model, stabilisation=image.stabilisation)
    with tempfile.TemporaryDirectory(prefix="rcan-package-") as scratch:
        try:
            package = _describe_package(Path(scratch), options, model, exported, record, image)
        except ValidationError as failure:
            raise ValueError(_explain(failure)) from failure
        save_bioimageio_package(package, output_path=path)
    names = [*package.weights.available_formats]
    for name in names:
        _test(path, name)
    heading = (
        f"{options.output}: {model.count_params():,} parameters, bioimage.io package {package.format_version}, ONNX "
        f"opset {OPSET}; passed the test of bioimageio.core with the weights {' and '.join(names)}"
    )
    missing = (
        []
        if "keras_v3" in names
        else ["It has ONNX weights alone: upscaling needs a layer that Keras alone does not have."]
    )
    return "\n".join([heading, *missing, *describe_ends(exported, record, image)])


def _explain(failure):
    """The findings of the specification in one line; those that name no field are of the libraries."""
    named = [error for error in failure.errors() if error["loc"]]
    if not named:
        reason = as_one_line(failure.errors()[0]["msg"])[:200]
        return f"bioimageio.spec cannot write the package ({reason}): try other versions, {install_command('export')}."
    found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in named[:3])
    return f"bioimage.io does not allow such a package ({found}): change --name, --author, --license or --description."


def _test(path, name):
    """Let bioimageio.core test a package with weights of a name; a ValueError says that it has failed."""
    with _named_backend(), redirect_stdout(io.StringIO()):  # of Keras' bars of progress
        from bioimageio.core import test_model

        summary = test_model(path, weight_format=name)
    if summary.status != "passed":
        failed = [f"{detail.name}: {error.msg}" for detail in summary.details for error in detail.errors]
        raise ValueError(f"bioimageio.core does not get the same with the weights {name} ({'; '.join(failed)[:500]}).")


@contextmanager
def _named_backend():
    """Tell bioimageio.core which backend Keras runs on: it takes PyTorch where the environment says nothing."""
    earlier = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    try:
        yield
    finally:
        if earlier is None:
            os.environ.pop("KERAS_BACKEND")
        else:
            os.environ["KERAS_BACKEND"] = earlier


# The description


def _describe_package(folder, options, model, exported, record, image):
    """The package, a model description of bioimageio.spec; its files are written to a folder."""
    from bioimageio.spec.model import v0_5

    facts = gather_facts(options, model, record)
    write_documentation(folder / "README.md", facts, exported, image)
    np.save(folder / "test_input.npy", image.raw[np.newaxis])
    np.save(folder / "test_output.npy", image.restored[np.newaxis])
    raw, restored = _describe_tensors(v0_5, folder, exported, image)
    return v0_5.ModelDescr(
        name=facts.name,
        description=facts.description,
        authors=[{"name": author} for author in facts.authors],
        license=facts.license,
        cite=[v0_5.CiteEntry(text=CITATIONS[0].removeprefix("The method: "), doi=v0_5.Doi(_DOI))],
        documentation=v0_5.FileDescr(source=folder / "README.md"),
        tags=[*_TAGS, f"{len(axes_of(exported))}d"],
        inputs=[raw],
        outputs=[restored],
        weights=_write_weights(v0_5, folder, exported),
        attachments=[
            v0_5.FileDescr(source=folder / name) for name in copy_run_files(folder, options.model_dir, model, record)
        ],
        config=v0_5.Config(bioimageio=_describe_config(v0_5, facts, image)),
    )


def _describe_config(v0_5, facts, image):
    """Fields of the specification about architecture and training; what is not known is left out."""
    fields = {
        "reproducibility_tolerance": [_tolerance(v0_5, image)],
        "modality": "fluorescence microscopy",
        "task": "image restoration",
        "model_parameter_count": facts.num_parameters,
        "out_of_scope_use": describe_misuse(facts),
    }
    own = facts.record.own_functions or {}
    if facts.architecture and "network" not in own:
        fields["architecture_type"] = "RCAN"
    if facts.is_recorded:
        config, seconds = facts.config, sum(row.get("seconds", 0) for row in facts.history)
        fields["training"] = {
            "training_preprocessing": describe_scaling(facts.record, facts.noun),
            "training_epochs": len(facts.history) or config["epochs"],
            "training_batch_size": config["batch_size"],
            "initial_learning_rate": config["initial_learning_rate"],
            "learning_rate_schedule": config["schedule"],
            "loss_function": own.get("loss", config["loss"]),
            "optimizer": "Adam",
            **({"training_duration": seconds / 3600} if seconds else {}),
        }
    return v0_5.BioimageioConfig(**fields)


def _write_weights(v0_5, folder, exported):
    """Weights for Keras, of stock layers alone, and for ONNX."""
    (folder / "network.onnx").write_bytes(to_onnx(exported))
    is_stock = has_stock_layers(exported)
    onnx = v0_5.OnnxWeightsDescr(
        source=folder / "network.onnx", opset_version=OPSET, parent="keras_v3" if is_stock else None
    )
    if not is_stock:
        return v0_5.WeightsDescr(onnx=onnx)
    exported.save(folder / "network.keras")
    backend = keras.backend.backend()
    versions = list_versions("keras", backend)
    stock = v0_5.KerasV3WeightsDescr(
        source=folder / "network.keras",
        keras_version=v0_5.Version(versions["keras"]),
        backend=(backend, v0_5.Version(versions[backend].partition("+")[0])),
    )
    return v0_5.WeightsDescr(keras_v3=stock, onnx=onnx)


def _tolerance(v0_5, image):
    """By how much results may differ: the specification allows for a hundredth of the largest value at most."""
    span = float(np.ptp(image.ranges, axis=1).min())
    absolute = max(0.0, min(_TOLERANCE * span, 0.009 * float(image.restored.max())))
    return v0_5.ReproducibilityTolerance(relative_tolerance=_TOLERANCE, absolute_tolerance=absolute)


# Input and output


def _describe_tensors(v0_5, folder, exported, image):
    """Descriptions of input and output."""
    factors, grid = upscaling_of(exported), grid_of(exported)
    halos = [_halo(size, step) for size, step in zip(image.shape, grid, strict=True)]
    scales = [_scales(*sizes) for sizes in zip(image.voxel_size, factors, strict=True)]
    read, written = exported.input_shape[-1], exported.output_shape[-1]
    if image.stabilisation is not None:
        read = len(image.ranges)
    axes = [v0_5.BatchAxis()], [v0_5.BatchAxis()]
    for name, step, factor, halo, (unit, scale, finer) in zip(
        axes_of(exported), grid, factors, halos, scales, strict=True
    ):
        size = v0_5.ParameterizedSize(min=2 * halo + step, step=step)
        axes[0].append(v0_5.SpaceInputAxis(id=v0_5.AxisId(name), size=size, unit=unit, scale=scale))
        size = v0_5.SizeReference(tensor_id=v0_5.TensorId(INPUT), axis_id=v0_5.AxisId(name))
        options = {"id": v0_5.AxisId(name), "size": size, "unit": unit, "scale": finer}
        if halo:
            axes[1].append(v0_5.SpaceOutputAxisWithHalo(**options, halo=halo * factor))
        else:
            axes[1].append(v0_5.SpaceOutputAxis(**options))
    for spatial, num_channels in zip(axes, (read, written), strict=True):
        names = image.channel_names
        if not names or len(names) != num_channels:
            names = [f"channel{number}" for number in range(num_channels)]
        spatial.append(v0_5.ChannelAxis(channel_names=list(names)))
    low, high = image.ranges.T
    chosen = np.minimum(np.arange(written), len(low) - 1)
    return (
        v0_5.InputTensorDescr(
            id=v0_5.TensorId(INPUT),
            description="the raw image, grey values",
            axes=axes[0],
            test_tensor=v0_5.FileDescr(source=folder / "test_input.npy"),
            data=v0_5.IntervalOrRatioDataDescr(type="float32"),
            preprocessing=_scale_linear(v0_5, 1 / (high - low), -low / (high - low)),
        ),
        v0_5.OutputTensorDescr(
            id=v0_5.TensorId(OUTPUT),
            description="the restored image, in the grey values of the raw image",
            axes=axes[1],
            test_tensor=v0_5.FileDescr(source=folder / "test_output.npy"),
            data=v0_5.IntervalOrRatioDataDescr(type="float32"),
            postprocessing=_scale_linear(v0_5, (high - low)[chosen], low[chosen]),
        ),
    )


def _halo(size, step):
    """Voxels at each edge of a block that are thrown away: fewer where images are too thin for such blocks."""
    return max(0, min(_HALO * step, (size - step) // 2 // step * step))


def _scales(voxel_size, factor):
    """Unit, and size of a voxel of raw and of the restored image.

    The specification computes the size of the output by dividing the two, and rounds down. They are numbers of 32
    bits, whose products with whole numbers are exact.
    """
    if not voxel_size:
        return None, float(factor), 1.0
    finer = float(np.float32(voxel_size / factor))
    return "micrometer", finer * factor, finer


def _scale_linear(v0_5, gain, offset):
    """Multiply each channel by a gain, and add an offset; nothing where that changes nothing."""
    gain, offset = gain.astype(float).tolist(), offset.astype(float).tolist()
    if len(gain) > 1:
        kwargs = {"axis": v0_5.AxisId("channel"), "gain": gain, "offset": offset}
    else:
        kwargs = {"gain": gain[0], "offset": offset[0]}
    if set(gain) == {1} and set(offset) == {0}:
        return []
    return [v0_5.ScaleLinearDescr(kwargs=kwargs)]
