import itertools
import math

import keras
import numpy as np
import pytest
import tifffile
from engines import Engine, make_restorer

from rcan.__main__ import main
from rcan.io.array import ArraySink, ArraySource
from rcan.io.opening import open_volume
from rcan.io.volume import Volume
from rcan.model import build_rcan


@pytest.fixture
def stack(tmp_path, write_tiff, rng):
    """A file and its grey values (Z, Y, X)."""
    image = rng.gamma(2, 500, (20, 60, 64)).astype(np.uint16)
    return write_tiff(tmp_path / "raw" / "cell.tif", image, "ZYX"), image


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


@pytest.mark.parametrize("failure", [MemoryError, ResourceExhaustedError])
@pytest.mark.parametrize("given", [{}, {"tile_shape": (20, 64, 64)}, {"max_voxels": 70_000}])
def test_tile_that_does_not_fit_memory_is_halved(stack, tmp_path, failure, given):
    path, image = stack
    sizes = []

    def compute(tile):
        sizes.append(tile.size)
        if tile.size > 20_000:
            raise failure
        return tile

    with pytest.warns(UserWarning, match="memory is too small"):
        report = make_restorer(Engine(compute), **given).restore(path, tmp_path / "out.tif")
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), image, atol=0.1)
    assert math.prod(report.tile_shape) == sizes[-1] <= 20_000
    assert 1 <= len({size for size in sizes if size > 20_000}) <= 2  # at most 76800 voxels, and half of them


def test_next_file_begins_with_the_tile_that_fitted(stack, tmp_path):
    path, _ = stack
    sizes = []

    def compute(tile):
        sizes.append(tile.size)
        if tile.size > 20_000:
            raise MemoryError
        return tile

    restorer = make_restorer(Engine(compute))
    with pytest.warns(UserWarning, match="memory is too small"):
        restorer.restore(path, tmp_path / "one.tif")
    sizes.clear()
    restorer.restore(path, tmp_path / "other.tif")
    assert max(sizes) <= 20_000


@pytest.mark.parametrize("overlap", [None, (8, 8, 8)])
def test_no_tile_is_tried_twice(stack, tmp_path, overlap):
    path, _ = stack
    refused = set()

    def compute(tile):
        if tile.size > 7_000:
            refused.add(tile.shape)
            raise MemoryError
        return tile

    with pytest.warns(UserWarning, match="memory is too small") as warned:
        make_restorer(Engine(compute), overlap=overlap).restore(path, tmp_path / "out.tif")
    assert len(refused) == sum("memory is too small" in str(one.message) for one in warned)


def test_smaller_tiles_are_not_tried_where_they_do_not_help(stack, tmp_path, monkeypatch):
    """Whole frames are scored and stretched; if memory does not hold them, no tile is to blame."""
    path, _ = stack
    tries = []

    def fail(*images, **options):
        tries.append(images)
        raise MemoryError("a frame is too large")

    monkeypatch.setattr("rcan.restoration.file.examine", fail)
    with pytest.raises(MemoryError, match="a frame is too large"):
        make_restorer(Engine(np.copy), stretch=True).restore(path, tmp_path / "out.tif")
    assert len(tries) == 1


@pytest.mark.filterwarnings("ignore:memory is too small")
def test_memory_that_holds_no_tile_at_all_is_an_error_and_no_file(stack, tmp_path):
    path, _ = stack

    def compute(tile):
        raise MemoryError

    with pytest.raises(MemoryError, match="memory is too small for a tile of"):
        make_restorer(Engine(compute)).restore(path, tmp_path / "out.tif")
    assert [file.name for file in tmp_path.iterdir()] == ["raw"]


def test_visible_seams_are_warned_of(stack, tmp_path):
    path, _ = stack
    numbers = itertools.count()
    engine = Engine(lambda tile: np.full_like(tile, 5.0 * (next(numbers) % 2)) + 0.1 * tile)
    restorer = make_restorer(engine, tile_shape=(20, 30, 32), overlap=(4, 4, 4))
    with pytest.warns(UserWarning, match=r"out\.tif: intensities step .* across the borders of tiles"):
        report = restorer.restore(path, tmp_path / "out.tif")
    assert report.seams > 1.25


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_a_restored_image_gets_its_name_when_its_caller_is_done_with_it(stack, tmp_path, name):
    path, image = stack
    output = tmp_path / "out" / name
    output.parent.mkdir()
    file_format = "zarr" if name == "out.zarr" else "imagej"
    with make_restorer(Engine(np.copy)).open(path) as task:
        with task.restore(output, file_format=file_format) as report:
            (present_path,) = report.present_paths.values()
            assert [*output.parent.iterdir()] == [present_path]
        assert [*output.parent.iterdir()] == [output]
    with open_volume(output) as volume:
        np.testing.assert_allclose(volume.read()[..., 0], image, atol=0.1)


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_nothing_is_left_of_an_image_that_its_caller_refuses(stack, tmp_path, name):
    path, _ = stack
    file_format = "zarr" if name == "out.zarr" else "imagej"
    with (
        make_restorer(Engine(np.copy)).open(path) as task,
        pytest.raises(ValueError, match="refused"),
        task.restore(tmp_path / name, file_format=file_format),
    ):
        raise ValueError("refused")
    assert [file.name for file in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(("axes", "shape"), [("ZYX", (6, 30, 32)), ("TZCYX", (2, 5, 3, 20, 24)), ("CYX", (2, 40, 30))])
def test_an_image_in_memory_is_restored_as_one_in_a_file(tmp_path, write_tiff, rng, axes, shape):
    image = rng.gamma(2, 500, shape).astype(np.uint16)
    ndim = 3 if "Z" in axes else 2
    restorer = make_restorer(Engine(lambda tile: tile**2, factors=(1,) * ndim), tile_shape=(16,) * ndim)
    path = write_tiff(tmp_path / "raw.tif", image, axes)
    restorer.restore(path, tmp_path / "out.tif")
    with (
        restorer.open(volume_of_stored(image, axes)) as task,
        task.restore("nowhere", create=make_array) as report,
    ):
        (sink,) = report.files
    stored = axes.replace("C", "") + "C" * ("C" in axes)  # the order of `array`
    restored = np.transpose(sink.array, [stored.index(axis) for axis in axes])
    with open_volume(tmp_path / "out.tif") as volume:
        stored = volume.source.read(tuple(slice(0, size) for size in volume.source.shape))
        back = [volume.axes.index(axis) for axis in axes]
    np.testing.assert_array_equal(restored, stored.transpose(back))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.tif", "raw.tif"]


def make_array(path, *, axes, sizes, dtype, **metadata):
    """An image in memory in place of a file."""
    return ArraySink(path, axes, sizes, dtype)


def volume_of_stored(image, axes):
    """An array with any axes as a `Volume`."""
    return Volume(ArraySource(image, axes, name="cell", voxel_size=(None, None, None)), axes, "ZYXC")


def test_an_array_that_the_memory_does_not_hold_is_refused_with_both_sizes():
    sizes = {"Z": 10**5, "Y": 10**5, "X": 10**5}
    with pytest.raises(ValueError, match=r"cell would take 4e\+06 GB of memory, .* are free: write it to a file"):
        ArraySink("cell", "ZYX", sizes, np.float32)


# Frames without a specimen


@pytest.fixture
def dark_course(tmp_path, write_tiff, noisy_pair):
    """Three time points, the second of which is dark, and the same without it."""
    bright, _ = noisy_pair((3, 8, 24, 28), 0)
    bright[1] = 7
    paths = [write_tiff(tmp_path / name, image, "TZYX") for name, image in (("a.tif", bright), ("b.tif", bright[::2]))]
    return bright, *paths


def restored_by_frames(model, source, target, *flags):
    """Restore a file with a range for each frame; what was written."""
    command = ["apply", "-m", str(model), "-i", str(source), "-o", str(target), "--normalize", "frame", *flags]
    assert main(command) == 0
    return tifffile.imread(target)


def test_a_dark_time_point_is_written_as_it_is_and_told(dark_course, tiny_models, tmp_path, capsys):
    raw, with_dark, without = dark_course
    found = restored_by_frames(tiny_models / "3d.keras", with_dark, tmp_path / "out.tif")
    assert "1 of 3 frames have one grey value only: they are written as they are" in capsys.readouterr().err
    np.testing.assert_array_equal(found[1], raw[1])
    others = restored_by_frames(tiny_models / "3d.keras", without, tmp_path / "others.tif")
    np.testing.assert_array_equal(found[::2], others)


def test_an_empty_channel_is_written_as_it_is(tmp_path, tiny_models, noisy_pair, write_tiff, capsys):
    raw = noisy_pair((8, 2, 24, 28), 0)[0]
    raw[:, 1] = 7
    source = write_tiff(tmp_path / "a.tif", raw, "ZCYX")
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), "-i", str(source), "-o", str(tmp_path / "out.tif")]) == 0
    assert "1 of 2 frames have one grey value only" in capsys.readouterr().err
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(found[:, 1], 7)
    assert np.ptp(found[:, 0]) > 0


def test_an_image_that_is_dark_everywhere_is_refused(tmp_path, tiny_models, write_tiff, capsys):
    source = write_tiff(tmp_path / "dark.tif", np.full((3, 8, 24, 28), 7, np.uint16), "TZYX")
    command = ["apply", "-m", str(tiny_models / "3d.keras"), "-i", str(source), "-o", str(tmp_path / "out.tif")]
    for normalize in ("series", "frame"):
        assert main([*command, "--normalize", normalize]) == 1
        assert "dark.tif: percentiles 2 and 99.9 of channel 0 are both 7" in capsys.readouterr().err
    assert not (tmp_path / "out.tif").exists()


def test_a_network_that_enlarges_enlarges_a_dark_frame(tmp_path, dark_course):
    size = {"num_channels": 4, "num_residual_groups": 1, "num_residual_blocks": 1}
    build_rcan(**size, upscaling=(1, 2, 2)).save(tmp_path / "large.keras")
    found = restored_by_frames(tmp_path / "large.keras", dark_course[1], tmp_path / "out.tif", "-b", "16")
    assert found.shape == (3, 8, 48, 56)
    np.testing.assert_array_equal(found[1], 7)


# Missing voxels


@pytest.fixture
def stitched(tmp_path, noisy_pair):
    """A float image with a corner outside of the field of view, which is NaN; the file, and the grey values."""
    raw = noisy_pair((8, 24, 28), 0)[0].astype(np.float32)
    raw[:, :8, :10] = np.nan
    raw[3, 20, 20] = np.nan
    tifffile.imwrite(tmp_path / "stitched.tif", raw, imagej=True, metadata={"axes": "ZYX"})
    return tmp_path / "stitched.tif", raw


def test_missing_voxels_stay_missing_and_the_others_are_restored(stitched, tiny_models, tmp_path, capsys):
    """The network sees background in their place; background and signal are those of what is there."""
    path, raw = stitched
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), "-i", str(path), "-o", str(tmp_path / "out.tif")]) == 0
    share = 100 * np.isnan(raw).mean()
    assert f"{share:.2g} % of the voxels are missing in raw (NaN)" in capsys.readouterr().err
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(raw))

    low, high = np.percentile(raw[~np.isnan(raw)], [2, 99.9])
    seen = np.where(np.isnan(raw), 0, (raw - low) / (high - low))[..., np.newaxis]
    model = keras.saving.load_model(tiny_models / "3d.keras")
    expected = model.predict_on_batch(seen[np.newaxis])[0, ..., 0] * (high - low) + low
    np.testing.assert_allclose(found[~np.isnan(raw)], expected[~np.isnan(raw)], atol=1e-3 * (high - low))


def test_missing_voxels_are_0_in_integers(stitched, tiny_models, tmp_path, capsys):
    path, raw = stitched
    flags = ["-i", str(path), "-o", str(tmp_path / "out.tif"), "-b", "16"]
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), *flags]) == 0
    assert "they are missing here, too (0)" in capsys.readouterr().err
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[np.isnan(raw)], 0)
    assert found[~np.isnan(raw)].min() > 0


def test_missing_voxels_are_left_out_of_scores(stitched, tiny_models, tmp_path):
    path, _ = stitched
    pair = ["-i", str(path), "-g", str(path.with_name("gt.tif")), "-o", str(tmp_path / "out.tif")]
    tifffile.imwrite(path.with_name("gt.tif"), np.nan_to_num(tifffile.imread(path), nan=300.0), imagej=True)
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), *pair, "--gt_axes", "ZYX", "--preview"]) == 0
    assert np.isfinite(tifffile.imread(tmp_path / "out.tif")).any()


def test_an_infinite_value_is_refused_beside_missing_ones(stitched, tiny_models, tmp_path, capsys):
    path, raw = stitched
    raw[5, 5, 20] = np.inf
    tifffile.imwrite(path, raw, imagej=True, metadata={"axes": "ZYX"})
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), "-i", str(path), "-o", str(tmp_path / "out.tif")]) == 1
    assert "infinite values" in capsys.readouterr().err
