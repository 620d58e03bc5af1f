"""`rcan check`: find out what is wrong with training data before a training."""

import contextlib
import functools
import json
import sys
from pathlib import Path

from pydantic import model_validator

from rcan.cli import run_command
from rcan.config import Config, load_config
from rcan.io.paths import is_folder_of_images
from rcan.options import Settings, option

__all__ = ["CheckOptions", "main"]


class CheckOptions(Settings):
    """Which data to check, and what to do with it; every key of the config file is a flag besides."""

    config: Path | None = option(None, "config file (JSON) of the training, whose data is checked", letter="c")
    input: Path | None = option(None, "raw images: a file or a folder, instead of a config file", letter="i")
    ground_truth: Path | None = option(None, "their ground truth: a file or a folder", letter="g")
    as_json: bool = option(False, "print findings and facts as JSON, and nothing else", alias="json")
    report: Path | None = option(None, "report to write, NAME.html, with pictures of pairs")
    align: Path | None = option(
        None, "folder for aligned copies of all pairs: shifted by whole voxels against each other, and cropped"
    )
    interpolate: bool = option(
        False, "shift the ground truth of aligned copies by the rest of a voxel, too, by interpolation"
    )
    overrides: dict = option({}, "keys of the config file that are given as flags")

    @model_validator(mode="after")
    def _check_together(self):
        has_images = self.input is not None and self.ground_truth is not None
        if (self.config is None) != has_images or (self.input is None) != (self.ground_truth is None):
            raise ValueError("name a config file with -c, or raw images with -i and their ground truth with -g.")
        if self.interpolate and self.align is None:
            raise ValueError("--interpolate is of aligned copies: name their folder with --align, too.")
        return self

    def load_config(self):
        """The configuration whose data is checked."""
        if self.config:
            return load_config(self.config, self.overrides)
        pair = {"raw": self.input.absolute(), "gt": self.ground_truth.absolute()}
        are_folders = all(map(is_folder_of_images, pair.values()))
        data = {"training_data_dir": pair} if are_folders else {"training_image_pairs": [pair]}
        return Config.checked({"recipe": "default", **data, **self.overrides}, label=lambda key: f"--{key}")


def check(options: CheckOptions):
    """Check pairs of raw and ground-truth images before a training, and say what is wrong with them.

    Every finding is ok, a note or a problem; with a problem the exit status is 1. Nothing is changed: `--align` writes
    copies. The quick part of the check is done by `rcan train`, too.
    """
    config = options.load_config()
    from rcan.studies.alignment import align_pairs, check_output
    from rcan.studies.data_check import check_data

    if options.align:
        check_output(options.align)
    with contextlib.redirect_stdout(sys.stderr) if options.as_json else contextlib.nullcontext():
        found = check_data(config, tries_training=options.config is not None)
        if not options.as_json:
            print(f"\n{found}", flush=True)
        if options.report:
            from rcan.report.training_data import write_check_report

            write_check_report(options.report, found)
            print(f"Report: {options.report}", flush=True)
        if options.align:
            align_pairs(config, found, options.align, interpolate=options.interpolate)
    if options.as_json:
        print(json.dumps(found.to_json(), indent=2))
    left = [finding for finding in found.problems if not (options.align and finding.topic == "register")]
    if number := len(left):
        raise ValueError(f"{number} problem{'s' * (number > 1)} found in the data: mend what is said above.")


main = functools.partial(run_command, check, prog="rcan check", overrides=Config)
