"""`rcan demo`: a first network on simulated pairs, for those who have no data at hand."""

import functools
from pathlib import Path

from rcan.cli import run_command
from rcan.config import Config
from rcan.options import Settings, option

__all__ = ["DemoOptions", "main"]


class DemoOptions(Settings):
    """Where the demonstration goes; every key of a config file is a flag besides, but for those of the data."""

    folder: Path = option(Path("rcan_demo"), "folder for pairs, config, network and restored volumes", letter="f")
    overrides: dict = option({}, "keys of the config file that are given as flags")


def demo(options: DemoOptions):
    """Simulate pairs, train a small network with them in a few minutes, and restore volumes that it has not seen.

    The same call completes what was interrupted.
    """
    from rcan.studies.first_network import run_demo

    report = run_demo(options.folder, options.overrides)
    print(
        f"\nLook at {report.absolute()} in a browser, and at {options.folder / 'restored'} in Fiji or napari.\n"
        f"Your own pairs: copy {options.folder / 'config.json'}, name your folders in it, and run "
        "`rcan train -c my_config.json`.",
        flush=True,
    )


main = functools.partial(run_command, demo, prog="rcan demo", overrides=Config)
