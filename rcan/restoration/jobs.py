"""Which images a call of `apply` restores, and under which names."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from rcan.io.paths import TIFF_SUFFIXES, image_name, is_folder_of_images, list_volumes, pair_paths

__all__ = ["Job", "find_jobs"]

_ZARR_SUFFIXES = (".zarr",)


class Job(NamedTuple):
    """One image to restore."""

    raw: Path
    gt: Path | None
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
    is_pattern = not raw.exists() and glob.has_magic(str(raw))
    if not raw.exists() and not is_pattern:
        raise FileNotFoundError(f"{raw} does not exist: -i takes an image or a folder of them.")
    if gt and not gt.exists() and not (is_pattern and glob.has_magic(str(gt))):
        raise FileNotFoundError(f"{gt} does not exist: -g takes an image or a folder, as -i.")
    is_folder = is_folder_of_images(raw)
    if options.series and not is_folder:
        raise ValueError(f"{raw} is not a folder of images: --series takes one (a pattern in -i needs no --series).")
    if options.watch and not is_folder:
        raise ValueError(f"{raw} is not a folder of images: --watch takes one.")
    if gt and is_folder_of_images(gt) != is_folder:
        raise ValueError(f"{gt} and {raw}: -g and -i must both be images or both be folders.")
    is_one = options.series or not is_folder
    jobs = [_one_job(options, raw, gt)] if is_one else _jobs_of_folder(options)
    sources = {os.path.realpath(path) for job in jobs for path in _files_of(job)}
    for job in jobs:
        for path in job.outputs:
            place = os.path.realpath(path)
            is_around = any(source.startswith(os.path.join(place, "")) for source in sources)
            is_within = any(place.startswith(os.path.join(source, "")) for source in sources)
            if place in sources or is_around or is_within:
                raise ValueError(f"{path} is an input: name another file or folder with -o.")
    return jobs


def _files_of(job):
    """All files and folders that a job reads, those of a series one by one."""
    for path in filter(None, (job.raw, job.gt)):
        yield path
        if path.is_dir():
            yield from path.iterdir()
        elif not path.exists():
            yield from glob.glob(str(path))


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


def _jobs_of_folder(options):
    raw, gt = options.input, options.ground_truth
    if options.output.exists() and os.path.samefile(raw, options.output):
        raise ValueError(
            f"{options.output} is the input folder, too: results would be taken for inputs. Name another with -o."
        )
    if options.output.exists() and not options.output.is_dir():
        raise NotADirectoryError(f"{options.output} is a file but the input is a folder: name a folder with -o.")
    unpaired = [] if gt else list_volumes(raw, may_be_empty=options.watch)
    pairs = pair_paths(raw, gt) if gt else [(path, None) for path in unpaired]
    jobs, inputs = [], {}
    for raw_path, gt_path in pairs:
        name, chosen = _output_name(raw_path, options)
        job = _name_job(options, raw_path, gt_path, options.output / name, chosen)
        for path in job.outputs:
            other = inputs.setdefault(path, raw_path)
            if other != raw_path:
                raise ValueError(
                    f"{other} and {raw_path} would both become {path}: rename one, or write OME-TIFF with -f ome."
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
