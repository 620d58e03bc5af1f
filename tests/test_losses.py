import keras
import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rcan.config import LOSS_NAMES
from rcan.losses import LOSSES, psnr, ssim, weighted_loss
from rcan.scores import compare, enlarge, mean_scores, score, ssim_map


def make_batch(rng, shape):
    """Ground truth with structure, background 0 and signal 1, and a noisy restoration of it."""
    sigma = [0, *(1.5 for _ in shape[1:-1]), 0]
    gt = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    gt = (gt - gt.min()) / np.ptp(gt)
    restored = 0.9 * gt + 0.05 + rng.normal(0, 0.05, shape)
    return gt.astype(np.float32), restored.astype(np.float32)


def ssim_of_skimage(gt, restored):
    return structural_similarity(
        gt.astype(float),
        restored.astype(float),
        channel_axis=-1,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


def ssim_of_scipy(gt, restored):
    """Wang et al., eq. 13, with SciPy's convolution and a window cut to what fits on each axis."""
    values = []
    for channel in range(gt.shape[-1]):
        x, y = gt[..., channel].astype(float), restored[..., channel].astype(float)
        radii = [min(5, (size - 1) // 2) for size in x.shape]
        inside = tuple(slice(r, size - r) for r, size in zip(radii, x.shape, strict=True))

        def mean(image, radii=radii, inside=inside):
            return ndimage.gaussian_filter(image, 1.5, radius=radii)[inside]

        covariance = mean(x * y) - mean(x) * mean(y)
        variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
        numerator = (2 * mean(x) * mean(y) + 1e-4) * (2 * covariance + 9e-4)
        values.append(numerator / ((mean(x) ** 2 + mean(y) ** 2 + 1e-4) * (variances + 9e-4)))
    return np.mean(values)


SHAPES = [(3, 12, 20, 22, 1), (2, 11, 16, 16, 2), (3, 24, 25, 1), (2, 20, 20, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_of_each_image_of_a_batch_equals_scikit_image(rng, shape):
    gt, restored = make_batch(rng, shape)
    expected = [peak_signal_noise_ratio(*images, data_range=1) for images in zip(gt, restored, strict=True)]
    np.testing.assert_allclose(psnr(gt, restored), expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_of_each_image_of_a_batch_equals_scikit_image(rng, shape):
    gt, restored = make_batch(rng, shape)
    expected = [ssim_of_skimage(*images) for images in zip(gt, restored, strict=True)]
    np.testing.assert_allclose(ssim(gt, restored), expected, atol=1e-4)


@pytest.mark.parametrize("thickness", [1, 2, 3, 5, 10, 16])
def test_ssim_of_a_patch_of_any_thickness_equals_scipy(rng, thickness):
    gt, restored = make_batch(rng, (2, thickness, 20, 21, 1))
    expected = [ssim_of_scipy(*images) for images in zip(gt, restored, strict=True)]
    np.testing.assert_allclose(ssim(gt, restored), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 20, 22, 1), (11, 16, 16, 2), (24, 25, 1)])
def test_ssim_map_is_that_of_scikit_image_where_the_window_is_whole(rng, shape):
    gt, restored = (images[0] for images in make_batch(rng, (1, *shape)))
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for channel in range(shape[-1]):
        images = (image[..., channel].astype(float) for image in (gt, restored))
        _, expected = structural_similarity(*images, full=True, **options)
        inside = (slice(5, -5),) * expected.ndim
        np.testing.assert_allclose(ssim_map(gt, restored)[..., channel], expected[inside], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 20, 21, 1), (2, 12, 20, 1), (7, 20, 21, 2), (3, 4, 1)])
def test_ssim_is_the_mean_of_its_map(rng, shape):
    gt, restored = (images[0] for images in make_batch(rng, (1, *shape)))
    expected = float(ssim(gt[np.newaxis], restored[np.newaxis])[0])
    assert ssim_map(gt, restored).mean() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 1), (1, 5, 16, 16, 1), (1, 16, 16, 1)])
def test_equal_images_have_an_ssim_of_one_and_120_db(rng, shape):
    gt, _ = make_batch(rng, shape)
    np.testing.assert_allclose(ssim(gt, gt), 1, atol=1e-6)
    np.testing.assert_allclose(psnr(gt, gt), 120)


@pytest.mark.parametrize("shape", [(5, 2, 16, 16, 1), (5, 12, 16, 1)])
def test_as_keras_metrics_they_run_in_fit_and_average_over_all_images(rng, shape):
    gt, restored = make_batch(rng, shape)
    inputs = keras.Input((None,) * (len(shape) - 2) + (1,))
    identity = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Model(inputs, identity(inputs))
    model.compile(keras.optimizers.SGD(0.0), loss="mae", metrics=[psnr, ssim], jit_compile=False)
    history = model.fit(restored, gt, batch_size=2, verbose=0, shuffle=False).history
    pairs = list(zip(gt, restored, strict=True))
    expected = np.mean([peak_signal_noise_ratio(*images, data_range=1) for images in pairs])
    np.testing.assert_allclose(history["psnr"], expected, atol=1e-4)
    np.testing.assert_allclose(history["ssim"], np.mean([ssim_of_scipy(*images) for images in pairs]), atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 20, 22, 1), (12, 20, 22, 2), (20, 22, 1)])
def test_score_is_that_of_scikit_image_after_a_linear_fit(rng, shape):
    gt, restored = (images[0] for images in make_batch(rng, (1, *shape)))
    matched = np.empty(shape)
    for channel in range(shape[-1]):
        x, y = restored[..., channel].astype(float), gt[..., channel].astype(float)
        matched[..., channel] = np.polyval(np.polyfit(x.ravel(), y.ravel(), 1), x)
    found = score(restored, gt)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(gt.astype(float), matched, data_range=1), abs=1e-4)
    assert found["ssim"] == pytest.approx(ssim_of_skimage(gt, matched), abs=1e-4)


def test_score_does_not_depend_on_gain_and_offset(rng):
    gt, restored = (images[0] for images in make_batch(rng, (1, 6, 20, 22, 1)))
    assert score(50 * restored + 1000, gt) == pytest.approx(score(restored, gt), abs=1e-3)


def test_smaller_raw_image_is_scored_by_repeated_voxels(rng):
    gt, restored = (images[0] for images in make_batch(rng, (1, 4, 20, 24, 1)))
    raw = gt[::2, ::2, ::2] + 0.01
    scores = compare(raw, restored, gt)
    assert scores["psnr_raw"] == score(np.kron(raw, np.ones((2, 2, 2, 1))), gt)["psnr"]
    assert scores["psnr_restored"] == score(restored, gt)["psnr"]


def test_raw_image_of_other_channels_is_not_scored(rng):
    gt, restored = (images[0] for images in make_batch(rng, (1, 4, 20, 24, 1)))
    scores = compare(np.concatenate([restored] * 2, axis=-1), restored, gt)
    assert np.isnan([scores["psnr_raw"], scores["ssim_raw"]]).all()
    assert np.isfinite([scores["psnr_restored"], scores["ssim_restored"]]).all()


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (1, 1, 1), (3, 1, 2)])
def test_enlarging_repeats_voxels_like_a_kronecker_product(rng, factors):
    image = rng.normal(size=(2, 3, 4, 2))
    shape = (*np.multiply(image.shape[:3], factors), 2)
    np.testing.assert_array_equal(enlarge(image, shape), np.kron(image, np.ones((*factors, 1))))


def test_mean_scores_are_means():
    assert mean_scores([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 6.0}]) == {"a": 2, "b": 4}


# Losses, against closed forms


@pytest.fixture
def batch(rng):
    """Ground truth and restored, (N, Z, Y, X, C)."""
    return rng.uniform(size=(2, 11, 12, 13, 1)), rng.uniform(size=(2, 11, 12, 13, 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae", lambda gt, restored: np.abs(gt - restored).mean()),
        ("mse", lambda gt, restored: ((gt - restored) ** 2).mean()),
        ("charbonnier", lambda gt, restored: np.sqrt((gt - restored) ** 2 + 1e-6).mean()),
        ("ssim", lambda gt, restored: 1 - structural_similarity(
            gt[..., 0], restored[..., 0], data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)),
    ],
    ids=["mae", "mse", "charbonnier", "ssim"],
)  # fmt: skip
def test_loss_of_each_image_is_its_closed_form(batch, name, expected):
    found = np.asarray(weighted_loss({name: 1})(*(image.astype(np.float32) for image in batch)))
    np.testing.assert_allclose(found, [expected(*pair) for pair in zip(*batch, strict=True)], atol=1e-4)


def test_weighted_loss_is_the_sum(batch):
    gt, restored = (image.astype(np.float32) for image in batch)
    parts = [np.asarray(weighted_loss({name: 1})(gt, restored)) for name in ("mae", "ssim")]
    found = np.asarray(weighted_loss({"mae": 2, "ssim": 0.25})(gt, restored))
    np.testing.assert_allclose(found, 2 * parts[0] + 0.25 * parts[1], rtol=1e-5)


def test_every_loss_of_a_config_file_can_be_computed():
    assert LOSSES.keys() == LOSS_NAMES.keys()
