"""What is exported gives in other programs what this package gives."""

import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
from pydantic import ValidationError

import rcan
from rcan.__main__ import main
from rcan.export.onnx_graph import OPSET, to_onnx
from rcan.export.wrapping import build_exported
from rcan.intensity import denormalise, find_stabilisation, normalise, stabilise
from rcan.model import build_rcan

NOISE_RANGE = [[[0.001, 0, 1e-4]] * 2, [[0.2, 0, 0.05]] * 2]
NETWORKS = {
    "3D": {},
    "2D": {"ndim": 2},
    "two groups": {"num_residual_groups": 2, "residual_scaling": 0.5},
    "coarse": {"downsampling": (1, 2, 2)},
    "coarse 2D": {"ndim": 2, "downsampling": (4, 3)},
    "upscaling": {"upscaling": (2, 2, 2), "downsampling": (1, 2, 2)},
    "upscaling unlike": {"upscaling": (1, 3, 2)},
    "two channels": {"num_input_channels": 2, "num_output_channels": 2},
    "stabilised": {"num_input_channels": 2, "downsampling": (1, 2, 2)},
    "stabilised two channels": {"num_input_channels": 4, "num_output_channels": 2, "downsampling": (3, 2, 1)},
}


def make_network(**options):
    """A small network with random weights."""
    size = {"num_channels": 4, "num_residual_blocks": 1, "num_residual_groups": 1}
    model = build_rcan(**{**size, **options})
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.2, weight.shape) for weight in model.weights])
    return model


def make_run(folder, *, normalization="percentiles", **options):
    """A run folder of a small network; returns its path as text."""
    folder.mkdir(parents=True)
    num_channels = options.pop("channels", 1)
    inputs = num_channels * (2 if normalization == "anscombe" else 1)
    make_network(num_input_channels=inputs, num_output_channels=num_channels, **options).save(folder / "best.keras")
    record = {"normalization": normalization}
    if normalization == "anscombe":
        record["noise_range"] = [noise[:num_channels] for noise in NOISE_RANGE]
    (folder / "training.json").write_text(json.dumps(record))
    return str(folder)


@pytest.fixture
def raw(tmp_path, write_tiff, noisy_pair):
    """A volume of 24 planes."""
    return str(write_tiff(tmp_path / "raw.tif", noisy_pair((24, 72, 72), 1)[0], "ZYX"))


def export(run, output, kind, *flags):
    """Call the command; returns its exit status."""
    return main(["export", "-m", str(run), "-o", str(output), "--format", kind, *map(str, flags)])


DETAILS = ["--author", "Ada Lovelace, Grace Hopper", "--license", "CC-BY-4.0"]


# ONNX


def assert_alike(found, expected, tolerance=1e-5):
    """To a part of the extent of what is expected."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.ptp(expected))


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_what_keras_gives_at_any_size(name, rng):
    model = make_network(**NETWORKS[name])
    serialized = to_onnx(build_exported(model))
    onnx.checker.check_model(serialized, full_check=True)
    session = onnxruntime.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    ndim = len(model.input_shape) - 2
    for shape in [(6, 12, 24), (5, 7, 11), (9, 24, 17)]:
        tiles = rng.uniform(-0.5, 1.5, (2, *shape[-ndim:], model.input_shape[-1])).astype(np.float32)
        (restored,) = session.run(["restored"], {"raw": tiles})
        assert_alike(restored, model.predict_on_batch(tiles))


@pytest.mark.parametrize("name", ["two channels", "stabilised two channels"])
@pytest.mark.parametrize("noise", [0.0001, 0.01, 1], ids="noise {}".format)
def test_an_exported_network_treats_grey_values_as_the_package_does(name, noise, rng):
    model = make_network(**NETWORKS[name])
    ranges, noises = np.array([[100, 350], [1000, 5000]]), np.array([[noise, 0.01, noise / 9], [noise / 2, 0, 1e-3]])
    tiles = rng.uniform([50, 500], [500, 6000], (1, 6, 12, 24, 2)).astype(np.float32)
    inputs, stabilisation = normalise(tiles, ranges), None
    if name.startswith("stabilised"):
        inputs = stabilise(inputs, noises, NOISE_RANGE)
        stabilisation = find_stabilisation(noises, NOISE_RANGE)
    expected = denormalise(model.predict_on_batch(inputs), ranges)
    exported = build_exported(model, ranges=ranges, stabilisation=stabilisation)
    session = onnxruntime.InferenceSession(to_onnx(exported), providers=["CPUExecutionProvider"])
    for restored in (exported.predict_on_batch(tiles), *session.run(["restored"], {"raw": tiles})):
        for channel in range(2):
            assert_alike(restored[..., channel], expected[..., channel])


def test_small_ranges_far_from_zero_stay_exact(rng):
    model = make_network()
    ranges = np.array([[60000, 60010]])
    tiles = rng.uniform(60000, 60010, (1, 4, 8, 8, 1)).astype(np.float32)
    expected = model.predict_on_batch(normalise(tiles, ranges))
    restored = normalise(build_exported(model, ranges=ranges).predict_on_batch(tiles), ranges)
    assert_alike(restored, expected, 1e-3)  # the output itself is stored in steps of 1/256 grey values


@pytest.mark.parametrize("name", ["2d_groups2_blocks1", "3d_groups1_blocks3", "3d_groups2_blocks2", "3d_two_channels"])
def test_onnx_runtime_gives_what_published_models_gave(data_dir, name, tmp_path):
    folder = data_dir / "legacy_models" / name
    assert export(folder, tmp_path / "a.onnx", "onnx") == 0
    with np.load(folder / "expected.npz") as file:
        (restored,) = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"raw": file["input"]})
        assert_alike(restored, file["output"])


def test_a_network_in_bfloat16_is_exported_in_float32(rng):
    model = make_network()
    tiles = rng.uniform(0, 1, (1, 4, 8, 8, 1)).astype(np.float32)
    lower = keras.models.clone_model(
        model, clone_function=lambda layer: layer.from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    )
    lower.set_weights(model.get_weights())
    (restored,) = onnxruntime.InferenceSession(to_onnx(build_exported(lower))).run(None, {"raw": tiles})
    assert_alike(restored, model.predict_on_batch(tiles))


def test_the_opset_is_one_that_fiji_reads(tmp_path, tiny_models, capsys):
    assert 15 <= OPSET <= 18
    assert export(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx") == 0
    assert [(item.domain, item.version) for item in onnx.load(tmp_path / "a.onnx").opset_import] == [("", OPSET)]
    assert f"ONNX opset {OPSET}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.LayerNormalization(name="mine"), "layer mine is a LayerNormalization, which has no counterpart"),
        (keras.layers.Conv3D(1, 3, dilation_rate=2, padding="same", name="mine"), "layer mine, a Conv3D, has options"),
        (
            keras.layers.Conv3D(1, 3, activation="gelu", padding="same", name="mine"),
            "layer mine, a Conv3D, has options",
        ),
        (keras.layers.ReLU(max_value=6, name="mine"), "layer mine, a ReLU, has options"),
    ],
)
def test_a_layer_without_counterpart_is_refused_by_name(layer, message):
    inputs = keras.Input((None, None, None, 1))
    with pytest.raises(ValueError, match=message):
        to_onnx(keras.Model(inputs, layer(inputs)))


def apply(run, raw, folder, *flags):
    """What apply.py makes of an image."""
    out = folder / "applied.tif"
    assert main(["apply", "-m", run, "-i", raw, "-o", str(out), "--precision", "float32", "--overwrite", *flags]) == 0
    return tifffile.imread(out)


# SavedModel

OLD_OPERATIONS = {  # of TensorFlow 1.15
    "AddV2", "BiasAdd", "Cast", "ConcatV2", "Const", "Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2",
    "Identity", "Mean", "Mul", "NoOp", "Pack", "Placeholder", "Prod", "RealDiv", "Relu", "Reshape", "Shape", "Sigmoid",
    "Sqrt", "Squeeze", "StridedSlice", "Transpose",
}  # fmt: skip
RESTORE = """
import sys

sys.modules["keras"] = sys.modules["rcan"] = None  # as if they were not installed
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

for folder in sys.argv[1:]:
    restore = tf.saved_model.load(folder + "/model").signatures["serving_default"]
    np.save(folder + "/restored.npy", restore(raw=tf.constant(np.load(folder + "/tiles.npy")))["restored"].numpy())
    with open(folder + "/model/saved_model.pb", "rb") as file:
        (graph,) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]
    assert not graph.graph_def.library.function
    print(*{node.op for node in graph.graph_def.node})
"""


def test_tensorflow_without_keras_restores_with_a_saved_model(tmp_path, write_tiff, noisy_pair):
    cases = {
        "volume": ((24, 2, 36, 44), "ZCYX", {"normalization": "anscombe", "downsampling": (1, 2, 2), "channels": 2}),
        "image": ((44, 52), "YX", {"ndim": 2, "upscaling": (2, 3), "downsampling": (2, 1)}),
    }
    expected = {}
    for name, (shape, axes, options) in cases.items():
        run, image = make_run(tmp_path / name / "run", **options), noisy_pair(shape, 3)[0]
        raw = str(write_tiff(tmp_path / name / "raw.tif", image, axes))
        assert export(run, tmp_path / name / "model", "savedmodel", "-i", raw) == 0
        np.save(tmp_path / name / "tiles.npy", channels_last(image, axes)[None].astype(np.float32))
        expected[name] = channels_last(apply(run, raw, tmp_path), axes)
    command = [sys.executable, "-W", "ignore", "-c", RESTORE, *(str(tmp_path / name) for name in cases)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= OLD_OPERATIONS
    for name in cases:
        assert_alike(np.load(tmp_path / name / "restored.npy")[0], expected[name])


def channels_last(image, axes):
    """The array as networks read it."""
    return np.moveaxis(image, axes.index("C"), -1) if "C" in axes else image[..., np.newaxis]


def test_a_saved_model_can_be_an_archive(tmp_path, tiny_models, capsys):
    assert export(tiny_models / "2d.keras", tmp_path / "a.zip", "savedmodel") == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert "saved_model.pb" in archive.namelist()
    printed = capsys.readouterr().out
    assert "SavedModel for TensorFlow 1.15 and newer, tag serve, signature serving_default" in printed
    assert "input raw: float32, (batch, y, x, channel), 1 channel, background 0 and signal 1" in printed


# bioimage.io


PACKAGES = {
    "stabilised": {"normalization": "anscombe", "downsampling": (1, 2, 2)},
    "2D, two channels": {"ndim": 2, "channels": 2},
    "upscaling, few planes": {"upscaling": (1, 2, 2)},
}


@pytest.fixture(scope="module", params=PACKAGES)
def package(request, tmp_path_factory, write_tiff, noisy_pair):
    """Paths of a run folder, an image with known voxels, and the package, as text; and the kind."""
    folder, options = tmp_path_factory.mktemp("package"), PACKAGES[request.param]
    shape, axes = ((2, 72, 72), "CYX") if options.get("ndim") == 2 else ((24, 72, 72), "ZYX")
    if "few planes" in request.param:
        shape = (6, 72, 72)
    raw = write_tiff(folder / "raw.tif", noisy_pair(shape, 1)[0], axes, spacing=0.3, unit="um")
    run = make_run(folder / "run", **options)
    assert export(run, folder / "a.zip", "bioimageio", "-i", raw, *DETAILS) == 0
    return run, str(raw), str(folder / "a.zip"), request.param


@pytest.fixture
def core(monkeypatch):
    """bioimageio.core, which is told on which backend Keras runs."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    import bioimageio.core

    return bioimageio.core


def weights_of(kind):
    return ["onnx"] if kind.startswith("upscaling") else ["keras_v3", "onnx"]


def test_bioimageio_passes_its_own_test_with_each_of_the_weights(package, core):
    *_, path, kind = package
    assert [*core.load_model_description(path).weights.available_formats] == weights_of(kind)
    for name in weights_of(kind):
        summary = core.test_model(path, weight_format=name)
        assert summary.status == "passed", summary.format()


def test_a_package_has_what_its_users_need(package, core):
    *_, path, kind = package
    described = core.load_model_description(path)
    assert described.format_version.startswith("0.5.")
    assert [author.name for author in described.authors] == ["Ada Lovelace", "Grace Hopper"]
    assert str(described.license) == "CC-BY-4.0"
    assert [str(entry.doi) for entry in described.cite] == ["10.1038/s41592-021-01155-x"]
    with zipfile.ZipFile(path) as archive:
        documentation = archive.read("README.md").decode()
    assert "## Validation" in documentation
    assert "those of raw.tif, as rcan apply measures them" in documentation
    sizes = {axis.id: axis.size for axis in described.inputs[0].axes if axis.type == "space"}
    expected = {  # sizes of the input, halo of the output
        "stabilised": ({"z": (17, 1), "y": (34, 2), "x": (34, 2)}, {"z": 8, "y": 16, "x": 16}),
        "2D, two channels": ({"y": (17, 1), "x": (17, 1)}, {"y": 8, "x": 8}),
        "upscaling, few planes": ({"z": (5, 1), "y": (17, 1), "x": (17, 1)}, {"z": 2, "y": 16, "x": 16}),
    }[kind]
    halos = {str(axis.id): axis.halo for axis in described.outputs[0].axes if axis.type == "space"}
    assert ({str(name): (size.min, size.step) for name, size in sizes.items()}, halos) == expected
    if "z" in sizes:
        (depth,) = (axis for axis in described.inputs[0].axes if axis.id == "z")
        assert (depth.unit, depth.scale) == ("micrometer", pytest.approx(0.3, rel=1e-6))


def test_its_test_input_is_a_tile_of_the_image(package):
    _, raw, path, kind = package
    with zipfile.ZipFile(path) as archive:
        tile = np.load(io.BytesIO(archive.read("test_input.npy")))[0]
    image = tifffile.imread(raw)
    image = np.moveaxis(image, 0, -1) if kind.startswith("2D") else image[..., None]
    places = np.lib.stride_tricks.sliding_window_view(image, tile.shape).reshape(-1, *tile.shape)
    assert any(np.array_equal(place, tile) for place in places)


def predict(core, path, image, weights, block):
    """What bioimageio.core makes of an array with the axes of the network, in blocks or at once."""
    described = core.load_model_description(path)
    axes = [axis.id for axis in described.inputs[0].axes]
    tensor = core.Tensor.from_numpy(image[None], dims=axes)
    sample = core.Sample(members={"raw": tensor}, stat={}, id="sample")
    pipeline = core.create_prediction_pipeline(described, weights_format=weights)
    sizes = dict(zip(axes, (1, *block, image.shape[-1]), strict=True))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        found = pipeline.predict_sample_with_fixed_blocking(sample, input_block_shape={"raw": sizes})
    return found.members["restored"].data.to_numpy()[0]


def test_blocks_of_bioimageio_are_the_tiles_of_apply(tmp_path, core, write_tiff, noisy_pair):
    """The block in the middle, [24, 72) along Y and X and all planes, is a tile of apply.py, too."""
    image = noisy_pair((24, 96, 96), 5)[0]
    raw = str(write_tiff(tmp_path / "raw.tif", image, "ZYX"))
    run = make_run(tmp_path / "run", normalization="anscombe")
    assert export(run, tmp_path / "a.zip", "bioimageio", "-i", raw, *DETAILS) == 0
    tiled = apply(run, raw, tmp_path, "-B", "24,48,48", "-O", "8,24,24")
    alone = (slice(8, 16), slice(40, 56), slice(40, 56))  # neither blended with other tiles nor of another block
    for weights in ("keras_v3", "onnx"):
        found = predict(core, tmp_path / "a.zip", image[..., None], weights, (24, 48, 48))[..., 0]
        np.testing.assert_allclose(found[alone], tiled[alone], rtol=0, atol=1e-5 * np.ptp(tiled))


def test_blocks_of_a_steady_attention_are_those_of_the_whole_volume(tmp_path, core, write_tiff, noisy_pair):
    """Where the attention does not depend on the tile, no border of a block is seen."""
    image = noisy_pair((24, 96, 96), 5)[0]
    raw = str(write_tiff(tmp_path / "raw.tif", image, "ZYX"))
    run = make_run(tmp_path / "run", downsampling=(1, 2, 2), upscaling=(1, 2, 2))
    model = keras.saving.load_model(f"{run}/best.keras")
    for layer in model.layers:
        if getattr(layer, "activation", None) is keras.activations.sigmoid:
            layer.kernel.assign(0 * layer.kernel)
    model.save(f"{run}/best.keras")
    assert export(run, tmp_path / "a.zip", "bioimageio", "-i", raw, *DETAILS) == 0
    whole = apply(run, raw, tmp_path)
    found = predict(core, tmp_path / "a.zip", image[..., None], "onnx", (24, 64, 64))[..., 0]
    inside = (slice(8, -8), *(slice(length // 6, -length // 6) for length in whole.shape[1:]))
    np.testing.assert_allclose(found[inside], whole[inside], rtol=0, atol=1e-4 * np.ptp(whole))


# What goes wrong


def test_a_package_needs_an_image_authors_and_a_licence(tmp_path, tiny_models, capsys):
    assert export(tiny_models / "3d.keras", tmp_path / "a.zip", "bioimageio") == 1
    assert "error: --format bioimageio needs --input and --author and --license" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--author", "A B", "--license", "mine"], "bioimage.io does not allow such a package (license"),
        (["--author", "A/B", "--license", "MIT"], "bioimage.io does not allow such a package (author"),
        (["--author", "A B", "--license", "MIT", "--name", "a"], "bioimage.io does not allow such a package (name"),
    ],
)
def test_what_the_specification_does_not_allow_is_named_and_nothing_written(flags, message, tmp_path, raw, capsys):
    run, target = make_run(tmp_path / "run"), tmp_path / "out" / "a.zip"
    target.parent.mkdir()
    assert export(run, target, "bioimageio", "-i", raw, *flags) == 1
    assert message in capsys.readouterr().err
    assert not [*target.parent.iterdir()]


def test_libraries_that_do_not_fit_are_not_blamed_on_the_flags(tmp_path, raw, capsys, monkeypatch):
    details = {"type": "value_error", "loc": (), "input": 1, "ctx": {"error": ValueError("an integer was expected")}}

    def fail(*_):
        raise ValidationError.from_exception_data("SerializationInfo", [details])

    monkeypatch.setattr("rcan.export.bioimageio._describe_package", fail)
    flags = ["-i", raw, "--author", "A B", "--license", "MIT"]
    assert export(make_run(tmp_path / "run"), tmp_path / "a.zip", "bioimageio", *flags) == 1
    said = capsys.readouterr().err
    assert "bioimageio.spec cannot write the package (Value error, an integer was expected)" in said
    assert "--author" not in said


def test_a_file_is_replaced_only_when_asked_for(tmp_path, tiny_models, capsys):
    for kind, name in (("onnx", "a.onnx"), ("keras", "a.keras"), ("savedmodel", "a.zip")):
        (tmp_path / name).write_bytes(b"mine")
        assert export(tiny_models / "3d.keras", tmp_path / name, kind) == 1
        assert "exists: name another file, or replace it with --overwrite" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == b"mine"
    assert export(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx", "--overwrite") == 0
    onnx.checker.check_model(tmp_path / "a.onnx")


def test_only_a_saved_model_is_replaced_by_one(tmp_path, tiny_models, capsys):
    for folder in ("mine", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"old")
    assert export(tiny_models / "3d.keras", tmp_path / "mine", "savedmodel", "--overwrite") == 1
    assert "no SavedModel, which alone is replaced" in capsys.readouterr().err
    assert export(tiny_models / "3d.keras", tmp_path / "model", "savedmodel") == 1
    assert (tmp_path / "model" / "saved_model.pb").read_bytes() == b"old"
    assert export(tiny_models / "3d.keras", tmp_path / "model", "savedmodel", "--overwrite") == 0
    assert (tmp_path / "model" / "saved_model.pb").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


@pytest.mark.parametrize(
    ("kind", "name", "missing"), [("onnx", "a.onnx", "onnx"), ("bioimageio", "a.zip", "bioimageio.core")]
)
def test_a_missing_library_is_an_error_that_names_the_extra(
    kind, name, missing, tmp_path, tiny_models, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, missing, None)
    details = ["-i", tmp_path / "raw.tif", *DETAILS] if kind == "bioimageio" else []
    assert export(tiny_models / "3d.keras", tmp_path / name, kind, *details) == 1
    assert (
        f'--format {kind} needs {missing}: python -m pip install "rcan-microscopy[export]"' in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("kind", "name", "flags", "message"),
    [
        ("onnx", "a.zip", [], "onnx is written as NAME.onnx: name it so."),
        ("savedmodel", "a.pb", [], "savedmodel is written as a folder without suffix or NAME.zip: name it so."),
        ("onnx", "a.onnx", ["--license", "MIT"], "--license is for --format bioimageio"),
        ("onnx", "a.onnx", ["--channels", "0"], "--channels is of an image: name it with -i"),
        ("tflite", "a.tflite", [], "--format is \"tflite\": must be 'bioimageio', 'huggingface', 'onnx',"),
    ],
)
def test_wrong_flags_are_refused(kind, name, flags, message, tmp_path, tiny_models, capsys):
    assert export(tiny_models / "3d.keras", tmp_path / name, kind, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_network_of_one_channel_needs_to_know_which(tmp_path, tiny_models, write_tiff, noisy_pair, capsys):
    image = noisy_pair((8, 2, 24, 28), 0)[0]
    image[:, 1] *= 3
    raw = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    assert export(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx", "-i", raw) == 1
    assert (
        "has 2 channels and the network restores one at a time: choose one with --channels 0" in capsys.readouterr().err
    )
    assert export(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx", "-i", raw, "--channels", "1") == 0
    low, high = np.percentile(image[:, 1], (2, 99.9))
    assert f"Background and signal, {low:.6g} and {high:.6g} are those of raw.tif" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="Windows has no pseudo terminals")
def test_authors_and_licence_are_asked_for_at_a_terminal(tmp_path, tiny_models):
    terminal, inside = os.openpty()
    os.write(terminal, b"Ada Lovelace\n\n")  # and no licence
    command = [
        "export",
        "-m",
        tiny_models / "3d.keras",
        "-o",
        tmp_path / "a.zip",
        "--format",
        "bioimageio",
        "-i",
        "raw.tif",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rcan", *map(str, command)], stdin=inside, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "Authors, with commas: Licence (such as CC-BY-4.0): ")
    assert done.stderr.startswith("error: --format bioimageio needs --license: ")


def test_python_can_do_what_the_command_does(tmp_path, tiny_models):
    described = rcan.export_model(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx")
    assert described.startswith(f"{tmp_path / 'a.onnx'}: ")
    with pytest.raises(FileExistsError, match="exists: name another file"):
        rcan.export_model(tiny_models / "3d.keras", tmp_path / "a.onnx", "onnx")
