"""A training from its configuration to a run folder."""

from pathlib import Path

import numpy as np

from rcan.atomic_io import write_table
from rcan.config import Config, load_config
from rcan.hardware import ChosenPrecision
from rcan.intensity import INPUT_CHANNELS
from rcan.model import build_rcan
from rcan.run_folder.architecture import grid_of
from rcan.run_folder.checkpoints import load_checkpoint
from rcan.run_folder.layout import check_run_dir
from rcan.run_folder.models import add_to_record, load_model
from rcan.run_folder.state import RunState
from rcan.training.bfloat16 import compare_with_bfloat16
from rcan.training.callbacks import RunWriter
from rcan.training.description import check_resumable, describe_new_run, describe_resumed_run
from rcan.training.devices import choose_common_precision, choose_strategy, is_chief
from rcan.training.forecast import forecast
from rcan.training.loop import Loop
from rcan.training.own_functions import OwnFunctions
from rcan.training.run_data import as_begun, make_samplers, open_data, resolve_config
from rcan.training.schedule import StepSchedule, is_stuck
from rcan.training.steps import Learner


def train(config, data=None, *, overwrite=False, resume=False, network=None, loss=None, augment=None):
    """Train a network and leave a run folder.

    Own functions can take the place of ours. training.json keeps their names, and a run goes on with those that it
    began with alone.

    Parameters
    ----------
    config : rcan.Config
    data : RunData, optional
        What `rcan.training.run_data.open_data` returned for this config; opened where not given.
    overwrite : bool
        Replace an earlier run in the folder.
    resume : bool
        Go on with the run in the folder, if there is one.
    network : callable, optional
        Builds the network instead of `rcan.build_rcan`, and is called like it, with the keywords `ndim`,
        `num_input_channels`, `num_output_channels` and `upscaling`. It returns a `keras.Model` for inputs of any size,
        of layers of Keras or registered ones. The keys of the config about the network's size are not used then.
    loss : callable, optional
        ``loss(gt, restored)`` of two batches (N, Z, Y, X, C) or (N, Y, X, C), background 0 and signal 1, instead of the
        key `loss`; written with `keras.ops`. It returns (N,), or one number for each voxel or for all, of which the
        mean is taken.
    augment : callable, optional
        ``augment(raw, gt, rng)`` of a training patch (Z, Y, X, C) or (Y, X, C), float32, after turns and flips (key
        `data_augmentation`), returns both, of the same shapes. Draw from `rng`, a `numpy.random.Generator`, alone: then
        a run is repeatable. Raw is the network's input: with `normalization` anscombe its second half of channels says
        how strong the noise is. Voxels that are missing in gt are NaN. Validation patches are not augmented.

    Returns
    -------
    run_dir : Path
        Folder with `best.keras`, `last.keras`, `history.csv`, `config.json`, `training.json` and TensorBoard events.
        `rcan.report.finish.finish_training` adds scores, a picture and a report.

    Raises
    ------
    TypeError
        If `config` is a path or a dictionary, or `network`, `loss` or `augment` cannot be called.
    ValueError, OSError
        If the data cannot be trained on, the folder cannot be written, or an own function returns what does not fit;
        nothing is changed then. A ValueError, too, if both `overwrite` and `resume` are asked for.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the state is saved.

    Examples
    --------
    >>> def loss(gt, restored):
    ...     return keras.ops.mean(keras.ops.abs(gt - restored) ** 1.5, axis=(1, 2, 3, 4))
    >>> train(rcan.load_config("config.json"), loss=loss)  # doctest: +SKIP
    """
    if not isinstance(config, Config):
        raise TypeError(f"config is a {type(config).__name__}: make it by rcan.load_config(path) or rcan.Config(...).")
    if overwrite and resume:
        raise ValueError("overwrite and resume contradict each other: choose one.")
    own = OwnFunctions.checked(network=network, loss=loss, augment=augment)
    check_run_dir(config.output_dir, overwrite=overwrite or resume)
    config = as_begun(config) if resume else config
    run_dir = Path(config.output_dir)
    strategy = choose_strategy(config.devices)  # before TensorFlow computes anything
    data = data or open_data(config, resume=resume)
    checkpoint = load_checkpoint(run_dir, repair=is_chief()) if resume else None
    precision = _choose_precision(config, strategy, is_new=not checkpoint)
    if own.network:  # its grid, not that of the config
        grid = grid_of(own.build_network(_sizes_for(data.training[0], data.normalization)))
        config = config.model_copy(update={"downsampling": grid})
    config = resolve_config(config, data, precision.name)
    if checkpoint:
        check_resumable(config, data, checkpoint.state, own.names)
    else:
        check_run_dir(run_dir, overwrite=overwrite)
    samplers = make_samplers(config, data, augment=own.augment)
    if own.augment or own.loss:
        _, gt = samplers.training.sample(0)
        if own.loss:
            own.check_loss(np.stack([gt, gt]))
    learner = make_learner(config, data.training[0], strategy, is_new=not checkpoint, own=own)
    print(f"{precision}\n{forecast(config, data, samplers.training, learner, own.names)}", flush=True)
    state = _go_on(config, learner, checkpoint) if checkpoint else RunState(epochs=config.epochs)
    writer = None
    if is_chief():
        writer = RunWriter(run_dir, samplers.validation, voxel_size=data.training[0].gt.volume.voxel_size)
        if checkpoint:
            describe_resumed_run(config, data)
        else:
            describe_new_run(config, data, own.names, overwrite=overwrite)
    Loop(config, learner, samplers, state=state, writer=writer).run()
    if is_chief():
        _check_bfloat16(run_dir, samplers.validation or samplers.training)
    return run_dir


def _check_bfloat16(run_dir, sampler):
    """Keep with the best network how much bfloat16 changes it."""
    check = compare_with_bfloat16(load_model(run_dir)[0], sampler)
    add_to_record(run_dir, "bfloat16_check", check)


def _choose_precision(config, strategy, *, is_new):
    """Choose what to compute in; a run goes on in that which it began with."""
    earlier = "auto" if is_new else load_config(Path(config.output_dir) / "config.json").precision
    if config.precision != "auto" or earlier == "auto":
        return choose_common_precision(config.precision, strategy)
    return ChosenPrecision(earlier, "as the run began")


def make_learner(config, pair, strategy, *, is_new, own=OwnFunctions()):  # noqa: B008 it never changes
    """Build the network for pairs like this one, with all that trains it."""
    sizes = _sizes_for(pair, config.normalization)

    def build():
        """The network of the configuration, or of the caller, for the channels of the data."""
        if own.network:
            return own.build_network(sizes)
        return build_rcan(
            **sizes,
            num_channels=config.num_channels,
            num_residual_blocks=config.num_residual_blocks,
            num_residual_groups=config.num_residual_groups,
            channel_reduction=config.channel_reduction,
            downsampling=config.downsampling,
        )

    weights = _load_initial_weights(config, build()) if is_new and config.initial_model else None
    return Learner(build, config, strategy, weights=weights, loss=own.loss)


def _sizes_for(pair, normalization):
    """What pairs like this one ask of a network: keywords of `build_rcan`."""
    return {
        "ndim": len(pair.raw.shape) - 1,
        "num_input_channels": pair.raw.shape[-1] * INPUT_CHANNELS[normalization],
        "num_output_channels": pair.gt.shape[-1],
        "upscaling": pair.upscaling,
    }


def _load_initial_weights(config, network):
    """Weights of the model to begin with, if it is of the same kind as the network."""
    model, _ = load_model(config.initial_model)
    shapes, expected = ([weight.shape for weight in each.weights] for each in (model, network))
    if shapes != expected:
        raise ValueError(
            f"{config.initial_model} is another network: {model.count_params():,} parameters, "
            f"{network.count_params():,} here. Use its num_channels, num_residual_blocks, num_residual_groups, "
            "channel_reduction, downsampling and channels."
        )
    return model.get_weights()


def _go_on(config, learner, checkpoint):
    """Give the learner its variables back; return where the run is, and say it."""
    try:
        learner.restore(checkpoint.variables)
    except ValueError:
        raise ValueError(
            f"{config.output_dir}: its checkpoint is of another network or optimizer than its config.json describes. "
            "Restore config.json from a copy, or begin anew with --overwrite."
        ) from None
    schedule = StepSchedule.of(config, learner.strategy.num_replicas_in_sync)
    state = schedule.resume(checkpoint.state, config)
    stuck = is_stuck(state.history, config.early_stopping)
    way_on = " There was no better epoch for as long as early_stopping allows: raise it to go on."
    print(f"Going on after {state.epoch} of {config.epochs} epochs.{way_on * stuck}", flush=True)
    if state.history and is_chief():
        write_table(Path(config.output_dir) / "history.csv", state.history)
    return state
