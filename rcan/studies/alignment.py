"""Write copies of pairs that are out of register: shifted against each other, and cropped to what both show."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from rcan.data.findings import are_unlike
from rcan.io.opening import FORMATS, create_volume, open_volume
from rcan.io.paths import image_name
from rcan.progress import Progress
from rcan.regions import scale_region
from rcan.training.run_data import opening_options

__all__ = ["align_pairs", "check_output"]


def check_output(folder):
    """Refuse a folder that holds files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already holds files: name another folder with --align, or empty it.")


def align_pairs(config, check, folder, *, interpolate=False):
    """Write aligned copies of all pairs of a configuration.

    Parameters
    ----------
    config : rcan.Config
    check : rcan.studies.data_check.DataCheck
        What `check_data` has found of it.
    folder : path
        Gets the folders ``raw`` and ``gt`` of each set: ``training/raw`` and so on. Must be empty. Both copies of a
        pair have the number of the pair and the name of its raw image.
    interpolate : bool
        Shift the ground truth by what is left of a voxel, too, with cubic splines. Raw images are never interpolated:
        their noise would be another one than that of the images to restore.

    Returns
    -------
    shifts : dict
        Whole voxels, in (Z, Y, X) or (Y, X), by which raw was found to lie beyond its ground truth, by path of raw.

    Raises
    ------
    ValueError, OSError
        If the folder holds files, an image could not be read, or a pair is flipped, distorted or moves with time: no
        shift mends that.
    """
    folder = Path(folder)
    check_output(folder)
    if broken := [finding for finding in check.problems if finding.topic == "files"]:
        raise ValueError(f"{broken[0].text} Leave it out, or mend it, and align the others then.")
    pairs = [(name, number, pair) for name in check.pairs for number, pair in enumerate(check.pairs[name])]
    for _, _, pair in pairs:
        _refuse_others(pair)
    axes, shifts = opening_options(config), {}
    with Progress(len(pairs), "Writing aligned pairs", unit="pair") as progress:
        for name, number, pair in pairs:
            steps = np.array(pair.shift.voxels if pair.shift.is_certain else [0.0] * len(pair.shift.voxels))
            whole = shifts[pair.raw.path] = tuple(np.rint(steps).astype(int).tolist())
            rest = (steps - whole) * pair.upscaling if interpolate else np.zeros(len(steps))
            of_raw, of_gt = _overlap(pair.raw.shape[:-1], whole)
            # both are named as raw, and by number: several raw images may have one ground truth, or one name
            copy = f"{number:03d}_{image_name(pair.raw.path)}.tif"
            _copy(pair.raw.path, axes["raw_axes"], of_raw, folder / name / "raw" / copy)
            _copy(pair.gt.path, axes["gt_axes"], scale_region(of_gt, pair.upscaling), folder / name / "gt" / copy, rest)
            progress.advance()
    print(f"Aligned pairs are in {folder}; {sum(map(any, shifts.values()))} of {len(shifts)} were shifted.", flush=True)
    return shifts


def _refuse_others(pair):
    """Refuse what no shift mends."""
    if pair.orientation.is_certain:
        raise ValueError(f"{pair.gt.path} is {pair.orientation}: turn it back first, with another program.")
    if pair.distortion and pair.distortion.is_certain:
        raise ValueError(f"{pair.raw.path} is {pair.distortion} against its ground truth: no shift mends that.")
    if are_unlike(pair.frame_shifts) or are_unlike(pair.channel_shifts):
        raise ValueError(
            f"{pair.raw.path} moves against its ground truth from frame to frame, or channel to channel: "
            "align each of them by itself, with another program."
        )


def _overlap(shape, steps):
    """Regions of raw and of its ground truth that show the same, where raw lies whole voxels beyond it."""
    sizes = [size - abs(step) for size, step in zip(shape, steps, strict=True)]
    raw = tuple(slice(max(step, 0), max(step, 0) + size) for step, size in zip(steps, sizes, strict=True))
    gt = tuple(slice(max(-step, 0), max(-step, 0) + size) for step, size in zip(steps, sizes, strict=True))
    return raw, gt


def _copy(path, axes, region, copy, rest=()):
    """Write a region of an image, in its own type, moved back by the rest of a shift."""
    file = open_volume(path, axes=axes, block_axes=f"{'ZYX'[-len(region) :]}C")
    volume = file.crop(region)
    is_moved = bool(np.any(rest))
    dtype = np.dtype(np.float32) if is_moved or volume.dtype.itemsize > 4 else volume.dtype
    copy.parent.mkdir(parents=True, exist_ok=True)
    with create_volume(
        copy,
        axes=file.axes,
        sizes=volume.sizes,
        dtype=dtype,
        voxel_size=volume.voxel_size,
        channel_names=volume.channel_names,
        time_step=volume.time_step,
        file_format="imagej" if dtype.name in FORMATS["imagej"] else "ome",
    ) as sink:
        for frame in volume.frames:
            block = volume.read(frame, dtype=dtype)
            if is_moved:
                block = ndimage.shift(block, [*rest, 0], order=3, mode="nearest")
            sink.write(frame, None, block)
