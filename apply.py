"""Restore volumes with a trained network: python apply.py -m model_dir -i raw/ -o out/"""

import sys

from rcan.cli import run_command
from rcan.restoration.options import RestoreOptions


def apply(options: RestoreOptions):
    """Restore an image or a folder of images with a trained network.

    The output holds the restored volume, in the input's intensity unit, with its axes, voxel size and
    channel names. A folder that was restored in part is completed.
    """
    from rcan.restoration.folder import FolderRestoration, restore_watched
    from rcan.restoration.jobs import find_jobs

    jobs = find_jobs(options)  # which image becomes which file
    work = FolderRestoration(options)  # what is restored already, with which settings
    if options.watch:
        restore_watched(work)
    else:
        work.restore(work.select(jobs))  # loads the network, and goes image by image, tile by tile
    work.summarise().check()


if __name__ == "__main__":
    sys.exit(run_command(apply, prog="apply.py"))
