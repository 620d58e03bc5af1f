"""`rcan limits`: where a network stops helping, along ladders of photons and of blur."""

import functools

from rcan.assess.options import LimitsOptions
from rcan.cli import run_command

__all__ = ["main"]


def limits(options: LimitsOptions):
    """Find the noise and the blur at which a network stops helping.

    Ground truth, phantoms or images of yours, is degraded step by step. At each step the restored image is compared
    with raw and with the best classical method. Finished steps are kept: the same call goes on after an
    interruption.
    """
    from rcan.studies.limits import run_limits

    run_limits(options)


main = functools.partial(run_command, limits, prog="rcan limits")
