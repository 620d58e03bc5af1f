import json

import numpy as np
import pytest
from scipy import stats

from rcan.assess.uncertainty import (
    Ratios,
    find_factor,
    measure_coverage,
    measure_ratios,
    open_validation,
)
from rcan.config import Config
from rcan.regions import region_at
from rcan.run_folder.record import TrainingRecord
from rcan.training.fit import train
from rcan.training.run_data import open_data


def uncertain(rng, *, true_factor, shape=(16, 80, 80, 1)):
    """Ground truth, and a mean and a spread whose errors are normal and so many spreads wide."""
    gt = rng.uniform(0, 1, shape)
    spread = rng.uniform(0.001, 0.01, shape)
    return gt + true_factor * spread * rng.standard_normal(shape), spread, gt


@pytest.mark.parametrize("true_factor", [0.5, 1, 3.2])
def test_the_factor_is_the_width_of_the_errors_in_spreads(rng, true_factor):
    ratios = measure_ratios(*uncertain(rng, true_factor=true_factor))
    assert find_factor(ratios) == pytest.approx(true_factor, rel=0.03)


def test_coverage_is_that_of_a_normal_distribution_once_calibrated(rng):
    ratios = measure_ratios(*uncertain(rng, true_factor=2))
    facts = measure_coverage(ratios, find_factor(ratios))
    assert facts.within_one == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.01)
    assert facts.within_two == pytest.approx(2 * stats.norm.cdf(1) - 1, abs=0.01)
    assert facts.calibrated_within_one == pytest.approx(0.6827, abs=1e-4)
    assert facts.calibrated_within_two == pytest.approx(0.9545, abs=0.005)
    assert facts.signal_within_one == pytest.approx(0.68, abs=0.02)
    curve = facts.curve
    np.testing.assert_allclose(curve.calibrated, curve.expected, atol=0.01)
    assert curve.found[10] < 0.4


def test_a_factor_is_checked_on_other_data_than_it_was_found_on(rng):
    found = find_factor(measure_ratios(*uncertain(rng, true_factor=2)))
    harder = measure_ratios(*uncertain(rng, true_factor=4))
    assert measure_coverage(harder, found).calibrated_within_one == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.01)


def test_gain_and_offset_of_the_network_do_not_count(rng):
    mean, spread, gt = uncertain(rng, true_factor=2)
    plain, scaled = measure_ratios(mean, spread, gt), measure_ratios(5 * mean - 3, 5 * spread, gt)
    np.testing.assert_allclose(scaled.errors, plain.errors, rtol=1e-6)


def test_channels_are_matched_one_by_one(rng):
    mean, spread, gt = uncertain(rng, true_factor=2, shape=(8, 40, 40, 2))
    scale = np.array([5, -2])
    np.testing.assert_allclose(
        measure_ratios(scale * mean, abs(scale) * spread, gt).errors,
        measure_ratios(mean, spread, gt).errors,
        rtol=1e-6,
    )


def test_members_that_agree_and_are_wrong_cannot_be_calibrated(rng):
    gt = rng.uniform(0, 1, (4, 20, 20, 1))
    wrong = gt + rng.normal(0, 0.1, gt.shape)
    assert find_factor(measure_ratios(wrong, np.zeros(gt.shape), gt)) is None
    assert find_factor(measure_ratios(wrong, np.full(gt.shape, 1e-8), gt)) is None


def test_a_share_of_voxels_without_spread_is_never_within():
    ratios = Ratios(np.array([0.1, 0.5, 0.9, np.inf]), np.ones(4))
    facts = measure_coverage(ratios, 100.0)
    assert facts.within_one == facts.calibrated_within_two == 0.75


def test_many_voxels_are_thinned_out_evenly(rng):
    mean, spread, gt = uncertain(rng, true_factor=2, shape=(40, 200, 200, 1))
    ratios = measure_ratios(mean, spread, gt)
    assert 2**19 < len(ratios.errors) <= 2**20
    assert find_factor(ratios) == pytest.approx(2, rel=0.01)


# The volumes that the network was validated on


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_config):
    """Run folders of networks whose validation data are whole volumes, and the ends of volumes."""
    folder = tmp_path_factory.mktemp("trained")
    runs = {}
    for name, num_pairs in (("whole", 5), ("ends", 2)):
        values = tiny_config(folder / name, num_pairs=num_pairs, validation_split=0.25)
        runs[name] = train(Config.model_validate_json(json.dumps(values)))
    return runs


def record_of(run_dir):
    return TrainingRecord.load(run_dir / "training.json")


@pytest.mark.parametrize("name", ["whole", "ends"])
def test_the_validation_data_of_the_training_are_found_again(trained, name):
    pairs, num_lost = open_validation(trained[name], record_of(trained[name]), ndim=3)
    recorded = record_of(trained[name]).validation
    assert num_lost == 0
    assert [list(pair.raw.shape) for pair in pairs] == [list(facts.raw_shape) for facts in recorded]
    for pair, facts in zip(pairs, recorded, strict=True):
        np.testing.assert_allclose(pair.raw.ranges, facts.raw_range)


def test_validation_data_are_shown_to_a_network_as_in_its_training(tmp_path, tiny_config):
    values = tiny_config(tmp_path, recipe="default", validation_split=0.25, late_patches=0)
    config = Config.model_validate_json(json.dumps(values))
    run_dir = train(config)
    (pair, *_), _ = open_validation(run_dir, record_of(run_dir), ndim=3)
    learned = open_data(config).validation[0].raw
    np.testing.assert_allclose(pair.raw.read_input(0), learned.read_input(0), atol=0.05)
    assert pair.raw.read_input(0).shape[-1] == 2  # the image, and how strong its noise is


def test_no_voxel_of_the_validation_data_was_learned_from(trained):
    """Of 8 x 24 x 28 voxels a quarter is set aside: with what was learned from, each voxel once."""
    record = record_of(trained["ends"])
    pairs, _ = open_validation(trained["ends"], record, ndim=3)
    for pair, learned in zip(pairs, record.training, strict=True):
        counts = np.zeros((8, 24, 28), int)
        counts[region_at(learned.raw_start, learned.raw_shape[:-1])] += 1
        counts[region_at(pair.raw.volume.start, pair.raw.shape[:-1])] += 1
        assert np.all(counts == 1)


def test_validation_data_that_are_gone_or_changed_are_not_used(trained, write_tiff, rng):
    run_dir = trained["whole"]
    first = record_of(run_dir).validation[0]
    gone = first.model_copy(update={"raw": "/nowhere/a.tif"})
    changed = first.model_copy(update={"digests": ("0" * 24,) * 2})
    larger = first.model_copy(update={"raw_shape": (8, 24, 29, 1)})
    recorded = TrainingRecord(validation=(first, gone, changed, larger))
    pairs, num_lost = open_validation(run_dir, recorded, ndim=3)
    assert (len(pairs), num_lost) == (1, 3)


def test_a_network_without_record_has_no_validation_data(tiny_models):
    assert open_validation(tiny_models / "3d.keras", TrainingRecord(), ndim=3) == ([], 0)
