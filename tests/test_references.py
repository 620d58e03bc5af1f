import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import richardson_lucy

from rcan.assess import references
from rcan.assess.references import _estimate_noise, _nl_means, _richardson_lucy, best_references
from rcan.regions import central_region, region_shape
from rcan.scores import score_image
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import simulate_pair
from rcan.simulation.phantoms import make_phantom

VOXEL_SIZE = (0.3, 0.1, 0.1)
UNKNOWN = (None, None, None)
METHODS = ["Gaussian", "median", "Richardson-Lucy", "non-local means"]


@pytest.fixture
def make_pair(rng):
    """Raw and ground truth, background 0 and signal 1, of simulated specimens: `raw, gt = make_pair(shape)`."""

    def normalise(image):
        low, high = np.percentile(image, (2, 99.9), axis=tuple(range(image.ndim - 1)))
        return ((image - low) / (high - low)).astype(np.float32)

    def make(shape, *, photons=20, blur_factor=1):
        size, num_channels = (shape if len(shape) == 4 else (4, *shape))[:3], shape[-1]
        pairs = [
            simulate_pair(
                make_phantom("spheres", size, voxel_size=VOXEL_SIZE, rng=rng),
                voxel_size=VOXEL_SIZE,
                fwhm=gaussian_widths(),
                photons=photons,
                blur_factor=blur_factor,
                rng=rng,
            )
            for _ in range(num_channels)
        ]
        raw, gt = (np.concatenate(images, axis=-1) for images in zip(*pairs, strict=True))
        return tuple(normalise(image if len(shape) == 4 else image[2]) for image in (raw, gt))

    return make


def psnr_after_fit(image, gt):
    x, y = image.ravel().astype(float), gt.ravel().astype(float)
    return peak_signal_noise_ratio(y, np.polyval(np.polyfit(x, y, 1), x), data_range=1)


# All methods


@pytest.mark.parametrize("voxel_size", [VOXEL_SIZE, UNKNOWN])
@pytest.mark.parametrize("shape", [(8, 32, 33, 1), (4, 32, 32, 2), (1, 32, 32, 1), (48, 49, 1), (48, 48, 2)])
def test_every_method_brings_a_noisy_image_closer_to_the_truth(make_pair, shape, voxel_size):
    raw, gt = make_pair(shape)
    found = best_references(raw, gt, voxel_size=voxel_size)
    assert list(found) == METHODS
    for reference in found.values():
        assert reference.image.shape == shape
        assert reference.image.dtype == np.float32
        assert reference.scores == score_image(reference.image, gt)
        assert reference.scores["psnr"] > score_image(raw, gt)["psnr"] + 0.5


def test_the_best_gaussian_is_the_best_of_those_tried(make_pair):
    raw, gt = make_pair((8, 40, 40, 1))
    tried = {
        (axial, lateral): ndimage.gaussian_filter(raw[..., 0], (axial, lateral, lateral))[..., np.newaxis]
        for lateral in (0.5, 0.75, 1, 1.5, 2, 3)
        for axial in (0, lateral / 3, lateral)
    }
    axial, lateral = max(tried, key=lambda sigma: psnr_after_fit(tried[sigma], gt))
    found = best_references(raw, gt, voxel_size=VOXEL_SIZE)["Gaussian"]
    assert found.setting == f"sigma {axial:.2g} x {lateral:.2g} voxels (Z x YX)"
    np.testing.assert_allclose(found.image, tried[axial, lateral], atol=1e-5)


def test_the_best_median_is_the_best_of_those_tried(make_pair):
    raw, gt = make_pair((48, 50, 1))
    tried = {size: ndimage.median_filter(raw[..., 0], size)[..., np.newaxis] for size in (3, 5, 7)}
    best = max(tried, key=lambda size: psnr_after_fit(tried[size], gt))
    found = best_references(raw, gt, voxel_size=UNKNOWN)["median"]
    assert found.setting == f"{best} x {best} voxels (Y x X)"
    np.testing.assert_array_equal(found.image, tried[best])


def test_deconvolution_with_the_stated_blur_restores_what_no_filter_can(make_pair):
    raw, gt = make_pair((16, 40, 40, 1), photons=1000, blur_factor=3)
    fwhm = tuple(np.sqrt(3**2 - 1) * np.array(gaussian_widths()))  # from the ground truth to raw
    found = best_references(raw, gt, voxel_size=VOXEL_SIZE, fwhm=fwhm)
    assert found["Richardson-Lucy"].setting.endswith("iterations, blur 1.46 x 0.537 x 0.537 µm")
    assert found["Richardson-Lucy"].scores["psnr"] > found["Gaussian"].scores["psnr"] + 3


def test_settings_of_a_large_image_are_chosen_in_its_middle(make_pair, monkeypatch):
    raw, gt = make_pair((8, 48, 48, 1))
    monkeypatch.setattr(references, "_MOST_SEARCHED", 8 * 24 * 24)
    found = best_references(raw, gt, voxel_size=VOXEL_SIZE)
    middle = best_references(*(x[:, 12:36, 12:36] for x in (raw, gt)), voxel_size=VOXEL_SIZE)
    assert {name: one.setting for name, one in found.items()} == {name: one.setting for name, one in middle.items()}
    assert all(one.image.shape == gt.shape for one in found.values())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((32, 256, 256, 1), (32, 181, 181)), ((24, 96, 96, 2), (24, 96, 96)), ((4000, 4000, 1), (1024, 1024))],
)
def test_middle_holds_a_million_voxels(shape, expected):
    middle = central_region(shape[:-1], references._MOST_SEARCHED)
    assert region_shape(middle) == expected
    for along, size in zip(middle, shape, strict=False):
        assert abs(along.start - (size - along.stop)) <= 1


def test_a_smaller_raw_image_is_enlarged(make_pair):
    raw, gt = make_pair((4, 32, 32, 1))
    found = best_references(raw[:, ::2, ::2], gt, voxel_size=VOXEL_SIZE)
    assert all(one.image.shape == gt.shape for one in found.values())


def test_raw_of_other_channels_is_an_error(make_pair):
    raw, gt = make_pair((4, 32, 32, 2))
    with pytest.raises(ValueError, match=r"raw is \(4, 32, 32, 2\) but gt is \(4, 32, 32, 1\)"):
        best_references(raw, gt[..., :1], voxel_size=VOXEL_SIZE)


def test_a_blur_in_micrometres_needs_voxels_of_known_size(make_pair):
    raw, gt = make_pair((4, 32, 32, 1))
    with pytest.raises(ValueError, match="needs voxels of known size"):
        best_references(raw, gt, voxel_size=(None, 0.1, 0.1), fwhm=(0.5, 0.2, 0.2))


@pytest.mark.parametrize("constant", [0, 1], ids=["raw", "gt"])
def test_constant_images_have_references_without_correlation(make_pair, constant):
    images = list(make_pair((4, 32, 32, 1)))
    images[constant] = np.full_like(images[constant], 0.25)
    for reference in best_references(*images, voxel_size=VOXEL_SIZE).values():
        assert np.isfinite(reference.scores["psnr"])
        assert np.isnan(reference.scores["pearson"])


# Richardson-Lucy


def gaussian_kernel(sigma):
    point = np.zeros([2 * int(4 * along + 0.5) + 1 for along in sigma])
    point[tuple(size // 2 for size in point.shape)] = 1
    return ndimage.gaussian_filter(point, sigma)


def test_deconvolution_far_from_the_border_is_that_of_scikit_image(rng):
    image = 0.1 + ndimage.gaussian_filter(rng.uniform(size=(24, 48, 48)), (1, 2, 2))
    expected = richardson_lucy(image, gaussian_kernel((1, 1.5, 1.5)), num_iter=3, clip=False)
    found = _richardson_lucy(image[..., np.newaxis].astype(np.float32), (1, 1.5, 1.5), 3)
    centre = (slice(10, 14), slice(20, 28), slice(20, 28))
    np.testing.assert_allclose(found[(*centre, 0)], expected[centre], rtol=1e-3)


def test_deconvolution_keeps_the_photons_up_to_the_border(rng):
    image = rng.uniform(size=(6, 20, 20, 1)).astype(np.float32)
    found = _richardson_lucy(image, (1, 1.5, 1.5), 10)
    assert found.sum() == pytest.approx(image.sum(), rel=1e-4)


def test_channels_are_deconvolved_by_themselves(rng):
    image = rng.normal(0.5, 0.4, (6, 20, 20, 2)).astype(np.float32)
    both = _richardson_lucy(image, (1, 1.5, 1.5), 5)
    for channel in (slice(0, 1), slice(1, 2)):
        alone = _richardson_lucy(image[..., channel], (1, 1.5, 1.5), 5)
        np.testing.assert_allclose(both[..., channel], alone, rtol=1e-4)


def test_deconvolved_background_stays_near_0_although_noise_is_below(rng):
    image = rng.normal(0, 0.05, (6, 40, 40, 1)).astype(np.float32)
    image[:, 20, 20] += 1
    found = _richardson_lucy(image, (1, 1.5, 1.5), 10)
    assert found.min() >= 0
    assert found[:, :10].mean() < 0.03


# Non-local means


@pytest.mark.parametrize("shape", [(4, 64, 64), (128, 128)])
def test_noise_is_found_beneath_structure(rng, shape):
    structure = ndimage.gaussian_filter(rng.normal(size=shape), 4)
    structure /= np.ptp(structure)
    assert _estimate_noise(structure + rng.normal(0, 0.1, shape)) == pytest.approx(0.1, rel=0.05)


def test_non_local_means_keep_edges_that_a_gaussian_blurs(rng):
    gt = np.zeros((4, 40, 40, 1), np.float32)
    gt[:, 10:30, 10:30] = 1
    raw = (rng.poisson(100 * gt + 20) / 100 - 0.2).astype(np.float32)
    found = best_references(raw, gt, voxel_size=VOXEL_SIZE)
    assert found["non-local means"].scores["psnr"] > found["Gaussian"].scores["psnr"] + 3


def test_channels_are_averaged_by_themselves(rng):
    image = rng.normal(0.5, 0.1, (3, 20, 20, 2)).astype(np.float32)
    both = _nl_means(image, 0.8)
    for channel in (slice(0, 1), slice(1, 2)):
        np.testing.assert_allclose(both[..., channel], _nl_means(image[..., channel], 0.8), atol=1e-6)
