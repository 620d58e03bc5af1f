"""Pictures and films of images of any size, alone and beside what `apply` restores."""

import json
import os
import platform
import sys

import keras
import numpy as np
import pytest
import tifffile
from imageio import v2, v3
from keras import layers

from rcan.commands.apply import main
from rcan.figures import loading, movie
from rcan.figures.loading import load_for_view
from rcan.figures.movie import _draw_still, write_movie
from rcan.figures.rotation import rotate_projections
from rcan.figures.style import render
from rcan.io.opening import open_volume
from rcan.model import PixelShuffle

UNKNOWN = (None, None, None)


def texts(figure):
    return [text.get_text() for text in figure.texts]


# Loading


def means(image, bins):
    """Means of blocks, of smaller ones at the end of each axis."""
    for axis, step in enumerate(bins):
        parts = np.split(image, range(step, image.shape[axis], step), axis)
        image = np.concatenate([part.mean(axis=axis, keepdims=True) for part in parts], axis)
    return image


@pytest.fixture
def stack(tmp_path, write_tiff, rng):
    """A file of 7 x 30 x 41 voxels of 0.4 x 0.2 x 0.2 µm, and its grey values."""
    image = rng.integers(0, 60000, (7, 30, 41)).astype(np.uint16)
    return write_tiff(tmp_path / "stack.tif", image, "ZYX", spacing=0.4, unit="um"), image


@pytest.mark.parametrize("most", [10**6, 7 * 30 * 41, 4000, 1000, 50, 1])
@pytest.mark.parametrize("piece", [1, 100, 2000, 10**6])
def test_a_large_image_is_shown_as_means_of_its_voxels(stack, monkeypatch, most, piece):
    monkeypatch.setattr(loading, "_MOST_READ", piece)
    path, image = stack
    with open_volume(path) as volume:
        view = load_for_view(volume, {}, (1000, 51000), most=most)
    assert view.image.size <= most
    expected = (means(image.astype(float), view.bins) - 1000) / 50000
    np.testing.assert_allclose(view.image[..., 0], expected, atol=1e-5)


def test_no_more_than_a_piece_is_read_at_a_time(stack, monkeypatch):
    monkeypatch.setattr(loading, "_MOST_READ", 500)
    with open_volume(stack[0]) as volume:
        read, sizes = volume.read, []
        monkeypatch.setattr(volume, "read", lambda *a, **b: sizes.append(read(*a, **b).size) or read(*a, **b))
        load_for_view(volume, {}, (0, 1), most=1000)
    assert max(sizes) <= 500
    assert sum(sizes) == 7 * 30 * 41


def test_voxels_become_more_nearly_cubes(tmp_path, write_tiff):
    path = tmp_path / "a.tif"
    resolution = (1 / 0.1, 1 / 0.1)
    tifffile.imwrite(
        path, np.ones((20, 64, 64), np.uint16), imagej=True, resolution=resolution,
        metadata={"axes": "ZYX", "spacing": 0.4, "unit": "um"},
    )  # fmt: skip
    with open_volume(path) as volume:
        view = load_for_view(volume, {}, (0, 1), most=20 * 64 * 64 // 16)
    assert view.bins == (1, 4, 4)
    assert view.voxel_size == pytest.approx((0.4, 0.4, 0.4))


def test_a_plane_is_loaded_as_a_plane(tmp_path, write_tiff, rng):
    image = rng.uniform(size=(30, 20)).astype(np.float32)
    with open_volume(write_tiff(tmp_path / "a.tif", image, "YX"), block_axes="YX") as volume:
        view = load_for_view(volume, {}, (0, 1), most=150)
    np.testing.assert_allclose(view.image[..., 0], means(image, (2, 2)), atol=1e-6)
    assert view.voxel_size == UNKNOWN


# Films


def ball(shape=(9, 40, 40)):
    """Something that looks different from each side, up to a half turn."""
    z, y, x = np.ogrid[tuple(map(slice, shape))]
    values = np.exp(-((z - 2) ** 2 / 4 + (y - 20) ** 2 / 50 + (x - 30) ** 2 / 20))
    return values[..., np.newaxis].astype(np.float32)


def read_gif(path):
    """Frames, all colours of which are grey."""
    frames = v3.imread(path, index=None)
    return frames[..., 0] if frames.ndim == 4 else frames


def read_mp4(path):
    with v2.get_reader(path, format="FFMPEG") as reader:
        return np.stack([*iter(reader)]), reader.get_meta_data()


def test_gif_turns_once_in_four_seconds_and_goes_on_for_ever(tmp_path):
    write_movie(tmp_path / "a.gif", {"raw": ball(), "restored": ball()})
    frames, about = read_gif(tmp_path / "a.gif"), v3.immeta(tmp_path / "a.gif")
    assert len(frames) * about["duration"] == 4000
    assert about["loop"] == 0
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the reader
def test_mp4_turns_once_in_four_seconds(tmp_path):
    write_movie(tmp_path / "a.mp4", {"raw": ball(), "restored": ball()}, name="cell")
    write_movie(tmp_path / "a.gif", {"raw": ball(), "restored": ball()}, name="cell")
    frames, about = read_mp4(tmp_path / "a.mp4")
    assert len(frames) == 4 * about["fps"]
    assert about["source_size"] == frames.shape[2:0:-1]
    gif = read_gif(tmp_path / "a.gif")
    assert frames.shape[1:3] == gif.shape[1:]
    assert np.abs(frames[0, ..., 1].astype(int) - gif[0]).mean() < 2


@pytest.mark.parametrize("shape", [(9, 40, 40), (3, 301, 77), (5, 20, 150), (20, 40, 9)])
def test_each_panel_shows_its_volume_from_all_sides(tmp_path, rng, monkeypatch, shape):
    places = []
    monkeypatch.setattr(movie, "_draw_still", lambda *a: places.append(_draw_still(*a)) or places[0])
    images = {title: rng.uniform(size=(*shape, 2)).astype(np.float32) for title in ("raw", "restored")}
    write_movie(tmp_path / "a.gif", images, voxel_size=(0.2, 0.1, 0.1))
    frames = read_gif(tmp_path / "a.gif")
    corners = places[0][1]
    for image, (top, left) in zip(images.values(), corners, strict=True):
        views = rotate_projections(image[..., 0], (0.2, 0.1, 0.1), num_views=40, most=400)
        enlarged = 400 // max(views.shape[1:])
        views = np.rint(255 * views).astype(np.uint8).repeat(enlarged, 1).repeat(enlarged, 2)
        found = frames[:, top : top + views.shape[1], left : left + views.shape[2]]
        np.testing.assert_array_equal(found, views)
    beside = corners[0][0] == corners[1][0]
    assert beside == (shape != (5, 20, 150))  # wide ones stand below each other


@pytest.mark.parametrize(("voxel", "size"), [(0.1, (240, 288)), (0.0123, (60, 399)), (7.0, (399, 80))])
def test_scale_bar_is_as_long_as_it_says(monkeypatch, voxel, size):
    sheets = []
    monkeypatch.setattr(movie, "render", lambda figure: sheets.append(figure) or render(figure))
    still, _ = _draw_still(["raw", "restored"], size, voxel, "cell.tif", ["channel 1 of 2"])
    (words,) = (text for text in texts(sheets[0]) if text.endswith(" µm"))
    is_lit = "".join(".#"[int(value > 250)] for value in still[-40:].max(axis=0))
    bar = max(map(len, is_lit.split(".")))
    assert bar == pytest.approx(float(words.removesuffix(" µm")) / voxel, abs=2)
    assert {"cell.tif", "raw", "restored", "maximum projections, channel 1 of 2"} <= set(texts(sheets[0]))
    assert not any(side % 2 for side in still.shape)


def test_without_voxel_size_there_is_no_scale_bar(monkeypatch):
    still, _ = _draw_still(["raw"], (100, 100), None, None, [])
    assert still[-40:, : still.shape[1] // 2].max() == 0


# Beside what is restored


def save_network(path, function):
    inputs = keras.Input((None, None, None, 1))
    keras.Model(inputs, function(inputs)).save(path)
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders whose networks give their input back; one has twice as many voxels along y and x."""
    folder = tmp_path_factory.mktemp("networks")
    for name, function in {
        "same": layers.Rescaling(1.0),
        "larger": lambda x: PixelShuffle((1, 2, 2))(layers.Concatenate()([x] * 4)),
    }.items():
        (folder / name).mkdir()
        save_network(folder / name / "best.keras", function)
        facts = {"percentiles": [2, 99.9], "training": [{"raw": "", "gt": "", "raw_range": [[100, 3000]]}]}
        (folder / name / "training.json").write_text(json.dumps(facts))
    return folder


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
def raw(tmp_path, write_tiff, rng):
    """A folder with `a.tif` and `b.tif`."""
    for name in ("a.tif", "b.tif"):
        write_tiff(tmp_path / "raw" / name, rng.gamma(2, 500, (5, 20, 21)).astype(np.uint16), "ZYX")
    return tmp_path / "raw"


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn of each picture, which is not: images by title, by kind."""
    told = {}
    for kind in ("projections.draw_projections", "movie.write_movie"):

        def draw(path, images, kind=kind, **options):
            told[kind.partition(".")[2]] = images, options
            path.touch()

        monkeypatch.setattr(f"rcan.figures.{kind}", draw)
    return told


def test_pictures_lie_beside_each_image_and_are_not_made_again(run, networks, raw, tmp_path):
    flags = ("-m", networks / "same", "-i", raw, "-o", tmp_path / "out", "--preview", "--movie", "gif")
    run(*flags)
    made = {f"{name}{end}" for name in "ab" for end in (".tif", "_preview.png", "_movie.gif")}
    assert names(tmp_path / "out") == made | {"manifest.jsonl"}
    assert len(read_gif(tmp_path / "out" / "a_movie.gif")) == 40
    assert v3.imread(tmp_path / "out" / "a_preview.png").shape[-1] == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    out, _ = run(*flags)
    assert "2 of 2 restored, 2 of them before" in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_picture_that_is_asked_for_later_is_made_without_restoring_again(run, networks, raw, tmp_path):
    flags = ("-m", networks / "same", "-i", raw, "-o", tmp_path / "out")
    run(*flags)
    before = (tmp_path / "out" / "a.tif").stat().st_mtime_ns
    out, _ = run(*flags, "--preview")
    assert "2 of 2 restored, 2 of them before" in out
    assert (tmp_path / "out" / "a.tif").stat().st_mtime_ns == before
    assert {"a_preview.png", "b_preview.png"} <= names(tmp_path / "out")


def test_pictures_of_a_folder_that_was_restored_in_part_are_completed(run, networks, raw, tmp_path):
    flags = ("-m", networks / "same", "-i", raw, "-o", tmp_path / "out", "--preview")
    run(*flags)
    (tmp_path / "out" / "a.tif").unlink()
    (tmp_path / "out" / "b_preview.png").unlink()
    out, _ = run(*flags)
    assert "2 of 2 restored, 1 of them before" in out
    assert {"a.tif", "b_preview.png"} <= names(tmp_path / "out")


@pytest.mark.parametrize("name", ["a_preview.png", "a_movie.gif"])
def test_a_file_of_the_user_is_not_replaced_by_a_picture(run, networks, raw, tmp_path, name):
    (tmp_path / "out").mkdir()
    own = tmp_path / "out" / name
    own.write_text("mine")
    picture = ("--preview", "--movie", "gif")
    for source, output in ((raw, tmp_path / "out"), (raw / "a.tif", tmp_path / "out" / "a.tif")):
        flags = ("-m", networks / "same", "-i", source, "-o", output, *picture)
        _, err = run(*flags, status=1)
        assert f"{name} would be replaced" in err
        assert names(tmp_path / "out") == {name}
    assert own.read_text() == "mine"
    run(*flags, "--overwrite")
    assert own.stat().st_size > 1000


def test_a_picture_that_cannot_be_finished_leaves_nothing(run, networks, raw, tmp_path, monkeypatch):
    def fail(path, frames):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(movie._WRITERS, ".gif", fail)
    (tmp_path / "out").mkdir()
    flags = ("-m", networks / "same", "-i", raw / "a.tif", "-o", tmp_path / "out" / "a.tif", "--movie", "gif")
    _, err = run(*flags, status=1)
    assert "a_movie.gif: no space left" in err
    assert names(tmp_path / "out") == {"a.tif"}


def test_mp4_without_its_library_is_refused_before_anything_is_restored(run, networks, raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    flags = ("-m", networks / "same", "-i", raw, "-o", tmp_path / "out", "--movie", "mp4")
    _, err = run(*flags, status=1)
    assert 'python -m pip install "rcan-microscopy[movie]"' in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-b", "16"),
        ("--compare",),
        ("--compare", "-b", "8"),
        ("--normalize", "training"),
        ("--normalize", "frame", "--format", "zarr"),
        ("-g", "gt", "--rescale"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("network", ["same", "larger"])
def test_raw_and_restored_are_shown_in_one_unit(
    run, networks, raw, tmp_path, write_tiff, monkeypatch, drawn, network, flags
):
    if "zarr" in flags:
        pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    image = tifffile.imread(raw / "a.tif").astype(np.float32)
    factor = 2 if network == "larger" else 1
    write_tiff(tmp_path / "gt", (2 * image + 300).repeat(factor, 1).repeat(factor, 2), "ZYX")
    (tmp_path / "gt").rename(tmp_path / "gt.tif")
    flags = [f"{flag}.tif" if flag == "gt" else flag for flag in flags]
    output = tmp_path / ("a.zarr" if "zarr" in flags else "a.tif")
    run("-m", networks / network, "-i", raw / "a.tif", "-o", output, "--preview", *flags)
    shown, _ = drawn["draw_projections"]
    assert shown["restored"].shape == (5, 20 * factor, 21 * factor, 1)
    if "8" in flags:  # clipped to the type
        shown = {title: image.clip(0, 1) for title, image in shown.items()}
    np.testing.assert_allclose(shown["raw"], shown["restored"], atol=0.003)
    low, high = (100, 3000) if "training" in flags else np.percentile(image, (2, 99.9))
    expected = ((image - low) / (high - low)).repeat(factor, 1).repeat(factor, 2)
    expected = expected.clip(0, 1) if "8" in flags else expected
    np.testing.assert_allclose(shown["raw"][..., 0], expected, atol=1e-4)


def test_one_channel_and_time_point_of_many_are_shown_and_named(run, networks, drawn, tmp_path, write_tiff, rng):
    image = rng.gamma(2, 500, (3, 4, 3, 20, 21)).astype(np.uint16)
    write_tiff(tmp_path / "a.tif", image, "TZCYX")
    flags = ("-m", networks / "same", "-i", tmp_path / "a.tif", "-o", tmp_path / "b.tif", "--channels", "2,0")
    run(*flags, "--preview", "--movie", "gif")
    low, high = np.percentile(image[:, :, 2], (2, 99.9))
    assert set(drawn) == {"draw_projections", "write_movie"}
    for images, options in drawn.values():
        assert options["notes"] == ["channel 3 of 3", "time point 1 of 3"]
        for shown in images.values():
            np.testing.assert_allclose(shown[..., 0], (image[0, :, 2] - low) / (high - low), atol=1e-4)


def test_a_single_plane_has_a_preview_and_no_movie(run, tiny_models, tmp_path, write_tiff, rng):
    write_tiff(tmp_path / "a.tif", rng.gamma(2, 500, (20, 21)).astype(np.uint16), "YX")
    flags = ("-m", tiny_models / "2d.keras", "-i", tmp_path / "a.tif", "-o", tmp_path / "b.tif")
    _, err = run(*flags, "--preview", "--movie", "gif")
    assert "has one plane: no movie of it" in err
    assert names(tmp_path) == {"a.tif", "b.tif", "b_preview.png"}


def test_two_images_with_one_picture_are_refused(run, networks, raw, tmp_path, write_tiff):
    write_tiff(raw / "a.tiff", np.ones((5, 20, 21), np.uint16), "ZYX")
    flags = ("-m", networks / "same", "-i", raw, "-o", tmp_path / "out", "--preview")
    _, err = run(*flags, status=1)
    assert "a_preview.png: rename one" in err


def test_what_a_killed_call_has_left_of_a_picture_is_cleared_away(run, networks, raw, tmp_path):
    (tmp_path / "out").mkdir()
    left = tmp_path / "out" / f".a_movie.partial-{platform.node()}-999999999.gif"
    left.touch()
    run("-m", networks / "same", "-i", raw, "-o", tmp_path / "out")
    assert not os.path.lexists(left)
