import math

import numpy as np
import pytest
from scipy import fft, ndimage

from rcan.assess.resolution.decorrelation import decorrelation_curves
from rcan.assess.resolution.fourier import fourier_curves, single_image_curves
from rcan.assess.resolution.measures import (
    Resolution,
    decorrelation_resolution,
    fourier_resolution,
    single_image_resolution,
)
from rcan.figures.resolution import plot_decorrelation_curves, plot_fourier_curves
from rcan.simulation.camera import expose
from rcan.simulation.optics import blur, gaussian_widths
from rcan.simulation.phantoms import make_phantom

VOXEL_SIZE = (0.3, 0.1, 0.1)
SHAPE = (32, 128, 128)
NOTHING = Resolution(None, None)
SINGLE = [single_image_resolution, decorrelation_resolution]


def first_of_two(one, other, voxel_size):
    return single_image_resolution(one, voxel_size)


def structure(transfer, shape, voxel_size, rng):
    """White noise of variance 1 behind a transfer function of the frequencies in cycles/µm."""
    frequencies = np.meshgrid(
        *[fft.fftfreq(size, width) for size, width in zip(shape, voxel_size, strict=True)], indexing="ij"
    )
    return fft.ifftn(fft.fftn(rng.normal(size=shape)) * transfer(*frequencies)).real


def band_limited(limits, shape, voxel_size, rng):
    """White noise that ends at a frequency (lateral) and at another (axial), with variance 1."""
    lateral, axial = limits

    def transfer(*frequencies):
        z, y, x = (0, *frequencies)[-3:]
        return (np.hypot(y, x) / lateral) ** 2 + (z / axial) ** 2 <= 1

    image = structure(transfer, shape, voxel_size, rng)
    return image / image.std()


def expose_twice(image, snr, rng):
    """Two exposures with `snr` times as much variance of the signal as of the noise."""
    return [math.sqrt(snr) * image + rng.normal(size=image.shape) for _ in range(2)]


@pytest.mark.parametrize("measure", [fourier_resolution, first_of_two])
@pytest.mark.parametrize("limits", [(2, 0.8), (3, 1.2)])
def test_correlation_ends_with_the_signal(measure, limits, rng):
    exposures = expose_twice(band_limited(limits, SHAPE, VOXEL_SIZE, rng), 1, rng)
    resolution = measure(*exposures, VOXEL_SIZE)
    coefficient = np.array([1 / 12.8, 1 / 9.6])  # that the extent of the image resolves, in cycles/µm
    measured = 1 / np.array([resolution.lateral, resolution.axial])
    np.testing.assert_array_less(abs(measured - limits), 1.5 * coefficient)


@pytest.mark.parametrize("limits", [(2, 0.8), (3, 1.2)])
@pytest.mark.parametrize("snr", [5, 1000])
def test_decorrelation_finds_the_end_of_the_signal(limits, snr, rng):
    image, _ = expose_twice(band_limited(limits, SHAPE, VOXEL_SIZE, rng), snr, rng)
    resolution = decorrelation_resolution(image, VOXEL_SIZE)
    np.testing.assert_allclose([resolution.lateral, resolution.axial], 1 / np.array(limits), rtol=0.1)


def test_decorrelation_tells_frequencies_apart_that_share_a_ring(rng):
    structure_seed, noise = rng.integers(1000), 0.1 * rng.normal(size=(256, 256))
    frequencies = []
    for limit in (2.0, 2.01, 2.02, 2.03):  # rings are 0.039 cycles/µm apart
        image = structure(
            lambda y, x, limit=limit: 1 / (1 + np.exp((np.hypot(y, x) - limit) / 0.05)),
            (256, 256),
            (0.1, 0.1),
            np.random.default_rng(structure_seed),
        )
        frequencies.append(1 / decorrelation_resolution(image + noise, VOXEL_SIZE).lateral)
    assert (np.diff(frequencies) > 0).all()


def test_filters_show_structure_that_is_weak_against_coarser_parts(rng):
    def transfer(y, x):
        radius = np.maximum(np.hypot(y, x), 0.05)
        return radius**-1.5 * (radius < 3)

    image = structure(transfer, (256, 256), (0.1, 0.1), rng) + rng.normal(0, 0.01, (256, 256))
    curves = decorrelation_curves(image, VOXEL_SIZE)["lateral"]
    assert curves.peaks[0, 0] < 1  # of the image itself
    assert curves.resolution == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("measure", [fourier_resolution, first_of_two])
@pytest.mark.parametrize(("lateral", "axial", "snr"), [(0.15, 0.4, 100), (0.2, 0.5, 1000)])
def test_correlation_of_a_gaussian_blur_ends_as_computed(measure, lateral, axial, snr, rng):
    """Of white noise behind a blur of standard deviation s, the power at frequency f is snr exp(-(2π s f)²).

    A section has the mean of it over the frequencies across: with voxels v and a blur t across, v / (2 sqrt(π) t).
    """
    widths = np.array([axial, lateral, lateral]) / VOXEL_SIZE
    sharp = ndimage.gaussian_filter(rng.normal(size=(64, 128, 128)), widths, mode="wrap")
    exposures = [sharp + rng.normal(0, snr**-0.5, sharp.shape) for _ in range(2)]
    along, across, voxel = np.array([(lateral, axial, 0.3), (axial, lateral, 0.1)]).T
    snr_of_section = snr * voxel / (2 * math.sqrt(np.pi) * across)
    expected = 2 * np.pi * along / np.sqrt(np.log(6 * snr_of_section))
    resolution = measure(*exposures, VOXEL_SIZE)
    np.testing.assert_allclose([resolution.lateral, resolution.axial], expected, rtol=0.06)


def test_correlation_is_the_share_of_the_signal_in_the_power(rng):
    exposures = expose_twice(rng.normal(size=(16, 256, 256)), 2, rng)
    two, halves = fourier_curves(*exposures, (None, 1, 1)), single_image_curves(exposures[0], (None, 1, 1))
    assert np.mean(two["lateral"].correlation) == pytest.approx(2 / 3, abs=0.01)
    assert two["lateral"].at_limit
    # of white noise, the halves know nothing of each other: they are no two exposures of it
    assert np.mean(halves["lateral"].correlation) == pytest.approx(0, abs=0.05)


def test_halves_correlate_like_two_exposures(rng):
    exposures = expose_twice(band_limited((2, 0.8), (16, 256, 256), VOXEL_SIZE, rng), 0.2, rng)
    two, halves = fourier_curves(*exposures, VOXEL_SIZE), single_image_curves(exposures[0], VOXEL_SIZE)
    passed = two["lateral"].frequencies < 1.8
    means = [np.mean(curves["lateral"].correlation[: passed.sum()]) for curves in (two, halves)]
    assert means[0] == pytest.approx(means[1], abs=0.02)


def test_halves_show_structure_almost_up_to_nyquist(rng):
    image, _ = expose_twice(band_limited((4.5, 1.2), (16, 256, 256), VOXEL_SIZE, rng), 10, rng)
    assert single_image_resolution(image, VOXEL_SIZE).lateral == pytest.approx(1 / 4.5, rel=0.03)


def test_against_an_image_without_noise_the_root_of_the_threshold_stands_for_the_same(rng):
    sharp = ndimage.gaussian_filter(rng.normal(size=(16, 256, 256)), (0, 2, 2), mode="wrap")
    noisy = sharp + rng.normal(0, 0.1, sharp.shape)
    resolution = fourier_resolution(noisy, sharp, VOXEL_SIZE, threshold=7**-0.5)
    assert resolution.lateral == pytest.approx(0.4 * np.pi / math.sqrt(math.log(600)), rel=0.04)


@pytest.mark.parametrize("measure", [fourier_resolution, first_of_two])
def test_correlation_does_not_depend_on_grey_values(measure, rng):
    one, other = expose_twice(band_limited((2, 0.8), SHAPE, VOXEL_SIZE, rng), 1, rng)
    grey = np.rint(30_000 + 500 * one).astype(np.uint16)
    expected = measure(one, other, VOXEL_SIZE)
    assert measure(grey, other, VOXEL_SIZE) == pytest.approx(expected, rel=1e-3)


def test_more_light_resolves_more_and_more_blur_less(rng):
    phantom = make_phantom("spheres", (24, 96, 96), voxel_size=VOXEL_SIZE, rng=rng)
    optics = {"fwhm": gaussian_widths(), "voxel_size": VOXEL_SIZE}
    measured = {}
    for photons, factor in [(20, 2), (200, 2), (200, 3)]:
        image = blur(phantom, **optics, factor=factor)
        one, other = (expose(image, photons=photons, rng=rng)[..., 0] for _ in range(2))
        for name, values in {
            "two": fourier_resolution(one, other, VOXEL_SIZE),
            "single": single_image_resolution(one, VOXEL_SIZE),
            "decorrelation": decorrelation_resolution(one, VOXEL_SIZE),
        }.items():
            measured.setdefault(name, []).append([values.lateral, values.axial])
    for values in measured.values():
        dark, bright, blurred = np.array(values)
        assert (bright < dark).all()
        assert (bright < blurred).all()
    np.testing.assert_allclose(measured["single"], measured["two"], rtol=0.15)


@pytest.mark.parametrize("shape", [(32, 64, 64), (17, 65, 47), (16, 16, 16), (64, 64)])
def test_noise_has_no_resolution(shape, rng):
    one, other = rng.normal(size=(2, *shape))
    assert fourier_resolution(one, other, VOXEL_SIZE) == NOTHING
    assert single_image_resolution(one, VOXEL_SIZE) == NOTHING
    assert decorrelation_resolution(one, VOXEL_SIZE) == NOTHING


@pytest.mark.parametrize("value", [0, 1000, np.nan])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_constant_image_has_no_resolution(value):
    image = np.full((20, 40, 40), value, np.float32)
    assert fourier_resolution(image, image, VOXEL_SIZE) == NOTHING
    assert all(measure(image, VOXEL_SIZE) == NOTHING for measure in SINGLE)


def test_images_that_agree_everywhere_are_limited_by_sampling(rng):
    image = rng.normal(size=(20, 40, 40))
    resolution = fourier_resolution(image, 3 * image + 5, VOXEL_SIZE)
    assert resolution == pytest.approx((0.2, 0.6), rel=0.01)
    assert all(curve.at_limit for curve in fourier_curves(image, image, VOXEL_SIZE).values())


def test_the_only_plane_with_structure_is_the_one_that_counts(rng):
    volume = np.zeros((40, 128, 128))
    volume[33] = 10 * band_limited((2, 1), (128, 128), (0.1, 0.1), rng)
    exposures = expose_twice(volume, 1, rng)
    alone = fourier_resolution(*(image[33] for image in exposures), VOXEL_SIZE)
    assert fourier_resolution(*exposures, VOXEL_SIZE).lateral == pytest.approx(alone.lateral, rel=0.1)


@pytest.mark.parametrize("shape", [(16, 41, 53), (33, 101, 67), (20, 300, 24)])
def test_odd_and_unequal_sizes_are_measured(shape, rng):
    exposures = expose_twice(band_limited((2, 0.8), shape, VOXEL_SIZE, rng), 3, rng)
    results = [
        fourier_resolution(*exposures, VOXEL_SIZE),
        *(measure(exposures[0], VOXEL_SIZE) for measure in SINGLE),
    ]
    for resolution in results:
        assert resolution.lateral == pytest.approx(1 / 2, rel=0.25)
        assert resolution.axial == pytest.approx(1 / 0.8, rel=0.25)


@pytest.mark.parametrize("sizes", [(0.1, 0.2), (0.2, 0.1)])
def test_pixels_may_be_longer_on_one_side(sizes, rng):
    exposures = expose_twice(band_limited((1.5, 1), (200, 200), sizes, rng), 3, rng)
    assert fourier_resolution(*exposures, sizes).lateral == pytest.approx(1 / 1.5, rel=0.07)
    assert decorrelation_resolution(exposures[0], sizes).lateral == pytest.approx(1 / 1.5, rel=0.1)


def test_planes_have_a_lateral_resolution_only(rng):
    exposures = expose_twice(band_limited((2, 1), (256, 256), (0.1, 0.1), rng), 10, rng)
    for voxel_size in [(0.1, 0.1), (None, 0.1, 0.1), (0.3, 0.1, 0.1)]:
        results = [
            fourier_resolution(*exposures, voxel_size),
            *(measure(exposures[0], voxel_size) for measure in SINGLE),
        ]
        for resolution in results:
            assert resolution == (pytest.approx(0.5, rel=0.06), None)


@pytest.mark.parametrize(
    ("voxel_size", "measured"),
    [
        (None, set()),
        ((None, None, None), set()),
        ((None, 0.1, 0.1), {"lateral"}),
        ((0.3, 0.1, None), {"axial"}),  # in ZY sections
        ((0.3, 0.1, 0.1), {"lateral", "axial"}),
    ],
)
@pytest.mark.parametrize("measure", SINGLE)
def test_without_voxel_size_there_is_no_resolution(measure, voxel_size, measured, rng):
    image, _ = expose_twice(band_limited((2, 0.8), (32, 96, 96), VOXEL_SIZE, rng), 5, rng)
    resolution = measure(image, voxel_size)
    assert {direction for direction, value in resolution._asdict().items() if value} == measured


@pytest.mark.parametrize("shape", [(15, 15), (4, 8, 8), (1, 15, 200), (2, 1, 1)])
@pytest.mark.parametrize("measure", SINGLE)
def test_what_is_too_small_is_not_measured(measure, shape, rng):
    assert measure(rng.normal(size=shape), VOXEL_SIZE) == NOTHING


def test_images_of_different_shape_are_refused(rng):
    with pytest.raises(ValueError, match=r"\(16, 20, 20\) and \(16, 20, 21\).*one shape"):
        fourier_resolution(np.zeros((16, 20, 20)), np.zeros((16, 20, 21)), VOXEL_SIZE)


def test_channels_are_refused():
    with pytest.raises(ValueError, match="single channel"):
        decorrelation_resolution(np.zeros((16, 20, 20, 1)), VOXEL_SIZE)


def test_highest_peak_gives_the_resolution(rng):
    image, _ = expose_twice(band_limited((2, 0.8), SHAPE, VOXEL_SIZE, rng), 10, rng)
    curves = decorrelation_curves(image, VOXEL_SIZE)["lateral"]
    assert curves.resolution == 1 / np.nanmax(curves.peaks[:, 0])
    assert curves.widths[0] == np.inf
    assert (np.diff(curves.widths) < 0).all()


def test_decorrelation_of_white_noise_rises_with_the_radius(rng):
    """The strengths of white noise are Rayleigh's: their mean is sqrt(π)/2 of their root mean square."""
    curve = decorrelation_curves(rng.normal(size=(16, 256, 256)), (None, 1, 1))["lateral"]
    expected = math.sqrt(np.pi) / 2 * curve.frequencies / curve.frequencies[-1]
    np.testing.assert_allclose(curve.correlations[0], expected, atol=0.01)


@pytest.fixture
def curves(rng):
    exposures = expose_twice(band_limited((2, 0.8), (24, 64, 64), VOXEL_SIZE, rng), 5, rng)
    noise = rng.normal(size=(24, 64, 64))
    same = fourier_curves(noise, noise, VOXEL_SIZE)
    return {
        "two": fourier_curves(*exposures, VOXEL_SIZE),
        "same": same,
        "noise": single_image_curves(noise, VOXEL_SIZE),
    }


def test_figure_states_the_resolutions(curves):
    lateral, axial = plot_fourier_curves(curves).axes
    labels = [text.get_text() for text in lateral.get_legend().get_texts()]
    assert labels == [
        f"two: {curves['two']['lateral'].resolution:.3g} µm",
        "same: at most 0.2 µm",
        "noise: none found",
    ]
    assert axial.get_legend().get_title().get_text() == "axial"


def test_figure_leaves_out_what_was_not_measured(curves, rng):
    curves = {name: {**of_image, "axial": None} for name, of_image in curves.items()}
    (panel,) = plot_fourier_curves(curves).axes
    assert panel.get_legend().get_title().get_text() == "lateral"
    with pytest.raises(ValueError, match="no resolution was measured of raw"):
        plot_fourier_curves({"raw": {"lateral": None, "axial": None}})


def test_figure_of_decorrelation_marks_the_highest_peak(rng):
    image, _ = expose_twice(band_limited((2, 0.8), (24, 64, 64), VOXEL_SIZE, rng), 5, rng)
    curves = {
        "raw": decorrelation_curves(image, VOXEL_SIZE),
        "noise": decorrelation_curves(image[:, ::-4, ::4], (1, 1, 1)),
    }
    panels = plot_decorrelation_curves(curves).axes
    assert len(panels) == 4
    assert panels[0].get_title() == f"raw, lateral: {curves['raw']['lateral'].resolution:.3g} µm"
    assert panels[0].lines[-1].get_xdata()[0] == pytest.approx(1 / curves["raw"]["lateral"].resolution)
