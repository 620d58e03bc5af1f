"""What a run computes on: one device or several, one machine or several."""

import contextlib
import json
import os
import warnings

from rcan.keras_setup import keras, tf


def choose_strategy(devices, precision):
    """Make the distribution strategy that a config asks for.

    To be called before TensorFlow computes anything.

    Parameters
    ----------
    devices : str
        ``"auto"``: all GPUs, or the CPU where there is none; ``"cpu"``; or a number: so many GPUs, or logical CPU
        devices where there is no GPU.
    precision : {"float32", "mixed_bfloat16", "mixed_float16"}

    Returns
    -------
    strategy : tf.distribute.Strategy
        TensorFlow's own default for a single device. Several machines where ``TF_CONFIG`` names a cluster.

    Raises
    ------
    ValueError
        If there are fewer devices than asked for, or ``TF_CONFIG`` is not JSON.
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
    """The cluster of machines that the environment names, and the task of this one."""
    try:
        return json.loads(os.environ.get("TF_CONFIG") or "{}")
    except ValueError as failure:
        raise ValueError(
            f"TF_CONFIG is not JSON ({failure}): unset it, or let it name the cluster."
        ) from None


def is_chief():
    """Whether this process writes: the only one, or the first of several."""
    task = _tf_config().get("task", {})
    return task.get("type", "worker") == "chief" or (
        "chief" not in _tf_config().get("cluster", {}) and task.get("index", 0) == 0
    )


@contextlib.contextmanager
def dtype_policy(name):
    """Build layers with a policy of Keras, such as ``mixed_bfloat16``."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
