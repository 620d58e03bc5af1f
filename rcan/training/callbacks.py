"""What a run writes after its epochs: networks, history, events for TensorBoard, and pictures."""

import io
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rcan.atomic_io import atomic_file, write_table
from rcan.figures.history import best_epoch, draw_history
from rcan.figures.projections import draw_projections
from rcan.keras_setup import tf
from rcan.restoration.tiled import restore
from rcan.run_folder.models import save_model
from rcan.scores import enlarge

_NUM_SHOWN = 3  # validation patches
_DRAWING_INTERVAL = 30  # seconds between two drawings


class RunWriter:
    """Keep the run folder up to date.

    The first patches of the validation sampler, if there is one, are shown in the proportions of `voxel_size`, (z, y,
    x) in µm.
    """

    def __init__(self, run_dir, validation_sampler, *, voxel_size=(None, None, None)):
        self._run_dir, self._sampler, self._voxel_size = Path(run_dir), validation_sampler, voxel_size
        self._event_writers = {}
        self._drawn = time.monotonic()

    def write_epoch(self, network, history):
        """Write the network, the history and the events after an epoch, the last row of the history."""
        if best_epoch(history) == history[-1]["epoch"]:
            save_model(network, self._run_dir / "best.keras")
        save_model(network, self._run_dir / "last.keras")
        write_table(self._run_dir / "history.csv", history)
        for name, value in history[-1].items():
            if name not in ("epoch", "seconds"):
                kind = "validation" if name.startswith("val_") else "train"
                with self._events(kind):
                    tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=history[-1]["epoch"])

    def draw_sometimes(self, network, history):
        """Draw, unless it was done a moment ago."""
        if time.monotonic() - self._drawn > _DRAWING_INTERVAL:
            self.draw(network, history)

    def draw(self, network, history):
        """Draw the history, and the first validation patches as the network restores them."""
        with atomic_file(self._run_dir / "history.png") as partial:
            draw_history(partial, history)
        if self._sampler:
            self._draw_patches(network, history[-1]["epoch"])
        self._drawn = time.monotonic()

    def _draw_patches(self, network, epoch):
        picture = np.concatenate([self._draw_patch(network, index) for index in range(_NUM_SHOWN)])
        encoded = tf.io.encode_png(picture).numpy()
        with atomic_file(self._run_dir / "patches.png") as partial:
            partial.write_bytes(encoded)
        with self._events("validation"):
            tf.summary.image("patches", picture[np.newaxis], step=epoch)

    def _draw_patch(self, network, index):
        raw, gt = self._sampler.sample(index)
        restored = restore(network, raw, tile_shape=raw.shape[:-1])
        images = {
            "raw": enlarge(raw[..., : self._sampler.num_raw_channels], gt.shape),
            "restored": restored,
            "ground truth": np.where(np.isnan(gt), np.float32(0), gt),
        }
        buffer = io.BytesIO()
        draw_projections(buffer, images, voxel_size=self._voxel_size, name=f"validation patch {index + 1}")
        return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()

    @contextmanager
    def _events(self, kind):
        """Write the events of the `with` block at once; TensorFlow's error becomes one of the system."""
        folder = self._run_dir / kind
        try:
            if kind not in self._event_writers:
                self._event_writers[kind] = tf.summary.create_file_writer(str(folder))
            with self._event_writers[kind].as_default():
                yield
            self._event_writers[kind].flush()
        except tf.errors.OpError as failure:
            raise OSError(f"{folder}: events of TensorBoard cannot be written ({failure.message}).") from failure

    def close(self):
        """Close the files of events."""
        for writer in self._event_writers.values():
            writer.close()
