"""A volume seen from all sides."""

import numpy as np
import pytest

from rcan.figures.rotation import pixel_of_views, rotate_projections

UNKNOWN = (None, None, None)
VOXEL_SIZES = [UNKNOWN, (1.0, 1.0, 1.0), (0.3, 0.1, 0.1), (0.25, 0.1, 0.1), (None, None, 0.1)]


def in_voxels(voxel_size):
    """(z, y, x) in units of x."""
    z, y, x = voxel_size
    return np.array([(z or x) / x, (y or x) / x, 1]) if x else np.ones(3)


def distances(shape, voxel_size, centre):
    """Distance of every voxel from a point in units of x, both from the middle of the volume."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, in_voxels(voxel_size), strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(sum((part - place) ** 2 for part, place in zip(grid, centre, strict=True)))


def middle(view, width):
    """The columns in the middle of a view."""
    margin = (view.shape[1] - width) // 2
    return view[:, margin : view.shape[1] - margin]


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
@pytest.mark.parametrize("num_views", [8, 9])
def test_a_point_moves_as_a_cosine(voxel_size, num_views):
    shape = 25, 11, 31
    z, x = 5.0, -8.0
    spot = np.exp(-(distances(shape, voxel_size, (z, 0, x)) ** 2) / 8)
    views = rotate_projections(spot, voxel_size, num_views=num_views)
    profiles = views.max(axis=1)
    places = np.arange(views.shape[2]) - (views.shape[2] - 1) / 2
    found = profiles @ places / profiles.sum(axis=1)
    angles = 2 * np.pi * np.arange(num_views) / num_views
    np.testing.assert_allclose(found, np.hypot(x, z) * np.cos(angles + np.arctan2(z, x)), atol=0.15)


@pytest.mark.parametrize("voxel_size", [UNKNOWN, (0.2, 0.1, 0.1)])
def test_a_ball_looks_the_same_from_all_sides(voxel_size):
    ball = np.exp(-(distances((31, 31, 31), voxel_size, (0, 0, 0)) ** 2) / 50)
    views = rotate_projections(ball, voxel_size, num_views=12)
    np.testing.assert_allclose(
        views, np.broadcast_to(views[0], views.shape), atol=0.025
    )  # lost between voxels: 2**2 / 25 / 8


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
@pytest.mark.parametrize("shape", [(6, 20, 31), (7, 20, 30), (1, 9, 12)])
def test_first_view_is_the_xy_projection(rng, shape, voxel_size):
    voxel_size = (voxel_size[0], voxel_size[2], voxel_size[2])
    volume = rng.uniform(size=shape)
    view = rotate_projections(volume, voxel_size)[0]
    np.testing.assert_allclose(middle(view, shape[2]), volume.max(axis=0), atol=1e-6)
    assert view.sum() == pytest.approx(middle(view, shape[2]).sum())


def test_a_volume_that_is_turned_by_hand_shows_its_other_views(rng):
    volume = rng.uniform(size=(21, 7, 21))
    views = rotate_projections(volume, UNKNOWN, num_views=8)
    turned = rotate_projections(np.rot90(volume, axes=(0, 2)), UNKNOWN, num_views=8)
    np.testing.assert_allclose(turned, np.roll(views, 2, axis=0), atol=1e-5)


def test_view_from_the_other_side_is_the_mirror_image(rng):
    volume = rng.uniform(size=(9, 7, 20))
    views = rotate_projections(volume, (0.3, 0.1, 0.1), num_views=6)
    turned = rotate_projections(volume[::-1, :, ::-1], (0.3, 0.1, 0.1), num_views=6)
    np.testing.assert_allclose(turned, views[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize("most", [24, 60, 160])
@pytest.mark.parametrize("voxel_size", [UNKNOWN, (0.3, 0.1, 0.1), (0.1, 0.3, 0.2), (0.1, 0.1, 1.0)])
@pytest.mark.parametrize("shape", [(12, 40, 50), (50, 20, 9), (1, 70, 30), (90, 8, 2)])
def test_views_are_whole_and_at_most_so_large(shape, voxel_size, most):
    views = rotate_projections(np.ones(shape), voxel_size, num_views=16, most=most)
    assert max(views.shape[1:]) <= most
    depth, _, width = shape * in_voxels(voxel_size)
    pixel = pixel_of_views(shape, in_voxels(voxel_size), most)
    for number, view in enumerate(views):
        angle = 2 * np.pi * number / 16
        across = abs(width * np.cos(angle)) + abs(depth * np.sin(angle))
        seen = np.flatnonzero(view.max(axis=0) > 0.25)
        edge = pixel + in_voxels(voxel_size)[0] * abs(np.sin(angle))  # over which it fades
        assert (seen[-1] - seen[0] + 1) * pixel == pytest.approx(across, abs=2 * edge)


def test_large_pixels_average_noise(rng):
    noise = rng.normal(0.5, 0.1, (16, 96, 96))
    fine, coarse = (rotate_projections(noise, UNKNOWN, num_views=2, most=most)[0] for most in (160, 40))
    assert middle(fine, 96).mean() > 0.65  # the largest of 16
    assert np.median(coarse[coarse > 0.4]) < 0.58


def test_views_are_clipped_to_background_and_signal(rng):
    views = rotate_projections(rng.normal(0.5, 2, (4, 8, 9)), UNKNOWN)
    assert views.dtype == np.float32
    assert (views.min(), views.max()) == (0, 1)
