"""The widget that restores a layer, in a process of its own (`rcan.napari.worker`)."""

from pathlib import Path

import numpy as np
from napari.layers import Layer
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel

from rcan.atomic_io import remove_stale_partials
from rcan.io.array import ArraySink
from rcan.io.paths import image_name
from rcan.napari.layers import LayerSource, make_layer, open_levels
from rcan.napari.parts import AxesBox, JobWidget, LayerBox, PathEdit
from rcan.napari.worker import FACTS
from rcan.restoration.options import RestoreOptions
from rcan.run_folder.models import find_model

__all__ = ["RestoreWidget", "restore_layer"]

_ENSEMBLES = {"no": None, "of 8, turned and flipped": 8, "of 16, flipped in Z, too": 16}
_COLOURS = {"inside": "#2e9e5b", "edge": "#c98a1b", "outside": "#d0443e", "unknown": "#808080"}


class RestoreWidget(JobWidget):
    """Restore an image layer with a trained network; the result is a layer above it."""

    def __init__(self, napari_viewer):
        super().__init__(napari_viewer)
        self.model = PathEdit("run folder, .keras file or address", takes_address=True)
        self.layer_box = LayerBox(napari_viewer)
        self.axes_box = AxesBox(self.layer_box)
        self.ensemble_box = QComboBox()
        for text, size in _ENSEMBLES.items():
            self.ensemble_box.addItem(text, size)
        self.spread_box = QCheckBox("spread as a second layer")
        self.spread_box.setEnabled(False)
        self.output = PathEdit("optional: image.ome.zarr", is_new=True)
        self.verdict_label = QLabel(wordWrap=True)
        self.form.addRow("Network", self.model)
        self.form.addRow("Layer", self.layer_box)
        self.form.addRow("Axes", self.axes_box)
        self.form.addRow("Ensemble", self.ensemble_box)
        self.form.addRow("", self.spread_box)
        self.form.addRow("Write to", self.output)
        self.ensemble_box.setToolTip("Average over copies of each tile: as many times slower")
        self.spread_box.setToolTip(
            "How far the copies of the ensemble differ, in the image's unit: apply --uncertainty"
        )
        self.output.setToolTip("For images larger than memory: the result goes straight to OME-Zarr, and stays lazy")
        self.add_buttons(("Restore", lambda: self.start(self._prepare)))
        self.body.addWidget(self.verdict_label)
        self.body.addStretch()
        self.ensemble_box.currentIndexChanged.connect(self._allow_spread)

    def reset_choices(self, event=None):
        """Follow the layers of the viewer; napari calls it."""
        self.layer_box.refresh()

    def _allow_spread(self, _=None):
        is_ensemble = self.ensemble_box.currentData() is not None
        self.spread_box.setEnabled(is_ensemble)
        self.spread_box.setChecked(self.spread_box.isChecked() and is_ensemble)

    def _prepare(self):
        """What the form asks for, as the function of a job."""
        values = {
            "model_dir": self.model.require("a run folder"),
            "ensemble": self.ensemble_box.currentData(),
            "uncertainty": self.spread_box.isChecked(),
        }
        layer, axes, output = self.layer_box.require(), self.axes_box.currentText(), self.output.path
        source = LayerSource(layer, axes)
        self.verdict_label.clear()
        return lambda job: restore_layer(job, source, values, output)

    def on_report(self, verdict):
        """Show whether the image is like the training data."""
        status, reasons = verdict or ("unknown", ["the network does not tell what it was trained on"])
        colour = _COLOURS[status]
        listed = "".join(f"<br>• {reason}" for reason in map(_escape, reasons))
        self.verdict_label.setText(f'Trained range: <b style="color:{colour}">{status}</b>{listed}')

    def on_success(self, layers):
        """Add the restored layer, and the spread below it."""
        for layer in layers:
            self.viewer.add_layer(Layer.create(*layer))
        hidden = " The spread is there, too: click its eye." if len(layers) > 1 else ""
        return f"Done: {layers[-1][1]['name']}.{hidden}"


def _escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def restore_layer(job, source, values, output=None):
    """Restore a `LayerSource` in a `Job`: layers as napari takes them, the spread first and the restored one last.

    `values` are of `RestoreOptions`. The result is in memory, or in an OME-Zarr image `output` that is not there yet.
    The job reports status and reasons of the `rcan.fingerprint.domain.Verdict` about the image, None where the
    training data are not known.
    """
    paths = [output, _check_output(output)] if output else [Path("restored"), Path("spread")]
    paths = paths[: 1 + values["uncertainty"]]
    RestoreOptions.checked({**values, "input": source.path, "output": paths[0]})
    if isinstance(values["model_dir"], Path):
        find_model(values["model_dir"])  # said at once, before a process is started
    verdicts, arrays = [], {}

    def tell_verdict(verdict):
        """Show a verdict, and keep it."""
        verdicts.append(verdict)
        job.report(verdict)

    def create(path, axes, sizes, dtype):
        """Make an array for a result, anew where tiles were too large."""
        arrays[path] = ArraySink(source.path, axes, sizes, dtype)

    answers = {"read": source.read, "create": create}
    hearers = {
        "write": lambda path, *block: arrays[path].write(*block),
        "verdict": tell_verdict,
        "progress": job.show_progress,
        "warning": job.warn,
    }
    facts = {name: getattr(source, name) for name in FACTS}
    task = (values, facts, output, paths[1] if values["uncertainty"] else None)
    try:
        found = job.run_worker("rcan.napari.worker", task, answers, hearers)
    finally:
        if output:
            remove_stale_partials(output.parent)  # of a process that was stopped
    status, reasons = verdicts[0] or (None, None)
    notes = {"model": str(values["model_dir"]), **({"trained_range": status, "reasons": reasons} if status else {})}
    results = [open_levels(path) if output else ([arrays[str(path)].array], arrays[str(path)].axes) for path in paths]
    names, looks = ("restored", "spread"), ({}, _look_of_spread(found["display_ranges"][-1]))
    layers = [
        make_layer(source, *result, found["factors"], name=f"{source.path} {name}", metadata=notes, **look)
        for result, name, look in zip(results, names, looks, strict=False)
    ]
    return layers[::-1]


def _look_of_spread(display_range):
    highest = max(float(np.max(display_range)), np.finfo(np.float32).tiny)
    return {"contrast_limits": (0.0, highest), "colormap": "magma", "visible": False}


def _check_output(path):
    """Refuse to replace anything; returns where the spread goes."""
    if path.suffix.lower() != ".zarr":
        raise ValueError(f"{path} does not end in .zarr: the result is written as OME-Zarr, name it NAME.ome.zarr.")
    name = image_name(path)
    spread_path = path.with_name(f"{name}_uncertainty{path.name[len(name) :]}")
    for taken in (path, spread_path):
        if taken.exists():
            raise FileExistsError(f"{taken} exists: choose another name, or remove it.")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} does not exist: make the folder, or choose another.")
    return spread_path
