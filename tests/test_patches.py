import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from rcan.data.measurements import MeasurementCache
from rcan.data.patches import PatchSampler, make_dataset

UNIT = np.array([[0, 1]])
PLAIN = {"seed": 0, "augmented": False}
LEAST_PROBABLE = 1e-4  # of a chi-square this large by chance


def numbered(shape, first=0):
    """An image that tells each of its voxels by its value."""
    return np.arange(first, first + np.prod(shape)).reshape(shape)


def patchy(rng, shape):
    """Ground truth with signal in some places only, and values on either side of a threshold of 0.25."""
    coarse = rng.uniform(size=[-(-size // 4) for size in shape]) < 0.4
    signal = np.kron(coarse, np.ones([4] * len(shape)))[tuple(slice(size) for size in shape)]
    return np.where(signal, rng.choice([0.25, 0.26, 1], shape), rng.choice([0, 0.25, 0.3], shape, p=[0.6, 0.3, 0.1]))


def shares_of_signal(raw, gt, patch_shape, threshold):
    """Share of voxels above a threshold, by the first voxel of raw, at every position: each is tried.

    raw and gt: (frame, *spatial, channel).
    """
    factors = [large // small for small, large in zip(raw.shape[1:-1], gt.shape[1:-1], strict=True)]
    positions = [range(size - patch + 1) for size, patch in zip(raw.shape[1:-1], patch_shape, strict=True)]
    shares = {}
    for frame, *corner in itertools.product(range(len(raw)), *positions):
        window = tuple(
            slice(start * factor, (start + size) * factor)
            for start, size, factor in zip(corner, patch_shape, factors, strict=True)
        )
        shares[raw[(frame, *corner, 0)]] = np.mean(gt[frame][window] > threshold)
    return shares


def drawn_corners(sampler, num_draws):
    return np.array([sampler.sample(index)[0].ravel()[0] for index in range(num_draws)])


def symmetries(patch, *, square=True):
    """All turns and flips of a patch of shape (Z, Y, X, C) or (Y, X, C), by transposing and reversing axes."""
    y = patch.ndim - 3
    exchanged = list(range(patch.ndim))
    exchanged[y], exchanged[y + 1] = y + 1, y
    for image in [patch, patch.transpose(exchanged)][: 1 + square]:
        for steps in itertools.product((1, -1), repeat=y + 2):
            yield image[tuple(slice(None, None, step) for step in steps)]


# A pure function of seed and index


def test_patch_of_an_index_is_the_same_from_every_sampler_in_any_order(make_pair, rng):
    pairs = [make_pair(rng.uniform(size=(9, 20, 21)), rng.uniform(size=(9, 20, 21))) for _ in range(2)]
    one, other = (PatchSampler(pairs, (4, 8, 8), seed=3, augmented=True) for _ in range(2))
    forwards = [one.sample(index) for index in range(20)]
    backwards = [other.sample(index) for index in reversed(range(20))][::-1]
    for patches, same in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(patches, same)


def test_patch_of_an_index_is_the_same_in_many_threads(make_pair, rng):
    pair = make_pair(rng.uniform(size=(9, 20, 21)), rng.uniform(size=(9, 20, 21)))
    sampler = PatchSampler([pair], (4, 8, 8), seed=3, augmented=True)
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(sampler.sample, range(100)))
    for index, patches in enumerate(threaded):
        np.testing.assert_array_equal(patches, sampler.sample(index))


def test_another_seed_gives_other_patches(make_pair, rng):
    pair = make_pair(numbered((9, 20, 21)), rng.uniform(0.3, 1, size=(9, 20, 21)))
    one, other = (drawn_corners(PatchSampler([pair], (4, 8, 8), seed=seed, augmented=False), 50) for seed in (0, 1))
    assert np.mean(one == other) < 0.2


def test_raw_and_gt_of_a_patch_show_the_same_place(make_pair, rng):
    gt = rng.uniform(0.3, 1, (9, 20, 21))
    sampler = PatchSampler([make_pair(10 * gt, gt)], (4, 8, 8), seed=0, augmented=True)
    for index in range(20):
        raw, gt = sampler.sample(index)
        np.testing.assert_allclose(raw, 10 * gt, rtol=1e-6)


def test_patches_are_normalised_by_the_ranges_of_their_pair(make_pair, rng):
    pair = make_pair(numbered((4, 8, 8)), numbered((4, 8, 8)), raw_range=(10, 20), gt_range=(5, 55))
    raw, gt = PatchSampler([pair], (4, 8, 8), **PLAIN).sample(0)
    np.testing.assert_allclose(raw[..., 0], (numbered((4, 8, 8)) - 10) / 10, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gt[..., 0], (numbered((4, 8, 8)) - 5) / 50, rtol=1e-6, atol=1e-6)


# Augmentation


@pytest.mark.parametrize(
    ("shape", "num_kinds"), [((3, 6, 6), 16), ((6, 6), 8), ((3, 6, 5), 8), ((5, 6), 4), ((1, 6, 6), 8)]
)
def test_turns_and_flips_all_occur_equally_often(make_pair, rng, shape, num_kinds):
    raw = rng.uniform(size=shape)
    axes = "ZYX"[-len(shape) :]
    pair = make_pair(raw, 2 * raw, axes=axes, block_axes=axes + "C")
    sampler = PatchSampler([pair], shape, seed=0, augmented=True, intensity_threshold=0)
    square = shape[-1] == shape[-2]
    kinds = {kind.tobytes(): 0 for kind in symmetries(raw.astype(np.float32)[..., np.newaxis], square=square)}
    assert len(kinds) == num_kinds
    for index in range(2000):
        patch, gt = sampler.sample(index)
        np.testing.assert_array_equal(gt, 2 * patch)
        kinds[patch.tobytes()] += 1
    assert stats.chisquare(list(kinds.values())).pvalue > LEAST_PROBABLE


def test_patches_of_larger_gt_that_is_not_square_are_turned_alike(make_pair, rng):
    raw = rng.uniform(0.3, 1, (3, 6, 6))
    pair = make_pair(raw, np.kron(raw, np.ones((1, 2, 1))))
    sampler = PatchSampler([pair], (3, 6, 6), seed=0, augmented=True)
    for index in range(50):
        patch, gt = sampler.sample(index)
        np.testing.assert_array_equal(gt, np.kron(patch, np.ones((1, 2, 1, 1))))


def test_without_augmentation_patches_are_as_stored(make_pair, rng):
    raw = rng.uniform(size=(3, 6, 6)).astype(np.float32)
    sampler = PatchSampler([make_pair(raw, raw)], (3, 6, 6), **PLAIN)
    for index in range(10):
        np.testing.assert_array_equal(sampler.sample(index)[0][..., 0], raw)


# Where patches come from


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    ("axes", "shape", "gt_shape", "patch_shape"),
    [
        ("ZYX", (6, 13, 12), (6, 13, 12), (2, 8, 8)),
        ("YX", (17, 20), (17, 20), (8, 10)),
        ("ZYX", (5, 10, 11), (10, 20, 22), (2, 5, 6)),
        ("ZYX", (4, 10, 11), (4, 20, 33), (2, 5, 6)),
        ("TZYX", (3, 4, 12, 11), (3, 4, 12, 11), (2, 8, 8)),
        ("ZCYX", (4, 2, 12, 11), (4, 2, 12, 11), (2, 8, 8)),
        ("TCYX", (2, 2, 15, 14), (2, 2, 15, 14), (8, 10)),
    ],
    ids=["3D", "2D", "enlarged", "enlarged in Y and X", "time-lapse", "two channels", "2D, both"],
)
def test_drawn_positions_are_those_of_the_published_rule_and_equally_probable(
    make_pair, rng, axes, shape, gt_shape, patch_shape, quantile
):
    def framed(image):
        image = image.transpose([axes.index(axis) for axis in "TZYXC" if axis in axes])
        image = image if "C" in axes else image[..., np.newaxis]
        return image if "T" in axes else image[np.newaxis]

    raw, gt = numbered(shape), patchy(rng, gt_shape)
    shares = shares_of_signal(framed(raw), framed(gt), patch_shape, 0.25)
    ratio = np.quantile(list(shares.values()), quantile, method="lower")  # at least one has this very share
    expected = {corner for corner, share in shares.items() if share >= ratio}
    pair = make_pair(raw, gt, axes=axes, block_axes="ZYXC" if len(patch_shape) == 3 else "YXC")
    sampler = PatchSampler([pair], patch_shape, **PLAIN, intensity_threshold=0.25, area_ratio_threshold=ratio)
    assert sampler.num_positions == len(expected) < len(shares)
    corners, counts = np.unique(drawn_corners(sampler, 20 * len(expected)), return_counts=True)
    assert set(corners) == expected
    assert stats.chisquare(counts).pvalue > LEAST_PROBABLE


def test_volumes_are_drawn_in_proportion_to_their_valid_positions(make_pair, rng):
    shapes = [(4, 9, 9), (4, 12, 12), (5, 10, 13)]
    pairs, num_valid = [], []
    for number, shape in enumerate(shapes):
        raw, gt = numbered(shape, 10_000 * number), patchy(rng, shape)
        pairs.append(make_pair(raw, gt))
        shares = shares_of_signal(raw[np.newaxis, ..., np.newaxis], gt[np.newaxis, ..., np.newaxis], (2, 6, 6), 0.25)
        num_valid.append(sum(share >= 0.4 for share in shares.values()))
    sampler = PatchSampler(pairs, (2, 6, 6), **PLAIN, area_ratio_threshold=0.4)
    volumes = drawn_corners(sampler, 2000) // 10_000
    observed = [np.sum(volumes == number) for number in range(3)]
    assert min(num_valid) > 0
    assert stats.chisquare(observed, 2000 * np.array(num_valid) / sum(num_valid)).pvalue > LEAST_PROBABLE


@pytest.mark.parametrize(
    "turned_off", [{"intensity_threshold": 0}, {"intensity_threshold": -1}, {"area_ratio_threshold": 0}]
)
def test_rejection_is_turned_off(make_pair, turned_off):
    pair = make_pair(numbered((4, 10, 11)), np.zeros((4, 10, 11)))
    sampler = PatchSampler([pair], (2, 8, 8), **PLAIN, **turned_off)
    assert sampler.num_positions == 3 * 3 * 4
    assert len(set(drawn_corners(sampler, 1000))) == 3 * 3 * 4


def test_no_patch_with_enough_signal_is_an_error_with_the_largest_share_and_the_thresholds(make_pair):
    gt = np.zeros((4, 10, 11))
    gt[:2, :8, :2] = 1  # a quarter of the patch in the corner
    with pytest.raises(
        ValueError, match=r"2x8x8.*intensity_threshold 0\.3 is 0\.25, area_ratio_threshold asks for 0\.6"
    ):
        PatchSampler([make_pair(gt, gt)], (2, 8, 8), **PLAIN, intensity_threshold=0.3, area_ratio_threshold=0.6)


def test_lowering_the_ratio_to_what_the_error_says_gives_patches(make_pair, rng):
    pair = make_pair(numbered((4, 10, 11)), rng.uniform(size=(4, 10, 11)))
    with pytest.raises(ValueError, match="largest share") as failure:
        PatchSampler([pair], (2, 8, 8), **PLAIN, area_ratio_threshold=1.0)
    advised = float(re.search(r"Lower area_ratio_threshold below ([0-9.]+),", str(failure.value))[1]) - 0.001
    assert PatchSampler([pair], (2, 8, 8), **PLAIN, area_ratio_threshold=advised).num_positions > 0


# Batches


@pytest.fixture
def sampler(make_pair, rng):
    pair = make_pair(rng.uniform(size=(9, 20, 21)), rng.uniform(size=(9, 20, 21)))
    return PatchSampler([pair], (4, 8, 8), seed=0, augmented=True)


def batches(sampler, indices, batch_size):
    return [tuple(map(np.array, batch)) for batch in make_dataset(sampler, indices, batch_size=batch_size)]


def test_batches_hold_the_patches_in_the_order_of_their_indices(sampler):
    found = batches(sampler, range(40), 4)
    assert len(found) == 10
    for number, patches in enumerate(found):
        expected = [sampler.sample(index) for index in range(4 * number, 4 * number + 4)]
        np.testing.assert_array_equal(patches, list(zip(*expected, strict=True)))


def test_what_does_not_fill_a_batch_is_left_out(sampler):
    found = batches(sampler, range(11), 4)
    assert [raw.shape for raw, _ in found] == [(4, 4, 8, 8, 1)] * 2


def test_continued_sequence_is_the_rest_of_the_whole(sampler):
    whole, rest = batches(sampler, range(20), 2), batches(sampler, range(12, 20), 2)
    np.testing.assert_array_equal(whole[6:], rest)


def test_shapes_of_batches_are_known_before_they_are_drawn(sampler):
    spec = make_dataset(sampler, range(4), batch_size=2).element_spec
    assert spec == (tf.TensorSpec((2, 4, 8, 8, 1), tf.float32),) * 2


# Found once


def test_positions_are_measured_once_and_found_again(make_pair, rng, tmp_path, monkeypatch):
    pair = make_pair(rng.uniform(size=(6, 20, 21)), patchy(rng, (6, 20, 21)))

    def corners():
        sampler = PatchSampler(
            [pair], (2, 8, 8), **PLAIN, area_ratio_threshold=0.4, cache=MeasurementCache(tmp_path / "m")
        )
        return [sampler.sample(index)[0].tobytes() for index in range(50)]

    first = corners()
    monkeypatch.setattr("rcan.data.foreground._signal_sums", None)
    assert corners() == first


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 200)])
def test_positions_that_are_lost_or_damaged_are_measured_again(make_pair, rng, tmp_path, damage):
    pair = make_pair(rng.uniform(size=(6, 20, 21)), patchy(rng, (6, 20, 21)))

    def corners():
        cache = MeasurementCache(tmp_path / "measured")
        sampler = PatchSampler([pair], (2, 8, 8), **PLAIN, area_ratio_threshold=0.4, cache=cache)
        return [sampler.sample(index)[0].tobytes() for index in range(20)]

    first = corners()
    damage(next((tmp_path / "measured").glob("*.bits.npy")))
    assert corners() == first


@pytest.mark.parametrize("most", [1, 40, 500])
@pytest.mark.parametrize("limit", ["_MOST_VOXELS", "_MOST_BITS"])
def test_positions_do_not_depend_on_the_bands_that_are_counted(make_pair, rng, monkeypatch, most, limit):
    pair = make_pair(numbered((6, 20, 21)), patchy(rng, (12, 40, 21)))

    def positions():
        sampler = PatchSampler([pair], (2, 8, 8), **PLAIN, area_ratio_threshold=0.4)
        return sampler.num_positions, [sampler.sample(index)[0].tobytes() for index in range(50)]

    expected = positions()
    monkeypatch.setattr(f"rcan.data.foreground.{limit}", most)
    assert positions() == expected
