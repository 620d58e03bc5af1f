"""What a run shows while it goes on: TensorBoard, and the same as PNG for people without it."""

import io
from contextlib import contextmanager

import numpy as np

from rcan.atomic_io import atomic_file
from rcan.figures.history import draw_history
from rcan.figures.projections import draw_projections
from rcan.keras_setup import tf
from rcan.restoration.tiled import restore
from rcan.scores import enlarge

_SHOWN_PATCHES = 3


class Board:
    """Curves and pictures of a run.

    Parameters
    ----------
    run_dir : Path
    validation_sampler : PatchSampler or None
        Its first patches are shown.
    voxel_size : tuple of (float or None)
        Of the ground truth, for the proportions of the pictures.
    """

    def __init__(self, run_dir, validation_sampler, *, voxel_size=(None, None, None)):
        self._run_dir, self._sampler, self._voxel_size = run_dir, validation_sampler, voxel_size
        self._writers = {}

    def add_epoch(self, row):
        """Show the losses and measures of one epoch, a row of the history."""
        for name, value in row.items():
            if name not in ("epoch", "seconds"):
                kind = "validation" if name.startswith("val_") else "train"
                with self._writing(kind):
                    tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=row["epoch"])

    def draw(self, network, history):
        """Draw the history, and the first validation patches as the network restores them."""
        with atomic_file(self._run_dir / "history.png") as partial:
            draw_history(partial, history)
        if not self._sampler:
            return
        picture = np.concatenate([self._draw_patch(network, index) for index in range(_SHOWN_PATCHES)])
        encoded = tf.io.encode_png(picture).numpy()
        with atomic_file(self._run_dir / "patches.png") as partial:
            partial.write_bytes(encoded)
        with self._writing("validation"):
            tf.summary.image("patches", picture[np.newaxis], step=history[-1]["epoch"])

    def _draw_patch(self, network, index):
        raw, gt = self._sampler.sample(index)
        restored = restore(network, raw, tile_shape=raw.shape[:-1])
        images = {"raw": enlarge(raw, gt.shape), "restored": restored, "ground truth": gt}
        buffer = io.BytesIO()
        draw_projections(buffer, images, voxel_size=self._voxel_size, name=f"validation patch {index + 1}")
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()

    @contextmanager
    def _writing(self, kind):
        """Write events of one kind at once; what keeps TensorFlow from it becomes an error of the system."""
        folder = self._run_dir / kind
        try:
            if kind not in self._writers:
                self._writers[kind] = tf.summary.create_file_writer(str(folder))
            with self._writers[kind].as_default():
                yield
            self._writers[kind].flush()
        except tf.errors.OpError as failure:
            raise OSError(
                f"{folder}: events of TensorBoard cannot be written ({failure.message})."
            ) from failure

    def close(self):
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
