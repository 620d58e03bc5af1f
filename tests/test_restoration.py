import itertools
import math
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from scipy import ndimage

from rcan.data.views import open_network_view
from rcan.io.opening import open_volume
from rcan.model import PixelShuffle, build_rcan
from rcan.restoration.attention import with_local_attention
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, upscaling_of, voxels_within_memory
from rcan.restoration.file import FileRestorer
from rcan.restoration.seams import SeamMeter
from rcan.restoration.settings import RestoreSettings
from rcan.restoration.tiled import TiledRestorer, is_computing, restore, restore_blocks
from rcan.restoration.tiles import tile_axis


def identity(ndim=3, channels=1):
    inputs = keras.Input((None,) * ndim + (channels,))
    return keras.Model(inputs, layers.Rescaling(1.0)(inputs))


def convolution(kernel):
    """A model of one convolution, with zeros beyond the border."""
    conv = {2: layers.Conv2D, 3: layers.Conv3D}[kernel.ndim]
    inputs = keras.Input((None,) * kernel.ndim + (1,))
    model = keras.Model(inputs, conv(1, kernel.shape, padding="same", use_bias=False)(inputs))
    model.set_weights([kernel[..., np.newaxis, np.newaxis]])
    return model


def nearest_neighbour(factors):
    """A model that repeats voxels: channels repeated, then shuffled into space."""
    inputs = keras.Input((None,) * len(factors) + (1,))
    repeated = layers.Concatenate()([inputs] * math.prod(factors))
    return keras.Model(inputs, PixelShuffle(factors)(repeated))


class Engine:
    """A function of a tile as an engine."""

    def __init__(self, function, *, factors=(1, 1, 1), num_channels=(1, 1), num_devices=1):
        self.function, self.factors = function, factors
        self.num_channels, self.num_devices = num_channels, num_devices

    def __call__(self, tile):
        return self.function(tile)


def put_together(shape, blocks):
    restored = np.full(shape, np.nan, np.float32)
    for region, block in blocks:
        restored[region] = block
    return restored


# Whole volumes


@pytest.mark.parametrize(
    ("shape", "tile_shape", "overlap"),
    [
        ((16, 32, 32, 1), (8, 16, 16), (2, 4, 4)),
        ((13, 37, 41, 1), (8, 16, 16), None),
        ((13, 37, 41, 2), (6, 9, 14), (4, 6, 10)),
        ((1, 37, 41, 1), (8, 16, 16), None),
        ((3, 5, 7, 1), (16, 256, 256), None),
        ((13, 37, 41, 1), (8, 16, 16), (0, 0, 0)),
        ((1, 1, 1, 1), (8, 16, 16), None),
        ((13, 37, 41, 1), None, None),
        ((37, 41, 1), (16, 16), None),
        ((1, 41, 3), (16, 16), (8, 8)),
    ],
)
def test_identity_model_gives_the_volume_back(shape, tile_shape, overlap, rng):
    raw = rng.normal(size=shape).astype(np.float32)
    model = identity(len(shape) - 1, shape[-1])
    restored = restore(model, raw, tile_shape=tile_shape, overlap=overlap)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, raw, atol=1e-5)  # of many float32 weights


@pytest.mark.parametrize(("shape", "tile_shape"), [((13, 37, 41), (9, 16, 18)), ((37, 41), (16, 18))])
def test_tiled_equals_untiled_where_the_margin_is_the_reach_of_the_network(shape, tile_shape, rng):
    """Kernel 3: the outermost voxel of a tile alone is wrong, and thrown away."""
    kernel = rng.normal(size=(3,) * len(shape)).astype(np.float32)
    raw = rng.normal(size=(*shape, 1)).astype(np.float32)
    untiled = ndimage.correlate(raw[..., 0].astype(float), kernel, mode="constant")
    tiled = restore(convolution(kernel), raw, tile_shape=tile_shape, overlap=(4,) * len(shape))[..., 0]
    np.testing.assert_allclose(tiled, untiled, atol=1e-4)


def test_reach_beyond_the_margin_changes_the_ramp_alone(rng):
    """Overlap 8, ramp 2, margin 3; a kernel of 9 reaches 4 voxels."""
    kernel = rng.normal(size=(1, 1, 9)).astype(np.float32)
    raw = rng.normal(size=(3, 4, 40, 1)).astype(np.float32)
    tiled = restore(convolution(kernel), raw, tile_shape=(3, 4, 24), overlap=(0, 0, 8))[..., 0]
    untiled = ndimage.correlate(raw[..., 0].astype(float), kernel, mode="constant")
    wrong = np.abs(tiled - untiled).max(axis=(0, 1)) > 1e-4
    assert list(np.flatnonzero(wrong)) == [19, 20]  # tiles 0:24 and 16:40 meet in the middle


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (1, 3, 2), (2, 2)])
def test_upscaling_model_fills_the_larger_volume(factors, rng):
    shape = (7, 23, 29)[-len(factors) :]
    raw = rng.normal(size=(*shape, 1)).astype(np.float32)
    tile_shape = (4, 10, 11)[-len(factors) :]
    restored = restore(nearest_neighbour(factors), raw, tile_shape=tile_shape, overlap=(2,) * len(factors))
    np.testing.assert_allclose(restored, np.kron(raw, np.ones((*factors, 1))), atol=2e-6)


def test_one_tile_is_the_prediction_of_the_model(rng):
    model = build_rcan(num_channels=8, num_residual_groups=1, num_residual_blocks=1)
    raw = rng.uniform(size=(5, 11, 13, 1)).astype(np.float32)
    restored = restore(model, raw, tile_shape=(16, 256, 256))
    np.testing.assert_allclose(restored, model.predict(raw[np.newaxis], verbose=0)[0], atol=1e-6)


def test_model_of_other_channels_out_than_in_is_taken(rng):
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, layers.Concatenate()([inputs, inputs, inputs]))
    raw = rng.normal(size=(5, 20, 21, 2)).astype(np.float32)
    np.testing.assert_allclose(restore(model, raw, tile_shape=(4, 8, 8)), np.tile(raw, 3), atol=2e-6)


@pytest.mark.parametrize(
    ("tile_shape", "expected"), [((8, 24, 80), (2, 6, 16)), ((64, 256, 256), (16, 16, 16))]
)
def test_default_overlap_is_16_voxels_or_a_quarter_of_a_given_tile(tile_shape, expected):
    planned = TiledRestorer(None, max_voxels=2**22, tile_shape=tile_shape).plan((100, 300, 300))
    assert planned == (tile_shape, expected)


def test_given_overlap_is_kept():
    assert TiledRestorer(None, max_voxels=2**22, tile_shape=(50, 60), overlap=(0, 7)).plan((100, 300))[1] == (
        0,
        7,
    )


def test_chosen_tile_is_larger_than_the_overlap_where_memory_is_little():
    tile_shape, overlap = TiledRestorer(None, max_voxels=10_000).plan((100, 300, 300))
    assert math.prod(tile_shape) <= 10_000
    assert all(tile > 2 * shared for tile, shared in zip(tile_shape, overlap, strict=True))


@pytest.mark.parametrize(
    ("factors", "expected"), [(None, (1, 1, 1)), ((1, 2, 2), (1, 2, 2)), ((4, 4, 4), (4, 4, 4))]
)
def test_upscaling_is_read_off_a_model(factors, expected):
    model = build_rcan(upscaling=factors, num_channels=4, num_residual_groups=1, num_residual_blocks=1)
    assert upscaling_of(model) == expected


# Block by block

TILES = {"tile_shape": (8, 8, 8), "overlap": (2, 2, 2)}  # 5 x 2 x 2 tiles of the volume below


@pytest.fixture
def raw(rng):
    return rng.normal(size=(31, 12, 13, 1)).astype(np.float32)


def repeated(tile):
    return tile.repeat(2, 0).repeat(2, 2)


@pytest.mark.parametrize(
    "part",
    [
        (slice(0, 62), slice(0, 12), slice(0, 26)),
        (slice(7, 9), slice(3, 4), slice(20, 26)),
        (slice(30, 31), slice(0, 12), slice(11, 15)),
    ],
)
def test_part_has_the_values_of_the_whole(raw, part):
    kernel = np.random.default_rng(1).normal(size=(5, 5, 5, 1))
    engine = Engine(lambda tile: repeated(ndimage.correlate(tile, kernel)), factors=(2, 1, 2))
    whole, alone = (
        put_together(
            (62, 12, 26, 1), restore_blocks(engine, raw.__getitem__, raw.shape[:-1], part=region, **TILES)
        )
        for region in (None, part)
    )
    np.testing.assert_array_equal(alone[part], whole[part])
    outside = np.ones(whole.shape, bool)
    outside[part] = False
    assert np.isnan(alone[outside]).all()


def test_only_the_tiles_of_a_part_are_computed(raw):
    reads = []

    def read(region):
        reads.append(region)
        return raw[region]

    part = (slice(14, 17), slice(0, 3), slice(0, 3))
    list(restore_blocks(Engine(np.copy), read, raw.shape[:-1], part=part, **TILES))
    cuts = tile_axis(31, 8, 2)
    (expected,) = (cut.read for cut in cuts if cut.write.start < 17 and cut.write.stop > 14)
    assert reads == [(expected, slice(0, 8), slice(0, 8))]


def test_tile_is_read_while_the_one_before_is_computed(raw):
    read_next = threading.Event()
    reads = []

    def read(region):
        reads.append(region)
        if len(reads) > 1:
            read_next.set()
        return raw[region]

    def compute(tile):
        assert read_next.wait(10), "the next tile is not read"
        return tile

    assert len(list(restore_blocks(Engine(compute), read, raw.shape[:-1], **TILES))) == 20


@pytest.mark.parametrize("num_devices", [1, 3])
def test_few_tiles_are_read_ahead(raw, num_devices):
    reads = []

    def read(region):
        reads.append(region)
        return raw[region]

    blocks = restore_blocks(Engine(np.copy, num_devices=num_devices), read, raw.shape[:-1], **TILES)
    next(blocks)
    time.sleep(0.1)
    assert len(reads) <= num_devices + 2
    blocks.close()


def test_as_many_tiles_are_computed_at_once_as_there_are_devices(raw):
    together = threading.Barrier(4, timeout=10)

    def compute(tile):
        together.wait()
        return tile

    blocks = restore_blocks(Engine(compute, num_devices=4), raw.__getitem__, raw.shape[:-1], **TILES)
    np.testing.assert_allclose(put_together(raw.shape, blocks), raw, atol=1e-5)


def test_tiles_that_are_finished_in_another_order_are_put_in_their_place(raw):
    numbers = itertools.count()

    def compute(tile):
        time.sleep(0.02 if next(numbers) % 3 == 0 else 0)
        return tile

    blocks = restore_blocks(Engine(compute, num_devices=3), raw.__getitem__, raw.shape[:-1], **TILES)
    np.testing.assert_allclose(put_together(raw.shape, blocks), raw, atol=1e-5)


@pytest.mark.parametrize("place", ["reading", "computing"])
def test_failure_comes_through_and_nothing_goes_on(raw, place):
    calls = []

    def fail_at_the_third(values):
        calls.append(0)
        if len(calls) == 3:
            raise OSError("no more")
        return values

    read = (lambda region: fail_at_the_third(raw[region])) if place == "reading" else raw.__getitem__
    engine = Engine(fail_at_the_third if place == "computing" else np.copy)
    with pytest.raises(OSError, match="no more"):
        list(restore_blocks(engine, read, raw.shape[:-1], **TILES))
    deadline = time.monotonic() + 10
    while is_computing() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_computing()
    assert len(calls) <= 6


def test_progress_counts_every_raw_voxel_once_and_every_tile(raw):
    class Counter:
        done, calls = 0, 0

        def advance(self, amount):
            self.done += amount
            self.calls += 1

    counter = Counter()
    engine = Engine(repeated, factors=(2, 1, 2))
    blocks = restore_blocks(engine, raw.__getitem__, raw.shape[:-1], progress=counter, **TILES)
    assert len(list(blocks)) == 20
    assert counter.done == 31 * 12 * 13
    assert counter.calls == 5 * 2 * 2


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

    monkeypatch.setattr("rcan.restoration.engine.subprocess.run", answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = voxels_within_memory(model, ("gpu:0", "gpu:1"))
    assert found == 2**27 // (8 * 16 * 4)  # half of 256 MiB
    assert commands[0][3:] == asked


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.fixture
def stack(tmp_path, write_tiff, rng):
    """A file and its grey values (Z, Y, X)."""
    image = rng.gamma(2, 500, (20, 60, 64)).astype(np.uint16)
    return write_tiff(tmp_path / "raw" / "cell.tif", image, "ZYX"), image


def make_restorer(engine, *, max_voxels=2**22, tile_shape=None, overlap=None, **settings):
    tiled = TiledRestorer(engine, max_voxels=max_voxels, tile_shape=tile_shape, overlap=overlap)
    return FileRestorer(tiled, RestoreSettings(**settings))


@pytest.mark.parametrize("failure", [MemoryError, ResourceExhaustedError])
@pytest.mark.parametrize("given", [{}, {"tile_shape": (20, 64, 64)}, {"max_voxels": 70_000}])
def test_tile_that_does_not_fit_memory_is_halved(stack, tmp_path, failure, given):
    path, image = stack
    sizes = []

    def compute(tile):
        sizes.append(tile.size)
        if tile.size > 20_000:
            raise failure
        return tile

    with pytest.warns(UserWarning, match="memory is too small"):
        report = make_restorer(Engine(compute), **given).restore(path, tmp_path / "out.tif")
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), image, atol=0.1)
    assert math.prod(report.tile_shape) == sizes[-1] <= 20_000
    assert 1 <= len({size for size in sizes if size > 20_000}) <= 2  # at most 76800 voxels, and half of them


def test_next_file_begins_with_the_tile_that_fitted(stack, tmp_path):
    path, _ = stack
    sizes = []

    def compute(tile):
        sizes.append(tile.size)
        if tile.size > 20_000:
            raise MemoryError
        return tile

    restorer = make_restorer(Engine(compute))
    with pytest.warns(UserWarning, match="memory is too small"):
        restorer.restore(path, tmp_path / "one.tif")
    sizes.clear()
    restorer.restore(path, tmp_path / "other.tif")
    assert max(sizes) <= 20_000


@pytest.mark.parametrize("overlap", [None, (8, 8, 8)])
def test_no_tile_is_tried_twice(stack, tmp_path, overlap):
    path, _ = stack
    refused = set()

    def compute(tile):
        if tile.size > 7_000:
            refused.add(tile.shape)
            raise MemoryError
        return tile

    with pytest.warns(UserWarning, match="memory is too small") as warned:
        make_restorer(Engine(compute), overlap=overlap).restore(path, tmp_path / "out.tif")
    assert len(refused) == sum("memory is too small" in str(one.message) for one in warned)


def test_smaller_tiles_are_not_tried_where_they_do_not_help(stack, tmp_path, monkeypatch):
    """Whole frames are scored and stretched; if memory does not hold them, no tile is to blame."""
    path, _ = stack
    tries = []

    def fail(*images, **options):
        tries.append(images)
        raise MemoryError("a frame is too large")

    monkeypatch.setattr("rcan.restoration.file.examine", fail)
    with pytest.raises(MemoryError, match="a frame is too large"):
        make_restorer(Engine(np.copy), stretch=True).restore(path, tmp_path / "out.tif")
    assert len(tries) == 1


@pytest.mark.filterwarnings("ignore:memory is too small")
def test_memory_that_holds_no_tile_at_all_is_an_error_and_no_file(stack, tmp_path):
    path, _ = stack

    def compute(tile):
        raise MemoryError

    with pytest.raises(MemoryError, match="memory is too small for a tile of"):
        make_restorer(Engine(compute)).restore(path, tmp_path / "out.tif")
    assert [file.name for file in tmp_path.iterdir()] == ["raw"]


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


@pytest.mark.parametrize(
    ("ndim", "size", "factors"), [(3, 8, None), (3, 16, None), (2, 8, None), (3, 16, (1, 2, 2))]
)
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
    blocks = restore_blocks(
        engine, raw.__getitem__, raw.shape[:-1], tile_shape=(9, 18, 16), overlap=(4, 4, 4)
    )
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


# Local attention


def gated(ndim):
    """A network that multiplies its input by its mean."""
    pool = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}[ndim]
    inputs = keras.Input((None,) * ndim + (2,))
    return keras.Model(inputs, layers.Multiply()([inputs, pool(keepdims=True)(inputs)]))


def moving_average(image, window):
    """Mean over a window around each voxel, moved inside where it would reach beyond the border."""
    for axis, length in enumerate(window):
        size = image.shape[axis]
        length = min(length, size)
        starts = np.clip(np.arange(size) - length // 2, 0, size - length)
        means = [image.take(range(start, start + length), axis).mean(axis) for start in starts]
        image = np.stack(means, axis)
    return image


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((8, 16, 16), (8, 16, 16)),
        ((5, 11, 16), (8, 16, 16)),
        ((1, 1, 1), (8, 16, 16)),
        ((16, 13), (16, 16)),
        ((15, 5, 17), (17, 15, 19)),
    ],
)
def test_local_attention_is_global_on_a_tile_no_larger_than_the_window(rng, shape, window):
    model = build_rcan(ndim=len(shape), num_channels=8, num_residual_groups=2, num_residual_blocks=1)
    model.set_weights([rng.normal(0, 0.2, weights.shape) for weights in model.get_weights()])
    local = with_local_attention(model, window)
    tile = rng.uniform(size=(1, *shape, 1)).astype(np.float32)
    expected = model.predict_on_batch(tile)
    np.testing.assert_allclose(local.predict_on_batch(tile), expected, atol=1e-5 * np.abs(expected).max())


def draw_trend(rng, shape):
    """Two channels of noise that is brighter at one side: (*shape, 2)."""
    trend = np.linspace(1, 4, shape[-1])[:, np.newaxis]
    return (trend + rng.uniform(0, 1, (*shape, 2))).astype(np.float32)


def test_local_attention_averages_over_a_moving_window(rng):
    """One network for all shapes: TensorFlow traces the second anew, with sizes that are unknown."""
    window = 5, 7, 9  # so small that the average is computed at every voxel
    model = with_local_attention(gated(3), window)
    for shape in [(12, 33, 34), (4, 30, 9), (5, 7, 9), (20, 8, 21), (12, 33, 34)]:
        tile = draw_trend(rng, shape)
        found = model.predict_on_batch(tile[np.newaxis])[0] / tile
        np.testing.assert_allclose(found, moving_average(tile, window), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((12, 60, 50), (16, 32, 32)),
        ((40, 40, 41), (8, 24, 24)),
        ((100, 90), (64, 64)),
        ((33, 65), (32, 32)),
    ],
)
def test_average_over_a_large_window_is_interpolated(rng, shape, window):
    """It is off by a tenth of what separates it from the average over the tile, at most."""
    tile = draw_trend(rng, shape)
    local = with_local_attention(gated(len(shape)), window)
    found = local.predict_on_batch(tile[np.newaxis])[0] / tile
    expected = moving_average(tile, window)
    everywhere = tile.mean(axis=tuple(range(len(shape))))
    error, difference = (np.sqrt(np.mean((other - expected) ** 2)) for other in (found, everywhere))
    assert error < 0.1 * difference


def test_restored_voxel_far_from_the_borders_of_tiles_does_not_depend_on_them(rng):
    raw = (np.linspace(1, 4, 200)[:, np.newaxis] + rng.uniform(size=(4, 8, 200, 2))).astype(np.float32)
    spreads = {}
    for name, model in {"global": gated(3), "local": with_local_attention(gated(3), (4, 8, 16))}.items():
        restored = [restore(model, raw, tile_shape=(4, 8, tile), overlap=(0, 0, 32)) for tile in (64, 104)]
        inside = [volume[:, :, 20:-20] / raw[:, :, 20:-20] for volume in restored]
        spreads[name] = np.abs(inside[0] - inside[1]).max()
    assert spreads["local"] < 0.1 * spreads["global"]


def test_network_without_attention_cannot_have_local_one():
    with pytest.raises(ValueError, match="no channel attention that could be local"):
        with_local_attention(identity(), (8, 16, 16))


# Seams


def score_of(engine, image, *, tile_shape=(12, 24, 24), overlap=(4, 8, 8)):
    meter = SeamMeter()
    cut = {"tile_shape": tile_shape, "overlap": overlap}
    for _ in restore_blocks(engine, image.__getitem__, image.shape[:-1], seams=meter, **cut):
        pass
    return meter.score


@pytest.fixture
def blobs(rng):
    image = ndimage.gaussian_filter(rng.normal(size=(24, 80, 84, 1)), (2, 2, 2, 0))
    return (image / image.std()).astype(np.float32)


@pytest.mark.parametrize("tile_shape", [(12, 24, 24), (24, 30, 40)])
def test_seams_of_a_continuous_volume_score_one(blobs, tile_shape):
    assert score_of(Engine(np.copy), blobs, tile_shape=tile_shape) == pytest.approx(1, abs=0.1)


def test_seams_of_a_continuous_volume_that_is_enlarged_score_one(blobs):
    engine = Engine(lambda tile: ndimage.zoom(tile, (1, 2, 2, 1), order=1), factors=(1, 2, 2))
    assert score_of(engine, blobs) == pytest.approx(1, abs=0.15)


def test_tiles_with_offsets_score_clearly_more(blobs):
    numbers = itertools.count()
    engine = Engine(lambda tile: tile + 3 * (next(numbers) % 2))
    assert score_of(engine, blobs) > 1.5


def test_flat_tiles_with_offsets_score_clearly_more():
    """Nothing happens beside the borders."""
    numbers = itertools.count()
    engine = Engine(lambda tile: np.full_like(tile, next(numbers) % 2))
    assert score_of(engine, np.zeros((24, 80, 84, 1), np.float32)) > 1.5


def test_one_tile_has_no_seams(blobs):
    assert score_of(Engine(np.copy), blobs, tile_shape=(24, 80, 84)) is None


def test_visible_seams_are_warned_of(stack, tmp_path):
    path, _ = stack
    numbers = itertools.count()
    engine = Engine(lambda tile: np.full_like(tile, 5.0 * (next(numbers) % 2)) + 0.1 * tile)
    restorer = make_restorer(engine, tile_shape=(20, 30, 32), overlap=(4, 4, 4))
    with pytest.warns(UserWarning, match=r"out\.tif: intensities step .* across the borders of tiles"):
        report = restorer.restore(path, tmp_path / "out.tif")
    assert report.seams > 1.25


# Images as networks see them

SEEN = {"ndim": 3, "num_channels": 1, "percentiles": (2, 99.9)}


@pytest.fixture
def hyperstack(tmp_path, write_tiff, rng):
    """A file of (T, Z, C, Y, X) = (2, 4, 3, 9, 10) whose frames and channels differ in brightness."""
    image = rng.gamma(2, 100, (2, 4, 3, 9, 10)) * np.array([1, 2, 4])[:, np.newaxis, np.newaxis]
    image = (image * np.array([1, 3])[:, np.newaxis, np.newaxis, np.newaxis, np.newaxis]).astype(np.uint16)
    path = write_tiff(tmp_path / "hyperstack.tif", image, "TZCYX")
    with open_volume(path) as volume:
        yield volume, image


def assert_normalised(found, grey, ranges):
    low, high = ranges
    np.testing.assert_allclose(found, (grey.astype(float) - low) / (high - low), atol=1e-4)


def test_series_has_one_range_for_each_channel(hyperstack):
    volume, image = hyperstack
    seen = open_network_view(volume, **SEEN)
    assert seen.frames == [{"T": t, "C": c} for t in range(2) for c in range(3)]
    for number, frame in enumerate(seen.frames):
        expected = np.percentile(image[:, :, frame["C"]], (2, 99.9))
        np.testing.assert_allclose(seen.range_of(number), [expected], rtol=1e-6)
        grey = image[frame["T"], :, frame["C"]]
        assert_normalised(seen.read(number)[..., 0], grey, expected)


def test_frame_has_a_range_of_its_own(hyperstack):
    volume, image = hyperstack
    seen = open_network_view(volume, normalize="frame", **SEEN)
    for number, frame in enumerate(seen.frames):
        grey = image[frame["T"], :, frame["C"]]
        assert_normalised(seen.read(number)[..., 0], grey, np.percentile(grey, (2, 99.9)))


def test_range_of_training_serves_every_frame(hyperstack):
    volume, image = hyperstack
    seen = open_network_view(volume, normalize="training", training_range=np.array([[50, 250]]), **SEEN)
    for number, frame in enumerate(seen.frames):
        assert_normalised(seen.read(number)[..., 0], image[frame["T"], :, frame["C"]], (50, 250))


@pytest.mark.parametrize("num_channels", [1, 2])
def test_channels_are_chosen_and_counted_anew(hyperstack, num_channels):
    volume, image = hyperstack
    seen = open_network_view(volume, **{**SEEN, "num_channels": num_channels}, channels=(2, 0))
    chosen = image[:, :, [2, 0]]
    expected = np.percentile(chosen, (2, 99.9), axis=(0, 1, 3, 4)).T
    np.testing.assert_allclose(seen.ranges, expected, rtol=1e-6)
    for number, frame in enumerate(seen.frames):
        block = chosen[frame["T"]].transpose(0, 2, 3, 1)  # (Z, Y, X, C)
        one = slice(frame["C"], frame["C"] + 1) if num_channels == 1 else slice(None)
        assert_normalised(seen.read(number), block[..., one], expected[one].T)


def test_region_is_that_part_of_the_block(hyperstack):
    volume, _ = hyperstack
    seen = open_network_view(volume, **SEEN)
    region = (slice(1, 3), slice(2, 9), slice(0, 4))
    np.testing.assert_array_equal(seen.read(4, region), seen.read(4)[region])


def test_planes_are_frames_of_a_2d_network(hyperstack):
    volume, image = hyperstack
    seen = open_network_view(volume, **{**SEEN, "ndim": 2, "num_channels": 3})
    assert len(seen.frames) == 8
    expected = np.percentile(image, (2, 99.9), axis=(0, 1, 3, 4))
    assert_normalised(seen.read(5), image[1, 1].transpose(1, 2, 0), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (0, 3)}, r"has 3 channels, counted from 0, but --channels is 0,3"),
        ({"num_channels": 2}, r"has 3 channels \(TZCYX\) but the network has 2.*--channels"),
        ({"num_channels": 3, "channels": (1,)}, r"has 1 channel \(TZCYX\) but the network has 3"),
    ],
)
def test_channels_that_do_not_fit_are_refused(hyperstack, options, message):
    with pytest.raises(ValueError, match=message):
        open_network_view(hyperstack[0], **{**SEEN, **options})


def test_file_without_z_is_refused_by_a_3d_network(tmp_path, write_tiff, rng):
    path = write_tiff(tmp_path / "plane.tif", rng.integers(0, 99, (9, 10)).astype(np.uint16), "YX")
    with open_volume(path) as volume, pytest.raises(ValueError, match=r"without Z.*use a 2D network"):
        open_network_view(volume, **SEEN)


def test_constant_channel_that_is_not_chosen_is_no_obstacle(tmp_path, write_tiff, rng):
    image = rng.integers(0, 99, (4, 3, 9, 10)).astype(np.uint16)
    image[:, 1] = 7
    path = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    with open_volume(path) as volume:
        seen = open_network_view(volume, **{**SEEN, "num_channels": 2}, channels=(0, 2))
        expected = np.percentile(image[:, [0, 2]], (2, 99.9), axis=(0, 2, 3)).T
        np.testing.assert_allclose(seen.ranges, expected, rtol=1e-6)


def test_constant_channel_is_named_by_its_number_in_the_file(tmp_path, write_tiff, rng):
    image = rng.integers(0, 99, (4, 3, 9, 10)).astype(np.uint16)
    image[:, 1] = 7
    path = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    with open_volume(path) as volume, pytest.raises(ValueError, match="channel 1 are both 7"):
        open_network_view(volume, **SEEN)
