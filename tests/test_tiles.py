import itertools
import math

import numpy as np
import pytest

from rcan.restoration.tiles import Blender, choose_tile, ramp_of, tile_axis

SIZES = [(1, 1), (7, 7), (13, 64), (64, 64), (65, 64), (100, 64), (101, 64), (127, 16), (257, 65), (300, 7)]
OVERLAPS = [0, 1, 8, 63]

# Volumes of microscopes
REAL_SHAPES = [
    (16, 256, 256),
    (32, 512, 512),
    (50, 1024, 1024),
    (64, 2048, 2048),
    (100, 2048, 2047),
    (60, 256, 256),
    (88, 320, 256),
    (33, 152, 172),
    (21, 700, 900),
    (45, 1200, 1200),
]


def num_computed(shape, tile_shape, overlap):
    """Voxels of all tiles together."""
    counts = (len(tile_axis(*axis)) for axis in zip(shape, tile_shape, overlap, strict=True))
    return math.prod(counts) * math.prod(tile_shape)


# Tiles of an axis


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tile_weights_add_up_to_one(size, tile, overlap, factor):
    total = np.zeros(size * factor)
    for cut in tile_axis(size, tile, overlap, factor):
        total[cut.write] += cut.weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_every_voxel_that_counts_has_a_weight(size, tile, overlap):
    assert all(cut.weight.min() > 0 for cut in tile_axis(size, tile, overlap))


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_no_voxel_belongs_to_more_than_two_tiles(size, tile, overlap, factor):
    count = np.zeros(size * factor, int)
    for cut in tile_axis(size, tile, overlap, factor):
        count[cut.write] += 1
    assert set(count) <= {1, 2}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tiles_are_equal_lie_inside_and_share_at_least_the_overlap(size, tile, overlap):
    reads = [cut.read for cut in tile_axis(size, tile, overlap)]
    assert {read.stop - read.start for read in reads} == {min(tile, size)}
    assert (reads[0].start, reads[-1].stop) == (0, size)
    for before, after in itertools.pairwise(reads):
        assert before.start < after.start
        assert before.stop - after.start >= min(overlap, tile - 1)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("size", "tile"), [(65, 64), (100, 64), (1024, 256), (257, 65), (2048, 272)])
def test_there_are_as_few_tiles_as_possible(size, tile, overlap):
    assert len(tile_axis(size, tile, overlap)) == math.ceil((size - overlap) / (tile - overlap))


@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tiles_are_spread_evenly(size, tile):
    steps = np.diff([cut.read.start for cut in tile_axis(size, tile, 5)])
    assert not steps.size or np.ptp(steps) <= 1


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tiles_of_a_grid_start_and_end_on_it_or_at_the_border(size, tile, overlap, step):
    cuts = tile_axis(size, tile, overlap, step=step)
    reads = [cut.read for cut in cuts]
    assert all(read.start % step == 0 and (read.stop % step == 0 or read.stop == size) for read in reads)
    assert len({math.ceil((read.stop - read.start) / step) for read in reads}) == 1
    assert (reads[0].start, reads[-1].stop) == (0, size)
    shared = [before.stop - after.start for before, after in itertools.pairwise(reads)]
    longest = max(read.stop - read.start for read in reads)
    assert all(each >= min(overlap, longest - step) for each in shared)


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_weights_of_tiles_of_a_grid_add_up_to_one(size, tile, factor, step):
    total = np.zeros(size * factor)
    for cut in tile_axis(size, tile, 8, factor, step):
        assert cut.write.stop - cut.write.start == cut.crop.stop - cut.crop.start == len(cut.weight)
        assert cut.write.start - cut.crop.start == factor * cut.read.start
        assert cut.crop.stop <= factor * (cut.read.stop - cut.read.start)
        total[cut.write] += cut.weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize(("size", "tile"), [(1, 16), (13, 64), (64, 64)])
def test_axis_no_longer_than_a_tile_is_one_tile_of_weight_one(size, tile):
    (cut,) = tile_axis(size, tile, 8)
    assert (cut.read, cut.crop, cut.write) == (slice(0, size),) * 3
    np.testing.assert_array_equal(cut.weight, 1)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_what_is_kept_of_a_tile_is_written_to_its_own_place(size, tile, factor):
    for cut in tile_axis(size, tile, 8, factor):
        assert 0 <= cut.crop.start < cut.crop.stop <= factor * min(tile, size)
        start = factor * cut.read.start
        assert (cut.write.start, cut.write.stop) == (start + cut.crop.start, start + cut.crop.stop)
        assert cut.weight.shape == (cut.crop.stop - cut.crop.start,)


def test_one_tile_fades_into_the_next_over_the_middle_quarter_of_the_overlap():
    first, second = tile_axis(48, 32, 16)  # 0:32 and 16:48
    assert (first.write, second.write) == (slice(0, 26), slice(22, 48))
    np.testing.assert_allclose(second.weight[:4], np.arange(1, 5) / 5, rtol=1e-6)
    np.testing.assert_allclose(first.weight[-4:], np.arange(4, 0, -1) / 5, rtol=1e-6)
    np.testing.assert_array_equal(first.weight[:-4], 1)


@pytest.mark.parametrize(("size", "tile", "overlap"), [(100, 40, 16), (2048, 270, 16), (300, 33, 32)])
def test_margins_at_the_borders_of_tiles_are_thrown_away(size, tile, overlap):
    """Of the overlap, what the ramp leaves is halved between both tiles."""
    margin = (overlap - ramp_of(overlap)) // 2
    cuts = tile_axis(size, tile, overlap)
    assert all(cut.crop.start >= margin for cut in cuts[1:])
    assert all(tile - cut.crop.stop >= margin for cut in cuts[:-1])


# The shape of a tile


@pytest.mark.parametrize("shape", REAL_SHAPES)
def test_a_third_more_voxels_than_a_volume_has_are_enough(shape):
    overlap = (16, 16, 16)
    tile_shape = choose_tile(shape, overlap, max_voxels=2**22)
    assert math.prod(tile_shape) <= 2**22
    assert num_computed(shape, tile_shape, overlap) <= 1.35 * math.prod(shape)


@pytest.mark.parametrize("shape", REAL_SHAPES)
def test_tile_of_a_grid_is_a_multiple_of_it(shape):
    tile_shape = choose_tile(shape, (16, 32, 32), max_voxels=2**22, grid=(1, 2, 2))
    assert not np.mod(tile_shape, (1, 2, 2)).any()
    assert math.prod(tile_shape) <= 2**22
    assert num_computed(shape, tile_shape, (16, 32, 32)) <= 1.5 * math.prod(shape)


@pytest.mark.parametrize("max_voxels", [300, 1000, 5000])
def test_no_other_tile_computes_a_tenth_less(max_voxels):
    """Against every tile there is, of a small volume."""
    shape, overlap = (9, 40, 37), (2, 2, 2)
    possible = [
        num_computed(shape, tile, overlap)
        for tile in itertools.product(*(range(3, size + 1) for size in shape))
        if math.prod(tile) <= max_voxels
    ]
    chosen = choose_tile(shape, overlap, max_voxels=max_voxels)
    assert math.prod(chosen) <= max_voxels
    assert num_computed(shape, chosen, overlap) <= 1.1 * min(possible)


@pytest.mark.parametrize("shape", [(16, 256, 256), (1, 1, 1), (512, 600)])
def test_volume_within_the_limit_is_one_tile(shape):
    assert choose_tile(shape, (16,) * len(shape), max_voxels=2**22) == shape


@pytest.mark.parametrize("shape", [(64, 256, 256), (300, 300)])
def test_tile_is_larger_than_the_overlap_however_little_memory_there_is(shape):
    overlap = (16,) * len(shape)
    tile_shape = choose_tile(shape, overlap, max_voxels=1)
    assert all(tile > shared for tile, shared in zip(tile_shape, overlap, strict=True))
    assert all(tile <= 3 * shared for tile, shared in zip(tile_shape, overlap, strict=True))


# Blending

VOLUMES = [
    ((11, 37, 41), (5, 16, 18), (2, 4, 4), (1, 1, 1), 1),
    ((11, 37, 41), (5, 16, 18), (0, 0, 0), (1, 2, 2), 2),
    ((9, 23, 50), (9, 9, 50), (4, 8, 4), (2, 1, 3), 1),
    ((1, 30, 31), (4, 7, 11), (3, 6, 10), (1, 1, 1), 1),
    ((30, 31), (7, 11), (6, 10), (2, 2), 3),
]


def blend(shape, tile_shape, overlap, factors, tile_of):
    """Regions and blocks of a volume whose tiles a function of their place makes."""
    cuts = [tile_axis(*axis) for axis in zip(shape, tile_shape, overlap, factors, strict=True)]
    blender = Blender(cuts)
    for index in np.ndindex(*blender.counts):
        place = tuple(axis[i].read for axis, i in zip(cuts, index, strict=True))
        place = tuple(slice(f * s.start, f * s.stop) for f, s in zip(factors, place, strict=True))
        yield blender.add(index, tile_of(index, place))


@pytest.mark.parametrize(("shape", "tile_shape", "overlap", "factors", "num_channels"), VOLUMES)
def test_regions_cover_the_output_once(shape, tile_shape, overlap, factors, num_channels, rng):
    larger = tuple(np.multiply(shape, factors))
    image = rng.normal(size=(*larger, num_channels)).astype(np.float32)
    count, blended = np.zeros(larger, int), np.full(image.shape, np.nan)
    for region, block in blend(shape, tile_shape, overlap, factors, lambda index, place: image[place]):
        count[region] += 1
        blended[region] = block
    np.testing.assert_array_equal(count, 1)
    np.testing.assert_allclose(blended, image, atol=1e-5)


@pytest.mark.parametrize(("shape", "tile_shape", "overlap", "factors", "num_channels"), VOLUMES)
def test_blended_volume_is_the_weighted_sum_of_all_tiles(shape, tile_shape, overlap, factors, num_channels, rng):
    """Tiles that have nothing in common, added up in a whole volume."""
    cuts = [tile_axis(*axis) for axis in zip(shape, tile_shape, overlap, factors, strict=True)]
    size = (*(f * min(t, s) for f, t, s in zip(factors, tile_shape, shape, strict=True)), num_channels)
    tiles = {index: rng.normal(size=size) for index in np.ndindex(*map(len, cuts))}
    expected = np.zeros((*np.multiply(shape, factors), num_channels))
    for index, tile in tiles.items():
        own = [axis[i] for axis, i in zip(cuts, index, strict=True)]
        weights = math.prod(np.meshgrid(*(cut.weight for cut in own), indexing="ij"))
        kept = tile[tuple(cut.crop for cut in own)]
        expected[tuple(cut.write for cut in own)] += weights[..., np.newaxis] * kept
    blended = np.full(expected.shape, np.nan)
    for region, block in blend(shape, tile_shape, overlap, factors, lambda index, _: tiles[index]):
        blended[region] = block
    np.testing.assert_allclose(blended, expected, atol=1e-5)


def test_blocks_stay_as_they_were_handed_out(rng):
    image = rng.normal(size=(11, 37, 41, 1)).astype(np.float32)
    blocks = blend(image.shape[:-1], (5, 16, 18), (2, 4, 4), (1, 1, 1), lambda _, place: image[place])
    for region, block in list(blocks):
        np.testing.assert_allclose(block, image[region], atol=1e-5)


def test_tiles_are_not_changed(rng):
    image = rng.normal(size=(11, 37, 41, 1)).astype(np.float32)
    before = image.copy()
    list(blend(image.shape[:-1], (5, 16, 18), (2, 4, 4), (1, 1, 1), lambda _, place: image[place]))
    np.testing.assert_array_equal(image, before)


def test_what_is_kept_is_no_more_than_the_ramps_of_two_layers():
    shape, tile_shape, overlap = (40, 60, 62), (20, 20, 22), (4, 4, 4)
    cuts = [tile_axis(*axis) for axis in zip(shape, tile_shape, overlap, strict=True)]
    blender, most = Blender(cuts), 0
    tile = np.zeros((*tile_shape, 1), np.float32)
    for index in np.ndindex(*blender.counts):
        blender.add(index, tile)
        held = [array for value in vars(blender).values() for array in arrays_in(value)]
        most = max(most, sum(array.nbytes for array in held))
    layer, row, face = 60 * 62, 20 * 62, 20 * 20
    assert 0 < most <= 2 * ramp_of(4) * (layer + row + face) * 4


def arrays_in(value):
    """Arrays of voxels within nested lists; the weights of cuts are not counted."""
    if isinstance(value, np.ndarray) and value.ndim == 4:
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from arrays_in(item)
