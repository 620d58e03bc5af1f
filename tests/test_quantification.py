import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from rcan.assess.quantification import local_error, quantify
from rcan.figures.evaluation import draw_intensities

SHAPES = [(6, 30, 31, 1), (6, 30, 31, 2), (50, 51, 1)]


def make_images(rng, shape):
    gt = rng.gamma(2, 0.2, shape)
    return (0.7 * gt + 0.1 + rng.normal(0, 0.05, shape)).astype(np.float32), gt.astype(np.float32)


# Lines and bins


@pytest.mark.parametrize("shape", SHAPES)
def test_line_is_scipys_regression_of_restored_on_truth(rng, shape):
    restored, gt = make_images(rng, shape)
    for channel, found in enumerate(quantify(restored, gt)):
        expected = stats.linregress(gt[..., channel].ravel(), restored[..., channel].ravel())
        assert (found.slope, found.offset, found.r_squared) == pytest.approx(
            (expected.slope, expected.intercept, expected.rvalue**2), abs=1e-5
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_are_those_of_scipy(rng, shape):
    restored, gt = make_images(rng, shape)
    for channel, found in enumerate(quantify(restored, gt)):
        true, values = (image[..., channel].ravel().astype(float) for image in (gt, restored))

        def bins(of, statistic, true=true, edges=found.edges):
            return stats.binned_statistic(true, of, statistic, edges).statistic

        assert found.counts.sum() == true.size
        np.testing.assert_array_equal(found.counts, bins(true, "count"))
        np.testing.assert_allclose(found.truth, bins(true, "mean"), atol=1e-6)
        np.testing.assert_allclose(found.means, bins(values, "mean"), atol=1e-6)
        np.testing.assert_allclose(found.deviations, bins(values, "std"), atol=1e-6)


def test_bins_are_evenly_spaced_and_reach_from_the_lowest_to_the_highest(rng):
    restored, gt = make_images(rng, (10, 100, 100, 1))
    gt[0, 0, 0] = 50  # a hot pixel
    edges = quantify(restored, gt)[0].edges
    assert (edges[0], edges[-1]) == (gt.min(), 50)
    low, high = np.percentile(gt, (0.1, 99.9))
    np.testing.assert_allclose(np.diff(edges)[1:-1], (high - low) / 20, rtol=1e-4)


def test_bias_is_what_restored_is_too_bright():
    gt = np.linspace(0, 1, 4000, dtype=np.float32).reshape(1, 40, 100, 1)
    found = quantify(gt**2, gt)[0]
    np.testing.assert_allclose(found.bias, found.truth**2 - found.truth, atol=1e-3)


def test_bins_without_voxels_are_not_a_number():
    gt = np.repeat(np.float32([0, 1]), 200).reshape(1, 20, 20, 1)
    found = quantify(gt, gt)[0]
    assert np.count_nonzero(found.counts) == 2
    np.testing.assert_array_equal(np.isnan(found.means), found.counts == 0)


def test_a_constant_truth_has_no_line_and_one_bin(rng):
    restored = rng.normal(0.2, 0.1, (6, 30, 31, 1)).astype(np.float32)
    found = quantify(restored, np.full_like(restored, 0.1))[0]
    assert np.isnan([found.slope, found.offset, found.r_squared]).all()
    assert found.counts.tolist() == [restored.size]
    assert found.means == pytest.approx(restored.mean(), abs=1e-5)


def test_a_constant_restored_image_has_slope_0_and_explains_nothing(rng):
    _, gt = make_images(rng, (6, 30, 31, 1))
    found = quantify(np.full_like(gt, 0.1), gt)[0]
    assert (found.slope, found.offset) == pytest.approx((0, 0.1), abs=1e-6)
    assert np.isnan(found.r_squared)


def test_images_of_other_shapes_cannot_be_compared():
    with pytest.raises(ValueError, match="the shapes must be equal"):
        quantify(np.zeros((4, 8, 8, 1)), np.zeros((4, 8, 8, 2)))


# Local error


@pytest.mark.parametrize("shape", [(6, 30, 32, 1), (6, 30, 32, 2), (30, 32, 1)])
def test_error_of_an_even_pattern_is_its_height_everywhere(rng, shape):
    gt = np.broadcast_to(np.where(np.arange(shape[-3]) % 2, 1, 0)[:, np.newaxis, np.newaxis], shape).astype(float)
    pattern = np.where(np.arange(shape[-2]) % 2, 0.02, -0.02)[:, np.newaxis]
    error, share = local_error(0.5 * (gt + pattern) + 3, gt, level=0.01)  # gain and offset do not count
    assert error.shape == gt.shape
    np.testing.assert_allclose(error, 0.02, rtol=0.01)
    assert share == 1


@pytest.mark.parametrize("voxel_size", [(0.3, 0.1, 0.1), (None, 0.1, 0.1), (None, None, None)])
def test_window_measures_as_many_micrometres_along_z_as_along_x(rng, voxel_size):
    gt = rng.uniform(size=(21, 40, 40, 1))
    restored = gt.copy()
    restored[10, 20, 20] += 5
    error, _ = local_error(restored, gt, voxel_size=voxel_size)
    sigma = 2 * 0.1 / voxel_size[0] if voxel_size[0] else 2
    along_z, along_x = error[11, 20, 20, 0], error[10, 20, 21, 0]
    assert (along_z / error[10, 20, 20, 0]) ** 2 == pytest.approx(np.exp(-0.5 / sigma**2), rel=0.02)
    assert (along_x / error[10, 20, 20, 0]) ** 2 == pytest.approx(np.exp(-0.5 / 2**2), rel=0.02)


def test_share_is_the_part_of_the_volume_that_is_wrong(rng):
    gt = rng.uniform(size=(8, 40, 80, 1))
    restored = gt.copy()
    restored[:, :, :20] += rng.normal(0, 0.3, (8, 40, 20, 1))  # a quarter
    _, share = local_error(restored, gt)
    assert share == pytest.approx(0.25, abs=0.05)


# Chart


@pytest.mark.parametrize("shape", SHAPES)
def test_chart_has_a_labelled_panel_for_each_channel(rng, shape):
    restored, gt = make_images(rng, shape)
    figure = draw_intensities(restored, gt, quantify(restored, gt))
    assert isinstance(figure, Figure)
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [(p.get_xlabel(), p.get_ylabel()) for p in panels] == [("true intensity", "restored intensity")] * shape[-1]
    assert f"slope {np.polyfit(gt[..., 0].ravel(), restored[..., 0].ravel(), 1)[0]:.3f}" in panels[0].get_title()
    if shape[-1] > 1:
        assert panels[0].get_title().startswith("channel 0: ")
    figure.canvas.draw()


def test_chart_shows_truth_across_and_restored_upwards(rng):
    gt = rng.uniform(size=(6, 30, 31, 1))
    panel, colours = draw_intensities(0.5 * gt, gt, quantify(0.5 * gt, gt)).axes
    counts = panel.images[0].get_array().filled(0)  # (restored, true), from below
    assert counts.sum() == pytest.approx(gt.size, rel=0.01)
    assert counts[60:].sum() == 0
    assert counts[:, 60:].sum() == pytest.approx(0.4 * gt.size, rel=0.1)
    assert colours.get_ylabel() == "voxels"


def test_chart_of_constant_images_is_drawn():
    image = np.full((4, 8, 8, 1), 0.5, np.float32)
    figure = draw_intensities(image, image, quantify(image, image))
    figure.canvas.draw()
    assert figure.axes[0].images[0].get_array().filled(0).sum() == image.size
