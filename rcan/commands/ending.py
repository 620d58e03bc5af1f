"""How commands that compute in threads end when they are interrupted."""

import os
import sys

from rcan.cli import run_command

__all__ = ["run_computing_command"]


def run_computing_command(call, argv=None, **options):
    """As `rcan.cli.run_command`, for a command that restores: Ctrl-C and SIGTERM do not wait for the tile in work.

    Parameters
    ----------
    call : callable
    argv : list of str, optional
    **options
        Of `run_command`.

    Returns
    -------
    status : int
    """
    status = run_command(call, argv, **options)
    if status > 128 and _is_computing():  # a tile that is in work cannot be stopped, and nobody waits for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_computing():
    blocks = sys.modules.get("rcan.restoration.blocks")
    return blocks is not None and blocks.is_computing()
