"""The plug-in in napari. `test_napari.py` runs this file, in a process of its own without TensorFlow."""

import csv
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import tifffile
from napari.layers import Image
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from qtpy.QtCore import QObject, QUrl, Slot
from qtpy.QtGui import QDesktopServices

from rcan.failures import DISTRIBUTION
from rcan.io.opening import open_volume
from rcan.napari.layers import LayerSource, list_axes, make_layer

MOST = 90_000  # milliseconds that a job may take
UM = ("um", "um", "um")
SAMPLE = Path(__file__).parents[1] / "sample" / "test"


@pytest.fixture(autouse=True)
def no_tensorflow():
    """napari's process must never load TensorFlow, see `rcan.napari.worker`."""
    yield
    assert not {"tensorflow", "keras"} & sys.modules.keys()


@pytest.fixture(autouse=True)
def _no_old_notifications():
    notification_manager.records.clear()


def call(*arguments):
    """Run a command of Python in a process of its own."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_config):
    """Paths of a run folder, a pair that it was trained on, and that restored by the command."""
    from rcan.atomic_io import write_json

    folder = tmp_path_factory.mktemp("trained")
    write_json(folder / "config.json", tiny_config(folder))
    paths = SimpleNamespace(run=folder / "run", raw=folder / "raw" / "0.tif", gt=folder / "gt" / "0.tif")
    paths.restored = folder / "restored.tif"
    apply = ["apply", "-m", paths.run, "-i", paths.raw, "-o", paths.restored]
    commands = [["train", "-c", folder / "config.json"], apply]
    lists = [[*map(str, command)] for command in commands]
    call("-c", f"from rcan.__main__ import main\nassert [*map(main, {lists})] == [0, 0]")
    return paths


@pytest.fixture
def viewer(make_napari_viewer):
    """A napari."""
    return make_napari_viewer()


@pytest.fixture
def wait(qtbot):
    """Wait until the job of a widget is done: `wait(widget)`."""
    return lambda widget: qtbot.waitUntil(lambda: widget.job is None, timeout=MOST)


def open_widget(viewer, name):
    """Open a widget of the plug-in, as a user does."""
    return viewer.window.add_plugin_dock_widget(DISTRIBUTION, name)[1]


def click(widget, text):
    """Click the button with this text."""
    (button,) = (button for button in [*widget.start_buttons, widget.stop_button] if button.text() == text)
    button.click()


def errors():
    """What napari has shown as errors."""
    return [str(record.message) for record in notification_manager.records if str(record.severity) == "error"]


def slow_layer(shape, *, seconds=0.0):
    """A lazy image of noise whose planes take a while to be read, and the threads that have read them."""
    threads = set()

    def read(block_info=None):
        place = block_info[None]["array-location"]
        threads.add(threading.current_thread())
        time.sleep(seconds)
        size = [stop - start for start, stop in place]
        return np.random.default_rng(place[-3][0]).poisson(100, size).astype(np.uint16)

    chunks = (*((1,) * size for size in shape[:-2]), *((size,) for size in shape[-2:]))
    return dask.array.map_blocks(
        read, chunks=chunks, dtype=np.uint16, meta=np.empty((0,) * len(shape), np.uint16)
    ), threads


# What napari is told


def test_the_manifest_names_what_is_there():
    manifest = PluginManifest.from_distribution(DISTRIBUTION)
    manifest.validate_imports()
    assert not manifest.contributions.readers
    assert not manifest.contributions.writers


def test_the_sample_is_the_first_pair_of_the_sample_folder(viewer):
    raw, gt = viewer.open_sample(DISTRIBUTION, "pair")
    for layer, kind in ((raw, "raw"), (gt, "gt")):
        np.testing.assert_array_equal(layer.data, tifffile.imread(SAMPLE / kind / "mixture_000.tif"))
        with open_volume(SAMPLE / kind / "mixture_000.tif") as volume:
            np.testing.assert_allclose(layer.scale, volume.voxel_size)
        assert [str(unit) for unit in layer.units] == ["micrometer"] * 3


# Layers


@pytest.mark.parametrize(
    ("shape", "labels", "expected"),
    [
        ((4, 5), None, "YX"),
        ((3, 4, 5), None, "ZYX"),
        ((3, 4, 5), ("time", "y", "x"), "TYX"),
        ((2, 3, 4, 5), None, "TZYX"),
        ((2, 3, 4, 5), ("c", "z", "y", "x"), "CZYX"),
        ((2, 2, 3, 4, 5), None, "TCZYX"),
        ((3, 4, 5), ("x", "y", "z"), "XYZ"),
    ],
)
def test_axes_are_those_of_the_labels_or_the_likeliest(shape, labels, expected):
    assert list_axes(Image(np.zeros(shape), axis_labels=labels))[0] == expected


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [((4, 5, 3), {"rgb": True}, "colour picture"), ((1, 1, 1, 1, 4, 5), {"rgb": False}, "6 dimensions")],
)
def test_a_layer_that_is_no_such_image_is_refused(shape, options, reason):
    with pytest.raises(ValueError, match=reason):
        list_axes(Image(np.zeros(shape), **options))


def test_calibration_is_that_of_the_scale_and_the_units():
    image = np.zeros((2, 3, 4, 5))
    layer = Image(image, scale=(2, 300, 100, 110), units=("min", "nm", "nm", "nm"))
    source = LayerSource(layer, "TZYX")
    np.testing.assert_allclose(source.voxel_size, (0.3, 0.1, 0.11))
    assert source.time_step == 120
    source = LayerSource(Image(image, scale=(1, 0.3, 0.1, 0.1)), "TZYX")  # no units: many readers mean µm
    assert (source.voxel_size, source.time_step) == ((0.3, 0.1, 0.1), None)
    assert LayerSource(Image(image), "TZYX").voxel_size == (None, None, None)


def test_a_lazy_layer_is_read_where_it_is_asked_for_and_measured_by_its_chunks():
    read = []

    def load(block_info=None):
        read.append(block_info[None]["chunk-location"])
        return np.ones((2, 16, 20), np.uint16)

    image = dask.array.map_blocks(
        load, chunks=((2, 2, 2), (16, 16), (20,)), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16)
    )
    source = LayerSource(Image(image, contrast_limits=(0, 1)), "ZYX")
    read.clear()
    assert source.read((slice(2, 3), slice(0, 8), slice(0, 20))).shape == (1, 8, 20)
    assert read == [(1, 0, 0)]
    assert source.edges == {"Z": [0, 2, 4, 6], "Y": [0, 16, 32], "X": [0, 20]}
    assert len(source.volume().cut(10**9)) == 6


def test_a_result_of_smaller_voxels_lies_where_the_raw_layer_lies(make_napari_viewer):
    raw = Image(np.zeros((4, 6, 8)), scale=(2, 1, 1), translate=(10, 20, 30))
    source = LayerSource(raw, "ZYX")
    data, attributes, _ = make_layer(source, [np.zeros((4, 12, 16))], "ZYX", {"Z": 1, "Y": 2, "X": 2}, name="restored")
    restored = Image(data, **attributes)
    for corner, far in (((-0.5,) * 3, (-0.5,) * 3), ((3.5, 5.5, 7.5), (3.5, 11.5, 15.5))):  # borders of voxels
        np.testing.assert_allclose(restored.data_to_world(far), raw.data_to_world(corner))


# Restore


def test_a_layer_is_restored_as_the_command_restores_its_file(viewer, wait, trained):
    limits = (150, 400)
    viewer.add_image(tifffile.imread(trained.raw), name="cell", scale=(0.3, 0.1, 0.1), units=UM, contrast_limits=limits)
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    click(widget, "Restore")
    assert not widget.start_buttons[0].isEnabled()
    wait(widget)
    assert errors() == []
    raw, restored = viewer.layers
    assert restored.name == "cell restored"
    np.testing.assert_allclose(restored.data, tifffile.imread(trained.restored), rtol=1e-5)
    np.testing.assert_array_equal(restored.scale, raw.scale)
    assert (restored.units, tuple(restored.contrast_limits)) == (raw.units, limits)
    assert restored.metadata["trained_range"] in ("inside", "edge", "outside")
    assert f">{restored.metadata['trained_range']}<" in widget.verdict_label.text()
    assert restored.metadata["reasons"][0] in widget.verdict_label.text()


def test_a_lazy_time_lapse_goes_to_zarr_with_its_spread_and_stays_lazy(viewer, wait, trained, tmp_path):
    image, threads = slow_layer((2, 8, 24, 28))
    viewer.add_image(image, name="lapse", scale=(1, 0.3, 0.1, 0.1), contrast_limits=(50, 150))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    widget.ensemble_box.setCurrentIndex(1)
    widget.spread_box.setChecked(True)
    widget.output.line.setText(str(tmp_path / "lapse.ome.zarr"))
    threads.clear()
    click(widget, "Restore")
    wait(widget)
    assert errors() == []
    _, spread, restored = viewer.layers
    assert (restored.name, spread.name) == ("lapse restored", "lapse spread")
    for layer in (restored, spread):
        assert isinstance(layer.data, dask.array.Array)
        assert layer.data.shape == image.shape
        np.testing.assert_array_equal(layer.scale, (1, 0.3, 0.1, 0.1))
    with open_volume(tmp_path / "lapse.ome.zarr") as volume:
        np.testing.assert_array_equal(volume.read({"T": 1})[..., 0], np.asarray(restored.data[1]))
    assert np.asarray(spread.data).max() > 0
    click(widget, "Restore")
    wait(widget)
    assert "lapse.ome.zarr exists" in errors()[-1]


def test_a_cancelled_restore_leaves_nothing_and_napari_alive(viewer, wait, qtbot, trained, tmp_path):
    image, threads = slow_layer((40, 24, 28), seconds=0.2)
    viewer.add_image(image, contrast_limits=(50, 150))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    widget.output.line.setText(str(tmp_path / "a.zarr"))
    threads.clear()
    click(widget, "Restore")
    qtbot.waitUntil(lambda: bool({*threads} - {threading.main_thread()}), timeout=MOST)  # it is being read
    started = time.monotonic()
    click(widget, "Cancel")
    wait(widget)
    assert time.monotonic() - started < 5
    assert widget.state_label.text() == "Stopped."
    assert len(viewer.layers) == 1
    assert errors() == []
    assert not [*tmp_path.iterdir()]
    assert widget.start_buttons[0].isEnabled()


def test_a_viewer_can_be_closed_while_it_restores(viewer, qtbot, trained):
    viewer.add_image(tifffile.imread(trained.raw))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    click(widget, "Restore")
    job = widget.job
    qtbot.waitUntil(lambda: widget.state_label.text() == "Loading the network", timeout=MOST)
    viewer.close()
    qtbot.waitUntil(lambda: job.abort_requested and not job.is_running, timeout=MOST)


@pytest.mark.parametrize("kind", ["no model", "damaged", "nothing", "no layer"])
def test_what_cannot_be_restored_with_is_a_line(viewer, wait, trained, tmp_path, kind):
    (tmp_path / "damaged.keras").write_text("no network")
    models = {"no model": tmp_path, "damaged": tmp_path / "damaged.keras", "nothing": "", "no layer": trained.run}
    reasons = {
        "no model": "has neither best.keras nor last.keras",
        "damaged": "damaged.keras is damaged",
        "nothing": "A run folder is missing",
        "no layer": "No image layer is open",
    }
    if kind != "no layer":
        viewer.add_image(np.random.default_rng(0).poisson(100, (8, 24, 28)))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(models[kind]))
    click(widget, "Restore")
    wait(widget)
    (reason,) = errors()
    assert reasons[kind] in reason
    assert "\n" not in reason
    assert widget.state_label.text() == reason
    assert widget.start_buttons[0].isEnabled()


def test_axes_that_do_not_fit_the_network_are_a_line(viewer, wait, trained):
    viewer.add_image(tifffile.imread(trained.raw), name="cell")
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    widget.axes_box.setCurrentText("TYX")
    click(widget, "Restore")
    wait(widget)
    (reason,) = errors()
    assert "cell has axes TYX, without Z, but the network restores volumes" in reason


def test_a_layer_that_cannot_be_read_is_a_line(viewer, wait, trained):
    def fail(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] > 5:
            raise RuntimeError("the disk is gone")
        return block

    image = dask.array.zeros((8, 24, 28), chunks=(1, 24, 28)).map_blocks(fail, dtype=float)
    viewer.add_image(image, name="cell", contrast_limits=(0, 1))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    click(widget, "Restore")
    wait(widget)
    (reason,) = errors()
    assert reason.startswith("cell cannot be read as a napari image: the disk is gone.")


def test_axes_that_were_chosen_stay_when_a_layer_comes(viewer):
    for name in ("other", "cell"):
        viewer.add_image(np.zeros((3, 4, 5)), name=name)
    widget = open_widget(viewer, "Restore")
    widget.layer_box.setCurrentIndex(1)
    widget.axes_box.setCurrentText("TYX")
    viewer.add_image(np.zeros((3, 4, 5)), name="cell restored")
    assert (widget.layer_box.layer.name, widget.axes_box.currentText()) == ("cell", "TYX")


def test_a_result_cannot_be_written_to_an_address(viewer, trained):
    viewer.add_image(np.zeros((3, 4, 5)))
    widget = open_widget(viewer, "Restore")
    widget.model.line.setText(str(trained.run))
    widget.output.line.setText("s3://bucket/a.zarr")
    click(widget, "Restore")
    assert errors() == ["s3://bucket/a.zarr is an address: choose a folder of this computer."]


# Train


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [((4, 5, 3), {"rgb": True}, "colour picture"), ((1, 1, 1, 1, 4, 5), {"rgb": False}, "6 dimensions")],
)
def test_a_layer_that_cannot_be_trained_on_is_a_line(viewer, tmp_path, shape, options, reason):
    for name in ("raw", "truth"):
        viewer.add_image(np.zeros(shape), name=name, **options)
    widget = open_widget(viewer, "Train")
    widget.tabs.setCurrentIndex(1)
    widget.run_folder.line.setText(str(tmp_path / "run"))
    click(widget, "Start")
    (found,) = errors()
    assert reason in found
    assert not (tmp_path / "run").exists()


def fill_in(widget, run_dir, **values):
    """Fill in a form for a training that takes seconds."""
    widget.run_folder.line.setText(str(run_dir))
    widget.network_box.setItemData(0, {"num_channels": 4, "num_residual_groups": 1, "num_residual_blocks": 1})
    widget.settings["patch_shape"].setText("8,16,16")
    widget.settings["area_ratio_threshold"].setValue(0.05)
    for key, value in values.items():
        widget.settings[key].setValue(value)


def history_of(run_dir):
    """Rows of the history of a run."""
    with open(run_dir / "history.csv", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_the_form_of_a_training_begins_with_the_recipe(viewer):
    values = open_widget(viewer, "Train").values()
    assert values == {
        "recipe": "default",
        "patch_shape": [16, 64, 64],
        "batch_size": 8,
        "epochs": 300,
        "steps_per_epoch": 256,
        "initial_learning_rate": 0.001,
        "area_ratio_threshold": 0.5,
    }  # the table of the README


def test_two_layers_train_in_epochs_of_five_steps_stop_and_go_on(viewer, wait, qtbot, trained, tmp_path):
    run_dir = tmp_path / "run"
    for name, path in (("raw", trained.raw), ("truth", trained.gt)):
        viewer.add_image(tifffile.imread(path), name=name, scale=(0.3, 0.1, 0.1), units=UM)
    widget = open_widget(viewer, "Train")
    widget.tabs.setCurrentIndex(1)
    assert (widget.raw_layer.layer.name, widget.gt_layer.layer.name) == ("raw", "truth")
    fill_in(widget, run_dir, epochs=500, steps_per_epoch=5, batch_size=1)
    click(widget, "Start")
    qtbot.waitUntil(lambda: widget.curves.isVisibleTo(widget) or widget.job is None, timeout=MOST)
    click(widget, "Stop")
    wait(widget)
    assert (errors(), widget.state_label.text()) == ([], "Stopped.")
    with open_volume(run_dir / "pair" / "raw.ome.tif") as volume:
        np.testing.assert_array_equal(volume.read()[..., 0], tifffile.imread(trained.raw))
        np.testing.assert_allclose(volume.voxel_size, (0.3, 0.1, 0.1))
    done = len(history_of(run_dir))
    assert 1 <= done < 500
    click(widget, "Start")
    wait(widget)
    assert "holds an unfinished run" in errors()[-1]
    widget.settings["epochs"].setValue(done + 1)
    click(widget, "Go on")
    wait(widget)
    assert len(errors()) == 1
    assert [float(row["epoch"]) for row in history_of(run_dir)] == [*range(1, done + 2)]
    assert (run_dir / "best.keras").is_file()
    assert (run_dir / "report.html").is_file()
    assert not widget.curves.pixmap().isNull()
    assert not widget.patches.pixmap().isNull()


def test_a_training_that_fails_is_a_line(viewer, wait, trained, tmp_path):
    widget = open_widget(viewer, "Train")
    widget.raw_folder.line.setText(str(trained.raw.parent))
    widget.gt_folder.line.setText(str(tmp_path / "nowhere"))
    fill_in(widget, tmp_path / "run", epochs=1)
    click(widget, "Start")
    wait(widget)
    (reason,) = errors()
    assert reason.startswith(f"{tmp_path / 'nowhere'} is not a folder")
    click(widget, "Go on")
    wait(widget)
    assert "holds no run to go on with" in errors()[-1]


# Check and limits


class Browser(QObject):
    """Gets what would be opened in a browser."""

    def __init__(self):
        super().__init__()
        self.opened = []
        QDesktopServices.setUrlHandler("file", self.open)

    @Slot(QUrl)
    def open(self, url):
        """Note what is opened."""
        self.opened.append(Path(url.toLocalFile()))


@pytest.fixture
def browser(qapp):
    """Takes the place of the browser."""
    browser = Browser()
    yield browser
    QDesktopServices.unsetUrlHandler("file")


def test_pairs_are_checked_and_the_report_is_opened(viewer, wait, browser, trained, tmp_path):
    widget = open_widget(viewer, "Check and limits")
    widget.raw_folder.line.setText(str(trained.raw.parent))
    widget.gt_folder.line.setText(str(trained.gt.parent))
    widget.output.line.setText(str(tmp_path))
    click(widget, "Check pairs")
    wait(widget)
    assert browser.opened == [tmp_path / "check.html"]
    assert "Findings" in (tmp_path / "check.html").read_text("utf-8")
    assert "found" in widget.state_label.text()


def test_a_check_that_was_stopped_leaves_the_earlier_report(viewer, wait, browser, trained, tmp_path):
    (tmp_path / "check.html").write_text("earlier")
    widget = open_widget(viewer, "Check and limits")
    widget.raw_folder.line.setText(str(trained.raw.parent))
    widget.gt_folder.line.setText(str(trained.gt.parent))
    widget.output.line.setText(str(tmp_path))
    click(widget, "Check pairs")
    click(widget, "Cancel")
    wait(widget)
    assert (errors(), widget.state_label.text()) == ([], "Stopped.")
    assert (tmp_path / "check.html").read_text() == "earlier"
    assert browser.opened == []


def test_the_report_of_a_run_is_opened_or_it_is_said_that_there_is_none(viewer, wait, browser, trained, tmp_path):
    widget = open_widget(viewer, "Check and limits")
    for model in (trained.run, tmp_path):
        widget.model.line.setText(str(model))
        click(widget, "Open report")
        wait(widget)
    assert browser.opened == [trained.run / "report.html"]
    (reason,) = errors()
    assert reason.startswith(f"{tmp_path / 'report.html'} does not exist")


def test_limits_that_were_stopped_keep_the_steps_that_are_done(viewer, wait, qtbot, browser, trained, tmp_path):
    sharp = tmp_path / "sharp.tif"
    resolution = {"resolution": (10, 10), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 0.3}}
    tifffile.imwrite(sharp, tifffile.imread(trained.gt), imagej=True, **resolution)
    widget = open_widget(viewer, "Check and limits")
    widget.model.line.setText(str(trained.run))
    widget.sharp.line.setText(str(sharp))
    widget.output.line.setText(str(tmp_path))
    click(widget, "Find limits")
    qtbot.waitUntil(lambda: any(tmp_path.glob("limits/steps/[!.]*")) or widget.job is None, timeout=MOST)
    click(widget, "Cancel")
    wait(widget)
    assert (errors(), widget.state_label.text()) == ([], "Stopped.")
    assert any(tmp_path.glob("limits/steps/[!.]*"))
    assert not (tmp_path / "limits" / "report.html").exists()
    assert browser.opened == []
