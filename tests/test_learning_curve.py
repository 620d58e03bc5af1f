import itertools
import json

import numpy as np
import pytest

from rcan.__main__ import main
from rcan.config import Config
from rcan.studies.learning_curve import SHARES, LearningCurve, measure_learning_curve, take_share
from rcan.training.run_data import open_data


@pytest.fixture
def make_run(tiny_config, tmp_path):
    """A configuration that trains in seconds, and its data."""

    def make(**values):
        config = Config.checked(tiny_config(tmp_path, **values)).for_data(3)
        return config, open_data(config)

    return make


def voxels_of(pairs):
    """Volume and number of voxels of each pair."""
    return {pair.raw.volume.path: int(np.prod(pair.raw.shape)) for pair in pairs}


@pytest.mark.parametrize("num_pairs", [2, 8])
def test_shares_have_as_many_voxels_and_each_holds_the_smaller_ones(make_run, num_pairs):
    config, data = make_run(num_pairs=num_pairs, patch_shape=[8, 2, 2])
    parts = [voxels_of(take_share(data.training, share, config)) for share in SHARES]
    whole = sum(parts[-1].values())
    for part, share in zip(parts, SHARES, strict=True):
        assert sum(part.values()) == pytest.approx(share * whole, rel=0.1)
    for one, other in itertools.pairwise(parts):
        assert all(size <= other[path] for path, size in one.items())


def test_less_than_a_patch_is_refused(make_run):
    config, data = make_run(num_pairs=2)
    with pytest.raises(ValueError, match=r"1/8 of the training data is less than a patch"):
        take_share(data.training, 1 / 8, config)


def test_a_curve_is_measured_and_kept_and_goes_on(make_run, capsys):
    config, data = make_run(num_pairs=9, epochs=4)
    curve = measure_learning_curve(config, data)
    printed = capsys.readouterr().out
    assert len(curve.psnr) == 4
    assert np.all(np.isfinite(curve.psnr))
    assert "On the validation volumes" in printed
    folder = config.output_dir.parent / "run_learning_curve"
    kept = json.loads((folder / "learning_curve.json").read_text())
    assert [row["psnr"] for row in kept["rows"]] == list(curve.psnr)
    assert (folder / "learning_curve.png").stat().st_size > 5000
    assert measure_learning_curve(config, data) == curve
    assert "Epoch" not in capsys.readouterr().out


def test_the_command_measures_a_curve_instead_of_training(tiny_config, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config(tmp_path, num_pairs=9)))
    assert main(["train", "-c", str(path), "--learning_curve"]) == 0
    assert "PSNR (dB)" in capsys.readouterr().out
    assert not (tmp_path / "run" / "training.json").exists()


def test_without_other_volumes_there_is_no_curve(make_run):
    config, data = make_run(validation_split=0)
    with pytest.raises(ValueError, match="name validation data"):
        measure_learning_curve(config, data)


@pytest.mark.parametrize(
    ("psnr", "gain"),
    [((20, 21, 22, 23), (1, 1)), ((20, 22, 23, 23.5), (0.25, 0.5)), ((20, 21, 21.5, 21.4), (0, 0))],
)
def test_the_gain_of_twice_the_data_fades_as_before(psnr, gain):
    """Steps of 1, 1, 1 stay 1; of 2, 1, 0.5 the next is 0.25; after a loss none is expected."""
    curve = LearningCurve(SHARES, psnr, psnr, "test")
    assert curve.expected_gain == pytest.approx(gain)


@pytest.mark.parametrize(
    ("psnr", "advice"),
    [((20, 21, 22, 23), "Twice as many pairs would bring about 1.0 to 1.0 dB"), ((20, 20, 20, 20), "hardly help")],
)
def test_the_curve_says_what_more_data_would_bring(psnr, advice):
    assert advice in str(LearningCurve(SHARES, psnr, psnr, "test"))
