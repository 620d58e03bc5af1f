"""`rcan simulate`: pairs of raw and ground-truth volumes from phantoms or from real volumes."""

import functools

from rcan.cli import run_command
from rcan.simulation.options import SimulateOptions

__all__ = ["main"]


def simulate(options: SimulateOptions):
    """Make pairs of raw and ground-truth volumes by simulating specimen, optics and camera.

    The raw volume is blurred, and noisy as by a camera that catches few photons. The ground truth is sharp
    and free of noise, or, with --source, that real volume itself.
    """
    from rcan.simulation.pairs import simulate_folder

    simulate_folder(options)


main = functools.partial(run_command, simulate, prog="rcan simulate")
