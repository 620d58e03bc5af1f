"""What a card says of the training: data, grey values, trained range, settings."""

import math

from rcan.export.markdown import as_text, table
from rcan.figures.history import best_epoch
from rcan.report.data_tables import pair_table, range_table
from rcan.report.methods import describe_scaling, describe_training
from rcan.report.text import count, describe_duration

__all__ = ["describe_data", "describe_grey_values", "describe_range", "describe_settings"]

_MOST_PAIRS = 20  # in the table
_NOT_RECORDED = "Not known: no record of the training (`training.json`) lies beside the network."
_MEASURES = {"loss": "loss", "psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}"}


def describe_data(facts):
    """The pairs of images, with their sizes, grey values and digests."""
    record = facts.record
    if not record.training:
        return _NOT_RECORDED
    number = len(record.pairs)
    held = f" and {len(record.validation)} to choose the best network by" if record.validation else ""
    parts = [
        f"{count(len(record.training), 'pair')} of raw and ground-truth {facts.noun}s to learn from{held}. What they "
        "show is not recorded.",
        table(*pair_table(record, most=_MOST_PAIRS)),
    ]
    if number > _MOST_PAIRS:
        parts.append(f"The first {_MOST_PAIRS} of {number} are listed; `training.json` has all.")
    if any(pair.digests for pair in record.pairs):
        parts.append("`training.json` has a digest of each image (`digests`), by which it can be recognised.")
    return "\n\n".join(parts)


def describe_grey_values(facts):
    """The normalisation."""
    low, high = facts.record.percentiles
    if not facts.record.training:
        return (
            f"Not known. `rcan apply` maps the grey values at percentiles {low:g} and {high:g} of each image to 0 and "
            "1, as it does where nothing else is recorded."
        )
    return f"{describe_scaling(facts.record, facts.noun)} `rcan apply` does the same with each image."


def describe_range(facts):
    """The range of raw images that the network has learned from, and what the words for it mean."""
    fingerprint = facts.record.training_fingerprint
    if not fingerprint:
        return "Not known: what the raw images looked like is not recorded, `rcan apply` cannot compare others with it."
    sizes = [
        f"{axis} {' to '.join(dict.fromkeys(f'{size:.3g}' for size in ends))}"
        for axis, ends in zip("zyx", fingerprint.voxel_size, strict=True)
        if ends and axis in facts.axes
    ]
    parts = [
        f"Of {count(fingerprint.num_volumes, 'raw image')} of the training:",
        table(*range_table(fingerprint)),
        f"Size of a voxel (µm): {', '.join(sizes) or 'not known'}. The signal-to-noise ratio is that at the bright end "
        "of an image. Fine structure is what blur takes away.",
    ]
    if facts.config and facts.config.get("photon_range"):
        low, high = facts.config["photon_range"]
        parts.append(f"It was trained for {low:g} to {high:g} times the light of the raw images (`photon_range`).")
    parts.append(
        "`rcan apply` compares each image with this range and says `inside` (like the images of the training), `edge` "
        "(a little beyond) or `outside` (nobody has tried such images), and why. `--strict` leaves alone what is "
        "outside. `inside` does not mean that the result is right."
    )
    return "\n\n".join(parts)


def describe_settings(facts):
    """The methods paragraph, and how the training went."""
    if not facts.is_recorded:
        return _NOT_RECORDED if not facts.record.training else "Not known: its `config.json` is not beside the network."
    record, config, history = facts.record, facts.config, facts.history
    lines = [f"Recipe: {config['recipe']}"] if config.get("recipe") else []
    if history:
        lines.append(f"Duration: {count(len(history), 'epoch')} in {describe_duration(_seconds(history))}")
        if best := best_epoch(history):
            row = next(row for row in history if row["epoch"] == best)
            lines.append(f"Best network, of epoch {best:.0f}: {_describe_row(row)}")
    lines.append(f"Versions: {', '.join(f'{name} {version}' for name, version in record.versions.items())}")
    paragraph = describe_training(record, config, history=history, num_parameters=facts.num_parameters)
    return "\n".join([f"{as_text(paragraph)}\n", *(f"- {line}" for line in lines)])


def _seconds(history):
    return sum(row.get("seconds", 0) for row in history)


def _describe_row(row):
    """Loss and measures of an epoch, on validation patches where there are such."""
    prefix, patches = ("val_", "validation") if "val_loss" in row else ("", "training")
    shown = [f"loss {row[f'{prefix}loss']:.4g}"]
    shown += [
        form.format(row[f"{prefix}{name}"])
        for name, form in _MEASURES.items()
        if name != "loss" and math.isfinite(row.get(f"{prefix}{name}", math.nan))
    ]
    return f"{', '.join(shown)} on {patches} patches"
