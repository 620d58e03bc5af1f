"""Devices that a run computes on: one or several, of one machine or several."""

import contextlib
import functools
import json
import os

from rcan.hardware import ChosenPrecision
from rcan.keras_setup import tf
from rcan.precision import choose_precision


def choose_strategy(devices):
    """Make the distribution strategy for the `devices` of a configuration.

    To be called before TensorFlow computes anything. One device gets TensorFlow's default strategy; where
    ``TF_CONFIG`` names a cluster, the strategy is one of several machines. A ValueError if there are fewer devices
    than asked for, or ``TF_CONFIG`` is not JSON.
    """
    if devices == "cpu":
        tf.config.set_visible_devices([], "GPU")
    kind = "GPU" if tf.config.list_physical_devices("GPU") and devices != "cpu" else "CPU"
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


def choose_common_precision(asked, strategy):
    """Choose what all devices of a strategy compute in, as `rcan.precision.choose_precision`.

    Of several machines, all take float32 where one of them would.
    """
    num_gpus = len(tf.config.list_logical_devices("GPU"))
    if not is_cluster(strategy):  # which uses all of its machines
        num_gpus = min(num_gpus, strategy.num_replicas_in_sync)
    chosen = choose_precision(asked, on_gpu=num_gpus > 0, num_gpus=num_gpus)
    if asked != "auto" or not is_cluster(strategy):
        return chosen
    num_lower = sum_over_devices(strategy, float(chosen.name != "float32"))
    if 0 < num_lower < strategy.num_replicas_in_sync:
        return ChosenPrecision("float32", "not all machines compute in bfloat16 fast")
    return chosen


def sum_over_devices(strategy, number):
    """Sum of a number over all devices of all machines, each of which calls this at once."""
    return float(_adder(strategy)(tf.constant(number)))


@functools.cache
def _adder(strategy):
    """The function of TensorFlow that adds, made and traced once."""

    @tf.function
    def add(number):
        """Sum of the numbers of all devices."""
        numbers = strategy.run(tf.identity, args=(number,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)

    return add


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
