"""What a user can choose about studies of a network: the flags of `rcan evaluate` and `rcan limits`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rcan.config import PRECISION_HELP, Axes, Count, Precision, load_config, read_devices
from rcan.options import Settings, option
from rcan.simulation.options import MicroscopeOptions, PhantomKind, Positive, Width

__all__ = ["PACKAGES", "EvaluateOptions", "LimitsOptions"]

PACKAGES = ("keras", "numpy", "scipy", "scikit-image", "tifffile")  # whose versions a study records
Factor = Annotated[float, Field(ge=1)]


class EvaluateOptions(Settings):
    """How to judge which network on which images."""

    model_dir: Path = option(
        ..., "run folder of rcan train, a .keras file, or a ZIP archive or an address of one", letter="m"
    )
    input: Path = option(..., "raw image, or folder of raw images", letter="i")
    ground_truth: Path = option(..., "ground truth: image or folder, as the input, paired by name", letter="g")
    output: Path = option(..., "folder for report.html, scores.csv and scores.json", letter="o")
    overwrite: bool = option(False, "write to a folder that holds files, and replace an earlier report")
    fwhm: tuple[Width, Width, Width] | None = option(
        None,
        "blur of the raw images beyond that of the ground truth, for Richardson-Lucy deconvolution: full width of a "
        "point at half maximum, µm, Z,Y,X (default: the best of a few)",
    )
    repeat: Path | None = option(
        None,
        "second exposures of the raw images, image or folder as the input: up to which frequency raw and restored "
        "images repeat (Fourier ring correlation)",
    )
    ensemble: Literal[8, 16] | None = option(
        None, "judge the mean over so many turned and flipped copies, as rcan apply --ensemble makes it"
    )
    calibrate: bool = option(
        True,
        "compare the spread of the ensemble (of 8 where --ensemble is not given) with the true errors, and keep with "
        "the network the factor that rcan apply --uncertainty multiplies it by",
    )
    axes: Axes | None = option(None, "axes of the raw images, where their metadata is wrong")
    gt_axes: Axes | None = option(None, "axes of the ground truth, where their metadata is wrong")
    devices: Annotated[str, BeforeValidator(read_devices)] = option(
        "auto", "auto (all GPUs, or the CPU), cpu, or a number of GPUs"
    )
    precision: Precision = option("auto", PRECISION_HELP)
    seed: int = option(0, "the same seed gives the same null images and intervals", ge=0)


class LimitsOptions(MicroscopeOptions):
    """Which network to test, on which samples, degraded how far."""

    model_dir: Path | None = option(
        None, "run folder of rcan train, a .keras file, or a ZIP archive or an address of one", letter="m"
    )
    train: bool = option(
        False, "train one network for each step instead, by --config: the limits of the method, not of a network"
    )
    config: Path | None = option(
        None,
        "config file (JSON) of --train; its data and output_dir are not used: the networks learn from --input or from "
        "phantoms, degraded by each step",
        letter="c",
    )
    input: Path | None = option(
        None,
        "sharp image with little noise, or folder of such images, to degrade: the ground truth (default: phantoms). "
        "They are taken to be as sharp as --fwhm says",
        letter="i",
    )
    output: Path = option(..., "folder for the report, the tables and the finished steps", letter="o")
    overwrite: bool = option(False, "measure all steps anew (and train all networks), and replace what is there")
    phantoms: PhantomKind = option("mixture", "kind of phantom")
    axes: Axes | None = option(None, "axes of the input, where its metadata is wrong")
    volumes: int = option(
        5,
        "phantoms, or parts of the input, exposed at each step: intervals are over them (8 or more make good ones)",
        ge=3,
    )
    training_volumes: int = option(8, "the same for --train to learn from", ge=2)
    shape: tuple[Count, Count, Count] = option(
        (24, 96, 96), "voxels of a phantom, or of the largest part taken from an image (its centre first), Z,Y,X"
    )
    voxel_size: tuple[Positive, Positive, Positive] | None = option(
        None,
        "size of a voxel, µm, Z,Y,X (default: the input's; of phantoms that of the training data, else 0.3,0.1,0.1)",
    )
    photon_ladder: Annotated[tuple[Positive, ...], Field(min_length=1)] = option(
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        "detected photons at a voxel of full signal, at blur --blur: the ladder of the signal-to-noise ratio",
    )
    blur_ladder: Annotated[tuple[Factor, ...], Field(min_length=1)] = option(
        (1, 1.5, 2, 2.5, 3, 4),
        "widths of a point over that in the ground truth, at --photons photons: the ladder of blur",
    )
    photons: float = option(20, "detected photons at a voxel of full signal on the ladder of blur", gt=0)
    blur: float = option(2, "width of a point over that in the ground truth on the ladder of photons", ge=1)
    precision: Precision = option("auto", PRECISION_HELP)
    seed: int = option(0, "the same seed gives the same phantoms, noise and intervals", ge=0)

    @model_validator(mode="after")
    def _check_together(self):
        given = self.model_fields_set
        if self.train and (self.model_dir or not self.config):
            raise ValueError("--train makes networks of its own: name a config file with -c, and no model (-m).")
        if not self.train and not self.model_dir:
            raise ValueError("--model_dir is missing: name a network with -m, or --train some with -c.")
        for name in ("config", "training_volumes"):
            if name in given and not self.train:
                raise ValueError(f"--{name} is of --train: add it, or leave --{name} out.")
        if self.input and "phantoms" in given:
            raise ValueError("--input takes the place of --phantoms: leave one of them out.")
        if self.axes and not self.input:
            raise ValueError("--axes is of an input: name it with -i, or leave --axes out.")
        return self

    @property
    def steps_folder(self):
        """Where finished steps, and with --train networks and their data, are kept."""
        return self.output / "steps"

    def config_for(self, step_name):
        """The configuration of the network that is trained for a step: that of the file, with simulated data."""
        folder = self.steps_folder.absolute()
        data = {"raw": str(folder / "training" / step_name), "gt": str(folder / "training" / "gt")}
        no_folders = dict.fromkeys(("validation_data_dir", "test_data_dir", "raw_data_format", "gt_data_format"))
        no_pairs = {f"{kind}_image_pairs": [] for kind in ("training", "validation", "test")}
        simulated = {"training_data_dir": data, "output_dir": str(folder / "networks" / step_name)}
        return load_config(self.config, {**no_folders, **no_pairs, **simulated})
