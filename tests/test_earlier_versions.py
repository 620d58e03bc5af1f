"""What version 0.1.0 has written is read, applied and gone on with.

`tests/data` holds small volumes, a run folder and a folder that was restored in part, as that version left them; the
word FOLDER stands for the folder that they were in.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from rcan.__main__ import main
from rcan.atomic_io import file_signature
from rcan.config import load_config
from rcan.run_folder.checkpoints import load_checkpoint
from rcan.run_folder.models import load_model
from rcan.training.fit import train

DATA = Path(__file__).parent / "data"


@pytest.fixture
def folder(tmp_path):
    """A folder with `raw`, `gt`, `run` and `restored`."""
    shutil.copytree(DATA / "volumes_0.1.0", tmp_path, dirs_exist_ok=True)
    shutil.copytree(DATA / "run_folder_0.1.0", tmp_path / "run")
    shutil.copytree(DATA / "restored_0.1.0", tmp_path / "restored")
    for path in [*(tmp_path / "run").glob("*.json"), tmp_path / "restored/manifest.jsonl"]:
        path.write_text(path.read_text().replace("FOLDER", os.path.realpath(tmp_path)))
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    shutil.copy(tmp_path / "run/best.keras", checkpoint)  # that of the only epoch
    return tmp_path


def test_the_record_of_a_training_is_read(folder):
    model, record = load_model(folder / "run")
    assert (model.count_params(), record.patch_shape, record.seed) == (448, (4, 8, 8), 0)
    assert [pair.raw_shape for pair in record.training] == [(6, 16, 18, 1)] * 2
    assert [Path(pair.gt).name for pair in record.validation] == ["0.tif", "1.tif"]
    assert record.training_fingerprint.num_volumes == 4  # which was called `seen`
    seen = json.loads((folder / "run/training.json").read_text())["seen"]
    low, high = seen["channels"][0]["features"]["snr"]["range"]
    assert record.training_fingerprint.channels[0].features["snr"].range == (low, high)


def test_a_checkpoint_is_read(folder):
    variables, state = load_checkpoint(folder / "run")
    assert (state.epoch, state.epochs, state.is_finished) == (1, 1, True)
    assert [variable.size for variable in variables[:2]] == [
        54,
        2,
    ]  # kernel and bias of the first convolution


def test_a_run_goes_on(folder):
    before = (folder / "run/history.csv").read_text()
    config = load_config(folder / "run/config.json", {"epochs": 2, "output_dir": str(folder / "run")})
    train(config, resume=True)
    after = (folder / "run/history.csv").read_text()
    assert after.startswith(before)
    rows = list(csv.DictReader(after.splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    record = json.loads((folder / "run/training.json").read_text())
    assert record["seen"]["num_volumes"] == 4


def test_a_finished_run_is_refused_with_the_ways_on(folder, capsys):
    assert main(["train", "-c", str(folder / "run/config.json"), "-o", str(folder / "run")]) == 1
    assert "already holds a run of 1 epoch:" in capsys.readouterr().err


def test_a_network_restores_what_it_restored(folder):
    expected = tifffile.imread(folder / "restored/0.tif")
    flags = ["-m", folder / "run", "-i", folder / "raw/0.tif", "-o", folder / "again.tif"]
    assert main(["apply", *map(str, flags)]) == 0
    found = tifffile.imread(folder / "again.tif")
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_a_folder_is_completed_and_nothing_restored_again(folder, capsys):
    manifest, done = folder / "restored/manifest.jsonl", folder / "restored/0.tif"
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    for entry in entries:  # the copies have other times of modification
        entry |= {"state": file_signature(done), "input_state": file_signature(folder / "raw/0.tif")}
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    before = done.stat()
    flags = ["-m", folder / "run", "-i", folder / "raw", "-o", folder / "restored"]
    assert main(["apply", *map(str, flags)]) == 0
    assert "2 of 2 restored, 1 of them before" in capsys.readouterr().out
    assert done.stat() == before
    assert (folder / "restored/1.tif").is_file()
    outputs = [json.loads(line)["output"] for line in manifest.read_text().splitlines()]
    assert outputs == ["0.tif"] * len(entries) + ["1.tif"]
