"""The report of a training: what was trained on what, how it went, how good the network is, how to go on."""

import json
import math
from pathlib import Path

import numpy as np

from rcan.atomic_io import read_json, read_table
from rcan.figures.history import best_epoch, plot_history
from rcan.report.data_tables import pair_table, range_table
from rcan.report.methods import CITATIONS, describe_training
from rcan.report.page import Page
from rcan.report.text import count, describe_duration
from rcan.run_folder.record import TrainingRecord
from rcan.scores import mean_scores

__all__ = ["write_training_report"]

_MOST_PAIRS = 50  # in the table of the data


def write_training_report(run_dir, *, scores, kind, images, shown, voxel_size, num_parameters, command):
    """Write report.html of a run folder with the files of a finished training.

    `scores`, by the name of the volume, and the images of one of them, `shown`, are from
    `rcan.assess.volumes.score_pair`; `kind` says which volumes were scored: test, validation or training. `command`
    restores volumes with the network.
    """
    run_dir = Path(run_dir)
    record, config = TrainingRecord.load(run_dir / "training.json"), read_json(run_dir / "config.json")
    history = read_table(run_dir / "history.csv")
    page = Page("Training", run_dir.absolute().name)
    page.section("Overview")
    page.text(*_overview(record, config, history, scores, kind))
    page.text("Restore volumes with:")
    page.text(command, copy=True)
    _add_curves(page, history)
    _add_scores(page, scores, kind)
    _add_images(page, images, shown, voxel_size, run_dir / "patches.png")
    _add_data(page, record)
    page.section("Methods")
    page.text(describe_training(record, config, history=history, num_parameters=num_parameters), copy=True)
    page.text("Please cite:", *CITATIONS)
    page.section("Settings")
    page.details("settings (config.json)", json.dumps(config, indent=2, ensure_ascii=False))
    page.details("versions", "\n".join(f"{name} {version}" for name, version in record.versions.items()))
    page.write(run_dir / "report.html")


def _overview(record, config, history, scores, kind):
    """The outcome in a few sentences."""
    size = "{num_residual_groups} × {num_residual_blocks} blocks of {num_channels} channels".format(**config)
    own = (record.own_functions or {}).get("network")
    network = f"A network of {own}" if own else f"A residual channel attention network ({size})"
    took = describe_duration(sum(row["seconds"] for row in history))
    pairs = f"{len(record.training)} training and {count(len(record.validation), 'validation pair')}"
    early = "" if len(history) == config["epochs"] else f" of {config['epochs']}, stopped early,"
    length = count(len(history), "epoch")
    yield (
        f"{network} was trained on {pairs} for {length}{early} in "
        f"{took}. The best network is that of epoch {best_epoch(history):.0f}."
    )
    mean = mean_scores([*scores.values()])
    if math.isfinite(mean["psnr_raw"]):
        gain = mean["psnr_restored"] - mean["psnr_raw"]
        yield (
            f"On {len(scores)} {kind} volume{'s' * (len(scores) != 1)} it brings the mean PSNR from "
            f"{mean['psnr_raw']:.2f} to {mean['psnr_restored']:.2f} dB ({gain:+.2f} dB) and the mean SSIM from "
            f"{mean['ssim_raw']:.3f} to {mean['ssim_restored']:.3f}."
        )
        if gain < 0:
            yield (
                "The restored volumes are further from the ground truth than the raw ones: check the pairs, or train "
                "longer."
            )
    if kind != "test":
        yield (
            f"These are {kind} volumes, which the network was {'chosen by' if kind == 'validation' else 'trained on'}: "
            "judge it by volumes that it has never seen."
        )


def _add_curves(page, history):
    page.section("Loss and measures")
    last, best = history[-1], best_epoch(history)
    page.figure(
        plot_history(history),
        caption="Loss and measures of each epoch, on training patches and on validation patches. The network of the "
        "dashed line is kept as the best.",
        alt=f"Curves over {count(len(history), 'epoch')}; the loss ends at {last['loss']:.3g}, the best network is "
        f"that of epoch {best:.0f}",
    )


def _add_scores(page, scores, kind):
    page.section("Scores")
    rows = scores if len(scores) == 1 else {**scores, "mean": mean_scores([*scores.values()])}
    page.table(
        ["volume", "PSNR raw (dB)", "restored", "gain", "SSIM raw", "restored"],
        [
            [
                name,
                _score(row["psnr_raw"], ".2f"),
                _score(row["psnr_restored"], ".2f"),
                _score(row["psnr_restored"] - row["psnr_raw"], "+.2f"),
                _score(row["ssim_raw"], ".3f"),
                _score(row["ssim_restored"], ".3f"),
            ]
            for name, row in rows.items()
        ],
        caption=f"The best network on the {kind} volumes, after an affine match to the ground truth.",
        bold=[(len(rows) - 1, column) for column in range(6) if len(rows) > 1],
    )


def _score(value, form):
    return f"{value:{form}}" if math.isfinite(value) else None  # raw has other channels than the ground truth


def _add_images(page, images, shown, voxel_size, patches):
    page.section("Images")
    error = np.abs(images["restored"] - images["ground truth"])
    page.viewer(
        images,
        voxel_size=voxel_size,
        error=error,
        caption=f"{shown}, matched to the ground truth; background is 0 and signal 1. Drag the divider, click into a "
        "view to move the cross. The error is the absolute difference of restored and ground truth.",
    )
    if error.ndim == 4 and len(error) > 1:
        page.rotation(
            images,
            voxel_size=voxel_size,
            caption=f"{shown}: maximum projections from all sides; drag, or press the arrow keys, to turn.",
        )
    if patches.exists():
        page.picture(
            patches.read_bytes(),
            caption="Validation patches as the network of the last epoch restores them: maximum projections.",
        )


def _add_data(page, record):
    page.section("Data")
    number, (low, high) = len(record.pairs), record.percentiles
    left_out = f" {_MOST_PAIRS} of {number} pairs are listed." if number > _MOST_PAIRS else ""
    page.table(
        *pair_table(record, most=_MOST_PAIRS),
        caption=f"Ranges are the grey values at percentiles {low:g} and {high:g}, which became 0 and 1.{left_out}",
    )
    if record.training_fingerprint:
        page.table(
            *range_table(record.training_fingerprint),
            caption="The trained range: rcan apply compares each image with it and says whether it lies inside.",
        )
