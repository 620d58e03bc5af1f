"""TIFF files of microscopes' programs: their axes and calibration."""

import numpy as np
from microscope_tiffs import write_lsm, write_micromanager, write_stk

from rcan.io.opening import open_volume
from rcan.io.paths import list_volumes


def test_a_stack_of_metamorph_has_its_voxel_size(tmp_path, stack):
    volume = open_volume(write_stk(tmp_path / "a.stk", stack, pixel=0.105, unit="um", z=0.25))
    assert (volume.axes, volume.voxel_size) == ("ZYX", (0.25, 0.105, 0.105))
    np.testing.assert_array_equal(volume.read()[..., 0], stack)


def test_pixels_of_an_unknown_unit_have_no_size(tmp_path, stack):
    volume = open_volume(write_stk(tmp_path / "a.stk", stack, pixel=1, unit="pixel", z=0.25))
    assert volume.voxel_size == (0.25, None, None)


def test_a_stack_of_zeiss_has_its_voxel_size_and_no_thumbnails(tmp_path, stack):
    path = write_lsm(tmp_path / "a.lsm", stack, voxel_size=(5e-7, 2e-7, 1e-7), time_step=2.5)
    volume = open_volume(path)
    np.testing.assert_allclose(volume.voxel_size, (0.5, 0.2, 0.1))
    assert (volume.axes, volume.time_step) == ("ZYX", 2.5)
    np.testing.assert_array_equal(volume.read()[..., 0], stack)


def test_channels_of_zeiss_that_are_called_colours_are_channels(tmp_path, rng):
    array = rng.integers(0, 60_000, (4, 3, 20, 22)).astype(np.uint16)
    volume = open_volume(write_lsm(tmp_path / "a.lsm", array, photometric="rgb"))
    assert volume.sizes == {"Z": 4, "C": 3, "Y": 20, "X": 22}
    np.testing.assert_array_equal(volume.read(), np.moveaxis(array, 1, -1))


def test_a_display_colour_of_zeiss_is_no_palette(tmp_path, stack):
    image = stack.astype(np.uint8)
    volume = open_volume(write_lsm(tmp_path / "a.lsm", image, photometric="palette"))
    np.testing.assert_array_equal(volume.read()[..., 0], image)


def test_a_stack_of_micromanager_has_its_calibration(tmp_path, rng):
    array = rng.integers(0, 60_000, (2, 3, 2, 20, 22)).astype(np.uint16)  # (T, Z, C, Y, X)
    summary = {"PixelSize_um": 0.1, "z-step_um": 0.5, "Interval_ms": 1500, "ChNames": ["DNA", "actin"]}
    volume = open_volume(write_micromanager(tmp_path / "a_MMStack.tif", array, **summary))
    assert (volume.voxel_size, volume.channel_names, volume.time_step) == ((0.5, 0.1, 0.1), ("DNA", "actin"), 1.5)
    assert volume.sizes == {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 22}
    np.testing.assert_array_equal(volume.read({"T": 1}), np.moveaxis(array[1], 1, -1))


def test_a_stack_of_micromanager_without_calibration_has_none(tmp_path, rng):
    array = rng.integers(0, 60_000, (1, 3, 1, 20, 22)).astype(np.uint16)
    volume = open_volume(write_micromanager(tmp_path / "a_MMStack.tif", array, PixelSize_um=0))
    assert (volume.voxel_size, volume.channel_names, volume.time_step) == ((None, None, None), None, None)


def test_a_folder_lists_them(tmp_path, stack):
    write_stk(tmp_path / "a.stk", stack, pixel=1, unit="um", z=1)
    write_lsm(tmp_path / "b.LSM", stack, voxel_size=(1e-6, 1e-6, 1e-6), time_step=1)
    assert [path.name for path in list_volumes(tmp_path)] == ["a.stk", "b.LSM"]
