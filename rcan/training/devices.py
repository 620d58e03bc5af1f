"""Devices that a run computes on: one or several, of one machine or several."""

import contextlib
import json
import os
import warnings

from rcan.keras_setup import keras, tf


def choose_strategy(devices, precision):
    """Make the distribution strategy for the `devices` and the `precision` of a configuration.

    To be called before TensorFlow computes anything. One device gets TensorFlow's default strategy; where
    ``TF_CONFIG`` names a cluster, the strategy is one of several machines. A ValueError if there are fewer devices
    than asked for, or ``TF_CONFIG`` is not JSON.
    """
    if devices == "cpu":
        tf.config.set_visible_devices([], "GPU")
    kind = "GPU" if tf.config.list_physical_devices("GPU") and devices != "cpu" else "CPU"
    if kind == "CPU" and precision != "float32":
        warnings.warn(f"precision {precision} is many times slower than float32 on a CPU.", stacklevel=2)
    if _tf_config().get("cluster"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    if devices.isdecimal():
        if int(devices) > len(names):
            raise ValueError(
                f"devices is {devices} but there {'is' if len(names) == 1 else 'are'} {len(names)} ({kind}): name at "
                "most that many, or auto."
            )
        names = names[: int(devices)]
    elif kind == "CPU":
        names = names[:1]
    if len(names) > 1:
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.get_strategy()


def _tf_config():
    """Cluster of machines that the environment names, and the task of this one."""
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}")
    except ValueError as failure:
        raise ValueError(f"TF_CONFIG is not JSON ({failure}): unset it, or let it name the cluster.") from None


def is_cluster(strategy):
    """Whether several machines train together."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief():
    """Whether this process writes files: the only one, or the first of several."""
    task = _tf_config().get("task", {})
    return task.get("type", "worker") == "chief" or (
        "chief" not in _tf_config().get("cluster", {}) and task.get("index", 0) == 0
    )


@contextlib.contextmanager
def report_lost_machine(strategy, run_dir):
    """Turn errors of TensorFlow into one that says what to do, where several machines train together."""
    try:
        yield
    except tf.errors.OpError as failure:
        if not is_cluster(strategy):
            raise
        raise ConnectionError(
            f"another machine of the cluster has stopped or cannot be reached ({type(failure).__name__}). Start "
            f"the command on all machines again, with --resume: {run_dir} keeps the last state."
        ) from failure


@contextlib.contextmanager
def dtype_policy(name):
    """Build layers with a policy of Keras, such as ``mixed_bfloat16``."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
