import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tifffile

from rcan.atomic_io import partial_path
from rcan.io.cache import cache, limit_cache
from rcan.io.opening import create_volume, open_volume

CORRUPT = [
    "crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif",
    "crash-0e16d3bfb83be87356d026d66919deaefca44dac.tif",
    "crash-1185209cf7655b5aed8ae5e77784dfdd18ab59e9.tif",
    "crash-338516dbd2f0e83caddb8ce256c22db3bd6dc40f.tif",
    "crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif",
    "crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif",
    "graydepth-invert-overflow-5a0aad5024cc4ff3.tiff",
    "libtiff_segfault.tif",
    "multipage_multiple_frame_loop.tiff",
    "oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif",
    "sample-get-lzw-stuck.tiff",
    "tiff_overflow_rows_per_strip.tif",
]


@pytest.fixture
def stack(rng):
    """(Z, Y, X), photon counts."""
    return rng.poisson(100, (6, 40, 50)).astype(np.uint16)


def write(path, array, axes=None, **options):
    metadata = {"axes": axes} if axes else options.pop("metadata", {})
    tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata, **options)
    return path


def read_frames(path, **options):
    with open_volume(path, **options) as volume:
        return np.stack([volume.read(frame, dtype=None) for frame in volume.frames])


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
    with pytest.raises(
        ValueError, match=r"two_channels_no_axes.*\(75, 2, 75, 75\).*such as ZCYX.*raw_data_format"
    ):
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


# Blocks, frames and regions


@pytest.mark.parametrize(
    ("block_axes", "frames", "shape"),
    [
        ("ZYXC", [{"T": 0}, {"T": 1}], (3, 8, 9, 2)),
        ("ZYX", [{"T": t, "C": c} for t in range(2) for c in range(2)], (3, 8, 9, 1)),
        ("YXC", [{"T": t, "Z": z} for t in range(2) for z in range(3)], (8, 9, 2)),
        ("YX", [{"T": t, "Z": z, "C": c} for t in range(2) for z in range(3) for c in range(2)], (8, 9, 1)),
    ],
)
def test_frames_loop_over_what_a_block_leaves_out(tmp_path, rng, block_axes, frames, shape):
    array = rng.random((2, 3, 2, 8, 9), dtype=np.float32)  # TZCYX
    volume = open_volume(write(tmp_path / "a.tif", array, "TZCYX"), block_axes=block_axes)
    assert (volume.frames, volume.shape) == (frames, shape)
    for frame in frames:
        index = tuple(frame.get(axis, slice(None)) for axis in "TZCYX")
        expected = array[index] if "C" in frame else np.moveaxis(array[index], -3, -1)
        np.testing.assert_array_equal(volume.read(frame).reshape(expected.shape), expected)


def test_a_plane_is_a_volume_of_one_plane(tmp_path):
    volume = open_volume(write(tmp_path / "a.tif", np.ones((8, 9), np.uint8)))
    assert (volume.axes, volume.frames, volume.read().shape) == ("YX", [{}], (1, 8, 9, 1))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_region_is_the_same_part_of_the_whole(tmp_path, stack, compression, tile):
    path = write(tmp_path / "a.tif", stack, "ZYX", compression=compression, tile=tile)
    volume = open_volume(path)
    region = (slice(1, 4), slice(7, 33), slice(15, None))
    np.testing.assert_array_equal(volume.read(region=region)[..., 0], stack[region])


def test_a_block_is_native_contiguous_and_belongs_to_the_caller(data_dir):
    volume = open_volume(data_dir / "volumes" / "spots_zcyx.tif")  # big-endian
    block = volume.read(dtype=None)
    assert (block.dtype, block.dtype.isnative, block.flags.c_contiguous) == (np.uint16, True, True)
    block[:] = 0
    assert volume.read().max() > 0
    assert volume.read().dtype == np.float32


def test_a_crop_of_a_crop_reads_the_right_part(tmp_path, stack):
    volume = open_volume(write(tmp_path / "a.tif", stack, "ZYX"))
    part = volume.crop((slice(1, 5), slice(10, 30), slice(None))).crop(
        (slice(1, 3), slice(2, 9), slice(5, 9))
    )
    assert part.shape == (2, 7, 4, 1)
    assert part.sizes == {"Z": 2, "Y": 7, "X": 4}
    np.testing.assert_array_equal(part.read()[..., 0], stack[2:4, 12:19, 5:9])
    np.testing.assert_array_equal(part.read(region=(slice(1, 2),) * 3)[..., 0], stack[3:4, 13:14, 6:7])


def test_other_block_axes_of_the_same_file(tmp_path, stack):
    volume = open_volume(write(tmp_path / "a.tif", stack, "ZYX"))
    planes = volume.with_block_axes("YX")
    np.testing.assert_array_equal(planes.read({"Z": 4})[..., 0], stack[4])
    with pytest.raises(ValueError, match="is cropped: choose the block axes first"):
        volume.crop((slice(0, 2),) * 3).with_block_axes("YX")


def test_block_axes_must_be_known(tmp_path, stack):
    with pytest.raises(ValueError, match="block_axes='XYZ' is not one of ZYXC, ZYX, YXC, YX"):
        open_volume(write(tmp_path / "a.tif", stack), block_axes="XYZ")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_closed_volume_reopens(tmp_path, stack, compression):
    with open_volume(write(tmp_path / "a.tif", stack, compression=compression)) as volume:
        first = volume.read()
    np.testing.assert_array_equal(volume.read(), first)


def test_a_file_that_changed_since_it_was_opened_is_refused(tmp_path, stack):
    path = write(tmp_path / "a.tif", stack)
    volume = open_volume(path)
    write(path, stack[:2])
    with pytest.raises(ValueError, match=r"a\.tif has changed since it was opened"):
        volume.read()


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_threads_read_at_once(tmp_path, stack, compression):
    volume = open_volume(write(tmp_path / "a.tif", stack, "ZYX", compression=compression))

    def read(i):
        region = (slice(i % 5, i % 5 + 2), slice(None), slice(i % 7, i % 7 + 20))
        if i % 10 == 0:
            volume.close()
        return np.array_equal(volume.read(region=region)[..., 0], stack[region])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(200)))


def test_only_the_planes_of_a_region_are_decoded(tmp_path, stack):
    path = write(tmp_path / "a.tif", stack, "ZYX", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[5].dataoffsets[0]
    damage(path, offset + 20)
    np.testing.assert_array_equal(
        open_volume(path).read(region=(slice(0, 5), slice(None), slice(None)))[..., 0], stack[:5]
    )


@pytest.fixture
def limited_cache(stack):
    """Room for two planes of the stack, for all files together."""
    limit_cache(0)  # forget what other tests have decoded
    limit_cache(2 * stack[0].nbytes)
    yield cache
    limit_cache(None)


def test_all_files_share_a_bounded_memory_for_decoded_strips(tmp_path, stack, limited_cache):
    for name in "ab":
        open_volume(write(tmp_path / f"{name}.tif", stack, compression="zlib")).read()
    assert limited_cache.num_bytes == 2 * stack[0].nbytes


def test_what_was_decoded_is_not_decoded_again(tmp_path, stack, limited_cache):
    path = write(tmp_path / "a.tif", stack, "ZYX", compression="zlib")
    volume, region = open_volume(path), (slice(1, 3), slice(None), slice(None))
    volume.read(region=region)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[2].dataoffsets[0]
    damage(path, offset + 20)
    np.testing.assert_array_equal(volume.read(region=region)[..., 0], stack[1:3])


def test_closing_a_volume_frees_what_was_decoded(tmp_path, stack, limited_cache):
    with open_volume(write(tmp_path / "a.tif", stack, compression="zlib")) as volume:
        volume.read()
    assert limited_cache.num_bytes == 0


def test_the_cache_may_be_switched_off(tmp_path, stack, limited_cache):
    limit_cache(0)
    volume = open_volume(write(tmp_path / "a.tif", stack, compression="zlib"))
    np.testing.assert_array_equal(volume.read()[..., 0], stack)
    assert limited_cache.num_bytes == 0


def test_the_cache_takes_a_quarter_of_the_free_memory_by_default(tmp_path, stack, limited_cache, monkeypatch):
    monkeypatch.setattr("rcan.io.cache.free_memory", lambda: 12 * stack[0].nbytes)
    limit_cache(None)
    open_volume(write(tmp_path / "a.tif", stack, compression="zlib")).read()
    assert limited_cache.num_bytes == 3 * stack[0].nbytes


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_file_replaced_by_one_of_the_same_size_is_noticed(tmp_path, stack, compression):
    path = write(tmp_path / "a.tif", stack, compression=compression)
    volume = open_volume(path)
    volume.read(region=(slice(0, 1), slice(None), slice(None)))
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"a\.tif has changed since it was opened"):
        volume.read()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_file_that_vanishes_is_an_error_of_the_system(tmp_path, stack, compression):
    path = write(tmp_path / "a.tif", stack, compression=compression)
    volume = open_volume(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        volume.read()


def test_file_that_gets_shorter_while_it_is_read_is_an_error(tmp_path, stack, monkeypatch):
    path = write(tmp_path / "a.tif", stack)
    volume = open_volume(path)
    monkeypatch.setattr("rcan.io.volume.FileStates.check", lambda *_: os.truncate(path, 3000))
    with pytest.raises(ValueError, match=r"a\.tif has become shorter"):
        volume.read()


@pytest.mark.parametrize("skipped", [0, 1, 3, 1000])
@pytest.mark.parametrize("axes", ["ZYX", "YX", "TZCYX"])
def test_any_region_of_a_plain_array_is_read(tmp_path, rng, monkeypatch, axes, skipped):
    monkeypatch.setattr("rcan.io.tiff.MOST_SKIPPED", skipped)  # in one stretch with gaps, or row by row
    shape = {"ZYX": (7, 9, 11), "YX": (9, 11), "TZCYX": (2, 7, 3, 9, 11)}[axes]
    array = rng.integers(0, 60_000, shape).astype(np.uint16)
    volume = open_volume(write(tmp_path / "a.tif", array, axes))
    for _ in range(30):
        corners = [sorted(rng.choice(size + 1, 2, replace=False)) for size in volume.shape[:-1]]
        region = tuple(slice(int(start), int(stop)) for start, stop in corners)
        frame = volume.frames[rng.integers(len(volume.frames))]
        expected = array[frame["T"]] if "T" in frame else array
        expected = np.moveaxis(expected, 1, -1) if "C" in axes else expected
        expected = expected.reshape(volume.shape)
        np.testing.assert_array_equal(volume.read(frame, region, dtype=None), expected[region])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_open_volumes_hold_no_file_handles(tmp_path, stack, compression):
    path, before = write(tmp_path / "a.tif", stack, compression=compression), psutil.Process().num_fds()
    volumes = [open_volume(path) for _ in range(20)]
    blocks = [volume.read() for volume in volumes]
    assert len(blocks) == 20
    assert psutil.Process().num_fds() == before


def test_importing_the_package_does_not_import_tifffile():
    command = "import sys, rcan.io.opening; print('tifffile' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


# Formats


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_numbers_of_every_kind_and_byte_order(tmp_path, rng, dtype, byteorder):
    array = (100 * rng.random((3, 8, 9))).astype(dtype)
    for compression in None, "zlib":
        path = write(tmp_path / "a.tif", array, "ZYX", byteorder=byteorder, compression=compression)
        volume = open_volume(path)
        assert volume.dtype == dtype
        np.testing.assert_array_equal(volume.read(dtype=None)[..., 0], array)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma", "jpeg2000", "jpegxl"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}])
def test_compressions(tmp_path, stack, compression, options):
    path = write(tmp_path / "a.tif", stack, "ZYX", compression=compression, **options)
    np.testing.assert_array_equal(open_volume(path).read(dtype=None)[..., 0], stack)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_predictors(tmp_path, stack, dtype):
    path = write(tmp_path / "a.tif", stack.astype(dtype), "ZYX", compression="zlib", predictor=True)
    np.testing.assert_array_equal(open_volume(path).read(dtype=None)[..., 0], stack)


def test_bilevel_images_are_uint8(tmp_path, rng):
    bits = rng.random((3, 8, 9)) > 0.5
    volume = open_volume(write(tmp_path / "a.tif", bits))
    assert volume.dtype == np.uint8
    np.testing.assert_array_equal(volume.read(dtype=None)[..., 0], bits)


@pytest.mark.parametrize(
    "name",
    [
        "12bit.cropped.tiff",
        "gradient-1c-32b.tiff",
        "gradient-1c-64b-float.tiff",
        "int16.tif",
        "int16_zstd.tif",
        "int8.tif",
        "issue_69_packbits.tiff",
        "minisblack-1c-16b.tiff",
        "predictor-3-gray-f32.tif",
        "random-fp16.tiff",
        "seq-1c-12b-47c39b31.tiff",
        "seq-1c-16b-bigendian-68f373a0.tiff",
        "seq-1c-16b-multistrip-68f373a0.tiff",
        "seq-1c-16b-tiled-68f373a0.tiff",
        "seq-1c-24b-072a9dc9.tiff",
        "seq-1c-64f-deflate-fpredict-afa8560e.tiff",
        "seq-1c-8b-multipage-adeefdcc.tiff",
        "seq-1c-8b-tiled-bigtiff-20f3db0c.tiff",
        "tiled-gray-i1.tif",
        "tiled-oversize-gray-i8.tif",
    ],
)
def test_unusual_files_are_read_as_tifffile_reads_them(data_dir, name):
    path = data_dir / "odd_tiffs" / "image-tiff" / name
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(read_frames(path).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "name", ["volumes/nuclei.tif", "volumes/vesicles_lattice.tif", "time_lapse/hyperstack_tzyx.tif"]
)
def test_real_stacks_are_read_as_tifffile_reads_them(data_dir, name):
    expected = tifffile.imread(data_dir / name)
    np.testing.assert_array_equal(read_frames(data_dir / name).reshape(expected.shape), expected)


def test_ome_files_are_read_as_tifffile_reads_them(data_dir):
    for name in "2010-06-18x24y5z1t2c8b-text.ome.tiff", "multi-channel-z-series.ome.tif":
        path = data_dir / "odd_tiffs" / "ome" / name
        channel_axis = open_volume(path).axes.index("C")
        expected = np.moveaxis(tifffile.imread(path), channel_axis, -1)
        np.testing.assert_array_equal(read_frames(path)[0], expected)


def test_a_contiguous_imagej_stack_needs_one_page_only(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"}, truncate=True)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    np.testing.assert_array_equal(open_volume(path).read()[..., 0], stack)


def test_a_pyramid_is_read_in_full_resolution(tmp_path, stack):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(stack, subifds=1, metadata={"axes": "ZYX"})
        tiff.write(stack[:, ::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(open_volume(path).read()[..., 0], stack)


def write_images(path, images, axes, **options):
    with tifffile.TiffWriter(path, ome=".ome." in path.name) as tiff:
        for image in images:
            tiff.write(image, photometric="minisblack", metadata={"axes": axes}, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
def test_images_of_equal_shape_are_positions(tmp_path, stack, name, compression):
    images = stack + np.arange(3, dtype=np.uint16)[:, np.newaxis, np.newaxis, np.newaxis]
    path = write_images(tmp_path / name, images, "ZYX", compression=compression)
    volume = open_volume(path)
    assert (volume.axes, volume.sizes) == ("PZYX", {"P": 3, "Z": 6, "Y": 40, "X": 50})
    assert volume.frames == [{"P": 0}, {"P": 1}, {"P": 2}]
    np.testing.assert_array_equal(read_frames(path)[..., 0], images)
    region = (slice(2, 4), slice(3, 30), slice(7, 8))
    np.testing.assert_array_equal(volume.read({"P": 2}, region)[..., 0], images[2][region])


def test_positions_of_micromanager_are_positions(tmp_path, rng):
    array = rng.integers(0, 255, (2, 3, 8, 9), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, "RZYX")  # tifffile's letter for them
    assert open_volume(path).axes == "PZYX"
    np.testing.assert_array_equal(read_frames(path)[..., 0], array)


def test_planes_of_equal_shape_are_read_whatever_their_axis_is_called(tmp_path, rng):
    images = rng.integers(0, 255, (4, 8, 9), dtype=np.uint8)
    path = write_images(tmp_path / "a.ome.tif", images, "YX")
    np.testing.assert_array_equal(read_frames(path)[:, 0, ..., 0], images)
    np.testing.assert_array_equal(open_volume(path, axes="ZYX").read()[..., 0], images)
    np.testing.assert_array_equal(read_frames(path, axes="TYX")[:, 0, ..., 0], images)
    np.testing.assert_array_equal(read_frames(path, axes="PZYX")[:, 0, ..., 0], images)


@pytest.mark.parametrize("other", [np.s_[:3], np.s_[:, :20]])
def test_of_images_of_different_shape_the_first_is_read_with_a_warning(tmp_path, stack, other):
    path = write_images(tmp_path / "a.ome.tif", [stack, stack[other]], "ZYX")
    with pytest.warns(UserWarning, match=r"a\.ome\.tif holds 2 images: only the first is read\.$"):
        volume = open_volume(path)
    np.testing.assert_array_equal(volume.read()[..., 0], stack)


def test_axes_of_one_image_choose_the_first_of_several_with_a_warning(tmp_path, stack):
    path = write_images(tmp_path / "a.ome.tif", [stack, stack + 1], "ZYX")
    with pytest.warns(UserWarning, match=r"holds 2 images: only the first is read\. .*with P"):
        volume = open_volume(path, axes="ZYX")
    np.testing.assert_array_equal(volume.read()[..., 0], stack)


def test_pyramids_of_several_positions_are_read_in_full_resolution(tmp_path, stack):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for image in stack, stack + 1:
            tiff.write(image, subifds=1, metadata={"axes": "ZYX"})
            tiff.write(image[:, ::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_frames(path)[..., 0], [stack, stack + 1])


def test_metadata_of_a_set_of_files_do_not_add_the_images_of_the_others(tmp_path, stack):
    ids = {name: f"urn:uuid:00000000-0000-0000-0000-00000000000{name}" for name in "ab"}
    images = "".join(
        f'<Image ID="Image:{name}"><Pixels ID="Pixels:{name}" DimensionOrder="XYZCT" Type="uint16" SizeX="50" '
        f'SizeY="40" SizeZ="6" SizeC="1" SizeT="1"><Channel ID="Channel:{name}"/><TiffData IFD="0" PlaneCount="6">'
        f'<UUID FileName="{name}.ome.tif">{uuid}</UUID></TiffData></Pixels></Image>'
        for name, uuid in ids.items()
    )
    for i, (name, uuid) in enumerate(ids.items()):
        schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
        xml = f'<?xml version="1.0"?><OME xmlns="{schema}" UUID="{uuid}">{images}</OME>'
        write(tmp_path / f"{name}.ome.tif", stack + i, description=xml, metadata=None)
    for i, name in enumerate(ids):
        np.testing.assert_array_equal(open_volume(tmp_path / f"{name}.ome.tif").read()[..., 0], stack + i)


@pytest.fixture
def ome_of_two_files(tmp_path, stack):
    """OME-TIFF whose planes 0 to 2 and 3 to 5 are in two files."""
    ids = {"a.ome.tif": "urn:uuid:00000000-0000-0000-0000-00000000000a"}
    ids["b.ome.tif"] = ids["a.ome.tif"][:-1] + "b"
    planes = "".join(
        f'<TiffData FirstZ="{3 * i}" IFD="0" PlaneCount="3"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for i, (name, uuid) in enumerate(ids.items())
    )
    for i, (name, uuid) in enumerate(ids.items()):
        xml = (
            '<?xml version="1.0"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            'SizeX="50" SizeY="40" '
            f'SizeZ="6" SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        part = stack[3 * i : 3 * i + 3]
        tifffile.imwrite(
            tmp_path / name,
            part,
            photometric="minisblack",
            description=xml,
            metadata=None,
            compression="zlib",
        )
    return tmp_path / "a.ome.tif"


def test_ome_planes_may_lie_in_several_files(ome_of_two_files, stack):
    np.testing.assert_array_equal(open_volume(ome_of_two_files).read()[..., 0], stack)


def test_a_missing_file_of_an_ome_image_is_an_error(ome_of_two_files, capfd):
    (ome_of_two_files.parent / "b.ome.tif").unlink()
    with pytest.raises(ValueError, match=r"a\.ome\.tif lacks planes"):
        open_volume(ome_of_two_files)
    assert capfd.readouterr().err == ""


def test_planes_without_gaps_inside_but_between_them_are_read(data_dir):
    path = data_dir / "volumes" / "vesicles_lattice.tif"
    region = (slice(40, 43), slice(100, 200), slice(7, 9))
    expected = tifffile.imread(path, key=range(40, 43))[:, 100:200, 7:9]
    np.testing.assert_array_equal(open_volume(path).read(region=region, dtype=None)[..., 0], expected)


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


# Files that are not for us, or damaged


def damage(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("axes", [None, "CYX", "ZYX"])
@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_ends_in_one_quiet_line(data_dir, name, axes, capfd):
    path = data_dir / "odd_tiffs" / "corrupt" / name
    with pytest.raises(ValueError, match=r"\.tiff? ") as caught:
        read_frames(path, axes=axes)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory in the unit of Linux")
def test_corrupt_files_take_little_memory(data_dir):
    script = (
        "import resource, sys; from rcan.io.opening import open_volume; import rcan.io.tiff\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    for axes in None, 'CYX':\n"
        "        try:\n"
        "            open_volume(path, axes=axes).read()\n"
        "        except ValueError:\n"
        "            pass\n"
        "print((peak() - before) // 1024)\n"
    )
    paths = sorted((data_dir / "odd_tiffs" / "corrupt").glob("*.tif*"))
    command = [sys.executable, "-c", script, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(result.stdout) < 300  # MB


@pytest.mark.parametrize(
    "name", ["tiled-rgb-u8.tif", "planar-rgb-u8.tif", "BigTIFF.tif", "logluv-3c-16b.tiff"]
)
def test_a_colour_photograph_is_refused(data_dir, name):
    with pytest.raises(
        ValueError, match=r"is a colour photograph \((RGB|LOGLUV)\).*save them along a C axis"
    ):
        open_volume(data_dir / "odd_tiffs" / "image-tiff" / name)


def test_three_channels_stored_as_colours_are_read_if_the_axes_are_named(tmp_path, rng):
    colours = rng.integers(0, 255, (4, 8, 9, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours, photometric="rgb")
    np.testing.assert_array_equal(open_volume(path, axes="ZYXC").read(), colours)


def test_an_indexed_photograph_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    colormap = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(
        path, np.zeros((8, 9), np.uint8), photometric="palette", colormap=colormap, metadata=None
    )
    with pytest.raises(ValueError, match="colour photograph"):
        open_volume(path)


def test_complex_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"complex64.*integers or real numbers"):
        open_volume(write(tmp_path / "a.tif", np.zeros((3, 8, 9), np.complex64)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, world, no TIFF", "not a TIFF file"),
        (b"II*\0", "cannot be read as a TIFF"),
    ],
)
def test_what_is_no_tiff_is_refused(tmp_path, content, message):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.tif.*{message}"):
        open_volume(path)


def test_a_companion_file_is_refused(data_dir):
    with pytest.raises(ValueError, match="not a TIFF file"):
        open_volume(data_dir / "odd_tiffs" / "ome" / "c3_z33.companion.ome")


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.tif"):
        open_volume(tmp_path / "missing.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": {"axes": "ZYX"}},
        {"metadata": None},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"tile": (16, 16)},
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_an_error(tmp_path, stack, options, compression, share, capfd):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", compression=compression, **options)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match=r"a\.tif (is cut short|cannot be read|is damaged|lacks)"):
        read_frames(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["volumes/nuclei.tif", "volumes/vesicles_lattice.tif", "volumes/six_planes.tif"]
)
def test_a_truncated_real_file_is_an_error(data_dir, tmp_path, name):
    data = (data_dir / name).read_bytes()
    path = tmp_path / "a.tif"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.tif is cut short"):
        read_frames(path)


@pytest.mark.parametrize("position", [2, 50, 500, 1500])
def test_a_flipped_byte_in_a_deflate_stream_is_an_error(tmp_path, stack, position):
    path = write(tmp_path / "a.tif", stack, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].dataoffsets[0]
    damage(path, offset + position)
    with pytest.raises(ValueError, match=r"a\.tif cannot be read"):
        open_volume(path).read()


def test_an_absurd_size_is_refused_before_it_is_allocated(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((16, 16), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in "ImageWidth", "ImageLength", "RowsPerStrip":
            tiff.pages[0].tags[tag].overwrite(200_000, dtype="I" if tag != "ImageWidth" else None)
    with pytest.raises(ValueError, match=r"a\.tif (is damaged|cannot be read)"):
        open_volume(path).read()


def test_an_absurd_number_of_ome_planes_is_refused(tmp_path):
    description = (
        '<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" '
        'SizeZ="99999999999" SizeC="1" SizeT="1"><TiffData/></Pixels></Image></OME>'
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), description=description, metadata=None)
    with pytest.raises(ValueError, match="declare 99999999999 planes"):
        open_volume(path)


def test_tifffile_logs_as_ever_for_others(tmp_path, caplog, stack):
    open_volume(write(tmp_path / "a.tif", stack))
    tifffile.logger().error("still heard")
    assert "still heard" in caplog.text


# Writing


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
    with create_volume(
        path, axes="ZYX", sizes={"Z": 2, "Y": 8, "X": 9}, dtype="uint8", file_format=file_format
    ):
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
