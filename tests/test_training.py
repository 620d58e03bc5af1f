import csv
import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tifffile
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import rcan
from rcan.__main__ import main
from rcan.config import Config, load_config
from rcan.intensity import stabilise
from rcan.model import PixelShuffle, build_rcan
from rcan.run_folder.models import load_model, read_record
from rcan.training.fit import train
from rcan.training.gradient import use_fast_gradient
from rcan.training.run_data import open_data
from rcan.training.steps import Learner

TINY = {"num_channels": 4, "num_residual_groups": 1, "num_residual_blocks": 1, "channel_reduction": 2}


def train_with(values, **options):
    return train(Config.checked(values), **options)


def read_history(run_dir):
    with open(run_dir / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read_training_json(run_dir):
    return json.loads((run_dir / "training.json").read_text())


def weights_of(run_dir, name="last.keras"):
    return keras.saving.load_model(run_dir / name, compile=False).get_weights()


def normalised(path, axes="ZYX"):
    """A volume as (Z, Y, X, C), percentile 2 of each channel at 0 and 99.9 at 1."""
    image = tifffile.imread(path).astype(float)
    image = np.moveaxis(image, axes.index("C"), -1) if "C" in axes else image[..., np.newaxis]
    low, high = np.percentile(image, (2, 99.9), axis=tuple(range(image.ndim - 1)))
    return (image - low) / (high - low)


@pytest.fixture(scope="module")
def validated(tmp_path_factory, tiny_config, write_tiff, noisy_pair):
    """Values of a config whose named validation volume is one patch: losses can be computed again.

    Its ground truth is inverted: the better the network learns, the worse it restores it.
    """
    folder = tmp_path_factory.mktemp("validated")
    values = tiny_config(folder, epochs=4, steps_per_epoch=3, initial_learning_rate=0.01, patch_shape=[12, 16, 16])
    for number in range(2):
        raw, gt = noisy_pair((12, 24, 28), number)
        write_tiff(folder / "raw" / f"{number}.tif", raw, "ZYX")
        write_tiff(folder / "gt" / f"{number}.tif", gt, "ZYX")
    raw, gt = noisy_pair((12, 16, 16), 99)
    pair = {
        "raw": str(write_tiff(folder / "validation_raw.tif", raw, "ZYX")),
        "gt": str(write_tiff(folder / "validation_gt.tif", 2500 - gt.clip(0, 2500), "ZYX")),
    }
    return {**values, "validation_image_pairs": [pair], "metrics": ["psnr", "ssim"]}


@pytest.fixture(scope="module")
def run(validated):
    """A run folder."""
    with pytest.warns(UserWarning, match="correlation"):
        return train_with(validated)


# The gradient


@pytest.mark.parametrize(
    "shape", [(2, 1, 7, 9, 3), (2, 2, 7, 9, 3), (2, 5, 8, 6, 3), (1, 16, 4, 5, 3), (2, 1, 1, 1, 3)]
)
def test_fast_gradient_equals_that_of_tensorflow(shape, rng):
    layer = keras.layers.Conv3D(4, 3, padding="same", activation="relu")
    model = keras.Sequential([keras.Input((None, None, None, 3)), layer])
    layer.bias.assign(rng.normal(size=4))
    x = tf.constant(rng.normal(size=shape).astype(np.float32))
    target = rng.normal(size=(*shape[:-1], 4)).astype(np.float32)

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
            loss = tf.reduce_sum((y - target) ** 3)
        return [y, *tape.gradient(loss, [x, layer.kernel, layer.bias])]

    expected = gradients()
    use_fast_gradient(model)
    assert layer.convolution_op.__qualname__ != keras.layers.Conv3D.convolution_op.__qualname__
    for found, stock in zip(gradients(), expected, strict=True):
        largest = np.abs(stock).max()
        np.testing.assert_allclose(found / largest, stock / largest, rtol=0, atol=1e-4)


def test_fast_gradient_leaves_class_and_configuration_of_every_layer(tmp_path):
    model, stock = build_rcan(**TINY), build_rcan(**TINY)
    use_fast_gradient(model)
    model = keras.Model.from_config(model.get_config())
    classes, expected = ([type(layer) for layer in network.layers] for network in (model, stock))
    assert classes == expected
    for layer, other in zip(model.layers, stock.layers, strict=True):
        one, two = ({**item.get_config(), "name": ""} for item in (layer, other))
        assert one == two


def test_saved_network_opens_in_safe_mode_without_this_package(run, rng, tmp_path):
    x = rng.uniform(size=(1, 4, 12, 13, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    program = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save("y.npy", model.predict(np.load("x.npy"), verbose=0))
assert not any(name.split(".")[0] == "rcan" for name in sys.modules)
"""
    command = [sys.executable, "-W", "ignore", "-c", program, run / "best.keras"]
    subprocess.run(command, cwd=tmp_path, check=True)
    expected = keras.saving.load_model(run / "best.keras").predict(x, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)


# The learning rate


def test_learning_rate_of_a_run_is_recorded(run):
    np.testing.assert_allclose(read_history(run)["learning_rate"], [0.01, 0.005, 0.0025, 0.00125], rtol=1e-6)


# The run folder


def test_run_folder_has_all_files(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "best.keras", "last.keras", "history.csv", "history.png", "patches.png", "config.json", "training.json",
        "checkpoints", "measured", "train", "validation",
    }  # fmt: skip
    assert list((run / "train").glob("events.out.tfevents.*"))
    assert list((run / "validation").glob("events.out.tfevents.*"))


def test_history_has_a_row_for_each_epoch(run):
    history = read_history(run)
    np.testing.assert_array_equal(history["epoch"], [1, 2, 3, 4])
    assert set(history) == {
        "epoch", "loss", "psnr", "ssim", "val_loss", "val_psnr", "val_ssim", "learning_rate", "seconds",
    }  # fmt: skip


def test_recorded_config_has_every_key_and_trains_the_same_again(run, validated):
    recorded = json.loads((run / "config.json").read_text())
    assert set(recorded) == set(Config.model_fields)
    assert load_config(run / "config.json") == Config.checked(validated).for_data(3)


def test_recorded_patch_shape_is_the_one_that_was_used(tmp_path, tiny_config):
    with pytest.warns(UserWarning, match=r"patch_shape \[16, 16, 16\] is cut down .*: \[8, 16, 16\]"):
        run_dir = train_with(tiny_config(tmp_path, patch_shape=[16, 16, 16]))
    assert json.loads((run_dir / "config.json").read_text())["patch_shape"] == [8, 16, 16]
    assert read_training_json(run_dir)["patch_shape"] == [8, 16, 16]


def test_patch_is_cut_down_to_the_grid_of_the_features(tmp_path, tiny_config):
    with pytest.warns(UserWarning, match=r"\[8, 17, 17\] is cut down .* downsampling \[1, 2, 2\]: \[8, 16, 16\]"):
        run_dir = train_with(tiny_config(tmp_path, patch_shape=[8, 17, 17], downsampling=[1, 2, 2]))
    assert read_training_json(run_dir)["patch_shape"] == [8, 16, 16]
    assert json.loads((run_dir / "config.json").read_text())["downsampling"] == [1, 2, 2]
    (strided, *_) = (layer for layer in keras.saving.load_model(run_dir / "best.keras").layers if layer.weights)
    assert strided.strides == (1, 2, 2)


def test_late_patches_are_twice_as_large_and_a_quarter_as_many(tmp_path, tiny_config, monkeypatch):
    shapes, train_step = [], Learner.train

    def note(learner, raw, gt):
        """Note the shapes of a batch, and train with it."""
        shapes.append((tuple(raw.shape), tuple(gt.shape)))
        return train_step(learner, raw, gt)

    monkeypatch.setattr(Learner, "train", note)
    plan = {"epochs": 4, "steps_per_epoch": 2, "batch_size": 8, "late_patches": 0.25}
    run_dir = train_with(tiny_config(tmp_path, patch_shape=[8, 10, 10], **plan))
    assert shapes == [((8, 8, 10, 10, 1),) * 2] * 6 + [((2, 8, 20, 20, 1),) * 2] * 2
    assert json.loads((run_dir / "config.json").read_text())["late_patches"] == 0.25
    assert read_training_json(run_dir)["patch_shape"] == [8, 10, 10]


@pytest.mark.parametrize("values", [{"batch_size": 3}, {"patch_shape": [8, 24, 28], "data_augmentation": False}])
def test_without_room_for_late_patches_there_are_none(tmp_path, tiny_config, values):
    plan = {"late_patches": 0.5, "epochs": 2, "validation_split": 0, "batch_size": 4}
    run_dir = train_with(tiny_config(tmp_path, **{**plan, **values}))
    assert json.loads((run_dir / "config.json").read_text())["late_patches"] == 0


def test_downsampling_of_two_numbers_trains_a_2d_network(tmp_path, tiny_config):
    values = tiny_config(tmp_path, axes="YX", downsampling=[2, 2], data_augmentation=False)
    del values["patch_shape"]
    with pytest.warns(UserWarning, match=r"\[256, 256\] is cut down .*: \[24, 24\]"):
        run_dir = train_with(values)
    assert keras.saving.load_model(run_dir / "best.keras").input_shape == (None, None, None, 1)


def test_downsampling_larger_than_a_volume_is_refused(tmp_path, tiny_config):
    with pytest.raises(ValueError, match=r"downsampling is \[1, 8, 8\], the patch \[8, 4, 4\], .* \[8, 22, 28\]"):
        train_with(tiny_config(tmp_path, patch_shape=[8, 4, 4], downsampling=[1, 8, 8]))


def test_patch_that_is_not_square_is_said_to_lose_quarter_turns(tmp_path, tiny_config):
    with pytest.warns(UserWarning, match=r"quarter turns need .* Set patch_shape to \[8, 16, 16\]"):
        train_with(tiny_config(tmp_path, patch_shape=[8, 16, 18]))


def test_training_json_describes_versions_data_and_intensities(run, validated):
    about = read_training_json(run)
    assert {"rcan", "python", "keras", "tensorflow", "numpy"} <= set(about["versions"])
    assert (about["seed"], about["percentiles"], about["upscaling"]) == (0, [2, 99.9], [1, 1, 1])
    assert [pair["raw_shape"] for pair in about["training"]] == [[12, 24, 28, 1]] * 2
    (pair,) = about["validation"]
    assert pair["gt"] == validated["validation_image_pairs"][0]["gt"]
    np.testing.assert_allclose(pair["gt_range"], [np.percentile(tifffile.imread(pair["gt"]), (2, 99.9))])


def test_folder_with_a_run_is_refused_and_left_as_it_is(run, validated):
    before = weights_of(run)
    with pytest.raises(FileExistsError, match="--overwrite"):
        train_with(validated)
    np.testing.assert_equal(weights_of(run), before)


def test_overwriting_replaces_the_run(tmp_path, tiny_config):
    values = tiny_config(tmp_path, epochs=2, metrics=[])
    train_with(values)
    run_dir = train_with({**values, "epochs": 1, "seed": 1}, overwrite=True)
    assert len(read_history(run_dir)["epoch"]) == 1
    assert read_training_json(run_dir)["seed"] == 1
    assert len(list((run_dir / "train").iterdir())) == 1


def test_data_that_cannot_be_trained_on_leave_the_old_run(tmp_path, tiny_config):
    values = tiny_config(tmp_path)
    before = weights_of(train_with(values))
    with pytest.raises(ValueError, match="enough signal"):
        train_with({**values, "intensity_threshold": 50.0}, overwrite=True)
    np.testing.assert_equal(weights_of(tmp_path / "run"), before)


# The best network


@pytest.mark.parametrize("loss", ["mae", "mse"])
def test_best_network_is_that_of_the_lowest_validation_loss(loss, run, validated, tmp_path):
    if loss == "mse":
        with pytest.warns(UserWarning, match="correlation"):
            run = train_with({**validated, "loss": loss, "output_dir": str(tmp_path / "run")})
    history = read_history(run)["val_loss"]
    assert np.argmin(history) < len(history) - 1  # best and last differ
    raw, gt = (normalised(validated["validation_image_pairs"][0][kind]) for kind in ("raw", "gt"))
    measured = {}
    for name in ("best.keras", "last.keras"):
        restored = keras.saving.load_model(run / name).predict(raw[np.newaxis], verbose=0)[0]
        measured[name] = np.mean(np.abs(restored - gt) if loss == "mae" else (restored - gt) ** 2)
    np.testing.assert_allclose(measured["best.keras"], history.min(), rtol=1e-4)
    np.testing.assert_allclose(measured["last.keras"], history[-1], rtol=1e-4)


def test_measures_of_the_last_epoch_are_those_of_scikit_image(run, validated):
    history = read_history(run)
    raw, gt = (normalised(validated["validation_image_pairs"][0][kind]) for kind in ("raw", "gt"))
    restored = keras.saving.load_model(run / "last.keras").predict(raw[np.newaxis], verbose=0)[0]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(gt[..., 0], restored[..., 0].astype(float), data_range=1, **options)
    np.testing.assert_allclose(history["val_psnr"][-1], peak_signal_noise_ratio(gt, restored, data_range=1), atol=1e-3)
    np.testing.assert_allclose(history["val_ssim"][-1], ssim, atol=1e-4)


def test_without_validation_data_the_training_loss_decides(tmp_path, tiny_config):
    values = tiny_config(tmp_path, validation_split=0.0, epochs=3, initial_learning_rate=0.05)
    run_dir = train_with(values)
    history = read_history(run_dir)
    assert "val_loss" not in history
    best_is_last = np.argmin(history["loss"]) == 2
    same = all(
        np.array_equal(one, other)
        for one, other in zip(weights_of(run_dir, "best.keras"), weights_of(run_dir), strict=True)
    )
    assert same == best_is_last
    assert read_training_json(run_dir)["validation"] == []


# Repeatability


@pytest.mark.parametrize(("axes", "patch_shape"), [("ZYX", [8, 16, 16]), ("YX", [16, 16])])
def test_same_seed_gives_the_same_weights_to_the_last_bit(tmp_path, tiny_config, axes, patch_shape):
    values = tiny_config(tmp_path, axes=axes, patch_shape=patch_shape, batch_size=2)
    runs = [train_with({**values, "output_dir": str(tmp_path / name), "seed": 7}) for name in ("one", "two")]
    np.testing.assert_equal(weights_of(runs[0]), weights_of(runs[1]))
    other = train_with({**values, "output_dir": str(tmp_path / "three"), "seed": 8})
    assert not any(
        np.array_equal(*weights) for weights in zip(weights_of(other)[::2], weights_of(runs[0])[::2], strict=True)
    )


def test_same_seed_gives_the_same_weights_in_another_process(run, validated, tmp_path):
    values = {**validated, "output_dir": str(tmp_path / "run")}
    program = """
import json, sys
import rcan.keras_setup
from rcan.config import Config
from rcan.training.fit import train
train(Config.checked(json.loads(sys.argv[1])))
"""
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(values)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_equal(weights_of(tmp_path / "run"), weights_of(run))


# Learning


def test_loss_falls_on_what_can_be_learned(tmp_path, tiny_config):
    history = read_history(train_with(tiny_config(tmp_path, epochs=3, steps_per_epoch=30, initial_learning_rate=0.01)))
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert history["psnr"][-1] > history["psnr"][0] + 3


# Data


def test_of_many_pairs_some_are_validated_on(tmp_path, tiny_config):
    data = open_data(Config.checked(tiny_config(tmp_path, num_pairs=6, validation_split=0.3)))
    files = [{pair.raw.volume.path.name for pair in part} for part in (data.training, data.validation)]
    assert [len(names) for names in files] == [4, 2]
    assert not files[0] & files[1]


def test_of_few_pairs_a_slab_of_each_is_validated_on(tmp_path, tiny_config):
    data = open_data(Config.checked(tiny_config(tmp_path, validation_split=0.25)))
    assert [pair.raw.shape for pair in data.training] == [(8, 24, 21, 1)] * 2
    assert [pair.raw.shape for pair in data.validation] == [(8, 24, 7, 1)] * 2


def test_validation_slab_smaller_than_a_patch_is_validated_on_whole(tmp_path, tiny_config):
    run_dir = train_with(tiny_config(tmp_path, validation_split=0.1))
    assert min(read_training_json(run_dir)["validation"][0]["raw_shape"][:3]) < 4
    assert np.isfinite(read_history(run_dir)["val_loss"]).all()


def test_named_validation_folders_are_used_beside_single_pairs(tmp_path, tiny_config):
    named = tiny_config(tmp_path / "named", num_pairs=3)
    values = tiny_config(tmp_path, validation_data_dir=named["training_data_dir"], num_pairs=2)
    values["training_image_pairs"] = [{kind: str(tmp_path / "named" / kind / "0.tif") for kind in ("raw", "gt")}]
    with pytest.warns(UserWarning, match=r"0\.tif \(validation\) shows the same specimen as"):
        data = open_data(Config.checked(values))
    assert (len(data.training), len(data.validation)) == (3, 3)


def test_validation_volume_without_signal_is_used_all_the_same(tmp_path, tiny_config, write_tiff, rng):
    dark = {}
    for kind in ("raw", "gt"):
        image = rng.poisson(5, (8, 16, 16)).astype(np.uint16)
        image[0, 0, 0] = 60_000
        dark[kind] = str(write_tiff(tmp_path / f"dark_{kind}.tif", image, "ZYX"))
    values = tiny_config(
        tmp_path,
        validation_image_pairs=[dark],
        intensity_threshold=0.3,
        area_ratio_threshold=0.2,
        percentiles=[2, 100],
    )
    with pytest.warns(UserWarning, match="no validation patch has enough signal"):
        run_dir = train_with(values)
    assert np.isfinite(read_history(run_dir)["val_loss"]).all()


# Every kind of data


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX"])
def test_patch_shape_of_two_numbers_trains_a_2d_network(tmp_path, tiny_config, axes):
    run_dir = train_with(tiny_config(tmp_path, axes=axes, patch_shape=[16, 16]))
    model = keras.saving.load_model(run_dir / "best.keras")
    assert model.input_shape == (None, None, None, 1)
    frames = [pair["num_frames"] for pair in read_training_json(run_dir)["training"]]
    assert frames == [{"YX": 1, "ZYX": 8, "TYX": 2}[axes]] * 2


def test_images_without_patch_shape_train_a_2d_network(tmp_path, tiny_config):
    values = tiny_config(tmp_path, axes="YX", data_augmentation=False)
    del values["patch_shape"]
    with pytest.warns(UserWarning, match=r"\[256, 256\] is cut down"):
        run_dir = train_with(values)
    assert len(read_training_json(run_dir)["patch_shape"]) == 2


def test_two_channels_train_to_one(tmp_path, tiny_config, noisy_pair):
    values = tiny_config(tmp_path, raw_data_format="CZYX", gt_data_format="ZYX")
    for number in range(2):
        raw, gt = noisy_pair((2, 8, 24, 28), number)
        tifffile.imwrite(tmp_path / "raw" / f"{number}.tif", raw, photometric="minisblack")
        tifffile.imwrite(tmp_path / "gt" / f"{number}.tif", gt[0], photometric="minisblack")
    run_dir = train_with(values)
    model = keras.saving.load_model(run_dir / "best.keras")
    assert (model.input_shape[-1], model.output_shape[-1]) == (2, 1)
    expected = np.percentile(tifffile.imread(tmp_path / "raw" / "0.tif"), (2, 99.9), axis=(1, 2, 3)).T
    (found,) = (pair["raw_range"] for pair in read_training_json(run_dir)["training"] if pair["raw"].endswith("0.tif"))
    np.testing.assert_allclose(found, expected)


def test_time_lapse_trains_on_all_its_time_points(tmp_path, tiny_config):
    about = read_training_json(train_with(tiny_config(tmp_path, axes="TZYX")))
    assert [pair["num_frames"] for pair in about["training"]] == [2, 2]


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2)])
def test_larger_gt_trains_the_upscaling_head(tmp_path, tiny_config, write_tiff, noisy_pair, factors):
    values = tiny_config(tmp_path, epochs=2, metrics=["psnr", "ssim"])
    for number in range(2):
        large = np.kron(noisy_pair((8, 24, 28), number)[1], np.ones(factors, np.uint16))
        write_tiff(tmp_path / "gt" / f"{number}.tif", large, "ZYX")
    run_dir = train_with(values)
    model, _ = load_model(run_dir)
    assert model(np.zeros((1, 3, 8, 9, 1))).shape == (1, *np.multiply((3, 8, 9), factors), 1)
    assert any(isinstance(layer, PixelShuffle) for layer in model.layers)
    assert read_training_json(run_dir)["upscaling"] == list(factors)
    assert np.isfinite(read_history(run_dir)["val_ssim"]).all()


@pytest.mark.parametrize("config", ["config.json", {"epochs": 1}])
def test_a_config_that_was_not_loaded_is_refused(config):
    with pytest.raises(TypeError, match=rf"config is a {type(config).__name__}: make it by rcan.load_config\(path\)"):
        rcan.train(config)


def test_sizes_of_the_network_are_those_of_the_config(tmp_path, tiny_config):
    sizes = {"num_channels": 6, "num_residual_groups": 2, "num_residual_blocks": 1, "channel_reduction": 3}
    model = keras.saving.load_model(train_with(tiny_config(tmp_path, **sizes)) / "best.keras")
    assert model.count_params() == build_rcan(**sizes).count_params()


@pytest.fixture(scope="module")
def stabilised(tiny_config, tmp_path_factory):
    """A run by the default recipe, for half to all of the light."""
    folder = tmp_path_factory.mktemp("stabilised")
    shape = {"patch_shape": [8, 16, 16], "batch_size": 2, "photon_range": [0.5, 1]}
    config = Config.checked(tiny_config(folder, recipe="default", **shape))
    return folder, train(config)


def test_the_default_recipe_trains_a_network_that_is_told_the_noise(stabilised):
    model, record = load_model(stabilised[1])
    assert record.normalization == "anscombe"
    assert model.input_shape[-1] == 2
    assert model.output_shape[-1] == 1


def test_the_record_tells_the_least_and_the_most_noise(stabilised):
    """Half the light has more noise over the range; of so few voxels it is not measured well."""
    record = read_record(stabilised[1])
    least, most = np.array(record.scaling["noise_range"])
    assert least.shape == most.shape == (1, 3)
    ratios = [1 / np.sqrt(gain + floor) for ((gain, _, floor),) in (least, most)]
    assert ratios[0] > 1.2 * ratios[1]


@pytest.mark.parametrize("kind", ["raw", "gt"])  # of noise as learned, and without noise
def test_a_stabilised_network_restores_a_file_as_it_restores_an_array(stabilised, tmp_path, kind):
    """What apply writes is what view_image, restore and denormalise give."""
    folder, run_dir = stabilised
    source = folder / kind / "0.tif"
    assert main(["apply", "-m", str(run_dir), "-i", str(source), "-o", str(tmp_path / "out.tif")]) == 0
    model, record = load_model(run_dir)
    view = rcan.view_image(rcan.open_volume(source).read(dtype=None), **record.scaling)
    expected = rcan.denormalise(rcan.restore(model, view.read_input(0)), view.ranges)[..., 0]
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.ptp(expected))
    told = view.read_input(0)[..., 1]
    assert np.all(told >= stabilise(np.zeros((1, 1)), record.scaling["noise_range"][0])[..., 1])


def test_a_stabilised_network_restores_on_a_cluster_as_alone(stabilised, tmp_path):
    folder, run_dir = stabilised
    flags = ["-m", run_dir, "-i", folder / "raw" / "0.tif"]
    assert main(["apply", *map(str, flags), "-o", str(tmp_path / "alone.zarr")]) == 0
    assert main(["apply", *map(str, flags), "-o", str(tmp_path / "cluster.zarr"), "--scheduler", "local"]) == 0
    alone, cluster = (rcan.open_volume(tmp_path / f"{name}.zarr").read() for name in ("alone", "cluster"))
    np.testing.assert_array_equal(cluster, alone)


@pytest.mark.parametrize(("photon_range", "weights"), [([0.5, 1], [0.5, 2]), (None, [1, 1])])
def test_errors_at_little_light_count_less_in_a_training_for_a_range_of_light(photon_range, weights):
    """Signals of 2 and 128 times the noise: weights 0.5 and 2 by the cube root, of one patch each."""
    values = {"training_data_dir": {"raw": "raw", "gt": "gt"}, "recipe": "default", "precision": "float32"}
    config = Config.checked({**values, "photon_range": photon_range})
    network = functools.partial(build_rcan, num_input_channels=2, num_channels=8, num_residual_groups=1)
    learner = Learner(network, config, tf.distribute.get_strategy())
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(2, 4, 8, 8, 2)).astype(np.float32)
    raw[..., 1] = (1 - np.log10([2, 128]) / 3)[:, None, None, None]
    gt = np.zeros((2, 4, 8, 8, 1), np.float32)
    errors = np.abs(learner.network.predict(raw, verbose=0)).mean(axis=(1, 2, 3, 4))
    batches = [(tf.constant(raw), tf.constant(gt))]
    assert learner.evaluate(batches, 1)["loss"] == pytest.approx(np.mean(weights * errors), rel=1e-3)


def test_a_stabilised_run_goes_on_to_the_same_bits(tiny_config, tmp_path):
    values = tiny_config(tmp_path, recipe="default", patch_shape=[8, 16, 16], batch_size=2, photon_range=[0.2, 1])
    values |= {"schedule": "staircase", "warmup_epochs": 0}  # with which prolonging changes nothing
    whole = train(Config.checked({**values, "epochs": 2, "output_dir": str(tmp_path / "whole")}))
    parts = {**values, "output_dir": str(tmp_path / "parts")}
    train(Config.checked({**parts, "epochs": 1}))
    parts = train(Config.checked({**parts, "epochs": 2}), resume=True)
    for one, other in zip(*(load_model(run)[0].get_weights() for run in (whole, parts)), strict=True):
        np.testing.assert_array_equal(one, other)


# Missing voxels


@pytest.mark.parametrize("values", [{"loss": "mae+0.2*ssim"}, {"recipe": "default", "photon_range": [0.5, 1]}])
@pytest.mark.filterwarnings("ignore:.*missing")
def test_nothing_is_learned_from_missing_voxels(tmp_path, tiny_config, values):
    """Where raw is missing, gt may be anything: here its rows are in another order there."""
    values = tiny_config(tmp_path, metrics=["psnr", "ssim"], batch_size=2, **values)
    runs = []
    for order in (1, -1):
        for number in range(2):
            raw, gt = (tmp_path / kind / f"{number}.tif" for kind in ("raw", "gt"))
            holed, sharp = tifffile.imread(raw).astype(np.float32), tifffile.imread(gt)
            holed[:, 4:12, 6:14] = np.nan
            sharp[:, 4:12, 6:14] = np.sort(sharp[:, 4:12, 6:14], axis=1)[:, ::order]
            for path, image in ((raw, holed), (gt, sharp)):
                tifffile.imwrite(path, image, imagej=True, metadata={"axes": "ZYX"})
        runs.append(train_with({**values, "output_dir": str(tmp_path / f"run{order}")}))
    one, other = (load_model(run)[0].get_weights() for run in runs)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()
    assert np.isfinite(read_history(runs[0])["val_psnr"]).all()


def test_the_loss_is_the_mean_over_the_voxels_that_are_there(tiny_config, tmp_path, rng):
    config = Config.checked(tiny_config(tmp_path, **TINY))
    learner = Learner(lambda: build_rcan(**TINY), config, tf.distribute.get_strategy())
    raw, gt = rng.random((2, 2, 8, 16, 16, 1)).astype(np.float32)
    restored = learner.network.predict_on_batch(raw)
    gt[0, :, :4], gt[1, 2] = np.nan, np.nan
    found = learner.evaluate([(tf.constant(raw), tf.constant(gt))], 1)
    assert found["loss"] == pytest.approx(np.nanmean(np.abs(restored - gt)), rel=1e-4)
