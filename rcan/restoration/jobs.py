"""Which images a call of `apply` restores, and under which names."""

import functools
import glob
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rcan.io.images import ImageFile, find_image
from rcan.io.opening import list_images
from rcan.io.paths import TIFF_SUFFIXES, ZARR_METADATA_FILES, image_name, is_folder_of_images, list_volumes, pair_paths

__all__ = ["Job", "fills_folder", "find_jobs"]

_ZARR_SUFFIXES = (".zarr",)


class Job(NamedTuple):
    """One image to restore."""

    raw: ImageFile
    gt: ImageFile | None
    output: Path
    spread: Path | None  # where the uncertainty goes
    format: str
    preview: Path | None = None
    movie: Path | None = None

    @property
    def images(self):
        """All images that are written."""
        return [path for path in (self.output, self.spread) if path]

    @property
    def pictures(self):
        """What is drawn of the images, for people."""
        return [path for path in (self.preview, self.movie) if path]

    @property
    def outputs(self):
        """All files that are written."""
        return self.images + self.pictures


def find_jobs(options):
    """Find the images that `RestoreOptions` name, and check that no input would be replaced.

    A folder without images is an error unless it is watched. A ValueError or OSError says that inputs and outputs do
    not fit each other, or are not there.
    """
    raw, gt = options.input, options.ground_truth
    _check_inputs(options)
    if is_folder_of_images(raw) and not options.series:
        paths = pair_paths(raw, gt) if gt else [(path, None) for path in list_volumes(raw, may_be_empty=options.watch)]
        pairs = [_pair_images(options, *pair, may_fail=True) for pair in paths]
        jobs = _fill_folder(options, [pair for of_file in pairs for pair in of_file])
    else:
        may_be_several = raw.exists() and not options.series
        images = _pair_images(options, raw, gt, may_fail=not may_be_several)
        are_several = len(images) > 1 or (may_be_several and options.image is not None and fills_folder(options))
        jobs = _fill_folder(options, images) if are_several else [_one_job(options, *images[0])]
    sources = {os.path.realpath(path) for job in jobs for path in _files_of(job)}
    for job in jobs:
        for path in job.outputs:
            place = os.path.realpath(path)
            is_around = any(source.startswith(os.path.join(place, "")) for source in sources)
            is_within = any(place.startswith(os.path.join(source, "")) for source in sources)
            if place in sources or is_around or is_within:
                raise ValueError(f"{path} is an input: name another file or folder with -o.")
    return jobs


def _check_inputs(options):
    """Refuse inputs that are not there, or not of the kind that the options need."""
    raw, gt, output = options.input, options.ground_truth, options.output
    is_pattern, is_folder = not raw.exists() and glob.has_magic(str(raw)), is_folder_of_images(raw)
    if not raw.exists() and not is_pattern:
        raise FileNotFoundError(f"{raw} does not exist: -i takes an image or a folder of them.")
    if gt and not gt.exists() and not (is_pattern and glob.has_magic(str(gt))):
        raise FileNotFoundError(f"{gt} does not exist: -g takes an image or a folder, as -i.")
    if options.series and not is_folder:
        raise ValueError(f"{raw} is not a folder of images: --series takes one (a pattern in -i needs no --series).")
    if options.watch and not is_folder:
        raise ValueError(f"{raw} is not a folder of images: --watch takes one.")
    if gt and is_folder_of_images(gt) != is_folder:
        raise ValueError(f"{gt} and {raw}: -g and -i must both be images or both be folders.")
    if is_folder and not options.series and output.exists() and os.path.samefile(raw, output):
        raise ValueError(f"{output} is the input folder, too: results would be taken for inputs. Name another with -o.")


def _files_of(job):
    """All files and folders that a job reads, those of a series one by one."""
    for path in (image.path for image in (job.raw, job.gt) if image):
        yield path
        if path.is_dir():
            yield from path.iterdir()
        elif not path.exists():
            yield from glob.glob(str(path))


def fills_folder(options):
    """Whether `RestoreOptions` name a folder to write to: for a folder of images, or a file of several."""
    is_image = options.output.suffix.lower() in (*TIFF_SUFFIXES, *_ZARR_SUFFIXES)
    return not is_image or (is_folder_of_images(options.input) and not options.series)


def _pair_images(options, raw, gt, *, may_fail):
    """The images of a file with those of its ground truth, or None: a list of pairs of `ImageFile`.

    With `may_fail` a file that cannot be read counts as one image: what is wrong is said when it is restored.
    """
    images = _choose_images(raw, options.axes, options.image, may_fail=may_fail)
    if gt is None or (len(images) == 1 and options.image is None):
        return [(image, gt and ImageFile(gt)) for image in images]
    truths = {str(image.number): image for image in _list_images(gt, options.gt_axes, may_fail=may_fail)}
    if len(truths) == 1 and len(images) == 1:
        return [(images[0], ImageFile(gt))]
    return [(image, truths.get(str(image.number), ImageFile(gt, image.number))) for image in images]


def _choose_images(path, axes, chosen, *, may_fail):
    """Images of a file: all, or the one of this number or title."""
    images = _list_images(path, axes, may_fail=may_fail)
    if chosen is None:
        return images
    if len(images) > 1:
        with suppress(ValueError):  # it is said when the image is restored
            return [images[find_image(path, [image.title for image in images], chosen)]]
    return [ImageFile(path, chosen)]


def _list_images(path, axes, *, may_fail):
    """As `rcan.io.opening.list_images`."""
    if not may_fail:
        return list_images(path, axes=axes)
    files = [path] if path.is_file() else [path / name for name in ZARR_METADATA_FILES if (path / name).is_file()]
    return _list_once(path, axes, tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=10_000)
def _list_once(path, axes, state):
    """The same, once for each `state` of a file: a folder that is watched is looked through every second."""
    try:
        return list_images(path, axes=axes)
    except (OSError, ValueError, ImportError, MemoryError):
        return [ImageFile(path)]


def _one_job(options, raw, gt):
    """The job of an image, or of many files that are one."""
    output = options.output
    if is_folder_of_images(output):
        raise IsADirectoryError(f"{output} is a folder but the input is one image: name a file with -o.")
    suffix = output.suffix.lower()
    if suffix not in (*TIFF_SUFFIXES, *_ZARR_SUFFIXES):
        raise ValueError(
            f"{output} does not end in .tif, .tiff or .zarr: TIFF or OME-Zarr is written, name it so with -o."
        )
    chosen = options.format or ("zarr" if suffix in _ZARR_SUFFIXES else options.output_tiff_format)
    is_called_ome = output.name.lower().endswith((".ome.tif", ".ome.tiff"))
    if is_called_ome and not options.format:
        chosen = "ome"
    if is_called_ome and chosen == "imagej":
        raise ValueError(f"{output} cannot be written as imagej: name it without .ome, or leave --format out.")
    if (suffix in _ZARR_SUFFIXES) != chosen.startswith("zarr"):
        raise ValueError(
            f"{output} cannot be written as {chosen}: name it {'*.zarr' if suffix in TIFF_SUFFIXES else '*.tif'}."
        )
    if not output.absolute().parent.is_dir():
        reason = "is not a folder" if output.parent.exists() else "does not exist"
        raise NotADirectoryError(f"{output.parent} {reason}: make the folder, or name another with -o.")
    return _name_job(options, raw, gt, output, chosen)


def _fill_folder(options, images):
    """The jobs of several images, with the names of their outputs in a folder."""
    if options.output.exists() and not options.output.is_dir():
        what = "is a folder" if options.input.is_dir() else f"holds {len(images)} images (--image takes one)"
        what = what if len(images) > 1 or options.input.is_dir() else "is restored into a folder, if -o has no suffix"
        raise NotADirectoryError(f"{options.output} is a file but the input {what}: name a folder with -o.")
    if not fills_folder(options):
        raise ValueError(
            f"{options.input} holds {len(images)} images: name a folder with -o instead of {options.output}, or one "
            "of the images with --image."
        )
    jobs, inputs = [], {}
    for raw, gt in images:
        name, chosen = _output_name(raw.path, options)
        stem = image_name(name)
        job = _name_job(options, raw, gt, options.output / f"{stem}{raw.suffix_of_name}{name[len(stem) :]}", chosen)
        for path in job.outputs:
            other = inputs.setdefault(path, raw)
            if other != raw:
                raise ValueError(
                    f"{other} and {raw} would both become {path}: rename one, or write OME-TIFF with -f ome."
                )
        jobs.append(job)
    return jobs


def _output_name(raw_path, options):
    """The input's name with the suffix of the format, and the format; ImageJ files are not called OME."""
    is_zarr = raw_path.suffix.lower() in _ZARR_SUFFIXES
    chosen = options.format or ("zarr" if is_zarr else options.output_tiff_format)
    if chosen.startswith("zarr"):
        return raw_path.name if is_zarr else f"{image_name(raw_path)}.ome.zarr", chosen
    if raw_path.suffix.lower() not in TIFF_SUFFIXES:
        return image_name(raw_path) + (".ome.tif" if chosen == "ome" else ".tif"), chosen
    if chosen == "imagej" and raw_path.stem.lower().endswith(".ome"):
        return raw_path.stem[:-4] + raw_path.suffix, chosen
    return raw_path.name, chosen


def _name_job(options, raw, gt, output, chosen):
    """The job of an image; what is written besides goes beside the output."""
    name = image_name(output)
    spread = output.with_name(f"{name}_uncertainty{output.name[len(name) :]}")
    return Job(
        raw,
        gt,
        output,
        spread if options.uncertainty else None,
        chosen,
        output.with_name(f"{name}_preview.png") if options.preview else None,
        output.with_name(f"{name}_movie.{options.movie}") if options.movie else None,
    )
