"""Parts of the plug-in's widgets, and what they have in common: a job with its progress, its end and its messages."""

from pathlib import Path

from napari.layers import Image
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent, QSignalBlocker, QSize, Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from rcan.napari.background import Job
from rcan.napari.layers import list_axes

__all__ = ["AxesBox", "JobWidget", "LayerBox", "PathEdit", "Picture", "make_form"]


def make_form(**rows):
    """A form of fields by their labels."""
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    for label, field in rows.items():
        form.addRow(label, field)
    return form


class PathEdit(QWidget):
    """A path to type, or to choose in a dialog: that of a folder, or, with `is_new`, of something to write.

    With `takes_address` it may be an address, such as hf://owner/name.
    """

    def __init__(self, placeholder="", *, is_new=False, takes_address=False):
        super().__init__()
        self._is_new, self._takes_address = is_new, takes_address
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder)
        button = QToolButton(text="…")
        button.clicked.connect(self._choose)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line)
        layout.addWidget(button)

    def _choose(self):
        ask = QFileDialog.getSaveFileName if self._is_new else QFileDialog.getExistingDirectory
        chosen = ask(self, "Choose", self.line.text())
        chosen = chosen[0] if self._is_new else chosen
        if chosen:
            self.line.setText(chosen)

    @property
    def path(self):
        """The path, absolute, or None where the field is empty; an address stays text, a ValueError refuses it."""
        text = self.line.text().strip()
        if "://" in text:
            if not self._takes_address:
                raise ValueError(f"{text} is an address: choose a folder of this computer.")
            return text
        return Path(text).expanduser().absolute() if text else None

    def require(self, what):
        """The path; a ValueError asks for it where the field is empty, such as of ``"a run folder"``."""
        if not (path := self.path):
            raise ValueError(f"{what[0].upper()}{what[1:]} is missing: choose one.")
        return path


class LayerBox(QComboBox):
    """A choice of the image layers of a viewer."""

    def __init__(self, viewer):
        super().__init__()
        self._viewer = viewer
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.refresh()

    def refresh(self):
        """Show the layers that are there now, and keep the choice; only another one is told of."""
        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        chosen = self.layer
        with QSignalBlocker(self):
            self.clear()
            for layer in layers:
                self.addItem(layer.name, layer)
            if chosen in layers:
                self.setCurrentIndex(layers.index(chosen))
        if self.layer is not chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    @property
    def layer(self):
        """The chosen layer; None where there is none."""
        return self.currentData()

    def require(self):
        """The chosen layer; a ValueError where there is none."""
        if self.layer is None:
            raise ValueError("No image layer is open: open an image first.")
        return self.layer


class AxesBox(QComboBox):
    """A choice of the axes of the layer in a `LayerBox`."""

    def __init__(self, layer_box):
        super().__init__()
        self._layer_box = layer_box
        self.setToolTip("What each dimension of the layer is, in its order")
        layer_box.currentIndexChanged.connect(self._list_axes)
        self._list_axes()

    def _list_axes(self, _=None):
        self.clear()
        if (layer := self._layer_box.layer) is None:
            return
        try:
            self.addItems(list_axes(layer))
        except ValueError:  # said when the layer is to be used
            self.addItem("?")


class Picture(QLabel):
    """A PNG picture, as wide as there is room."""

    def __init__(self):
        super().__init__()
        self._pixmap = QPixmap()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.hide()

    def show_png(self, data):
        """Show an encoded picture."""
        self._pixmap.loadFromData(data)
        self._fit()
        self.show()

    def _fit(self):
        if not self._pixmap.isNull() and self.width() > 1:
            width = min(self.width(), self._pixmap.width())
            scaled = self._pixmap.scaledToWidth(width, Qt.TransformationMode.SmoothTransformation)
            self.setPixmap(scaled)
            self.setFixedHeight(scaled.height())

    def minimumSizeHint(self):
        """Let the widget be narrower than the picture."""
        return QSize(1, 1)

    def resizeEvent(self, event):
        """Keep the proportions of the picture."""
        super().resizeEvent(event)
        self._fit()


class _Column(QScrollArea):
    """A column that scrolls up and down, and is never narrower than what it shows."""

    def __init__(self):
        super().__init__(widgetResizable=True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched, event):
        """Be wider where the widget in it becomes wider, as napari's style makes it."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def minimumSizeHint(self):
        """As wide as the widget in it."""
        width = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())

    def sizeHint(self):
        """The same, and as high as there is room for."""
        return QSize(self.minimumSizeHint().width(), self.widget().sizeHint().height())


class JobWidget(QWidget):
    """A form, buttons, and the state of one job at a time.

    A subclass fills `form` and calls `start`; `on_success` and `on_report` get what its job makes. Buttons in
    `start_buttons` are disabled while it runs; `stop_button` is enabled.
    """

    def __init__(self, viewer, *, stop_text="Cancel"):
        super().__init__()
        self.viewer, self.job = viewer, None
        self.start_buttons = []
        self.stop_button = QPushButton(stop_text, enabled=False)
        self.stop_button.clicked.connect(self.stop)
        self.bar = QProgressBar(maximum=1000, textVisible=False)
        self.state_label = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.form = make_form()
        self.body = QVBoxLayout()
        self.body.addLayout(self.form)
        inside, column = QWidget(), _Column()
        inside.setLayout(self.body)
        column.setWidget(inside)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

    def add_buttons(self, *buttons):
        """Add buttons that start something, and the one that stops it, with the state of the job below."""
        row = QHBoxLayout()
        for text, action in buttons:
            button = QPushButton(text)
            button.clicked.connect(action)
            self.start_buttons.append(button)
            row.addWidget(button)
        row.addWidget(self.stop_button)
        self.body.addLayout(row)
        self.body.addWidget(self.bar)
        self.body.addWidget(self.state_label)

    def start(self, prepare):
        """Start the job whose function ``prepare()`` makes of what the form says; say what is wrong with it instead."""
        try:
            function = prepare()
        except (OSError, ValueError) as failure:
            self._on_failure(str(failure))
            return
        self.job = job = Job(function)
        job.progressed.connect(self._on_progress)
        job.reported.connect(self.on_report)
        job.succeeded.connect(self._on_success)
        job.failed.connect(self._on_failure)
        job.cancelled.connect(self._on_cancel)
        job.alerted.connect(show_warning)
        self.destroyed.connect(job.quit)
        self._set_running(True)
        self.state_label.setText("Starting …")
        job.start()

    def stop(self):
        """Ask the job to stop; a training does after the step that it is at."""
        if self.job:
            self.state_label.setText("Stopping …")
            self.stop_button.setEnabled(False)
            self.job.quit()

    def on_report(self, thing):
        """Show what the job reports."""

    def on_success(self, result):
        """Show what the job has made; returns what is said."""
        return "Done."

    def _set_running(self, is_running):
        for button in self.start_buttons:
            button.setEnabled(not is_running)
        self.stop_button.setEnabled(is_running)
        self.bar.setValue(0)
        if not is_running and self.job:
            self.destroyed.disconnect(self.job.quit)
            self.job = None

    def _on_progress(self, label, thousandths):
        self.bar.setValue(thousandths)
        if self.stop_button.isEnabled():  # else it says that it is stopping
            self.state_label.setText(label)

    def _on_success(self, result):
        self._set_running(False)
        self.state_label.setText(self.on_success(result))

    def _on_failure(self, reason):
        self._set_running(False)
        self.state_label.setText(reason)
        show_error(reason)

    def _on_cancel(self):
        self._set_running(False)
        self.state_label.setText("Stopped.")
        show_info("Stopped.")
