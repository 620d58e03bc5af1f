"""From a checked configuration to data, network and run folder."""

import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import list_versions, read_json, write_json
from rcan.config import load_config
from rcan.data.measurements import Records
from rcan.data.pairs import digest_of, hold_out, open_pairs
from rcan.data.patches import PatchSampler
from rcan.fingerprint.domain import summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.fingerprint.records import FINGERPRINT_VERSION, Fingerprint
from rcan.io.cache import limit_cache
from rcan.model import build_rcan
from rcan.progress import Progress
from rcan.run_folder.checkpoints import load_state
from rcan.run_folder.layout import check_run_dir, create_run
from rcan.run_folder.models import load_model, read_record
from rcan.run_folder.record import PairRecord, TrainingRecord
from rcan.training.callbacks import Board
from rcan.training.devices import choose_strategy, is_chief
from rcan.training.forecast import forecast
from rcan.training.loop import Loop

_VALIDATION_SEED = 1  # another sequence than that of the training patches
_MAY_CHANGE = {  # keys that a run may go on with other values of; the rest would make it another run
    "epochs",
    "early_stopping",
    "output_dir",
    "cache_gb",
    "devices",
    "jit_compile",
    "test_data_dir",
    "test_image_pairs",
}


class Data(NamedTuple):
    """Checked pairs of a run: to learn from, to choose the best network by, and to score it on.

    `percentiles` are those that became 0 and 1, `records` what has been measured of the volumes.
    """

    training: list
    validation: list
    test: list
    percentiles: tuple
    records: Records


def train(config, data=None, *, overwrite=False, resume=False):
    """Train a network and leave a run folder.

    Parameters
    ----------
    config : rcan.Config
    data : Data, optional
        What `open_data` returned for this config; opened where not given.
    overwrite : bool
        Replace an earlier run in the folder.
    resume : bool
        Go on with the run in the folder, if there is one.

    Returns
    -------
    run_dir : Path
        Folder with `best.keras`, `last.keras`, `history.csv`, `config.json`, `training.json` and
        TensorBoard events.

    Raises
    ------
    ValueError, OSError
        If the data cannot be trained on or the folder cannot be written; nothing is changed then.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the state is saved.
    """
    check_run_dir(config.output_dir, overwrite=overwrite or resume)
    run_dir = Path(config.output_dir)
    strategy = choose_strategy(config.devices, config.precision)  # before TensorFlow computes anything
    data = data or open_data(config, resume=resume)
    shape = _fit_patch_shape(config, data.training)
    config = config.model_copy(update={"patch_shape": shape, "percentiles": data.percentiles})
    arrays, state = load_state(run_dir, repair=is_chief()) if resume else (None, None)
    if state:
        _check_unchanged(config, data, run_dir)
        if state["epoch"] > config.epochs:
            raise ValueError(
                f"epochs is {config.epochs} but {run_dir} has done {state['epoch']}: name at least that many."
            )
    else:
        check_run_dir(run_dir, overwrite=overwrite)
    samplers = _make_samplers(config, data)
    loop = _make_loop(config, data.training[0], samplers, strategy, is_new=not state)
    num_replicas = strategy.num_replicas_in_sync
    sizes = {"num_parameters": loop.num_parameters, "num_replicas": num_replicas}
    print(forecast(config, data, samplers[0], **sizes), flush=True)
    if state:
        loop.restore(arrays, state)
        way_on = " There was no better epoch for as long as early_stopping allows: raise it to go on."
        print(
            f"Going on after {state['epoch']} of {config.epochs} epochs.{way_on * loop.is_stuck}", flush=True
        )
    if is_chief():
        if not state:
            record = _describe_training(config, data, _measure_fingerprint(data))
            create_run(run_dir, overwrite=overwrite)
            data.records.forget_others()
            write_json(run_dir / "training.json", record.as_json())
        elif not TrainingRecord.load(run_dir / "training.json").training_fingerprint:  # of an earlier version
            earlier = read_json(run_dir / "training.json")
            earlier.pop("seen", None)
            fingerprint = _measure_fingerprint(data).model_dump(mode="json")
            write_json(run_dir / "training.json", {**earlier, "training_fingerprint": fingerprint})
        write_json(run_dir / "config.json", _as_json(config))
    loop.run()
    return run_dir


def _make_loop(config, pair, samplers, strategy, *, is_new):
    """The training of a network for pairs like this one."""

    def build():
        return build_rcan(
            ndim=len(config.patch_shape),
            num_input_channels=pair.raw.shape[-1],
            num_output_channels=pair.gt.shape[-1],
            num_channels=config.num_channels,
            num_residual_blocks=config.num_residual_blocks,
            num_residual_groups=config.num_residual_groups,
            channel_reduction=config.channel_reduction,
            upscaling=pair.upscaling,
        )

    run_dir = Path(config.output_dir)
    weights = _initial_weights(config, build()) if is_new and config.initial_model else None
    board = Board(run_dir, samplers[1], voxel_size=pair.gt.voxel_size)
    return Loop(build, config, *samplers, run_dir=run_dir, board=board, strategy=strategy, weights=weights)


def _as_json(config):
    """All settings, with paths that hold from any folder."""

    def convert(value):
        if isinstance(value, Path):
            return str(value.absolute())
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        return [convert(item) for item in value] if isinstance(value, (list, tuple)) else value

    return convert(config.model_dump())


def _resolved(value):
    """JSON with paths that are equal if they lead to the same place."""
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    return os.path.realpath(value) if isinstance(value, str) and os.path.isabs(value) else value


def _check_unchanged(config, data, run_dir):
    """A run that goes on with other settings or data would be neither the one nor the other."""
    earlier, now = (_resolved(_as_json(each)) for each in (load_config(run_dir / "config.json"), config))
    changes = [
        f"{key} (was {json.dumps(earlier[key])}, is {json.dumps(now[key])})"
        for key in now
        if key not in _MAY_CHANGE and earlier[key] != now[key]
    ]
    if changes:
        raise ValueError(
            f"{run_dir} cannot go on with other settings: {', '.join(changes)}. Restore them, or start another run "
            "with -o."
        )
    records = TrainingRecord.load(run_dir / "training.json"), _describe_training(config, data)
    earlier, now = (_resolved(record.model_dump(mode="json")) for record in records)
    for part in ("training", "validation"):
        changed = [pair for pair in now[part] if pair not in earlier[part]]
        if changed or len(now[part]) != len(earlier[part]):
            which = f"{changed[0]['raw']} or its ground truth differs" if changed else "there are fewer pairs"
            raise ValueError(
                f"{run_dir} cannot go on with other {part} data: {which}. Restore them, or start another run with -o."
            )


def _initial_weights(config, network):
    """Weights of the model to begin with, if it is of the same kind as the network."""
    model, _ = load_model(config.initial_model)
    shapes, expected = ([weight.shape for weight in each.weights] for each in (model, network))
    if shapes != expected:
        raise ValueError(
            f"{config.initial_model} is another network: {model.count_params():,} parameters, "
            f"{network.count_params():,} here. Use its num_channels, num_residual_blocks, num_residual_groups, "
            "channel_reduction and channels."
        )
    return model.get_weights()


def open_data(config, *, resume=False):
    """Open and check all volumes that a config names.

    Parameters
    ----------
    config : rcan.Config
    resume : bool
        Take the percentiles of the run in the folder, if there is one.

    Returns
    -------
    data : Data
        Validation pairs are split off the training pairs where none are named.

    Raises
    ------
    ValueError, OSError
        If a file is missing or unreadable, or a pair cannot be used.
    """
    percentiles = config.percentiles
    if config.initial_model and "percentiles" not in config.model_fields_set:
        earlier = Path(config.output_dir or "") / "training.json"
        is_there = resume and earlier.is_file()  # the model may be gone by now
        record = TrainingRecord.load(earlier) if is_there else read_record(config.initial_model)
        percentiles = record.percentiles
    folder = Path(config.output_dir) / "measured" if config.output_dir else None
    records = Records(folder) if is_chief() else Records.temporary()
    options = {
        "raw_axes": config.raw_data_format,
        "gt_axes": config.gt_data_format,
        "percentiles": percentiles,
        "records": records,
        "ndim": len(config.patch_shape) if config.patch_shape else None,
    }
    limit_cache(None if config.cache_gb is None else int(config.cache_gb * 1e9))
    training = open_pairs(config.training_data_dir, config.training_image_pairs, **options)
    options |= {"like": training[0]}
    validation = open_pairs(config.validation_data_dir, config.validation_image_pairs, **options)
    test = open_pairs(config.test_data_dir, config.test_image_pairs, **options)
    _warn_of_overlap(training, test)
    if not validation:
        training, validation = hold_out(training, config.validation_split, seed=config.seed, records=records)
    return Data(training, validation, test, percentiles, records)


def _warn_of_overlap(training, test):
    """Scores on what was learned say nothing, and two volumes of one ground truth are not two specimens."""
    learned = {os.path.realpath(pair.gt.path) for pair in training}
    shared = [pair.gt.path for pair in test if os.path.realpath(pair.gt.path) in learned]
    if shared:
        warnings.warn(
            f"{shared[0]} is both training and test data: its scores say nothing about new images. Name others as "
            "test data.",
            stacklevel=2,
        )


def _fit_patch_shape(config, pairs):
    """The patch shape asked for, cut down to the smallest volume, and said so."""
    smallest = tuple(np.min([pair.raw.shape[:-1] for pair in pairs], axis=0).tolist())
    asked = config.patch_shape or (16, 256, 256)[-len(smallest) :]
    fitting = tuple(min(sizes) for sizes in zip(asked, smallest, strict=True))
    if fitting != asked:
        warnings.warn(
            f"patch_shape {list(asked)} is cut down to the smallest volume: {list(fitting)}.", stacklevel=2
        )
    if config.data_augmentation and fitting[-1] != fitting[-2]:
        side = min(fitting[-2:])
        warnings.warn(
            f"quarter turns need patches as wide as high, patch_shape is {list(fitting)}: only half turns and "
            f"flips are used. Set patch_shape to {[*fitting[:-2], side, side]} for all of them.",
            stacklevel=2,
        )
    return fitting


def _make_samplers(config, data):
    """Sources of training patches and of fixed validation patches (None without validation data)."""
    thresholds = {
        "intensity_threshold": config.intensity_threshold,
        "area_ratio_threshold": config.area_ratio_threshold,
        "records": data.records,
    }
    sampler = PatchSampler(
        data.training, config.patch_shape, seed=config.seed, augmented=config.data_augmentation, **thresholds
    )
    validation = data.validation
    if not validation:
        return sampler, None
    smallest = np.min([pair.raw.shape[:-1] for pair in validation], axis=0).tolist()
    shape = tuple(min(sizes) for sizes in zip(config.patch_shape, smallest, strict=True))
    options = {"seed": config.seed + _VALIDATION_SEED, "augmented": False}
    try:
        return sampler, PatchSampler(validation, shape, **options, **thresholds)
    except ValueError:
        warnings.warn("no validation patch has enough signal by the thresholds: all are used.", stacklevel=2)
        return sampler, PatchSampler(
            validation, shape, **options, intensity_threshold=0, records=data.records
        )


def _measure_fingerprint(data):
    """The range of the raw volumes that the network learns from and is chosen by."""
    pairs, fingerprints = [*data.training, *data.validation], []
    with Progress(len(pairs), "Measuring the trained range", unit="volume") as progress:
        for pair in pairs:
            key = data.records.key([pair.raw], what="fingerprint", version=FINGERPRINT_VERSION)
            known = data.records.get(key, ["channels"])
            fingerprint = Fingerprint.checked(known) if known else measure_fingerprint(pair.raw)
            if not known:
                pair.raw.close()  # frees what was decoded
                data.records.put(key, fingerprint.model_dump(mode="json"))
            fingerprints.append(fingerprint)
            progress.advance()
    return summarise_fingerprints(fingerprints)


def _describe_training(config, data, fingerprint=None):
    """What a user of the trained network has to know about its training."""

    def describe(pair):
        return PairRecord(
            raw=str(pair.raw.path),
            gt=str(pair.gt.path),
            raw_shape=pair.raw.shape,
            gt_shape=pair.gt.shape,
            num_frames=len(pair.raw.frames),
            voxel_size=pair.raw.voxel_size,
            raw_range=tuple(map(tuple, pair.raw_range.tolist())),
            gt_range=tuple(map(tuple, pair.gt_range.tolist())),
            digests=tuple(digest_of(volume, data.records) for volume in (pair.raw, pair.gt)),
        )

    return TrainingRecord(
        versions=list_versions("keras", "tensorflow", "numpy", "tifffile"),
        seed=config.seed,
        percentiles=config.percentiles,
        patch_shape=config.patch_shape,
        upscaling=data.training[0].upscaling,
        training=tuple(map(describe, data.training)),
        validation=tuple(map(describe, data.validation)),
        training_fingerprint=fingerprint,
    )
