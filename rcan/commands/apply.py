"""`rcan apply`: restore an image, or a folder of them, with a trained network."""

import functools

from rcan.cli import run_command
from rcan.restoration.options import RestoreOptions

__all__ = ["main"]


def apply(options: RestoreOptions):
    """Restore an image or a folder of images with a trained network.

    The output holds the restored volume, in the input's intensity unit, with its axes, voxel size and
    channel names. A folder that was restored in part is completed.
    """
    from rcan.restoration.folder import restore_images

    restore_images(options).check()


main = functools.partial(run_command, apply, prog="apply.py")
