"""What a network is evaluated on: pairs of images on disk, opened, checked and measured."""

import math
import os
import warnings
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import printable_name
from rcan.data.views import NetworkView, check_fit, open_network_view
from rcan.io.opening import open_volume
from rcan.io.paths import is_folder_of_images, pair_paths
from rcan.progress import Progress
from rcan.regions import central_region, region_shape, scale_region

__all__ = ["Subject", "find_subjects", "pair_images"]

MOST_VOXELS = (
    2**24
)  # of all channels of a frame that is evaluated, which takes about 2 GB: beyond, its central part


class Subject(NamedTuple):
    """A raw image, its ground truth and, where there is one, a second exposure.

    Attributes
    ----------
    name : str
    raw, gt : NetworkView
    repeat : NetworkView or None
    part : tuple of slice
        Of the raw frames, that is evaluated.
    factors : tuple of int
        Ground-truth voxels for each raw voxel.
    numbers : tuple of int
        Of the frames that are evaluated.
    """

    name: str
    raw: NetworkView
    gt: NetworkView
    repeat: NetworkView | None
    part: tuple
    factors: tuple
    numbers: tuple

    @property
    def voxel_size(self):
        """(z, y, x) of the ground truth in µm: what its file says, else that of raw divided by the upscaling."""
        sizes = zip(self.gt.volume.voxel_size, self.raw.volume.voxel_size, self._factors, strict=True)
        return tuple(own or (raw and raw / factor) for own, raw, factor in sizes)

    @property
    def raw_voxel_size(self):
        """(z, y, x) of raw in µm."""
        sizes = zip(self.raw.volume.voxel_size, self.voxel_size, self._factors, strict=True)
        return tuple(own or (gt and gt * factor) for own, gt, factor in sizes)

    @property
    def _factors(self):
        return (1,) * (3 - len(self.factors)) + self.factors

    @property
    def is_part(self):
        """Whether less than the whole is evaluated."""
        return region_shape(self.part) != self.raw.volume.shape[:-1]

    def read(self, number, part=None):
        """Raw and ground truth of a frame, normalised: a part in voxels of raw, or the one that is evaluated."""
        part = part or self.part
        return self.raw.read(number, part), self.gt.read(number, scale_region(part, self.factors))

    @property
    def gt_part(self):
        """The part that is evaluated, in voxels of the ground truth."""
        return scale_region(self.part, self.factors)


def pair_images(raw, gt, repeat=None):
    """Pair raw images with their ground truth, and with second exposures.

    Parameters
    ----------
    raw, gt : Path
        Two images, or two folders, whose images are paired by name.
    repeat : Path, optional
        As `raw`.

    Returns
    -------
    paths : list of (Path, Path, Path or None)

    Raises
    ------
    ValueError, OSError
        If they do not fit each other, or are not there.
    """
    for path, flag in ((raw, "-i"), (gt, "-g"), (repeat, "--repeat")):
        if path and not path.exists():
            raise FileNotFoundError(f"{path} does not exist: {flag} takes an image or a folder of them.")
        if path and is_folder_of_images(path) != is_folder_of_images(raw):
            raise ValueError(f"{path} and {raw}: {flag} and -i must both be images or both be folders.")
    for path, flag in ((gt, "-g"), (repeat, "--repeat")):
        if path and os.path.samefile(path, raw):
            raise ValueError(f"{path} is the raw image, too: name another with {flag}.")
    if not is_folder_of_images(raw):
        return [(raw, gt, repeat)]
    repeats = dict(pair_paths(raw, repeat)) if repeat else {}
    return [(raw_path, gt_path, repeats.get(raw_path)) for raw_path, gt_path in pair_paths(raw, gt)]


def find_subjects(paths, engine, *, percentiles, axes=None, gt_axes=None):
    """Open pairs, and check and measure every one of them before the long work begins.

    Parameters
    ----------
    paths : list of (Path, Path, Path or None)
        From `pair_images`.
    engine : callable
        As `rcan.restoration.KerasEngine`: the pairs must fit it.
    percentiles : tuple of float
        That become 0 and 1.
    axes, gt_axes : str, optional
        Of the files, where their metadata is wrong.

    Returns
    -------
    subjects : list of Subject

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, does not fit the network or its partner, is constant, or holds NaN.

    Warns
    -----
    UserWarning
        Of frames whose ground truth is constant: they are not evaluated.
    """
    read, written = engine.num_channels
    subjects = []
    how = {"ndim": len(engine.factors), "percentiles": percentiles, "normalize": "frame"}
    for raw_path, gt_path, repeat_path in paths:
        raw = open_network_view(open_volume(raw_path, axes=axes), num_channels=read, **how)
        gt = open_network_view(open_volume(gt_path, axes=gt_axes), num_channels=written, **how)
        repeat = None
        if repeat_path:
            repeat = open_network_view(open_volume(repeat_path, axes=axes), num_channels=read, **how)
            check_fit(raw, repeat, raw.volume.shape, "the second exposure", "--repeat")
        check_fit(raw, gt, (*map(int.__mul__, raw.volume.shape[:-1], engine.factors), written))
        most = MOST_VOXELS // (math.prod(engine.factors) * max(read, written))
        part = central_region(raw.volume.shape[:-1], most)
        numbers = tuple(range(len(raw.frames)))
        subjects.append(Subject(printable_name(raw_path), raw, gt, repeat, part, engine.factors, numbers))
    with Progress(len(subjects), "Checking images", unit="image") as progress:
        for place, subject in enumerate(subjects):
            images = [*filter(None, (subject.raw, subject.gt, subject.repeat))]
            for image in images:
                image.measure()
            subjects[place] = _leave_out_blank_frames(subject)
            for image in images:
                image.volume.close()  # frees what measuring has decoded
            progress.advance()
    return subjects


def _leave_out_blank_frames(subject):
    """A constant ground truth, such as a plane of zeros, is matched without error by whatever image."""
    path = subject.gt.volume.path
    numbers = tuple(n for n in subject.numbers if np.ptp(subject.gt.read(n, subject.gt_part)) > 0)
    if not numbers:
        raise ValueError(
            f"{path} is constant in the part that is evaluated, its middle: leave it out, or crop it to where there is "
            "signal."
        )
    num_blank = len(subject.numbers) - len(numbers)
    if num_blank:
        warnings.warn(
            f"{path}: {num_blank} of {len(subject.numbers)} frames are constant, and left out.", stacklevel=2
        )
    return subject._replace(numbers=numbers)
