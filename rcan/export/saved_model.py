"""A network as TensorFlow's SavedModel, which Fiji's CSBDeep and deepImageJ read, and TensorFlow without Keras.

Fiji has old versions of TensorFlow. What Keras and TensorFlow 2 write themselves opens in new ones only, because of how
weights are stored. Here they are constants of a plain graph, in the format that all versions know.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from rcan.export.wrapping import INPUT, OUTPUT
from rcan.keras_setup import keras

__all__ = ["SIGNATURE", "TENSORFLOW_VERSION", "write_saved_model", "zip_saved_model"]

SIGNATURE = "serving_default"
TENSORFLOW_VERSION = "1.15"  # the oldest one that was found to open it, with the same result
_SIDE = 16  # voxels of a small tile


def write_saved_model(model, folder):
    """Write a Keras model as a SavedModel with the tag ``serve`` and the signature ``serving_default``.

    Its input is ``raw``, its output ``restored``, of any size. A ValueError says that Keras does not run on TensorFlow,
    which writes it.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(f"KERAS_BACKEND is {backend}: TensorFlow alone writes a SavedModel, set it to tensorflow.")
    from rcan.keras_setup import tf

    weights = model.trainable_variables, model.non_trainable_variables
    weights = [[keras.ops.convert_to_numpy(weight) for weight in part] for part in weights]
    tile = np.zeros((1, *(_SIDE,) * (len(model.input_shape) - 2), model.input_shape[-1]), np.float32)
    model.stateless_call(*weights, tile)  # ends with making variables that Keras has put off, here instead of below

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.float32, name=INPUT)])
    def restore(raw):
        """Compute the network with constants in the place of its variables."""
        constants = [[tf.constant(values) for values in part] for part in weights]
        restored, _ = model.stateless_call(*constants, raw, training=False)
        return tf.identity(restored, name=OUTPUT)

    saving = tf.compat.v1.saved_model
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(restore.get_concrete_function().graph.as_graph_def(), name="")
        ends = [{name: graph.get_tensor_by_name(f"{name}:0")} for name in (INPUT, OUTPUT)]
        builder = saving.builder.SavedModelBuilder(str(folder))
        with tf.compat.v1.Session(graph=graph) as session:
            builder.add_meta_graph_and_variables(
                session,
                [saving.tag_constants.SERVING],
                {SIGNATURE: saving.predict_signature_def(*ends)},
                strip_default_attrs=True,
            )
        builder.save()


def zip_saved_model(model, path):
    """Write a SavedModel as a ZIP archive, as CSBDeep in Fiji takes it; the files lie at its top."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as scratch:
        write_saved_model(model, Path(scratch) / "model")
        shutil.make_archive(str(path.with_suffix("")), "zip", Path(scratch) / "model")
