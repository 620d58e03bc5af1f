import numpy as np
import pytest
import tifffile

from rcan.io.opening import open_volume


def write(path, array, axes=None, **options):
    metadata = {"axes": axes} if axes else options.pop("metadata", {})
    tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata, **options)
    return path


# Axes


@pytest.mark.parametrize(
    ("name", "axes", "frames", "shape"),
    [
        ("volumes/nuclei.tif", "ZYX", 1, (60, 256, 256, 1)),
        ("volumes/vesicles_lattice.tif", "ZYX", 1, (88, 320, 256, 1)),
        ("volumes/cell_uint8.tif", "ZYX", 1, (33, 152, 172, 1)),
        ("volumes/spots_zcyx.tif", "ZCYX", 1, (17, 88, 89, 2)),
        ("time_lapse/hyperstack_tzyx.tif", "TZYX", 21, (16, 30, 31, 1)),
        ("time_lapse/volume--C00--T00000.tif", "ZYX", 1, (19, 172, 172, 1)),
        ("odd_tiffs/ij_hyperstacks_ilastik/5d.tif", "TZCYX", 5, (5, 16, 16, 3)),
        ("odd_tiffs/ome/multi-channel-z-series.ome.tif", "CZYX", 1, (5, 167, 439, 3)),
    ],
)
def test_axes_come_from_the_metadata(data_dir, name, axes, frames, shape):
    volume = open_volume(data_dir / name)
    assert (volume.axes, len(volume.frames), volume.shape) == (axes, frames, shape)


def test_axes_named_by_the_user_override_the_metadata(data_dir):
    path = data_dir / "volumes" / "two_channels_no_axes.tif"
    volume = open_volume(path, axes="ZCYX")
    assert volume.sizes == {"Z": 75, "C": 2, "Y": 75, "X": 75}
    np.testing.assert_array_equal(volume.read(), np.moveaxis(tifffile.imread(path), 1, -1))


def test_four_nameless_axes_with_planes_first_are_refused_with_a_way_out(data_dir):
    with pytest.raises(ValueError, match=r"two_channels_no_axes.*\(75, 2, 75, 75\).*such as ZCYX.*raw_data_format"):
        open_volume(data_dir / "volumes" / "two_channels_no_axes.tif")


def test_four_nameless_axes_with_channels_first_are_czyx_with_a_warning(tmp_path, rng):
    array = rng.random((2, 5, 8, 9), dtype=np.float32)
    path = write(tmp_path / "a.tif", array)
    with pytest.warns(UserWarning, match="CZYX is assumed"):
        volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(), np.moveaxis(array, 0, -1))


@pytest.mark.parametrize(
    ("shape", "stored", "axes", "sizes"),
    [
        ((8, 9), None, "ZYX", {"Z": 1, "Y": 8, "X": 9}),
        ((8, 9), None, "TZYXC", {"T": 1, "Z": 1, "Y": 8, "X": 9, "C": 1}),
        ((4, 8, 9), None, "ZYXC", {"Z": 4, "Y": 8, "X": 9, "C": 1}),
        ((4, 8, 9), None, "TCYX", {"T": 1, "C": 4, "Y": 8, "X": 9}),
        ((4, 8, 9), "ZYX", "CZYX", {"C": 1, "Z": 4, "Y": 8, "X": 9}),
        ((4, 8, 9), "ZYX", "TYX", {"T": 4, "Y": 8, "X": 9}),
        ((1, 4, 8, 9), None, "ZCYX", {"Z": 1, "C": 4, "Y": 8, "X": 9}),
        ((4, 8, 9, 3), None, "ZYXC", {"Z": 4, "Y": 8, "X": 9, "C": 3}),
        ((4, 8, 9), None, "yxz", {"Y": 4, "X": 8, "Z": 9}),
    ],
)
def test_axes_of_length_one_may_be_named_though_the_file_lacks_them(tmp_path, shape, stored, axes, sizes):
    path = write(tmp_path / "a.tif", np.zeros(shape, np.float32), stored)
    assert open_volume(path, axes=axes).sizes == sizes


@pytest.mark.parametrize("axes", ["ZQYX", "ZZYX", "ZX", "CYX", "YX", ""])
def test_axes_that_do_not_fit_are_refused(tmp_path, axes):
    path = write(tmp_path / "a.tif", np.zeros((3, 4, 8, 9), np.float32))
    with pytest.raises(ValueError, match=rf"a\.tif cannot have the axes '{axes}'.*"):
        open_volume(path, axes=axes)


def test_five_nameless_axes_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((2, 3, 4, 8, 9), np.float32))
    with pytest.raises(ValueError, match=r"a\.tif does not name the axes of its shape \(2, 3, 4, 8, 9\)"):
        open_volume(path)


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_grey_samples_of_a_pixel_are_channels(tmp_path, rng, planarconfig):
    samples = rng.integers(0, 255, (8, 9, 2), dtype=np.uint8)
    stored = samples if planarconfig == "contig" else np.moveaxis(samples, -1, 0)
    path = write(tmp_path / "a.tif", stored, planarconfig=planarconfig, compression="zlib")
    np.testing.assert_array_equal(open_volume(path).read()[0], samples)


# Calibration


def test_the_voxel_size_of_imagej_is_known(data_dir):
    volume = open_volume(data_dir / "volumes" / "cell_uint8.tif")
    np.testing.assert_allclose(volume.voxel_size, (0.646, 0.328, 0.328), rtol=1e-3)  # data/README.md
    volume = open_volume(data_dir / "volumes" / "spots_zcyx.tif")
    np.testing.assert_allclose(volume.voxel_size, (0.4, 0.094, 0.094), rtol=2e-3)


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("micron", 1),
        ("um", 1),
        ("µm", 1),
        ("\\u00B5m", 1),
        ("nm", 1e-3),
        ("mm", 1e3),
        ("cm", 1e4),
        ("inch", 25400),
    ],
)
def test_units_of_imagej_become_um(tmp_path, stack, unit, um):
    path = tmp_path / "a.tif"
    description = f"ImageJ=1.54f\nimages=6\nslices=6\nunit={unit}\nspacing=2.0\n".encode("latin-1")
    tifffile.imwrite(
        path, stack, photometric="minisblack", description=description, resolution=(2, 4), metadata=None,
        resolutionunit="none",
    )  # fmt: skip
    np.testing.assert_allclose(open_volume(path).voxel_size, (2 * um, um / 4, um / 2), rtol=1e-6)


@pytest.mark.parametrize("unit", ["pixel", "none", "inch of rain", ""])
def test_a_voxel_size_without_a_unit_of_length_is_unknown(tmp_path, stack, unit):
    path = tmp_path / "a.tif"
    metadata = {"axes": "ZYX", "unit": unit, "spacing": 2.0}
    tifffile.imwrite(path, stack, imagej=True, metadata=metadata, resolution=(2, 4))
    assert open_volume(path).voxel_size == (None, None, None)


def test_axes_of_imagej_may_have_units_of_their_own(data_dir):
    path = data_dir / "odd_tiffs" / "ij_hyperstacks_ilastik" / "3d_c.tif"  # 13 cm, 11 nm, 2 µm
    np.testing.assert_allclose(open_volume(path).voxel_size, (130_000, 0.011, 2), rtol=1e-4)


def test_units_of_ome_become_um_and_seconds(tmp_path, stack):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 65.0, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": 0.1, "PhysicalSizeYUnit": "mm", "PhysicalSizeZ": 0.5}
    metadata |= {"TimeIncrement": 20.0, "TimeIncrementUnit": "ms", "Channel": {"Name": ["GFP"]}}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, ome=True, metadata=metadata)
    volume = open_volume(path)
    np.testing.assert_allclose(volume.voxel_size, (0.5, 100, 0.065))
    assert volume.time_step == pytest.approx(0.02)
    assert volume.channel_names == ("GFP",)


def test_labels_of_planes_are_no_channel_names(tmp_path, stack):
    path = tmp_path / "a.tif"
    labels = [f"plane {i}" for i in range(6)]
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX", "Labels": labels})
    assert open_volume(path).channel_names is None
