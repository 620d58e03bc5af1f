"""Settings of a training run: every key, its default, range and meaning.

The config file is one JSON object with the keys of `Config`. Files of the program published with the 2021 paper are
read unchanged.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rcan.failures import UsageError
from rcan.options import Settings, option

__all__ = ["DEFAULT_PERCENTILES", "LOSS_NAMES", "RECIPES", "Config", "ImagePair", "load_config", "parse_loss"]

DEFAULT_PERCENTILES = (2, 99.9)  # grey values that become 0 and 1: background and signal
LOSS_NAMES = {  # in words, by their names in a config file
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "charbonnier": "Charbonnier loss (arXiv:1704.03915)",
    "ssim": "1 − SSIM",
}
RECIPES = {  # values of keys that a config does not name; of other keys, the default is that of the key
    "default": {
        "normalization": "anscombe",
        "patch_shape": (16, 64, 64),  # the last ones of these for planes, as of the next
        "downsampling": (1, 2, 2),
        "batch_size": 8,
        "late_patches": 0.25,
        "initial_learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "clipnorm": 1.0,
        "ema": 0.99,
    },
    "published": {"patch_shape": (16, 256, 256), "downsampling": (1, 1, 1)},
}
_SHAPES = ("patch_shape", "downsampling")  # keys whose value depends on the data: volumes or planes
# A config that names a key which the published program does not know means the default recipe.
_RECIPE_KEYS = {"photon_range", *RECIPES["default"]} - {"patch_shape", "initial_learning_rate"}
_OLD_NAMES = {"input_shape": "patch_shape"}


class ImagePair(Settings):
    """A raw image and its ground truth: two files, or two folders of them."""

    raw: Path
    gt: Path


def _check_axes(axes):
    if not {"Y", "X"} <= set(axes) <= set("PTCZYX") or len(set(axes)) != len(axes):
        raise ValueError(
            "must be capital letters of P, T, C, Z, Y, X in storage order, each once, with Y and X, such as ZYX"
        )
    return axes


def _check_percentiles(percentiles):
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError("must be 0 <= low < high <= 100")
    return percentiles


Percentiles = Annotated[tuple[float, float], AfterValidator(_check_percentiles)]


def _check_photon_range(factors):
    if not 0 < factors[0] <= factors[1]:
        raise ValueError("must be 0 < least <= most, such as 0.01,1")
    return factors


def parse_loss(text):
    """Weight of each loss in a sum of losses.

    Examples
    --------
    >>> parse_loss("mae + 0.2*ssim")
    {'mae': 1.0, 'ssim': 0.2}
    """
    weights = {}
    for term in text.split("+"):
        weight, name = term.split("*", 1) if "*" in term else ("1", term)
        name = name.strip()
        try:
            value = float(weight)
        except ValueError:
            value = 0
        if name not in LOSS_NAMES or name in weights or not 0 < value < float("inf"):
            names = ", ".join(LOSS_NAMES)
            raise ValueError(f"must be a sum of {names}, each once, with weights above 0 if any, such as mae+0.2*ssim")
        weights[name] = value
    return weights


def _check_loss(text):
    parse_loss(text)
    return text


def read_devices(devices):
    """Check a choice of devices, which may be a number, and make it text."""
    if not re.fullmatch(r"auto|cpu|[1-9]\d*", str(devices)):
        raise ValueError("must be auto, cpu or a number of devices")
    return str(devices)


Axes = Annotated[str, AfterValidator(_check_axes)]
Count = Annotated[int, Field(ge=1)]


Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]  # auto, or a policy of Keras
PRECISION_HELP = (
    "what the network is computed in: auto is bfloat16 where the processor or the GPU has it and this network hardly "
    "changes with it, else float32"
)


class Config(Settings):
    """All settings of a training run; the descriptions of the fields say what each means."""

    training_data_dir: ImagePair | None = option(
        None, 'folders of training volumes, matched by file name: {"raw": FOLDER, "gt": FOLDER}'
    )
    training_image_pairs: list[ImagePair] = option([], 'list of single training pairs: [{"raw": FILE, "gt": FILE}, …]')
    validation_data_dir: ImagePair | None = option(
        None, "the same for validation volumes, to choose the best network by"
    )
    validation_image_pairs: list[ImagePair] = option([], "list of single validation pairs")
    validation_split: float = option(
        0.1, "share of the training data to validate on where no validation data is named", ge=0, le=0.5
    )
    test_data_dir: ImagePair | None = option(
        None, "the same for volumes to score the trained network on, never seen in training"
    )
    test_image_pairs: list[ImagePair] = option([], "list of single test pairs")
    raw_data_format: Axes | None = option(None, "axes of the raw files, where their metadata is wrong")
    gt_data_format: Axes | None = option(None, "axes of the gt files, where their metadata is wrong")
    output_dir: Path | None = option(None, "run folder to write", letter="o")

    recipe: Literal["default", "published"] | None = option(
        None,
        "what the keys that are not named are: default, or published, as in the 2021 paper (default: published where "
        "only keys of the published program are named)",
    )
    patch_shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] | None = option(
        None, "training patch, Z,Y,X or Y,X, cut down to the smallest volume"
    )
    percentiles: Percentiles = option(DEFAULT_PERCENTILES, "percentiles that become 0 and 1")
    normalization: Literal["percentiles", "anscombe"] = option(
        "percentiles",
        "of the raw image: by its percentiles, as published; or anscombe, by those of its smoothed voxels, and with "
        "noise made even everywhere (generalised Anscombe transform), for a range of light",
    )
    photon_range: Annotated[tuple[float, float], AfterValidator(_check_photon_range)] | None = option(
        None,
        "least and most light to train for, as factors of that of the raw images, such as 0.01,1: each patch is made "
        "darker by thinning its photons, or brighter towards a gt that is registered and as sharp (default: as it is)",
    )
    data_augmentation: bool = option(True, "turn and flip patches")
    intensity_threshold: float = option(
        0.25, "normalised gt above which a voxel is signal; 0 or less accepts every patch"
    )
    area_ratio_threshold: float = option(0.5, "least share of signal voxels in a patch", ge=0, le=1)

    num_channels: Count = option(32, "feature channels", le=1024)
    num_residual_blocks: Count = option(3, "residual channel attention blocks in a group", le=100)
    num_residual_groups: Count = option(5, "residual groups", le=100)
    channel_reduction: Count = option(8, "feature channels for each one in the attention's bottleneck")
    downsampling: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=2, max_length=3)] | None = (
        option(
            None,
            "raw voxels for each voxel of the feature maps, Z,Y,X or Y,X, such as 1,2,2",
        )
    )

    epochs: Count = option(300, "epochs to train")
    steps_per_epoch: Count = option(256, "training steps in an epoch")
    batch_size: Count = option(1, "patches for each device and step")
    late_patches: float = option(
        0,
        "share of the epochs, the last ones, with patches twice as large along Y and X, and a quarter as many in a "
        "step, where batch_size is 4 or more and the volumes are large enough; 0 for none",
        ge=0,
        le=1,
    )
    initial_learning_rate: float = option(1e-4, "of Adam; see schedule", ge=1e-6)
    schedule: Literal["staircase", "cosine"] = option(
        "staircase", "of the learning rate: halved every quarter of the epochs, or half a cosine down to 0"
    )
    warmup_epochs: int = option(
        0, "epochs in which the learning rate rises to its initial value, at most all but the last", ge=0
    )
    clipnorm: float = option(
        0, "largest norm of the gradient of a step, which longer ones are scaled down to; 0 for none", ge=0
    )
    loss: Annotated[str, AfterValidator(_check_loss)] = option(
        "mae", f"{', '.join(LOSS_NAMES)} (1 - SSIM), or a weighted sum such as mae+0.2*ssim"
    )
    metrics: list[Literal["psnr", "ssim"]] = option(["psnr"], "measures to follow besides the loss")
    initial_model: Path | None = option(None, "run folder or .keras file whose weights and normalisation to begin with")
    early_stopping: Count | None = option(None, "epochs without a better validation loss after which to stop")
    ema: float = option(
        0,
        "decay of a moving average of the weights, which is validated and saved, such as 0.999; 0 for none",
        ge=0,
        lt=1,
    )
    seed: int = option(0, "the same seed gives the same weights", ge=0, le=2**32 - 1)
    cache_gb: float | None = option(
        None, "memory for decoded image data, in GB (default: a quarter of what is free)", ge=0
    )
    devices: Annotated[str, BeforeValidator(read_devices)] = option(
        "auto", "auto (all GPUs, or the CPU), cpu, or a number of GPUs"
    )
    precision: Precision = option(
        "auto",
        "what to compute in: auto is bfloat16 where the processor or the GPU has it, else float32; weights and output "
        "stay float32",
    )
    jit_compile: bool = option(False, "compile the training step with XLA")

    @model_validator(mode="after")
    def _follow_recipe(self):
        """Give the keys that are not named the values of the recipe; those of other data wait for `for_data`."""
        named = self.model_fields_set - {"recipe"}
        recipe = self.recipe or ("default" if named & _RECIPE_KEYS else "published")
        values = {key: value for key, value in RECIPES[recipe].items() if key not in named | {*_SHAPES}}
        self.__dict__.update(values, recipe=recipe)  # not set: `model_fields_set` stays what was named
        return self

    def for_data(self, ndim):
        """The same for volumes (3) or planes (2), with the shapes that the recipe gives to them."""
        shapes = {key: getattr(self, key) or RECIPES[self.recipe][key][-ndim:] for key in _SHAPES}
        return self.model_copy(update=shapes)

    @model_validator(mode="after")
    def _check_together(self):
        if not (self.training_data_dir or self.training_image_pairs):
            raise ValueError(
                "training_data_dir is missing: a run needs it or training_image_pairs, each with raw and gt."
            )
        if self.patch_shape and self.downsampling and len(self.patch_shape) != len(self.downsampling):
            raise ValueError(
                f"downsampling is {list(self.downsampling)}, patch_shape {list(self.patch_shape)}: give both as many "
                "numbers."
            )
        return self


def load_config(path, overrides=None):
    """Read a config file and check it as a whole.

    Parameters
    ----------
    path : path
        JSON file. Its relative paths start from its own folder.
    overrides : dict, optional
        Keys that replace those of the file, such as ``{"epochs": 3}``. Their relative paths start from the current
        folder. Messages write them as flags, ``--epochs``.

    Returns
    -------
    config : Config

    Raises
    ------
    ValueError
        If the file is not JSON (with line and column), or with one line for each wrong key. A `UsageError`, of
        exit status 2, if a wrong key is among the overrides.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file: -c takes a config file (JSON).")
    overrides = overrides or {}
    values = _read_json(path)
    typed = {new: old for old, new in _OLD_NAMES.items() if old in values}
    values = {_OLD_NAMES.get(key, key): value for key, value in values.items()}
    try:
        return Config.checked(
            {**_make_absolute(values, path.parent), **_make_absolute(overrides, Path())},
            label=lambda key: f"--{key}" if key in overrides else f"{path}: {typed.get(key, key)}",
        )
    except ValueError as failure:
        if any(line.startswith("--") for line in str(failure).splitlines()):
            raise UsageError(str(failure)) from None
        raise


def _read_json(path):
    def unique(items):
        """A JSON object as a dictionary; a key that is given twice is an error."""
        names = [name for name, _ in items]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{path}: {name} is given {names.count(name)} times; keep one.")
        return dict(items)

    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except json.JSONDecodeError as failure:
        raise ValueError(
            f"{path}: line {failure.lineno}, column {failure.colno}: {failure.msg}; the file must be JSON."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8; the file must be JSON.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; it must be one JSON object, {{...}}.")
    for old, new in _OLD_NAMES.items():
        if old in values and new in values:
            raise ValueError(f"{path}: {old} is the old name of {new}; keep one of them.")
    return values


def _make_absolute(values, folder):
    """Let the relative paths among the values start from a folder."""

    def make_absolute(value):
        """Make each path in a value of any depth absolute."""
        if isinstance(value, (str, Path)):
            return str(folder.absolute() / Path(value).expanduser())
        if isinstance(value, (list, tuple)):
            return [make_absolute(item) for item in value]
        return {key: make_absolute(item) for key, item in value.items()} if isinstance(value, dict) else value

    is_path = ("_data_dir", "_image_pairs", "output_dir", "initial_model")
    return {key: make_absolute(value) if key.endswith(is_path) else value for key, value in values.items()}
