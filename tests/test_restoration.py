import itertools
import math

import keras
import numpy as np
import pytest
from keras import layers
from scipy import ndimage

from rcan.model import PixelShuffle, build_rcan
from rcan.restoration import restore, restore_slabs, tile_axis, upscaling_of

SIZES = [(1, 1), (7, 7), (13, 64), (64, 64), (65, 64), (100, 64), (101, 64), (127, 16), (257, 65), (300, 7)]


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


# Tiles of an axis


@pytest.mark.parametrize("overlap", [0, 8, 63])
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tile_weights_add_up_to_one(size, tile, overlap, factor):
    total = np.zeros(size * factor)
    for _, written, weight in tile_axis(size, tile, overlap, factor):
        total[written] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("overlap", [0, 8, 63])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_every_voxel_of_a_tile_has_a_weight(size, tile, overlap):
    assert all(weight.min() > 0 for _, _, weight in tile_axis(size, tile, overlap))


@pytest.mark.parametrize("overlap", [0, 8, 63])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tiles_are_equal_lie_inside_and_share_at_least_the_overlap(size, tile, overlap):
    reads = [read for read, _, _ in tile_axis(size, tile, overlap)]
    assert {read.stop - read.start for read in reads} == {min(tile, size)}
    assert (reads[0].start, reads[-1].stop) == (0, size)
    for before, after in itertools.pairwise(reads):
        assert before.start < after.start
        assert before.stop - after.start >= min(overlap, tile - 1)


@pytest.mark.parametrize("overlap", [0, 8, 63])
@pytest.mark.parametrize(("size", "tile"), [(65, 64), (100, 64), (1024, 256), (257, 65), (2048, 272)])
def test_there_are_as_few_tiles_as_possible(size, tile, overlap):
    assert len(list(tile_axis(size, tile, overlap))) == math.ceil((size - overlap) / (tile - overlap))


@pytest.mark.parametrize(("size", "tile"), [(1, 16), (13, 64), (64, 64)])
def test_axis_no_longer_than_a_tile_is_one_tile_of_weight_one(size, tile):
    ((read, written, weight),) = tile_axis(size, tile, 8)
    assert (read, written) == (slice(0, size), slice(0, size))
    np.testing.assert_array_equal(weight, 1)


def test_weights_rise_linearly_over_the_overlap():
    (_, first, falling), (_, second, rising) = tile_axis(24, 16, 8)
    assert (first, second) == (slice(0, 16), slice(8, 24))
    np.testing.assert_allclose(rising[:8], np.arange(1, 9) / 9, rtol=1e-6)
    np.testing.assert_allclose(falling[8:], np.arange(8, 0, -1) / 9, rtol=1e-6)
    np.testing.assert_array_equal(rising[8:], 1)


@pytest.mark.parametrize("factor", [2, 4])
def test_tiles_are_written_where_they_are_read_enlarged(factor):
    for read, written, weight in tile_axis(100, 32, 8, factor):
        assert (written.start, written.stop) == (read.start * factor, read.stop * factor)
        assert weight.shape == (32 * factor,)


# Whole volumes


@pytest.mark.parametrize(
    ("shape", "tile_shape", "overlap"),
    [
        ((16, 32, 32, 1), (8, 16, 16), (2, 4, 4)),
        ((13, 37, 41, 1), (8, 16, 16), None),
        ((13, 37, 41, 2), (5, 7, 11), (4, 6, 10)),
        ((1, 37, 41, 1), (8, 16, 16), None),
        ((3, 5, 7, 1), (16, 256, 256), None),
        ((13, 37, 41, 1), (8, 16, 16), (0, 0, 0)),
        ((1, 1, 1, 1), (8, 16, 16), None),
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
def test_each_tile_sees_its_surroundings_as_far_as_it_reaches(shape, tile_shape, rng):
    """Only the outermost voxel of a tile is wrong under a kernel of 3; its weight is known."""
    kernel = rng.normal(size=(3,) * len(shape)).astype(np.float32)
    raw = rng.normal(size=(*shape, 1)).astype(np.float32)
    expected = np.zeros(shape)
    tiles = [list(tile_axis(size, tile, 4)) for size, tile in zip(shape, tile_shape, strict=True)]
    for index in np.ndindex(*map(len, tiles)):
        reads, writes, weights = zip(*(axis[i] for axis, i in zip(tiles, index, strict=True)), strict=True)
        part = ndimage.correlate(raw[..., 0][reads].astype(float), kernel, mode="constant")
        expected[writes] += part * np.prod(np.array(np.meshgrid(*weights, indexing="ij")), axis=0)
    restored = restore(convolution(kernel), raw, tile_shape=tile_shape, overlap=(4,) * len(shape))
    np.testing.assert_allclose(restored[..., 0], expected, atol=1e-5)


def test_tiled_equals_untiled_where_no_tile_ends_within_reach(rng):
    """Overlap 4, kernel 3: beside the blended seams both are the same convolution."""
    kernel = rng.normal(size=(3, 3, 3)).astype(np.float32)
    raw = rng.normal(size=(20, 40, 40, 1)).astype(np.float32)
    tile_shape, overlap = (12, 22, 22), (4, 4, 4)  # two tiles an axis: 0:12 and 8:20, 0:22 and 18:40
    tiled = restore(convolution(kernel), raw, tile_shape=tile_shape, overlap=overlap)[..., 0]
    untiled = ndimage.correlate(raw[..., 0].astype(float), kernel, mode="constant")
    beside = np.ones(untiled.shape, bool)
    beside[8:12], beside[:, 18:22], beside[:, :, 18:22] = False, False, False
    np.testing.assert_allclose(tiled[beside], untiled[beside], atol=1e-5)
    assert beside.mean() > 0.5


def test_seam_suffers_by_the_little_weight_of_the_outermost_voxel(rng):
    """Constant input: a tile is wrong at its outermost voxel only, where it weighs least."""
    kernel = np.full((3, 3, 3), 1 / 27, np.float32)
    restored = restore(
        convolution(kernel), np.ones((20, 40, 40, 1), np.float32), tile_shape=(12, 22, 22), overlap=(4, 4, 4)
    )
    inside = restored[1:-1, 1:-1, 1:-1]
    lost = 1 / 5 / 3  # weight of the outermost voxel at overlap 4, and the share of the kernel that it misses
    assert inside.min() == pytest.approx((1 - lost) ** 3, abs=1e-5)


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


def test_default_overlap_is_an_eighth_of_the_tile(rng):
    kernel = rng.normal(size=(3, 3, 3)).astype(np.float32)
    raw = rng.normal(size=(20, 40, 41, 1)).astype(np.float32)
    model = convolution(kernel)
    default, given = (
        restore(model, raw, tile_shape=(8, 24, 16), overlap=overlap) for overlap in (None, (1, 3, 2))
    )
    np.testing.assert_array_equal(default, given)


@pytest.mark.parametrize(
    ("factors", "expected"), [(None, (1, 1, 1)), ((1, 2, 2), (1, 2, 2)), ((4, 4, 4), (4, 4, 4))]
)
def test_upscaling_is_read_off_a_model(factors, expected):
    model = build_rcan(upscaling=factors, num_channels=4, num_residual_groups=1, num_residual_blocks=1)
    assert upscaling_of(model) == expected


# Slab by slab


class Source:
    """A volume that records which planes were read."""

    def __init__(self, raw):
        self.raw, self.reads = raw, []

    def __call__(self, region):
        self.reads.append(region[0])
        return self.raw[region]


@pytest.mark.parametrize("factor", [1, 2])
def test_slabs_come_in_order_and_cover_the_output_once(factor, rng):
    source = Source(rng.normal(size=(31, 12, 13, 1)).astype(np.float32))
    model = nearest_neighbour((factor,) * 3)
    slabs = list(restore_slabs(model, source, source.raw.shape, tile_shape=(8, 8, 8), overlap=(2, 2, 2)))
    reached = 0
    for region, slab in slabs:
        assert region[0].start == reached
        assert slab.shape == (region[0].stop - reached, 12 * factor, 13 * factor, 1)
        reached = region[0].stop
    assert reached == 31 * factor


def test_slab_is_handed_out_before_the_next_layer_is_read(rng):
    source = Source(rng.normal(size=(31, 12, 13, 1)).astype(np.float32))
    slabs = restore_slabs(identity(), source, source.raw.shape, tile_shape=(8, 8, 8), overlap=(2, 2, 2))
    num_layers = math.ceil((31 - 2) / (8 - 2))
    for number in range(1, num_layers + 1):
        region, _ = next(slabs)
        assert len(source.reads) == number
        assert region[0].stop == (6 * number if number < num_layers - 1 else {4: 23, 5: 31}[number])
    assert {read.stop - read.start for read in source.reads} == {8}


def test_slabs_stay_as_they_were_handed_out(rng):
    source = Source(rng.normal(size=(31, 12, 13, 1)).astype(np.float32))
    slabs = restore_slabs(identity(), source, source.raw.shape, tile_shape=(8, 8, 8), overlap=(2, 2, 2))
    np.testing.assert_allclose(np.concatenate([slab for _, slab in list(slabs)]), source.raw, atol=2e-6)


def test_progress_counts_every_raw_voxel_once_and_every_tile(rng):
    class Counter:
        done, calls = 0, 0

        def advance(self, amount):
            self.done += amount
            self.calls += 1

    counter, raw = Counter(), rng.normal(size=(31, 12, 13, 1)).astype(np.float32)
    slabs = restore_slabs(
        nearest_neighbour((2, 1, 2)), raw.__getitem__, raw.shape, tile_shape=(8, 8, 8), progress=counter
    )
    assert len(list(slabs)) == 5
    assert counter.done == 31 * 12 * 13
    assert counter.calls == 5 * 2 * 2  # tiles of 8 that share 1 cover 31, 12 and 13
