import json
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from rcan.model import PixelShuffle, build_rcan

TINY = {"num_channels": 8, "num_residual_blocks": 2, "num_residual_groups": 2, "channel_reduction": 4}
STOCK = {
    "InputLayer",
    "Rescaling",
    "Conv2D",
    "Conv3D",
    "Conv2DTranspose",
    "Conv3DTranspose",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "Multiply",
    "Add",
}
LEGACY = {
    "2d_groups2_blocks1": {"ndim": 2, "num_residual_groups": 2, "num_residual_blocks": 1},
    "3d_groups1_blocks3": {"num_residual_groups": 1, "num_residual_blocks": 3, "channel_reduction": 2},
    "3d_groups2_blocks2": {"num_residual_groups": 2, "num_residual_blocks": 2},
    "3d_groups5_blocks3_default": {},
    "3d_two_channels": {
        "num_residual_groups": 2,
        "num_residual_blocks": 1,
        "num_input_channels": 2,
        "num_output_channels": 2,
    },
}


def count_parameters(*, ndim, channels_in, channels_out, width, blocks, groups, reduction):
    """Weights and biases of the published architecture, added up by hand."""
    kernel = 3**ndim
    inner = kernel * width**2 + width
    narrow = width // reduction
    block = 2 * inner + (width * narrow + narrow) + (narrow * width + width)
    group = blocks * block + (inner if groups > 1 else 0)
    first = kernel * channels_in * width + width
    last = kernel * width * channels_out + channels_out
    return first + groups * group + inner + last


def shuffle_slowly(x, factors):
    """Sub-pixel upscaling, voxel by voxel."""
    *spatial, channels = x.shape
    shuffled = np.zeros((*np.multiply(spatial, factors), channels // np.prod(factors)))
    for place in np.ndindex(*shuffled.shape[:-1]):
        source = tuple(p // f for p, f in zip(place, factors, strict=True))
        within = np.ravel_multi_index([p % f for p, f in zip(place, factors, strict=True)], factors)
        for channel in range(shuffled.shape[-1]):
            shuffled[(*place, channel)] = x[(*source, channel * np.prod(factors) + within)]
    return shuffled


def published_arrays(file):
    """(kernel, bias) of every convolution of a Keras 2 model file, in the order the layers were made.

    Keras 2 numbers the layers of a class as they are made: conv3d, conv3d_1, conv3d_2, …
    """
    config = json.loads(file.attrs["model_config"])["config"]
    names = [layer["config"]["name"] for layer in config["layers"] if layer["class_name"].startswith("Conv")]
    names.sort(key=lambda name: int(name.partition("_")[2] or 0))
    for name in names:
        group = file["model_weights"][name]
        yield [group[weight][()] for weight in group.attrs["weight_names"]]


def test_default_network_has_the_published_number_of_parameters():
    assert build_rcan().count_params() == 1_002_621


@pytest.mark.parametrize(
    ("ndim", "channels_in", "channels_out", "width", "blocks", "groups", "reduction"),
    [(3, 1, 1, 32, 3, 5, 8), (2, 1, 1, 32, 3, 5, 8), (3, 2, 1, 16, 1, 1, 4), (2, 3, 2, 8, 4, 2, 2)],
)
def test_number_of_parameters_is_that_of_the_closed_form(
    ndim, channels_in, channels_out, width, blocks, groups, reduction
):
    model = build_rcan(
        ndim=ndim,
        num_input_channels=channels_in,
        num_output_channels=channels_out,
        num_channels=width,
        num_residual_blocks=blocks,
        num_residual_groups=groups,
        channel_reduction=reduction,
    )
    assert model.count_params() == count_parameters(
        ndim=ndim,
        channels_in=channels_in,
        channels_out=channels_out,
        width=width,
        blocks=blocks,
        groups=groups,
        reduction=reduction,
    )


@pytest.mark.parametrize("name", LEGACY)
def test_published_weights_give_the_published_output(data_dir, name):
    folder = data_dir / "legacy_models" / name
    newest = sorted(folder.glob("weights_*.hdf5"))[-1]
    expected = np.load(folder / "expected.npz")
    widths = {} if "default" in name else {"num_channels": 8, "channel_reduction": 4}
    model = build_rcan(**{**widths, **LEGACY[name]})
    layers = [layer for layer in model.layers if layer.weights]
    with h5py.File(newest) as file:
        for layer, arrays in zip(layers, published_arrays(file), strict=True):
            layer.set_weights(arrays)
    largest = np.abs(expected["output"]).max()
    found = model.predict(expected["input"], verbose=0)
    np.testing.assert_allclose(found / largest, expected["output"] / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 1), (2, 1), (3, 2), (1, 2)])
def test_output_has_the_size_of_the_input_and_the_channels_asked_for(ndim, channels_in, channels_out, rng):
    model = build_rcan(ndim=ndim, num_input_channels=channels_in, num_output_channels=channels_out, **TINY)
    size = (5, 9, 11)[-ndim:]
    assert model(rng.uniform(size=(2, *size, channels_in))).shape == (2, *size, channels_out)


def test_one_plane_is_a_volume(rng):
    assert build_rcan(**TINY)(rng.uniform(size=(1, 1, 9, 11, 1))).shape == (1, 1, 9, 11, 1)


def test_single_group_has_no_closing_convolution_and_no_short_skip():
    sizes = {**TINY, "num_residual_groups": 1, "num_residual_blocks": 3}
    classes = [type(layer).__name__ for layer in build_rcan(**sizes).layers]
    assert classes.count("Conv3D") == 1 + 3 * 4 + 1 + 1  # first; two and two of attention a block; last two
    assert classes.count("Add") == 3 + 1  # one a block; the long skip


def test_attention_has_at_least_one_channel():
    model = build_rcan(**{**TINY, "channel_reduction": 100})
    assert min(layer.filters for layer in model.layers if "conv3d" in layer.name) == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_zero_weights_give_one_half_whatever_the_input(ndim, rng):
    model = build_rcan(ndim=ndim, **TINY)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    output = model(rng.uniform(-3, 3, (1, *(8,) * ndim, 1)))  # output is 0.5 y + 0.5
    np.testing.assert_array_equal(output, 0.5)


def test_background_and_signal_reach_the_first_convolution_as_minus_one_and_one():
    model = build_rcan(**TINY)
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv3D))
    seen = keras.Model(model.input, first.input)
    np.testing.assert_array_equal(
        seen(np.array([0, 0.5, 1, 2], np.float32).reshape(1, 1, 1, 4, 1)).numpy().ravel(), [-1, 0, 1, 3]
    )


def test_residual_scaling_weighs_the_branch_of_every_block(rng):
    sizes = {**TINY, "num_residual_groups": 1, "num_residual_blocks": 1}
    x = rng.uniform(size=(1, 4, 8, 8, 1)).astype(np.float32)
    models = [build_rcan(**sizes, residual_scaling=scaling) for scaling in (1.0, 0.5, 1e-12)]
    for model in models:
        model.set_weights(models[0].get_weights())
    whole, half, none = (model(x).numpy() for model in models)
    # the tail of the network is linear in what the only block adds
    assert np.abs(whole - none).max() > 1e-3
    np.testing.assert_allclose(half - none, 0.5 * (whole - none), atol=1e-5)


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (3, 1, 2), (2, 2), (1, 3)])
def test_pixel_shuffle_equals_a_loop_over_voxels(factors, rng):
    x = rng.normal(size=(2, *(3, 4, 5)[-len(factors) :], 2 * np.prod(factors))).astype(np.float32)
    expected = [shuffle_slowly(image, factors) for image in x]
    np.testing.assert_array_equal(PixelShuffle(factors)(x), expected)


@pytest.mark.parametrize(
    ("upscaling", "num_stages"), [((2, 2, 2), 1), ((4, 4, 4), 2), ((1, 2, 2), 1), ((3, 3, 3), 1), ((2, 2), 1)]
)
def test_upscaling_multiplies_the_size(upscaling, num_stages, rng):
    model = build_rcan(ndim=len(upscaling), upscaling=upscaling, **TINY)
    size = (3, 6, 7)[-len(upscaling) :]
    output = model(rng.uniform(size=(1, *size, 1)))
    assert output.shape == (1, *np.multiply(size, upscaling), 1)
    assert sum(isinstance(layer, PixelShuffle) for layer in model.layers) == num_stages


@pytest.mark.parametrize("downsampling", [(1, 2, 2), (2, 2, 2), (1, 3, 2), (2, 2)])
@pytest.mark.parametrize("factor", [1, 2])
def test_features_on_a_coarser_grid_keep_the_size_of_the_output(downsampling, factor, rng):
    ndim = len(downsampling)
    model = build_rcan(ndim=ndim, downsampling=downsampling, upscaling=(factor,) * ndim, **TINY)
    size = np.multiply((3, 4, 5)[-ndim:], downsampling)
    assert model(rng.uniform(size=(1, *size, 1))).shape == (1, *(factor * size), 1)
    attended = next(layer.input for layer in model.layers if layer.name.startswith("globalaverage"))
    features = keras.Model(model.input, attended)(rng.uniform(size=(1, *size, 1)))
    assert features.shape == (1, *(3, 4, 5)[-ndim:], 8)


def test_features_on_a_coarser_grid_take_parameters_of_two_layers_only():
    plain, coarse = build_rcan(**TINY), build_rcan(downsampling=(1, 2, 2), **TINY)
    # kernels of 3x4x4 instead of 3x3x3 in the first and in the last convolution, of 8 feature channels
    assert coarse.count_params() - plain.count_params() == 2 * 8 * (48 - 27)


def test_downsampling_of_one_is_the_published_network():
    names = [[layer.name for layer in build_rcan(downsampling=each, **TINY).layers] for each in (None, (1, 1, 1))]
    assert names[0] == names[1]


def test_upscaling_of_one_is_no_upscaling():
    assert build_rcan(upscaling=(1, 1, 1), **TINY).count_params() == build_rcan(**TINY).count_params()


@pytest.mark.parametrize("upscaling", [None, (2, 2, 2), (2, 2)])
def test_layers_are_stock_but_for_the_pixel_shuffle(upscaling):
    ndim = len(upscaling or "ZYX")
    classes = {type(layer) for layer in build_rcan(ndim=ndim, upscaling=upscaling, residual_scaling=0.5, **TINY).layers}
    ours = {PixelShuffle} if upscaling else set()
    assert {kind.__name__ for kind in classes - ours} <= STOCK
    assert all(kind.__module__.startswith("keras.") for kind in classes - ours)
    assert ours <= classes


def test_names_of_the_layers_do_not_depend_on_what_was_built_before():
    one, other = ([layer.name for layer in build_rcan(upscaling=(1, 2, 2), **TINY).layers] for _ in range(2))
    assert one == other
    assert len(set(one)) == len(one)


@pytest.mark.parametrize("ndim", [2, 3])
def test_saved_model_opens_in_safe_mode_without_this_package(ndim, tmp_path, rng):
    model = build_rcan(ndim=ndim, residual_scaling=0.5, **TINY)
    x = rng.uniform(size=(1, *(4, 12, 13)[-ndim:], 1)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    program = """
import sys, keras, numpy as np
model = keras.saving.load_model("model.keras", safe_mode=True)
np.save("y.npy", model.predict(np.load("x.npy"), verbose=0))
assert not any(name.split(".")[0] == "rcan" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), atol=1e-6)


def test_upscaling_model_is_the_same_when_loaded(tmp_path, rng):
    model = build_rcan(upscaling=(1, 2, 2), **TINY)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = rng.uniform(size=(1, 4, 12, 13, 1)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))
