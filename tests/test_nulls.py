import numpy as np
import pytest
from scipy import ndimage

from rcan.assess.nulls import classical_filter, make_nulls, measure_contrast, measure_nulls, shuffle_phases

SCALING = {"percentiles": (2, 99.9)}


@pytest.fixture
def blobs(rng):
    """Sharp spots on a dark background, (Z, Y, X, C)."""
    spots = np.zeros((24, 64, 64, 1))
    spots[(*(rng.integers(0, size, 60) for size in spots.shape[:-1]), 0)] = 1
    blurred = ndimage.gaussian_filter(spots, (1.5, 1.5, 1.5, 0))
    return (blurred / np.percentile(blurred, 99.9)).astype(np.float32)


def test_noise_and_flat_field_have_the_noise_of_the_raw_image_at_their_level(rng):
    """Background 0.1 with variance 0.001, growing by 0.02 for intensity 1; the second channel has twice the noise."""
    ramp = 0.1 + 0.9 * np.linspace(0, 1, 96)[:, None, None] ** 2 * np.ones((24, 96, 96, 1))
    variance = np.array([1, 4]) * (0.001 + 0.02 * (ramp - 0.1))
    raw = ramp + np.sqrt(variance) * rng.standard_normal(variance.shape)
    nulls = make_nulls(raw.astype(np.float32), rng=rng)
    space = (0, 1, 2)
    np.testing.assert_allclose(nulls["noise"].mean(space), 0.1, atol=0.02)
    np.testing.assert_allclose(nulls["noise"].var(space), [0.001, 0.004], rtol=0.2)
    np.testing.assert_allclose(nulls["flat"].mean(space), 0.5, atol=0.003)
    np.testing.assert_allclose(nulls["flat"].var(space), [0.009, 0.036], rtol=0.1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shuffling_phases_keeps_the_power_at_every_frequency_and_the_mean(blobs, rng, ndim):
    image = blobs if ndim == 3 else blobs.max(axis=0)
    shuffled = [shuffle_phases(image, rng=rng) for _ in range(60)]
    space = tuple(range(ndim))

    def power(one):
        mirrored = np.pad(one, [(0, size) for size in one.shape[:-1]] + [(0, 0)], mode="symmetric")
        centred = mirrored - mirrored.mean()
        spectrum = abs(np.fft.rfftn(centred, axes=space)) ** 2
        radius = np.sqrt(
            sum(
                f**2
                for f in np.meshgrid(
                    *(np.fft.fftfreq(n) for n in mirrored.shape[:-2]),
                    np.fft.rfftfreq(mirrored.shape[-2]),
                    indexing="ij",
                )
            )
        )
        rings = np.digitize(radius, np.linspace(0.05, 0.25, 6)).ravel()
        return np.bincount(rings, spectrum.ravel())[1:6]

    found = np.mean([power(one) for one in shuffled], axis=0)
    np.testing.assert_allclose(found / power(image), 1, atol=0.15)
    for one in shuffled:
        assert one.shape == image.shape
        assert abs(np.corrcoef(one.ravel(), image.ravel())[0, 1]) < 0.3
    np.testing.assert_allclose(np.mean(shuffled), image.mean(), atol=0.2 * image.std())


def test_shuffled_channels_stay_in_register(blobs, rng):
    both = np.concatenate([blobs, 3 * blobs], axis=-1)
    shuffled = shuffle_phases(both, rng=rng)
    np.testing.assert_allclose(shuffled[..., 1], 3 * shuffled[..., 0], atol=1e-4)


def test_slow_variation_and_borders_are_no_contrast(blobs):
    slow = np.linspace(0, 0.2, 64)[:, None] * np.ones(blobs.shape)
    border = np.pad(np.zeros((20, 60, 60, 1)), [(2, 2)] * 3 + [(0, 0)], constant_values=1)
    for image in (slow, border):
        assert measure_contrast(image) < 0.1 * measure_contrast(blobs)


def test_a_linear_filter_leaves_of_noise_what_theory_says(rng, blobs):
    """A Gaussian of width s averages white noise to (4 pi s^2)^(-3/4) of its standard deviation."""
    nulls = {"noise": rng.normal(0, 0.3, (40, 64, 64, 1)).astype(np.float32)}
    gt = np.tile(blobs, (2, 1, 1, 1))[:40]
    width = 1.5

    def smooth(image):
        return ndimage.gaussian_filter(image, (width, width, width, 0))

    facts, _ = measure_nulls({"linear": classical_filter(smooth, SCALING)}, gt, gt, nulls)
    gain = np.polyfit(smooth(gt).ravel(), gt.ravel(), 1)[0]
    expected = gain * 0.3 * (4 * np.pi * width**2) ** -0.75 / measure_contrast(gt)
    assert facts["noise"]["linear"].contrast == pytest.approx(expected, rel=0.1)


def test_the_unit_is_that_of_the_ground_truth(blobs, rng):
    """The same raw image in another unit, with the same filter, makes the same contrast."""
    nulls = {"noise": rng.normal(0, 0.1, blobs.shape)}
    one, _ = measure_nulls({"same": classical_filter(lambda x: x, SCALING)}, blobs, blobs, nulls)
    other, _ = measure_nulls({"same": classical_filter(lambda x: 7 * x + 3, SCALING)}, blobs, blobs, nulls)
    assert one["none"]["same"].contrast == pytest.approx(1, abs=1e-4)
    assert other["noise"]["same"] == pytest.approx(one["noise"]["same"], rel=1e-3)


def test_a_network_that_invents_spots_is_told_from_one_that_does_not(blobs, rng):
    def honest(image):
        return np.where(image > 0.5, image, 0)

    def inventing(image):
        return honest(image) + blobs[:, ::-1] * (image.max() < 0.9)  # spots where there is nothing bright

    nulls = {"noise": rng.normal(0, 0.1, blobs.shape).astype(np.float32)}
    filters = {f.__name__: classical_filter(f, SCALING) for f in (honest, inventing)}
    facts, pictures = measure_nulls(filters, blobs, blobs, nulls)
    assert facts["noise"]["honest"].contrast < 0.01
    assert facts["noise"]["inventing"].contrast == pytest.approx(1, rel=0.2)
    assert facts["noise"]["inventing"].brightest > 0.5 > facts["noise"]["honest"].brightest
    assert pictures["noise"]["inventing"].shape == blobs.shape[1:3]


def test_an_empty_image_restored_alone_is_stretched_by_its_own_percentiles(blobs, rng):
    """From percentile 2 to 99.9 a normal distribution measures 2.054 + 3.090 standard deviations."""
    nulls = {"noise": rng.normal(5, 0.01, blobs.shape).astype(np.float32)}
    facts, _ = measure_nulls({"same": classical_filter(lambda x: x, SCALING)}, blobs, blobs, nulls)
    found = facts["noise"]["same"]
    assert found.stretched_contrast == pytest.approx(1 / 5.144 / measure_contrast(blobs), rel=0.02)
    assert found.contrast < found.stretched_contrast / 10


def test_smaller_results_are_enlarged(blobs, rng):
    gt = blobs.repeat(2, axis=1).repeat(2, axis=2)
    nulls = {"noise": rng.normal(0, 0.1, blobs.shape)}
    functions = {"raw": lambda x: x, "network": lambda x: x.repeat(2, axis=1).repeat(2, axis=2)}
    filters = {name: classical_filter(function, SCALING) for name, function in functions.items()}
    facts, _ = measure_nulls(filters, blobs, gt, nulls)
    assert facts["noise"]["raw"] == pytest.approx(facts["noise"]["network"])
