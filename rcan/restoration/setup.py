"""From options to a network, or several in a row, that restore files."""

from dataclasses import replace

import numpy as np

from rcan.hardware import ChosenPrecision
from rcan.io.cache import limit_cache
from rcan.precision import choose_for_network, with_precision
from rcan.restoration.attention import with_local_attention
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, voxels_within_memory
from rcan.restoration.file import FileRestorer
from rcan.restoration.settings import CACHE_BYTES, RestoreSettings
from rcan.restoration.tiled import TiledRestorer
from rcan.run_folder.models import load_model

__all__ = ["choose_for_devices", "load_restorer"]


def load_restorer(options, *, num_processes=1):
    """Load the network, or several in a row, and take what the options leave open from their trainings.

    `num_processes` share the memory of this machine. Returns the `FileRestorer` of the last network, which knows those
    before it.
    """
    limit_cache(CACHE_BYTES)
    devices = find_devices(options.devices)
    num_shares = len(options.model_dir)  # several networks may compute at once
    if devices[0].startswith("cpu"):
        num_shares *= num_processes  # on GPUs each has its own
    restorers = [_load_one(options, model_dir, devices, num_shares) for model_dir in options.model_dir]
    if len(restorers) == 1:
        return restorers[0]
    of_raw = {"axes": None, "channels": None, "despike": False}
    others = [replace(each, settings=replace(each.settings, **of_raw)) for each in restorers[1:]]
    *earlier, last = restorers[0], *others
    precision = _join_precisions([restorer.settings.precision for restorer in restorers])
    return replace(last, earlier=tuple(earlier), settings=replace(last.settings, precision=precision))


def _join_precisions(chosen):
    """What several networks are computed in, and why; said once where it is the same."""
    names, reasons = zip(*chosen, strict=True)
    return ChosenPrecision(",".join(dict.fromkeys(names)), "; ".join(dict.fromkeys(reasons)))


def _load_one(options, model_dir, devices, num_shares):
    """Load one network, which has a share of the memory."""
    model, record = load_model(model_dir)
    precision = choose_for_devices(options.precision, record, devices)
    settings = _choose_settings(options, model_dir, record, precision)
    _check_dimensions(options, len(model.input_shape) - 2)
    model = with_precision(model, precision.name)
    if options.attention == "local":
        model = with_local_attention(model, _require(record.patch_shape, "--attention local"))
    engine = KerasEngine(model, devices, name=str(model_dir))
    if options.ensemble:
        engine = Ensemble(engine, options.ensemble, with_spread=options.uncertainty)
    tiled = TiledRestorer(
        engine,
        max_voxels=voxels_within_memory(model, devices * num_shares),
        tile_shape=options.block_shape,
        overlap=options.block_overlap_shape,
    )
    return FileRestorer(tiled, settings, name=str(model_dir))


def choose_for_devices(asked, record, devices):
    """Choose what the network of a `TrainingRecord` is computed in on devices of `find_devices`."""
    on_gpu = devices[0].startswith("gpu")
    return choose_for_network(asked, record.bfloat16_check, on_gpu=on_gpu, num_gpus=len(devices))


def _choose_settings(options, model_dir, record, precision):
    percentiles = options.choose_percentiles(record)
    if percentiles[0] >= percentiles[1]:
        raise ValueError(f"percentiles {percentiles[0]:g} and {percentiles[1]:g}: --p_min must be below --p_max.")
    training_range = None
    if options.normalize == "training":
        pairs = _require(record.training, "--normalize training")
        training_range = np.median([pair.raw_range for pair in pairs], axis=0)
    if options.strict and not record.training_fingerprint:
        raise ValueError(
            f"--strict needs the run folder of a training by this version: {model_dir} does not tell what the "
            "network was trained on. Name it with -m, or leave --strict out."
        )
    return RestoreSettings(
        percentiles=percentiles,
        normalization=record.normalization,
        noise_range=record.noise_range,
        normalize=options.normalize,
        training_range=training_range,
        axes=options.axes,
        gt_axes=options.gt_axes,
        channels=options.channels,
        despike=options.despike,
        precision=precision,
        bits=options.bpp,
        as_channels=options.compare,
        rescale=options.rescale,
        stretch=options.normalize_output_range_between_zero_and_one,
        with_spread=options.uncertainty,
        spread_factor=options.choose_spread_factor(record) or 1.0,
        training_fingerprint=record.training_fingerprint,
        trusted_range=record.trusted_range,
    )


def _check_dimensions(options, ndim):
    for flag in ("block_shape", "block_overlap_shape"):
        shape = getattr(options, flag)
        if shape and len(shape) != ndim:
            raise ValueError(f"--{flag} is {list(shape)}: the network restores {ndim}D blocks, give {ndim} numbers.")


def _require(fact, flag):
    """A fact of the training that a flag needs."""
    if not fact:
        raise ValueError(f"{flag} needs the run folder of the training, whose training.json tells: name it with -m.")
    return fact
