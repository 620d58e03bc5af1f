"""A training from its configuration to a run folder."""

from pathlib import Path

from rcan.atomic_io import write_table
from rcan.config import Config, load_config
from rcan.hardware import ChosenPrecision
from rcan.intensity import INPUT_CHANNELS
from rcan.model import build_rcan
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
from rcan.training.run_data import as_begun, make_samplers, open_data, resolve_config
from rcan.training.schedule import StepSchedule, is_stuck
from rcan.training.steps import Learner


def train(config, data=None, *, overwrite=False, resume=False):
    """Train a network and leave a run folder.

    Parameters
    ----------
    config : rcan.Config
    data : RunData, optional
        What `rcan.training.run_data.open_data` returned for this config; opened where not given.
    overwrite : bool
        Replace an earlier run in the folder.
    resume : bool
        Go on with the run in the folder, if there is one.

    Returns
    -------
    run_dir : Path
        Folder with `best.keras`, `last.keras`, `history.csv`, `config.json`, `training.json` and TensorBoard events.
        `rcan.report.finish.finish_training` adds scores, a picture and a report.

    Raises
    ------
    TypeError
        If `config` is a path or a dictionary.
    ValueError, OSError
        If the data cannot be trained on or the folder cannot be written; nothing is changed then. A ValueError, too, if
        both `overwrite` and `resume` are asked for.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the state is saved.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config is a {type(config).__name__}: make it by rcan.load_config(path) or rcan.Config(...).")
    if overwrite and resume:
        raise ValueError("overwrite and resume contradict each other: choose one.")
    check_run_dir(config.output_dir, overwrite=overwrite or resume)
    config = as_begun(config) if resume else config
    run_dir = Path(config.output_dir)
    strategy = choose_strategy(config.devices)  # before TensorFlow computes anything
    data = data or open_data(config, resume=resume)
    checkpoint = load_checkpoint(run_dir, repair=is_chief()) if resume else None
    precision = _choose_precision(config, strategy, is_new=not checkpoint)
    config = resolve_config(config, data, precision.name)
    if checkpoint:
        check_resumable(config, data, checkpoint.state)
    else:
        check_run_dir(run_dir, overwrite=overwrite)
    samplers = make_samplers(config, data)
    learner = make_learner(config, data.training[0], strategy, is_new=not checkpoint)
    print(f"{precision}\n{forecast(config, data, samplers.training, learner)}", flush=True)
    state = _go_on(config, learner, checkpoint) if checkpoint else RunState(epochs=config.epochs)
    writer = None
    if is_chief():
        writer = RunWriter(run_dir, samplers.validation, voxel_size=data.training[0].gt.volume.voxel_size)
        if checkpoint:
            describe_resumed_run(config, data)
        else:
            describe_new_run(config, data, overwrite=overwrite)
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


def make_learner(config, pair, strategy, *, is_new):
    """Build the network for pairs like this one, with all that trains it."""

    def build():
        """The network of the configuration, for the channels of the data."""
        return build_rcan(
            ndim=len(config.patch_shape),
            num_input_channels=pair.raw.shape[-1] * INPUT_CHANNELS[config.normalization],
            num_output_channels=pair.gt.shape[-1],
            num_channels=config.num_channels,
            num_residual_blocks=config.num_residual_blocks,
            num_residual_groups=config.num_residual_groups,
            channel_reduction=config.channel_reduction,
            downsampling=config.downsampling,
            upscaling=pair.upscaling,
        )

    weights = _load_initial_weights(config, build()) if is_new and config.initial_model else None
    return Learner(build, config, strategy, weights=weights)


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
