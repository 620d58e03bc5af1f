"""The widget that trains a network, by the command `rcan train` in a process of its own.

So napari keeps its memory and its GPU, survives whatever happens to the training, and the run folder is the command's.
"""

import io
import re
import tempfile
from pathlib import Path

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLineEdit, QSpinBox, QTabWidget, QWidget

from rcan.atomic_io import read_table, write_json
from rcan.config import RECIPES, Config
from rcan.napari.layers import LayerSource, save_layer
from rcan.napari.parts import AxesBox, JobWidget, LayerBox, PathEdit, Picture, make_form
from rcan.run_folder.layout import check_run_dir

__all__ = ["TrainWidget", "go_on", "train"]

_NETWORKS = {
    "default": {},
    "small, for a CPU": {"num_residual_groups": 1, "num_residual_blocks": 4},
}
_PAIR_FOLDER = "pair"  # of a run folder, with the layers that are learned from
_EPOCH = re.compile(r"Epoch (\d+)/(\d+):")
_STEPS = re.compile(r"Training: +(\d+)% ")


class TrainWidget(JobWidget):
    """Train a network on two folders, or two layers, of raw and ground-truth images; stop it, and go on."""

    def __init__(self, napari_viewer):
        super().__init__(napari_viewer, stop_text="Stop")
        self.raw_folder, self.gt_folder = PathEdit("raw images"), PathEdit("their ground truth")
        self.raw_layer, self.gt_layer = LayerBox(napari_viewer), LayerBox(napari_viewer)
        self.axes_box = AxesBox(self.raw_layer)
        self.run_folder = PathEdit("run folder to write")
        self.tabs = QTabWidget()
        by_kind = {
            "Two folders": {"Raw": self.raw_folder, "Ground truth": self.gt_folder},
            "Two layers": {"Raw": self.raw_layer, "Ground truth": self.gt_layer, "Axes": self.axes_box},
        }
        for title, rows in by_kind.items():
            page = QWidget()
            page.setLayout(make_form(**rows))
            self.tabs.addTab(page, title)
        self.form.addRow(self.tabs)
        self.form.addRow("Run folder", self.run_folder)
        self._add_settings()
        self.add_buttons(
            ("Start", lambda: self.start(self._prepare_start)), ("Go on", lambda: self.start(self._prepare_going_on))
        )
        self.curves, self.patches = Picture(), Picture()
        self.body.addWidget(self.curves)
        self.body.addWidget(self.patches)
        self.body.addStretch()
        self.reset_choices()

    def _add_settings(self):
        """Add the settings that matter, with the defaults of the recipe and the help of the command."""
        self.network_box = QComboBox()
        for text, values in _NETWORKS.items():
            self.network_box.addItem(text, values)
        self.form.addRow("Size of the network", self.network_box)
        self.settings = {}
        for key, label in (
            ("patch_shape", "Patch (Z,Y,X)"),
            ("batch_size", "Patches in a step"),
            ("epochs", "Epochs"),
            ("steps_per_epoch", "Steps in an epoch"),
            ("initial_learning_rate", "Learning rate"),
            ("area_ratio_threshold", "Least signal in a patch"),
        ):
            edit = self.settings[key] = _make_edit(RECIPES["default"].get(key, Config.model_fields[key].default))
            edit.setToolTip(f"{Config.model_fields[key].description} ({key})")
            self.form.addRow(label, edit)

    def reset_choices(self, event=None):
        """Follow the layers of the viewer; napari calls it."""
        for box in (self.raw_layer, self.gt_layer):
            box.refresh()
        if self.raw_layer.count() > 1 and self.gt_layer.layer is self.raw_layer.layer:
            self.gt_layer.setCurrentIndex((self.raw_layer.currentIndex() + 1) % self.raw_layer.count())

    def values(self):
        """What the form says, as keys of a config file."""
        values = {key: _value_of(edit) for key, edit in self.settings.items()}
        return {"recipe": "default", **self.network_box.currentData(), **values}

    def _prepare_start(self):
        run_dir = self.run_folder.require("a run folder")
        values = {**self.values(), "output_dir": str(run_dir)}
        if self.tabs.currentIndex() == 0:
            folders = {
                "raw": str(self.raw_folder.require("the folder of raw images")),
                "gt": str(self.gt_folder.require("the folder of ground truth")),
            }
            values["training_data_dir"] = folders
            return lambda job: train(job, values)
        layers = {"raw": self.raw_layer.require(), "gt": self.gt_layer.require()}
        if layers["raw"] is layers["gt"]:
            raise ValueError(f"Raw and ground truth are both {layers['raw'].name}: choose two layers.")
        sources = {kind: LayerSource(layer, self.axes_box.currentText()) for kind, layer in layers.items()}
        return lambda job: train(job, values, sources)

    def _prepare_going_on(self):
        run_dir, epochs = self.run_folder.require("a run folder"), _value_of(self.settings["epochs"])
        return lambda job: go_on(job, run_dir, epochs)

    def on_report(self, thing):
        """Show curves, patches, and the line that the training prints."""
        kind, value = thing
        if kind == "line":
            if self.stop_button.isEnabled():
                self.state_label.setText(value)
        else:
            {"curves": self.curves, "patches": self.patches}[kind].show_png(value)

    def on_success(self, run_dir):
        """Say where the network is."""
        return f"Done: {run_dir}. Its report.html has the scores."


def _make_edit(value):
    """A field for a whole number, another number, or a list of numbers."""
    if isinstance(value, int):
        edit = QSpinBox(maximum=10**6, minimum=1)
        edit.setValue(value)
    elif isinstance(value, float):
        edit = QDoubleSpinBox(maximum=1, decimals=5, singleStep=value / 10)
        edit.setValue(value)
    else:
        edit = QLineEdit(",".join(map(str, value)))
    return edit


def _value_of(edit):
    if not isinstance(edit, QLineEdit):
        return edit.value()
    try:
        return [int(number) for number in edit.text().split(",")]
    except ValueError:
        raise ValueError(f"The patch is {edit.text()!r}: it must be whole numbers, such as 16,64,64.") from None


def train(job, values, sources=None):
    """Train with the keys of a config file, in a `Job`; returns the run folder.

    `sources` are two `LayerSource`s, ``"raw"`` and ``"gt"``, which are learned from. They are written into the run
    folder, so that the training can go on without napari.
    """
    run_dir = Path(values["output_dir"])
    check_run_dir(run_dir)
    if sources:
        pair = {kind: run_dir / _PAIR_FOLDER / f"{kind}.ome.tif" for kind in sources}
        values = {**values, "training_image_pairs": [{kind: str(path) for kind, path in pair.items()}]}
    Config.checked(values)
    if sources:
        pair["raw"].parent.mkdir(parents=True, exist_ok=True)
        for kind, source in sources.items():
            source.check = job.check
            save_layer(source, pair[kind])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        write_json(config, values)
        return _run(job, ["-c", config], run_dir)


def go_on(job, run_dir, epochs):
    """Go on with the training of a run folder, up to a number of epochs, in a `Job`; returns the run folder."""
    config = run_dir / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{run_dir} holds no run to go on with: choose the folder of one, or start one.")
    return _run(job, ["-c", config, "-o", run_dir, "--resume", "--epochs", epochs], run_dir)


def _run(job, arguments, run_dir):
    pictures = _PictureWatch(job, run_dir)

    def follow(line):
        """Tell how far the training is, by a line that it prints."""
        if match := _EPOCH.match(line):
            job.progressed.emit(line, 1000 * int(match[1]) // int(match[2]))
        elif match := _STEPS.match(line):
            job.progressed.emit(line, 10 * int(match[1]))
        job.report(("line", line))
        pictures.look()

    job.run_command(["train", *arguments], follow)
    pictures.look()
    return run_dir


class _PictureWatch:
    """Reports the curves and the picture of patches of a run folder whenever they are new."""

    def __init__(self, job, run_dir):
        self._job, self._run_dir = job, run_dir
        self._states = {name: self._state_of(name) for name in ("history.csv", "patches.png")}

    def _state_of(self, name):
        try:
            return (self._run_dir / name).stat().st_mtime_ns
        except OSError:
            return None

    def look(self):
        """Report what is new; a picture that is being replaced, or a disk that is away, is looked at later."""
        for name, before in self._states.items():
            state = self._state_of(name)
            if state in (None, before):
                continue
            try:
                report = self._draw_curves() if name == "history.csv" else self._read_patches()
            except (OSError, ValueError):
                continue
            self._states[name] = state
            self._job.report(report)

    def _draw_curves(self):
        from rcan.figures.history import draw_history

        buffer = io.BytesIO()
        draw_history(buffer, read_table(self._run_dir / "history.csv"))
        return "curves", buffer.getvalue()

    def _read_patches(self):
        return "patches", (self._run_dir / "patches.png").read_bytes()
