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


def test_parts_of_many_pairs_are_pairs_and_each_holds_the_smaller_one(make_run):
    config, data = make_run(num_pairs=10)
    parts = [{pair.raw.volume.path for pair in take_share(data.training, share, config)} for share in SHARES]
    assert [len(part) for part in parts] == [1, 2, 4, 9]
    assert all(one < other for one, other in itertools.pairwise(parts))


def test_parts_of_few_pairs_are_parts_of_each(make_run):
    """Of 8 x 24 x 25 voxels without what is validated on (28 along X), an eighth, a quarter and half along X."""
    config, data = make_run(num_pairs=2)
    shapes = [[pair.raw.shape[:-1] for pair in take_share(data.training, share, config)] for share in SHARES]
    whole = data.training[0].raw.shape[2]
    assert shapes == [[(8, 24, round(share * whole))] * 2 for share in SHARES]


def test_a_curve_is_measured_and_kept_and_goes_on(make_run, capsys):
    config, data = make_run(num_pairs=2, epochs=4)
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
    path.write_text(json.dumps(tiny_config(tmp_path)))
    assert main(["train", "-c", str(path), "--learning_curve"]) == 0
    assert "PSNR (dB)" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


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
