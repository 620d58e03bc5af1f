import weakref

import numpy as np
import pytest
import tifffile

from rcan.intensity import (
    denormalise,
    find_noise_range,
    fit_affine,
    match_affine,
    normalise,
    scale_noise,
    stabilise,
    to_dtype,
)
from rcan.io.opening import open_volume
from rcan.ranges import RangeFinder, percentile_range
from rcan.regions import cut_into_slabs

PERCENTILES = (2, 99.9)


def save(path, array, axes, **options):
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes}, **options)
    return path


def draw(rng, shape, dtype):
    values = rng.normal(100, 30, shape)
    if np.dtype(dtype).kind == "i":
        values -= 100
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("percentiles", [PERCENTILES, (0, 100), (12.3, 45.6)])
def test_range_equals_the_percentiles_of_numpy(tmp_path, rng, dtype, percentiles):
    image = draw(rng, (7, 30, 31), dtype)
    path = save(tmp_path / "image.tif", image, "ZYX")
    found = percentile_range(open_volume(path), percentiles)
    np.testing.assert_allclose(found, [np.percentile(image.astype(float), percentiles)], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("percentiles", [PERCENTILES, (0, 100), (49.9, 50.1)])
def test_range_of_integers_is_exact_over_all_that_the_type_holds(tmp_path, rng, dtype, percentiles):
    limits = np.iinfo(dtype)
    image = rng.integers(limits.min, limits.max, (7, 30, 31), dtype, endpoint=True)
    image.flat[:2] = limits.min, limits.max
    path = save(tmp_path / "image.tif", image, "ZYX")
    found = percentile_range(open_volume(path), percentiles)
    np.testing.assert_allclose(found, [np.percentile(image.astype(float), percentiles)], rtol=1e-12)


def test_range_of_very_many_32_bit_integers_counts_them_all(tmp_path, rng, monkeypatch):
    image = rng.integers(0, 2**32, (7, 30, 31), np.uint32)
    path = save(tmp_path / "image.tif", image, "ZYX")
    monkeypatch.setattr("rcan.ranges._SAMPLE_SIZE", 1000)
    monkeypatch.setattr("rcan.ranges._SLAB_SIZE", 30 * 31 * 2)
    found = percentile_range(open_volume(path), PERCENTILES)
    np.testing.assert_allclose(found, [np.percentile(image.astype(float), PERCENTILES)], rtol=1e-12)


@pytest.mark.parametrize(
    ("lowest", "step"), [(70_000, 0), (2**16 - 2, 1), (3 * 2**16 - 1, 2), (2**31 - 4, 3), (0, 2**16)]
)
def test_range_of_few_32_bit_values_is_exact_on_both_sides_of_a_digit(tmp_path, lowest, step):
    """Of the lower value there are three, of the upper five, and one outlier."""
    values = [lowest] * 3 + [lowest + step] * 5 + [2**32 - 1]
    path = save(tmp_path / "image.tif", np.array(values, np.uint32).reshape(1, 3, 3), "ZYX")
    for percentiles in [(0, 100), (30, 99), (20, 90), (31.25, 98)]:
        found = percentile_range(open_volume(path), percentiles)
        np.testing.assert_allclose(found, [np.percentile(np.array(values, float), percentiles)], rtol=1e-12)


def test_two_channels_of_32_bits_are_counted_apart(tmp_path, rng):
    image = rng.integers(0, 2**20, (5, 2, 20, 21), np.uint32)
    image[:, 1] += 2**30
    path = save(tmp_path / "image.tif", image, "ZCYX")
    expected = np.percentile(image.astype(float), PERCENTILES, axis=(0, 2, 3)).T
    np.testing.assert_allclose(percentile_range(open_volume(path), PERCENTILES), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float32"])
def test_range_of_chosen_frames_is_theirs_alone(tmp_path, rng, dtype):
    image = draw(rng, (5, 4, 20, 21), dtype)
    image[3] *= 3
    path = save(tmp_path / "image.tif", image, "TZYX")
    volume = open_volume(path)
    found = percentile_range(volume, PERCENTILES, frames=[volume.frames[1], volume.frames[3]])
    np.testing.assert_allclose(found, [np.percentile(image[[1, 3]], PERCENTILES)], rtol=1e-6)


def test_range_of_a_big_endian_file_equals_the_percentiles_of_numpy(tmp_path, rng):
    image = draw(rng, (7, 30, 31), "uint16")
    path = save(tmp_path / "image.tif", image, "ZYX", byteorder=">")
    np.testing.assert_allclose(percentile_range(open_volume(path), PERCENTILES), [np.percentile(image, PERCENTILES)])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_range_covers_all_time_points(tmp_path, rng, dtype):
    image = draw(rng, (5, 4, 20, 21), dtype)
    image[3] *= 3
    path = save(tmp_path / "image.tif", image, "TZYX", imagej=True)
    found = percentile_range(open_volume(path), PERCENTILES)
    np.testing.assert_allclose(found, [np.percentile(image, PERCENTILES)], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("block_axes", ["ZYXC", "ZYX", "YXC", "YX"])
def test_every_channel_has_its_own_range_as_channel_and_as_frame(tmp_path, rng, dtype, block_axes):
    image = draw(rng, (2, 5, 3, 20, 21), dtype)  # TZCYX
    image[:, :, 1] //= 3
    image[:, :, 2] //= 5
    path = save(tmp_path / "image.tif", image, "TZCYX", imagej=True)
    found = percentile_range(open_volume(path, block_axes=block_axes), PERCENTILES)
    expected = [np.percentile(image[:, :, channel], PERCENTILES) for channel in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_range_does_not_depend_on_the_slabs_that_are_read(tmp_path, rng, dtype, monkeypatch):
    image = draw(rng, (7, 30, 31), dtype)
    path = save(tmp_path / "image.tif", image, "ZYX")
    whole = percentile_range(open_volume(path), PERCENTILES)
    monkeypatch.setattr("rcan.ranges._SLAB_SIZE", 1)
    np.testing.assert_array_equal(percentile_range(open_volume(path), PERCENTILES), whole)


def test_range_of_very_many_floats_is_that_of_every_nth(tmp_path, rng, monkeypatch):
    image = rng.normal(size=(7, 30, 31)).astype(np.float32)
    path = save(tmp_path / "image.tif", image, "ZYX")
    monkeypatch.setattr("rcan.ranges._SAMPLE_SIZE", 1000)
    monkeypatch.setattr("rcan.ranges._SLAB_SIZE", 30 * 31 * 2)
    every = image.ravel()[:: -(-image.size // 1000)]
    np.testing.assert_allclose(
        percentile_range(open_volume(path), PERCENTILES), [np.percentile(every, PERCENTILES)], rtol=1e-6
    )


@pytest.mark.parametrize(("dtype", "passes"), [("uint8", 1), ("int16", 1), ("uint32", 2), ("float32", 1)])
@pytest.mark.parametrize("block_axes", ["ZYXC", "YX"])
def test_ranges_are_found_in_blocks_that_others_read(tmp_path, rng, dtype, passes, block_axes):
    image = draw(rng, (2, 5, 3, 20, 21), dtype)  # TZCYX
    path = save(tmp_path / "image.ome.tif", image, "TZCYX", ome=True)
    volume = open_volume(path, block_axes=block_axes)
    finder, found = RangeFinder(volume, PERCENTILES), []
    for _ in range(passes):
        for frame in volume.frames:
            for region in cut_into_slabs(volume.shape[:-1], 50):
                finder.add(frame, region, volume.read(frame, region, dtype=None))
        found.append(finder.end_pass())
    assert all(ranges is None for ranges in found[:-1])
    np.testing.assert_array_equal(found[-1], percentile_range(volume, PERCENTILES))


def test_constant_channel_is_refused_with_file_channel_and_value(tmp_path, rng):
    image = draw(rng, (5, 2, 20, 21), "uint16")
    image[:, 1] = 7
    path = save(tmp_path / "half dark.tif", image, "ZCYX", imagej=True)
    with pytest.raises(ValueError, match=r"half dark\.tif.*channel 1 are both 7"):
        percentile_range(open_volume(path), PERCENTILES)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize(("num_bright", "percentile"), [(90, 99.99), (9, 99.999), (1, 100)])
def test_where_signal_is_rare_a_higher_percentile_becomes_1(tmp_path, dtype, num_bright, percentile):
    """Beads: 90, 9 or 1 of 320,000 voxels are bright."""
    image = np.full(320_000, 10, dtype)
    image[:num_bright] = 200
    path = save(tmp_path / "beads.tif", image.reshape(8, 200, 200), "ZYX")
    with pytest.warns(UserWarning, match=rf"beads\.tif: percentiles 2 and 99\.9 of channel 0 .* {percentile:g}, \d+"):
        ((low, high),) = percentile_range(open_volume(path), PERCENTILES)
    assert low == 10
    assert high == pytest.approx(np.percentile(image, percentile))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_with_the_file(tmp_path, value):
    image = np.linspace(0, 1, 4 * 8 * 8, dtype=np.float32).reshape(4, 8, 8)
    image[2, 3, 4] = value
    path = save(tmp_path / "holes.tif", image, "ZYX")
    with pytest.raises(ValueError, match=r"holes\.tif holds NaN or infinite"):
        percentile_range(open_volume(path), PERCENTILES)


def test_line_through_several_frames_is_that_of_all_their_voxels(rng):
    sizes = (5, 900, 40)  # frames of different numbers of voxels and far from each other
    restored = [rng.normal(mean, 1, (size, 2)) for mean, size in zip((0, 50, 1000), sizes, strict=True)]
    gt = [np.array([3.0, -2.0]) * image + rng.normal(7, 5, image.shape) for image in restored]
    expected = [
        np.polyfit(np.concatenate(restored)[:, channel], np.concatenate(gt)[:, channel], 1) for channel in range(2)
    ]
    np.testing.assert_allclose(fit_affine(zip(restored, gt, strict=True)), expected, rtol=1e-7)


def test_normalise_maps_each_channel_by_its_own_line(rng):
    block = rng.uniform(0, 1000, (3, 4, 5, 2))
    normalised = normalise(block, np.array([[100, 300], [50, 60]]))
    np.testing.assert_allclose(normalised[..., 0], (block[..., 0] - 100) / 200, atol=1e-6)
    np.testing.assert_allclose(normalised[..., 1], (block[..., 1] - 50) / 10, rtol=1e-5, atol=1e-5)


def test_denormalise_is_the_inverse_of_normalise(rng):
    block = rng.uniform(0, 65535, (3, 4, 5, 2)).astype(np.float32)
    ranges = np.array([[103.5, 3000.25], [50, 60000]])
    np.testing.assert_allclose(denormalise(normalise(block, ranges), ranges), block, rtol=1e-5, atol=1e-2)


def test_affine_match_equals_a_straight_line_fitted_to_each_channel(rng):
    restored = rng.normal(size=(4, 6, 7, 3))
    gt = restored * [2, -3, 0.5] + [10, 20, 30] + rng.normal(size=restored.shape)
    matched = match_affine(restored, gt)
    for channel in range(3):
        x, y = restored[..., channel].ravel(), gt[..., channel].ravel()
        gain, shift = np.polyfit(x, y, 1)
        np.testing.assert_allclose(matched[..., channel].ravel(), gain * x + shift, rtol=1e-9)


def test_affine_match_is_exact_far_from_zero(rng):
    restored = rng.normal(10_000, 1, (4, 50, 50, 1)).astype(np.float32)
    gt = (3 * restored.astype(float) - 200).astype(np.float32)
    np.testing.assert_allclose(match_affine(restored, gt), gt, atol=0.01)


def test_affine_match_of_a_constant_is_the_mean():
    matched = match_affine(np.ones((2, 2, 2, 1)), np.arange(8.0).reshape(2, 2, 2, 1))
    np.testing.assert_array_equal(matched, 3.5)


def test_affine_match_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"\(2, 2, 1\).*\(2, 3, 1\)"):
        match_affine(np.ones((2, 2, 1)), np.ones((2, 3, 1)))


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535)])
def test_integers_are_rounded_clipped_and_counted(dtype, top):
    values, num_clipped = to_dtype(np.array([-0.6, -0.4, 1.4, 1.6, top + 0.4, top + 0.6], np.float32), dtype)
    np.testing.assert_array_equal(values, [0, 0, 1, 2, top, top])
    assert (values.dtype, num_clipped) == (np.dtype(dtype), 2)


def test_floats_pass_unclipped():
    block = np.array([-5.5, 1e6], np.float32)
    values, num_clipped = to_dtype(block, np.float32)
    np.testing.assert_array_equal(values, block)
    assert num_clipped == 0


def test_sampled_values_do_not_keep_the_slabs_they_come_from(monkeypatch, rng):
    monkeypatch.setattr("rcan.ranges._SAMPLE_SIZE", 100)
    monkeypatch.setattr("rcan.ranges._SLAB_SIZE", 1000)
    slabs, alive = [], []

    class Stack:
        path, shape, dtype, frames = "stack.tif", (10, 10, 100, 1), np.dtype(np.float32), ({},)

        def cut(self, num_voxels):
            return cut_into_slabs(self.shape[:-1], num_voxels)

        def read(self, frame, region, dtype):
            alive.append(sum(slab() is not None for slab in slabs))
            slab = rng.random((region[0].stop - region[0].start, 10, 100, 1), np.float32)
            slabs.append(weakref.ref(slab))
            return slab

    percentile_range(Stack(), (2, 99.9))
    assert len(slabs) == 10
    assert max(alive) <= 1


def test_stabilised_noise_is_the_same_at_all_levels(rng):
    """Photons and read noise at levels of 3 to 300 photons: one standard deviation within a tenth."""
    gain, offset, read_noise, top = 2.0, 100.0, 3.0, 300.0
    spreads = []
    for photons in (3, 10, 30, 100, 300):
        grey = offset + gain * (rng.poisson(photons, 100_000) + rng.normal(0, read_noise, 100_000))
        ranges = np.array([[offset, offset + gain * top]])
        noise = scale_noise([[gain, offset, (gain * read_noise) ** 2]], ranges)
        spreads.append(stabilise(normalise(grey[:, np.newaxis], ranges), noise)[:, 0].std())
    assert np.ptp(spreads) < 0.1 * np.mean(spreads)


@pytest.mark.parametrize("noise", [(0.02, 0.0, 1e-4), (0.0, 0.0, 1e-3), (1e-3, -0.1, 0.0), (0.5, 0.2, 1e-3)])
def test_stabilised_values_rise_from_0_at_the_background_to_1_at_the_signal(noise):
    values = stabilise(np.linspace(0, 1, 50)[:, np.newaxis], np.array([noise]))[:, 0]
    assert values[0] == 0
    assert values[-1] == pytest.approx(1, abs=1e-5)
    assert np.all(np.diff(values) >= 0)


def test_without_photon_noise_stabilising_changes_nothing(rng):
    block = rng.normal(0.3, 0.5, (4, 8, 8, 1)).astype(np.float32)
    stabilised = stabilise(block, np.array([[0.0, 0.1, 1e-4]]))
    np.testing.assert_allclose(stabilised[..., :1], block, atol=1e-5)


def test_noise_above_the_signal_keeps_a_spread_of_one(rng):
    """Where noise is ten times the signal, values are in units of the noise: no network sees values of 50."""
    block = rng.normal(0.5, 10, (100_000, 1)).astype(np.float32)
    assert stabilise(block, np.array([[0.0, 0.0, 100.0]]))[:, 0].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 1), (1, 1), (10, 2 / 3), (1000, 0)])
def test_the_second_half_of_the_channels_tells_how_strong_the_noise_is(ratio, expected):
    noise = np.array([[0, 0, 1 / ratio**2], [0, 0, 1.0]])
    stabilised = stabilise(np.zeros((4, 8, 8, 2)), noise)
    assert stabilised.shape == (4, 8, 8, 4)
    np.testing.assert_allclose(stabilised[..., 2], expected, atol=1e-5)
    np.testing.assert_allclose(stabilised[..., 3], 1, atol=1e-5)


def test_noise_is_scaled_with_the_range():
    """Gain 2 at level 110 and variance 50, where 100 becomes 0 and 300 becomes 1: 1/100, 1/20 and 1/800."""
    np.testing.assert_allclose(scale_noise([[2, 110, 50]], [[100, 300]]), [[0.01, 0.05, 0.00125]])


def test_smoothed_ranges_are_percentiles_of_means_of_squares(tmp_path, rng):
    values = rng.integers(0, 4000, (3, 16, 24)).astype(np.uint16)
    save(tmp_path / "v.tif", values, "ZYX")
    means = values.reshape(3, 4, 4, 6, 4).mean(axis=(2, 4))
    volume = open_volume(tmp_path / "v.tif")
    np.testing.assert_allclose(
        percentile_range(volume, (2, 99.9), smoothed=True), [np.percentile(means, (2, 99.9))], rtol=1e-6
    )


def test_smoothed_ranges_leave_out_what_fills_no_square(tmp_path, rng):
    """Of 18 columns the last two make no square of 4; of a volume that is narrower than 4, squares are as narrow."""
    values = rng.integers(0, 4000, (2, 8, 18)).astype(np.uint8)
    save(tmp_path / "v.tif", values, "ZYX")
    save(tmp_path / "n.tif", values[:, :, :2], "ZYX")
    means = values[..., :16].reshape(2, 2, 4, 4, 4).mean(axis=(2, 4))
    narrow = values[..., :2].reshape(2, 2, 4, 2).mean(axis=(2, 3))
    for name, expected in (("v.tif", means), ("n.tif", narrow)):
        found = percentile_range(open_volume(tmp_path / name), (0, 100), smoothed=True)
        np.testing.assert_allclose(found, [[expected.min(), expected.max()]], rtol=1e-6)


def test_the_noise_hardly_moves_a_smoothed_range(tmp_path, rng):
    """White noise of 100 on an image of 0 and 1000: single voxels reach far beyond, means of 16 a quarter as far."""
    image = np.repeat([0.0, 1000.0], 32)[np.newaxis, np.newaxis] + rng.normal(0, 100, (8, 64, 64))
    save(tmp_path / "v.tif", image.astype(np.float32), "ZYX")
    volume = open_volume(tmp_path / "v.tif")
    ((low, high),) = percentile_range(volume, (2, 99.9), smoothed=True)
    assert -70 < low < -30
    assert 1040 < high < 1090


# Noise that a network has learned from

LEAST, MOST = np.array([[1e-3, 0.01, 1e-5]]), np.array([[2e-2, 0.02, 1e-3]])
KNOWN = np.stack([LEAST, MOST])


def test_an_image_with_less_noise_than_learned_is_taken_for_one_of_the_least(rng):
    block = rng.random((4, 8, 8, 1))
    cleaner = np.array([[1e-4, 0.0, 1e-6]])
    np.testing.assert_array_equal(stabilise(block, cleaner, KNOWN), stabilise(block, LEAST))


def test_an_image_with_more_noise_than_learned_is_said_to_have_the_most(rng):
    block = rng.random((4, 8, 8, 1))
    noisier = np.array([[0.1, 0.0, 1e-2]])
    found = stabilise(block, noisier, KNOWN)
    np.testing.assert_array_equal(found[..., 0], stabilise(block, noisier)[..., 0])
    np.testing.assert_array_equal(found[..., 1], stabilise(block, MOST)[..., 1])


def test_an_image_with_noise_as_learned_is_told_as_it_is(rng):
    block, noise = rng.random((4, 8, 8, 1)), np.array([[5e-3, 0.01, 1e-4]])
    np.testing.assert_array_equal(stabilise(block, noise, KNOWN), stabilise(block, noise))


def test_each_channel_has_its_own_range_of_noise(rng):
    """The same noise is too little for the first channel and too much for the second."""
    block, noise = rng.random((8, 8, 2)), np.array([[5e-3, 0.01, 1e-4]] * 2)
    high, low = np.array([[3e-2, 0.0, 0.0]]), np.array([[1e-4, 0.0, 0.0]])
    found = stabilise(block, noise, np.stack([np.concatenate([high, low])] * 2))
    np.testing.assert_array_equal(found[..., [0, 2]], stabilise(block[..., :1], high))
    np.testing.assert_array_equal(found[..., 1], stabilise(block[..., 1:], noise[1:])[..., 0])
    np.testing.assert_array_equal(found[..., 3], stabilise(block[..., 1:], low)[..., 1])


def test_range_of_noise_is_that_of_the_least_and_of_the_most():
    middle = np.array([[5e-3, 0.01, 1e-4]])
    np.testing.assert_array_equal(find_noise_range([middle, MOST, LEAST]), KNOWN)
