"""`rcan train`: from a config file to a run folder, with scores, a picture and a report at the end."""

import functools
from pathlib import Path

from pydantic import model_validator

import rcan
from rcan.cli import run_command
from rcan.config import Config, load_config
from rcan.options import Settings, option

__all__ = ["TrainOptions", "main"]


class TrainOptions(Settings):
    """Flags of the command; every key of the config file is a flag besides."""

    config: Path = option(..., "config file (JSON)", letter="c")
    overwrite: bool = option(False, "replace the run that output_dir holds")
    resume: bool = option(False, "go on with the run that output_dir holds, if there is one")
    learning_curve: bool = option(
        False,
        "instead of the training, train on an eighth, a quarter, half and all of the pairs for a short time, and say "
        "what more pairs would bring; takes about as long",
    )
    overrides: dict = option({}, "keys of the config file that are given as flags")

    @model_validator(mode="after")
    def _check_together(self):
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run, --overwrite replaces it: choose one.")
        if self.learning_curve and (self.resume or self.overwrite):
            raise ValueError("--learning_curve goes on by itself: leave --resume and --overwrite out.")
        return self

    def load_config(self):
        """Read and check the config file and the flags; a run that is in the way is noticed before Keras is there."""
        from rcan.run_folder.layout import check_run_dir

        config = load_config(self.config, self.overrides)
        if self.learning_curve:
            return config
        check_run_dir(config.output_dir, overwrite=self.overwrite or self.resume)
        return config


def train(options: TrainOptions):
    """Train a network on pairs of raw and ground-truth volumes.

    Every key of the config file can also be given as a flag, which counts more than the file. Keys of
    several parts are written as in JSON, lists of numbers as 16,256,256.
    """
    config = options.load_config()
    if options.learning_curve:
        from rcan.studies.learning_curve import measure_learning_curve
        from rcan.training.run_data import open_data

        measure_learning_curve(config, open_data(config))
        return
    from rcan.report.finish import finish_training
    from rcan.training.run_data import open_data

    data = open_data(config, resume=options.resume)
    run_dir = rcan.train(config, data, overwrite=options.overwrite, resume=options.resume)
    finish_training(run_dir, data)


main = functools.partial(run_command, train, prog="train.py", overrides=Config)
