"""Networks one after the other are what two calls with a file in float32 between them are."""

import json

import keras
import numpy as np
import pytest
import tifffile

import rcan
from rcan.commands.apply import main
from rcan.io.opening import open_volume
from rcan.model import build_rcan

TILES = ("-B", "6,24,24", "-O", "2,8,8")


def save_network(folder, seed, *, normalization="percentiles", **size):
    """A run folder whose network, of random weights, changes its input a good deal."""
    keras.utils.set_random_seed(seed)
    channels = size.pop("num_input_channels", 1)
    size = {"num_channels": 8, "num_residual_blocks": 1, "num_residual_groups": 1, "channel_reduction": 2, **size}
    factor = {"percentiles": 1, "anscombe": 2}[normalization]
    model = build_rcan(num_input_channels=factor * channels, **size)
    folder.mkdir(parents=True)
    model.save(folder / "best.keras")
    about = {"percentiles": (2, 99.9), "patch_shape": [6, 16, 16], "normalization": normalization}
    (folder / "training.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("networks")
    two = {"num_input_channels": 2, "num_output_channels": 2}
    sizes = {
        "first": {},
        "second": {},
        "larger": {"upscaling": (1, 2, 2)},
        "coarse": {"downsampling": (1, 2, 2)},
        "noise_first": {"normalization": "anscombe"},
        "noise_second": {"normalization": "anscombe"},
        "two": two,
        "two_again": two,
        "two_to_one": {"num_input_channels": 2},
        "planes": {"ndim": 2},
    }
    return {name: save_network(folder / name, seed, **size) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture
def apply(capfd):
    """Run the command; return what it printed: `out, err = apply("-m", …, status=0)`."""

    def apply(*flags, status=0):
        found = main([str(flag) for flag in flags])
        out, err = capfd.readouterr()
        assert found == status, out + err
        return out, err

    return apply


@pytest.fixture
def image(tmp_path, write_tiff, noisy_pair):
    """Write grey values: `image("TZYX", 2, 9, 40, 50)`."""

    def image(axes, *shape):
        return write_tiff(tmp_path / "raw.tif", noisy_pair(shape, 0)[0], axes)

    return image


def chain_of(networks, *names):
    return ",".join(str(networks[name]) for name in names)


def one_by_one(apply, networks, names, raw, folder, *flags, form="ome"):
    """The last of several calls' outputs, each of which restores the one before; `flags` are of the first alone."""
    for number, name in enumerate(names):
        output = folder / f"step_{number}.{'ome.tif' if form == 'ome' else 'tif'}"
        apply("-m", networks[name], "-i", raw, "-o", output, *TILES, *(flags if number == 0 else ()))
        raw = output
    return raw


def read(path):
    with open_volume(path) as file:
        return np.stack([file.read(frame) for frame in file.frames]), file.voxel_size, file.axes


def assert_alike(found, expected):
    """The same voxels, to 1e-4 of their range, and the same axes and voxel size."""
    (found, *about), (expected, *about_expected) = read(found), read(expected)
    assert about == about_expected
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.ptp(expected))
    assert np.ptp(expected) > 0


# Equal to calls one after the other


@pytest.mark.parametrize(
    "names",
    [
        ("first", "second"),
        ("first", "first"),
        ("noise_first", "noise_second"),
        ("noise_first", "second"),
        ("first", "noise_second"),
        ("larger", "second"),
        ("first", "larger"),
        ("larger", "larger"),
        ("coarse", "noise_second"),
        ("first", "noise_second", "larger"),
    ],
    ids=" ".join,
)
def test_a_chain_is_what_calls_one_after_the_other_are(apply, networks, image, tmp_path, names):
    raw = image("ZYX", 9, 44, 50)
    expected = one_by_one(apply, networks, names, raw, tmp_path)
    apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif", *TILES)
    assert_alike(tmp_path / "chain.ome.tif", expected)
