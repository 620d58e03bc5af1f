"""`apply` on many images: folders, resuming, series, formats, watching, killing."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import ome_types
import pytest
import tifffile
from keras import layers
from scipy import ndimage

from rcan.commands.apply import main
from rcan.data.views import open_network_view
from rcan.io.opening import open_volume
from rcan.model import PixelShuffle
from rcan.restoration.file import ImageTask

zarr = pytest.importorskip("zarr")

PERCENTILES = (2, 99.9)
VOXEL_SIZE = 0.5, 0.25, 0.2
KERNEL = np.random.default_rng(3).normal(size=(3, 3, 3)).astype(np.float32)


def save_network(folder, function, *, channels=1, **about):
    """A run folder whose network is a function of its input."""
    folder.mkdir(parents=True)
    inputs = keras.Input((None, None, None, channels))
    keras.Model(inputs, function(inputs)).save(folder / "best.keras")
    (folder / "training.json").write_text(json.dumps({"percentiles": PERCENTILES, "patch_shape": [8, 16, 16], **about}))
    return folder


def square(x):
    return layers.Multiply()([x, x])


def skew(x):
    kernel = keras.initializers.Constant(KERNEL[..., np.newaxis, np.newaxis])
    return layers.Conv3D(1, 3, padding="same", use_bias=False, kernel_initializer=kernel)(x)


def gate(x):
    return layers.Multiply()([x, layers.GlobalAveragePooling3D(keepdims=True)(x)])


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("networks")
    ranges = [{"raw": "", "gt": "", "raw_range": [[low, 9 * low]]} for low in (100, 200, 600)]
    return {
        "same": save_network(folder / "same", layers.Rescaling(1.0)),
        "square": save_network(folder / "square", square, training=ranges),
        "skewed": save_network(folder / "skewed", skew),
        "gated": save_network(folder / "gated", gate),
        "larger": save_network(folder / "larger", lambda x: PixelShuffle((1, 2, 2))(layers.Concatenate()([x] * 4))),
    }  # fmt: skip


@pytest.fixture
def run(capfd):
    """Run the command; return what it printed: `out, err = run("-m", …, status=0)`."""

    def run(*flags, status=0):
        found = main([str(flag) for flag in flags])
        out, err = capfd.readouterr()
        assert found == status, out + err
        return out, err

    return run


@pytest.fixture
def draw(rng):
    """Grey values: `draw(shape)`."""
    return lambda *shape: rng.gamma(2, 500, shape).astype(np.uint16)


@pytest.fixture
def folder(tmp_path, write_tiff, draw):
    """A folder with `raw/a.tif`, `b.tif` and `c.tif`, and their grey values by name."""
    images = {name: draw(5, 20, 21) for name in ("a.tif", "b.tif", "c.tif")}
    for name, image in images.items():
        write_tiff(tmp_path / "raw" / name, image, "ZYX")
    return tmp_path, images


def normalised(image, percentiles=PERCENTILES):
    low, high = np.percentile(image, percentiles)
    return (image.astype(float) - low) / (high - low)


def to_grey(values, image, percentiles=PERCENTILES):
    low, high = np.percentile(image, percentiles)
    return values * (high - low) + low


def squared(image, percentiles=PERCENTILES):
    """What the network "square" makes of grey values."""
    return to_grey(normalised(image, percentiles) ** 2, image, percentiles)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))


def contents(folder):
    """Bytes of all files but the list of what has been done."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.jsonl"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# Resuming


def test_second_call_has_nothing_to_do(run, networks, folder):
    root, _ = folder
    flags = ("-m", networks["square"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    before = {path: path.stat().st_mtime_ns for path in (root / "out").iterdir()}
    out, _ = run(*flags)
    assert "3 of 3 restored, 3 of them before" in out
    assert {path: path.stat().st_mtime_ns for path in (root / "out").iterdir()} == before


def test_missing_image_alone_is_restored(run, networks, folder):
    root, images = folder
    flags = ("-m", networks["square"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    before = {name: (root / "out" / name).stat().st_mtime_ns for name in images}
    (root / "out/b.tif").unlink()
    out, _ = run(*flags)
    assert "3 of 3 restored, 2 of them before" in out
    after = {name: (root / "out" / name).stat().st_mtime_ns for name in images}
    assert [name for name in images if after[name] != before[name]] == ["b.tif"]
    assert_close(tifffile.imread(root / "out/b.tif"), squared(images["b.tif"]))


def test_new_image_is_added(run, networks, folder, write_tiff, draw):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    write_tiff(root / "raw/d.tif", draw(5, 20, 21), "ZYX")
    out, _ = run(*flags)
    assert "4 of 4 restored, 3 of them before" in out


def test_changed_input_is_restored_again(run, networks, folder, write_tiff, draw):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    image = draw(5, 20, 21)
    write_tiff(root / "raw/b.tif", image, "ZYX")
    out, _ = run(*flags)
    assert "3 of 3 restored, 2 of them before" in out
    assert_close(tifffile.imread(root / "out/b.tif"), image)


def test_changed_zarr_input_is_restored_again(run, networks, tmp_path, draw):
    flags = ("-m", networks["same"], "-i", tmp_path / "raw", "-o", tmp_path / "out")
    for _ in range(2):
        image = draw(1, 5, 1, 20, 21)
        write_zarr(tmp_path / "raw/cell.ome.zarr", image, overwrite=True)
        run(*flags)
        found = zarr.open_array(tmp_path / "out/cell.ome.zarr/0", mode="r")[:]
        assert_close(found.reshape(image.shape), image)
    out, _ = run(*flags)
    assert "1 of 1 restored, 1 of them before" in out


@pytest.mark.parametrize(
    ("flags", "before"),
    [
        (("--p_max", "98"), "p_max 99.9"),
        (("--p_min", "0"), "p_min 2"),
        (("-b", "16"), "bpp 32"),
        (("--normalize", "frame"), "normalize series"),
        (("--ensemble", "8"), "ensemble not given"),
        (("-B", "5,16,16"), "block_shape not given"),
        (("-f", "ome"), "format imagej"),
    ],
)
def test_result_of_other_settings_is_not_replaced(run, networks, folder, flags, before):
    root, _ = folder
    first = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*first)
    written = contents(root / "out")
    _, err = run(*first, *flags, status=1)
    assert f"a.tif and 2 more, made with {before}, would be replaced" in err
    assert "--overwrite" in err
    assert contents(root / "out") == written


def test_result_of_another_network_is_not_replaced(run, networks, folder):
    root, _ = folder
    run("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    before = contents(root / "out")
    _, err = run("-m", networks["square"], "-i", root / "raw", "-o", root / "out", status=1)
    assert "a.tif and 2 more, made with another network, would be replaced" in err
    assert contents(root / "out") == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_foreign_file_is_not_replaced(run, networks, folder, when):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    (root / "out").mkdir()
    if when == "after":
        run(*flags)
    (root / "out/b.tif").write_bytes(b"a picture of the cat")
    _, err = run(*flags, status=1)
    assert f"{root / 'out/b.tif'} would be replaced" in err
    assert (root / "out/b.tif").read_bytes() == b"a picture of the cat"


def test_overwrite_begins_anew(run, networks, folder):
    root, images = folder
    (root / "out").mkdir()
    (root / "out/b.tif").write_bytes(b"a picture of the cat")
    for name in ("same", "square"):
        out, _ = run("-m", networks[name], "-i", root / "raw", "-o", root / "out", "--overwrite")
        assert "3 of 3 restored: " in out
    assert_close(tifffile.imread(root / "out/b.tif"), squared(images["b.tif"]))
    out, _ = run("-m", networks["square"], "-i", root / "raw", "-o", root / "out")
    assert "3 of them before" in out


def test_failed_image_is_tried_again(run, networks, folder, write_tiff):
    root, images = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    (root / "raw/b.tif").write_bytes(b"no image")
    run(*flags, status=1)
    write_tiff(root / "raw/b.tif", images["b.tif"], "ZYX")
    out, _ = run(*flags)
    assert "3 of 3 restored, 2 of them before" in out


def test_image_that_vanishes_does_not_keep_the_others_from_being_restored(run, networks, folder, monkeypatch):
    root, _ = folder
    restore = ImageTask.restore

    def restore_while_another_vanishes(self, *paths, **options):
        (root / "raw/b.tif").unlink(missing_ok=True)
        return restore(self, *paths, **options)

    monkeypatch.setattr(ImageTask, "restore", restore_while_another_vanishes)
    _, err = run("-m", networks["same"], "-i", root / "raw", "-o", root / "out", status=1)
    assert sorted(path.name for path in (root / "out").glob("*.tif")) == ["a.tif", "c.tif"]
    assert "b.tif: no such file" in err


def test_scores_are_found_for_images_that_were_restored_before(run, networks, folder, write_tiff):
    root, images = folder
    for name, image in images.items():
        write_tiff(root / "gt" / name, image, "ZYX")
    flags = ("-m", networks["square"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    run(*flags, "-g", root / "gt")
    rows = (root / "out/scores.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [*images]


# The list of what has been done


@pytest.mark.parametrize(
    "line",
    [
        b'{"output": "a.tif", "sta',
        b'{"output": "a.tif"}\n',
        b"\xff\xfe\x80\n",
        b"\0\0\0\0\0",
        b"[]\n",
        b'null\n{"output": []}\n',
        b'{"output": "a.tif", "state": [1, 2], "input": "a", "input_state": [1, 2], "settings": 3}\n',
        b'{"output": "a.tif", "state": [1, 2], "input": "a", "input_state": [1, 2], "settings": {}, "time": 3}\n',
        b"\n\n",
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_damaged_line_is_ignored(run, networks, folder, write_tiff, draw, line, place):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    path = root / "out/manifest.jsonl"
    lines = path.read_bytes()
    path.write_bytes(line.rstrip(b"\n") + b"\n" + lines if place == "first" else lines + line)
    write_tiff(root / "raw/d.tif", draw(5, 20, 21), "ZYX")
    out, _ = run(*flags)
    assert "4 of 4 restored, 3 of them before" in out
    out, _ = run(*flags)
    assert "4 of 4 restored, 4 of them before" in out


def test_all_that_is_known_of_an_image_is_listed_before_it_gets_its_name(
    run, networks, folder, write_tiff, monkeypatch
):
    root, images = folder
    for name, image in images.items():
        write_tiff(root / "gt" / name, image // 2, "ZYX")
    listed = {}
    replace = os.replace

    def look_at_the_list(source, target):
        if Path(target).name in images:
            listed[Path(target).name] = (root / "out/manifest.jsonl").read_text().splitlines()
        replace(source, target)

    monkeypatch.setattr(os, "replace", look_at_the_list)
    run("-m", networks["same"], "-i", root / "raw", "-g", root / "gt", "-o", root / "out")
    assert [len(listed[name]) for name in images] == [1, 2, 3]
    for name in images:
        entry = json.loads(listed[name][-1])
        assert entry["output"] == name
        assert [*entry] == [
            *("output", "state", "input", "input_state", "networks", "settings", "time"),
            *("seams", "num_clipped", "scores", "ground_truth"),
        ]


@pytest.mark.parametrize("file_format", ["imagej", "zarr"])
def test_image_that_could_not_be_given_its_name_is_still_known(
    run, networks, folder, write_tiff, draw, monkeypatch, file_format
):
    """The older result stays, and is no stranger to the next call."""
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out", "--format", file_format)
    run(*flags)
    before = contents(root / "out")
    image = draw(5, 20, 21)
    write_tiff(root / "raw/b.tif", image, "ZYX")

    def refuse(move):
        def refuse_in_folder(source, target):
            if Path(target).parent == root / "out":
                raise PermissionError(13, "in use", str(target))
            move(source, target)

        return refuse_in_folder

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse(os.replace))
        patch.setattr(os, "rename", refuse(os.rename))
        run(*flags, status=1)
    assert contents(root / "out") == before
    out, _ = run(*flags)
    assert "3 of 3 restored, 2 of them before" in out


def test_partial_files_of_dead_processes_alone_are_removed(run, networks, folder):
    root, _ = folder
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {
        "dead": f".a.tif.partial-{platform.node()}-{dead.pid}",
        "dead, deflated": f".a.tif.partial-{platform.node()}-{dead.pid}.deflated",
        "living": f".x.tif.partial-{platform.node()}-{os.getppid()}",
        "elsewhere": f".x.tif.partial-elsewhere-{dead.pid}",
        "no process": ".x.tif.partial-x",
    }
    (root / "out").mkdir()
    for name in names.values():
        (root / "out" / name).write_bytes(b"half an image")
    folder = root / "out" / f".a.zarr.partial-{platform.node()}-{dead.pid}"
    (folder / "0/c").mkdir(parents=True)
    run("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    left = {path.name for path in (root / "out").iterdir() if path.name.startswith(".")}
    assert left == {names["living"], names["elsewhere"], names["no process"]}


def test_image_that_another_call_writes_is_left_to_it(run, networks, folder):
    root, _ = folder
    (root / "out").mkdir()
    (root / "out/.b.tif.partial-elsewhere-7").write_bytes(b"half an image")
    _, err = run("-m", networks["same"], "-i", root / "raw", "-o", root / "out", status=1)
    assert "b.tif is being written by another call (.b.tif.partial-elsewhere-7)" in err
    assert {path.name for path in (root / "out").glob("*.tif")} == {"a.tif", "c.tif"}


def test_image_that_another_call_has_restored_meanwhile_is_not_replaced(run, networks, folder, monkeypatch):
    root, _ = folder
    restore = ImageTask.restore

    def restore_slowly(self, output_path, **options):
        (root / "out/b.tif").write_bytes(b"the other call's")
        return restore(self, output_path, **options)

    monkeypatch.setattr(ImageTask, "restore", restore_slowly)
    _, err = run("-m", networks["same"], "-i", root / "raw", "-o", root / "out", status=1)
    assert "b.tif would be replaced" in err
    assert (root / "out/b.tif").read_bytes() == b"the other call's"


def test_image_that_another_call_has_restored_meanwhile_counts_as_there_before(run, networks, folder, monkeypatch):
    root, _ = folder
    flags = ["-m", networks["same"], "-i", root / "raw", "-o", root / "out"]
    restore = ImageTask.restore

    def restore_after_another_call(self, *paths, **options):
        monkeypatch.setattr(ImageTask, "restore", restore)
        main([str(flag) for flag in flags])
        return restore(self, *paths, **options)

    monkeypatch.setattr(ImageTask, "restore", restore_after_another_call)
    out, _ = run(*flags)
    assert out.splitlines()[-1] == f"3 of 3 restored, 2 of them before: {root / 'out'}"


def test_images_are_scored_again_against_another_ground_truth(run, networks, folder, write_tiff):
    root, images = folder
    for kind, change in (("gt", 1), ("other", -1)):
        for name, image in images.items():
            write_tiff(root / kind / name, image[:, ::change] // 2, "ZYX")
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags, "-g", root / "gt")
    first = (root / "out/scores.csv").read_text()
    again, _ = run(*flags, "-g", root / "gt")
    assert "3 of 3 restored, 3 of them before" in again
    assert "PSNR (dB)" in again
    out, _ = run(*flags, "-g", root / "other")
    assert "of them before" not in out
    assert (root / "out/scores.csv").read_text() != first


def test_scores_of_replaced_images_go(run, networks, folder, write_tiff):
    root, images = folder
    for name, image in images.items():
        write_tiff(root / "gt" / name, image // 2, "ZYX")
    flags = ("-i", root / "raw", "-o", root / "out")
    run("-m", networks["same"], *flags, "-g", root / "gt")
    run("-m", networks["square"], *flags, "--overwrite")
    assert (root / "out/scores.csv").read_text().splitlines() == ["file,psnr_raw,psnr_restored,ssim_raw,ssim_restored"]


def test_changed_chunk_of_an_input_is_noticed(run, networks, tmp_path, draw):
    write_zarr(tmp_path / "raw/cell.ome.zarr", draw(1, 5, 1, 20, 21))
    flags = ("-m", networks["same"], "-i", tmp_path / "raw", "-o", tmp_path / "out")
    run(*flags)
    stored = zarr.open_array(tmp_path / "raw/cell.ome.zarr/0")
    stored[:] = stored[:] // 2
    out, _ = run(*flags)
    assert "of them before" not in out


def test_folder_that_is_gone_for_a_while_does_not_end_watching(run, networks, folder, monkeypatch):
    root, images = folder
    watch_some_rounds(
        monkeypatch,
        [
            lambda: (root / "raw").rename(root / "away"),
            nothing,
            lambda: (root / "away").rename(root / "raw"),
            nothing,
            nothing,
        ],
    )
    flags = ("-i", root / "raw", "-o", root / "out", "--watch", "--settle", "1")
    _, err = run("-m", networks["same"], *flags, status=130)
    assert err.count("raw") == 1
    assert {path.name for path in (root / "out").glob("*.tif")} == {*images}


# Channels and intensities


def test_planes_of_a_time_point_have_one_range_for_a_network_of_planes(tmp_path, write_tiff, rng):
    image = np.stack([rng.integers(0, 100 * (z + 1), (20, 21)) for z in range(4)]).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, "ZYX")
    with open_volume(path) as file:
        seen = open_network_view(file, ndim=2, num_channels=1, percentiles=PERCENTILES, normalize="frame")
        ranges = [seen.range_of(number) for number in range(4)]
    np.testing.assert_allclose(ranges, [[np.percentile(image, PERCENTILES)]] * 4)


def test_values_beyond_32_bits_are_refused(run, networks, tmp_path, draw):
    image = draw(5, 20, 21) * 1e300
    tifffile.imwrite(tmp_path / "raw.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    flags = ("-m", networks["same"], "-i", tmp_path / "raw.tif", "-o", tmp_path / "out.tif")
    _, err = run(*flags, status=1)
    assert "raw.tif is restored to NaN or infinite values" in err
    assert not (tmp_path / "out.tif").exists()


def test_uncertainty_is_not_rounded(run, networks, folder):
    root, _ = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "x.tif", "--ensemble", "8", "--uncertainty", "-b", "16")
    run("-m", networks["skewed"], *flags)
    assert tifffile.imread(root / "x.tif").dtype == np.uint16
    spread = tifffile.imread(root / "x_uncertainty.tif")
    assert spread.dtype == np.float32
    assert np.any(spread % 1)


def test_image_of_width_one_keeps_its_axes(run, networks, tmp_path, draw):
    image = draw(6, 20, 1)
    raw = tmp_path / "raw.ome.tif"
    tifffile.imwrite(raw, image, photometric="minisblack", metadata={"axes": "ZYX"}, ome=True)
    _, err = run("-m", networks["same"], "-i", raw, "-o", tmp_path / "out.tif")
    assert "one voxel wide" in err
    with open_volume(tmp_path / "out.tif") as volume:
        assert volume.shape == (6, 20, 1, 1)
        assert_close(volume.read()[..., 0], image)


def test_chosen_channels_come_in_the_order_of_the_choice(run, networks, tmp_path, write_tiff, draw):
    image = draw(2, 4, 3, 16, 17) * np.array([1, 2, 4], np.uint16)[:, np.newaxis, np.newaxis]
    labels = ["membrane", "nuclei", "actin"] * 8
    path = write_tiff(tmp_path / "raw.tif", image, "TZCYX", Labels=labels, mode="composite")
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif", "--channels", "2,0")
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.shape == (2, 4, 2, 16, 17)
    for number, channel in enumerate((2, 0)):
        assert_close(found[:, :, number], squared(image[:, :, channel]))
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.imagej_metadata["Labels"][:2] == ["actin", "membrane"]


def test_one_chosen_channel_leaves_no_axis(run, networks, tmp_path, write_tiff, draw):
    image = draw(4, 3, 16, 17)
    path = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif", "--channels", "1")
    assert_close(tifffile.imread(tmp_path / "out.tif"), squared(image[:, 1]))


def test_one_chosen_channel_is_scored_against_ground_truth_of_one_channel(run, networks, tmp_path, write_tiff, draw):
    image = draw(11, 3, 16, 17)
    raw = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    gt = write_tiff(tmp_path / "gt.tif", image[:, 1].copy(), "ZYX")
    run("-m", networks["same"], "-i", raw, "-g", gt, "-o", tmp_path / "out.tif", "--channels", "1")
    header, row = (tmp_path / "scores.csv").read_text().splitlines()
    scores = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(scores["ssim_restored"]) == pytest.approx(1, abs=1e-4)


def test_channel_that_is_not_there_is_refused(run, networks, folder):
    root, _ = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "out.tif", "--channels", "1")
    _, err = run("-m", networks["same"], *flags, status=1)
    assert "has 1 channel, counted from 0, but --channels is 1" in err


def test_imagej_shows_each_channel_in_its_range(run, networks, tmp_path, write_tiff, draw):
    image = draw(4, 3, 16, 17) * np.array([1, 2, 4], np.uint16)[:, np.newaxis, np.newaxis]
    path = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        shown = np.reshape(tiff.imagej_metadata["Ranges"], (3, 2))
    np.testing.assert_allclose(shown, np.percentile(image, PERCENTILES, axis=(0, 2, 3)).T)


@pytest.fixture
def fading(tmp_path, write_tiff, draw):
    """A time-lapse of three volumes that fades: its file and grey values (T, Z, Y, X)."""
    image = (draw(3, 4, 20, 21) / np.array([1, 2, 4])[:, np.newaxis, np.newaxis, np.newaxis]).astype(np.uint16)
    return write_tiff(tmp_path / "raw.tif", image, "TZYX"), image


def test_each_frame_may_be_normalised_alone(run, networks, fading, tmp_path):
    path, image = fading
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif", "--normalize", "frame")
    for found, frame in zip(tifffile.imread(tmp_path / "out.tif"), image, strict=True):
        assert_close(found, squared(frame))


def test_intensities_may_be_those_of_the_training(run, networks, fading, tmp_path):
    """The median of the training images: 200 becomes 0 and 1800 becomes 1."""
    path, image = fading
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif", "--normalize", "training")
    expected = ((image.astype(float) - 200) / 1600) ** 2 * 1600 + 200
    assert_close(tifffile.imread(tmp_path / "out.tif"), expected)


def test_network_without_notes_has_no_intensities_of_training(run, networks, fading, tmp_path):
    path, _ = fading
    flags = ("-i", path, "-o", tmp_path / "out.tif", "--normalize", "training")
    _, err = run("-m", networks["same"], *flags, status=1)
    assert "--normalize training needs the run folder" in err


def test_attention_may_be_local(run, networks, tmp_path, write_tiff, draw):
    """A network that multiplies by its mean; the window is the training patch, (8, 16, 16)."""
    image = draw(8, 16, 60) + np.linspace(0, 20_000, 60).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, "ZYX")
    run("-m", networks["gated"], "-i", path, "-o", tmp_path / "out.tif", "--attention", "local")
    values = normalised(image)
    starts = np.clip(np.arange(60) - 8, 0, 44)
    means = np.array([values[:, :, start : start + 16].mean() for start in starts])
    expected = to_grey(values * means, image)
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_allclose(found, expected, atol=0.03 * np.ptp(expected))


def test_more_devices_than_there_are_are_refused(run, networks, folder):
    root, _ = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "out.tif", "--devices", "33")
    _, err = run("-m", networks["same"], *flags, status=1)
    assert "devices is 33 but there" in err
    assert not (root / "out.tif").exists()


def test_spikes_are_replaced_where_asked_for(run, networks, tmp_path, write_tiff, draw):
    image = draw(5, 20, 21)
    hot = image.copy()
    hot[2, 7, 9] = 65_535
    flags = ("-m", networks["same"], "-i", write_tiff(tmp_path / "hot.tif", hot, "ZYX"))
    run(*flags, "-o", tmp_path / "left.tif")
    out, _ = run(*flags, "-o", tmp_path / "gone.tif", "--despike", "--preview")
    assert "hot.tif: spikes replaced by the voxels around them: 1\n" in out
    left, gone = (tifffile.imread(tmp_path / f"{name}.tif") for name in ("left", "gone"))
    around = np.delete(image[2, 6:9, 8:11].ravel(), 4)
    assert_close(left, hot)
    assert abs(gone[2, 7, 9] - np.median(around)) <= 1
    hot[2, 7, 9] = gone[2, 7, 9]
    assert_close(gone, hot)


def test_a_folder_restored_with_spikes_is_not_taken_for_one_without(run, networks, folder):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    _, err = run(*flags, "--despike", status=1)
    assert "made with despike not given" in err


# Ensembles


def turned(values):
    """Mean and spread of the network "skewed" over quarter turns and flips of a volume."""
    restored = []
    for turn in range(4):
        for axes in [(), (2,)]:
            seen = np.flip(np.rot90(values, turn, (1, 2)), axes)
            part = ndimage.correlate(seen, KERNEL.astype(float), mode="constant")
            restored.append(np.rot90(np.flip(part, axes), -turn, (1, 2)))
    return np.mean(restored, axis=0), np.std(restored, axis=0)


def test_ensemble_writes_mean_and_uncertainty_in_the_unit_of_the_input(run, networks, folder):
    root, images = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "x.ome.tif", "--ensemble", "8", "--uncertainty")
    run("-m", networks["skewed"], *flags)
    mean, spread = turned(normalised(images["a.tif"]))
    low, high = np.percentile(images["a.tif"], PERCENTILES)
    assert_close(tifffile.imread(root / "x.ome.tif"), mean * (high - low) + low)
    assert_close(tifffile.imread(root / "x_uncertainty.ome.tif"), spread * (high - low))


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_names_that_are_no_unicode_are_restored_like_others(run, networks, tmp_path, write_tiff, draw):
    image = draw(5, 20, 21)
    name = os.fsdecode(b"\xff\xe9")
    path = write_tiff(tmp_path / "raw" / "a.tif", image, "ZYX")
    path.rename(path.with_name(f"{name}.tif"))
    out, _ = run("-m", networks["same"], "-i", tmp_path / "raw", "-o", tmp_path / "out", "--preview")
    assert "1 of 1 restored" in out
    assert_close(tifffile.imread(tmp_path / "out" / f"{name}.tif"), image)
    assert (tmp_path / "out" / f"{name}_preview.png").exists()
    out, _ = run("-m", networks["same"], "-i", tmp_path / "raw", "-o", tmp_path / "out", "--preview")
    assert "1 of 1 restored, 1 of them before" in out
    run("-m", networks["same"], "-i", tmp_path / "raw" / f"{name}.tif", "-o", tmp_path / f"{name}.tif")
    assert_close(tifffile.imread(tmp_path / f"{name}.tif"), image)


TURNS = [(turn, is_flipped) for turn in range(4) for is_flipped in (False, True)]


@pytest.mark.parametrize("block", [(), ("-B", "4,16,16", "-O", "2,4,4")], ids=["whole", "tiles"])
@pytest.mark.parametrize("shape", [(6, 20, 33), (1, 33, 20)], ids=["volume", "plane"])
def test_an_ensemble_is_the_mean_of_runs_on_turned_files(run, networks, tmp_path, write_tiff, draw, shape, block):
    image = draw(*shape)
    flags = ("-m", networks["skewed"], "--axes", "ZYX", *block)
    restored = []
    for turn, is_flipped in TURNS:
        turned_image = np.rot90(image[..., ::-1] if is_flipped else image, turn, axes=(1, 2))
        path = write_tiff(tmp_path / "turned.tif", np.ascontiguousarray(turned_image), "ZYX")
        run(*flags, "-i", path, "-o", tmp_path / "one.tif", "--overwrite")
        back = np.rot90(tifffile.imread(tmp_path / "one.tif").reshape(turned_image.shape), -turn, axes=(1, 2))
        restored.append(back[..., ::-1] if is_flipped else back)
    run(*flags, "-i", write_tiff(tmp_path / "a.tif", image, "ZYX"), "-o", tmp_path / "mean.tif", "--ensemble", "8")
    found = tifffile.imread(tmp_path / "mean.tif").reshape(shape)
    assert np.std(restored, axis=0).mean() > 0.01 * np.ptp(found)  # turning matters to this network
    np.testing.assert_allclose(found, np.mean(restored, axis=0), atol=2e-3 * np.ptp(found))


def test_uncertainty_of_a_stretched_image_is_stretched(run, networks, folder):
    root, images = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "x.tif", "--ensemble", "8", "--uncertainty")
    run("-m", networks["skewed"], *flags, "--normalize_output_range_between_zero_and_one")
    mean, spread = turned(normalised(images["a.tif"]))
    assert_close(tifffile.imread(root / "x.tif"), (mean - mean.min()) / np.ptp(mean))
    assert_close(tifffile.imread(root / "x_uncertainty.tif"), spread / np.ptp(mean))


def test_image_without_its_uncertainty_is_restored_again(run, networks, folder):
    root, images = folder
    flags = ("-m", networks["skewed"], "-i", root / "raw", "-o", root / "out", "--ensemble", "8")
    run(*flags, "--uncertainty")
    before = contents(root / "out")
    assert sorted(before) == sorted([*images, *(name.replace(".", "_uncertainty.") for name in images)])
    (root / "out/b_uncertainty.tif").unlink()
    out, _ = run(*flags, "--uncertainty")
    assert "3 of 3 restored, 2 of them before" in out
    assert contents(root / "out") == before


def test_uncertainty_without_an_ensemble_is_refused(run, networks, folder):
    root, _ = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "x.tif", "--uncertainty")
    _, err = run("-m", networks["same"], *flags, status=2)
    assert "--uncertainty is the spread of an ensemble: add --ensemble 8" in err


# Formats: (T, Z, C, Y, X) = (2, 4, 2, 16, 17) in each of them


def write_imagej(path, image):
    options = {"spacing": VOXEL_SIZE[0], "unit": "micron", "finterval": 2.0, "axes": "TZCYX"}
    resolution = (1 / VOXEL_SIZE[2], 1 / VOXEL_SIZE[1])
    tifffile.imwrite(path, image, imagej=True, resolution=resolution, metadata=options)


def ome_metadata():
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", VOXEL_SIZE, strict=True)}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
    return {"axes": "TZCYX", "TimeIncrement": 2.0, "TimeIncrementUnit": "s", **sizes, **units}


def write_ome(path, *positions):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for image in positions:
            tiff.write(image, photometric="minisblack", metadata=ome_metadata())


def write_zarr(path, image, **options):
    """NGFF 0.5, TCZYX, written with zarr alone."""
    group = zarr.open_group(path, mode="w" if options else "w-", zarr_format=3)
    group.create_array("0", data=np.ascontiguousarray(image.swapaxes(1, 2)), chunks=(1, 1, 2, 16, 16))
    kinds = {"t": ("time", "second"), "c": ("channel", None)}
    axes = [(name, *kinds.get(name, ("space", "micrometer"))) for name in "tczyx"]
    axes = [{"name": name, "type": kind, **({"unit": unit} if unit else {})} for name, kind, unit in axes]
    scale = {"type": "scale", "scale": [2.0, 1.0, *VOXEL_SIZE]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def read_imagej(path):
    """Grey values TZCYX, voxel size and time step."""
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_imagej
        assert tiff.series[0].axes == "TZCYX"
        metadata, tags = tiff.imagej_metadata, tiff.pages.first.tags
        assert metadata["unit"] == "micron"
        y, x = (1 / np.divide(*tags.valueof(f"{axis}Resolution")) for axis in "YX")
        return tiff.asarray(), (metadata["spacing"], y, x), metadata["finterval"]


def read_ome(path, position=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ome_types itself
        pixels = ome_types.from_tiff(path).images[position].pixels
    sizes = pixels.physical_size_z, pixels.physical_size_y, pixels.physical_size_x
    assert pixels.physical_size_x_unit.value == "µm"
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[position].axes == "TZCYX"
        return tiff.series[position].asarray(), sizes, pixels.time_increment


def read_zarr(path):
    attributes = zarr.open_group(path, mode="r").attrs.asdict()
    multiscale = attributes.get("ome", attributes)["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == list("tczyx")
    level = multiscale["datasets"][0]
    (scale,) = (step["scale"] for step in level["coordinateTransformations"] if step["type"] == "scale")
    array = zarr.open_array(Path(path) / level["path"], mode="r")
    return array[:].swapaxes(1, 2), tuple(scale[2:]), scale[0]


READERS = {"imagej": read_imagej, "ome": read_ome, "zarr": read_zarr, "zarr-0.4": read_zarr}


@pytest.mark.parametrize(
    ("name", "write", "names"),
    [
        ("cell.tif", write_imagej, ("cell.tif", "cell.tif", "cell.ome.zarr")),
        ("cell.ome.tif", write_ome, ("cell.tif", "cell.ome.tif", "cell.ome.zarr")),
        ("cell.ome.zarr", write_zarr, ("cell.tif", "cell.ome.tif", "cell.ome.zarr")),
    ],
)
@pytest.mark.parametrize("file_format", READERS)
def test_each_format_becomes_each_other(run, networks, tmp_path, draw, name, write, names, file_format):
    image = draw(2, 4, 2, 16, 17)
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / name, image)
    flags = ("-i", tmp_path / "raw", "-o", tmp_path / "out", "--format", file_format)
    run("-m", networks["same"], *flags)
    (output,) = (path for path in (tmp_path / "out").iterdir() if path.name != "manifest.jsonl")
    assert output.name == dict(zip(("imagej", "ome", "zarr"), names, strict=True))[file_format.partition("-")[0]]
    found, voxel_size, time_step = READERS[file_format](output)
    assert found.dtype == np.float32
    assert_close(found, image)
    assert voxel_size == pytest.approx(VOXEL_SIZE)
    assert time_step == 2


@pytest.mark.parametrize("name", ["cell.ome.zarr", "cell.ome.tif", "cell.tif"])
def test_format_of_one_image_is_that_of_its_suffix(run, networks, tmp_path, draw, name):
    image = draw(2, 4, 2, 16, 17)
    write_ome(tmp_path / "raw.ome.tif", image)
    run("-m", networks["same"], "-i", tmp_path / "raw.ome.tif", "-o", tmp_path / name)
    kind = {"cell.ome.zarr": "zarr", "cell.ome.tif": "ome", "cell.tif": "imagej"}[name]
    assert_close(READERS[kind](tmp_path / name)[0], image)


def test_format_against_the_suffix_is_refused(run, networks, folder):
    root, _ = folder
    flags = ("-i", root / "raw/a.tif", "-o", root / "out.tif", "--format", "zarr")
    _, err = run("-m", networks["same"], *flags, status=1)
    assert "out.tif cannot be written as zarr: name it *.zarr" in err


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_upscaling_writes_smaller_voxels(run, networks, tmp_path, draw, suffix):
    image = draw(2, 4, 2, 16, 17)
    write_ome(tmp_path / "raw.ome.tif", image)
    output = tmp_path / f"out{suffix}"
    run("-m", networks["larger"], "-i", tmp_path / "raw.ome.tif", "-o", output)
    found, voxel_size, _ = (read_zarr if suffix == ".ome.zarr" else read_ome)(output)
    assert_close(found, np.kron(image, np.ones((1, 1, 1, 2, 2))))
    assert voxel_size == pytest.approx(np.divide(VOXEL_SIZE, (1, 2, 2)))


# Many files that are one image


@pytest.mark.parametrize("how", ["pattern", "folder"])
def test_files_of_a_series_become_one_time_lapse(run, networks, tmp_path, write_tiff, draw, how):
    image = draw(12, 4, 16, 17) * np.arange(1, 13, dtype=np.uint16)[:, np.newaxis, np.newaxis, np.newaxis]
    for number, frame in enumerate(image):
        write_tiff(tmp_path / f"raw/cell_t{number}.tif", frame, "ZYX", spacing=0.5, unit="micron")
    given = ("-i", tmp_path / "raw/cell_t*.tif") if how == "pattern" else ("-i", tmp_path / "raw", "--series")
    run("-m", networks["square"], *given, "-o", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.series[0].axes == "TZYX"
        assert_close(tiff.asarray(), squared(image))


@pytest.mark.parametrize("how", ["pattern", "folder"])
def test_file_of_a_series_is_never_replaced(run, networks, folder, how):
    root, _ = folder
    for number, name in enumerate(("a", "b", "c")):
        (root / f"raw/{name}.tif").rename(root / f"raw/cell_t{number}.tif")
    before = contents(root / "raw")
    given = ("-i", root / "raw/cell_t*.tif") if how == "pattern" else ("-i", root / "raw", "--series")
    flags = ("-o", root / "raw/cell_t1.tif", "--overwrite")
    _, err = run("-m", networks["same"], *given, *flags, status=1)
    assert "is an input" in err
    assert contents(root / "raw") == before


def test_pattern_that_matches_nothing_is_refused(run, networks, folder):
    root, _ = folder
    _, err = run("-m", networks["same"], "-i", root / "raw/x*.tif", "-o", root / "out.tif", status=1)
    assert "x*.tif matches no file" in err


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_positions_are_restored_each(run, networks, tmp_path, draw, suffix):
    images = [draw(2, 4, 2, 16, 17), 3 * draw(2, 4, 2, 16, 17)]
    write_ome(tmp_path / "raw.ome.tif", *images)
    output = tmp_path / f"out{suffix}"
    run("-m", networks["square"], "-i", tmp_path / "raw.ome.tif", "-o", output)
    for position, image in enumerate(images):
        found = read_zarr(output / str(position)) if suffix == ".ome.zarr" else read_ome(output, position)
        for channel in range(2):
            low, high = np.percentile(np.stack(images)[:, :, :, channel], PERCENTILES)
            values = (image[:, :, channel].astype(float) - low) / (high - low)
            assert_close(found[0][:, :, channel], values**2 * (high - low) + low)


# Watching

SLOWLY = """
import signal
import sys
import time

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell has set
import rcan.keras_setup
from rcan.commands import apply
from rcan.restoration import watch
from rcan.restoration.engine import KerasEngine

def compute_slowly(self, tile):
    time.sleep(0.05)
    return compute(self, tile)

compute, KerasEngine.__call__ = KerasEngine.__call__, compute_slowly
watch._LOOK_INTERVAL = 0.4
sys.exit(apply.main(sys.argv[1:]))
"""


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def watching(networks, folder, tmp_path):
    """A process that watches `raw`, and its log; small tiles, so that a large image takes long."""
    log = tmp_path / "log.txt"
    flags = [
        "-m",
        networks["same"],
        "-i",
        tmp_path / "raw",
        "-o",
        tmp_path / "out",
        "--watch",
        "--settle",
        "2",
        "-B",
        "5,20,21",
    ]
    command = [sys.executable, "-W", "ignore", "-c", SLOWLY, *map(str, flags)]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    yield process, log
    process.kill()
    process.wait()


def test_watched_folder_is_restored_as_it_grows(watching, folder, write_tiff, draw):
    process, log = watching
    root, images = folder
    wait_for(lambda: all((root / "out" / name).exists() for name in images))
    whole = write_tiff(root / "elsewhere/d.tif", draw(5, 20, 21), "ZYX").read_bytes()
    pieces = [whole[start : start + len(whole) // 15] for start in range(0, len(whole), len(whole) // 15)]
    for piece in pieces:
        with open(root / "raw/d.tif", "ab") as file:
            file.write(piece)
        assert not (root / "out/d.tif").exists()
        time.sleep(0.1)
    wait_for((root / "out/d.tif").exists)
    assert_close(tifffile.imread(root / "out/d.tif"), tifffile.imread(root / "raw/d.tif"))
    assert "error" not in log.read_text()

    image = draw(5, 200, 210)
    write_tiff(root / "elsewhere/e.tif", image, "ZYX").rename(root / "raw/e.tif")
    wait_for(lambda: list((root / "out").glob(".e.tif.partial-*")))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    left = {path.name for path in (root / "out").iterdir()}
    assert left == {*images, "d.tif", "manifest.jsonl"}
    assert "4 of 5 restored" in log.read_text()


def watch_some_rounds(monkeypatch, rounds):
    """Let `--watch` look so many times; before each look but the first, one of `rounds` is called."""
    from rcan import cli
    from rcan.restoration import watch as watch_module

    steps = iter(rounds)

    class Clock:
        now = 0

        @classmethod
        def monotonic(cls):
            return cls.now

        @classmethod
        def sleep(cls, seconds):
            cls.now += seconds
            step = next(steps, None)
            if step is None:
                raise KeyboardInterrupt
            step()

    monkeypatch.setattr(watch_module, "time", Clock)
    monkeypatch.setattr(cli, "_is_computing", lambda: False)


def nothing():
    """A round in which nothing happens."""


def test_watching_counts_each_image_once(run, networks, folder, monkeypatch, write_tiff, draw):
    root, _ = folder
    flags = ("-m", networks["same"], "-i", root / "raw", "-o", root / "out")
    run(*flags)
    write_tiff(root / "raw/d.tif", draw(5, 20, 21), "ZYX")
    watch_some_rounds(monkeypatch, [nothing, nothing, nothing])
    out, _ = run(*flags, "--watch", "--settle", "1", status=130)
    assert "4 of 4 restored, 3 of them before" in out


def test_watched_image_that_vanishes_ends_nothing(run, networks, folder, monkeypatch, write_tiff, draw):
    root, _ = folder
    (root / "raw/b.tif").write_bytes(b"no image")
    rounds = [
        nothing,
        (root / "raw/b.tif").unlink,
        lambda: write_tiff(root / "raw/d.tif", draw(5, 20, 21), "ZYX"),
        nothing,
    ]
    watch_some_rounds(monkeypatch, rounds)
    _, err = run("-m", networks["same"], "-i", root / "raw", "-o", root / "out", "--watch", "--settle", "1", status=130)
    assert "b.tif" in err
    assert {path.name for path in (root / "out").glob("*.tif")} == {"a.tif", "c.tif", "d.tif"}


def test_watching_survives_an_output_folder_that_is_gone_for_a_while(run, networks, folder, monkeypatch):
    root, images = folder

    def come_back():
        (root / "disk").unlink()
        (root / "disk").mkdir()
        for name in images:
            os.utime(root / "raw" / name)

    (root / "disk").write_text("no folder")
    watch_some_rounds(monkeypatch, [nothing, nothing, come_back, nothing, nothing])
    flags = ("-i", root / "raw", "-o", root / "disk/out", "--watch", "--settle", "1")
    out, err = run("-m", networks["same"], *flags, status=130)
    assert "disk" in err
    assert "3 of 3 restored: " in out
    assert {path.name for path in (root / "disk/out").glob("*.tif")} == {*images}


def test_zarr_image_that_still_grows_is_not_touched(run, networks, tmp_path, monkeypatch, draw):
    """Its metadata are there first, chunks follow."""
    image = draw(1, 8, 1, 20, 21)
    write_zarr(tmp_path / "raw/cell.ome.zarr", image)
    chunks = [path for path in (tmp_path / "raw/cell.ome.zarr/0/c").rglob("*") if path.is_file()]
    late = {path: path.read_bytes() for path in sorted(chunks)[1:]}
    for path in late:
        path.unlink()
    output, too_early = tmp_path / "out/cell.ome.zarr", []

    def add(path):
        too_early.append(output.exists())
        path.write_bytes(late[path])

    rounds = [lambda path=path: add(path) for path in late]
    watch_some_rounds(monkeypatch, [*rounds, nothing, nothing])
    flags = ("-i", tmp_path / "raw", "-o", tmp_path / "out", "--watch", "--settle", "1")
    run("-m", networks["same"], *flags, status=130)
    assert not any(too_early)
    assert_close(zarr.open_array(output / "0", mode="r")[:].reshape(image.shape), image)


# Killing

KILLING = """
import os
import signal
import sys
import time
from pathlib import Path

import rcan.keras_setup
import numpy as np
import rcan.run_folder.models
import rcan.io.zarr_writing
from rcan.commands.apply import main
from rcan.restoration.engine import KerasEngine

root, network = map(Path, sys.argv[1:])
rng = np.random.default_rng(0)
(root / "log.txt").touch()


def compute_slowly(self, tile):
    time.sleep(0.003)
    return compute(self, tile)


compute, KerasEngine.__call__ = KerasEngine.__call__, compute_slowly


def start(output, file_format):
    # a copy of this process, which has imported all, restores the folder
    pid = os.fork()
    if not pid:
        log = os.open(root / "log.txt", os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        flags = ["-i", root / "raw", "-o", output, "--format", file_format, "-B", "8,32,32"]
        os._exit(main([*map(str, ["-m", network, *flags])]))
    return pid


def finish(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def names(folder):
    return set(os.listdir(folder)) if folder.exists() else set()


def wait_for_work(folder, before):
    while not names(folder) - before:
        time.sleep(0.001)


def images(folder):
    # bytes of each image under its final name: of a file, or of all files of a Zarr folder
    found = {}
    for name in names(folder) - {"manifest.jsonl"}:
        path = folder / name
        files = [path, *path.rglob("*")]
        files = {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}
        if not name.startswith("."):
            found[name] = files
    return found


kills = 0
for file_format in ("imagej", "ome", "zarr"):
    whole, broken = root / f"whole {file_format}", root / f"broken {file_format}"
    pid = start(whole, file_format)
    wait_for_work(whole, set())
    begun = time.monotonic()
    assert finish(pid) == 0
    duration, expected = time.monotonic() - begun, images(whole)
    assert len(expected) == 8
    for _ in range(4):
        num_missing = len(expected) - len(images(broken))
        before = names(broken)
        pid = start(broken, file_format)
        wait_for_work(broken, before)
        time.sleep(rng.uniform(0, duration * min(0.5, num_missing / len(expected))))
        os.kill(pid, signal.SIGKILL)
        kills += finish(pid) == -signal.SIGKILL
        found = images(broken)
        assert all(expected[name] == files for name, files in found.items()), (file_format, list(found))
        print(file_format, round(duration, 2), len(found), flush=True)
        if len(found) == len(expected):
            break
    assert finish(start(broken, file_format)) == 0
    assert images(broken) == expected, file_format
    assert names(broken) == {*expected, "manifest.jsonl"}, names(broken)
assert kills >= 8, kills
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_job_leaves_whole_images_alone_and_goes_on(networks, tmp_path, write_tiff, draw):
    for name in "abcdefgh":
        write_tiff(tmp_path / f"raw/{name}.tif", draw(8, 80, 84), "ZYX")
    command = [sys.executable, "-W", "ignore", "-c", KILLING, tmp_path, networks["skewed"]]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
