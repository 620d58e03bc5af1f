"""Names of images: which files and folders are images, and which raw image belongs to which ground truth."""

import re
import warnings
from pathlib import Path

TIFF_SUFFIXES = (".tif", ".tiff")
VENDOR_SUFFIXES = (".czi", ".nd2", ".lif", ".oir", ".ims", ".dv")  # read through bioio
FILE_SUFFIXES = (*TIFF_SUFFIXES, ".lsm", ".stk", *VENDOR_SUFFIXES)  # LSM and STK are TIFF files
ZARR_METADATA_FILES = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def is_zarr(path):
    """Whether a path is the folder of a Zarr group or array."""
    return any((path / name).is_file() for name in ZARR_METADATA_FILES)


def is_folder_of_images(path):
    """Whether a path is a folder that holds images; the folder of an OME-Zarr image is one image."""
    return path.is_dir() and not is_zarr(path)


def list_volumes(folder, *, may_be_empty=False):
    """List the images of a folder, sorted by name: TIFF files, OME-Zarr folders and files of microscopes.

    Hidden ones and other sub-folders are left out; the suffix of a file is one of `FILE_SUFFIXES` in any case. An
    OSError or ValueError says that there is no such folder, or no image in it.
    """
    folder = Path(str(folder))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: a folder of *.tif or *.tiff files, or of other images, is needed."
        )
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    images = [path for path in paths if (path.suffix.lower() in FILE_SUFFIXES and path.is_file()) or is_zarr(path)]
    if not images and not may_be_empty:
        raise ValueError(
            f"{folder} holds no *.tif or *.tiff file, nor an OME-Zarr folder or *{', *'.join(FILE_SUFFIXES[2:])} "
            "file. Name the folder that holds the images themselves."
        )
    return images


def image_name(path):
    """Return the name of an image without its suffixes: the same for one image in different formats.

    >>> image_name("raw/cell.1.OME.tif"), image_name("gt/cell.1.zarr")
    ('cell.1', 'cell.1')
    """
    suffixes = "|".join(re.escape(suffix) for suffix in (*FILE_SUFFIXES, ".zarr"))
    return re.sub(rf"(\.ome)?({suffixes})$", "", Path(str(path)).name, flags=re.IGNORECASE)


def pair_paths(raw_dir, gt_dir):
    """Pair the images of two folders: a list of (raw, ground truth).

    Images of equal names belong together, in any case of letters and whatever their format: ``a.tif`` and
    ``a.ome.zarr``. Where names differ but both folders hold as many images, these are paired in sorted order, with
    a warning; where one holds more, a ValueError says so.
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
        f"The names in {raw_dir} and {gt_dir} differ: they are paired in sorted order, {shown}{more}.", stacklevel=2
    )
    return pairs
