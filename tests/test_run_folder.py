import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from rcan.atomic_io import atomic_file, write_json, write_table
from rcan.fingerprint.records import TrustedRange
from rcan.model import build_rcan
from rcan.run_folder.layout import check_run_dir, create_run
from rcan.run_folder.models import add_to_record, find_model, load_model, read_record, save_model
from rcan.run_folder.record import SpreadRecord, TrainingRecord

TINY = {"num_channels": 4, "num_residual_groups": 1, "num_residual_blocks": 1, "channel_reduction": 2}
OLD_RUN = (
    "best.keras",
    "last.keras",
    "history.csv",
    "history.png",
    "config.json",
    "training.json",
    "restored.png",
)


@pytest.fixture
def old_run(tmp_path):
    """A folder with everything that a run leaves, and with notes of its owner."""
    folder = tmp_path / "old run"
    for name in (*OLD_RUN, "train/events.out", "validation/events.out", "notes.txt", "figures/one.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


# Whole files


def test_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == ".txt"
    assert path.read_text() == "new"
    assert names(tmp_path) == {"file.txt"}


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".txt")
    with atomic_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def test_interrupted_saving_keeps_the_earlier_model(tmp_path, monkeypatch, rng):
    model = build_rcan(**TINY)
    save_model(model, tmp_path / "best.keras")

    def save_half(self, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", save_half)
    with pytest.raises(KeyboardInterrupt):
        save_model(build_rcan(**TINY), tmp_path / "best.keras")
    x = rng.uniform(size=(1, 4, 8, 8, 1))
    np.testing.assert_array_equal(load_model(tmp_path)[0](x), model(x))
    assert names(tmp_path) == {"best.keras"}


# The folder


def test_run_needs_a_folder():
    with pytest.raises(ValueError, match="output_dir is missing"):
        check_run_dir(None)


def test_file_cannot_be_a_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file is a file"):
        check_run_dir(tmp_path / "file")


@pytest.mark.parametrize("name", ["best.keras", "last.keras", "history.csv"])
def test_folder_with_any_result_of_a_run_is_refused_with_a_way_out(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(FileExistsError, match=rf"already holds a run \({name}\).*--overwrite"):
        create_run(tmp_path)
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("overwrite", [False, True])
def test_config_file_of_a_user_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"config.json was not written by a run.*another folder with -o"):
        create_run(tmp_path, overwrite=overwrite)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_run_that_ended_before_its_first_epoch_makes_room_for_another(tmp_path):
    create_run(tmp_path)
    write_json(tmp_path / "config.json", {"epochs": 3})
    create_run(tmp_path)
    assert names(tmp_path) == {"training.json"}


def test_checking_changes_nothing(old_run, tmp_path):
    check_run_dir(old_run, overwrite=True)
    check_run_dir(tmp_path / "new" / "run")
    assert names(old_run) == {*OLD_RUN, "train", "validation", "notes.txt", "figures"}
    assert names(tmp_path) == {"old run"}


def test_overwriting_removes_the_old_run_and_leaves_other_files(old_run):
    create_run(old_run, overwrite=True)
    assert names(old_run) - {"training.json"} == {"notes.txt", "figures"}
    assert (old_run / "training.json").read_text() != "old"


def test_folder_with_other_files_takes_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    create_run(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_is_made_with_its_parents(tmp_path):
    create_run(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_json_holds_paths_as_text(tmp_path):
    write_json(tmp_path / "values.json", {"folder": Path("a/µm"), "shape": (1, 2)})
    values = json.loads((tmp_path / "values.json").read_text(encoding="utf-8"))
    assert values == {"folder": str(Path("a/µm")), "shape": [1, 2]}


# The history


@pytest.fixture
def epochs():
    return [
        {"epoch": i + 1, "loss": 0.5 / (i + 1), "psnr": 20.0 + i, "val_loss": 0.6, "val_psnr": 19.0} for i in range(3)
    ]


def test_history_reads_back_as_it_was_written(tmp_path, epochs):
    write_table(tmp_path / "history.csv", epochs)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == epochs


# Loading


def test_best_model_is_taken_before_the_last(tmp_path):
    (tmp_path / "last.keras").write_text("")
    assert find_model(tmp_path) == tmp_path / "last.keras"
    (tmp_path / "best.keras").write_text("")
    assert find_model(tmp_path) == tmp_path / "best.keras"
    assert find_model(tmp_path / "last.keras") == tmp_path / "last.keras"


@pytest.mark.parametrize(("name", "message"), [(".", "neither best.keras nor last.keras"), ("no", "does not exist")])
def test_missing_model_is_an_error_with_a_way_out(tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=rf"{message}.*-m takes the folder"):
        find_model(tmp_path / name)


@pytest.mark.parametrize("upscaling", [None, (1, 2, 2)])
def test_loaded_model_gives_the_output_of_the_saved(tmp_path, upscaling, rng):
    model = build_rcan(**TINY, upscaling=upscaling)
    save_model(model, tmp_path / "best.keras")
    loaded, record = load_model(tmp_path)
    x = rng.uniform(size=(1, 4, 8, 9, 1))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert record == TrainingRecord()


def test_loaded_model_comes_with_what_is_known_of_its_training(tmp_path):
    save_model(build_rcan(**TINY), tmp_path / "best.keras")
    write_json(tmp_path / "training.json", {"percentiles": [1, 99]})
    assert load_model(tmp_path)[1] == load_model(tmp_path / "best.keras")[1] == TrainingRecord(percentiles=(1, 99))


def test_what_is_found_out_later_stands_beside_what_was_known(tmp_path):
    (tmp_path / "best.keras").write_text("network")
    write_json(tmp_path / "training.json", {"seed": 3})
    add_to_record(tmp_path, "spread", SpreadRecord(factor=2.5, ensemble=8, found_on="validation"))
    record = read_record(tmp_path / "best.keras")
    assert (record.seed, record.spread.factor) == (3, 2.5)


def test_what_was_found_out_about_an_earlier_network_is_not_of_the_present_one(tmp_path):
    (tmp_path / "best.keras").write_text("network")
    write_json(tmp_path / "training.json", {"seed": 3})
    add_to_record(tmp_path, "trusted_range", TrustedRange(snr=(2, None)))
    (tmp_path / "best.keras").write_text("trained further")
    assert read_record(tmp_path) == TrainingRecord(seed=3)


def test_file_that_is_no_model_is_an_error_with_its_name(tmp_path):
    (tmp_path / "best.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"best\.keras"):
        load_model(tmp_path)


def test_training_json_that_is_no_json_is_an_error_with_its_name(tmp_path):
    save_model(build_rcan(**TINY), tmp_path / "best.keras")
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ValueError, match=r"training\.json is not JSON"):
        load_model(tmp_path)


def test_model_with_python_code_inside_is_refused(tmp_path):
    inputs = keras.Input((None, None, None, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs)).save(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"best\.keras"):
        load_model(tmp_path)
