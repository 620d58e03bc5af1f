"""Images that are out of register, flipped or distorted are found, whatever their blur and noise; others are not."""

import re

import numpy as np
import pytest
from scipy import ndimage

from rcan.data.registration import find_distortion, find_orientation, find_shift
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import degrade
from rcan.simulation.phantoms import make_phantom

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


@pytest.mark.parametrize("flipped", ["Z", "Y", "ZX", "YX"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_flips_are_found_through_noise_and_blur(specimens, flipped, is_transposed):
    for raw, gt in specimens:
        turned = np.swapaxes(crop(gt, (0, 0, 0)), 1, 2) if is_transposed else crop(gt, (0, 0, 0))
        turned = np.flip(turned, ["ZYX".index(axis) for axis in flipped])
        found = find_orientation(crop(raw, (0, 0, 0)), turned)
        assert (found.flipped, found.is_transposed, found.is_certain) == (flipped, is_transposed, True)


def test_a_quick_look_finds_a_reversed_z(specimens):
    raw, gt = specimens[0]
    found = find_orientation(crop(raw, (0, 0, 0)), crop(gt, (0, 0, 0))[::-1], with_turns=False)
    assert str(found) == "flipped along Z"


def test_flips_are_not_seen_where_there_are_none(specimens):
    assert not any(find_orientation(crop(raw, (0, 0, 0)), crop(gt, (0, 0, 0))).is_certain for raw, gt in specimens)


def blocks_of(raw, gt, size=(8, 32, 32)):
    """Nine blocks in each of three layers: centre, raw, gt."""
    starts = [np.linspace(0, length - side, 3).astype(int) for length, side in zip(gt.shape, size, strict=True)]
    for start in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3):
        region = tuple(slice(first, first + side) for first, side in zip(start, size, strict=True))
        yield start + np.array(size) / 2, raw[region], gt[region]


def moved(image, matrix):
    """The image such that what is at a place p from its middle, in voxels, is found at matrix @ p."""
    middle, inverse = (np.array(image.shape) - 1) / 2, np.linalg.inv(matrix)
    return ndimage.affine_transform(image, inverse, middle - inverse @ middle, order=3, mode="nearest")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({(1, 2): 0.05, (2, 1): -0.05}, r"turned by 2\.[5-9] degrees in XY|turned by 3\.[0-3] degrees in XY"),
        ({(1, 1): 1.06, (2, 2): 1.06}, r"scaled by 1\.0[5-7]\d along Y and 1\.0[5-7]\d along X"),
        ({(2, 0): 0.25}, r"drifting sideways along Z, by [4-5]\.\d voxels"),
    ],
    ids=["rotation", "scale", "drift"],
)
def test_a_shift_that_differs_across_the_image_is_named(specimens, entries, words):
    matrix = np.eye(3)
    for place, value in entries.items():
        matrix[place] = value
    for _, gt in specimens[:3]:
        gt = crop(gt, (0, 0, 0))
        found = find_distortion(blocks_of(moved(gt, matrix), gt), gt.shape)
        assert found.is_certain
        assert re.match(words, str(found))


def test_a_shift_that_is_the_same_everywhere_is_no_distortion(specimens):
    for raw, gt in specimens:
        found = find_distortion(blocks_of(crop(raw, (0, 0, 0)), crop(gt, (0, 2, 1))), SHAPE)
        assert found is None or not found.is_certain


def test_of_few_blocks_nothing_is_said_about_distortions(rng):
    noise = rng.normal(size=(2, 8, 24, 24))
    assert find_distortion([((4, 12, 12), *noise)], noise.shape[1:]) is None


def test_hot_pixels_of_a_camera_do_not_hide_a_shift(specimens, rng):
    raw, gt = specimens[0]
    images = [crop(raw, (0, 0, 0)).copy(), crop(gt, (0, 3, -2)).copy()]
    places = tuple(rng.integers(0, side, 10) for side in SHAPE)
    for image in images:
        image[places] = 20 * image.max()
    np.testing.assert_allclose(find_shift(*images).voxels, (0, 3, -2), atol=0.5)
