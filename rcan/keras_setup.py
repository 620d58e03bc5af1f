"""Keras, set up once: every module that needs Keras or TensorFlow takes it from here, so that nobody can forget.

TensorFlow is told to use oneDNN, which by itself it does on newer CPUs only; a convolution is about a third faster with
it on the others too. Of a GPU it takes memory as it needs it, not all at once. The messages that both print while they
are loaded are silenced. Variables that a user has set stay as they are.

TensorFlow, `tf`, is imported when it is first asked for: only `data`, `training` and `export` do.
"""

import importlib
import logging
import os
import sys
from contextlib import contextmanager

__all__ = ["keras", "layers", "ops"]  # and tf, which is imported when it is asked for

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@contextmanager
def _muted_stderr():
    """Silence file descriptor 2, which compiled libraries write to directly."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


with _muted_stderr():
    import keras
    from keras import layers, ops
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its warnings are for developers


def __getattr__(name):
    """Import TensorFlow when `tf` is first taken from here: other backends of Keras do without it."""
    if name != "tf":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _muted_stderr():
        return importlib.import_module("tensorflow")
