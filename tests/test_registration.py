"""Pairs that are out of register are found, whatever their blur and noise, and others are not."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from rcan.config import Config, ImagePair
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import open_pairs
from rcan.data.registration import find_shift, measure_shift, warn_of_shifts
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import degrade
from rcan.simulation.phantoms import make_phantom
from rcan.training.run_data import open_data

VOXEL_SIZE = (0.3, 0.1, 0.1)
MARGIN, SHAPE = 9, (20, 64, 64)
SHIFTS = [(0, 0, 0), (1, -1, 0), (3, 0, -3), (-1, 8, 8), (0, 3, -8)]


def crop(volume, start):
    return volume[tuple(slice(MARGIN + first, MARGIN + first + side) for first, side in zip(start, SHAPE, strict=True))]


@pytest.fixture(scope="module")
def specimens():
    """Ground truth, and raw at 5 photons and 4 times the blur, of six phantoms with a margin around them."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        density = make_phantom("mixture", [side + 2 * MARGIN for side in SHAPE], voxel_size=VOXEL_SIZE, rng=rng)
        optics = {"voxel_size": VOXEL_SIZE, "fwhm": gaussian_widths(), "photons": 5, "blur_factor": 4}
        raw = degrade(density, rng=rng, **optics)[..., 0]
        sigmas = [width / 2.355 / side for width, side in zip(gaussian_widths(), VOXEL_SIZE, strict=True)]
        found.append((raw, ndimage.gaussian_filter(density[..., 0].astype(float), sigmas)))
    return found


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_is_found_through_noise_and_blur(specimens, shift):
    errors = [
        np.abs(np.subtract(find_shift(crop(raw, (0, 0, 0)), crop(gt, shift)).voxels, shift)).max()
        for raw, gt in specimens
    ]
    assert np.mean(np.array(errors) < 0.5) >= 0.95


def test_half_a_voxel_is_found(specimens):
    _, gt = specimens[0]
    moved = ndimage.shift(gt, (0, 0.5, -0.5), order=3)
    found = find_shift(crop(moved, (0, 0, 0)), crop(gt, (0, 0, 0))).voxels
    np.testing.assert_allclose(found, (0, 0.5, -0.5), atol=0.1)


def test_clean_pairs_raise_no_alarm(specimens):
    assert not any(find_shift(crop(raw, (0, 0, 0)), crop(gt, (0, 0, 0))).is_certain for raw, gt in specimens)


def test_images_without_anything_in_common_raise_no_alarm(rng):
    for _ in range(10):
        one, other = ndimage.gaussian_filter(rng.normal(size=(2, 16, 48, 48)), (0, 2, 2, 2))
        assert not find_shift(one, other).is_certain


@pytest.mark.parametrize("name", ["Confocal_BPAE_R", "Confocal_BPAE_B", "TwoPhoton_MICE", "WideField_BPAE_B"])
def test_real_pairs_raise_no_alarm(data_dir, name):
    folder = data_dir / "fmd_pairs"
    files = [ImagePair(raw=folder / f"raw/{name}_{n}.tif", gt=folder / f"gt/{name}.tif") for n in (1, 2)]
    pairs = open_pairs(None, files, ndim=2)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        warn_of_shifts(pairs, MeasurementCache())
    assert not given


@pytest.fixture
def shifted(tmp_path, write_tiff, noisy_pair):
    """Values of a config whose ground truth lies 2 voxels along Y and -3 along X beside raw."""
    for number in range(2):
        raw, gt = noisy_pair((8, 60, 60), number)
        write_tiff(tmp_path / f"raw/{number}.tif", raw[:, 4:-4, 4:-4], "ZYX")
        write_tiff(tmp_path / f"gt/{number}.tif", gt[:, 6:-2, 1:-7], "ZYX")
    return {"training_data_dir": {kind: str(tmp_path / kind) for kind in ("raw", "gt")}, "patch_shape": [8, 16, 16]}


def test_a_training_warns_of_pairs_out_of_register(shifted):
    with pytest.warns(
        UserWarning, match=r"^2 of 2 pairs .* are out of register: [01]\.tif lies 0\.0, 2\.0, -3\.0 voxels"
    ):
        open_data(Config.checked(shifted))


def test_a_shift_is_measured_once(shifted, tmp_path, monkeypatch):
    folders = ImagePair(raw=tmp_path / "raw", gt=tmp_path / "gt")
    pairs, cache = open_pairs(folders, []), MeasurementCache(tmp_path / "measured")
    first = measure_shift(pairs[0], cache)
    monkeypatch.setattr("rcan.data.registration.find_shift", None)
    assert measure_shift(pairs[0], cache) == first


def test_the_ground_truth_of_a_larger_image_is_compared_in_its_voxels(tmp_path, write_tiff, rng):
    gt = ndimage.gaussian_filter(rng.normal(size=(8, 96, 96)), 3)
    gt = (1000 + 400 * gt / gt.std()).clip(0).astype(np.uint16)
    raw = gt.reshape(8, 48, 2, 48, 2).mean(axis=(2, 4)).astype(np.uint16)
    write_tiff(tmp_path / "raw/0.tif", np.roll(raw, 2, axis=2), "ZYX")
    write_tiff(tmp_path / "gt/0.tif", gt, "ZYX")
    (pair,) = open_pairs(ImagePair(raw=tmp_path / "raw", gt=tmp_path / "gt"), [])
    np.testing.assert_allclose(measure_shift(pair, MeasurementCache()).voxels, (0, 0, 2), atol=0.1)
