import itertools

import numpy as np
import pytest

from rcan.regions import (
    central_region,
    count_voxels,
    cut_into_grid,
    cut_into_slabs,
    do_meet,
    intersect,
    paste,
    region_at,
    region_shape,
    relative_region,
    resolve_region,
    scale_region,
    shrink_region,
    split_evenly,
    split_from_centre,
    touched_chunks,
    whole_region,
)

SHAPE = (7, 9, 10)


def cover(regions, shape=SHAPE):
    """How often each voxel of an array lies in one of some regions."""
    times = np.zeros(shape, int)
    for region in regions:
        times[region] += 1
    return times


def draw_regions(rng, count=200):
    for _ in range(count):
        ends = np.sort(rng.integers(0, np.add(SHAPE, 1), (2, 3)), axis=0)
        yield tuple(map(slice, *ends.tolist()))


def test_a_region_has_the_shape_and_the_voxels_of_what_it_selects(rng):
    array = np.zeros(SHAPE)
    for region in draw_regions(rng):
        assert region_shape(region) == array[region].shape
        assert count_voxels(region) == array[region].size
    assert array[whole_region(SHAPE)].shape == SHAPE
    assert region_at((1, 2, 3), (4, 5, 6)) == (slice(1, 5), slice(2, 7), slice(3, 9))


@pytest.mark.parametrize(
    "region", [None, (slice(None), slice(-3, None), slice(2, 99)), (slice(1, 3), slice(9), slice(0, -1))]
)
def test_a_resolved_region_selects_the_same(region):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    resolved = resolve_region(region, SHAPE)
    np.testing.assert_array_equal(array[resolved], array[region or ()])
    assert region_shape(resolved) == array[resolved].shape


def test_what_two_regions_have_in_common_is_what_both_cover(rng):
    for region, other in itertools.pairwise(draw_regions(rng)):
        common = intersect(region, other)
        np.testing.assert_array_equal(cover([common]), cover([region]) * cover([other]))
        sides = [do_meet(*pair) for pair in zip(region, other, strict=True)]
        if count_voxels(region) and count_voxels(other):
            assert all(sides) == bool(count_voxels(common))


def test_a_piece_is_pasted_where_it_belongs(rng):
    array = rng.random(SHAPE)
    for region, place in itertools.pairwise(draw_regions(rng)):
        target = np.zeros(region_shape(region))
        paste(target, region, array[place], place)
        np.testing.assert_array_equal(target, (array * cover([place]))[region])


def test_a_relative_region_selects_the_same_in_the_outer_one(rng):
    array = rng.random(SHAPE)
    for region, other in itertools.pairwise(draw_regions(rng)):
        inner = intersect(region, other)
        np.testing.assert_array_equal(array[other][relative_region(inner, other)], array[inner])


def test_a_scaled_region_shrinks_to_itself(rng):
    for region in draw_regions(rng, 20):
        larger = scale_region(region, (1, 2, 3))
        np.testing.assert_array_equal(cover([larger], (7, 18, 30)), np.kron(cover([region]), np.ones((1, 2, 3))))
        assert shrink_region(larger, (1, 2, 3)) == region


@pytest.mark.parametrize("steps", [(1, 9, 10), (3, 4, 5), (7, 9, 10), (20, 1, 3)])
def test_a_grid_covers_an_array_once_in_storage_order(steps):
    regions = cut_into_grid(SHAPE, steps)
    np.testing.assert_array_equal(cover(regions), 1)
    assert np.all(np.array([*map(region_shape, regions)]) <= steps)
    assert regions == sorted(regions, key=lambda region: [part.start for part in region])


def test_chunks_of_a_region_are_those_that_hold_its_voxels(rng):
    steps = (3, 4, 5)
    numbers = [*np.ndindex(3, 3, 2)]
    for region in draw_regions(rng):
        if not count_voxels(region):
            continue
        inside = cover([region])
        holding = [
            number for number, place in zip(numbers, cut_into_grid(SHAPE, steps), strict=True) if inside[place].any()
        ]
        assert [*touched_chunks(region, steps)] == holding


@pytest.mark.parametrize("num_voxels", [0, 1, 7, 10, 25, 90, 200, 630, 10**6])
def test_slabs_follow_each_other_in_storage(num_voxels):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    slabs = [array[region].ravel() for region in cut_into_slabs(SHAPE, num_voxels)]
    np.testing.assert_array_equal(np.concatenate(slabs), array.ravel())
    assert max(map(len, slabs)) <= max(1, num_voxels)


@pytest.mark.parametrize("num_parts", [1, 2, 5, 16, 1000])
def test_even_parts_cover_an_array_once(num_parts):
    regions = split_evenly(SHAPE, num_parts)
    np.testing.assert_array_equal(cover(regions), 1)
    assert num_parts / 2 < len(regions) <= num_parts or len(regions) == 4 * 8 * 8
    sizes = np.array([*map(region_shape, regions)])
    assert np.ptp(sizes, axis=0).max() <= 1


def test_parts_from_the_centre_begin_in_the_middle_and_do_not_overlap():
    regions = split_from_centre(SHAPE, (3, 3, 20))
    assert regions[0] == (slice(2, 5), slice(3, 6), slice(0, 10))
    assert cover(regions).max() == 1
    assert {region_shape(region) for region in regions} == {(3, 3, 10)}
    middles = np.array([[part.start + part.stop for part in region] for region in regions])
    distances = np.sum((middles - SHAPE) ** 2, axis=1)
    assert np.all(np.diff(distances) >= 0)


@pytest.mark.parametrize(
    ("shape", "most", "expected"),
    [
        ((10, 100, 100), 10**5, (10, 100, 100)),
        ((10, 100, 100), 10 * 50 * 50, (10, 50, 50)),
        ((400, 2000, 2000), 2**25, (322, 322, 322)),
        ((5000, 5000), 2**24, (4096, 4096)),
    ],
)
def test_the_central_region_is_as_near_to_a_cube_as_it_can_be(shape, most, expected):
    region = central_region(shape, most)
    assert region_shape(region) == expected
    for part, size in zip(region, shape, strict=True):
        assert abs((part.start + part.stop) - size) <= 1
