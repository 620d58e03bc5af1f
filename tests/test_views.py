import numpy as np
import pytest

from rcan.data.views import open_network_view, view_image
from rcan.io.opening import open_volume

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


@pytest.fixture
def photons(tmp_path, write_tiff, rng):
    """Two channels of photons, of 2 and 5 grey values each, on an offset of 100: a file and the expected image."""
    expected = 200 * np.clip(np.sin(np.arange(64) / 6), 0, 1) * np.ones((2, 8, 64, 1))
    gains = np.array([2, 5])[:, np.newaxis, np.newaxis, np.newaxis]
    image = 100 + gains * (rng.poisson(expected) + rng.normal(0, 2, expected.shape))
    path = write_tiff(tmp_path / "photons.tif", np.moveaxis(image, 0, 1).astype(np.uint16), "ZCYX")
    with open_volume(path) as volume:
        yield volume


def test_the_input_of_a_stabilised_network_has_even_noise(photons):
    """Along Y the expected image does not change: differences of neighbours are noise, at 0 and at 200 photons."""
    seen = open_network_view(photons, normalization="anscombe", **SEEN)
    for number in range(2):
        noise = np.diff(seen.read_input(number)[..., 0], axis=1)
        dark, bright = noise[:, :, 24:36].std(), noise[:, :, 5:14].std()
        assert bright == pytest.approx(dark, rel=0.25)
        linear = np.diff(seen.read(number)[..., 0], axis=1)
        assert linear[:, :, 5:14].std() > 3 * linear[:, :, 24:36].std()


def test_a_stabilised_view_of_some_channels_is_as_of_all(photons):
    whole = open_network_view(photons, normalization="anscombe", **SEEN)
    second = open_network_view(photons, normalization="anscombe", channels=(1,), **SEEN)
    np.testing.assert_array_equal(second.read_input(0), whole.read_input(1))


def test_channels_of_one_block_are_stabilised_each_by_its_own_noise(photons):
    whole = open_network_view(photons, normalization="anscombe", **SEEN)
    both = open_network_view(photons, normalization="anscombe", **{**SEEN, "num_channels": 2})
    np.testing.assert_allclose(both.read_input(0)[..., [1, 3]], whole.read_input(1), atol=1e-6)


def test_a_part_of_a_stabilised_view_is_stabilised_as_the_whole(photons):
    seen = open_network_view(photons, normalization="anscombe", **SEEN)
    region = (slice(0, 2), slice(4, 8), slice(10, 30))
    part = seen.crop(region).read_input(1, (slice(0, 2), slice(0, 4), slice(0, 20)))
    np.testing.assert_array_equal(part, seen.read_input(1, region))


def test_an_image_in_memory_is_seen_as_its_file(photons):
    seen = open_network_view(photons, normalization="anscombe", **SEEN)
    block = photons.with_block_axes("ZYX").read({"C": 1}, dtype=None)
    alone = view_image(block, percentiles=(2, 99.9), normalization="anscombe")
    np.testing.assert_allclose(alone.read_input(0), seen.read_input(1), atol=1e-6)
    np.testing.assert_allclose(alone.ranges, seen.range_of(1))
