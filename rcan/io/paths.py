"""Which raw file belongs to which ground truth, and whether the two can be a pair."""

import itertools
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np

from rcan.io.volume import VENDOR_SUFFIXES, is_zarr

FILE_SUFFIXES = (".tif", ".tiff", *VENDOR_SUFFIXES)
SLAB_VOXELS = 2**21  # voxels of ground truth compared at a time, 8 MB in float32
MIN_CORRELATION = 0.1  # below it two images look unrelated: pure noise gives 0, weak but real signal more


def list_volumes(folder, *, may_be_empty=False):
    """List the images of a folder, sorted by name: TIFF files, OME-Zarr folders and files of microscopes.

    Hidden ones and other sub-folders are left out; the suffix of a file is one of `FILE_SUFFIXES` in any case.

    Parameters
    ----------
    folder : str or Path
    may_be_empty : bool
        Whether a folder without images is right.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no such image.
    """
    folder = Path(str(folder))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: a folder of *.tif or *.tiff files, or of other images, is needed."
        )
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    images = [
        path for path in paths if (path.suffix.lower() in FILE_SUFFIXES and path.is_file()) or is_zarr(path)
    ]
    if not images and not may_be_empty:
        raise ValueError(
            f"{folder} holds no *.tif or *.tiff file, nor an OME-Zarr folder or *{', *'.join(VENDOR_SUFFIXES)} "
            "file. Name the folder that holds the images themselves."
        )
    return images


def image_name(path):
    """Name of an image without its suffixes: what files of one image have in common, whatever their format.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    name : str

    Examples
    --------
    >>> image_name("raw/cell.1.OME.tif"), image_name("gt/cell.1.zarr")
    ('cell.1', 'cell.1')
    """
    suffixes = "|".join(re.escape(suffix) for suffix in (*FILE_SUFFIXES, ".zarr"))
    return re.sub(rf"(\.ome)?({suffixes})$", "", Path(str(path)).name, flags=re.IGNORECASE)


def pair_paths(raw_dir, gt_dir):
    """Pair the files of two folders.

    Images of equal names belong together, in any case of letters and whatever their format: ``a.tif`` and
    ``a.ome.zarr``. Where names differ but both folders hold as many images, these are paired in sorted order, with
    a warning.

    Parameters
    ----------
    raw_dir, gt_dir : str or Path

    Returns
    -------
    pairs : list of (Path, Path)
        Raw and ground truth.

    Raises
    ------
    ValueError
        If one folder holds more files than the other.
    """
    raw_paths, gt_paths = list_volumes(raw_dir), list_volumes(gt_dir)
    raw_names = {image_name(path).lower(): path for path in raw_paths}
    gt_names = {image_name(path).lower(): path for path in gt_paths}
    if len(raw_paths) != len(gt_paths):
        alone = [str(raw_names[name]) for name in sorted(raw_names.keys() - gt_names.keys())]
        alone += [str(gt_names[name]) for name in sorted(gt_names.keys() - raw_names.keys())]
        more = f" and {len(alone) - 10} more" if len(alone) > 10 else ""
        raise ValueError(
            f"{raw_dir} holds {len(raw_paths)} images but {gt_dir} holds {len(gt_paths)}: each raw image "
            f"needs one ground truth, best of the same name. Without partner: {', '.join(alone[:10])}{more}. "
            "Add or remove files, or name the pairs one by one (`training_image_pairs` in a config file)."
        )
    if raw_names.keys() == gt_names.keys() and len(raw_names) == len(raw_paths):
        return [(path, gt_names[name]) for name, path in raw_names.items()]
    pairs = list(zip(raw_paths, gt_paths, strict=True))
    shown = ", ".join(f"{raw.name} with {gt.name}" for raw, gt in pairs[:5])
    more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    warnings.warn(
        f"The names in {raw_dir} and {gt_dir} differ: they are paired in sorted order, {shown}{more}.",
        stacklevel=2,
    )
    return pairs


def check_pair(raw, gt):
    """Check that two volumes can be a training pair; both are read once, slab by slab.

    Parameters
    ----------
    raw, gt : Volume

    Returns
    -------
    correlation : float
        Pearson's, between raw and ground truth.

    Raises
    ------
    ValueError
        If both are one file, have different numbers of frames or shapes that do not fit, hold NaN or infinite
        values, or are constant.

    Warns
    -----
    UserWarning
        If the Pearson correlation of raw and ground truth is near or below zero.
    """
    if os.path.samefile(raw.path, gt.path):
        raise ValueError(f"{raw.path} is both raw and gt of a pair: nothing can be learned. Name two files.")
    if [[*frame.values()] for frame in raw.frames] != [[*frame.values()] for frame in gt.frames]:
        counts = [
            " x ".join(f"{last + 1} {axis}" for axis, last in volume.frames[-1].items()) or "1"
            for volume in (gt, raw)
        ]
        raise ValueError(
            f"{gt.path} has {counts[0]} frames (time points, or axes outside {gt.block_axes}) but "
            f"{raw.path} has {counts[1]}: they must agree. Crop one, or name the axes with raw_data_format and "
            "gt_data_format if two are swapped."
        )
    small, large = raw.shape[:-1], gt.shape[:-1]
    if len(small) != len(large) or any(b < a or b % a for a, b in zip(small, large, strict=True)):
        axes = raw.block_axes.replace("C", "")
        raise ValueError(
            f"{gt.path} is {large} but {raw.path} is {small} ({axes}): gt must measure "
            "a whole multiple of raw along each axis. Crop one of them, or name its axes with raw_data_format or "
            "gt_data_format if two are swapped."
        )
    invalid, lowest, highest, correlation = _compare(raw, gt)
    for volume, count, low, high in zip((raw, gt), invalid, lowest, highest, strict=True):
        if count:
            raise ValueError(
                f"{volume.path} holds {count} values that are NaN or infinite: all must be finite numbers. "
                "Replace them, or leave the image out."
            )
        if low == high:
            raise ValueError(f"{volume.path} is {low:g} everywhere: nothing can be learned. Leave it out.")
    if correlation < MIN_CORRELATION:
        warnings.warn(
            f"{raw.path} and {gt.path} have a correlation of {correlation:.2f}, near or below zero: they may "
            "not belong together. Look at both, and check the pairing and the axes.",
            stacklevel=2,
        )
    return correlation


def _compare(raw, gt):
    """Count of values that are not finite, minimum and maximum of both volumes, and their correlation."""
    factors = [b // a for a, b in zip(raw.shape[:-1], gt.shape[:-1], strict=True)]
    centre = tuple(slice(factor // 2, None, factor) for factor in factors)  # of the gt voxels in a raw voxel
    num_voxels = SLAB_VOXELS // (math.prod(factors) * max(raw.shape[-1], gt.shape[-1]))
    invalid, lowest, highest = np.zeros(2, int), np.full(2, np.inf), np.full(2, -np.inf)
    shift, sums = None, np.zeros(6)  # number, x, y, xx, yy, xy; the shift keeps the differences exact
    for raw_frame, gt_frame in zip(raw.frames, gt.frames, strict=True):
        for region in _slabs(raw.shape[:-1], num_voxels):
            slabs = raw.read(raw_frame, region), gt.read(gt_frame, enlarge_region(region, factors))
            invalid += [slab.size - np.count_nonzero(np.isfinite(slab)) for slab in slabs]
            if invalid.any():
                continue
            lowest = np.minimum(lowest, [slab.min() for slab in slabs])
            highest = np.maximum(highest, [slab.max() for slab in slabs])
            means = [slab.mean(axis=-1, dtype=np.float64) for slab in (slabs[0], slabs[1][centre])]
            shift = shift or [mean.mean() for mean in means]
            x, y = (mean - s for mean, s in zip(means, shift, strict=True))
            sums += (x.size, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())
    if invalid.any():
        return invalid, lowest, highest, math.nan
    x, y, xx, yy, xy = sums[1:] / sums[0]
    scale = math.sqrt(max(xx - x * x, 0) * max(yy - y * y, 0))
    return invalid, lowest, highest, (xy - x * y) / scale if scale else 0.0


def enlarge_region(region, factors):
    """Region of the ground truth that belongs to a region of raw.

    Parameters
    ----------
    region : tuple of slice
        With start and stop, in voxels of raw.
    factors : sequence of int
        Ground-truth voxels for each voxel of raw on each axis.

    Returns
    -------
    larger : tuple of slice
    """
    return tuple(slice(s.start * f, s.stop * f) for s, f in zip(region, factors, strict=True))


def _slabs(shape, num_voxels):
    """Cut a shape into regions of at most `num_voxels` voxels, whole along the last axes where possible."""
    steps = list(shape)
    for axis in range(len(steps)):
        steps[axis] = max(1, min(steps[axis], num_voxels // math.prod(steps[axis + 1 :])))
    cuts = [
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, steps, strict=True)
    ]
    return itertools.product(*cuts)
