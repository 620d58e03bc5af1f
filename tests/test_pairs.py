import numpy as np
import pytest
import tifffile

from rcan.config import ImagePair
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import hold_out, open_pairs


def numbered(shape):
    """An image that tells each of its voxels by its value."""
    return np.arange(np.prod(shape)).reshape(shape)


# Opening pairs


def test_opened_pairs_know_the_percentiles_of_each_channel(tmp_path, write_tiff, rng):
    images = {kind: rng.integers(0, 1000, (4, 2, 20, 21)).astype(np.uint16) for kind in ("raw", "gt")}
    images["gt"] += images["raw"]
    paths = {kind: write_tiff(tmp_path / f"{kind}.tif", image, "ZCYX") for kind, image in images.items()}
    (pair,) = open_pairs(None, [ImagePair(**paths)], percentiles=(10, 90))
    for kind, found in (("raw", pair.raw.ranges), ("gt", pair.gt.ranges)):
        np.testing.assert_allclose(found, np.percentile(images[kind], (10, 90), axis=(0, 2, 3)).T)


def test_planes_of_a_stack_are_frames_of_a_2d_network(tmp_path, write_tiff, noisy_pair):
    paths = [write_tiff(tmp_path / f"{i}.tif", image, "ZYX") for i, image in enumerate(noisy_pair((5, 16, 17), 0))]
    (pair,) = open_pairs(None, [ImagePair(raw=paths[0], gt=paths[1])], ndim=2)
    assert (pair.raw.shape, pair.num_frames) == ((16, 17, 1), 5)


@pytest.mark.parametrize(
    ("shape", "gt_shape", "axes", "message"),
    [
        ((4, 2, 16, 16), (4, 2, 16, 16), "ZCYX", r"2 channels but .* has 1.*one network for each"),
        ((4, 16, 16), (8, 32, 32), "ZYX", r"\(2, 2, 2\) times .* \(1, 1, 1\) times.*one network for each"),
        ((16, 16), (16, 16), "YX", r"without Z.*patch_shape of two numbers"),
    ],
)
def test_pair_that_does_not_fit_the_first_is_refused(tmp_path, write_tiff, rng, shape, gt_shape, axes, message):
    first = rng.integers(0, 1000, (4, 16, 16)).astype(np.uint16)
    raw = rng.integers(0, 1000, shape).astype(np.uint16)
    gt = np.kron(raw, np.ones(np.array(gt_shape) // shape, np.uint16))
    names = {"raw": first, "gt": first + 1}, {"raw": raw, "gt": gt}
    pairs = [
        ImagePair(**{
            kind: write_tiff(tmp_path / f"{i}{kind}.tif", image, axes if i else "ZYX")
            for kind, image in images.items()
        })
        for i, images in enumerate(names)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=message):
        open_pairs(None, pairs)


def test_ranges_are_measured_once_for_each_state_of_a_file(tmp_path, tiny_config, monkeypatch):
    def open_again():
        (pair,) = open_pairs(None, [ImagePair(**paths)], cache=MeasurementCache(tmp_path / "measured"))
        return pair.gt.ranges

    tiny_config(tmp_path, num_pairs=1)
    paths = {kind: tmp_path / kind / "0.tif" for kind in ("raw", "gt")}
    first = open_again()
    with monkeypatch.context() as patched:
        patched.setattr("rcan.data.survey.check_pair", None)  # would fail if it were called
        np.testing.assert_array_equal(open_again(), first)
    image = tifffile.imread(paths["gt"])
    tifffile.imwrite(paths["gt"], image // 2, photometric="minisblack", metadata={"axes": "ZYX"}, imagej=True)
    np.testing.assert_allclose(open_again(), first / 2, atol=0.5)


# Validation data from training data


@pytest.mark.parametrize(("num_pairs", "share", "num_held"), [(5, 0.1, 1), (10, 0.3, 3), (8, 0.5, 4), (40, 0.1, 4)])
def test_of_five_pairs_or_more_whole_pairs_are_held_out(make_pair, num_pairs, share, num_held):
    image = numbered((1, 4, 4))
    pairs = [make_pair(image, image, gt_range=(i, i + 1)) for i in range(num_pairs)]
    training, validation = hold_out(pairs, share, seed=0)
    assert len(validation) == num_held
    assert sorted(int(pair.gt.ranges[0, 0]) for pair in training + validation) == list(range(num_pairs))


def test_exposures_of_one_specimen_are_held_out_together(make_pair, rng):
    truths = rng.uniform(size=(6, 2, 4, 8))
    pairs = [make_pair(rng.uniform(size=truths[0].shape), truths[i % 6]) for i in range(18)]
    training, validation = hold_out(pairs, 0.2, seed=0)
    assert len(validation) == 3
    seen = [{pair.gt.volume.read().tobytes() for pair in part} for part in (training, validation)]
    assert not seen[0] & seen[1]


def test_specimens_that_begin_with_background_are_not_taken_for_one(make_pair):
    truths = np.zeros((8, 4, 8, 8))
    for number in range(8):
        truths[number, 1:3, 2:5, number % 6 :] = 1
    pairs = [make_pair(truth, truth) for truth in truths[:6]]
    assert len(hold_out(pairs, 0.2, seed=0)[1]) == 1


def test_exposures_of_few_specimens_are_split_at_one_place(make_pair, rng):
    truth = rng.uniform(size=(2, 4, 8))
    pairs = [make_pair(rng.uniform(size=truth.shape), truth) for _ in range(6)]
    training, validation = hold_out(pairs, 0.25, seed=0)
    assert {pair.gt.shape[2] for pair in training} == {6}
    assert {pair.gt.shape[2] for pair in validation} == {2}


def test_seed_chooses_the_pairs_that_are_held_out(make_pair):
    image = numbered((1, 4, 4))
    pairs = [make_pair(image, image, gt_range=(i, i + 1)) for i in range(20)]

    def held(seed):
        return [int(pair.gt.ranges[0, 0]) for pair in hold_out(pairs, 0.2, seed=seed)[1]]

    assert held(0) == held(0) != held(1)


@pytest.mark.parametrize(
    ("axes", "shape", "gt_shape", "kept"),
    [
        ("ZYX", (3, 10, 20), (3, 10, 20), (3, 10, 16)),
        ("ZYX", (3, 20, 10), (6, 40, 20), (3, 16, 10)),
        ("YX", (10, 10), (10, 10), (10, 8)),
    ],
)
def test_of_fewer_pairs_the_end_along_the_longer_side_is_held_out(make_pair, axes, shape, gt_shape, kept):
    pair = make_pair(numbered(shape), numbered(gt_shape), axes=axes, block_axes=axes + "C")
    (training,), (validation,) = hold_out([pair], 0.2, seed=0)
    assert training.raw.shape[:-1] == kept
    assert training.upscaling == validation.upscaling == pair.upscaling
    for whole, one, other in (
        (pair.raw.volume, training.raw.volume, validation.raw.volume),
        (pair.gt.volume, training.gt.volume, validation.gt.volume),
    ):
        parts = np.concatenate([one.read().ravel(), other.read().ravel()])
        np.testing.assert_array_equal(np.sort(parts), np.sort(whole.read().ravel()))  # disjoint, and all of it


@pytest.mark.parametrize("end", ["top", "bottom", "left", "right"])
def test_the_end_whose_signal_is_most_like_the_rest_is_held_out(make_pair, end):
    """Signal in half of the planes everywhere, but for three ends: one shows nothing, two nothing else."""
    truth = np.zeros((4, 20, 20))
    truth[:2] = 1
    parts = {"top": np.s_[:, :4], "bottom": np.s_[:, -4:], "left": np.s_[:, :, :4], "right": np.s_[:, :, -4:]}
    spoiled = [name for name in parts if name != end]
    for name, value in zip(spoiled, (0, 1, 1), strict=True):
        truth[parts[name]] = value
    truth[parts[end]] = 0
    truth[parts[end]][:2] = 1
    pair = make_pair(truth, truth, gt_range=(0, 1))
    (_,), (validation,) = hold_out([pair], 0.2, seed=0)
    np.testing.assert_array_equal(validation.gt.volume.read()[..., 0], truth[parts[end]])


def test_a_part_that_shows_nothing_is_not_validated_on(make_pair):
    """Signal in the middle alone: whatever end is set aside is empty."""
    truth = np.zeros((4, 20, 20))
    truth[:, 8:12, 8:12] = 1
    pair = make_pair(truth, truth, gt_range=(0, 1))
    with pytest.raises(ValueError, match=r"in 0 % of what can be set aside.*Name validation data"):
        hold_out([pair], 0.2, seed=0)


def test_it_is_said_which_part_is_held_out(make_pair, capsys):
    pair = make_pair(np.ones((2, 10, 20)), np.ones((2, 10, 20)), gt_range=(0, 1))
    hold_out([pair], 0.2, seed=0)
    assert "Validating on X 16 to 20 of" in capsys.readouterr().out


def test_share_of_zero_holds_nothing_out(make_pair):
    pairs = [make_pair(numbered((1, 4, 4)), numbered((1, 4, 4)))]
    assert hold_out(pairs, 0, seed=0) == (pairs, [])


def test_volume_too_small_to_be_split_is_refused_with_a_way_out(make_pair):
    pair = make_pair(numbered((2, 4, 4)), numbered((2, 4, 4))).crop((slice(0, 2), slice(0, 1), slice(0, 1)))
    with pytest.raises(ValueError, match=r"too small.*validation_split to 0"):
        hold_out([pair], 0.2, seed=0)
