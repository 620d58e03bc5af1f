"""What belongs to which epoch and step of a run: its learning rate and its patches, as pure functions."""

import math
from typing import NamedTuple

import numpy as np

from rcan.figures.history import best_epoch

_MOST_VALIDATION_STEPS = 64  # on one device
LATE_AREA = 4  # of a late patch over that of others, along Y and X


def learning_rate(epoch, *, initial, epochs, schedule="staircase", warmup_epochs=0):
    """Learning rate of an epoch, counted from 0.

    A ``"staircase"`` is halved every ``epochs // 4`` epochs; a ``"cosine"`` falls as half a cosine that begins after
    the warm-up and would be 0 after the last epoch. During the warm-up the rate rises in equal steps.

    >>> [learning_rate(epoch, initial=1.0, epochs=8) for epoch in range(8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    >>> [round(learning_rate(epoch, initial=1.0, epochs=4, schedule="cosine"), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    warmup_epochs = min(warmup_epochs, epochs - 1)
    if epoch < warmup_epochs:
        return initial * (epoch + 1) / (warmup_epochs + 1)
    if schedule == "cosine":
        return initial * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
    return initial * 0.5 ** (epoch // max(1, epochs // 4))


def is_stuck(history, patience):
    """Whether there was no better epoch for as long as `early_stopping`, the patience in epochs, allows."""
    return bool(patience and history) and history[-1]["epoch"] - best_epoch(history) >= patience


def is_finished(history, config):
    """Whether no epoch is left to train after those of the history."""
    return len(history) >= config.epochs or is_stuck(history, config.early_stopping)


class StepSchedule(NamedTuple):
    """How a run is divided into epochs, steps and patches."""

    epochs: int
    patches_per_epoch: int  # on however many devices
    global_batch_size: int  # patches of a step, on all devices together
    validation_steps: int  # after each epoch
    late_epochs: int = 0  # the last ones, with large patches
    late_batch_size: int = 0  # large patches of a step, on all devices together

    @classmethod
    def of(cls, config, num_replicas):
        """Divide the steps of a configuration among so many devices."""
        return cls(
            config.epochs,
            patches_per_epoch=config.steps_per_epoch * config.batch_size,
            global_batch_size=config.batch_size * num_replicas,
            validation_steps=max(1, min(_MOST_VALIDATION_STEPS, config.steps_per_epoch // 4) // num_replicas),
            late_epochs=round(config.late_patches * config.epochs),
            late_batch_size=config.batch_size // LATE_AREA * num_replicas,
        )

    @property
    def steps_per_epoch(self):
        """Training steps of an epoch."""
        return max(1, self.patches_per_epoch // self.global_batch_size)

    @property
    def num_steps(self):
        """Training steps of the run."""
        return self.epochs * self.steps_per_epoch

    def steps_done(self, state):
        """Training steps that a run has done, of all epochs."""
        return state.epoch * self.steps_per_epoch + state.patches_done // self.global_batch_size

    def patches_left(self, state):
        """Index of every patch from here on, and of every large one.

        Those of an epoch do not depend on the number of devices.
        """
        parts = {False: [], True: []}  # by whether patches are large
        for epoch in range(state.epoch, self.epochs):
            is_late = epoch >= self.epochs - self.late_epochs
            of_step = self.late_batch_size if is_late else self.global_batch_size
            done = state.patches_done // self.global_batch_size if epoch == state.epoch else 0
            indices = np.arange(done * of_step, self.steps_per_epoch * of_step)
            parts[is_late].append(epoch * self.patches_per_epoch + indices)
        return tuple(np.concatenate([np.array([], int), *part]) for part in parts.values())

    def resume(self, state, config):
        """State of a saved run from which it goes on, with other devices, epochs or patience perhaps."""
        whole_steps = state.patches_done // self.global_batch_size
        if whole_steps > self.steps_per_epoch:
            raise ValueError(
                f"{config.output_dir}: its state has done {state.patches_done} patches of an epoch of "
                f"{self.steps_per_epoch * self.global_batch_size}. Remove the newest folder in checkpoints/, or begin "
                "anew with --overwrite."
            )
        return state.model_copy(
            update={
                "epochs": self.epochs,
                "is_finished": is_finished(state.history, config),
                "patches_done": whole_steps * self.global_batch_size,
            }
        )
