import numpy as np
import pytest
from noisy_images import SSIM, fit, make_images
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rcan.assess import intervals
from rcan.assess.intervals import bootstrap_blocks, bootstrap_interval, score_blocks
from rcan.scores import score_image, scores_from_sums

# Blocks


@pytest.mark.parametrize(("shape", "side"), [((12, 44, 48, 1), (12, 11, 12)), ((44, 48, 2), (11, 12))])
def test_blocks_are_scored_with_the_match_of_the_whole_volume(rng, shape, side):
    image, gt = make_images(rng, shape)
    matched, true = fit(image, gt), gt.astype(float)
    _, similarity = structural_similarity(true, matched, channel_axis=-1, full=True, **SSIM)
    inside = np.zeros(shape, bool)
    inside[(slice(5, -5),) * len(side)] = True  # where the whole window lies in the volume
    rows = score_blocks(image, gt).rows
    assert len(rows) == 16
    corners = np.stack(np.meshgrid(*(range(0, n, s) for n, s in zip(shape, side, strict=False)), indexing="ij"), -1)
    for row, corner in zip(rows, corners.reshape(16, -1), strict=True):
        part = tuple(slice(start, start + size) for start, size in zip(corner, side, strict=True))
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(true[part], matched[part], data_range=1), abs=1e-3)
        assert row["ssim"] == pytest.approx(similarity[part][inside[part]].mean(), abs=1e-4)


@pytest.mark.parametrize("num_blocks", [2, 5, 16])
@pytest.mark.parametrize("shape", [(3, 20, 21, 2), (33, 34, 1)])
def test_the_sums_of_the_blocks_are_those_of_the_volume(rng, shape, num_blocks):
    image, gt = make_images(rng, shape)
    blocks = score_blocks(image, gt, num_blocks=num_blocks)
    assert num_blocks / 2 < len(blocks.rows) <= num_blocks
    assert scores_from_sums(blocks.sums) == pytest.approx(score_image(image, gt), abs=1e-5)


@pytest.mark.parametrize(("shape", "num_blocks"), [((4, 8, 8, 1), 1), ((1, 1, 1, 1), 16)])
def test_one_block_is_too_few(shape, num_blocks):
    with pytest.raises(ValueError, match="two blocks or more"):
        score_blocks(np.zeros(shape), np.zeros(shape), num_blocks=num_blocks)


def test_interval_is_that_of_the_volume_where_blocks_are_empty(rng):
    gt = np.zeros((64, 64, 1), np.float32)
    gt[:, :32] = rng.uniform(size=(64, 32, 1))
    image = gt + np.where(gt > 0, rng.normal(0, 0.1, gt.shape), 0).astype(np.float32)
    blocks = score_blocks(image, gt)
    low, high = bootstrap_blocks([blocks], seed=0)["psnr_unmatched"]
    assert low < score_image(image, gt)["psnr_unmatched"] < high
    assert high < np.mean([row["psnr_unmatched"] for row in blocks.rows])


def test_intervals_of_blocks_hold_the_true_score(rng, monkeypatch):
    monkeypatch.setattr(intervals, "_NUM_RESAMPLES", 1000)
    gt = rng.uniform(size=(64, 64, 1)).astype(np.float32)
    held = 0
    for seed in range(60):
        image = gt + rng.normal(0, 0.1, gt.shape).astype(np.float32)  # 20 dB
        low, high = bootstrap_blocks([score_blocks(image, gt)], seed=seed)["psnr_unmatched"]
        held += low <= 20 <= high
    assert held >= 52  # of 57 expected; fewer have a probability of 1 %


def test_intervals_of_several_volumes_are_of_their_mean(rng):
    volumes = [make_images(rng, (8, 40, 40, 1)) for _ in range(3)]
    low, high = bootstrap_blocks([score_blocks(*pair) for pair in volumes], seed=0)["ssim"]
    assert low < np.mean([score_image(*pair)["ssim"] for pair in volumes]) < high
    assert high - low < 0.1


def test_differences_are_of_the_same_blocks(rng):
    _, gt = make_images(rng, (8, 40, 40, 1))
    error = rng.normal(0, 0.1, gt.shape).astype(np.float32)
    worse, better = (score_blocks(gt + scale * error, gt) for scale in (1, 0.5))
    gain = bootstrap_blocks([better], seed=0, minus=[worse])
    assert gain["psnr_unmatched"] == pytest.approx([20 * np.log10(2)] * 2, abs=1e-3)
    assert gain["ssim_unmatched"][0] > 0


# Intervals


def test_interval_of_many_normal_values_is_students(rng):
    values = rng.normal(25, 3, 40)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(bootstrap_interval(values, seed=0), expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize(("size", "level"), [(6, 0.95), (12, 0.95), (12, 0.8)])
def test_intervals_hold_the_true_mean_as_often_as_stated(rng, monkeypatch, size, level):
    monkeypatch.setattr(intervals, "_NUM_RESAMPLES", 2000)
    found = [bootstrap_interval(rng.normal(size=size), seed=i, level=level) for i in range(400)]
    assert np.mean([low <= 0 <= high for low, high in found]) == pytest.approx(level, abs=0.04)


def test_interval_is_the_same_with_the_same_seed(rng):
    values = rng.normal(size=10)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize("values", [[], [25.0], [25.0, np.nan, 26.0]])
def test_without_values_there_is_no_interval(values):
    assert np.isnan(bootstrap_interval(values, seed=0)).all()


def test_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([25.0] * 6, seed=0) == pytest.approx((25, 25))


def test_paired_differences_tell_what_two_intervals_cannot(rng):
    difficulty = rng.normal(0, 3, 8)  # of each volume, for both methods
    reference = 25 + difficulty + rng.normal(0, 0.1, 8)
    restored = 26 + difficulty + rng.normal(0, 0.1, 8)
    assert bootstrap_interval(restored, seed=0)[0] < bootstrap_interval(reference, seed=0)[1]
    assert bootstrap_interval(restored - reference, seed=0) == pytest.approx((1, 1), abs=0.3)
