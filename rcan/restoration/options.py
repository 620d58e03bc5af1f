"""What a user can say of restoring images: the flags of `rcan apply`, the keywords of `rcan.restore_folder`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from rcan.config import PRECISION_HELP, Axes, Count, Precision, read_devices
from rcan.options import Settings, option

__all__ = ["RestoreOptions", "describe_uncertainty"]

Whole = Annotated[int, Field(ge=0)]


def _split_models(named):
    """Paths of models: of one, of a list, or of text with commas between them; a path that exists may have its own.

    >>> [*map(str, _split_models("runs/denoise,runs/deblur"))]
    ['runs/denoise', 'runs/deblur']
    """
    if isinstance(named, (list, tuple)) and named and all(isinstance(path, (str, Path)) for path in named):
        return tuple(map(Path, named))
    if not isinstance(named, (str, Path)):
        raise ValueError("must be a path, or a list of paths")
    models, words = [], str(named).split(",")
    while words:
        lengths = [number for number in range(len(words), 1, -1) if Path(",".join(words[:number])).exists()]
        number = lengths[0] if lengths else 1
        models.append(",".join(words[:number]))
        words = words[number:]
    if not all(models):
        raise ValueError("a path is missing beside a comma")
    return tuple(map(Path, models))


class RestoreOptions(Settings):
    """What to restore with which network, and how."""

    model_dir: Annotated[
        tuple[Path, ...],
        PlainValidator(_split_models),
        WithJsonSchema({"type": "string", "format": "path"}),
    ] = option(
        ...,
        "run folder of rcan train, a .keras file, or a ZIP archive or an address (https://…, hf://owner/name) of one; "
        "several, FIRST,SECOND, restore one after the other, each what the one before has made",
        letter="m",
    )
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
        False, "keep looking for new images in the input folder, and restore them once they are completely written"
    )
    settle: float = option(
        10,
        "seconds without a change after which --watch takes an image as written completely: longer than the pauses of "
        "what writes it",
        ge=0,
    )
    image: Annotated[str, BeforeValidator(lambda image: str(image) if isinstance(image, int) else image)] | None = (
        option(
            None,
            "of a file that holds several images that differ, restore only this one: its number, from 1, or its title "
            "(default: all, each as its own output NAME_NUMBER_TITLE in the folder -o)",
        )
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
        None, "overlap of neighbouring tiles (default: 16 voxels, at most a quarter of --block_shape)", letter="O"
    )
    normalize: Literal["series", "frame", "training"] = option(
        "series",
        "what becomes 0 and 1: percentiles of a whole time-lapse for each channel, of each frame, or the ranges of "
        "the training data",
    )
    despike: bool = option(
        False,
        "replace single voxels that are far brighter than all around them (hot pixels, cosmic rays) by the median of "
        "their neighbours, before anything else: raw in --compare, --preview and the scores is without them, too",
    )
    p_min: float | None = option(None, "percentile that becomes 0 (default: as trained, else 2)", ge=0, le=100)
    p_max: float | None = option(None, "percentile that becomes 1 (default: as trained, else 99.9)", ge=0, le=100)
    rescale: bool = option(False, "match the result to the ground truth, affine, least squares")
    normalize_output_range_between_zero_and_one: bool = option(False, "stretch each channel to [0, 1]")
    attention: Literal["global", "local"] = option(
        "global", "what the channel attention averages over: the tile, or a window of the training patch's size"
    )
    ensemble: Literal[8, 16] | None = option(
        None, "average over so many turned and flipped copies: 8 in XY, 16 with flips in Z; as many times slower"
    )
    uncertainty: bool = option(
        False,
        "write the spread of the ensemble, in the output's unit, as a second image (NAME_uncertainty); multiplied by "
        "what rcan evaluate has found to make it hold the truth in 68 % of the voxels",
    )
    preview: bool = option(False, "draw raw and restored beside each other as maximum projections (NAME_preview.png)")
    movie: Literal["gif", "mp4"] | None = option(
        None, "film raw and restored beside each other as they turn (NAME_movie.gif or .mp4)"
    )
    strict: bool = option(
        False, "leave alone what is outside the range of the network's training data, instead of only saying so"
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
    precision: Precision = option("auto", PRECISION_HELP)
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
        if len(self.model_dir) > 1:
            self._check_chain()
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

    def _check_chain(self):
        """Refuse what is not known of several networks in a row, or not done with them."""
        if self.uncertainty:
            raise ValueError(
                "--uncertainty is the spread of one network, without the errors of those before it: name one with -m, "
                "or leave --uncertainty out."
            )
        if self.scheduler:
            raise ValueError(
                "--scheduler restores with one network: name one with -m and restore its output in a second call, or "
                "leave --scheduler out."
            )

    def _check_cluster(self):
        """Refuse what needs the whole result at one place, or a file that only one process can write."""
        if self.ground_truth:
            raise ValueError("--scheduler restores without ground truth: leave --ground_truth or --scheduler out.")
        if self.normalize_output_range_between_zero_and_one:
            raise ValueError(
                "--normalize_output_range_between_zero_and_one needs the whole result before anything is written: "
                "leave it or --scheduler out."
            )
        if self.format and not self.format.startswith("zarr"):
            raise ValueError(f"--scheduler writes OME-Zarr, not {self.format}: choose --format zarr.")

    def choose_percentiles(self, record):
        """Percentiles that become 0 and 1: as the options say, else as in the training (`TrainingRecord`)."""
        low, high = record.percentiles
        return low if self.p_min is None else self.p_min, high if self.p_max is None else self.p_max

    def choose_spread_factor(self, record):
        """What the spread is multiplied by, as `rcan evaluate` has found it for an ensemble of this size.

        None without one, or where no spread is written.
        """
        spread = record.spread
        is_known = self.uncertainty and spread and spread.ensemble == self.ensemble
        return spread.factor if is_known else None


def describe_uncertainty(options, record):
    """Say what the second image of an ensemble is, with what `TrainingRecord` knows of its calibration."""
    spread = record.spread
    if not spread:
        return (
            "The uncertainty is the spread of the ensemble as it is, as a rule smaller than the errors: rcan evaluate "
            "finds by what it must be multiplied."
        )
    if options.choose_spread_factor(record) is None:
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
