"""Data of a run: opened, checked and measured as its configuration says, and drawn from."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import read_json
from rcan.data.facts import make_thumbnail, measure_pair
from rcan.data.findings import find_duplicates, judge_pairs
from rcan.data.measurements import MeasurementCache
from rcan.data.pairs import hold_out, open_pairs
from rcan.data.patches import NoSignal, PatchSampler
from rcan.io.cache import limit_cache
from rcan.run_folder.models import read_record
from rcan.run_folder.record import TrainingRecord
from rcan.training.devices import is_chief
from rcan.training.schedule import LATE_AREA

_SIGNAL = 0.25  # of the normalised ground truth, from which a voxel is signal where the config names no threshold
_MOST_PAIRS = 8  # of a set that are looked at before each training, evenly spread
_VALIDATION_SEED = 1  # another sequence than that of the training patches


class RunData(NamedTuple):
    """Checked pairs of a run: to learn from, to choose the best network by, and to score it on."""

    training: list
    validation: list
    test: list
    percentiles: tuple  # that became 0 and 1
    normalization: str  # see `rcan.data.views.NetworkView`
    cache: MeasurementCache  # what has been measured of the volumes


def open_data(config, *, resume=False):
    """Open, check and measure all volumes that a configuration names: `RunData`.

    Validation pairs are split off the training pairs where none are named. With `resume` the normalisation is that of
    the run in the folder, if there is one. A ValueError or OSError says that a file is missing or unreadable, or that
    a pair cannot be used.
    """
    if resume:
        config = as_begun(config)
    scaling = choose_scaling(config, resume=resume)
    is_kept = config.output_dir and is_chief()
    cache = MeasurementCache(Path(config.output_dir) / "measured" if is_kept else None)
    options = {"cache": cache, **opening_options(config), **scaling}
    limit_cache(None if config.cache_gb is None else int(config.cache_gb * 1e9))
    sets = {}
    for name, named in named_pairs(config).items():
        like = sets["training"][0] if sets else None
        sets[name] = open_pairs(*named, like=like, **options)
    _warn_of_problems(sets, cache)
    return divide(config, sets, cache, scaling, resume=resume)


def named_pairs(config):
    """Folders and single pairs that a configuration names, as `open_pairs` takes them, by the name of the set."""
    return {
        "training": (config.training_data_dir, config.training_image_pairs),
        "validation": (config.validation_data_dir, config.validation_image_pairs),
        "test": (config.test_data_dir, config.test_image_pairs),
    }


def opening_options(config):
    """How `open_pairs` opens the files of a configuration, besides the normalisation."""
    return {
        "raw_axes": config.raw_data_format,
        "gt_axes": config.gt_data_format,
        "ndim": len(config.patch_shape or config.downsampling or ()) or None,
    }


def divide(config, sets, cache, scaling, *, resume=False):
    """Make the `RunData` of opened pairs by the name of the set; validation data is set aside where none is named."""
    training, validation = sets["training"], sets["validation"]
    if not validation:
        threshold = config.intensity_threshold if config.intensity_threshold > 0 else _SIGNAL
        earlier = _record_path(config) if resume else None
        recorded = TrainingRecord.load(earlier).validation if earlier else ()
        options = {"seed": config.seed, "threshold": threshold, "recorded": recorded, "cache": cache}
        training, validation = hold_out(training, config.validation_split, **options)
    return RunData(training, validation, sets["test"], cache=cache, **scaling)


def _warn_of_problems(sets, cache):
    """Look at some of the pairs, and warn of what makes them unfit to learn from, or to be scored on."""
    looked_at = {}
    for name, pairs in sets.items():
        numbers = np.unique(np.linspace(0, len(pairs) - 1, min(_MOST_PAIRS, len(pairs))).round().astype(int))
        looked_at[name] = [measure_pair(pairs[number], cache, is_thorough=False) for number in numbers]
    findings = judge_pairs(looked_at)
    if sets["validation"] or sets["test"]:
        sketches = {
            name: [(pair.gt.volume.path, make_thumbnail(pair.gt, cache)) for pair in pairs]
            for name, pairs in sets.items()
        }
        findings += find_duplicates(sketches)
    for finding in findings:
        if finding.level == "problem" and finding.topic != "partners":  # `survey_pair` has warned of those
            warnings.warn(finding.text, stacklevel=3)


def as_begun(config):
    """Let a configuration that names no recipe follow that of the run that it goes on with."""
    path = Path(config.output_dir or "") / "config.json"
    if "recipe" in config.model_fields_set or not (_record_path(config) and path.is_file()):
        return config
    recipe = read_json(path).get("recipe", "published")  # those that do not name it know no other
    named = config.model_dump(mode="json", include=config.model_fields_set)
    return config if recipe == config.recipe else type(config).checked({**named, "recipe": recipe})


def _record_path(config):
    """The record of the run in the folder of a configuration, if there is one."""
    path = Path(config.output_dir or "") / "training.json"
    return path if path.is_file() else None


def choose_scaling(config, *, resume=False):
    """Percentiles and normalization of the configuration; what is not given, as of the network to begin with."""
    scaling = {"percentiles": config.percentiles, "normalization": config.normalization}
    if not config.initial_model or scaling.keys() <= config.model_fields_set:
        return scaling
    earlier = _record_path(config) if resume else None  # the model may be gone by now
    record = TrainingRecord.load(earlier) if earlier else read_record(config.initial_model)
    return {name: scaling[name] if name in config.model_fields_set else record.scaling[name] for name in scaling}


def resolve_config(config, data, precision):
    """Put into a configuration what was found out: normalisation, a patch shape that fits all volumes, a precision."""
    config = config.for_data(len(data.training[0].raw.shape) - 1)
    patch_shape = _fit_patch_shape(config, data.training)
    scaling = {"percentiles": data.percentiles, "normalization": data.normalization}
    update = {"patch_shape": patch_shape, "precision": precision, **scaling}
    config = config.model_copy(update=update)
    has_late = config.batch_size >= LATE_AREA and _late_shape(config, data.training) != patch_shape
    return config if has_late else config.model_copy(update={"late_patches": 0.0})


def _late_shape(config, pairs):
    """The shape of late patches: twice as large along Y and X, as far as the smallest volume goes."""
    *z, y, x = config.patch_shape
    return _cut_down((*z, 2 * y, 2 * x), _smallest_shape(pairs), config.downsampling)


def _fit_patch_shape(config, pairs):
    """Cut the patch shape down to the smallest volume and to the grid of the features, with a warning."""
    smallest = _smallest_shape(pairs)
    asked = config.patch_shape
    fitting = _cut_down(asked, smallest, config.downsampling)
    if fitting != asked:
        is_coarse = max(config.downsampling) > 1
        grid = f" and to multiples of downsampling {list(config.downsampling)}" if is_coarse else ""
        warnings.warn(
            f"patch_shape {list(asked)} is cut down to the smallest volume{grid}: {list(fitting)}.", stacklevel=2
        )
    if config.data_augmentation and fitting[-1] != fitting[-2]:
        side = min(fitting[-2:])
        warnings.warn(
            f"quarter turns need patches as wide as high, patch_shape is {list(fitting)}: only half turns and "
            f"flips are used. Set patch_shape to {[*fitting[:-2], side, side]} for all of them.",
            stacklevel=2,
        )
    return fitting


def _cut_down(patch_shape, smallest, downsampling):
    """The largest patch within a patch shape and the smallest volume whose sizes are multiples of a grid."""
    sizes = tuple(min(sides) // step * step for *sides, step in zip(patch_shape, smallest, downsampling, strict=True))
    if not all(sizes):
        raise ValueError(
            f"downsampling is {list(downsampling)}, the patch {list(patch_shape)}, the smallest volume "
            f"{list(smallest)}: it must not be larger than they are."
        )
    return sizes


def _smallest_shape(pairs):
    """Smallest size of any raw volume along each spatial axis."""
    return tuple(np.min([pair.raw.shape[:-1] for pair in pairs], axis=0).tolist())


class Samplers(NamedTuple):
    """Sources of patches: to learn from, large ones to learn from late, and fixed ones to validate on.

    The last two are None where there are none.
    """

    training: PatchSampler
    late: PatchSampler | None
    validation: PatchSampler | None


def make_samplers(config, data, *, augment=None):
    """Make the sources of patches of a run, with one more augmentation if there is one: `Samplers`."""
    options = {
        "intensity_threshold": config.intensity_threshold,
        "area_ratio_threshold": config.area_ratio_threshold,
        "photon_range": config.photon_range,
        "cache": data.cache,
    }
    learned = {"seed": config.seed, "augmented": config.data_augmentation, "own_augment": augment, **options}
    training = PatchSampler(data.training, config.patch_shape, **learned)
    late = None
    if config.late_patches:
        late, _ = _sample_with_signal(data.training, _late_shape(config, data.training), learned)
    if not data.validation:
        return Samplers(training, late, None)
    shape = _cut_down(config.patch_shape, _smallest_shape(data.validation), config.downsampling)
    options |= {"seed": config.seed + _VALIDATION_SEED, "augmented": False}
    try:
        validation, least = _sample_with_signal(data.validation, shape, options)
    except NoSignal:
        raise ValueError(
            "the validation data have no signal: nothing is above intensity_threshold "
            f"{config.intensity_threshold:g}, and the best network cannot be chosen by them. Name others, or lower "
            "intensity_threshold."
        ) from None
    if least:
        warnings.warn(
            f"no validation patch has enough signal by the thresholds: those with signal in {100 * least:.2g} % of "
            "their voxels are used.",
            stacklevel=2,
        )
    return Samplers(training, late, validation)


def _sample_with_signal(pairs, shape, options):
    """A source of patches, and the least share of signal in them where none has as much as is asked for (else None).

    A `NoSignal` says that none has any.
    """
    try:
        return PatchSampler(pairs, shape, **options), None
    except NoSignal as failure:
        least = failure.largest_share / 2
        if not least:
            raise
    return PatchSampler(pairs, shape, **{**options, "area_ratio_threshold": least}), least
