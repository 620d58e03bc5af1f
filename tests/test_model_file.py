"""Files of Keras that are hostile, damaged, or of another kind of network."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from rcan.model import build_rcan
from rcan.run_folder.models import load_model

VOLUME = (None, None, None, 1)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A file of a small network."""
    path = tmp_path_factory.mktemp("valid") / "model.keras"
    build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1).save(path)
    return path


def with_member(valid, folder, name, content):
    """A copy of a model file with another content of one of its members."""
    target = folder / "hostile.keras"
    with (
        zipfile.ZipFile(valid) as old,
        zipfile.ZipFile(target, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return target


def with_weights(valid, folder, change):
    """A copy of a model file whose file of weights is changed by a function."""
    weights = folder / "weights.h5"
    with zipfile.ZipFile(valid) as archive:
        weights.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(weights, "a") as file:
        change(file)
    return with_member(valid, folder, "model.weights.h5", weights.read_bytes())


def with_layers(valid, folder, **values):
    """A copy of a model file in whose architecture each convolution of 3x3x3 has these values."""
    with zipfile.ZipFile(valid) as archive:
        architecture = json.loads(archive.read("config.json"))
    for layer in architecture["config"]["layers"]:
        if layer["config"].get("kernel_size") == [3, 3, 3]:
            layer["config"] |= values
    return with_member(valid, folder, "config.json", json.dumps(architecture))


def refused(path):
    """What loading a model says."""
    with pytest.raises(ValueError, match=path.name) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(valid, tmp_path, name):
    path = with_member(valid, tmp_path, name, bytes(10**8))
    assert path.stat().st_size < 10**6
    assert f"{name} would unpack to 0.1 GB" in refused(path)


def test_arrays_that_are_not_stored_are_refused(valid, tmp_path):
    path = with_weights(valid, tmp_path, lambda file: file.create_dataset("huge", (10**11,), chunks=(10**6,)))
    assert "its weights would take 800 GB" in refused(path) or "its weights would take 400 GB" in refused(path)


def test_weights_of_another_file_are_refused(valid, tmp_path):
    elsewhere = [(tmp_path / "secret", 0, 400)]
    path = with_weights(valid, tmp_path, lambda file: file.create_dataset("a", (100,), "f4", external=elsewhere))
    assert "its weights are in another file" in refused(path)


def test_a_network_of_more_parameters_than_are_stored_is_not_made(valid, tmp_path):
    said = refused(with_layers(valid, tmp_path, kernel_size=[999, 999, 999]))
    assert "its network has" in said
    assert "are stored" in said


def test_a_valid_file_is_loaded(valid, tmp_path):
    model, _ = load_model(shutil.copy(valid, tmp_path / "model.keras"))
    assert model.input_shape == (None, *VOLUME)


def convolution(**options):
    """A network of one convolution."""
    image = keras.Input(options.pop("shape", VOLUME))
    return keras.Model(image, layers.Conv3D(1, 3, **{"padding": "same", **options})(image))


def two_inputs():
    """The sum of two images."""
    images = [keras.Input(VOLUME), keras.Input(VOLUME)]
    return keras.Model(images, layers.Add()(images))


def mean_of_an_image():
    """A number for each image."""
    image = keras.Input(VOLUME)
    return keras.Model(image, layers.GlobalAveragePooling3D()(image))


def plane_of_a_volume():
    """The mean over Z."""
    image = keras.Input((8, None, None, 1))
    return keras.Model(image, layers.Reshape((-1, 8, 1))(layers.Conv3D(1, 1)(image)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: convolution(strides=2), "of 840x840x840 voxels it makes 420x420x420"),
        (lambda: convolution(padding="valid"), "of 840x840x840 voxels it makes 838x838x838"),
        (lambda: convolution(dilation_rate=65), "its layer .* has a dilation_rate of 65: it would look"),
        (lambda: convolution(shape=(16, 64, 64, 1)), r"it reads arrays of \(batch, 16, 64, 64, 1\)"),
        (two_inputs, "it has 2 inputs and 1 outputs"),
        (mean_of_an_image, r"it writes arrays of \(batch, 1\)"),
        (plane_of_a_volume, r"it reads arrays of \(batch, 8, any, any, 1\)"),
    ],
)
def test_another_kind_of_network_is_refused_with_the_rule(tmp_path, build, reason):
    path = tmp_path / "other.keras"
    build().save(path)
    with pytest.raises(ValueError, match=rf"other\.keras is no network that can restore images: {reason}"):
        load_model(path)


def test_a_network_that_was_trained_with_keras_itself_is_loaded(tmp_path, rng):
    model = build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1)
    model.compile(optimizer="adam", loss="mae")
    raw = rng.random((1, 4, 8, 8, 1), np.float32)
    model.fit(raw, raw, verbose=0)
    model.save(tmp_path / "fitted.keras")
    loaded, _ = load_model(tmp_path / "fitted.keras")
    np.testing.assert_array_equal(loaded(raw), model(raw))
