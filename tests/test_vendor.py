import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from rcan.io.cache import cache, limit_cache
from rcan.io.opening import open_volume
from rcan.io.paths import list_volumes

pytest.importorskip("bioio_czi", reason='needs python -m pip install "rcan-microscopy[bioio]"')
pyczi = pytest.importorskip("pylibCZIrw.czi", reason='needs python -m pip install "rcan-microscopy[bioio]"')

PADDING = "x" * 200  # of the title, room for the scenes


def write_czi(path, arrays, *, scenes=False, channel_names=None, **metadata):
    """Write (S, T, C, Z, Y, X) with Zeiss's library. It does not list the scenes: they take the title's room."""
    with pyczi.create_czi(str(path), exist_ok=True) as document:
        for s, array in enumerate(arrays):
            place = {"scene": s, "location": (1000 * s, 0)} if scenes else {}
            for t, c, z in np.ndindex(array.shape[:3]):
                document.write(array[t, c, z, ..., np.newaxis], plane={"T": t, "C": c, "Z": z}, **place)
        document.write_metadata(PADDING, channel_names=channel_names, **metadata)
    if scenes:
        names = "".join(f'<Scene Index="{s}" Name="S{s}"/>' for s in range(len(arrays)))
        listed = f"<Dimensions><S><Scenes>{names}</Scenes></S>".encode()
        content = path.read_bytes()
        before, after = content.split(b"<Dimensions>", 1)
        extra = len(listed) - len("<Dimensions>")
        path.write_bytes(before + listed + after.replace(PADDING.encode(), PADDING[extra:].encode(), 1))
    return path


@pytest.fixture
def counts(rng):
    """(S, T, C, Z, Y, X)."""
    return rng.integers(0, 60_000, (2, 3, 2, 4, 10, 12)).astype(np.uint16)


def read_frames(volume):
    return np.stack([volume.read(frame, dtype=None) for frame in volume.frames])


# Axes


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 2, 4), "TCZYX"), ((1, 2, 4), "CZYX"), ((1, 1, 4), "ZYX"), ((3, 1, 1), "TYX"), ((1, 1, 1), "YX")],
)
def test_axes_of_length_one_are_left_out(tmp_path, counts, shape, axes):
    t, c, z = shape
    array = counts[:1, :t, :c, :z]
    volume = open_volume(write_czi(tmp_path / "a.czi", array))
    assert (volume.axes, volume.dtype) == (axes, np.uint16)
    expected = np.moveaxis(array[0], 1, -1)  # (T, Z, Y, X, C)
    np.testing.assert_array_equal(read_frames(volume), expected)


def test_scenes_of_equal_shape_are_positions(tmp_path, counts):
    volume = open_volume(write_czi(tmp_path / "a.czi", counts, scenes=True))
    assert (volume.axes, volume.sizes["P"], len(volume.frames)) == ("PTCZYX", 2, 6)
    expected = np.moveaxis(counts, 2, -1).reshape(6, 4, 10, 12, 2)
    np.testing.assert_array_equal(read_frames(volume), expected)


def test_axes_of_one_image_choose_the_first_scene_with_a_warning(tmp_path, counts):
    path = write_czi(tmp_path / "a.czi", counts[:, :1, :1], scenes=True)
    with pytest.warns(UserWarning, match=r"a\.czi holds 2 images: only the first is read\. .*with P"):
        volume = open_volume(path, axes="ZYX")
    np.testing.assert_array_equal(volume.read()[..., 0], counts[0, 0, 0])


def test_axes_named_by_the_user_override_the_metadata(tmp_path, counts):
    path = write_czi(tmp_path / "a.czi", counts[:1, :1, :1])
    volume = open_volume(path, axes="TYX")
    assert (volume.sizes, len(volume.frames)) == ({"T": 4, "Y": 10, "X": 12}, 4)
    np.testing.assert_array_equal(read_frames(volume)[:, 0, ..., 0], counts[0, 0, 0])


# Regions


def test_any_region_is_the_same_part_of_the_whole(tmp_path, counts):
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1]))
    region = (slice(1, 3), slice(2, 9), slice(5, 6))
    expected = np.moveaxis(counts[0, 2], 0, -1)[region]
    np.testing.assert_array_equal(volume.read({"T": 2}, region, dtype=None), expected)
    planes = volume.with_block_axes("YX")
    np.testing.assert_array_equal(planes.read({"T": 1, "Z": 3, "C": 1})[..., 0], counts[0, 1, 1, 3])


def test_many_planes_are_read_in_batches(tmp_path, counts, monkeypatch):
    monkeypatch.setattr("rcan.io.vendor.BATCH_BYTES", 3 * 10 * 12 * 2)
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1, :1, :1]))
    np.testing.assert_array_equal(volume.read()[..., 0], counts[0, 0, 0])


def test_planes_are_read_once(tmp_path, counts, monkeypatch):
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1]))
    volume.read({"T": 1}, (slice(0, 3), slice(0, 5), slice(None)))
    monkeypatch.setattr(type(volume._source), "_decode", lambda *_: pytest.fail("a plane is read again"))
    region = (slice(1, 3), slice(4, 9), slice(None))
    np.testing.assert_array_equal(volume.read({"T": 1}, region)[..., 0], counts[0, 1, 0][region])


def test_closing_frees_what_was_decoded(tmp_path, counts):
    limit_cache(0)
    limit_cache(None)
    with open_volume(write_czi(tmp_path / "a.czi", counts[:1])) as volume:
        volume.read()
        assert cache.num_bytes == 2 * 4 * 10 * 12 * 2
    assert cache.num_bytes == 0


def test_threads_read_at_once(tmp_path, counts):
    volume = open_volume(write_czi(tmp_path / "a.czi", counts, scenes=True))
    expected = np.moveaxis(counts, 2, -1).reshape(6, 4, 10, 12, 2)

    def read(i):
        if i % 10 == 0:
            volume.close()
        return np.array_equal(volume.read(volume.frames[i % 6]), expected[i % 6])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(60)))


def test_a_plugin_that_reads_no_single_planes_is_read_through_dask(tmp_path, counts, monkeypatch):
    from bioio_base.reader import Reader
    from bioio_czi import Reader as CziReader

    monkeypatch.setattr(CziReader, "_read_indexed", Reader._read_indexed)
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1]))
    region = (slice(1, 3), slice(2, 9), slice(5, 6))
    expected = np.moveaxis(counts[0, 2], 0, -1)[region]
    np.testing.assert_array_equal(volume.read({"T": 2}, region, dtype=None), expected)


# Calibration


def test_voxel_size_and_channel_names_are_known(tmp_path, counts):
    names = {0: "DNA", 1: "actin"}
    scale = {"scale_x": 0.1e-6, "scale_y": 0.2e-6, "scale_z": 0.5e-6}
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1], channel_names=names, **scale))
    np.testing.assert_allclose(volume.voxel_size, (0.5, 0.2, 0.1))
    assert volume.channel_names == ("DNA", "actin")


def test_an_unknown_calibration_stays_unknown(tmp_path, counts):
    volume = open_volume(write_czi(tmp_path / "a.czi", counts[:1]))
    assert (volume.voxel_size, volume.channel_names, volume.time_step) == ((None, None, None), None, None)


def test_the_time_step_is_in_seconds(tmp_path, counts, monkeypatch):
    from bioio_czi import Reader

    monkeypatch.setattr(Reader, "time_interval", timedelta(milliseconds=2500))
    assert open_volume(write_czi(tmp_path / "a.czi", counts[:1])).time_step == 2.5


# What cannot be read


def test_a_colour_photograph_is_refused(tmp_path, rng):
    path = tmp_path / "a.czi"
    with pyczi.create_czi(str(path)) as document:
        document.write(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"a\.czi is a colour photograph \(RGB\).*along a C axis"):
        open_volume(path)


def test_dimensions_beyond_ours_are_refused(tmp_path, counts, monkeypatch):
    from bioio_czi import Reader

    dims = SimpleNamespace(order="HZYX", shape=(5, 4, 10, 12))
    monkeypatch.setattr(Reader, "dims", dims)
    with pytest.raises(ValueError, match=r"a\.czi has dimensions other than T, C, Z, Y and X \(H: 5;"):
        open_volume(write_czi(tmp_path / "a.czi", counts[:1]))


@pytest.mark.parametrize("content", [b"", b"hello, world, no CZI", b"ZISRAWFILE"])
def test_what_is_no_czi_is_refused(tmp_path, content, capfd):
    path = tmp_path / "a.czi"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.czi cannot be read as a \.czi image"):
        open_volume(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_an_error(tmp_path, counts, share):
    path = write_czi(tmp_path / "a.czi", counts)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} cannot be read"):
        read_frames(open_volume(path))


def test_a_file_that_changed_since_it_was_opened_is_refused(tmp_path, counts):
    path = write_czi(tmp_path / "a.czi", counts[:1])
    volume = open_volume(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"a\.czi has changed since it was opened"):
        volume.read()


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.czi"):
        open_volume(tmp_path / "missing.czi")


def test_a_missing_library_is_named(tmp_path, counts, monkeypatch):
    path = write_czi(tmp_path / "a.czi", counts[:1])
    monkeypatch.setitem(sys.modules, "bioio.plugins", None)
    with pytest.raises(ImportError, match=r'a\.czi needs bioio .*python -m pip install "rcan-microscopy\[bioio\]"'):
        open_volume(path)


def test_a_missing_plugin_is_named(tmp_path):
    path = tmp_path / "a.oir"
    path.touch()
    with pytest.raises(ImportError, match=r'plugin for \.oir files: python -m pip install "rcan-microscopy\[bioio\]"'):
        open_volume(path)


# Sets


def test_files_of_a_microscope_are_listed_and_are_parts_of_one_image(tmp_path, counts):
    for t in range(2):
        write_czi(tmp_path / f"cell_t{t}.czi", counts[:1, t : t + 1])
    assert [path.name for path in list_volumes(tmp_path)] == ["cell_t0.czi", "cell_t1.czi"]
    volume = open_volume(tmp_path)
    assert (volume.axes, volume.sizes["T"]) == ("TCZYX", 2)
    np.testing.assert_array_equal(read_frames(volume), np.moveaxis(counts[0, :2], 1, -1))
