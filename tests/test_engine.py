import itertools
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from engines import Engine, convolution, identity, put_together
from scipy import ndimage

from rcan.model import build_rcan
from rcan.restoration.attention import with_local_attention
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, voxels_within_memory
from rcan.restoration.tiled import restore_blocks
from rcan.run_folder.architecture import grid_of

# Sizes


@pytest.mark.parametrize(
    ("downsampling", "upscaling", "expected"),
    [(None, None, (1, 1, 1)), ((1, 2, 2), None, (1, 2, 2)), ((2, 3, 1), (2, 2, 2), (2, 3, 1)), ((4, 2), None, (4, 2))],
)
def test_grid_of_the_features_is_read_off_a_model(downsampling, upscaling, expected):
    model = build_rcan(
        ndim=len(expected), downsampling=downsampling, upscaling=upscaling, num_channels=4, num_residual_groups=1,
        num_residual_blocks=1,
    )  # fmt: skip
    assert grid_of(model) == expected


@pytest.mark.parametrize("factor", [1, 2])
def test_tile_that_does_not_fit_the_grid_is_continued_at_its_end(rng, factor):
    model = build_rcan(
        downsampling=(1, 2, 3), upscaling=(factor,) * 3, num_channels=4, num_residual_groups=1, num_residual_blocks=1
    )
    tile = rng.uniform(size=(3, 7, 11, 1)).astype(np.float32)
    expected = KerasEngine(model)(np.pad(tile, [(0, 0), (0, 1), (0, 1), (0, 0)], mode="edge"))
    restored = KerasEngine(model)(tile)
    np.testing.assert_array_equal(restored, expected[:, : 7 * factor, : 11 * factor])


def test_a_layer_that_fails_is_an_error_that_names_the_network():
    model = convolution(np.ones((3, 3, 3)))
    model.layers[-1].call = lambda inputs: inputs.absent
    with pytest.raises(ValueError, match=r"^runs/mine cannot be computed \(.*absent.*\): save or train it again"):
        KerasEngine(model, name="runs/mine")(np.zeros((4, 8, 8, 1), np.float32))


# Devices

ON_FOUR = """
from rcan.keras_setup import keras
import numpy as np
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
from rcan.model import build_rcan
from rcan.restoration.attention import with_local_attention
from rcan.restoration.engine import KerasEngine, find_devices
from rcan.restoration.tiled import restore_blocks

rng = np.random.default_rng(0)
model = build_rcan(num_channels=8, num_residual_groups=1, num_residual_blocks=1)
model.set_weights([rng.normal(0, 0.3, weights.shape) for weights in model.get_weights()])
raw = rng.uniform(size=(20, 50, 54, 1)).astype(np.float32)
for network in (model, with_local_attention(model, (8, 16, 16))):
    restored = []
    for devices in ("1", "4"):
        engine = KerasEngine(network, find_devices(devices))
        assert engine.num_devices == int(devices)
        cut = {"tile_shape": (12, 24, 24), "overlap": (4, 6, 6)}
        restored.append(np.zeros_like(raw))
        for region, block in restore_blocks(engine, raw.__getitem__, raw.shape[:-1], **cut):
            restored[-1][region] = block
    assert np.ptp(restored[0]) > 0
    assert np.array_equal(*restored)
print(find_devices("auto"))
"""


def test_four_devices_restore_bit_by_bit_what_one_does():
    command = [sys.executable, "-W", "ignore", "-c", ON_FOUR]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "('cpu:0',)"  # they are the same processor


def test_devices_are_named_as_keras_takes_them():
    for devices in ("auto", "cpu", "1"):
        (name,) = find_devices(devices)
        with keras.device(name):
            assert keras.ops.ones(1) == 1


@pytest.mark.skipif(find_devices("auto")[0].startswith("gpu"), reason="there is a GPU")
def test_more_devices_than_there_are_is_an_error_with_their_number():
    with pytest.raises(ValueError, match=r"devices is 3 but there is 1 \(CPU\): name at most"):
        find_devices("3")


# Memory


def test_tile_is_limited_however_much_memory_is_free(monkeypatch):
    monkeypatch.setattr("rcan.restoration.engine.free_memory", lambda: 10**15)
    assert voxels_within_memory(identity(), ("cpu:0",)) == 2**22


@pytest.mark.parametrize(("factors", "widest"), [(None, 16), ((1, 2, 2), 64)])
def test_half_of_the_free_memory_holds_eight_of_the_widest_maps(monkeypatch, factors, widest):
    model = build_rcan(upscaling=factors, num_channels=16, num_residual_groups=1, num_residual_blocks=1)
    monkeypatch.setattr("rcan.restoration.engine.free_memory", lambda: 2**28)
    found = voxels_within_memory(model, ("cpu:0",))
    assert found == 2**27 // (8 * widest * 4)
    assert voxels_within_memory(model, ("cpu:0", "cpu:1")) == found // 2


def test_memory_of_local_attention_is_known(monkeypatch):
    model = build_rcan(num_channels=16, num_residual_groups=1, num_residual_blocks=1)
    monkeypatch.setattr("rcan.restoration.engine.free_memory", lambda: 2**28)
    local = with_local_attention(model, (8, 16, 16))
    assert voxels_within_memory(local, ("cpu:0",)) == voxels_within_memory(model, ("cpu:0",))


@pytest.mark.parametrize(("visible", "asked"), [(None, []), ("1,2", ["--id=1,2"])])
def test_free_memory_is_that_of_the_fullest_gpu_in_use(monkeypatch, visible, asked):
    model = build_rcan(num_channels=16, num_residual_groups=1, num_residual_blocks=1)
    commands = []

    def answer(command, **options):
        commands.append(command)
        return SimpleNamespace(stdout="512\n256\n1\n")

    monkeypatch.setattr("rcan.hardware.subprocess.run", answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = voxels_within_memory(model, ("gpu:0", "gpu:1"))
    assert found == 2**27 // (8 * 16 * 4)  # half of 256 MiB
    assert commands[0][3:] == asked
    assert voxels_within_memory(model, ("gpu:0", "gpu:1") * 2) == found // 2  # two networks share them


# Ensembles


def skewed(ndim, factors=None):
    """A function of a tile that knows its axes and directions, and enlarges where told so."""
    kernel = np.random.default_rng(5).normal(size=(3,) * ndim + (1,))

    def compute(tile):
        tile = np.kron(tile, np.ones((*(factors or (1,) * ndim), 1)))
        return ndimage.correlate(tile, kernel, mode="constant").astype(np.float32)

    return Engine(compute, factors=factors or (1,) * ndim)


def members(engine, tile, *, with_z):
    """All mirror images of a tile and its transpose, restored and taken back."""
    *_, y, x = range(tile.ndim - 1)
    swapped = list(range(tile.ndim))
    swapped[y], swapped[x] = x, y
    for swap, up, left, deep in itertools.product([False, True], repeat=4):
        if deep and not with_z:
            continue
        axes = tuple(axis for axis, flip in zip((y, x, 0), (up, left, deep), strict=True) if flip)
        seen = np.flip(tile.transpose(swapped) if swap else tile, axes)
        restored = np.flip(engine(seen), axes)
        yield restored.transpose(swapped) if swap else restored


@pytest.mark.parametrize(("ndim", "size", "factors"), [(3, 8, None), (3, 16, None), (2, 8, None), (3, 16, (1, 2, 2))])
def test_ensemble_is_mean_and_spread_of_all_symmetries(rng, ndim, size, factors):
    tile = rng.normal(size=(4, 7, 9, 1)[-ndim - 1 :]).astype(np.float32)
    engine = skewed(ndim, factors)
    expected = np.array(list(members(engine, tile, with_z=size == 16)))
    assert len(expected) == size
    ensemble = Ensemble(engine, size, with_spread=True)
    assert ensemble.num_channels == (1, 2)
    found = ensemble(tile)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., :1], expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found[..., 1:], expected.std(axis=0), atol=1e-5)
    alone = Ensemble(engine, size)
    assert alone.num_channels == (1, 1)
    np.testing.assert_array_equal(alone(tile), found[..., :1])


def test_spread_is_exact_far_from_zero(rng):
    tile = rng.normal(size=(4, 7, 9, 1)).astype(np.float32)
    engine = skewed(3)
    far = Engine(lambda tile: 1000 + engine(tile).astype(np.float64))
    near, away = (Ensemble(one, 8, with_spread=True)(tile)[..., 1] for one in (engine, far))
    np.testing.assert_allclose(away, near, atol=1e-5)


def test_ensemble_of_a_network_works_in_tiles(rng):
    kernel = rng.normal(size=(3, 3, 3)).astype(np.float32)
    raw = rng.normal(size=(9, 30, 28, 1)).astype(np.float32)
    engine = Ensemble(KerasEngine(convolution(kernel)), 16)
    blocks = restore_blocks(engine, raw.__getitem__, raw.shape[:-1], tile_shape=(9, 18, 16), overlap=(4, 4, 4))
    untiled = [
        ndimage.correlate(raw[..., 0].astype(float), np.flip(turned, axes), mode="constant")
        for turned in (kernel, kernel.transpose(0, 2, 1))
        for axes in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    ]
    np.testing.assert_allclose(put_together(raw.shape, blocks)[..., 0], np.mean(untiled, axis=0), atol=1e-4)


def test_2d_network_has_no_ensemble_of_sixteen():
    with pytest.raises(ValueError, match=r"--ensemble 16 flips Z.*use --ensemble 8"):
        Ensemble(skewed(2), 16)


def test_ensemble_of_different_upscaling_in_y_and_x_is_refused():
    with pytest.raises(ValueError, match=r"enlarges \(1, 2, 3\)"):
        Ensemble(skewed(3, (1, 2, 3)), 8)
