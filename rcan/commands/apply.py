"""`apply`: restore an image, or a folder of them, with a trained network."""

import contextlib
import functools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rcan.atomic_io import file_signature
from rcan.cli import run_command
from rcan.config import Axes, Count, read_devices
from rcan.options import Settings, option
from rcan.restoration.folder import Run, choose_percentiles, choose_spread_factor
from rcan.restoration.jobs import find_jobs

__all__ = ["main"]

Whole = Annotated[int, Field(ge=0)]
_CACHE_BYTES = 2**27  # of decoded parts of compressed files: neighbouring tiles touch the same ones


class ApplyOptions(Settings):
    """Flags of the command."""

    model_dir: Path = option(..., "run folder of train.py, or a .keras file", letter="m")
    input: Path = option(
        ...,
        "image (TIFF, OME-Zarr, a microscope's file), folder of images, or pattern in quotes such as 'cell_t*.tif', "
        "whose files are one image",
        letter="i",
    )
    output: Path = option(..., "image to write, or folder where the input is one", letter="o")
    overwrite: bool = option(False, "restore all images anew, and replace those that are there already")
    series: bool = option(
        False, "the input folder is one image: each file is a time point, plane or channel, as its name tells"
    )
    watch: bool = option(
        False,
        "keep looking for new images in the input folder, and restore them once they are completely written",
    )
    settle: float = option(
        10,
        "seconds without a change after which --watch takes an image as written completely: longer than the pauses of "
        "what writes it",
        ge=0,
    )
    ground_truth: Path | None = option(
        None, "image or folder, as the input: prints PSNR and SSIM and writes scores.csv", letter="g"
    )
    compare: bool = option(False, "write raw, restored and ground truth as channels, normalised")
    bpp: Literal[8, 16, 32] = option(
        32,
        "bits of the output: 32 is float; 8 and 16 round and clip to the type, in the input's unit; with "
        "--compare or --normalize_output_range_between_zero_and_one 0..1 becomes the full range",
        letter="b",
    )
    block_shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] | None = option(
        None, "tile, Z,Y,X or Y,X (default: the one that computes least, within the free memory)", letter="B"
    )
    block_overlap_shape: Annotated[tuple[Whole, ...], Field(min_length=2, max_length=3)] | None = option(
        None,
        "overlap of neighbouring tiles (default: 16 voxels, at most a quarter of --block_shape)",
        letter="O",
    )
    normalize: Literal["series", "frame", "training"] = option(
        "series",
        "what becomes 0 and 1: percentiles of a whole time-lapse for each channel, of each frame, or the ranges of "
        "the training data",
    )
    p_min: float | None = option(
        None, "percentile that becomes 0 (default: as trained, else 2)", ge=0, le=100
    )
    p_max: float | None = option(
        None, "percentile that becomes 1 (default: as trained, else 99.9)", ge=0, le=100
    )
    rescale: bool = option(False, "match the result to the ground truth, affine, least squares")
    normalize_output_range_between_zero_and_one: bool = option(False, "stretch each channel to [0, 1]")
    attention: Literal["global", "local"] = option(
        "global",
        "what the channel attention averages over: the tile, or a window of the training patch's size",
    )
    ensemble: Literal[8, 16] | None = option(
        None,
        "average over so many turned and flipped copies: 8 in XY, 16 with flips in Z; as many times slower",
    )
    uncertainty: bool = option(
        False,
        "write the spread of the ensemble, in the output's unit, as a second image (NAME_uncertainty); multiplied by "
        "what rcan evaluate has found to make it hold the truth in 68 % of the voxels",
    )
    preview: bool = option(
        False, "draw raw and restored beside each other as maximum projections (NAME_preview.png)"
    )
    movie: Literal["gif", "mp4"] | None = option(
        None, "film raw and restored beside each other as they turn (NAME_movie.gif or .mp4)"
    )
    strict: bool = option(
        False,
        "leave alone what is outside the range of the network's training data, instead of only saying so",
    )
    output_tiff_format: Literal["imagej", "ome"] = option("imagej", "kind of TIFF to write", letter="f")
    format: Literal["imagej", "ome", "zarr", "zarr-0.4"] | None = option(
        None,
        "kind of image to write, OME-Zarr (0.5, or 0.4) besides TIFF (default: by the suffix of the output, in a "
        "folder OME-Zarr for OME-Zarr and otherwise as -f)",
    )
    axes: Axes | None = option(None, "axes of the input, where its metadata is wrong")
    gt_axes: Axes | None = option(None, "axes of the ground truth, where its metadata is wrong")
    channels: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = option(
        None, "channels of the input to restore, counted from 0 (default: all)"
    )
    devices: Annotated[str, BeforeValidator(read_devices)] = option(
        "auto", "auto (all GPUs, or the CPU), cpu, or a number of GPUs"
    )
    scheduler: str | None = option(
        None,
        "address of a Dask cluster whose machines restore parts of the image at once, or local for processes of this "
        "machine; writes OME-Zarr",
    )

    @model_validator(mode="after")
    def _check_together(self):
        if self.rescale and self.normalize_output_range_between_zero_and_one:
            raise ValueError(
                "--rescale and --normalize_output_range_between_zero_and_one contradict each other: choose one."
            )
        if self.rescale and not self.ground_truth:
            raise ValueError("--rescale needs a ground truth to match: name it with -g.")
        if self.gt_axes and not self.ground_truth:
            raise ValueError("--gt_axes is of a ground truth: name it with -g, or leave --gt_axes out.")
        if self.uncertainty and not self.ensemble:
            raise ValueError("--uncertainty is the spread of an ensemble: add --ensemble 8.")
        if self.channels and len(set(self.channels)) < len(self.channels):
            raise ValueError(f"--channels is {list(self.channels)}: name each channel once.")
        if self.scheduler:
            self._check_cluster()
        if self.watch and (self.ground_truth or self.series):
            raise ValueError("--watch restores image by image: leave --ground_truth and --series out.")
        tile, overlap = self.block_shape, self.block_overlap_shape
        if tile and overlap and (len(tile) != len(overlap) or any(map(int.__le__, tile, overlap))):
            raise ValueError(
                f"--block_overlap_shape is {list(overlap)}: it needs as many numbers as --block_shape "
                f"{list(tile)}, each smaller."
            )
        return self

    def _check_cluster(self):
        """Refuse what needs the whole result at one place, or a file that only one process can write."""
        if self.ground_truth:
            raise ValueError(
                "--scheduler restores without ground truth: leave --ground_truth or --scheduler out."
            )
        if self.normalize_output_range_between_zero_and_one:
            raise ValueError(
                "--normalize_output_range_between_zero_and_one needs the whole result before anything is written: "
                "leave it or --scheduler out."
            )
        if self.format and not self.format.startswith("zarr"):
            raise ValueError(f"--scheduler writes OME-Zarr, not {self.format}: choose --format zarr.")


def apply(options: ApplyOptions):
    """Restore an image or a folder of images with a trained network.

    The output holds the restored volume, in the input's intensity unit, with its axes, voxel size and
    channel names. A folder that was restored in part is completed.
    """
    if options.movie:
        from rcan.figures.movie import check_movie_kind

        check_movie_kind(options.movie)
    jobs = find_jobs(options, may_be_empty=options.watch)
    run = Run(options)
    todo = [] if options.watch else run.select(jobs)
    with contextlib.ExitStack() as stack:
        if todo or options.watch:
            from rcan.io.cache import limit_cache
            from rcan.run_folder.models import read_record

            limit_cache(_CACHE_BYTES)
            run.restorer = stack.enter_context(_find_restorer(options))
            record = read_record(options.model_dir)
            run.protect(record, todo)
            if options.uncertainty:
                print(_describe_uncertainty(options, record), flush=True)
            if not run.restorer.training_fingerprint:
                print(
                    f"{options.model_dir} does not tell what the network was trained on: whether images are like that "
                    "is unknown.",
                    flush=True,
                )
        try:
            if options.watch:
                run.watch()
            run.do(todo)
        except KeyboardInterrupt:
            run.conclude()
            raise
    run.conclude()
    if run.failed:
        raise ValueError(f"{len(run.failed)} of {run.num_images} images were not restored, see above.")


def _describe_uncertainty(options, record):
    """What the second image is, in words."""
    spread = record.spread
    if not spread:
        return (
            "The uncertainty is the spread of the ensemble as it is, as a rule smaller than the errors: rcan evaluate "
            "finds by what it must be multiplied."
        )
    if choose_spread_factor(options, record) is None:
        return (
            f"The uncertainty is the spread of the ensemble as it is: it was calibrated for an ensemble of "
            f"{spread.ensemble} only. rcan evaluate --ensemble {options.ensemble} does it for this one."
        )
    bright = spread.signal_within_one
    in_signal = "" if bright is None else f" ({100 * bright:.0f} % where there is signal)"
    return (
        f"The uncertainty is the spread of the ensemble times {spread.factor:.3g}, which held the truth in "
        f"{100 * spread.calibrated_within_one:.0f} % of the voxels of the {spread.found_on} images"
        f"{in_signal}; of images that are unlike them it says nothing."
    )


@contextlib.contextmanager
def _find_restorer(options):
    """What restores: this process, or a cluster."""
    if not options.scheduler:
        yield _make_restorer(options)
        return
    from rcan.restoration.dask_cluster import Cluster
    from rcan.run_folder.models import find_model

    told = options.model_copy(update={"model_dir": options.model_dir.absolute()})
    work = functools.partial(work_in_cluster, told, tuple(file_signature(find_model(options.model_dir))))
    with Cluster(options.scheduler, work, on_cpu=options.devices == "cpu") as cluster:
        yield cluster.make_restorer()


def work_in_cluster(options, model_state, sharing, request=None):
    """What a worker does, see `rcan.restoration.dask_cluster.perform`."""
    from rcan.restoration.dask_cluster import perform

    return perform(_load_in_cluster, (options, model_state, sharing), request)


def _load_in_cluster(options, _, sharing):
    from rcan.io.cache import limit_cache

    limit_cache(_CACHE_BYTES)
    return _make_restorer(options, sharing=sharing)


def _make_restorer(options, *, sharing=1):
    """Load the network, and settle what the flags leave to how it was trained.

    `sharing` is the number of processes that share the memory of this machine.
    """
    import numpy as np

    from rcan.restoration.attention import with_local_attention
    from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, voxels_within_memory
    from rcan.restoration.file import FileRestorer
    from rcan.run_folder.models import load_model

    model, record = load_model(options.model_dir)
    ndim = len(model.input_shape) - 2
    percentiles = choose_percentiles(options, record)
    if percentiles[0] >= percentiles[1]:
        raise ValueError(
            f"percentiles {percentiles[0]:g} and {percentiles[1]:g}: --p_min must be below --p_max."
        )
    for flag in ("block_shape", "block_overlap_shape"):
        shape = getattr(options, flag)
        if shape and len(shape) != ndim:
            raise ValueError(
                f"--{flag} is {list(shape)}: the network restores {ndim}D blocks, give {ndim} numbers."
            )
    if options.attention == "local":
        model = with_local_attention(model, _known(record.patch_shape, "--attention local"))
    training_range = None
    if options.normalize == "training":
        pairs = _known(record.training, "--normalize training")
        training_range = np.median([pair.raw_range for pair in pairs], axis=0)
    if options.strict and not record.training_fingerprint:
        raise ValueError(
            f"--strict needs the run folder of a training by this version: {options.model_dir} does not tell what the "
            "network was trained on. Name it with -m, or leave --strict out."
        )
    devices = find_devices(options.devices)
    engine = KerasEngine(model, devices)
    if options.ensemble:
        engine = Ensemble(engine, options.ensemble, with_spread=options.uncertainty)
    return FileRestorer(
        engine,
        max_voxels=voxels_within_memory(model, devices * sharing),
        tile_shape=options.block_shape,
        overlap=options.block_overlap_shape,
        percentiles=percentiles,
        normalize=options.normalize,
        training_range=training_range,
        axes=options.axes,
        gt_axes=options.gt_axes,
        channels=options.channels,
        bits=options.bpp,
        as_channels=options.compare,
        rescale=options.rescale,
        stretch=options.normalize_output_range_between_zero_and_one,
        with_spread=options.uncertainty,
        spread_factor=choose_spread_factor(options, record) or 1.0,
        training_fingerprint=record.training_fingerprint,
        trusted_range=record.trusted_range,
    )


def _known(fact, flag):
    """A fact of the training that a flag needs."""
    if not fact:
        raise ValueError(
            f"{flag} needs the run folder of the training, whose training.json tells: name it with -m."
        )
    return fact


main = functools.partial(run_command, apply, prog="apply.py")
