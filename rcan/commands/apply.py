"""`apply`: restore an image, or a folder of them, with a trained network."""

import csv
import functools
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcan.cli import Settings, describe_failure, import_keras, option, run_command
from rcan.config import Axes, Count

__all__ = ["main"]

Overlap = Annotated[int, Field(ge=0)]
_SCORE_COLUMNS = ["file", "psnr_raw", "psnr_restored", "ssim_raw", "ssim_restored"]


class ApplyOptions(Settings):
    """Flags of the command."""

    model_dir: Path = option(..., "run folder of train.py, or a .keras file", letter="m")
    input: Path = option(..., "image, or folder of *.tif", letter="i")
    output: Path = option(..., "image to write (*.tif), or folder where the input is one", letter="o")
    overwrite: bool = option(False, "replace images that are there already")
    ground_truth: Path | None = option(
        None, "image or folder, as the input: prints PSNR and SSIM and writes scores.csv", letter="g"
    )
    compare: bool = option(False, "write raw, restored and ground truth as channels, normalised")
    bpp: Literal[8, 16, 32] = option(
        32,
        "bits of the output: 32 is float; 8 and 16 round and clip to the type, in the input's unit; with "
        "--compare or --normalize_output_range_between_zero_and_one 0..1 becomes the full range",
        letter="b",
    )
    block_shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] | None = option(
        None, "tile, Z,Y,X or Y,X (default: the patch the network was trained with)", letter="B"
    )
    block_overlap_shape: Annotated[tuple[Overlap, ...], Field(min_length=2, max_length=3)] | None = option(
        None, "overlap of neighbouring tiles (default: an eighth of the tile)", letter="O"
    )
    p_min: float | None = option(
        None, "percentile that becomes 0 (default: as trained, else 2)", ge=0, le=100
    )
    p_max: float | None = option(
        None, "percentile that becomes 1 (default: as trained, else 99.9)", ge=0, le=100
    )
    rescale: bool = option(False, "match the result to the ground truth, affine, least squares")
    normalize_output_range_between_zero_and_one: bool = option(False, "stretch each channel to [0, 1]")
    output_tiff_format: Literal["imagej", "ome"] = option("imagej", "kind of TIFF to write", letter="f")
    axes: Axes | None = option(None, "axes of the input, where its metadata is wrong")
    gt_axes: Axes | None = option(None, "axes of the ground truth, where its metadata is wrong")

    @model_validator(mode="after")
    def _check_together(self):
        if self.rescale and self.normalize_output_range_between_zero_and_one:
            raise ValueError(
                "--rescale and --normalize_output_range_between_zero_and_one contradict each other: choose one."
            )
        if self.rescale and not self.ground_truth:
            raise ValueError("--rescale needs a ground truth to match: name it with -g.")
        if self.gt_axes and not self.ground_truth:
            raise ValueError("--gt_axes is of a ground truth: name it with -g, or leave --gt_axes out.")
        tile, overlap = self.block_shape, self.block_overlap_shape
        if tile and overlap and (len(tile) != len(overlap) or any(map(int.__le__, tile, overlap))):
            raise ValueError(
                f"--block_overlap_shape is {list(overlap)}: it needs as many numbers as --block_shape "
                f"{list(tile)}, each smaller."
            )
        return self


def apply(options: ApplyOptions):
    """Restore an image or a folder of images with a trained network.

    The output holds the restored volume, in the input's intensity unit, with its axes, voxel size and
    channel names.
    """
    jobs = _find_jobs(options)
    folder = options.output if options.input.is_dir() else options.output.absolute().parent
    scores_path = folder / "scores.csv"
    rows = _read_scores(scores_path) if options.ground_truth else {}
    import_keras()
    from rcan.checkpoint import load_model

    model, about = load_model(options.model_dir)
    _protect_training_data(about, [output_path for _, _, output_path in jobs])
    restorer = _make_restorer(options, model, about)
    folder.mkdir(parents=True, exist_ok=True)
    scores, num_failed = {}, 0
    for number, (raw_path, gt_path, output_path) in enumerate(jobs, 1):
        label = f"[{number}/{len(jobs)}] {raw_path.name}" if len(jobs) > 1 else raw_path.name
        try:
            result = restorer.restore(raw_path, output_path, gt_path=gt_path, label=label)
        except Exception as failure:  # whatever is wrong with one image, the others are done
            if len(jobs) == 1:
                raise
            print(f"error: {describe_failure(failure)}", file=sys.stderr)
            num_failed += 1
        else:
            if result:
                scores[output_path.name] = rows[output_path.name] = result
                _write_scores(scores_path, rows)
    if scores:
        from rcan.evaluation import format_scores

        print(f"\nAfter an affine match to the ground truth:\n{format_scores(scores)}")
    print(f"{len(jobs) - num_failed} of {len(jobs)} restored: {options.output}", flush=True)
    if num_failed:
        raise ValueError(f"{num_failed} of {len(jobs)} images were not restored, see above.")


def _read_scores(path):
    """Rows of an earlier call by name of the output, so that scoring one more image keeps them."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        if reader.fieldnames != _SCORE_COLUMNS or any(None in row for row in rows):
            raise FileExistsError(f"{path} is not a table of scores: move it, or name another place with -o.")
        return {row.pop("file"): row for row in rows}


def _write_scores(path, rows):
    from rcan.files import whole_file

    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _SCORE_COLUMNS)
        writer.writeheader()
        writer.writerows({"file": name, **row} for name, row in rows.items())


def _find_jobs(options):
    """Triples of raw, ground-truth (or None) and output path; checks that no input is in danger."""
    from rcan.volume import list_volumes, pair_paths

    if not options.input.exists():
        raise FileNotFoundError(f"{options.input} does not exist: -i takes an image or a folder of them.")
    gt = options.ground_truth
    if gt and not gt.exists():
        raise FileNotFoundError(f"{gt} does not exist: -g takes an image or a folder, as -i.")
    if gt and gt.is_dir() != options.input.is_dir():
        raise ValueError(f"{gt} and {options.input}: -g and -i must both be images or both be folders.")
    if not options.input.is_dir():
        if options.output.is_dir():
            raise IsADirectoryError(
                f"{options.output} is a folder but the input is an image: name a file with -o."
            )
        if options.output.suffix.lower() not in (".tif", ".tiff"):
            raise ValueError(
                f"{options.output} does not end in .tif or .tiff: TIFF is written, name it so with -o."
            )
        if not options.output.absolute().parent.is_dir():
            reason = "is not a folder" if options.output.parent.exists() else "does not exist"
            raise NotADirectoryError(
                f"{options.output.parent} {reason}: make the folder, or name another with -o."
            )
        jobs = [(options.input, gt, options.output)]
    else:
        if options.output.exists() and not options.output.is_dir():
            raise NotADirectoryError(
                f"{options.output} is a file but the input is a folder: name a folder with -o."
            )
        pairs = (
            pair_paths(options.input, gt) if gt else [(path, None) for path in list_volumes(options.input)]
        )
        jobs = [(raw, partner, options.output / _output_name(raw, options)) for raw, partner in pairs]
        _check_names_differ(jobs)
    sources = {os.path.realpath(path) for raw, partner, _ in jobs for path in (raw, partner) if path}
    for _, _, output_path in jobs:
        if os.path.realpath(output_path) in sources:
            raise ValueError(f"{output_path} is an input: name another file or folder with -o.")
    existing = [output_path for _, _, output_path in jobs if output_path.exists()]
    if existing and not options.overwrite:
        more = f" and {len(existing) - 1} more" * (len(existing) > 1)
        raise FileExistsError(
            f"{existing[0]}{more} would be replaced: name another place with -o, or replace with --overwrite."
        )
    return jobs


def _check_names_differ(jobs):
    """Without .ome in its name, an image could take the place of another one's result."""
    inputs = {}
    for raw_path, _, output_path in jobs:
        other = inputs.setdefault(output_path.name, raw_path)
        if other != raw_path:
            raise ValueError(
                f"{other} and {raw_path} would both become {output_path}: rename one, or write OME-TIFF with -f ome."
            )


def _output_name(raw_path, options):
    """The input's name; ImageJ files are not called OME."""
    if options.output_tiff_format == "imagej" and raw_path.stem.lower().endswith(".ome"):
        return raw_path.stem[:-4] + raw_path.suffix
    return raw_path.name


def _protect_training_data(about, output_paths):
    """Whatever a user allows, what the network has learned from is not replaced by what it makes of it."""
    pairs = [*about.get("training", []), *about.get("validation", [])]
    learned_from = {os.path.realpath(pair[kind]) for pair in pairs for kind in ("raw", "gt")}
    for output_path in output_paths:
        if os.path.realpath(output_path) in learned_from:
            raise ValueError(f"{output_path} is training data of this network: name another place with -o.")


def _make_restorer(options, model, about):
    """Settle what the flags leave to how the network was trained."""
    from rcan.restoration import FileRestorer

    ndim = len(model.input_shape) - 2
    low, high = about.get("percentiles", (2, 99.9))
    percentiles = (
        low if options.p_min is None else options.p_min,
        high if options.p_max is None else options.p_max,
    )
    if percentiles[0] >= percentiles[1]:
        raise ValueError(
            f"percentiles {percentiles[0]:g} and {percentiles[1]:g}: --p_min must be below --p_max."
        )
    for flag in ("block_shape", "block_overlap_shape"):
        shape = getattr(options, flag)
        if shape and len(shape) != ndim:
            raise ValueError(
                f"--{flag} is {list(shape)}: the network restores {ndim}D blocks, give {ndim} numbers."
            )
    tile_shape = tuple(options.block_shape or about.get("patch_shape") or (16, 256, 256)[-ndim:])
    overlap = options.block_overlap_shape
    if overlap and any(map(int.__le__, tile_shape, overlap)):
        raise ValueError(
            f"--block_overlap_shape is {list(overlap)}: each number must be smaller than that of the tile, which is "
            f"{list(tile_shape)} as in training. Name larger tiles with --block_shape."
        )
    return FileRestorer(
        model,
        tile_shape=tile_shape,
        overlap=overlap,
        percentiles=percentiles,
        axes=options.axes,
        gt_axes=options.gt_axes,
        bits=options.bpp,
        as_channels=options.compare,
        rescale=options.rescale,
        stretch=options.normalize_output_range_between_zero_and_one,
        file_format=options.output_tiff_format,
    )


main = functools.partial(run_command, apply, prog="apply.py")
