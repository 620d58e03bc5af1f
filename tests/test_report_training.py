"""The report of a training, and what reports say of methods."""

import csv
import html
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import rcan
from rcan import __version__
from rcan.assess.calibration import Calibration
from rcan.assess.intervals import Interval
from rcan.assess.limits.ends import Limit
from rcan.assess.limits.records import LadderStep, LimitsResult, LimitsSettings
from rcan.assess.records import Evaluation, NetworkFacts, Summary, VolumeResult
from rcan.cli import run_command
from rcan.commands.train import main as train
from rcan.config import Config
from rcan.fingerprint.domain import compare_fingerprint, summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.intensity import INPUT_CHANNELS
from rcan.io.opening import open_volume
from rcan.report.finish import finish_training
from rcan.report.methods import CITATIONS, describe_evaluation, describe_limits, describe_training
from rcan.report.training import write_training_report
from rcan.run_folder.record import TrainingRecord
from rcan.training.run_data import open_data

ROOT = Path(__file__).parents[1]
NASTY = "a<b> & 'd' </script>.tif"


def training_json(**values):
    pair = {
        "raw": "/data/raw/1.tif",
        "gt": "/data/gt/1.tif",
        "raw_shape": [24, 96, 80, 1],
        "gt_shape": [24, 96, 80, 1],
        "num_frames": 1,
        "voxel_size": [0.3, 0.1, 0.1],
        "raw_range": [[97.0, 149.0]],
        "gt_range": [[0.0, 19264.0]],
    }
    other = {**pair, "raw": "/data/raw/2.tif", "gt": f"/data/gt/{NASTY}"}
    return {
        "versions": {"rcan": "0.1.0", "keras": "3.15.1", "tensorflow": "2.21.0"},
        "seed": 5,
        "percentiles": [2, 99.9],
        "patch_shape": [8, 64, 64],
        "upscaling": [1, 1, 1],
        "training": [pair, {**pair, "raw": "/data/raw/3.tif"}],
        "validation": [other],
        **values,
    }


def record(**values):
    return TrainingRecord.checked(training_json(**values))


def config(**values):
    return {
        **json.loads((ROOT / "config.json").read_text()),
        "channel_reduction": 4,
        "loss": "mae+0.2*ssim",
        "schedule": "cosine",
        "warmup_epochs": 2,
        "data_augmentation": True,
        "intensity_threshold": 0.25,
        "area_ratio_threshold": 0.1,
        "precision": "float32",
        "early_stopping": 4,
        "initial_model": None,
        "ema": 0,
        "seed": 5,
        "batch_size": 1,
        "epochs": 12,
        **values,
    }


HISTORY = [
    {
        "epoch": epoch,
        "loss": 1 / epoch,
        "val_loss": abs(epoch - 9) + 0.1,
        "learning_rate": 0.001,
        "seconds": 30.0,
    }
    for epoch in range(1, 13)
]


def test_a_methods_paragraph_has_the_numbers_of_the_run():
    values = config(num_residual_groups=2, num_residual_blocks=3, num_channels=16, channel_reduction=4)
    words = describe_training(record(), values, history=HISTORY, num_parameters=37123)
    for part in (
        "2 residual groups of 3 residual channel attention blocks, 16 feature channels, channel reduction 4, 37,123 "
        "parameters",
        "trained with rcan 0.1.0 (Keras 3.15.1, TensorFlow 2.21.0)",
        "2 pairs of raw and ground-truth volumes of 24 × 96 × 80 voxels (ZYX) of 0.3 × 0.1 × 0.1 µm; 1 other pair was",
        "percentiles 2 and 99.9",
        "Patches of 8 × 64 × 64 voxels",
        "at least 10 % of the voxels exceed 0.25",
        "mean absolute error + 0.2 × (1 − SSIM)",
        "for 12 epochs",
        "after a warm-up of 2 epochs, falling to 0 along half a cosine",
        "lowest validation loss (epoch 9) was kept. The seed was 5.",
    ):
        assert part in words, part
    assert "stopped" not in words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ema": 0.999}, "The moving average of the weights (decay 0.999) with the lowest validation loss"),
        ({"precision": "mixed_float16"}, "computed in mixed_float16"),
        ({"initial_model": "/runs/first"}, "beginning with the weights of first."),
        ({"clipnorm": 2}, "gradients scaled down to a norm of 2"),
        (
            {"photon_range": [0.01, 1]},
            "given 0.01 to 1 times the light of the raw image (half of them log-uniform, half by an arcsine",
        ),
        ({"photon_range": [1, 4]}, "more by mixing it with the ground truth"),
        ({"epochs": 20}, "stopped there, as no later epoch was better for 4 epochs"),
    ],
)
def test_a_methods_paragraph_mentions_what_was_used(values, said):
    assert said in describe_training(record(), config(**values), history=HISTORY)
    assert said not in describe_training(record(), config(), history=HISTORY)


def test_a_methods_paragraph_tells_how_raw_was_normalised():
    words = [
        describe_training(record(normalization=name), config(), history=HISTORY) for name in ("percentiles", "anscombe")
    ]
    assert ["generalised Anscombe transform" in each for each in words] == [False, True]


def test_a_methods_paragraph_tells_that_patches_of_all_light_were_weighed():
    values = config(photon_range=[0.01, 1])
    words = [describe_training(record(normalization=name), values, history=HISTORY) for name in INPUT_CHANNELS]
    assert ["weighed by the cube root of its range" in each for each in words] == [False, True]


def test_a_methods_paragraph_of_planes_and_of_held_out_parts():
    shape = {"raw_shape": [96, 80, 1], "gt_shape": [192, 160, 1]}
    training = [{**pair, **shape} for pair in training_json()["training"]]
    held_out = record(patch_shape=[64, 64], upscaling=[2, 2], training=training, validation=training[:1])
    words = describe_training(held_out, config(data_augmentation=False, intensity_threshold=0), history=HISTORY)
    assert words.startswith("A two-dimensional")
    assert "enlarging 2 × 2 times (YX)" in words
    assert "images of 192 × 160 voxels (YX) of 0.1 × 0.1 µm; a part of each image that was not trained on" in words
    assert "drawn at random." in words


def test_what_to_cite_is_what_the_citation_file_says():
    cff = (ROOT / "CITATION.cff").read_text()
    paper, software = CITATIONS
    assert re.search(r"doi: (\S+)", cff)[1] in paper
    assert f"version {__version__}" in software
    families = re.findall(r"family-names: ([^,}]+)", cff)
    authors = paper.removeprefix("The method: ").partition(".")[0].split(", ")
    assert [author.rsplit(" ", 1)[0] for author in authors] == families
    title = re.search(r"^  title: (.+)$", cff, re.MULTILINE)[1]
    assert title in paper


def test_the_words_of_an_evaluation_have_its_scores():
    def interval(mean):
        return Interval(mean, mean - 0.5, mean + 0.5)

    def volume(learned_from):
        return VolumeResult(
            raw="raw.tif",
            ground_truth="gt.tif",
            shape=(4, 8, 8, 1),
            num_frames=1,
            voxel_size=(None, None, None),
            learned_from=learned_from,
            methods={},
            resolution={},
            quantification={},
        )

    methods = {
        "raw": {"psnr": interval(16.25), "ssim": interval(0.5)},
        "median": {"psnr": interval(20), "ssim": interval(0.6)},
        "restored": {"psnr": interval(23.456), "ssim": interval(0.75)},
    }
    evaluation = Evaluation(
        model=NetworkFacts(path="best.keras", digest="", num_parameters=1, percentiles=(2, 99.9), precision="float32"),
        versions={"rcan": "0.1.0"},
        volumes={"a.tif": volume(False), "b.tif": volume(True)},
        total=Summary(over="blocks", best="median", methods=methods, gains={}),
        nulls={},
        calibration=Calibration(2.345, ensemble=8, found_on="validation", num_lost=0, coverage={}),
        settings={"ensemble": None},
    )
    words = describe_evaluation(evaluation)
    assert "2 pairs of raw and ground-truth images, 1 of which" in words
    assert "16.25 (15.75 to 16.75) dB for raw" in words
    assert "23.46 (22.96 to 23.96) dB for restored" in words
    assert "bootstrap interval over blocks of the images" in words
    assert "median filter, each with" in words
    assert "Richardson" not in words
    assert "multiplied by 2.35, so that it held the error that is left after the affine match in 68.3 %" in words


def test_the_words_of_limits_have_the_ladders_and_what_was_found():
    def step(photons, blur, snr):
        return LadderStep(photons=photons, blur=blur, snr=snr, exposures=())

    settings = LimitsSettings(
        phantoms="mixture",
        volumes=5,
        shape=(24, 96, 96),
        background=2.0,
        offset=100,
        gain=2,
        read_noise=1.6,
        seed=0,
        fwhm=(0.52, 0.19, 0.19),
        percentiles=(2, 99.9),
    )
    result = LimitsResult(
        versions={},
        settings=settings,
        limits={"snr_low": Limit("SNR below which it fails", "a rule", "3.1")},
        ladders={"snr": [step(1, 2, 0.4), step(100, 2, 9.8)], "blur": [step(20, 1, 4), step(20, 4, 4)]},
        intervals={},
        notes=[],
    )
    words = describe_limits(result)
    for part in ("1 to 100 detected photons", "0.4 to 9.8", "1 to 4 times as wide at 20 photons",
                 "0.52 × 0.19 × 0.19 µm", "5 exposures", "SNR below which it fails: 3.1."):  # fmt: skip
        assert part in words, part


# The report of a training


@pytest.fixture
def run_dir(tmp_path):
    """A run folder as far as its report needs it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps(training_json()))
    (folder / "config.json").write_text(json.dumps(config()))
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY[0])
        writer.writeheader()
        writer.writerows(HISTORY)
    return folder


def texts_of(tag, source):
    """Text of each element of a kind, without markup."""
    insides = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", source, re.DOTALL)
    return [html.unescape(re.sub("<[^>]*>", "", inside)) for inside in insides]


def text_of(tag, source):
    return " ".join(texts_of(tag, source))


def report_of(run_dir, rng, **options):
    gt = rng.random((4, 12, 16, 1))
    row = {"psnr_raw": 16.0, "psnr_restored": 23.0, "ssim_raw": 0.5, "ssim_restored": 0.75}
    arguments = {
        "scores": {NASTY: row, "b.tif": {**row, "psnr_restored": 25.0}},
        "kind": "test",
        "images": {"raw": gt / 2, "restored": gt, "ground truth": gt},
        "shown": NASTY,
        "voxel_size": (0.3, 0.1, 0.1),
        "num_parameters": 1000,
        "command": "rcan apply -m run",
    }
    write_training_report(run_dir, **{**arguments, **options})
    return (run_dir / "report.html").read_text("utf-8")


def test_a_training_report_has_scores_data_and_the_best_epoch(run_dir, rng):
    source = report_of(run_dir, rng)
    words = text_of("p", source)
    assert "from 16.00 to 24.00 dB (+8.00 dB)" in words
    assert "for 12 epochs in 6.0 minutes. The best network is that of epoch 9." in words
    assert "rcan apply -m run" in words
    cells = texts_of("td", source)
    assert NASTY in cells
    assert "97\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}149" in cells
    assert "never seen" not in words


def test_a_training_report_says_where_scores_mean_little(run_dir, rng):
    words = text_of("p", report_of(run_dir, rng, kind="validation"))
    assert "judge it by volumes that it has never seen" in words
    row = {"psnr_raw": 16.0, "psnr_restored": 15.0, "ssim_raw": 0.5, "ssim_restored": 0.75}
    words = text_of("p", report_of(run_dir, rng, scores={"a": row}))
    assert "further from the ground truth than the raw ones" in words


def test_a_training_report_of_images_without_a_comparable_raw_one(run_dir, rng):
    plane = rng.random((12, 16, 1))
    row = {"psnr_raw": np.nan, "psnr_restored": 15.0, "ssim_raw": np.nan, "ssim_restored": 0.75}
    source = report_of(run_dir, rng, images={"restored": plane, "ground truth": plane}, scores={"a": row})
    assert texts_of("td", source)[:7] == ["a", "–", "15.00", "–", "–", "0.750", "1.tif"]


def test_the_trained_range_is_named_as_apply_names_it(run_dir, rng):
    with open_volume(ROOT / "sample/test/raw/mixture_000.tif") as volume:
        found = measure_fingerprint(volume.with_block_axes("ZYXC"))
    seen = summarise_fingerprints([found])
    (run_dir / "training.json").write_text(json.dumps(training_json(training_fingerprint=seen.model_dump(mode="json"))))
    cells = texts_of("td", report_of(run_dir, rng))
    (channel,) = found.channels
    features = {name: value - 10 for name, value in channel.features.items()}
    other = found.model_copy(update={"channels": (channel.model_copy(update={"features": features}),)})
    for reason in compare_fingerprint(other, seen).reasons:
        words, value = re.fullmatch(r"(SNR|orientation|[a-z ]+?) [\d.e-]+.*, trained on ([\d.]+)", reason).groups()
        if words not in ("SNR", "orientation"):
            (place,) = [i for i, cell in enumerate(cells) if cell.startswith(words)]
            assert float(cells[place + 1]) == pytest.approx(float(value), rel=0.05)


def test_train_writes_a_report_and_says_where(tmp_path, tiny_config, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config(tmp_path)))
    assert train(["-c", str(path)]) == 0
    report = tmp_path / "run" / "report.html"
    assert f"Report:     {report}" in capsys.readouterr().out
    assert "python apply.py" in report.read_text("utf-8") or "rcan apply" in report.read_text("utf-8")
    for name in ("best.keras", "last.keras", "history.csv", "history.png", "restored.png", "patches.png"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    assert train(["-c", str(path)]) != 0  # the report alone is a result, too


@pytest.mark.filterwarnings("ignore:.*further from the ground truth")
def test_a_training_is_finished_from_python_as_by_the_command(tmp_path, tiny_config, capsys):
    config = Config.checked(tiny_config(tmp_path))
    data = open_data(config)
    run_dir = rcan.train(config, data)
    assert not (run_dir / "report.html").exists()
    finish_training(run_dir, data)
    assert (run_dir / "report.html").is_file()
    assert (run_dir / "restored.png").is_file()
    assert f"Restore volumes with:\n  rcan apply -m {run_dir} -i " in capsys.readouterr().out


def test_the_script_trains_and_names_the_script_that_restores(tmp_path, tiny_config, capsys):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(tmp_path)))
    script = runpy.run_path(str(ROOT / "train.py"))
    arguments = ["-c", str(tmp_path / "config.json")]
    assert run_command(script["train"], arguments, prog="train.py", overrides=Config) == 0
    assert f"python apply.py -m {tmp_path / 'run'} -i " in capsys.readouterr().out
    assert "python apply.py -m" in (tmp_path / "run/report.html").read_text("utf-8")
