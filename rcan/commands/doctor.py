"""`rcan doctor`: what this machine has, in words that can be pasted into a question."""

import functools

from rcan.cli import run_command
from rcan.options import Settings

__all__ = ["main"]


class DoctorOptions(Settings):
    """There are none."""


def doctor(options: DoctorOptions):
    """Say what this machine has and lacks: versions, GPU or why there is none, memory, disk, optional parts."""
    from rcan.studies.machine import describe_machine

    print("\n".join(describe_machine()), flush=True)


main = functools.partial(run_command, doctor, prog="rcan doctor")
