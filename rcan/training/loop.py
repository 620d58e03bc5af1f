"""The loop over epochs and steps, which can be left and entered again at any step.

All that decides what comes next is in a checkpoint: weights, optimizer, moving average, position and the sums of the
epoch so far. Patches are keyed by their index and the learning rate by the epoch, so that a run that was interrupted
ends in the same bits as one that was not.
"""

import functools
import math
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from rcan.figures.history import best_epoch
from rcan.progress import Progress
from rcan.run_folder.checkpoints import Checkpoint, save_checkpoint
from rcan.training.batches import distribute_batches, iterate_batches
from rcan.training.devices import report_lost_machine
from rcan.training.schedule import LATE_AREA, StepSchedule, is_finished, learning_rate
from rcan.training.stop_request import StopRequest

_SAVING_INTERVAL = 600  # seconds between two checkpoints within an epoch
_STEPS_BEFORE_ESTIMATE = 10


class Loop:
    """Train a network from where a run is to its end.

    `samplers` are those of `make_samplers`. Without one for validation nothing is validated, without a writer nothing
    is written: of several machines one writes.
    """

    def __init__(self, config, learner, samplers, *, state, writer=None):
        self._config, self._learner, self._writer, self._state = config, learner, writer, state
        self._samplers = samplers
        self._schedule = StepSchedule.of(config, learner.strategy.num_replicas_in_sync)
        self._run_dir = Path(config.output_dir)

    def run(self):
        """Train to the end; what is written so far stays, whatever happens.

        A KeyboardInterrupt follows Ctrl-C or SIGTERM, once a checkpoint is saved; a ValueError says that the loss
        became NaN or infinite, a ConnectionError that another machine is lost.
        """
        schedule, strategy = self._schedule, self._learner.strategy
        done = schedule.steps_done(self._state)
        batches = self._iterate_patches()
        if done == 0:
            self._save()  # a run that is killed within its first epoch can go on, too
        self._saved, self._steps_before_estimate = time.monotonic(), _STEPS_BEFORE_ESTIMATE
        with (
            Progress(schedule.num_steps, "Training", unit="step", done=done) as self._progress,
            StopRequest(strategy) as self._stop_request,
            report_lost_machine(strategy, self._run_dir),
            closing(batches),  # threads that still read patches would keep a failed process alive
        ):
            while not self._state.is_finished:
                self._train_epoch(batches)
                self._finish_epoch()
        if self._writer:
            self._writer.draw(self._learner.network, self._state.history)
            self._writer.close()

    def _train_epoch(self, batches):
        """Do the steps of an epoch that are left."""
        global_batch_size = self._schedule.global_batch_size
        self._learner.set_learning_rate(self._learning_rate())
        started = time.monotonic()
        for _ in range(self._state.patches_done // global_batch_size, self._schedule.steps_per_epoch):
            figures = self._learner.train(*next(batches))
            self._check_finite(figures)
            now = time.monotonic()
            self._state = self._state.after_step(figures, global_batch_size, seconds=now - started)
            started = now
            self._show_progress()
            is_asked = self._stop_request.is_made()
            if is_asked or now - self._saved > _SAVING_INTERVAL:
                self._save()
            if is_asked:
                self._stop()

    def _finish_epoch(self):
        """Validate, write what an epoch leaves, and save a checkpoint before the next one."""
        started = time.monotonic()
        figures = self._state.mean_figures()
        figures |= {f"val_{name}": value for name, value in self._validate().items()}
        self._check_finite(figures)
        row = {"epoch": self._state.epoch + 1, **figures, "learning_rate": self._learning_rate()}
        row["seconds"] = round(self._state.seconds + time.monotonic() - started, 3)
        is_last = is_finished([*self._state.history, row], self._config)
        self._state = self._state.after_epoch(row, is_finished=is_last)
        self._learner.update_network()
        if self._writer:
            self._writer.write_epoch(self._learner.network, self._state.history)
        self._save()
        self._say_epoch(row)
        if self._writer:
            self._writer.draw_sometimes(self._learner.network, self._state.history)
        if not self._state.is_finished and self._stop_request.is_made():
            self._stop()

    def _validate(self):
        """Mean loss and measures of the validation patches, which are the same in every epoch."""
        if not self._samplers.validation:
            return {}
        batches = iterate_batches(self._validation_data, self._samplers.validation)
        return self._learner.evaluate(batches, self._schedule.validation_steps)

    def _iterate_patches(self):
        """Batches of all steps that are left."""
        left, batch_size = self._schedule.patches_left(self._state), self._config.batch_size
        sizes = batch_size, batch_size // LATE_AREA
        for sampler, indices, size in zip((self._samplers.training, self._samplers.late), left, sizes, strict=True):
            if len(indices):
                yield from iterate_batches(self._distribute(sampler, indices, size), sampler)

    def _distribute(self, sampler, indices, batch_size):
        return distribute_batches(sampler, indices, batch_size=batch_size, strategy=self._learner.strategy)

    @functools.cached_property
    def _validation_data(self):
        num_patches = self._schedule.validation_steps * self._schedule.global_batch_size
        return self._distribute(self._samplers.validation, np.arange(num_patches), self._config.batch_size)

    def _learning_rate(self):
        config = self._config
        return learning_rate(
            self._state.epoch,
            initial=config.initial_learning_rate,
            epochs=config.epochs,
            schedule=config.schedule,
            warmup_epochs=config.warmup_epochs,
        )

    def _check_finite(self, figures):
        """Stop at once when the weights have run away."""
        for name in ("loss", "val_loss"):
            if not math.isfinite(figures.get(name, 0)):
                kept = f" {self._run_dir} keeps the networks from before." * bool(self._state.history)
                raise ValueError(
                    f"{name} has become {figures[name]} in epoch {self._state.epoch + 1}: the training has run away. "
                    f"Lower initial_learning_rate, which is {self._config.initial_learning_rate:g}.{kept}"
                )

    def _save(self):
        self._saved = time.monotonic()
        if self._writer:
            save_checkpoint(self._run_dir, Checkpoint(self._learner.variables(), self._state))

    def _stop(self):
        raise self._stop_request.exception(
            f"stopped in epoch {self._state.epoch + 1} of {self._config.epochs}; {self._run_dir} keeps all that is "
            "needed to go on: the same command with --resume."
        )

    def _show_progress(self):
        """Show the loss of the epoch so far and what the last validation gave; say once when the run will end."""
        last = self._state.history[-1] if self._state.history else {}
        figures = {"loss": self._state.mean_figures()["loss"]}
        figures |= {name: last[name] for name in ("val_loss", "val_psnr") if name in last}
        self._progress.advance(1, **{name: f"{value:.4g}" for name, value in figures.items()})
        self._steps_before_estimate -= 1
        if self._steps_before_estimate == 0:
            self._progress.say(f"About {self._progress.describe_speed()}.")

    def _say_epoch(self, row):
        epoch, history = self._state.epoch, self._state.history
        shown = (f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds"))
        best = ", best so far" if best_epoch(history) == row["epoch"] else ""
        self._progress.say(
            f"Epoch {epoch}/{self._config.epochs}: {', '.join(shown)}{best}; {self._progress.describe_speed()}"
        )
        if self._state.is_finished and epoch < self._config.epochs:
            self._progress.say("No better epoch for as long as early_stopping allows: the training stops here.")
