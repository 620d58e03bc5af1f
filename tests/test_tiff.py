import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tifffile

from rcan.io.cache import cache, limit_cache
from rcan.io.opening import open_volume

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


def write(path, array, axes=None, **options):
    metadata = {"axes": axes} if axes else options.pop("metadata", {})
    tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata, **options)
    return path


def read_frames(path, **options):
    with open_volume(path, **options) as volume:
        return np.stack([volume.read(frame, dtype=None) for frame in volume.frames])


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
    part = volume.crop((slice(1, 5), slice(10, 30), slice(None))).crop((slice(1, 3), slice(2, 9), slice(5, 9)))
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
    with pytest.warns(UserWarning, match=r"a\.ome\.tif holds 2 images that differ: only the first is read\.$"):
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


@pytest.mark.parametrize("name", ["ifd_loop.tif", "hyperstack_no_end.tif", "hyperstack_two_tags_less.tif"])
def test_a_list_of_planes_that_never_ends_is_refused(data_dir, name):
    with pytest.raises(ValueError, match=rf"{name} is damaged: its list of planes has no end, plane \d+ points back"):
        open_volume(data_dir / "hostile" / name)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("back_to", [0, 2])
def test_a_plane_that_points_back_to_another_is_named(tmp_path, bigtiff, byteorder, back_to):
    """Planes of different sizes, so that the list has to be followed; the last one's pointer is overwritten."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for width in (8, 9, 10, 11):
            writer.write(np.zeros((8, width), np.uint8))
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
        pointer, size = tiff.pages.next_page_offset, tiff.tiff.offsetsize
    with open(path, "r+b") as stream:
        stream.seek(pointer)
        stream.write(offsets[back_to].to_bytes(size, "little" if byteorder == "<" else "big"))
    with pytest.raises(ValueError, match=f"plane 3 points back to plane {back_to}"):
        open_volume(path)


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


@pytest.mark.parametrize("name", ["tiled-rgb-u8.tif", "planar-rgb-u8.tif", "BigTIFF.tif", "logluv-3c-16b.tiff"])
def test_a_colour_photograph_is_refused(data_dir, name):
    with pytest.raises(ValueError, match=r"is a colour photograph \((RGB|LOGLUV)\).*save them along a C axis"):
        open_volume(data_dir / "odd_tiffs" / "image-tiff" / name)


def test_three_channels_stored_as_colours_are_read_if_the_axes_are_named(tmp_path, rng):
    colours = rng.integers(0, 255, (4, 8, 9, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours, photometric="rgb")
    np.testing.assert_array_equal(open_volume(path, axes="ZYXC").read(), colours)


def test_an_indexed_photograph_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    colormap = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(path, np.zeros((8, 9), np.uint8), photometric="palette", colormap=colormap, metadata=None)
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


@pytest.mark.parametrize("name", ["volumes/nuclei.tif", "volumes/vesicles_lattice.tif", "volumes/six_planes.tif"])
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
