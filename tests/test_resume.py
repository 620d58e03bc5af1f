"""A run that was interrupted ends as one that was not."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
import tifffile

from rcan.commands.train import main
from rcan.config import Config
from rcan.run_folder.checkpoints import load_checkpoint
from rcan.training.fit import train

DYING = """
import os, signal, sys
from rcan.run_folder import checkpoints
from rcan.commands.train import main

save = checkpoints.write_json

def die(path, values):
    if path.parent.name.startswith(".epoch_000002"):  # the variables of this one are written, the rest is not
        os.kill(os.getpid(), signal.SIGKILL)
    save(path, values)

checkpoints.write_json = die
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_config):
    """Values of a config with enough epochs and steps to be interrupted anywhere."""
    folder = tmp_path_factory.mktemp("data")
    plan = {"epochs": 5, "steps_per_epoch": 20, "batch_size": 4, "late_patches": 0.4}
    return tiny_config(folder, **plan, metrics=["psnr", "ssim"], ema=0.9)


@pytest.fixture(scope="module")
def unbroken(settings, tmp_path_factory):
    """The run folder of a training without interruption."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return train(Config.checked({**settings, "output_dir": str(folder)}))


@pytest.fixture
def config_file(settings, tmp_path):
    values = {**settings, "output_dir": str(tmp_path / "run")}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path / "config.json"


def start(config_file, *flags, program=("-m", "rcan", "train")):
    """A training in a process of its own, which writes into `log`."""
    command = [sys.executable, "-W", "ignore", *program, "-c", str(config_file), *flags]
    with open(config_file.with_name("log"), "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def wait_for_state(run_dir, process):
    """Wait until a state has been saved that was not there before."""
    before = set(run_dir.glob("checkpoints/epoch_*"))
    while process.poll() is None and not set(run_dir.glob("checkpoints/epoch_*")) - before:
        time.sleep(0.01)


def outcome(run_dir):
    """All that a run leaves which does not depend on the time it took."""
    with open(run_dir / "history.csv", newline="") as file:
        history = [{**row, "seconds": None} for row in csv.DictReader(file)]
    models = [keras.saving.load_model(run_dir / name) for name in ("best.keras", "last.keras")]
    arrays, state = load_checkpoint(run_dir)
    weights = [weight for model in models for weight in model.get_weights()] + arrays
    return history, [weight.tobytes() for weight in weights], state.epoch


def test_run_killed_at_any_moment_ends_in_the_same_bits(config_file, unbroken, rng):
    run_dir = config_file.parent / "run"
    process = start(config_file, program=("-c", DYING))  # once during the writing of a state
    assert process.wait() == -signal.SIGKILL
    assert list(run_dir.glob("checkpoints/.epoch_*"))
    for _ in range(2):
        process = start(config_file, "--resume")
        wait_for_state(run_dir, process)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.wait()
    process = start(config_file, "--resume")
    assert process.wait() == 0, config_file.with_name("log").read_text()
    assert outcome(run_dir) == outcome(unbroken)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_a_run_saves_its_state_within_the_epoch(config_file, unbroken, number, status):
    run_dir = config_file.parent / "run"
    process = start(config_file)
    wait_for_state(run_dir, process)
    time.sleep(0.1)  # some steps into the second epoch
    process.send_signal(number)
    assert process.wait() == status
    assert "--resume" in config_file.with_name("log").read_text().splitlines()[-1]
    newest = sorted(run_dir.glob("checkpoints/epoch_*"))[-1]
    assert not newest.name.endswith("_000000000")
    assert main(["-c", str(config_file), "--resume"]) == 0
    assert outcome(run_dir) == outcome(unbroken)


def test_run_with_damaged_newest_state_goes_on_from_the_one_before(config_file, unbroken, settings, capsys):
    assert main(["-c", str(config_file), "--epochs", "5"]) == 0
    run_dir = config_file.parent / "run"
    newest = sorted(run_dir.glob("checkpoints/epoch_*"))[-1]
    content = bytearray((newest / "variables.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "variables.npz").write_bytes(content)
    assert main(["-c", str(config_file), "--resume"]) == 0
    assert "is damaged and passed over" in capsys.readouterr().err
    assert outcome(run_dir) == outcome(unbroken)


@pytest.fixture
def short_run(settings, tmp_path):
    """Values of a config, and a finished run of two epochs."""
    values = {**settings, "epochs": 2, "steps_per_epoch": 2, "output_dir": str(tmp_path / "run")}
    train(Config.checked(values))
    return values


def test_finished_run_can_be_prolonged(short_run):
    run_dir = train(Config.checked({**short_run, "epochs": 4}), resume=True)
    assert [row["epoch"] for row in outcome(run_dir)[0]] == ["1", "2", "3", "4"]


def test_run_that_is_killed_before_its_first_epoch_is_saved_goes_on(short_run, tmp_path, monkeypatch):
    values = {**short_run, "output_dir": str(tmp_path / "killed")}
    with monkeypatch.context() as patched:
        patched.setattr("rcan.training.callbacks.write_table", None)  # best.keras is written, the state is not
        with pytest.raises(TypeError):
            train(Config.checked(values))
    assert (tmp_path / "killed/best.keras").exists()
    train(Config.checked(values), resume=True)
    assert outcome(tmp_path / "killed") == outcome(Path(short_run["output_dir"]))


def test_prolonging_to_fewer_epochs_is_refused(short_run):
    with pytest.raises(ValueError, match=r"epochs is 1 but .* has done 2"):
        train(Config.checked({**short_run, "epochs": 1}), resume=True)


def test_other_spelling_of_a_path_is_no_change(short_run, tmp_path):
    folders = {kind: f"{Path(path).parent}/../{Path(path).parent.name}/{kind}"
               for kind, path in short_run["training_data_dir"].items()}  # fmt: skip
    train(Config.checked({**short_run, "training_data_dir": folders}), resume=True)


def test_data_with_other_pixels_of_the_same_range_are_refused(short_run, tmp_path, write_tiff):
    folders = {}
    for kind, folder in short_run["training_data_dir"].items():
        folders[kind] = str(tmp_path / kind)
        shutil.copytree(folder, tmp_path / kind)
    values = {**short_run, "training_data_dir": folders, "output_dir": str(tmp_path / "other")}
    train(Config.checked(values))
    for path in (tmp_path / "raw/1.tif", tmp_path / "gt/1.tif"):
        write_tiff(path, tifffile.imread(path)[:, ::-1, ::-1].copy(), "ZYX")
    with pytest.raises(ValueError, match=r"other training data: .*raw/1\.tif or its ground truth differs"):
        train(Config.checked(values), resume=True)


def test_files_of_the_user_in_folders_named_as_ours_survive(settings, tmp_path):
    for name in (
        "measured/mine.npy",
        "measured/notes.json",
        "checkpoints/epoch_5/w.pt",
        "checkpoints/my_epoch_5.pt",
    ):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    values = {**settings, "epochs": 1, "steps_per_epoch": 1, "output_dir": str(tmp_path / "run")}
    for overwrite in (False, True):
        train(Config.checked(values), overwrite=overwrite)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    mine = {path.name for path in files if path.read_bytes() == b"mine"}
    assert mine == {"mine.npy", "notes.json", "w.pt", "my_epoch_5.pt"}


def test_finished_run_that_is_resumed_stays_as_it_is(short_run):
    run_dir = Path(short_run["output_dir"])
    before = outcome(run_dir)
    train(Config.checked(short_run), resume=True)
    assert outcome(run_dir) == before


def test_resuming_where_there_is_no_run_begins_one(settings, tmp_path):
    values = {**settings, "epochs": 1, "steps_per_epoch": 1, "output_dir": str(tmp_path / "run")}
    assert len(outcome(train(Config.checked(values), resume=True))[0]) == 1


def test_other_settings_are_refused_with_their_keys(short_run):
    other = Config.checked({**short_run, "loss": "mse", "num_channels": 4})
    with pytest.raises(ValueError, match=r'num_channels \(was 8, is 4\), loss \(was "mae", is "mse"\)'):
        train(other, resume=True)


def test_a_changed_config_of_the_run_is_refused(short_run):
    path = Path(short_run["output_dir"]) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_channels": 16}))
    with pytest.raises(ValueError, match=r"its checkpoint is of another network or optimizer than its config\.json"):
        train(Config.checked({**short_run, "num_channels": 16}), resume=True)


def test_other_data_are_refused_with_their_path(short_run, tmp_path, write_tiff):
    pair = {kind: str(tmp_path / f"{kind}.tif") for kind in ("raw", "gt")}
    folders = short_run["training_data_dir"]
    for kind, path in pair.items():
        image = tifffile.imread(Path(folders[kind]) / "0.tif")
        write_tiff(Path(path), image, "ZYX")
    values = {**short_run, "training_image_pairs": [pair], "output_dir": str(tmp_path / "other")}
    train(Config.checked(values))
    write_tiff(Path(pair["gt"]), image // 2, "ZYX")
    with pytest.raises(ValueError, match=r"other training data: .*raw\.tif or its ground truth differs"):
        train(Config.checked(values), resume=True)


def test_settings_that_do_not_matter_may_change(short_run):
    train(Config.checked({**short_run, "cache_gb": 0.5, "epochs": 3}), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_finished": False, "epoch": 1}, r"unfinished run \(epoch 2 of 2\).*--resume, or .*--overwrite"),
        ({}, r"already holds a run of 2 epochs.*--resume and more --epochs, or .*--overwrite"),
    ],
)
def test_run_in_the_folder_is_refused_with_both_ways_on(short_run, changes, message):
    newest = sorted(Path(short_run["output_dir"]).glob("checkpoints/epoch_*"))[-1] / "state.json"
    newest.write_text(json.dumps({**json.loads(newest.read_text()), **changes}))
    with pytest.raises(FileExistsError, match=message):
        train(Config.checked(short_run))


def test_both_ways_on_at_once_are_wrong_usage(config_file, capsys):
    assert main(["-c", str(config_file), "--resume", "--overwrite"]) == 2
    assert "choose one" in capsys.readouterr().err
