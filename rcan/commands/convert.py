"""`rcan convert`: write a model of the published program as a file of Keras 3."""

import functools
from pathlib import Path

from rcan.cli import run_command
from rcan.options import Settings, option

__all__ = ["main"]


class ConvertOptions(Settings):
    """Which model to convert, and where to."""

    old: Path = option(..., "weights_*.hdf5 file of the published program, or a folder of them", positional=True)
    new: Path = option(..., "file to write, NAME.keras", positional=True)
    overwrite: bool = option(False, "replace the file that is there")


def convert(options: ConvertOptions):
    """Write a model of the published program as a file of Keras 3, which any program with Keras can load.

    Nothing that the old file holds is run.
    """
    from rcan.run_folder.models import find_model, load_model, save_model

    if options.new.suffix != ".keras":
        raise ValueError(f"{options.new} does not end in .keras: name it so.")
    if options.new.exists() and not options.overwrite:
        raise FileExistsError(f"{options.new} exists: name another file, or replace it with --overwrite.")
    model, _ = load_model(options.old)
    save_model(model, options.new)
    print(f"{options.new}: the network of {find_model(options.old)}, {model.count_params():,} parameters.")


main = functools.partial(run_command, convert, prog="rcan convert")
