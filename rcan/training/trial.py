"""What a training will take, found out by some of its steps."""

import statistics
import time
from typing import NamedTuple

import numpy as np

from rcan.training.batches import distribute_batches, iterate_batches
from rcan.training.devices import choose_common_precision, choose_strategy
from rcan.training.fit import make_learner
from rcan.training.forecast import forecast
from rcan.training.run_data import make_samplers, resolve_config
from rcan.training.schedule import StepSchedule

__all__ = ["Trial", "try_training"]

_STEPS = 3  # that are timed, after a first one in which the network is compiled
_SHARE_OF_VALIDATION = 1 / 3  # of the time of a training step: there is no gradient


class Trial(NamedTuple):
    """Sources of patches of a training, and what all of it will take."""

    samplers: tuple  # `rcan.training.run_data.Samplers`
    forecast: str  # of data, network and memory, in words
    seconds: float  # of all epochs on these devices


def try_training(config, data):
    """Do the first steps of a training with its data, and leave nothing behind: a `Trial`.

    A ValueError or OSError says that the data cannot be trained on as the configuration says, or that memory is too
    small.
    """
    strategy = choose_strategy(config.devices)
    config = resolve_config(config, data, choose_common_precision(config.precision, strategy).name)
    samplers = make_samplers(config, data)
    learner = make_learner(config, data.training[0], strategy, is_new=True)
    text = forecast(config, data, samplers.training, learner)
    schedule = StepSchedule.of(config, strategy.num_replicas_in_sync)
    indices = np.arange((_STEPS + 1) * schedule.global_batch_size)
    batches = distribute_batches(samplers.training, indices, batch_size=config.batch_size, strategy=strategy)
    durations, started = [], time.monotonic()
    for batch in iterate_batches(batches, samplers.training):
        learner.train(*batch)
        durations.append(time.monotonic() - started)
        started = time.monotonic()
    of_validation = schedule.epochs * schedule.validation_steps * _SHARE_OF_VALIDATION if samplers.validation else 0
    return Trial(samplers, text, (schedule.num_steps + of_validation) * statistics.median(durations[1:]))
