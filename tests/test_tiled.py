import itertools
import math
import threading
import time

import keras
import numpy as np
import pytest
from engines import Engine, convolution, identity, nearest_neighbour, put_together
from keras import layers
from scipy import ndimage

from rcan.model import build_rcan
from rcan.restoration.tiled import TiledRestorer, is_computing, restore, restore_blocks
from rcan.restoration.tiles import tile_axis
from rcan.run_folder.architecture import upscaling_of

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


@pytest.mark.parametrize(("tile_shape", "expected"), [((8, 24, 80), (2, 6, 16)), ((64, 256, 256), (16, 16, 16))])
def test_default_overlap_is_16_voxels_or_a_quarter_of_a_given_tile(tile_shape, expected):
    planned = TiledRestorer(Engine(repeated), max_voxels=2**22, tile_shape=tile_shape).plan((100, 300, 300))
    assert planned == (tile_shape, expected)


def test_given_overlap_is_kept():
    plane = Engine(repeated, factors=(1, 1))
    assert TiledRestorer(plane, tile_shape=(50, 60), overlap=(0, 7)).plan((100, 300))[1] == (0, 7)


def test_chosen_tile_is_larger_than_the_overlap_where_memory_is_little():
    tile_shape, overlap = TiledRestorer(Engine(repeated), max_voxels=10_000).plan((100, 300, 300))
    assert math.prod(tile_shape) <= 10_000
    assert all(tile > 2 * shared for tile, shared in zip(tile_shape, overlap, strict=True))


@pytest.mark.parametrize(("factors", "expected"), [(None, (1, 1, 1)), ((1, 2, 2), (1, 2, 2)), ((4, 4, 4), (4, 4, 4))])
def test_upscaling_is_read_off_a_model(factors, expected):
    model = build_rcan(upscaling=factors, num_channels=4, num_residual_groups=1, num_residual_blocks=1)
    assert upscaling_of(model) == expected


# Features on a coarser grid


@pytest.fixture
def coarse():
    """A network whose output depends on where the grid lies."""
    model = build_rcan(
        ndim=2, num_channels=4, num_residual_groups=1, num_residual_blocks=1, channel_reduction=1, downsampling=(2, 2)
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.GlobalAveragePooling2D):  # the attention sees the whole tile: let it see nothing
            (attention,) = [node.operation for node in layer._outbound_nodes]
            attention.set_weights([np.zeros_like(weights) for weights in attention.get_weights()])
        elif "conv" in layer.name and not np.any(layer.get_weights()[1]):
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


@pytest.mark.parametrize("size", [64, 63])
def test_result_does_not_depend_on_how_a_grid_is_cut_into_tiles(coarse, rng, size):
    raw = rng.uniform(size=(size, size, 1)).astype(np.float32)
    whole = restore(coarse, raw)
    tiled = restore(coarse, raw, tile_shape=(42, 40), overlap=(36, 37))
    np.testing.assert_allclose(tiled, whole, atol=2e-6)


def test_a_column_less_changes_nothing_away_from_it(coarse, rng):
    raw = rng.uniform(size=(40, 64, 1)).astype(np.float32)
    whole, less = restore(coarse, raw), restore(coarse, raw[:, :63])
    assert less.shape == (40, 63, 1)
    np.testing.assert_allclose(less[:, :44], whole[:, :44], atol=2e-6)
    assert np.abs(less[:, 44:] - whole[:, 44:63]).max() > 1e-3


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
        put_together((62, 12, 26, 1), restore_blocks(engine, raw.__getitem__, raw.shape[:-1], part=region, **TILES))
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
