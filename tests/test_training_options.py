"""What a run may do beyond the published training."""

import csv
import json
import math

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rcan.commands.train import main
from rcan.config import Config
from rcan.losses import ssim
from rcan.model import build_rcan
from rcan.run_folder.checkpoints import load_checkpoint
from rcan.training.fit import train
from rcan.training.forecast import step_memory

TINY = {"num_channels": 8, "num_residual_groups": 1, "num_residual_blocks": 1}


def train_with(values, **options):
    return train(Config.checked(values), **options)


def history_of(run_dir):
    with open(run_dir / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def model_of(run_dir, name="last.keras"):
    return keras.saving.load_model(run_dir / name)


@pytest.fixture
def one_patch(tmp_path, tiny_config, write_tiff, noisy_pair):
    """Values of a config whose validation volume is one patch, and that patch, normalised: raw, gt (Z, Y, X)."""
    images = noisy_pair((8, 16, 16), 99)
    paths = [
        write_tiff(tmp_path / f"one_{i}.tif", image, "ZYX", photometric="minisblack") for i, image in enumerate(images)
    ]
    ranges = [np.percentile(image, (2, 99.9)) for image in images]
    patch = [(image - low) / (high - low) for image, (low, high) in zip(images, ranges, strict=True)]
    pairs = [{"raw": str(paths[0]), "gt": str(paths[1])}]
    return tiny_config(tmp_path, validation_image_pairs=pairs), patch


# The learning rate


def test_schedule_of_the_config_is_that_of_the_run(tmp_path, tiny_config):
    values = tiny_config(tmp_path, epochs=4, steps_per_epoch=1, schedule="cosine", warmup_epochs=1)
    expected = [0.0005, 0.001, 0.00075, 0.00025]  # half, then cosines of 0, 60 and 120 degrees
    np.testing.assert_allclose(history_of(train_with(values))["learning_rate"], expected, rtol=1e-6)


# Losses and averages


def test_sum_of_losses_is_what_the_history_holds(one_patch):
    values, (raw, gt) = one_patch
    run_dir = train_with({**values, "loss": "mae+0.2*ssim"})
    restored = model_of(run_dir).predict(raw[np.newaxis, ..., np.newaxis], verbose=0)
    gt = gt[np.newaxis, ..., np.newaxis].astype(np.float32)
    expected = np.abs(restored - gt).mean() + 0.2 * (1 - float(ssim(gt, restored)[0]))
    assert history_of(run_dir)["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_moving_average_of_the_weights_is_its_recursion(tmp_path, tiny_config, monkeypatch):
    saved = []
    monkeypatch.setattr("rcan.training.loop.save_checkpoint", lambda _, each: saved.append(each.variables))
    values = tiny_config(tmp_path, epochs=12, steps_per_epoch=1, ema=0.5, initial_learning_rate=0.01)
    run_dir = train_with(values)
    keras.utils.set_random_seed(0)
    average = build_rcan(**TINY).get_weights()
    for update, arrays in enumerate(saved[1:], 1):  # the first checkpoint is that before the first step
        decay = min(0.5, (1 + update) / (10 + update))
        weights = arrays[: len(average)]
        average = [decay * old + (1 - decay) * new for old, new in zip(average, weights, strict=True)]
    for found, expected, trained in zip(model_of(run_dir).get_weights(), average, weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(expected - trained).max() > 1e-5


def test_averaged_network_is_the_one_that_is_validated(one_patch):
    values, (raw, gt) = one_patch
    run_dir = train_with({**values, "ema": 0.9, "epochs": 3, "initial_learning_rate": 0.01})
    restored = model_of(run_dir).predict(raw[np.newaxis, ..., np.newaxis], verbose=0)[0, ..., 0]
    assert history_of(run_dir)["val_loss"][-1] == pytest.approx(np.abs(restored - gt).mean(), rel=1e-4)


# Stopping early


@pytest.fixture
def worsening(one_patch, tmp_path, write_tiff):
    """Values of a config whose validation gets worse with every epoch: its ground truth is inverted."""
    values, (_, gt) = one_patch
    write_tiff(tmp_path / "one_1.tif", (1000 * (1.5 - gt)).clip(0, 65535).astype(np.uint16), "ZYX")
    return {**values, "epochs": 9, "early_stopping": 2, "steps_per_epoch": 8, "initial_learning_rate": 0.01}


@pytest.mark.filterwarnings("ignore:.*correlation")
def test_run_stops_after_epochs_without_a_better_one(worsening):
    losses = history_of(train_with(worsening))["val_loss"]
    assert len(losses) < 9
    assert np.argmin(losses) == len(losses) - 3


@pytest.mark.filterwarnings("ignore:.*correlation")
def test_run_that_stopped_early_is_finished(worsening):
    run_dir = train_with(worsening)
    before = history_of(run_dir)
    train_with(worsening, resume=True)
    assert history_of(run_dir)["epoch"].tolist() == before["epoch"].tolist()


@pytest.mark.filterwarnings("ignore:.*correlation")
def test_run_that_stopped_early_goes_on_with_more_patience(worsening):
    before = history_of(train_with(worsening))
    after = history_of(train_with({**worsening, "early_stopping": 4}, resume=True))
    assert len(after["epoch"]) > len(before["epoch"])


# Beginning with a trained network


@pytest.fixture
def trained(tmp_path, tiny_config):
    """A run folder, with percentiles of its own."""
    values = tiny_config(tmp_path / "first", percentiles=[1, 99], steps_per_epoch=20, seed=5)
    return train_with(values)


@pytest.mark.parametrize("name", ["", "best.keras"])
def test_run_begins_with_the_weights_and_percentiles_of_another(trained, tmp_path, tiny_config, name):
    values = tiny_config(tmp_path, initial_model=str(trained / name), initial_learning_rate=1e-6)
    run_dir = train_with(values)
    for old, new in zip(model_of(trained).get_weights(), model_of(run_dir).get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)
    assert json.loads((run_dir / "training.json").read_text())["percentiles"] == [1, 99]


def test_percentiles_that_are_given_count_more_than_those_of_the_other(trained, tmp_path, tiny_config):
    run_dir = train_with(tiny_config(tmp_path, initial_model=str(trained), percentiles=[3, 97]))
    assert json.loads((run_dir / "training.json").read_text())["percentiles"] == [3, 97]


def test_network_of_another_size_is_refused_with_both_sizes(trained, tmp_path, tiny_config):
    values = tiny_config(tmp_path, initial_model=str(trained), num_channels=4)
    with pytest.raises(ValueError, match=r"is another network: 5,674 parameters, 1,\d+ here"):
        train_with(values)


def test_run_goes_on_when_the_network_it_began_with_is_gone(trained, tmp_path, tiny_config):
    values = tiny_config(tmp_path, initial_model=str(trained))
    train_with(values)
    trained.rename(trained.with_name("elsewhere"))
    run_dir = train_with({**values, "epochs": 2}, resume=True)
    assert json.loads((run_dir / "config.json").read_text())["percentiles"] == [1, 99]


def test_run_from_another_network_goes_on_with_its_own_weights(trained, tmp_path, tiny_config):
    values = tiny_config(tmp_path, initial_model=str(trained), initial_learning_rate=0.01)
    run_dir = train_with(values)
    once = model_of(run_dir).get_weights()
    train_with({**values, "epochs": 1}, resume=True)
    np.testing.assert_equal(model_of(run_dir).get_weights(), once)


# What it says and shows


def test_forecast_names_data_network_and_memory(tmp_path, tiny_config, capsys):
    train_with(tiny_config(tmp_path, epochs=3, steps_per_epoch=4, batch_size=2, validation_split=0))
    out = capsys.readouterr().out
    assert "Training on 2 pairs, validating on 0 pairs: 234 positions" in out  # 9 by 13 of each volume
    assert "5,674 parameters; 3 epochs of 0.0164 million voxels" in out  # 4 * 2 * 8 * 16 * 16


def test_step_that_exceeds_the_memory_is_refused_with_advice(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setattr("rcan.training.forecast.free_memory", lambda: 10**5)
    with pytest.raises(ValueError, match=r"choose a smaller patch_shape, num_channels or batch_size"):
        train_with(tiny_config(tmp_path))
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("downsampling", "precision", "measured"),  # in GiB, by benchmarks/memory.py, TensorFlow's gradient with oneDNN
    [
        ([1, 1, 1], "float32", 2.13),
        ([1, 1, 1], "mixed_bfloat16", 1.20),
        ([1, 2, 2], "float32", 0.61),
        ([1, 2, 2], "mixed_bfloat16", 0.42),
    ],
)
def test_memory_of_a_step_is_what_was_measured(downsampling, precision, measured):
    values = {
        "training_image_pairs": [{"raw": "a", "gt": "b"}],
        "patch_shape": [16, 128, 128],
        "downsampling": downsampling,
        "batch_size": 1,
        "precision": precision,
    }
    assert step_memory(Config.checked(values), (1, 1, 1)) == pytest.approx(measured * 2**30, rel=0.1)


def test_epochs_are_lines_with_rate_and_time_left(tmp_path, tiny_config, capsys):
    train_with(tiny_config(tmp_path, epochs=2))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch")]
    assert len(lines) == 2
    for line in lines:
        assert all(word in line for word in ("loss ", "val_loss ", "psnr ", " step/s, ", " left"))


def test_tensorboard_shows_the_history_and_patches(tmp_path, tiny_config):
    run_dir = train_with(tiny_config(tmp_path, epochs=2))
    history = history_of(run_dir)
    for kind, name in (("train", "loss"), ("validation", "val_loss")):
        events = EventAccumulator(str(run_dir / kind), size_guidance={"tensors": 0}).Reload()
        values = [
            np.frombuffer(event.tensor_proto.tensor_content, np.float32) for event in events.Tensors("epoch_loss")
        ]
        np.testing.assert_allclose(np.ravel(values), history[name], rtol=1e-6)
    assert "patches" in events.Tags()["tensors"]


# Trouble on the way


def test_full_disk_ends_in_a_line_and_leaves_the_last_state_whole(tmp_path, tiny_config, monkeypatch, capsys):
    from rcan.training import callbacks

    save, count = callbacks.save_model, []

    def fail_in_the_third_epoch(model, path):
        count.append(path)
        if len([path for path in count if path.name == "last.keras"]) == 3:
            raise OSError(28, "No space left on device", str(path))
        save(model, path)

    monkeypatch.setattr(callbacks, "save_model", fail_in_the_third_epoch)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(tmp_path, epochs=4)))
    assert main(["-c", str(tmp_path / "config.json")]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert (
        error == f"error: {tmp_path}/run/last.keras: no space left on device: free some space, or choose another disk."
    )
    assert load_checkpoint(tmp_path / "run").state.epoch == 2


def test_diverging_run_keeps_the_state_before(tmp_path, tiny_config, monkeypatch):
    from rcan.training.steps import Learner

    train, count = Learner.train, []

    def diverge(self, raw, gt):
        count.append(raw)
        figures = train(self, raw, gt)
        return {**figures, "loss": math.nan} if len(count) == 6 else figures  # of two steps in an epoch

    monkeypatch.setattr(Learner, "train", diverge)
    with pytest.raises(ValueError, match=r"loss has become nan in epoch 3.*Lower initial_learning_rate"):
        train_with(tiny_config(tmp_path, epochs=4))
    assert load_checkpoint(tmp_path / "run").state.epoch == 2


def test_a_run_is_not_replaced_and_resumed_at_once(tmp_path, tiny_config):
    with pytest.raises(ValueError, match="overwrite and resume contradict each other"):
        train(Config.checked(tiny_config(tmp_path)), overwrite=True, resume=True)
