"""Hot pixels and cosmic rays are replaced by what is around them; nothing else changes."""

import numpy as np
import pytest
from scipy import ndimage

from rcan.data.despike import despike
from rcan.io.array import volume_of_array
from rcan.io.opening import open_volume


@pytest.fixture
def image(rng):
    """Blurred blobs and photon noise, (Z, Y, X, C)."""
    blobs = ndimage.gaussian_filter(rng.normal(size=(6, 40, 42, 2)), (1, 1.5, 1.5, 0))
    return rng.poisson(100 + 400 * np.maximum(blobs, 0) / blobs.max()).astype(np.uint16)


def despiked(image):
    """The image without its spikes, and how many there were."""
    volume = despike(volume_of_array(image))
    return volume.read(dtype=None), volume.source.num_spikes


@pytest.mark.parametrize("place", [(3, 20, 21, 0), (0, 0, 0, 1), (5, 39, 41, 0), (2, 0, 30, 1)])
@pytest.mark.parametrize("value", [2000, 65535])
def test_a_spike_becomes_the_median_of_its_neighbours(image, place, value):
    hot = image.copy()
    hot[place] = value
    found, num_spikes = despiked(hot)
    z, y, x, c = place
    padded = np.pad(image[z, ..., c].astype(float), 1, mode="reflect")[y : y + 3, x : x + 3]
    around = np.delete(padded.ravel(), 4)
    assert num_spikes == 1
    assert found[place] == np.rint(np.median(around))
    found[place] = image[place]
    np.testing.assert_array_equal(found, image)


def test_two_spikes_side_by_side_are_both_replaced(image):
    hot = image.copy()
    hot[3, 20, 20:22, 0] = 60_000, 50_000
    found, num_spikes = despiked(hot)
    assert num_spikes == 2
    assert found.max() == image.max()


def test_an_image_without_spikes_stays_as_it_is(image):
    found, num_spikes = despiked(image)
    assert num_spikes == 0
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("mean", [0.02, 0.3, 3])
def test_few_photons_are_no_spikes(rng, mean):
    image = rng.poisson(mean, (8, 64, 64, 1)).astype(np.uint16)
    np.testing.assert_array_equal(despiked(image)[0], image)


@pytest.mark.parametrize("name", ["nuclei.tif", "vesicles_lattice.tif", "cell_uint8.tif", "spots_zcyx.tif"])
def test_real_volumes_have_none(data_dir, name):
    volume = despike(open_volume(data_dir / "volumes" / name))
    volume.read()
    assert volume.source.num_spikes == 0


def test_a_bead_of_two_pixels_width_is_no_spike():
    y, x = np.mgrid[-10:11, -10:11]
    bead = 100 + 5000 * np.exp(-4 * np.log(2) * (y**2 + x**2) / 2**2)
    _, num_spikes = despiked(np.rint(bead).astype(np.uint16)[np.newaxis, ..., np.newaxis])
    assert num_spikes == 0


def test_spikes_are_the_same_in_any_region(image, rng):
    hot = image.copy()
    hot.flat[rng.choice(hot.size, 40, replace=False)] = 30_000
    volume = despike(volume_of_array(hot))
    whole = volume.read(dtype=None)
    for _ in range(20):
        start = [rng.integers(0, size) for size in hot.shape[:3]]
        region = tuple(slice(low, rng.integers(low, size) + 1) for low, size in zip(start, hot.shape, strict=False))
        np.testing.assert_array_equal(volume.read(region=region, dtype=None), whole[region])
    assert volume.source.num_spikes == (whole != hot).sum()  # each counted once


def test_missing_voxels_stay_missing(image):
    hot = image.astype(np.float32)
    hot[2, 5:9, 5:9] = np.nan
    hot[4, 20, 20, 0] = 1e5
    found, num_spikes = despiked(hot)
    assert num_spikes == 1
    np.testing.assert_array_equal(np.isnan(found), np.isnan(hot))


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "ZCYX", "TZCYX"])
def test_files_of_any_axes_are_despiked(tmp_path, write_tiff, rng, axes):
    shape = [{"T": 3, "Z": 4, "C": 2}.get(axis, 20) for axis in axes]
    image = rng.poisson(100, shape).astype(np.uint16)
    hot = image.copy()
    hot[..., 7, 9] = 60_000
    volume = despike(open_volume(write_tiff(tmp_path / "a.tif", hot, axes)))
    largest = max(volume.read(frame).max() for frame in volume.frames)
    assert largest < 200
    assert volume.source.num_spikes == np.prod(shape[:-2])
