"""Models of the published program load, and nothing that their files hold is run."""

import base64
import json
import marshal
import re
import shutil
from types import FunctionType

import h5py
import keras
import numpy as np
import pytest
import tifffile

import rcan
from rcan.__main__ import main

NAMES = [
    "2d_groups2_blocks1",
    "3d_groups1_blocks3",
    "3d_groups2_blocks2",
    "3d_groups5_blocks3_default",
    "3d_two_channels",
]
SMALL = "3d_groups2_blocks2"


@pytest.fixture
def folder(data_dir, tmp_path):
    """A copy of the folder of a small model."""
    target = shutil.copytree(data_dir / "legacy_models" / SMALL, tmp_path / "published")
    for path in target.iterdir():
        path.chmod(0o644)
    return target


@pytest.fixture
def path(folder):
    """The better of its two files."""
    return folder / "weights_002_0.02345678.hdf5"


def expected_of(data_dir, name):
    with np.load(data_dir / "legacy_models" / name / "expected.npz") as file:
        return file["input"], file["output"]


def assert_right(model, data_dir, name=SMALL):
    raw, expected = expected_of(data_dir, name)
    restored = model.predict_on_batch(raw)
    np.testing.assert_allclose(restored, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def change_config(path, change):
    """Change the architecture of a file by a function of its dictionary."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)


def layers_of(config):
    return {layer["config"]["name"]: layer for layer in config["config"]["layers"]}


# Loading


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_gives_what_it_gave(data_dir, name):
    model, record = rcan.load_model(data_dir / "legacy_models" / name)
    assert_right(model, data_dir, name)
    assert (record.percentiles, record.normalization) == ((2, 99.9), "percentiles")


def test_the_file_of_the_lowest_loss_is_taken(folder, path, data_dir):
    shutil.copy(folder / "weights_001_0.12345678.hdf5", folder / "weights_010_0.1.hdf5")
    (folder / "weights_final.hdf5").write_bytes(b"no number in its name")
    assert_right(rcan.load_model(folder)[0], data_dir)


def test_a_file_can_be_named(path, data_dir):
    assert_right(rcan.load_model(path)[0], data_dir)
    path.rename(path.with_name("mine.h5"))
    assert_right(rcan.load_model(path.with_name("mine.h5"))[0], data_dir)


def test_several_files_without_a_loss_are_no_choice(folder):
    for number, path in enumerate(sorted(folder.glob("*.hdf5"))):
        path.rename(folder / f"model_{number}.hdf5")
    with pytest.raises(ValueError, match=r"holds 2 models without a loss in their names \(model_0\.hdf5, model_1"):
        rcan.load_model(folder)


def test_a_run_folder_of_ours_comes_first(folder, tiny_models):
    shutil.copy(tiny_models / "3d.keras", folder / "best.keras")
    assert rcan.load_model(folder)[0].count_params() == keras.saving.load_model(tiny_models / "3d.keras").count_params()


def test_images_of_any_size_are_restored(path, tmp_path, stack, write_tiff, data_dir):
    image = write_tiff(tmp_path / "a.tif", stack, "ZYX")
    assert main(["apply", "-m", str(path.parent), "-i", str(image), "-o", str(tmp_path / "out.tif")]) == 0
    model, record = rcan.load_model(path)
    view = rcan.view_image(stack[..., np.newaxis], **record.scaling)
    expected = rcan.denormalise(model.predict_on_batch(view.read_input(0)[np.newaxis])[0], view.ranges)
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_allclose(found, expected[..., 0], atol=1e-3 * np.ptp(expected))


# As other versions of Keras wrote it


def test_without_the_state_of_its_optimizer(path, data_dir):
    with h5py.File(path, "r+") as file:
        del file["optimizer_weights"], file.attrs["training_config"]
    assert_right(rcan.load_model(path)[0], data_dir)


def test_attributes_may_be_bytes_and_the_class_a_model(path, data_dir):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = np.bytes_(json.dumps({**config, "class_name": "Model"}).encode())
        weights = file["model_weights"]
        for group, name in [(weights, "layer_names"), *((weights[key], "weight_names") for key in weights)]:
            names = [each if isinstance(each, bytes) else each.encode() for each in group.attrs[name]]
            group.attrs[name] = np.array(names, "S") if names else np.zeros(0, "S1")
    assert_right(rcan.load_model(path)[0], data_dir)


def test_layers_may_be_counted_from_any_number(path, data_dir):
    """As where several networks were made in one session: conv3d_41, and weights conv3d_41_1/kernel:0."""
    with h5py.File(path, "r+") as file:
        weights, text = file["model_weights"], file.attrs["model_config"]
        names = [name if isinstance(name, str) else name.decode() for name in weights.attrs["layer_names"]]
        renamed = {name: f"{name}_of_17" if name.startswith("conv") else name for name in names}
        for name in sorted(names, key=len, reverse=True):
            if renamed[name] == name:
                continue
            text = text.replace(f'"{name}"', f'"{renamed[name]}"')
            weights.move(name, renamed[name])
            group = weights[renamed[name]]
            inner = [each if isinstance(each, str) else each.decode() for each in group.attrs["weight_names"]]
            for each in inner:
                group.move(each, f"other_3/{each.rpartition('/')[2]}")
            group.attrs["weight_names"] = [f"other_3/{each.rpartition('/')[2]}" for each in inner]
        weights.attrs["layer_names"] = [renamed[name] for name in names]
        file.attrs["model_config"] = text
    assert_right(rcan.load_model(path)[0], data_dir)


def test_names_may_be_divided_among_attributes(path, data_dir):
    with h5py.File(path, "r+") as file:
        weights = file["model_weights"]
        names = list(weights.attrs["layer_names"])
        del weights.attrs["layer_names"]
        weights.attrs["layer_names0"], weights.attrs["layer_names1"] = names[:7], names[7:]
    assert_right(rcan.load_model(path)[0], data_dir)


def test_a_network_that_was_run_on_several_gpus_is_taken_out_of_it(path, data_dir):
    def wrap(config):
        part = {"class_name": "Lambda", "config": {"name": "lambda_1"}, "inbound_nodes": [[["input_9", 0, 0, {}]]]}
        inner = {**config, "name": "model_1", "inbound_nodes": [[["lambda_1", 0, 0, {}]], [["lambda_2", 0, 0, {}]]]}
        first = {"class_name": "InputLayer", "config": {"name": "input_9"}, "inbound_nodes": []}
        last = {"class_name": "Concatenate", "config": {"name": "conv3d_9"}, "inbound_nodes": [[]]}
        layers = [first, part, {**part, "config": {"name": "lambda_2"}}, inner, last]
        return {"class_name": "Model", "config": {"name": "model_2", "layers": layers}}

    change_config(path, wrap)
    with h5py.File(path, "r+") as file:
        weights = file["model_weights"]
        names = list(weights.attrs["layer_names"])
        inner = weights.create_group("model_1")
        paths = []
        for name in names:
            for each in weights[name].attrs["weight_names"]:
                inner[each] = weights[name][each][...]
                paths.append(each)
            del weights[name]
        inner.attrs["weight_names"] = paths
        weights.attrs["layer_names"] = ["input_9", "lambda_1", "lambda_2", "model_1", "conv3d_9"]
        for name in ("input_9", "lambda_1", "lambda_2", "conv3d_9"):
            weights.create_group(name).attrs["weight_names"] = np.zeros(0, "S1")
    assert_right(rcan.load_model(path)[0], data_dir)


# The scaling of residuals


def hostile_code(trap):
    """A function of one tensor as Keras 2 writes its code; it would make a file."""
    code = compile(f"(lambda x: open({str(trap)!r}, 'w'))", "trap", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(code)).decode()


def test_the_hostile_code_makes_a_file_where_it_is_run(tmp_path):
    code = marshal.loads(base64.b64decode(hostile_code(tmp_path / "trap")))
    FunctionType(code, {"open": open})(0).close()
    assert (tmp_path / "trap").exists()


def scale_residuals(path, function, arguments=None, *, after="multiply", place="add"):
    """Put a Lambda between the end and the sum of each block, as a network with residual scaling has it."""
    text = {"function": function, "function_type": "lambda", "arguments": arguments or {}}

    def plant(config):
        layers = []
        for layer in config["config"]["layers"]:
            inputs = layer["inbound_nodes"][0] if layer["inbound_nodes"] else []
            for source in inputs:
                if layer["config"]["name"].startswith(place) and source[0].startswith(after):
                    name = f"lambda_{len(layers)}"
                    nodes = [[[source[0], 0, 0, {}]]]
                    layers.append(
                        {"class_name": "Lambda", "config": {"name": name, **text}, "name": name, "inbound_nodes": nodes}
                    )
                    source[0] = name
            layers.append(layer)
        config["config"]["layers"] = layers

    change_config(path, plant)


@pytest.mark.parametrize(
    ("values", "arguments"),
    [(([0.1], None), {}), ((None, [0.1]), {}), ((None, None), {"scale": 0.1}), (([1.0], None), {"scale": 0.1})],
)
def test_a_constant_scaling_of_residuals_is_known_by_its_place_and_its_number(path, tmp_path, rng, values, arguments):
    model = rcan.load_model(path)[0]
    size = {"num_channels": 8, "num_residual_groups": 2, "num_residual_blocks": 2, "channel_reduction": 4}
    expected = rcan.build_rcan(**size, residual_scaling=0.1)
    expected.set_weights(model.get_weights())
    scale_residuals(path, [hostile_code(tmp_path / "trap"), *values], arguments)
    raw = rng.random((1, 6, 16, 18, 1), np.float32)
    found, unscaled = rcan.load_model(path)[0].predict_on_batch(raw), model.predict_on_batch(raw)
    np.testing.assert_allclose(found, expected.predict_on_batch(raw), atol=1e-5)
    assert np.abs(found - unscaled).max() > 1e-3
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        ((None, None), {}),
        (([0.1, 0.2], None), {}),
        (([0.1], [0.2]), {}),
        ((["0.1"], None), {}),
        (([True], None), {}),
        (([[0.1]], None), {}),
        (([float("nan")], None), {}),
        (([0.1], None), {"scale": 0.1, "offset": 1}),
    ],
)
def test_a_scaling_without_one_number_beside_its_code_is_refused_and_not_run(path, tmp_path, values, arguments):
    scale_residuals(path, [hostile_code(tmp_path / "trap"), *values], arguments)
    assert is_refused(
        path, r"layer lambda_\d+ is Python code \(Lambda\), which is not run: it stands where the residual"
    )
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(("after", "place"), [("conv3d", "conv3d"), ("conv3d", "multiply"), ("add", "conv3d")])
def test_a_constant_in_another_place_is_refused_and_not_run(path, tmp_path, after, place):
    scale_residuals(path, [hostile_code(tmp_path / "trap"), [0.1], None], after=after, place=place)
    assert is_refused(path, r"layer lambda_\d+ is Python code \(Lambda\), which is not run: only the scalings")
    assert not (tmp_path / "trap").exists()


# What is refused


def is_refused(path, reason):
    """Whether loading a file ends in a line that names it, with this reason."""
    with pytest.raises(ValueError, match="no Keras model that can be loaded") as caught:
        rcan.load_model(path)
    return re.match(rf"{re.escape(str(path))} is damaged, or .*\({reason}", str(caught.value)) is not None


def test_code_in_a_file_is_refused_and_not_run(path, tmp_path):
    trap = tmp_path / "trap"

    def plant(config):
        layers_of(config)["lambda_standardize_1"]["config"]["function"] = [hostile_code(trap), None, None]

    change_config(path, plant)
    rcan.load_model(path)  # by its name it is a known scaling: its code is not looked at
    change_config(path, lambda config: json.loads(json.dumps(config).replace("lambda_standardize_1", "lambda_7")))
    assert is_refused(path, r"layer lambda_7 is Python code \(Lambda\), which is not run")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class_name": "LSTM"}, "layer conv3d_3 is a LSTM, which published networks do not have"),
        ({"strides": [2, 1, 1]}, r"layer conv3d_3 has the strides \[2, 1, 1\]: published networks have 1"),
        ({"padding": "valid"}, "layer conv3d_3 has the padding valid: published networks have same"),
        ({"activation": "exponential"}, "layer conv3d_3 has the activation exponential"),
        ({"filters": 10**9}, "a layer has 1,000,000,000 filters, but"),
        ({"filters": 9}, "layer conv3d_3 needs arrays of"),
        ({"kernel_size": [3, 3, 1]}, "layer conv3d_3 needs arrays of"),
    ],
)
def test_other_layers_are_refused_by_name(path, change, reason):
    def apply(config):
        layer = layers_of(config)["conv3d_3"]
        (layer if "class_name" in change else layer["config"]).update(change)

    change_config(path, apply)
    assert is_refused(path, reason)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_hdf5_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\.hdf5 is damaged, or no Keras model that can be loaded"):
        rcan.load_model(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"\.hdf5 is damaged, or no Keras model that can be loaded"):
        rcan.load_model(path)


def test_another_hdf5_file_is_refused(path):
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 3))
    assert is_refused(path, "no complete model of Keras 2")


def test_weights_that_are_left_over_are_refused(path):
    with h5py.File(path, "r+") as file:
        group = file["model_weights/lambda_standardize_1"]
        group["kernel:0"] = np.zeros(3)
        group.attrs["weight_names"] = ["kernel:0"]
    assert is_refused(path, r"layer conv3d needs arrays of .*, stored are \[\(3,\), \(3, 3, 3, 1, 8\)\]")


def test_weights_after_the_last_layer_are_refused(path):
    with h5py.File(path, "r+") as file:
        group = file["model_weights/lambda_destandardize_1"]
        group["kernel:0"] = np.zeros(3)
        group.attrs["weight_names"] = ["kernel:0"]
    assert is_refused(path, "1 more arrays are stored than its layers have")


# Converting


def test_a_model_is_converted_to_a_file_of_keras(path, tmp_path, data_dir, capsys):
    new = tmp_path / "new.keras"
    assert main(["convert", str(path.parent), str(new)]) == 0
    assert f"{new}: the network of {path}, 19,705 parameters." in capsys.readouterr().out
    assert_right(keras.saving.load_model(new, safe_mode=True), data_dir)


def test_nothing_is_replaced_without_being_asked(path, tmp_path, capsys):
    new = tmp_path / "new.keras"
    new.write_text("mine")
    assert main(["convert", str(path), str(new)]) == 1
    assert "new.keras exists: name another file, or replace it with --overwrite" in capsys.readouterr().err
    assert new.read_text() == "mine"
    assert main(["convert", str(path), str(new), "--overwrite"]) == 0
    assert main(["convert", str(path), str(tmp_path / "new.hdf5")]) == 1
    assert "new.hdf5 does not end in .keras" in capsys.readouterr().err


def test_a_training_can_begin_with_a_published_model(path, tiny_config, tmp_path):
    widths = {"num_channels": 8, "num_residual_groups": 2, "num_residual_blocks": 2, "channel_reduction": 4}
    values = tiny_config(tmp_path, initial_model=str(path), initial_learning_rate=1e-6, **widths)
    run_dir = rcan.train(rcan.Config.checked(values))
    begun, published = (rcan.load_model(each)[0].get_weights() for each in (run_dir, path))
    for one, other in zip(begun, published, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
