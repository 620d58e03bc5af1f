import keras
import numpy as np
import pytest
from keras import layers
from noisy_images import SSIM, fit, make_images
from scipy import stats
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from rcan.assess.volumes import score_pair
from rcan.data.pairs import Pair
from rcan.data.views import NetworkView
from rcan.io.opening import open_volume
from rcan.scores import format_scores, score_image


@pytest.fixture
def make_pair(tmp_path, write_tiff):
    def make(raw, gt, axes, block_axes="ZYXC"):
        return Pair(*(see(kind, image, axes, block_axes) for kind, image in (("raw", raw), ("gt", gt))))

    def see(kind, image, axes, block_axes):
        path = write_tiff(tmp_path / f"{kind}.tif", image.astype(np.float32), axes)
        volume = open_volume(path, block_axes=block_axes)
        return NetworkView(volume, fixed_range=np.array([[0, 1]] * volume.shape[-1]))

    return make


def squaring(ndim=3):
    """A model that is not affine: x² of each voxel."""
    inputs = keras.Input((None,) * ndim + (1,))
    return keras.Model(inputs, layers.Multiply()([inputs, inputs]))


def psnr_after_fit(image, gt):
    gain, shift = np.polyfit(image.ravel().astype(float), gt.ravel().astype(float), 1)
    return peak_signal_noise_ratio(gt, gain * image + shift, data_range=1)


@pytest.mark.parametrize(
    ("axes", "shape", "tile"),
    [
        ("ZYX", (12, 20, 21), (6, 12, 12)),
        ("TZYX", (2, 12, 20, 21), (6, 12, 12)),
        ("YX", (40, 41), (16, 16)),
    ],
)
def test_scores_are_the_mean_over_the_frames_after_a_linear_fit(make_pair, rng, axes, shape, tile):
    gt = rng.uniform(size=shape)
    raw = np.sqrt(gt) + rng.normal(0, 0.05, shape)
    pair = make_pair(raw, gt, axes, "YXC" if axes == "YX" else "ZYXC")
    scores, _ = score_pair(squaring(len(tile)), pair, tile_shape=tile)
    frames = list(zip(raw, gt, strict=True)) if "T" in axes else [(raw, gt)]
    expected = [(psnr_after_fit(raw, gt), psnr_after_fit(raw**2, gt)) for raw, gt in frames]
    np.testing.assert_allclose([scores["psnr_raw"], scores["psnr_restored"]], np.mean(expected, axis=0), atol=1e-3)
    assert scores["ssim_raw"] < scores["ssim_restored"] <= 1


def test_images_are_matched_to_the_ground_truth(make_pair, rng):
    gt = rng.uniform(size=(4, 20, 21))
    _, images = score_pair(squaring(), make_pair(3 * gt - 1, gt, "ZYX"), tile_shape=(4, 20, 21))
    assert list(images) == ["raw", "restored", "ground truth"]
    np.testing.assert_allclose(images["raw"], images["ground truth"], atol=1e-5)
    gain, shift = np.polyfit((3 * gt.ravel() - 1) ** 2, gt.ravel(), 1)
    np.testing.assert_allclose(images["restored"][..., 0], gain * (3 * gt - 1) ** 2 + shift, atol=1e-5)


def test_raw_of_other_channels_is_left_out_of_the_picture(make_pair, rng):
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, layers.Conv3D(1, 1)(inputs))
    pair = make_pair(rng.uniform(size=(4, 2, 20, 21)), rng.uniform(size=(4, 1, 20, 21)), "ZCYX")
    scores, images = score_pair(model, pair, tile_shape=(4, 20, 21))
    assert list(images) == ["restored", "ground truth"]
    assert np.isnan(scores["psnr_raw"])
    assert np.isfinite(scores["psnr_restored"])


def test_table_ends_in_the_mean_where_there_are_several():
    row = {"psnr_raw": 20.0, "psnr_restored": 25.0, "ssim_raw": 0.5, "ssim_restored": 0.75}
    better = {"psnr_raw": 22.0, "psnr_restored": 29.0, "ssim_raw": 0.7, "ssim_restored": 0.85}
    *_, last = format_scores({"a.tif": row, "b.tif": better}).splitlines()
    assert last.split() == ["mean", "21.00", "27.00", "+6.00", "0.600", "0.800"]
    assert "mean" not in format_scores({"a.tif": row})


# One image


SHAPES = [(12, 20, 22, 1), (12, 20, 22, 2), (20, 22, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ending", "match"), [("", fit), ("_unmatched", lambda image, gt: image)])
def test_scores_of_an_image_are_those_of_scikit_image(rng, shape, ending, match):
    image, gt = make_images(rng, shape)
    found, matched = score_image(image, gt), match(image, gt).astype(float)
    true = gt.astype(float)
    expected = {
        "psnr": peak_signal_noise_ratio(true, matched, data_range=1),
        "ssim": structural_similarity(true, matched, channel_axis=-1, **SSIM),
        "nrmse": normalized_root_mse(true, matched, normalization="euclidean"),
    }
    assert {name: found[name + ending] for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_pearson_is_the_mean_of_scipys_over_the_channels(rng, shape):
    image, gt = make_images(rng, shape)
    image[..., 0] *= -1
    pairs = [(image[..., channel].ravel(), gt[..., channel].ravel()) for channel in range(shape[-1])]
    expected = np.mean([stats.pearsonr(*pair).statistic for pair in pairs])
    assert score_image(image, gt)["pearson"] == pytest.approx(expected, abs=1e-5)


def test_a_constant_image_has_no_correlation_and_the_psnr_of_the_mean(rng):
    _, gt = make_images(rng, (6, 20, 22, 1))
    found = score_image(np.full_like(gt, 0.3), gt)
    assert np.isnan(found["pearson"])
    assert found["psnr"] == pytest.approx(-10 * np.log10(gt.var()), abs=1e-3)
    assert found["psnr_unmatched"] == pytest.approx(-10 * np.log10(np.mean((gt - 0.3) ** 2)), abs=1e-3)


def test_against_zeros_there_is_neither_correlation_nor_nrmse(rng):
    image, gt = make_images(rng, (6, 20, 22, 1))
    found = score_image(image, np.zeros_like(gt))
    assert np.isnan([found["pearson"], found["nrmse"], found["nrmse_unmatched"]]).all()


@pytest.mark.parametrize("shape", [(5, 20, 22, 1), (6, 20, 22, 2)])
def test_images_of_other_shapes_cannot_be_scored(rng, shape):
    image, _ = make_images(rng, shape)
    with pytest.raises(ValueError, match="the shapes must be equal"):
        score_image(image, np.zeros((6, 20, 22, 1)))
