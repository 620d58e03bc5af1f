"""The loop over epochs and steps, which can be left and entered again at any step.

All that decides what comes next is in a state that is saved: weights, optimizer, moving average, position and
the sums of the epoch so far. Patches are keyed by their index and the learning rate by the epoch, so that a run
that was interrupted ends in the same bits as one that was not.
"""

import functools
import itertools
import math
import time
from contextlib import closing, contextmanager

import numpy as np

from rcan.config import parse_loss
from rcan.data.patches import make_dataset
from rcan.keras_setup import keras, tf
from rcan.losses import METRICS, weighted_loss
from rcan.progress import Progress
from rcan.run_folder.checkpoints import save_state
from rcan.run_folder.layout import write_history
from rcan.run_folder.models import save_model
from rcan.training.devices import dtype_policy, is_chief
from rcan.training.gradient import has_fast_stock_gradient, use_fast_gradient
from rcan.training.stop_request import StopRequest

_SAVING_INTERVAL = 600  # seconds between two saved states within an epoch
_STEPS_BEFORE_ESTIMATE = 10
_DRAWING_INTERVAL = 30  # seconds between two drawings


def learning_rate(epoch, *, initial, epochs, schedule="staircase", warmup_epochs=0):
    """Learning rate of an epoch, a pure function.

    Parameters
    ----------
    epoch : int
        From 0.
    initial : float
    epochs : int
        Length of the run.
    schedule : {"staircase", "cosine"}
        Halved every ``epochs // 4`` epochs, or half a cosine that begins after the warm-up and would be 0 after the
        last epoch.
    warmup_epochs : int
        Epochs at the start in which the rate rises in equal steps.

    Returns
    -------
    rate : float

    Examples
    --------
    >>> [learning_rate(epoch, initial=1.0, epochs=8) for epoch in range(8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    >>> [round(learning_rate(epoch, initial=1.0, epochs=4, schedule="cosine"), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if epoch < warmup_epochs:
        return initial * (epoch + 1) / (warmup_epochs + 1)
    if schedule == "cosine":
        return initial * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
    return initial * 0.5 ** (epoch // max(1, epochs // 4))


class Loop:
    """Train a network and keep its run folder up to date.

    Parameters
    ----------
    build : callable
        Builds the network; called for the one that is saved and, under the policy of `precision`, for the one that
        is trained.
    config : rcan.Config
    sampler, validation_sampler : PatchSampler
        The latter may be None.
    run_dir : Path
    board : Board
    strategy : tf.distribute.Strategy
    weights : list of ndarray, optional
        To begin with.
    """

    def __init__(self, build, config, sampler, validation_sampler, *, run_dir, board, strategy, weights=None):
        self._config, self._run_dir, self._board, self._strategy = config, run_dir, board, strategy
        self._samplers = sampler, validation_sampler
        keras.utils.set_random_seed(config.seed)
        self._network = build()  # what is saved: plain float32, on one device
        if weights:
            self._network.set_weights(weights)
        self._loss = weighted_loss(parse_loss(config.loss))
        self._measures = {name: METRICS[name] for name in config.metrics}
        self._num_replicas = strategy.num_replicas_in_sync
        self._is_cluster = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._is_chief = is_chief()  # the others compute, but write nothing
        self._num_patches = config.steps_per_epoch * config.batch_size  # of an epoch, on however many devices
        self._per_step = config.batch_size * self._num_replicas
        self._num_steps = max(1, self._num_patches // self._per_step)  # of an epoch
        with strategy.scope():
            with dtype_policy(config.precision):
                self._model = build()
            self._model.set_weights(self._network.get_weights())
            if not (tf.config.list_logical_devices("GPU") or has_fast_stock_gradient()):
                use_fast_gradient(self._model)
            self._optimizer = keras.optimizers.Adam(config.initial_learning_rate)
            if config.precision == "mixed_float16":
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(self._model.trainable_variables)
            self._averages = [
                tf.Variable(variable, trainable=False)
                for variable in self._model.trainable_variables * bool(config.ema)
            ]
        self._train_step = tf.function(self._distributed(self._train_replica), jit_compile=config.jit_compile)
        self._test_step = tf.function(self._distributed(self._test_replica))
        # Where the run is. `sums` are those of the epoch that is under way.
        self._epoch, self._patches_done, self._sums, self._seconds = 0, 0, {}, 0.0
        self._epochs = []

    @property
    def num_parameters(self):
        """Of the network."""
        return self._network.count_params()

    # One step

    def _distributed(self, replica_step):
        def step(raw, gt):
            results = self._strategy.run(replica_step, args=(raw, gt))
            mean = tf.distribute.ReduceOp.MEAN
            return {name: self._strategy.reduce(mean, value, axis=None) for name, value in results.items()}

        return step

    def _train_replica(self, raw, gt):
        restored = self._model(raw, training=True)
        loss = tf.reduce_mean(self._loss(gt, restored))
        # TensorFlow's sum of three or more gradients of one tensor (each skip connection makes some) begins with
        # whichever is in memory that can be reused: the last bits would depend on the timing of threads. Summed in
        # pairs they do not.
        gradients = tf.gradients(
            self._optimizer.scale_loss(loss) / self._num_replicas,
            [variable.value for variable in self._model.trainable_variables],
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
        )
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return {"loss": loss, **self._measured(gt, restored)}

    def _test_replica(self, raw, gt):
        restored = self._model(raw, training=False)
        return {"loss": tf.reduce_mean(self._loss(gt, restored)), **self._measured(gt, restored)}

    def _measured(self, gt, restored):
        return {name: tf.reduce_mean(measure(gt, restored)) for name, measure in self._measures.items()}

    @tf.function
    def _update_averages(self, decay):
        for average, variable in zip(self._averages, self._model.trainable_variables, strict=True):
            self._strategy.extended.update(
                average, lambda old, new: old.assign_add((1 - decay) * (new - old)), args=(variable.value,)
            )

    # The run

    def run(self):
        """Train from where the run is to its end.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, once the state is saved.
        ValueError
            If the loss becomes NaN or infinite.
        ConnectionError
            If another machine of a cluster is lost.
        """
        config = self._config
        steps = config.epochs * self._num_steps
        done = self._epoch * self._num_steps + self._patches_done // self._per_step
        self._saved = self._drawn = time.monotonic()
        self._steps_left_out = _STEPS_BEFORE_ESTIMATE
        sampler = self._samplers[0]
        batches = self._batches(sampler, self._dataset(sampler, self._remaining_patches()))
        if done == 0:
            self._save()  # a run that is killed before its first state can go on, too
        with (
            Progress(steps, "Training", unit="step", done=done) as self._progress,
            StopRequest() as self._stop,
            self._lost_machine_as_error(),
            closing(batches),  # threads that still read patches would keep a failed process alive
        ):
            while not self._is_finished:
                self._train_epoch(batches)
                self._finish_epoch()
                if self._is_asked_to_stop() and not self._is_finished:
                    self._leave()
        self._draw()
        self._board.close()

    @contextmanager
    def _lost_machine_as_error(self):
        try:
            yield
        except tf.errors.OpError as failure:
            if not self._is_cluster:
                raise
            raise ConnectionError(
                f"another machine of the cluster has stopped or cannot be reached ({type(failure).__name__}). Start "
                f"the command on all machines again, with --resume: {self._run_dir} keeps the last state."
            ) from failure

    def _remaining_patches(self):
        """Index of every patch from here on: those of an epoch do not depend on the number of devices."""
        indices = np.arange(self._epoch, self._config.epochs)[:, np.newaxis] * self._num_patches
        indices = (indices + np.arange(self._num_steps * self._per_step)).ravel()
        return indices[self._patches_done :]

    def _dataset(self, sampler, indices):
        """Batches for each replica of the patches of these indices."""

        def of_worker(context):
            mine = indices.reshape(-1, self._per_step)
            mine = np.split(mine, context.num_input_pipelines, axis=1)[context.input_pipeline_id]
            dataset = make_dataset(sampler, mine.ravel(), batch_size=self._config.batch_size)
            # of data without end the strategy need not ask all machines before each step whether there are more
            return dataset.repeat() if self._num_replicas > 1 else dataset

        return self._strategy.distribute_datasets_from_function(of_worker)

    def _batches(self, sampler, dataset):
        """Yield the batches of a dataset of this sampler."""
        try:
            yield from dataset
        except tf.errors.OpError as failure:
            if sampler.failure:
                raise sampler.failure from None  # in the words of whoever noticed it
            raise failure

    def _train_epoch(self, batches):
        config, started = self._config, time.monotonic()
        self._optimizer.learning_rate = self._learning_rate()
        for _ in range(self._patches_done // self._per_step, self._num_steps):
            figures = {name: float(value) for name, value in self._train_step(*next(batches)).items()}
            self._check_finite(figures)
            if config.ema:
                updates = int(self._optimizer.iterations)
                self._update_averages(
                    tf.constant(min(config.ema, (1 + updates) / (10 + updates)), tf.float32)
                )
            self._add_to_sums(figures)
            self._patches_done += self._per_step
            self._progress.advance(1, **self._shown_figures())
            self._estimate_end()
            now = time.monotonic()
            is_asked = self._is_asked_to_stop()
            if is_asked or now - self._saved > _SAVING_INTERVAL:
                self._seconds, started = self._seconds + now - started, now
                self._save()
            if is_asked:
                self._leave()
        self._seconds += time.monotonic() - started

    def _estimate_end(self):
        """Say once, after the first steps, when the training will end."""
        self._steps_left_out -= 1
        if self._steps_left_out == 0:
            self._progress.say(f"About {self._progress.describe_speed()}.")

    def _add_to_sums(self, figures):
        for name, value in {**figures, "patches": 1}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * self._per_step

    def _shown_figures(self):
        """Loss of the epoch so far, and what the last validation gave."""
        last = self._epochs[-1] if self._epochs else {}
        figures = {"loss": self._sums["loss"] / self._sums["patches"]}
        figures |= {name: last[name] for name in ("val_loss", "val_psnr") if name in last}
        return {name: f"{value:.4g}" for name, value in figures.items()}

    def _learning_rate(self):
        config = self._config
        return learning_rate(
            self._epoch,
            initial=config.initial_learning_rate,
            epochs=config.epochs,
            schedule=config.schedule,
            warmup_epochs=config.warmup_epochs,
        )

    def _finish_epoch(self):
        """Validate, keep the network, write the history, and save the state before the next epoch."""
        started = time.monotonic()
        weights = self._best_guess()
        patches = self._sums.pop("patches")
        figures = {name: value / patches for name, value in self._sums.items()}
        figures |= {f"val_{name}": value for name, value in self._validate(weights).items()}
        self._check_finite(figures)
        seconds = self._seconds + time.monotonic() - started
        row = {"epoch": self._epoch + 1, **figures, "learning_rate": self._learning_rate()}
        earlier = [_monitored(row) for row in self._epochs]
        is_best = not earlier or _monitored(row) < min(earlier)
        self._epochs.append({**row, "seconds": round(seconds, 3)})
        self._network.set_weights(weights)
        if self._is_chief:
            if is_best:
                save_model(self._network, self._run_dir / "best.keras")
            save_model(self._network, self._run_dir / "last.keras")
            write_history(self._run_dir / "history.csv", self._epochs)
            self._board.add_epoch(row)
        self._epoch, self._patches_done, self._sums, self._seconds = self._epoch + 1, 0, {}, 0.0
        self._save()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self._progress.say(
            f"Epoch {self._epoch}/{self._config.epochs}: {shown}{', best so far' * is_best}; "
            f"{self._progress.describe_speed()}"
        )
        if self.is_stuck and self._epoch < self._config.epochs:
            self._progress.say(
                "No better epoch for as long as early_stopping allows: the training stops here."
            )
        if time.monotonic() - self._drawn > _DRAWING_INTERVAL:
            self._draw()

    @property
    def _is_finished(self):
        return self.is_stuck or self._epoch >= self._config.epochs

    @property
    def is_stuck(self):
        """Whether there was no better epoch for as long as `early_stopping` allows."""
        losses = [_monitored(row) for row in self._epochs]
        patience = self._config.early_stopping
        return bool(patience and losses) and len(losses) - 1 - losses.index(min(losses)) >= patience

    def _best_guess(self):
        """Weights to validate and to save: their moving average where there is one."""
        weights = self._model.get_weights()
        averages = iter([average.numpy() for average in self._averages])
        is_trained = [variable.trainable for variable in self._model.weights]
        return [
            next(averages, old) if trained else old for old, trained in zip(weights, is_trained, strict=True)
        ]

    @functools.cached_property
    def _validation_data(self):
        return self._dataset(self._samplers[1], np.arange(self._validation_steps * self._per_step))

    @property
    def _validation_steps(self):
        return max(1, min(64, self._config.steps_per_epoch // 4) // self._num_replicas)

    def _validate(self, weights):
        """Mean loss and measures of the validation patches, which are the same in every epoch."""
        sampler, steps = self._samplers[1], self._validation_steps
        if not sampler:
            return {}
        trained = self._model.get_weights()
        if self._averages:
            self._model.set_weights(weights)
        sums = {}
        for raw, gt in itertools.islice(self._batches(sampler, self._validation_data), steps):
            for name, value in self._test_step(raw, gt).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        if self._averages:
            self._model.set_weights(trained)
        return {name: value / steps for name, value in sums.items()}

    def _check_finite(self, figures):
        """Stop at once when the weights have run away; what is kept so far stays."""
        for name in ("loss", "val_loss"):
            if not math.isfinite(figures.get(name, 0)):
                kept = f" {self._run_dir} keeps the networks from before." * bool(self._epochs)
                raise ValueError(
                    f"{name} has become {figures[name]} in epoch {self._epoch + 1}: the training has run away. Lower "
                    f"initial_learning_rate, which is {self._config.initial_learning_rate:g}.{kept}"
                )

    def _is_asked_to_stop(self):
        """Whether this process, or one on another machine, was asked to: all stop after the same step."""
        if not self._is_cluster:
            return bool(self._stop)
        return float(self._count_votes(tf.constant(float(bool(self._stop))))) > 0

    @tf.function
    def _count_votes(self, vote):
        votes = self._strategy.run(tf.identity, args=(vote,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None)

    def _leave(self):
        raise self._stop.exception(
            f"stopped in epoch {self._epoch + 1} of {self._config.epochs}; {self._run_dir} keeps all that is "
            "needed to go on: the same command with --resume."
        )

    # Saving and loading

    def _variables(self):
        return [*self._model.weights, *self._optimizer.variables, *self._averages]

    def _save(self):
        self._saved = time.monotonic()
        if not self._is_chief:
            return
        state = {
            "epoch": self._epoch,
            "epochs": self._config.epochs,
            "is_finished": self._is_finished,
            "patches_done": self._patches_done,
            "sums": self._sums,
            "seconds": self._seconds,
            "history": self._epochs,
        }
        name = f"epoch_{self._epoch:06d}_{self._patches_done:09d}"
        save_state(
            self._run_dir,
            name,
            [keras.ops.convert_to_numpy(variable) for variable in self._variables()],
            state,
        )

    def restore(self, arrays, state):
        """Go on from a saved state.

        Parameters
        ----------
        arrays, state
            From `rcan.run_folder.load_state`.
        """
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        self._epoch, self._sums = state["epoch"], state["sums"]
        self._patches_done = (
            state["patches_done"] // self._per_step * self._per_step
        )  # the devices may be others
        self._seconds, self._epochs = state["seconds"], state["history"]
        self._network.set_weights(self._best_guess())
        if self._epochs and self._is_chief:
            write_history(self._run_dir / "history.csv", self._epochs)

    def _draw(self):
        if self._epochs and self._is_chief:
            self._board.draw(self._network, self._epochs)
        self._drawn = time.monotonic()


def _monitored(row):
    return row.get("val_loss", row["loss"])
