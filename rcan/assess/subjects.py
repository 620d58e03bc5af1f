"""What a network is evaluated on: pairs of images on disk, opened, checked and measured."""

import math
import os
import warnings
from dataclasses import dataclass, replace

import numpy as np

from rcan.atomic_io import printable_name
from rcan.data.pair_check import check_fit
from rcan.data.pairs import Pair
from rcan.data.views import NetworkView, open_network_view
from rcan.intensity import INPUT_CHANNELS
from rcan.io.opening import open_volume
from rcan.io.paths import is_folder_of_images, pair_paths
from rcan.progress import Progress
from rcan.regions import central_region, region_shape, scale_region

__all__ = ["Subject", "find_subjects", "pair_images"]

MOST_VOXELS = 2**24  # of all channels that are evaluated of a frame, in 2 GB: of a larger one its central part


@dataclass(frozen=True)
class Subject(Pair):
    """A pair to evaluate a network on and, where there is one, a second exposure of raw."""

    name: str
    repeat: NetworkView | None
    part: tuple  # region of the raw frames that is evaluated
    numbers: tuple  # of the frames that are evaluated

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
        """Upscaling along (z, y, x)."""
        return (1,) * (3 - len(self.upscaling)) + self.upscaling

    @property
    def is_part(self):
        """Whether less than the whole is evaluated."""
        return region_shape(self.part) != self.raw.shape[:-1]

    @property
    def gt_part(self):
        """The part that is evaluated, in voxels of the ground truth."""
        return scale_region(self.part, self.upscaling)


def pair_images(raw, gt, repeat=None):
    """Pair raw images with their ground truth and with second exposures: (raw, gt, repeat or None) of each pair.

    All are images, or all are folders, whose images are paired by name. Errors name the flags of `rcan evaluate`.
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


def find_subjects(paths, engine, *, scaling, axes=None, gt_axes=None):
    """Open pairs of `pair_images`, and check and measure every one of them before the long work begins.

    They must fit the engine, a `rcan.restoration.engine.KerasEngine`; `scaling` is that of the `TrainingRecord` of
    the network; `axes` and `gt_axes` are given where the metadata of the files is wrong. A ValueError or OSError if a
    file cannot be read, does not fit the network or its partner, is constant, or holds NaN. Frames whose ground truth
    is constant are not evaluated, which is warned of.
    """
    read, written = engine.num_channels
    read //= INPUT_CHANNELS[scaling["normalization"]]
    options = {"ndim": len(engine.factors), "percentiles": scaling["percentiles"], "normalize": "frame"}
    of_raw = {**options, "num_channels": read, **scaling}
    subjects = []
    for raw_path, gt_path, repeat_path in paths:
        raw = open_network_view(open_volume(raw_path, axes=axes), **of_raw)
        gt = open_network_view(open_volume(gt_path, axes=gt_axes), num_channels=written, **options)
        repeat = None
        if repeat_path:
            repeat = open_network_view(open_volume(repeat_path, axes=axes), **of_raw)
            factors = (1,) * len(engine.factors)
            check_fit(raw, repeat, factors, raw.volume.shape[-1], "the second exposure", "--repeat")
        check_fit(raw, gt, engine.factors, written)
        most = MOST_VOXELS // (math.prod(engine.factors) * max(read, written))
        part = central_region(raw.shape[:-1], most)
        numbers = tuple(range(len(raw.frames)))
        subjects.append(Subject(raw, gt, printable_name(raw_path), repeat, part, numbers))
    with Progress(len(subjects), "Checking images", unit="image") as progress:
        for place, subject in enumerate(subjects):
            images = [*filter(None, (subject.raw, subject.gt, subject.repeat))]
            for image in images:
                image.measure_series()
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
        warnings.warn(f"{path}: {num_blank} of {len(subject.numbers)} frames are constant, and left out.", stacklevel=2)
    return replace(subject, numbers=numbers)
