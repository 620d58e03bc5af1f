"""Training: from a checked configuration to a run folder.

Adam with a learning rate that is halved every quarter of the epochs, one patch for each device and step,
and after every epoch the network that restores the validation patches best is kept.

On a CPU the gradient of the three-dimensional convolution is the bottleneck: without oneDNN, TensorFlow
computes it several times slower than the convolution itself. `use_fast_gradient` puts the same sums together
from operations that are fast.
"""

import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from rcan import __version__
from rcan.checkpoint import check_run_dir, create_run, save_model, whole_file, write_history, write_json
from rcan.figures import draw_history
from rcan.metrics import METRICS
from rcan.model import build_rcan
from rcan.patches import PatchSampler, hold_out, make_dataset, open_pairs
from rcan.progress import Progress
from rcan.volume import limit_cache

__all__ = ["Data", "learning_rate", "open_data", "train", "use_fast_gradient"]

_VALIDATION_SEED = 1  # another sequence than that of the training patches
_DRAWING_INTERVAL = 30  # seconds between two drawings of the history


class Data(NamedTuple):
    """Checked pairs of a run: to learn from, to choose the best network by, and to score it on."""

    training: list
    validation: list
    test: list


def train(config, data=None, *, overwrite=False):
    """Train a network and leave a run folder.

    Parameters
    ----------
    config : rcan.Config
    data : Data, optional
        What `open_data` returned for this config; opened where not given.
    overwrite : bool
        Replace an earlier run in the folder.

    Returns
    -------
    run_dir : Path
        Folder with `best.keras`, `last.keras`, `history.csv`, `config.json`, `training.json` and
        TensorBoard events.

    Raises
    ------
    ValueError, OSError
        If the data cannot be trained on or the folder cannot be written; nothing is changed then.
    """
    check_run_dir(config.output_dir, overwrite=overwrite)
    training, validation, _ = data or open_data(config)
    config = config.model_copy(update={"patch_shape": _fit_patch_shape(config, training)})
    samplers = _make_samplers(config, training, validation)
    keras.utils.set_random_seed(config.seed)
    first = training[0]
    model = build_rcan(
        ndim=len(config.patch_shape),
        num_input_channels=first.raw.shape[-1],
        num_output_channels=first.gt.shape[-1],
        num_channels=config.num_channels,
        num_residual_blocks=config.num_residual_blocks,
        num_residual_groups=config.num_residual_groups,
        channel_reduction=config.channel_reduction,
        upscaling=first.upscaling,
    )
    print(
        f"Training on {_count(training, 'pair')}, validating on {_count(validation, 'pair')}: "
        f"{samplers[0].num_positions:,} positions with enough signal for patches of "
        f"{'x'.join(map(str, config.patch_shape))}; {model.count_params():,} parameters.",
        flush=True,
    )
    run_dir = Path(config.output_dir)
    create_run(run_dir, overwrite=overwrite)
    write_json(run_dir / "config.json", config.model_dump(mode="json"))
    write_json(run_dir / "training.json", _summary(config, training, validation))
    _fit(model, config, *samplers, run_dir)
    return run_dir


def _count(items, noun):
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


def open_data(config):
    """Open and check all volumes that a config names.

    Parameters
    ----------
    config : rcan.Config

    Returns
    -------
    data : Data
        Validation pairs are split off the training pairs where none are named.

    Raises
    ------
    ValueError, OSError
        If a file is missing or unreadable, or a pair cannot be used.
    """
    options = {
        "raw_axes": config.raw_data_format,
        "gt_axes": config.gt_data_format,
        "percentiles": config.percentiles,
        "ndim": len(config.patch_shape) if config.patch_shape else None,
    }
    limit_cache(None if config.cache_gb is None else int(config.cache_gb * 1e9))
    training = open_pairs(config.training_data_dir, config.training_image_pairs, **options)
    options |= {"like": training[0]}
    validation = open_pairs(config.validation_data_dir, config.validation_image_pairs, **options)
    test = open_pairs(config.test_data_dir, config.test_image_pairs, **options)
    _warn_of_overlap(training, test)
    if not validation:
        training, validation = hold_out(training, config.validation_split, seed=config.seed)
    return Data(training, validation, test)


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


def _make_samplers(config, training, validation):
    """Sources of training patches and of fixed validation patches (None without validation data)."""
    thresholds = {
        "intensity_threshold": config.intensity_threshold,
        "area_ratio_threshold": config.area_ratio_threshold,
    }
    sampler = PatchSampler(
        training, config.patch_shape, seed=config.seed, augmented=config.data_augmentation, **thresholds
    )
    if not validation:
        return sampler, None
    smallest = np.min([pair.raw.shape[:-1] for pair in validation], axis=0).tolist()
    shape = tuple(min(sizes) for sizes in zip(config.patch_shape, smallest, strict=True))
    options = {"seed": config.seed + _VALIDATION_SEED, "augmented": False}
    try:
        return sampler, PatchSampler(validation, shape, **options, **thresholds)
    except ValueError:
        warnings.warn("no validation patch has enough signal by the thresholds: all are used.", stacklevel=2)
        return sampler, PatchSampler(validation, shape, **options, intensity_threshold=0)


def _summary(config, training, validation):
    """What a user of the trained network has to know about its training."""

    def describe(pair):
        return {
            "raw": pair.raw.path,
            "gt": pair.gt.path,
            "raw_shape": pair.raw.shape,
            "gt_shape": pair.gt.shape,
            "num_frames": len(pair.raw.frames),
            "voxel_size": pair.raw.voxel_size,
            "raw_range": pair.raw_range.tolist(),
            "gt_range": pair.gt_range.tolist(),
        }

    packages = ("keras", "tensorflow", "numpy", "tifffile")
    return {
        "versions": {
            "rcan": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "seed": config.seed,
        "percentiles": config.percentiles,
        "patch_shape": config.patch_shape,
        "upscaling": training[0].upscaling,
        "training": [describe(pair) for pair in training],
        "validation": [describe(pair) for pair in validation],
    }


def learning_rate(epoch, *, initial, epochs):
    """Learning rate of an epoch: halved every ``epochs // 4`` epochs, a pure function.

    Parameters
    ----------
    epoch : int
        From 0.
    initial : float
    epochs : int
        Length of the run.

    Returns
    -------
    rate : float

    Examples
    --------
    >>> [learning_rate(epoch, initial=1.0, epochs=8) for epoch in range(8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    """
    return initial * 0.5 ** (epoch // max(1, epochs // 4))


def _fit(model, config, sampler, validation_sampler, run_dir):
    """Train `model` in place; the only place that knows how."""
    if not tf.config.list_physical_devices("GPU"):
        use_fast_gradient(model)
    # The trainer shares the layers of the model: what is saved carries no losses or measures of ours.
    trainer = _Trainer(model.inputs, model.outputs, name="trainer")
    trainer.compile(
        optimizer=keras.optimizers.Adam(config.initial_learning_rate),
        loss=config.loss,
        metrics=[METRICS[name] for name in config.metrics],
        jit_compile=False,
    )
    num_patches = config.epochs * config.steps_per_epoch * config.batch_size
    validation = None
    if validation_sampler:
        num_validation = max(1, min(64, config.steps_per_epoch // 4)) * config.batch_size
        validation = make_dataset(validation_sampler, range(num_validation), batch_size=config.batch_size)
    trainer.fit(
        make_dataset(sampler, range(num_patches), batch_size=config.batch_size),
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(
                lambda epoch: learning_rate(epoch, initial=config.initial_learning_rate, epochs=config.epochs)
            ),
            keras.callbacks.TensorBoard(run_dir, write_graph=False),
            _RunKeeper(model, run_dir, config),
        ],
    )


class _Trainer(keras.Model):
    """A model whose training step adds up gradients in an order that never changes.

    TensorFlow's sum of three or more gradients of one tensor (each skip connection makes some) begins with
    whichever is in memory that can be reused: the last bits would depend on the timing of threads. Summed
    in pairs they do not.
    """

    def train_step(self, data):
        """Update the weights from one batch; return the measures so far."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
        gradients = tf.gradients(
            loss,
            [variable.value for variable in self.trainable_variables],
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
        )
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.compute_metrics(x, y, y_pred)


class _RunKeeper(keras.callbacks.Callback):
    """Keep the run folder up to date after every epoch, and show how far the run is."""

    def __init__(self, model, run_dir, config):
        super().__init__()
        self._network, self._run_dir, self._config = model, run_dir, config
        self._epochs, self._best, self._drawn = [], np.inf, time.monotonic()

    def on_train_begin(self, logs=None):
        steps = self._config.epochs * self._config.steps_per_epoch
        self._progress = Progress(steps, "Training", unit="step")

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._check_finite(logs)
        self._progress.advance(1, loss=f"{logs['loss']:.4g}")

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in logs.items()}
        self._check_finite(logs)
        self._epochs.append(
            {"epoch": epoch + 1, **logs, "seconds": round(time.monotonic() - self._started, 3)}
        )
        write_history(self._run_dir / "history.csv", self._epochs)
        if time.monotonic() - self._drawn > _DRAWING_INTERVAL:
            self._draw()
        monitored = logs.get("val_loss", logs["loss"])
        is_best = monitored < self._best
        if is_best:
            self._best = monitored
            save_model(self._network, self._run_dir / "best.keras")
        save_model(self._network, self._run_dir / "last.keras")
        figures = ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
        self._progress.say(f"Epoch {epoch + 1}/{self._config.epochs}: {figures}{', best so far' * is_best}")

    def _check_finite(self, logs):
        """Stop at once when the weights have run away; what is kept so far stays."""
        for name in ("loss", "val_loss"):
            if not np.isfinite(logs.get(name, 0)):
                kept = f" {self._run_dir} keeps the networks from before." * bool(self._epochs)
                raise ValueError(
                    f"{name} has become {logs[name]} in epoch {len(self._epochs) + 1}: the training has run away. "
                    f"Lower initial_learning_rate, which is {self._config.initial_learning_rate:g}.{kept}"
                )

    def _draw(self):
        with whole_file(self._run_dir / "history.png") as partial:
            draw_history(partial, self._epochs)
        self._drawn = time.monotonic()

    def on_train_end(self, logs=None):
        self._draw()
        self._progress.close()


def use_fast_gradient(model):
    """Replace the gradient of a model's 3D convolutions by an equal one that is faster on a CPU.

    Only the layer instances change: their classes, configuration and saved files stay stock Keras.

    Parameters
    ----------
    model : keras.Model
        Changed in place.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv3D) and layer.kernel_size == (3, 3, 3):
            layer.convolution_op = _conv3d


def _conv3d(x, kernel):
    """`_conv3d_of_tensors`, which run eagerly would take a variable for one that it must not have."""
    return _conv3d_of_tensors(x, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _conv3d_of_tensors(x, kernel):
    """3D convolution, 'same' and stride 1, with a gradient made of fast operations.

    The gradient of the input is a convolution of the output's gradient with the flipped kernel. That of
    the kernel is, plane by plane, a 2D gradient with Z folded into the batch.
    """
    strides = [1] * 5

    def gradient(dy):
        flipped = tf.transpose(kernel[::-1, ::-1, ::-1], (0, 1, 2, 4, 3))
        depth, planes = tf.shape(x)[1], []
        for plane in range(3):
            shift = plane - 1  # y[z] takes this plane of the kernel times x[z + shift]
            x_part = x[:, max(0, shift) : depth + min(0, shift)]
            dy_part = dy[:, max(0, -shift) : depth - max(0, shift)]
            planes.append(
                tf.raw_ops.Conv2DBackpropFilter(
                    input=_fold(x_part),
                    filter_sizes=kernel.shape[1:],
                    out_backprop=_fold(dy_part),
                    strides=[1] * 4,
                    padding="SAME",
                )
            )
        return tf.nn.conv3d(dy, flipped, strides, "SAME"), tf.stack(planes)

    return tf.nn.conv3d(x, kernel, strides, "SAME"), gradient


def _fold(x):
    """(N, Z, Y, X, C) -> (N * Z, Y, X, C)"""
    shape = tf.shape(x)
    return tf.reshape(x, (shape[0] * shape[1], shape[2], shape[3], x.shape[-1]))
