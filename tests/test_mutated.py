"""Damaged and hostile images: each is read or refused by name, soon and in little memory."""

import importlib.util
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from rcan.io.opening import open_volume

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read as Linux shows it")
@pytest.mark.parametrize(("kind", "number"), [("tiff", 300), ("zarr", 150), ("run", 12)])
def test_damaged_images_are_read_or_refused_by_name(kind, number):
    spec = importlib.util.spec_from_file_location("mutated", ROOT / "benchmarks/mutated.py")
    mutated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutated)
    counts, wrong = mutated.run(kind, number, seed=1)
    assert not wrong
    assert {outcome for _, outcome in counts} == {"read", "refused"}


@pytest.mark.parametrize("name", ["hang_huge_shape.ome.zarr", "hang_huge_shape_v3.ome.zarr", "zero_size.ome.zarr"])
@pytest.mark.filterwarnings("ignore:.*holds 2 images")
def test_a_size_of_which_hardly_anything_is_stored_is_refused(data_dir, name):
    with pytest.raises(
        ValueError, match=rf"{name} is damaged: by its metadata it is \(\d+.* hardly anything is stored"
    ):
        open_volume(data_dir / "hostile" / name)


def test_a_chunk_without_end_is_refused(data_dir, tmp_path):
    path = shutil.copytree(data_dir / "hostile/hang_delta_filter.zarr", tmp_path / "a.zarr")
    (path / "0.0.0").unlink()
    (path / "0.0.0").symlink_to("/dev/zero")
    volume = open_volume(path)
    with pytest.raises(ValueError, match=r"a\.zarr is damaged: its chunk 0\.0\.0 is not a file"):
        volume.read()


def test_a_chunk_far_larger_than_its_pixels_is_refused(data_dir, tmp_path):
    path = shutil.copytree(data_dir / "hostile/hang_delta_filter.zarr", tmp_path / "a.zarr")
    (path / "0.0.0").chmod(0o644)
    (path / "0.0.0").write_bytes(bytes(2 * 10**6))
    volume = open_volume(path)
    with pytest.raises(ValueError, match=r"a\.zarr is damaged: its chunk 0\.0\.0 is of 2 MB"):
        volume.read()


def test_more_frames_than_anyone_has_are_refused(data_dir, tmp_path):
    path = shutil.copytree(data_dir / "hostile/hang_delta_filter.zarr", tmp_path / "a.zarr")
    metadata = json.loads((path / ".zarray").read_text())
    (path / ".zarray").chmod(0o644)
    (path / ".zarray").write_text(json.dumps({**metadata, "shape": [1_000_001, 2, 2], "chunks": [1_000_001, 2, 2]}))
    with pytest.raises(ValueError, match=r"a\.zarr has 1,000,001 frames \(Z 1,000,001\), at most 1,000,000 are read"):
        open_volume(path, axes="ZYX", block_axes="YX")


def turn_in_circles(*_):
    while True:
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such clock")
def test_opening_ends_after_a_time(tmp_path, stack, write_tiff, monkeypatch):
    path = write_tiff(tmp_path / "a.tif", stack, "ZYX")
    monkeypatch.setattr("rcan.io.time_limit._SECONDS", 0.2)
    monkeypatch.setattr("rcan.io.tiff.check_page_list", turn_in_circles)
    with pytest.raises(ValueError, match=r"a\.tif has not been opened after \d seconds: it is damaged, or its disk"):
        open_volume(path)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such clock")
def test_a_clock_of_the_caller_goes_on(tmp_path, stack, write_tiff):
    path = write_tiff(tmp_path / "a.tif", stack, "ZYX")
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        open_volume(path)
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
