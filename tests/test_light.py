import numpy as np
import pytest

from rcan.config import ImagePair
from rcan.data.light import Light, brighten, thin
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import open_pairs
from rcan.data.patches import PatchSampler
from rcan.fingerprint.domain import compare_fingerprint, summarise_fingerprints, widen_range
from rcan.intensity import match_affine

GAIN, OFFSET, READ_NOISE = 2.0, 100.0, 1.5


def expose(photons, rng, *, light=1.0):
    """Grey values of an exposure, as a camera of these constants gives them."""
    return OFFSET + GAIN * (rng.poisson(light * photons) + rng.normal(0, READ_NOISE, photons.shape))


NOISE = np.array([[GAIN, OFFSET, (GAIN * READ_NOISE) ** 2]])


@pytest.mark.parametrize("factor", [0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("photons", [0, 5, 400])
def test_thinned_values_have_mean_and_variance_of_an_exposure_with_less_light(photons, factor, rng):
    """Poisson of factor * photons and the read noise once: not weakened, and not twice."""
    level = np.full((200_000, 1), float(photons))
    thinned = thin(expose(level, rng), factor, NOISE, rng)
    expected = expose(level, rng, light=factor)
    assert thinned.mean() == pytest.approx(OFFSET + GAIN * factor * photons, abs=0.15)
    assert thinned.var() == pytest.approx(expected.var(), rel=0.12 if photons < 100 else 0.03)


def test_thinned_photons_are_distributed_as_photons(rng):
    """Without read noise thinning is exact: 400 photons with a hundredth of the light are a Poisson of 4."""
    counts = rng.poisson(400, (200_000, 1)).astype(float)
    thinned = thin(counts, 0.01, np.array([[1.0, 0.0, 0.0]]), rng)
    whole = np.rint(thinned[:, 0]).astype(int)
    found = np.bincount(whole, minlength=12)[:12] / len(whole)
    expected = np.exp(-4) * np.cumprod([1, *(4 / np.arange(1, 12))])
    np.testing.assert_allclose(found, expected, atol=0.004)


def test_all_the_light_changes_nothing(rng):
    block = expose(np.full((8, 8, 1), 50.0), rng).astype(np.float32)
    np.testing.assert_allclose(thin(block, 1, NOISE, rng), block, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 4, 25])
def test_brightened_values_have_mean_and_photon_noise_of_more_light(factor, rng):
    level = np.full((200_000, 1), 100.0)
    brighter = brighten(expose(level, rng), OFFSET + GAIN * level, factor, NOISE)
    assert brighter.mean() == pytest.approx(OFFSET + GAIN * factor * 100, rel=0.002)
    assert brighter.var() == pytest.approx(GAIN**2 * factor * (100 + READ_NOISE**2), rel=0.02)


def specimen(rng):
    """Photons of soft spots on a dark ground, (Z, Y, X) = (8, 64, 64), up to about 200."""
    z, y, x = np.ogrid[:8, :64, :64]
    centres = rng.uniform(0, 1, (20, 3)) * (8, 64, 64)
    spots = sum(np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / 40) for c in centres)
    return 200 * spots / spots.max()


@pytest.fixture
def make_pair(tmp_path_factory, write_tiff):
    """Write a raw volume and a ground truth, and open them as a pair."""

    def make(raw, gt, **options):
        folder = tmp_path_factory.mktemp("pair")
        paths = [
            write_tiff(folder / f"{name}.tif", np.asarray(image, np.float32), "ZYX")
            for name, image in (("raw", raw), ("gt", gt))
        ]
        (pair,) = open_pairs(None, [ImagePair(raw=paths[0], gt=paths[1])], **{"normalization": "anscombe", **options})
        return pair

    return make


@pytest.mark.parametrize(("normalization", "tolerance"), [("percentiles", 0.12), ("anscombe", 0.2)])
def test_a_tenth_of_the_light_is_normalised_as_an_exposure_with_a_tenth_of_the_light(
    make_pair, rng, normalization, tolerance
):
    """The network's input of thinned blocks, and that of a file exposed so: the same spread and the same ends.

    The noise that an image is stabilised by is measured on both, with the error that so few voxels leave.
    """
    photons = specimen(rng)
    pair = make_pair(expose(photons, rng), photons, normalization=normalization)
    dim = make_pair(expose(photons, rng, light=0.1), photons, normalization=normalization)
    light = Light(pair, (0.1, 0.1), MeasurementCache())
    thinned, expected = light.expose(*pair.read(0), rng)[..., 0], dim.raw.read_input(0)[..., 0]
    for q in (2, 50, 99.9):
        assert np.percentile(thinned, q) == pytest.approx(np.percentile(expected, q), abs=tolerance)
    assert thinned.std() == pytest.approx(expected.std(), rel=0.1)


def test_the_noise_told_at_a_factor_is_that_which_is_measured_of_it(make_pair, rng):
    """A tenth of the light: the same gain and floor in grey values as of the whole, up to what a measurement errs."""
    photons = specimen(rng)
    light = Light(make_pair(expose(photons, rng), photons), (0.1, 1), MeasurementCache())
    (gain, _, floor), (least_gain, _, least_floor) = light._noises[-1][0], light._noises[0][0]
    assert least_gain == pytest.approx(gain, rel=0.4)
    assert least_floor == pytest.approx(floor, rel=0.4)
    assert least_gain != gain


def test_the_factors_go_from_the_least_to_the_most_light(make_pair, rng):
    photons = specimen(rng)
    light = Light(make_pair(expose(photons, rng), photons), (0.01, 1), MeasurementCache())
    assert light.factors[0] == pytest.approx(0.01)
    assert light.factors[-1] == pytest.approx(1)
    assert np.all(np.diff(np.log(light.factors)) < np.log(1.5))
    assert not light.is_limited


def test_a_raw_volume_that_is_its_ground_truth_with_noise_is_made_brighter(make_pair, rng):
    """Four times the light halves the relative noise: 6 dB nearer to the truth."""
    photons = specimen(rng)
    pair = make_pair(expose(photons, rng), 50 + 3 * photons)
    light = Light(pair, (4, 4), MeasurementCache())
    raw, gt = pair.read(0)
    assert light.factors == [pytest.approx(4)]
    light._view.normalization = "percentiles"  # so that the result is linear
    brighter = light.expose(raw, gt, rng)
    errors = [np.mean((match_affine(image, gt) - gt) ** 2) for image in (raw, brighter)]
    assert 10 * np.log10(errors[0] / errors[1]) == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("fault", ["shifted", "blurred"])
def test_a_raw_volume_that_shows_something_else_is_not_made_brighter(make_pair, rng, fault):
    from scipy import ndimage

    photons = specimen(rng)
    shown = np.roll(photons, 2, axis=2) if fault == "shifted" else ndimage.gaussian_filter(photons, 2.5)
    light = Light(make_pair(expose(shown, rng), photons), (0.5, 4), MeasurementCache())
    assert light.factors[-1] == pytest.approx(1)
    assert light.is_limited


def test_what_was_measured_of_the_light_is_kept(make_pair, rng, monkeypatch):
    photons = specimen(rng)
    pair, cache = make_pair(expose(photons, rng), photons), MeasurementCache()
    first = Light(pair, (0.1, 1), cache)
    monkeypatch.setattr(Light, "_measure", None)
    again = Light(pair, (0.1, 1), cache)
    blocks = [light.expose(*pair.read(0), np.random.default_rng(1)) for light in (first, again)]
    np.testing.assert_array_equal(*blocks)


def test_a_patch_of_an_index_has_the_same_light_every_time(make_pair, rng):
    photons = specimen(rng)
    pair = make_pair(expose(photons, rng), photons)
    options = {"seed": 3, "augmented": True, "intensity_threshold": 0, "photon_range": (0.01, 1)}
    one, other = (PatchSampler([pair], (8, 16, 16), **options) for _ in range(2))
    for index in (7, 0, 7):
        for first, second in zip(one.sample(index), other.sample(index), strict=True):
            np.testing.assert_array_equal(first, second)
    spreads = [one.sample(index)[0][..., 0].std() for index in range(20)]
    assert max(spreads) > 1.5 * min(spreads)


@pytest.mark.parametrize("axes", ["ZYX", "YX"])
def test_the_trained_range_reaches_from_the_least_to_the_most_light(make_pair, rng, axes):
    """The SNR at a twentieth of the light, as measured of an exposure with so much, is within the widened range."""
    photons = specimen(rng)
    options = {"ndim": len(axes)}
    pair = make_pair(expose(photons, rng), photons, **options)
    dim = make_pair(expose(photons, rng, light=0.05), photons, **options)
    plain = summarise_fingerprints([pair.raw.fingerprint()])
    assert compare_fingerprint(dim.raw.fingerprint(), plain).domain_status != "inside"
    widened = widen_range(plain, Light(pair, (0.03, 1), MeasurementCache()).fingerprints)
    assert compare_fingerprint(dim.raw.fingerprint(), widened).domain_status == "inside"
    assert widened.num_volumes == 1
