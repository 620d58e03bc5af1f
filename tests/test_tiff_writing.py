import errno
import os
import shutil

import numpy as np
import psutil
import pytest
import tifffile

from rcan.atomic_io import partial_path
from rcan.io.opening import create_volume, open_volume


@pytest.mark.parametrize("file_format", ["imagej", "ome"])
@pytest.mark.parametrize("axes", ["TZCYX", "ZYX", "ZYXC", "YX", "CYX", "TYX"])
def test_what_was_written_is_read_again(tmp_path, rng, file_format, axes):
    sizes = {axis: size for axis, size in {"T": 3, "Z": 4, "C": 2, "Y": 8, "X": 9}.items() if axis in axes}
    expected = rng.random([sizes.get(axis, 1) for axis in "TZYXC"], dtype=np.float32)
    names = ["DNA", "actin"][: sizes.get("C", 1)]
    path = tmp_path / "out.tif"
    with create_volume(
        path, axes=axes, sizes=sizes, dtype=np.float32, voxel_size=(0.3, 0.104, 0.1041), channel_names=names,
        time_step=2.5, file_format=file_format,
    ) as destination:  # fmt: skip
        for t, block in enumerate(expected):
            destination.write({"T": t}, None, block)
    volume = open_volume(path)
    assert volume.axes == "".join(axis for axis in "TZCYX" if axis in axes)
    assert volume.sizes == sizes
    np.testing.assert_array_equal(np.stack([volume.read(frame) for frame in volume.frames]), expected)
    np.testing.assert_allclose(volume.voxel_size, (0.3, 0.104, 0.1041), rtol=1e-4)
    assert volume.channel_names == tuple(names)
    assert volume.time_step == 2.5


@pytest.mark.parametrize("file_format", ["imagej", "ome"])
def test_an_unknown_calibration_stays_unknown(tmp_path, file_format):
    path = tmp_path / "out.tif"
    with create_volume(path, axes="ZYX", sizes={"Z": 2, "Y": 8, "X": 9}, dtype="uint8", file_format=file_format):
        pass
    volume = open_volume(path)
    assert (volume.voxel_size, volume.channel_names, volume.time_step) == ((None, None, None), None, None)


def test_blocks_go_to_their_region_channel_and_plane(tmp_path):
    path = tmp_path / "out.tif"
    expected = np.zeros((2, 4, 3, 8, 9), np.uint16)  # TZCYX
    with create_volume(
        path, axes="TZCYX", sizes=dict(zip("TZCYX", expected.shape, strict=True)), dtype="uint16"
    ) as out:
        out.write({"T": 1}, (slice(1, 3), slice(0, 8), slice(2, 5)), np.full((2, 8, 3, 3), 7.0))
        out.write({"T": 0, "C": 1}, None, np.full((4, 8, 9, 2), 5.0))
        out.write({"T": 1, "Z": 3, "C": 2}, (slice(0, 1), slice(0, 9)), np.full((1, 9, 1), 3.0))
    expected[1, 1:3, :, :, 2:5] = 7
    expected[0, :, 1:] = 5
    expected[1, 3, 2, 0] = 3
    np.testing.assert_array_equal(tifffile.imread(path), expected)


def test_integers_are_rounded_and_clipped(tmp_path):
    path = tmp_path / "out.tif"
    with create_volume(path, axes="YX", sizes={"Y": 1, "X": 5}, dtype="uint8") as destination:
        destination.write({}, None, np.array([[-3.0, 0.4, 0.6, 254.6, 1e9]], np.float32)[..., np.newaxis])
    np.testing.assert_array_equal(tifffile.imread(path), [[0, 0, 1, 255, 255]])


def test_a_block_that_does_not_fit_is_refused(tmp_path):
    sizes = {"Y": 8, "X": 9}
    with (
        pytest.raises(ValueError, match=r"a block of \(8, 1, 1\) does not fit the region \(8, 9, 1\)"),
        create_volume(tmp_path / "out.tif", axes="YX", sizes=sizes, dtype="uint8") as destination,
    ):
        destination.write({}, None, np.zeros((8, 1, 1)))


def test_an_interrupted_file_leaves_nothing_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "out.tif"
    path.write_text("old")

    def interrupt():
        with create_volume(path, axes="YX", sizes={"Y": 8, "X": 9}, dtype="uint8") as destination:
            destination.write({}, None, np.zeros((8, 9, 1)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.tif"]
    assert path.read_text() == "old"


def test_the_name_appears_only_when_the_file_is_complete(tmp_path):
    path = tmp_path / "out.tif"
    with create_volume(path, axes="YX", sizes={"Y": 8, "X": 9}, dtype="uint8"):
        assert [entry.name for entry in tmp_path.iterdir()] == [partial_path(tmp_path / "out.tif").name]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.tif"]


def test_imagej_finds_its_metadata(tmp_path):
    path = tmp_path / "out.tif"
    destination = create_volume(
        path, axes="TZCYX", sizes={"T": 2, "Z": 3, "C": 2, "Y": 8, "X": 9}, dtype="float32",
        voxel_size=(0.5, 0.2, 0.1), channel_names=["DNA", "actin"], time_step=30.0,
    )  # fmt: skip
    destination.display_range = [(-1.5, 1000), (10, 20)]
    with destination:
        pass
    with tifffile.TiffFile(path) as tiff:
        metadata = tiff.imagej_metadata
        assert tiff.byteorder == ">"
        assert tiff.pages[0].tags["XResolution"].value == (10, 1)
    expected = {
        "channels": 2,
        "slices": 3,
        "frames": 2,
        "images": 12,
        "hyperstack": True,
        "mode": "composite",
    }
    expected |= {"unit": "micron", "spacing": 0.5, "finterval": 30.0, "min": -1.5, "max": 1000.0}
    expected |= {"Labels": ["DNA", "actin"] * 6, "Ranges": (-1.5, 1000.0, 10.0, 20.0)}
    assert {name: metadata[name] for name in expected} == expected


def test_ome_metadata_are_valid(tmp_path):
    ome_types = pytest.importorskip("ome_types")
    path = tmp_path / "out.ome.tif"
    with create_volume(
        path, axes="TZCYX", sizes={"T": 2, "Z": 3, "C": 2, "Y": 8, "X": 9}, dtype="uint16",
        voxel_size=(0.5, 0.2, 0.1), channel_names=["DNA", "actin"], time_step=30.0, file_format="ome",
    ):  # fmt: skip
        pass
    pixels = ome_types.from_tiff(path).images[0].pixels
    assert (pixels.size_t, pixels.size_z, pixels.size_c, pixels.size_y, pixels.size_x) == (2, 3, 2, 8, 9)
    assert (pixels.physical_size_z, pixels.physical_size_y, pixels.physical_size_x) == (0.5, 0.2, 0.1)
    assert pixels.physical_size_x_unit.value == "µm"
    assert [channel.name for channel in pixels.channels] == ["DNA", "actin"]
    assert (pixels.time_increment, pixels.time_increment_unit.value) == (30.0, "s")


def test_more_than_4_gb_become_ome(tmp_path):
    if shutil.disk_usage(tmp_path).free < 6 * 2**30:
        pytest.skip("needs 6 GB of free disk space")
    path = tmp_path / "out.tif"
    options = {"axes": "ZYX", "sizes": {"Z": 2200, "Y": 1024, "X": 1024}, "dtype": "uint16"}
    with pytest.warns(UserWarning, match=r"out\.tif would measure 4\.3 GiB, .* ImageJ.* written as OME-TIFF"):
        destination = create_volume(path, **options)
    last = (slice(2199, 2200), slice(1023, 1024), slice(1023, 1024))
    with destination:  # zeros: takes no time
        destination.write({}, last, np.full((1, 1, 1, 1), 9.0))
    with tifffile.TiffFile(path) as tiff:
        assert (tiff.is_bigtiff, tiff.is_ome, tiff.series[0].shape) == (True, True, (2200, 1024, 1024))
        np.testing.assert_array_equal(tiff.pages[2199].asarray()[1022:, 1022:], [[0, 0], [0, 9]])
    np.testing.assert_array_equal(open_volume(path).read(region=last), np.full((1, 1, 1, 1), 9))


def test_many_small_planes_are_too_large_for_imagej_as_well(tmp_path):
    sizes = {"T": 515_000, "Y": 64, "X": 128}  # 3.9 GiB, and more than 200 bytes of metadata for each plane
    with pytest.warns(UserWarning, match="written as OME-TIFF"):
        create_volume(tmp_path / "out.tif", axes="TYX", sizes=sizes, dtype="uint8")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("axes", ["PTZCYX", "PYX"])
def test_positions_are_images_of_one_ome_file(tmp_path, rng, axes, compressed):
    ome_types = pytest.importorskip("ome_types")
    path, sizes = tmp_path / "out.ome.tif", {"P": 3, "T": 2, "Z": 4, "C": 2, "Y": 8, "X": 9}
    sizes = {axis: size for axis, size in sizes.items() if axis in axes}
    expected = rng.integers(0, 60_000, [sizes.get(axis, 1) for axis in "PTZYXC"]).astype(np.uint16)
    names = ["DNA", "actin"][: sizes.get("C", 1)]
    with create_volume(
        path, axes=axes, sizes=sizes, dtype="uint16", voxel_size=(0.5, 0.2, 0.1), channel_names=names,
        time_step=30.0, file_format="ome", compressed=compressed,
    ) as destination:  # fmt: skip
        for p, t in np.ndindex(*expected.shape[:2]):
            destination.write({"P": p, "T": t}, None, expected[p, t])
    with tifffile.TiffFile(path) as tiff:
        stored = np.stack([series.asarray() for series in tiff.series])
    order = [axis for axis in "PTZCYX" if axis in axes]
    shape = [sizes[axis] for axis in order]
    np.testing.assert_array_equal(stored, np.moveaxis(expected, -1, 3).reshape(shape))
    images = ome_types.from_tiff(path).images
    assert [image.name for image in images] == ["Position 1", "Position 2", "Position 3"]
    for image in images:
        assert [channel.name for channel in image.pixels.channels] == names
        assert (image.pixels.physical_size_z, image.pixels.time_increment) == (0.5, 30.0)
    volume = open_volume(path)
    assert (volume.axes, volume.sizes) == (axes, sizes)
    read = np.stack([volume.read(frame, dtype=None) for frame in volume.frames])
    np.testing.assert_array_equal(read, expected.reshape(read.shape))


def test_positions_do_not_fit_imagej(tmp_path):
    sizes = {"P": 2, "Y": 8, "X": 9}
    with pytest.warns(UserWarning, match=r"out\.tif has 2 positions, .* ImageJ.* written as OME-TIFF"):
        destination = create_volume(tmp_path / "out.tif", axes="PYX", sizes=sizes, dtype="uint8")
    with destination:
        pass
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert (tiff.is_ome, len(tiff.series)) == (True, 2)


@pytest.mark.parametrize("file_format", ["imagej", "ome"])
def test_deflated_planes_hold_the_same_values_in_fewer_bytes(tmp_path, stack, file_format):
    sizes = dict(zip("ZYX", stack.shape, strict=True))
    for compressed in False, True:
        with create_volume(
            tmp_path / f"{compressed}.tif", axes="ZYX", sizes=sizes, dtype="uint16", file_format=file_format,
            compressed=compressed, voxel_size=(0.5, 0.2, 0.2),
        ) as destination:  # fmt: skip
            destination.write({}, None, stack[..., np.newaxis])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "True.tif"), stack)
    volume = open_volume(tmp_path / "True.tif")
    assert (volume.axes, volume.voxel_size) == ("ZYX", (0.5, 0.2, 0.2))
    assert os.path.getsize(tmp_path / "True.tif") < 0.8 * os.path.getsize(tmp_path / "False.tif")


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_written_does_not_stay_in_memory(tmp_path, compressed):
    block = np.ones((1, 1024, 1024, 1), np.float32)  # 4 MiB
    sizes = {"Z": 40, "Y": 1024, "X": 1024}

    def resident():
        return psutil.Process().memory_info().rss / 2**20

    with create_volume(
        tmp_path / "a.tif", axes="ZYX", sizes=sizes, dtype="float32", compressed=compressed
    ) as destination:
        destination.write({}, (slice(0, 1), slice(None), slice(None)), block)
        before = resident()
        for z in range(1, 40):
            destination.write({}, (slice(z, z + 1), slice(None), slice(None)), block)
        assert resident() - before < 16
    if compressed:
        assert resident() - before < 100  # of 160 MiB


@pytest.mark.parametrize("has_pwrite", [True, False])  # Windows has none
@pytest.mark.parametrize("axes", ["ZYX", "TZCYX"])
def test_any_region_is_written_to_its_place(tmp_path, rng, monkeypatch, axes, has_pwrite):
    if not has_pwrite:
        monkeypatch.delattr("os.pwrite", raising=False)
    monkeypatch.setattr("rcan.io.tiff_writing.CONVERTED_VALUES", 100)
    shape = {"T": 2, "Z": 5, "Y": 6, "X": 7, "C": 3}
    sizes = {axis: size if axis in axes else 1 for axis, size in shape.items()}
    expected = np.zeros([*sizes.values()], np.uint16)  # TZYXC
    with create_volume(tmp_path / "a.tif", axes=axes, sizes=sizes, dtype="uint16") as destination:
        for _ in range(40):
            t = int(rng.integers(sizes["T"]))
            bounds = [sorted(rng.choice(size + 1, 2, replace=False)) for size in expected.shape[1:]]
            region = tuple(slice(int(start), int(stop)) for start, stop in bounds)
            block = rng.integers(0, 60_000, [part.stop - part.start for part in region])
            destination.write({"T": t, "C": region[-1].start}, region[:-1], block)
            expected[(t, *region)] = block
    volume = open_volume(tmp_path / "a.tif", axes=axes)
    np.testing.assert_array_equal([volume.read(frame, dtype=None) for frame in volume.frames], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float64"}, "cannot hold float64 as 'imagej': choose uint8, uint16, float32"),
        ({"file_format": "png"}, "cannot be written as 'png': choose one of imagej, ome, zarr, zarr-0.4"),
        ({"axes": "ZXQ"}, "cannot have the axes 'ZXQ'"),
        ({"sizes": {"Y": 0, "X": 9}}, "each size must be at least 1"),
        ({"channel_names": ["a", "b"]}, "has 1 channels but 2 channel_names"),
    ],
)
def test_what_a_format_cannot_store_is_refused(tmp_path, changes, message):
    options = {"axes": "YX", "sizes": {"Y": 8, "X": 9}, "dtype": "uint8"} | changes
    with pytest.raises(ValueError, match=message):
        create_volume(tmp_path / "out.tif", **options)


def test_a_folder_that_cannot_be_written_is_an_os_error_with_the_path(tmp_path):
    options = {"axes": "YX", "sizes": {"Y": 8, "X": 9}, "dtype": "uint8"}
    with (
        pytest.raises(FileNotFoundError, match="missing"),
        create_volume(tmp_path / "missing" / "out.tif", **options),
    ):
        pass
    with pytest.raises(IsADirectoryError, match=tmp_path.name), create_volume(tmp_path, **options):
        pass


def test_the_pixels_have_their_place_on_the_disk_before_they_are_written(tmp_path):
    with create_volume(tmp_path / "a.tif", axes="ZYX", sizes={"Z": 8, "Y": 256, "X": 256}, dtype="float32"):
        (partial,) = tmp_path.glob(".*partial*")
        assert 512 * os.stat(partial).st_blocks >= 8 * 256 * 256 * 4


def test_a_disk_that_fills_up_meanwhile_leaves_one_error_and_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    destination = create_volume(tmp_path / "a.tif", axes="YX", sizes={"Y": 8, "X": 8}, dtype="uint8")
    with pytest.raises(OSError, match="No space left on device"), destination:
        pass
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_noticed_before_the_work_begins(tmp_path):
    sizes = {"Z": 10**9, "Y": 1024, "X": 1024}
    with (
        pytest.raises(OSError, match=r"GB are needed, .* GB are free: .*out\.tif"),
        create_volume(tmp_path / "out.tif", axes="ZYX", sizes=sizes, dtype="uint8", file_format="ome"),
    ):
        pass
    assert not list(tmp_path.iterdir())
