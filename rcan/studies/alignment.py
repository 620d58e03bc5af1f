"""Write copies of pairs that are out of register: shifted against each other, and cropped to what both show."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from rcan.data.pairs import list_pairs
from rcan.io.opening import create_volume, open_volume
from rcan.io.paths import image_name
from rcan.progress import Progress
from rcan.regions import scale_region
from rcan.training.run_data import named_pairs, opening_options

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
        Gets the folders ``raw`` and ``gt`` of each set: ``training/raw`` and so on. Must be empty.
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
        If the folder holds files, or a pair is flipped, distorted, or has too little in common: no shift mends that.
    """
    folder = Path(folder)
    check_output(folder)
    facts = {pair.raw.path: pair for pairs in check.pairs.values() for pair in pairs}
    for pair in facts.values():
        _refuse_others(pair)
    paths = [(name, *paths) for name, named in named_pairs(config).items() for paths in list_pairs(*named)]
    missing = [str(raw) for _, raw, _ in paths if str(raw) not in facts]
    if missing:
        raise ValueError(f"{missing[0]} could not be read: leave it out, or mend it, and align the others then.")
    shifts = {}
    with Progress(len(paths), "Writing aligned pairs", unit="pair") as progress:
        for name, raw, gt in paths:
            pair = facts[str(raw)]
            steps = np.array(pair.shift.voxels if pair.shift.is_certain else [0.0] * len(pair.shift.voxels))
            shifts[str(raw)] = tuple(np.rint(steps).astype(int).tolist())
            rest = (steps - np.rint(steps)) * pair.upscaling if interpolate else np.zeros(len(steps))
            regions = _overlap(pair.raw.shape[:-1], shifts[str(raw)])
            axes = opening_options(config)
            spatial = "ZYX"[-len(steps) :]
            _copy(raw, axes["raw_axes"], spatial, regions[0], folder / name / "raw")
            _copy(gt, axes["gt_axes"], spatial, scale_region(regions[1], pair.upscaling), folder / name / "gt", rest)
            progress.advance()
    print(f"Aligned pairs are in {folder}; {sum(map(any, shifts.values()))} of {len(shifts)} were shifted.", flush=True)
    return shifts


def _refuse_others(pair):
    """Refuse what no shift mends."""
    if pair.orientation.is_certain:
        raise ValueError(f"{pair.gt.path} is {pair.orientation}: turn it back first, with another program.")
    if pair.distortion and pair.distortion.is_certain:
        raise ValueError(f"{pair.raw.path} is {pair.distortion} against its ground truth: no shift mends that.")


def _overlap(shape, steps):
    """Regions of raw and of its ground truth that show the same, where raw lies whole voxels beyond it."""
    sizes = [size - abs(step) for size, step in zip(shape, steps, strict=True)]
    raw = tuple(slice(max(step, 0), max(step, 0) + size) for step, size in zip(steps, sizes, strict=True))
    gt = tuple(slice(max(-step, 0), max(-step, 0) + size) for step, size in zip(steps, sizes, strict=True))
    return raw, gt


def _copy(path, axes, spatial, region, folder, rest=()):
    """Write a region of an image, in its own type, moved back by the rest of a shift."""
    file = open_volume(path, axes=axes, block_axes=f"{spatial}C")
    volume = file.crop(region)
    is_moved = bool(np.any(rest))
    dtype = np.dtype(np.float32) if is_moved or volume.dtype.itemsize > 4 else volume.dtype
    folder.mkdir(parents=True, exist_ok=True)
    with create_volume(
        folder / f"{image_name(path)}.tif",
        axes=file.axes,
        sizes=volume.sizes,
        dtype=dtype,
        voxel_size=volume.voxel_size,
        channel_names=volume.channel_names,
        time_step=volume.time_step,
        file_format="imagej" if dtype.name in ("uint8", "uint16", "float32") else "ome",
    ) as sink:
        for frame in volume.frames:
            block = volume.read(frame, dtype=dtype)
            if is_moved:
                block = ndimage.shift(block, [*rest, 0], order=3, mode="nearest")
            sink.write(frame, None, block)
