import itertools

import numpy as np
import pytest
import tifffile

from rcan.config import Config
from rcan.data import views
from rcan.data.measurements import MeasurementCache
from rcan.data.survey import survey_pair
from rcan.io.opening import open_volume
from rcan.io.volume import Volume
from rcan.training.fit import train
from rcan.training.loop import Loop

PERCENTILES = (2, 99.9)


@pytest.fixture
def gt(rng):
    """(Z, Y, X), a few bright blobs."""
    return rng.gamma(0.5, 100, (6, 20, 24)).astype(np.float32)


def volume(path, array, axes="ZYX", **options):
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes})
    return open_volume(path, **options)


def survey(raw, gt, percentiles=PERCENTILES):
    return survey_pair(raw, gt, percentiles, MeasurementCache())


def test_a_good_pair_passes(tmp_path, rng, gt):
    raw = rng.poisson(gt).astype(np.float32)
    ranges = survey(volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", gt))
    assert [found.shape for found in ranges] == [(1, 2)] * 2


def test_a_finer_ground_truth_passes(tmp_path, rng, gt):
    raw = rng.poisson(gt).astype(np.float32)
    fine = gt.repeat(2, axis=1).repeat(3, axis=2)
    ranges = survey(volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", fine))
    assert [found.shape for found in ranges] == [(1, 2)] * 2


def test_a_plane_is_checked_as_a_volume_is(tmp_path, rng, gt):
    raw = volume(tmp_path / "raw.tif", rng.poisson(gt[0]).astype(np.uint16), "YX", block_axes="YX")
    ranges = survey(raw, volume(tmp_path / "gt.tif", gt[0], "YX", block_axes="YX"))
    assert [found.shape for found in ranges] == [(1, 2)] * 2


def test_values_that_are_not_finite_are_counted(tmp_path, gt):
    raw = volume(tmp_path / "raw.tif", gt)
    broken = gt.copy()
    broken[2, 3, :4] = np.nan
    broken[5, 0, :2] = np.inf
    with pytest.raises(ValueError, match=r"gt\.tif holds 2 values that are infinite"):
        survey(raw, volume(tmp_path / "gt.tif", broken))


@pytest.mark.parametrize("slab", [64, 2**23])
def test_missing_voxels_are_left_out_and_told(tmp_path, rng, gt, monkeypatch, slab):
    monkeypatch.setattr("rcan.data.survey.SLAB_VOXELS", slab)
    raw = rng.poisson(gt).astype(np.float32)
    raw[:, :5, :6], gt[2] = np.nan, np.nan
    volumes = volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", gt)
    with pytest.warns(UserWarning, match="missing") as told:
        found = survey(*volumes)
    assert [str(each.message).split(": ", 1)[1][:5] for each in told] == ["6.2 %", "17 % "]
    for image, ranges in zip((raw, gt), found, strict=True):
        np.testing.assert_allclose(ranges, [np.nanpercentile(image, PERCENTILES)], rtol=1e-5)


def test_a_constant_image_is_an_error(tmp_path, gt):
    with pytest.raises(ValueError, match=r"raw\.tif is 7 everywhere"):
        survey(volume(tmp_path / "raw.tif", np.full_like(gt, 7)), volume(tmp_path / "gt.tif", gt))


@pytest.mark.parametrize("slab", [64, 2**23])
def test_images_that_do_not_correlate_are_a_warning(tmp_path, gt, monkeypatch, slab):
    monkeypatch.setattr("rcan.data.survey.SLAB_VOXELS", slab)
    raw = volume(tmp_path / "raw.tif", gt[:, ::-1])
    expected = np.corrcoef(gt[:, ::-1].ravel(), gt.ravel())[0, 1]
    with pytest.warns(UserWarning, match=f"correlation of {expected:.2f}, near or below zero"):
        survey(raw, volume(tmp_path / "gt.tif", gt))


def test_a_large_offset_does_not_hide_a_correlation(tmp_path, rng, gt):
    raw = (2.0**20 + rng.poisson(gt)).astype(np.float32)
    ranges = survey(volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", gt))
    assert [found.shape for found in ranges] == [(1, 2)] * 2


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("slab", [64, 2**21])
def test_ranges_are_the_percentiles_of_both_volumes(tmp_path, rng, monkeypatch, dtype, slab):
    monkeypatch.setattr("rcan.data.survey.SLAB_VOXELS", slab)
    small = rng.integers(0, 200, (4, 2, 12, 13)).astype(dtype)  # ZCYX
    images = small, small.repeat(2, axis=0).repeat(3, axis=3) // 2
    volumes = [volume(tmp_path / f"{i}.tif", image, "ZCYX") for i, image in enumerate(images)]
    for image, found in zip(images, survey(*volumes), strict=True):
        np.testing.assert_allclose(found, np.percentile(image, PERCENTILES, axis=(0, 2, 3)).T, rtol=1e-6)


@pytest.mark.parametrize("slab", [64, 700, 2**21])
def test_range_of_very_many_floats_is_that_of_every_nth_in_storage_order(tmp_path, rng, monkeypatch, slab):
    monkeypatch.setattr("rcan.data.survey.SLAB_VOXELS", slab)
    monkeypatch.setattr("rcan.ranges._SAMPLE_SIZE", 1000)
    raw = rng.normal(size=(2, 4, 10, 11)).astype(np.float32)  # TZYX
    gt = raw.repeat(2, axis=1).repeat(2, axis=2) + rng.normal(size=(2, 8, 20, 11)).astype(np.float32)
    found = survey(volume(tmp_path / "raw.tif", raw, "TZYX"), volume(tmp_path / "gt.tif", gt, "TZYX"))[1]
    every = gt.ravel()[:: -(-gt.size // 1000)]
    np.testing.assert_allclose(found, [np.percentile(every, PERCENTILES)], rtol=1e-6)


def kinds(gt):
    """Images of every kind that cannot be trained on, by name."""
    broken = gt.copy()
    broken[0, 0, 0] = np.inf
    return {"fine": gt, "broken": broken, "constant": np.full_like(gt, 7)}


MESSAGES = {"broken": "values that are infinite", "constant": "is 7 everywhere"}


@pytest.mark.filterwarnings("ignore:.*correlation")
@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(["fine", *MESSAGES], 2)])
def test_of_several_errors_infinity_comes_before_constant_and_raw_before_gt(tmp_path, gt, first, second):
    images = kinds(gt)
    volumes = [volume(tmp_path / f"{name}.tif", images[kind]) for name, kind in (("raw", first), ("gt", second))]
    found = [(name, kind) for name, kind in (("raw", first), ("gt", second)) if kind != "fine"]
    name, kind = min(found, key=lambda item: [*MESSAGES].index(item[1]))  # of equal ones, the first
    with pytest.raises(ValueError, match=rf"{name}\.tif.*{MESSAGES[kind]}"):
        survey(*volumes)


# How much is read


@pytest.fixture
def voxels_read(monkeypatch):
    """Voxels that were read of each file, by its path, without the blocks of the fingerprint."""
    read, counts, is_counted = Volume.read, {}, [True]

    def count(self, frame=None, region=None, **options):
        block = read(self, frame, region, **options)
        if is_counted[0]:
            counts[str(self.path)] = counts.get(str(self.path), 0) + block[..., 0].size
        return block

    def measure_fingerprint(*args, **options):
        is_counted[0] = False
        fingerprint = measure(*args, **options)
        is_counted[0] = True
        return fingerprint

    measure = views.measure_fingerprint
    monkeypatch.setattr(Volume, "read", count)
    monkeypatch.setattr(views, "measure_fingerprint", measure_fingerprint)
    return counts


def train_nothing(monkeypatch):
    """Let a training end before its first step."""
    monkeypatch.setattr(Loop, "run", lambda self: None)
    monkeypatch.setattr("rcan.training.fit._check_bfloat16", lambda *_: None)


@pytest.mark.parametrize("num_pairs", [2, 6])
def test_before_the_first_step_raw_is_read_once_and_gt_two_or_three_times(
    tmp_path, tiny_config, monkeypatch, voxels_read, num_pairs
):
    train_nothing(monkeypatch)
    monkeypatch.setattr("rcan.training.run_data._warn_of_problems", lambda *_: None)  # reads some blocks
    values = tiny_config(
        tmp_path, num_pairs=num_pairs, intensity_threshold=0.1, area_ratio_threshold=0.1, validation_split=0.2
    )
    train(Config.checked(values))
    size, plane = 8 * 24 * 28, 24 * 28
    for number in range(num_pairs):
        raw, gt = (voxels_read[str(tmp_path / kind / f"{number}.tif")] for kind in ("raw", "gt"))
        assert size <= raw <= size + 3 * plane  # the digest takes three planes
        times = 3 if num_pairs < 5 else 2  # of few, once more to find a part to validate on
        assert 2 * size <= gt <= times * size + 6 * plane  # planes to tell specimens apart, and as it is split


def test_a_second_training_reads_nothing_before_the_first_step(tmp_path, tiny_config, monkeypatch, voxels_read):
    train_nothing(monkeypatch)
    values = tiny_config(tmp_path, intensity_threshold=0.1, area_ratio_threshold=0.1)
    train(Config.checked(values))
    voxels_read.clear()
    train(Config.checked(values), overwrite=True)
    assert not voxels_read


def test_a_plane_of_more_rows_than_are_counted_at_a_time_is_read_in_bands(
    tmp_path, tiny_config, monkeypatch, voxels_read
):
    train_nothing(monkeypatch)
    monkeypatch.setattr("rcan.training.run_data._warn_of_problems", lambda *_: None)  # reads some blocks
    monkeypatch.setattr("rcan.data.foreground._MOST_VOXELS", 20 * 28)  # 5 rows more than a patch is high
    values = tiny_config(tmp_path, intensity_threshold=0.1, area_ratio_threshold=0.1, validation_split=0)
    train(Config.checked(values))
    size, plane = 8 * 24 * 28, 24 * 28
    assert voxels_read[str(tmp_path / "gt" / "0.tif")] <= size + 8 * (20 + 19) * 28 + 3 * plane
