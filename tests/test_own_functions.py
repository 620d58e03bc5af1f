"""Own functions in our training: network, loss and augmentation."""

import functools
import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import rcan
from rcan.commands.train import main
from rcan.config import Config
from rcan.report.finish import finish_training
from rcan.run_folder.record import TrainingRecord
from rcan.training.fit import train
from rcan.training.gradient import use_fast_gradient
from rcan.training.own_functions import per_image
from rcan.training.run_data import make_samplers, open_data, resolve_config


def plain_network(ndim, num_input_channels, num_output_channels, upscaling):
    """Two convolutions."""
    conv = {2: layers.Conv2D, 3: layers.Conv3D}[ndim]
    inputs = keras.Input((None,) * ndim + (num_input_channels,))
    x = conv(5, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, conv(num_output_channels, 3, padding="same")(x))


def coarse_network(ndim, num_input_channels, num_output_channels, upscaling):
    """Features on a grid of 4 voxels along Y and X."""
    inputs = keras.Input((None,) * ndim + (num_input_channels,))
    x = layers.Conv3D(4, 3, strides=(1, 4, 4), padding="same")(inputs)
    return keras.Model(inputs, layers.Conv3DTranspose(num_output_channels, 4, strides=(1, 4, 4), padding="same")(x))


def squared(gt, restored):
    """The squared error, one number for each voxel."""
    return ops.square(gt - restored)


def brighten(raw, gt, rng):
    """The same patch, with 10 more on both."""
    return raw + 10, gt + 10


def record_of(run_dir):
    return TrainingRecord.load(run_dir / "training.json")


def weights_of(run_dir):
    return keras.saving.load_model(run_dir / "last.keras", compile=False).get_weights()


# Network


@pytest.mark.parametrize(("axes", "patch_shape"), [("ZYX", [8, 16, 16]), ("YX", [16, 16])])
def test_own_network_is_trained_saved_and_restores(tmp_path, tiny_config, axes, patch_shape):
    values = tiny_config(tmp_path, axes=axes, patch_shape=patch_shape, recipe="default")
    run_dir = train(Config.checked(values), network=plain_network)
    model, record = rcan.load_model(run_dir)
    assert [layer.filters for layer in model.layers[1:]] == [5, 1]
    assert model.input_shape[-1] == 2  # of the default recipe: image and noise
    assert record.own_functions == {"network": f"{__name__}.plain_network"}
    assert len(rcan.restore_folder(run_dir, tmp_path / "raw", tmp_path / "out").restored) == 2


def test_own_network_that_is_ours_trains_to_the_same_bits(tmp_path, tiny_config):
    values = tiny_config(tmp_path)
    size = {name: values[name] for name in ("num_channels", "num_residual_groups", "num_residual_blocks")}
    own = train(Config.checked(values), network=functools.partial(rcan.build_rcan, **size))
    ours = train(Config.checked({**values, "output_dir": str(tmp_path / "ours")}))
    assert [weight.tobytes() for weight in weights_of(own)] == [weight.tobytes() for weight in weights_of(ours)]
    assert record_of(own).own_functions == {"network": "rcan.model.build_rcan"}
    assert record_of(ours).own_functions is None


def test_patches_fit_the_grid_of_an_own_network(tmp_path, tiny_config):
    values = tiny_config(tmp_path, patch_shape=[8, 18, 18], downsampling=[2, 2, 2], validation_split=0)
    config = Config.checked(values)
    with pytest.warns(UserWarning, match=r"cut down .* multiples of downsampling \[1, 4, 4\]: \[8, 16, 16\]"):
        run_dir = train(config, network=coarse_network)
    assert rcan.load_config(run_dir / "config.json").downsampling == (1, 4, 4)


class Subclass(keras.Model):
    """A model without inputs."""


def two_channels(ndim, **sizes):
    """A network that writes one channel too many."""
    return plain_network(ndim, **{**sizes, "num_output_channels": 2})


def with_lambda(ndim, num_input_channels, num_output_channels, upscaling):
    """A network that is saved as code."""
    inputs = keras.Input((None,) * ndim + (num_input_channels,))
    x = layers.Conv3D(num_output_channels, 3, padding="same")(inputs)
    return keras.Model(inputs, layers.Lambda(lambda x: x * 2)(x))


def of_fixed_size(ndim, num_input_channels, num_output_channels, upscaling):
    """A network for patches of one size."""
    inputs = keras.Input((8, 16, 16, num_input_channels))
    return keras.Model(inputs, layers.Conv3D(num_output_channels, 3, padding="same")(inputs))


def from_numpy(gt, restored):
    """A loss that TensorFlow cannot look into."""
    return np.abs(np.asarray(gt) - np.asarray(restored)).mean()


WRONG = [
    ({"network": lambda **_: Subclass()}, "returned a Subclass: it must return a keras.Model with inputs and outputs"),
    ({"network": two_channels}, r"reads 1 channels, writes 2 .* it must read 1, write 1"),
    ({"network": with_lambda}, "could be saved but not loaded"),
    ({"network": of_fixed_size}, "with any sizes and a fixed number of channels"),
    ({"loss": from_numpy}, "cannot be computed .*: write it with keras.ops"),
    ({"loss": lambda gt, restored: ops.mean(gt - restored, axis=(0, 1))}, "one number for each image of the batch"),
    ({"loss": lambda gt, restored: ops.mean(gt, axis=(1, 2, 3, 4))}, "has no gradient"),
    ({"loss": lambda gt, restored: ops.mean(ops.log(-1 - ops.square(restored)))}, "is not finite for images near"),
    ({"augment": lambda raw, gt, rng: (raw * np.nan, gt)}, "returned a raw patch with NaN or infinite values"),
    ({"augment": lambda raw, gt, rng: raw}, r"augment\(raw, gt, rng\) must return raw and gt"),
    ({"augment": lambda raw, gt, rng: (raw[:4], gt)}, r"returned shapes \(4, 16, 16, 1\) and \(8, 16, 16, 1\)"),
]


@pytest.mark.parametrize(("functions", "message"), WRONG)
def test_what_does_not_fit_is_refused_and_leaves_the_old_run(tmp_path, tiny_config, functions, message):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("best.keras", "training.json"):
        (run_dir / name).write_text("old")
    with pytest.raises(ValueError, match=message):
        train(Config.checked(tiny_config(tmp_path)), overwrite=True, **functions)
    assert {path.name: path.read_text() for path in run_dir.glob("*.*")} == {
        "best.keras": "old",
        "training.json": "old",
    }


@pytest.mark.parametrize("kind", ["network", "loss", "augment"])
def test_what_is_no_function_is_a_type_error(tmp_path, tiny_config, kind):
    with pytest.raises(TypeError, match=f"{kind} is a str: give a function"):
        train(Config.checked(tiny_config(tmp_path)), **{kind: "mse"})


@pytest.mark.parametrize(
    "options", [{"strides": 2}, {"dilation_rate": 2}, {"groups": 2}, {"padding": "valid"}], ids=str
)
def test_fast_gradient_leaves_other_convolutions_alone(options):
    layer = layers.Conv3D(2, 3, **{"padding": "same", **options})
    x = tf.random.stateless_normal((1, 6, 6, 6, 2), (0, 1))
    expected = layer(x)
    use_fast_gradient(keras.Sequential([layer]))
    np.testing.assert_array_equal(layer(x), expected)


# Loss


def test_own_loss_is_minimised_and_recorded(tmp_path, tiny_config):
    own = train(Config.checked(tiny_config(tmp_path, epochs=2, loss="mae")), loss=squared)
    mse = train(Config.checked(tiny_config(tmp_path, epochs=2, loss="mse", output_dir=str(tmp_path / "mse"))))
    for one, other in zip(weights_of(own), weights_of(mse), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert record_of(own).own_functions == {"loss": f"{__name__}.squared"}


def test_loss_of_keras_can_be_given(tmp_path, tiny_config):
    run_dir = train(Config.checked(tiny_config(tmp_path)), loss=keras.losses.Huber())
    assert record_of(run_dir).own_functions["loss"].endswith(".Huber")


def test_loss_of_voxels_becomes_that_of_images(rng):
    gt, restored = rng.normal(size=(2, 3, 4, 5, 6, 1)).astype(np.float32)
    expected = [np.mean((one - other) ** 2) for one, other in zip(gt, restored, strict=True)]
    np.testing.assert_allclose(per_image(squared)(gt, restored), expected, rtol=1e-5)


# Augmentation


def test_own_augmentation_is_of_training_patches_alone(tmp_path, tiny_config):
    config = Config.checked(tiny_config(tmp_path))
    data = open_data(config)
    config = resolve_config(config, data, "float32")
    own, ours = (make_samplers(config, data, augment=function) for function in (brighten, None))
    for one, other in zip(own.training.sample(3), ours.training.sample(3), strict=True):
        np.testing.assert_allclose(one, other + 10, rtol=1e-6)
    for one, other in zip(own.validation.sample(3), ours.validation.sample(3), strict=True):
        np.testing.assert_array_equal(one, other)


def add_noise(raw, gt, rng):
    """Noise on raw."""
    return raw + rng.normal(0, 0.1, raw.shape), gt


def test_own_augmentation_is_the_same_in_every_run(tmp_path, tiny_config):
    values = tiny_config(tmp_path)
    runs = [
        train(Config.checked({**values, "output_dir": str(tmp_path / name)}), augment=function)
        for name, function in (("one", add_noise), ("other", add_noise), ("without", None))
    ]
    one, other, without = ([weight.tobytes() for weight in weights_of(run)] for run in runs)
    assert one == other != without


# Going on


def test_run_goes_on_with_the_same_functions_alone(tmp_path, tiny_config, capsys):
    values = tiny_config(tmp_path)
    functions = {"network": plain_network, "loss": squared, "augment": add_noise}
    train(Config.checked(values), **functions)
    longer = Config.checked({**values, "epochs": 2})
    for kind in functions:
        with pytest.raises(ValueError, match=f"cannot go on with another {kind} .was {__name__}.* is ours"):
            train(longer, resume=True, **{name: function for name, function in functions.items() if name != kind})
    (tmp_path / "config.json").write_text(json.dumps({**values, "epochs": 2}))
    assert main(["-c", str(tmp_path / "config.json"), "--resume"]) == 1
    assert "give the same function to rcan.train" in capsys.readouterr().err
    run_dir = train(longer, resume=True, **functions)
    assert len((run_dir / "history.csv").read_text().splitlines()) == 3  # two epochs under the names of the columns


# Reports


def test_report_names_the_functions(tmp_path, tiny_config):
    config = Config.checked(tiny_config(tmp_path))
    data = open_data(config)
    run_dir = train(config, data, network=plain_network, loss=squared, augment=brighten)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has learned nothing
        finish_training(run_dir, data)
    report = (run_dir / "report.html").read_text("utf-8")
    assert f"network (as {__name__}.plain_network builds it, 276 parameters)" in report
    assert f"The loss, {__name__}.squared, was minimised" in report
    assert f"and augmented by {__name__}.brighten" in report
    assert "residual channel attention network (" not in report
