"""Files that describe a run, config.json and training.json: written, and compared when a run goes on."""

import json
import os
from pathlib import Path

from rcan.atomic_io import list_versions, read_json, write_json
from rcan.config import load_config
from rcan.data.light import Light
from rcan.data.survey import digest_of, fingerprint_of
from rcan.fingerprint.domain import summarise_fingerprints, widen_range
from rcan.intensity import find_noise_range
from rcan.progress import Progress
from rcan.run_folder.layout import create_run
from rcan.run_folder.record import PairRecord, TrainingRecord

_MAY_CHANGE = {  # keys that a run may go on with other values of; the rest would make it another run
    "epochs",
    "early_stopping",
    "output_dir",
    "cache_gb",
    "devices",
    "jit_compile",
    "precision",
    "test_data_dir",
    "test_image_pairs",
}


def describe_new_run(config, data, own_names=None, *, overwrite=False):
    """Make the run folder of a configuration, with both files; `own_names` are those of own functions."""
    run_dir = Path(config.output_dir)
    record = _describe_training(config, data, _measure_fingerprint(config, data), own_names)
    create_run(run_dir, overwrite=overwrite)
    data.cache.remove_unused()
    write_json(run_dir / "training.json", record.as_json())
    write_json(run_dir / "config.json", _as_json(config))


def describe_resumed_run(config, data):
    """Write the configuration that a run goes on with, and what an earlier version has not measured."""
    run_dir = Path(config.output_dir)
    path = run_dir / "training.json"
    record = TrainingRecord.load(path)
    changed = {"precision": config.precision} if record.precision != config.precision else {}
    if not record.training_fingerprint:
        changed["training_fingerprint"] = _measure_fingerprint(config, data).model_dump(mode="json")
    if changed:
        outdated = "seen" if "training_fingerprint" in changed else None  # the name of an earlier version
        kept = {key: value for key, value in read_json(path).items() if key != outdated}
        write_json(path, {**kept, **changed})
    write_json(run_dir / "config.json", _as_json(config))


def check_resumable(config, data, state, own_names=None):
    """Check that a run goes on with the settings, data and own functions that it began with.

    It must go on to a later epoch than its state's.
    """
    run_dir = Path(config.output_dir)
    path = run_dir / "config.json"
    recipe = {"recipe": read_json(path).get("recipe", "published")}  # of runs that do not name it: keys were fewer
    earlier, now = (
        _resolved(_as_json(each)) for each in (load_config(path, recipe).for_data(len(config.patch_shape)), config)
    )
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
    _check_own_functions(run_dir, records[0].own_functions or {}, own_names or {})
    earlier, now = (_resolved(record.model_dump(mode="json")) for record in records)
    for part in ("training", "validation"):
        changed = [pair for pair in now[part] if not any(_is_same(pair, other) for other in earlier[part])]
        if changed or len(now[part]) != len(earlier[part]):
            which = f"{changed[0]['raw']} or its ground truth differs" if changed else "there are fewer pairs"
            raise ValueError(
                f"{run_dir} cannot go on with other {part} data: {which}. Restore them, or start another run with -o."
            )
    if state.epoch > config.epochs:
        raise ValueError(f"epochs is {config.epochs} but {run_dir} has done {state.epoch}: name at least that many.")


def _check_own_functions(run_dir, earlier, now):
    """Check that own functions have the names of those that a run began with."""
    for kind in ("network", "loss", "augment"):
        if earlier.get(kind) != now.get(kind):
            was, given = (names.get(kind, "ours") for names in (earlier, now))
            raise ValueError(
                f"{run_dir} cannot go on with another {kind} (was {was}, is {given}): give the same function to "
                "rcan.train, or start another run."
            )


def _is_same(pair, earlier):
    """Whether a pair is an earlier one, of which it may not be known where its part begins."""
    unknown = {name for name in ("raw_start", "gt_start") if not earlier[name]}
    return {**pair, **dict.fromkeys(unknown)} == {**earlier, **dict.fromkeys(unknown)}


def _as_json(config):
    """All settings, with paths that hold from any folder."""
    return json.loads(json.dumps(config.model_dump(), default=lambda path: str(path.absolute())))


def _resolved(value):
    """JSON with paths that are equal if they lead to the same place."""
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    return os.path.realpath(value) if isinstance(value, str) and os.path.isabs(value) else value


def _describe_training(config, data, fingerprint=None, own_names=None):
    """Make the record of a training."""

    def describe(pair):
        """What the record says of a pair."""
        return PairRecord(
            raw=str(pair.raw.volume.path),
            gt=str(pair.gt.volume.path),
            raw_start=pair.raw.volume.start,
            gt_start=pair.gt.volume.start,
            raw_shape=pair.raw.shape,
            gt_shape=pair.gt.shape,
            num_frames=pair.num_frames,
            voxel_size=pair.raw.volume.voxel_size,
            raw_range=tuple(map(tuple, pair.raw.ranges.tolist())),
            gt_range=tuple(map(tuple, pair.gt.ranges.tolist())),
            digests=tuple(digest_of(view.volume, data.cache) for view in (pair.raw, pair.gt)),
        )

    return TrainingRecord(
        versions=list_versions("keras", "tensorflow", "numpy", "tifffile"),
        seed=config.seed,
        precision=config.precision,
        percentiles=config.percentiles,
        normalization=config.normalization,
        noise_range=_find_noise_range(config, data),
        patch_shape=config.patch_shape,
        upscaling=data.training[0].upscaling,
        training=tuple(map(describe, data.training)),
        validation=tuple(map(describe, data.validation)),
        training_fingerprint=fingerprint,
        own_functions=own_names or None,
    )


def _find_noise_range(config, data):
    """The least and the most noise that the network learns from; None where it is not told of noise."""
    if config.normalization != "anscombe":
        return None
    noises = [pair.raw.scaled_noise(number) for pair in data.training for number in range(pair.num_frames)]
    if config.photon_range:
        lights = [Light(pair, config.photon_range, data.cache) for pair in data.training]
        noises = [noise for light in lights for noise in light.scaled_noises()]
    return find_noise_range(noises).tolist()


def _measure_fingerprint(config, data):
    """Measure the range of the raw volumes that the network learns from and is chosen by."""
    pairs, fingerprints, others = [*data.training, *data.validation], [], []
    with Progress(len(pairs), "Measuring the trained range", unit="volume") as progress:
        for pair in pairs:
            fingerprints.append(fingerprint_of(pair.raw, data.cache))
            if config.photon_range:
                others += Light(pair, config.photon_range, data.cache).fingerprints
            progress.advance()
    return widen_range(summarise_fingerprints(fingerprints), others)
