"""`evaluate`: how good a network is on images whose ground truth is known, and when to believe it."""

import csv
import functools
import math
import os
import warnings
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rcan.cli import run_command
from rcan.config import Axes, read_devices
from rcan.failures import describe_failure
from rcan.options import Settings, option

__all__ = ["main"]

Width = Annotated[float, Field(ge=0)]
_CACHE_BYTES = 2**27  # of decoded parts of compressed files


class EvaluateOptions(Settings):
    """Flags of the command."""

    model_dir: Path = option(..., "run folder of train.py, or a .keras file", letter="m")
    input: Path = option(..., "raw image, or folder of raw images", letter="i")
    ground_truth: Path = option(
        ..., "ground truth: image or folder, as the input, paired by name", letter="g"
    )
    output: Path = option(..., "folder for report.html, scores.csv and scores.json", letter="o")
    overwrite: bool = option(False, "write to a folder that holds files, and replace an earlier report")
    fwhm: tuple[Width, Width, Width] | None = option(
        None,
        "blur of the raw images beyond that of the ground truth, for Richardson-Lucy deconvolution: full width of a "
        "point at half maximum, µm, Z,Y,X (default: the best of a few)",
    )
    repeat: Path | None = option(
        None,
        "second exposures of the raw images, image or folder as the input: up to which frequency raw and restored "
        "images repeat (Fourier ring correlation)",
    )
    ensemble: Literal[8, 16] | None = option(
        None, "judge the mean over so many turned and flipped copies, as apply.py --ensemble makes it"
    )
    calibrate: bool = option(
        True,
        "compare the spread of the ensemble (of 8 where --ensemble is not given) with the true errors, and keep with "
        "the network the factor that apply.py --uncertainty multiplies it by",
    )
    axes: Axes | None = option(None, "axes of the raw images, where their metadata is wrong")
    gt_axes: Axes | None = option(None, "axes of the ground truth, where their metadata is wrong")
    devices: Annotated[str, BeforeValidator(read_devices)] = option(
        "auto", "auto (all GPUs, or the CPU), cpu, or a number of GPUs"
    )
    seed: int = option(0, "the same seed gives the same null images and intervals", ge=0)


def evaluate(options: EvaluateOptions):
    """Judge a trained network on raw images and their ground truth, and write a report.

    Raw and restored images and the best classical filters are scored against the ground truth; resolution, linearity,
    what the network makes of images without structure, and the spread of its ensemble are measured besides.
    """
    from rcan.run_folder.models import find_model

    find_model(options.model_dir)
    _check_output(options)
    from rcan.assess.evaluation import Study
    from rcan.assess.subjects import pair_images
    from rcan.io.cache import limit_cache

    limit_cache(_CACHE_BYTES)
    paths = pair_images(options.input, options.ground_truth, options.repeat)
    study = Study(
        options.model_dir,
        ensemble=options.ensemble,
        devices=options.devices,
        seed=options.seed,
    )
    study.open(paths, axes=options.axes, gt_axes=options.gt_axes, fwhm=options.fwhm)
    results, pictures = study.run(calibrate=options.calibrate)
    results["settings"] = options.model_dump(mode="json")
    _write(options, results, pictures)
    _tell(results)
    _keep_spread(options, results)
    print(f"\nReport: {options.output / 'report.html'}", flush=True)


def _check_output(options):
    """Refuse a folder that cannot be written, or holds files."""
    folder = options.output
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder with -o.")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise PermissionError(f"{nearest} is no folder that may be written to: name another with -o.")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if held and not options.overwrite:
        raise FileExistsError(
            f"{folder} already holds files ({held[0]}): name another folder with -o, or write to it with --overwrite."
        )


def _write(options, results, pictures):
    """Write the table, the numbers and the report."""
    from rcan.atomic_io import atomic_file, write_json
    from rcan.report.evaluation import write_evaluation_report
    from rcan.report.text import how_much

    options.output.mkdir(parents=True, exist_ok=True)
    rows = [
        {"volume": name, "method": method, **values, "evaluated": how_much(facts)}
        for name, facts in results["volumes"].items()
        for method, values in facts["methods"].items()
    ]
    with (
        atomic_file(options.output / "scores.csv") as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    write_json(options.output / "scores.json", _finite(results))
    write_evaluation_report(options.output / "report.html", results, pictures)


def _finite(value):
    """JSON without NaN, which other programs do not read."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tell(results):
    """Print the tables."""
    from rcan.report.text import (
        FORMS,
        MEASURES,
        how_much,
        interval_words,
        judge_gain,
        tell_calibration,
        tell_nulls,
    )

    volumes, total = results["volumes"], results["total"]
    labels = {
        name: [
            f"  {method}{': ' * bool(values['setting'])}{values['setting'] or ''}"
            for method, values in facts["methods"].items()
        ]
        for name, facts in volumes.items()
    }
    width = max(len(label) for each in labels.values() for label in each)
    print(f"\n{'':{width}}" + "".join(f"{words:>11}" for words in MEASURES.values()))
    for name, facts in volumes.items():
        print(name + f" ({how_much(facts)} ZYX)" * bool(facts["part"]))
        for label, values in zip(labels[name], facts["methods"].values(), strict=True):
            cells = [f"{FORMS[measure].format(values[measure]):>11}" for measure in FORMS]
            print(f"{label:{width}}" + "".join(cells))
    count = f"mean of {len(volumes)} images" if len(volumes) > 1 else "the image"
    print(f"\n{count}, with 95 % intervals over {total['over']}")
    longest = max(map(len, total["methods"]))
    for method, scores in total["methods"].items():
        cells = [
            f"{MEASURES[measure]} {interval_words(scores[measure], FORMS[measure])}"
            for measure in ("psnr", "ssim")
        ]
        print(f"  {method:{longest}}  " + "  ".join(f"{cell:34}" for cell in cells).rstrip())
    for base, gains in total["gains"].items():
        print(judge_gain(base, gains))
    print(f"\n{_resolution_table(volumes)}")
    print(f"\n{tell_nulls(results['nulls'])}")
    if results["calibration"]:
        print(f"\n{tell_calibration(results['calibration'])}")


def _resolution_table(volumes):
    lines, longest = [], max(map(len, volumes))
    for way, title in (
        ("decorrelation", "Resolution by image decorrelation analysis: how fine the structure is"),
        (
            "against the ground truth",
            "By Fourier ring correlation with the ground truth: up to where it is right",
        ),
    ):
        lines.append(f"{title}, lateral / axial (µm)")
        for name, facts in volumes.items():
            cells = [
                f"{image} {_length(values['lateral'])} / {_length(values['axial'])}"
                for image, values in facts["resolution"][way].items()
            ]
            lines.append(f"  {name:{longest}}  {', '.join(cells)}")
    return "\n".join(lines)


def _length(value):
    return "-" if value is None else f"{value:.3f}"


def _keep_spread(options, results):
    """Keep with the network what its spread must be multiplied by."""
    from rcan.run_folder.models import add_to_record, has_record
    from rcan.run_folder.record import SpreadRecord

    calibration = results["calibration"]
    if not calibration or calibration["factor"] is None:
        return
    if not has_record(options.model_dir):
        print(f"{options.model_dir} has no training.json: the factor is in the report alone.")
        return
    covered = calibration["coverage"].get(calibration["found_on"])
    if not covered:  # the factor of an earlier call was checked
        return
    learned = [name for name, volume in results["volumes"].items() if volume["learned_from"]]
    if learned and calibration["found_on"] == "evaluated":  # where errors are smaller than elsewhere
        print(f"{learned[0]} is training or validation data: the factor is in the report alone.")
        return
    facts = {name: calibration[name] for name in ("factor", "ensemble", "found_on")}
    facts |= {name: value for name, value in covered.items() if name != "curve"}
    try:
        add_to_record(options.model_dir, "spread", SpreadRecord(**facts))
    except OSError as failure:
        warnings.warn(f"the factor is in the report alone: {describe_failure(failure)}", stacklevel=2)
        return
    print("The factor is kept with the network: apply.py --uncertainty multiplies by it.")


main = functools.partial(run_command, evaluate, prog="rcan evaluate")
