import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tifffile

from rcan.io.opening import open_volume


@pytest.fixture
def write_files(tmp_path, write_tiff):
    """Write images by name, each filled with its number, and give the folder: `write_files(names, "ZYX")`."""
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 4, "X": 5}

    def write(names, axes, **metadata):
        for i, name in enumerate(names):
            array = np.full([sizes[axis] for axis in axes], i, np.uint16)
            write_tiff(tmp_path / name, array, axes, **metadata)
        return tmp_path

    return write


def first_values(volume):
    """Number of the file that each frame comes from: its first value, of each plane and channel."""
    return [volume.read(frame)[:, 0, 0, :].astype(int).tolist() for frame in volume.frames]


# Axes


@pytest.mark.parametrize(
    ("names", "axis"),
    [
        (["cell_t003", "cell_t004"], "T"),
        (["cellT0", "cellT1"], "T"),
        (["time_1", "time_2"], "T"),
        (["x--T00001", "x--T00002"], "T"),
        (["C00", "C01"], "C"),
        (["a_ch01", "a_ch02"], "C"),
        (["a_w1", "a_w2"], "C"),
        (["p1_c0_t5", "p2_c0_t5"], "P"),
        (["pos1", "pos2"], "P"),
        (["Pos_001", "Pos_002"], "P"),
        (["cell_s1", "cell_s2"], "P"),
        (["wellXY02", "wellXY03"], "P"),
        (["scene 1", "scene 2"], "P"),
    ],
)
def test_the_word_before_a_number_tells_the_axis(write_files, names, axis):
    folder = write_files([f"{name}.tif" for name in names], "ZYX")
    volume = open_volume(folder)
    assert (volume.axes, volume.sizes[axis]) == (f"{axis}ZYX", 2)


def test_planes_are_stacked(write_files):
    volume = open_volume(write_files([f"a_z{z:03}.tif" for z in range(4)], "YX"))
    assert (volume.axes, volume.shape, volume.frames) == ("ZYX", (4, 4, 5, 1), [{}])
    np.testing.assert_array_equal(volume.read()[:, 0, 0, 0], [0, 1, 2, 3])


@pytest.mark.parametrize(("stored", "axes"), [("ZYX", "TZYX"), ("ZCYX", "TZCYX"), ("YX", "ZYX"), ("CYX", "ZCYX")])
def test_a_number_without_a_word_counts_time_points_of_volumes_and_planes(write_files, stored, axes):
    assert open_volume(write_files(["cell1.tif", "cell2.tif"], stored)).axes == axes


def test_several_numbers_are_several_axes(write_files):
    names = [f"volume--C{c:02}--T{t:05}.tif" for c in range(2) for t in (3, 4, 5)]
    volume = open_volume(write_files(names, "ZYX") / "volume--C*--T*.tif")
    assert volume.sizes == {"T": 3, "C": 2, "Z": 3, "Y": 4, "X": 5}
    assert first_values(volume) == [[[0, 3]] * 3, [[1, 4]] * 3, [[2, 5]] * 3]


def test_names_of_channels_beside_their_numbers_do_not_matter(write_files):
    names = [f"exp_w{1 + c}{dye}_s{s}.TIF" for c, dye in enumerate(["GFP", "DAPI"]) for s in (1, 2, 3)]
    volume = open_volume(write_files(names, "ZYX"))
    assert volume.sizes == {"P": 3, "C": 2, "Z": 3, "Y": 4, "X": 5}


def test_numbers_may_be_of_any_length(write_files):
    names = [f"t{t}.tif" for t in (20260105123000123456789, 20260105123000123456790)]
    assert len(open_volume(write_files(names, "ZYX")).frames) == 2


def test_numbers_in_the_names_of_folders_count_as_well(write_files):
    folder = write_files([f"pos{p}/img_t{t}.tif" for p in (1, 2) for t in range(3)], "ZYX")
    volume = open_volume(folder / "pos*" / "img_t*.tif")
    assert (volume.axes, len(volume.frames)) == ("PTZYX", 6)
    assert [values[0][0] for values in first_values(volume)] == [0, 1, 2, 3, 4, 5]


def test_files_are_in_the_order_of_their_numbers(write_files):
    folder = write_files([f"t{t}.tif" for t in (10, 9, 8, 11)], "ZYX")
    assert [values[0][0] for values in first_values(open_volume(folder / "*.tif"))] == [2, 1, 0, 3]


def test_axes_of_a_user_come_before_the_guess(write_files):
    folder = write_files([f"a{t}.tif" for t in range(3)], "YX")
    volume = open_volume(folder, axes="TYX")
    assert (volume.axes, len(volume.frames), volume.shape) == ("TYX", 3, (1, 4, 5, 1))
    assert open_volume(folder, axes="CYX").shape == (1, 4, 5, 3)


@pytest.mark.parametrize("axes", ["TCZYX", "CTZYX"])
def test_axes_of_a_user_do_not_mix_up_what_the_names_tell(write_files, axes):
    folder = write_files([f"C{c}_T{t}.tif" for c in range(2) for t in range(3)], "ZYX")
    volume = open_volume(folder, axes=axes)
    assert volume.sizes == {"T": 3, "C": 2, "Z": 3, "Y": 4, "X": 5}
    assert [values[0] for values in first_values(volume)] == [[0, 3], [1, 4], [2, 5]]


def test_axes_of_a_user_belong_to_the_numbers_in_their_order(write_files):
    folder = write_files([f"a_{i}_{k}.tif" for i in range(2) for k in range(3)], "YX")
    volume = open_volume(folder, axes="TZYX")
    assert (volume.sizes, volume.shape) == ({"T": 2, "Z": 3, "Y": 4, "X": 5}, (3, 4, 5, 1))
    assert first_values(volume) == [[[0], [1], [2]], [[3], [4], [5]]]


@pytest.mark.parametrize("names", [["0105_09", "0105_10", "0106_09"], ["actin", "DNA", "tubulin"]])
def test_one_axis_of_a_user_takes_the_files_in_the_order_of_their_names(write_files, names):
    volume = open_volume(write_files([f"{name}.tif" for name in names], "ZYX"), axes="CZYX")
    assert volume.shape == (3, 4, 5, 3)
    order = sorted(range(3), key=lambda i: names[i])
    assert volume.read()[0, 0, 0].astype(int).tolist() == order


def test_axes_of_a_user_name_nameless_axes_of_the_files(tmp_path, rng):
    array = rng.integers(0, 255, (3, 4, 2, 6, 7), dtype=np.uint8)  # T, then as stored: Z, C, Y, X
    for t, part in enumerate(array):
        tifffile.imwrite(tmp_path / f"a{t}.tif", part, photometric="minisblack")
    volume = open_volume(tmp_path, axes="TZCYX")
    np.testing.assert_array_equal([volume.read(frame) for frame in volume.frames], np.moveaxis(array, 2, -1))


def test_a_time_lapse_of_planes_in_channels_has_lengths_of_one(write_files):
    volume = open_volume(write_files(["a1.tif", "a2.tif"], "YX"), axes="TCZYX")
    assert volume.sizes == {"T": 2, "C": 1, "Z": 1, "Y": 4, "X": 5}


def test_a_folder_of_one_image_is_that_image(write_files):
    volume = open_volume(write_files(["cell.tif"], "TZYX"))
    assert (volume.axes, len(volume.frames)) == ("TZYX", 2)


def test_a_real_time_lapse_is_one_image(data_dir):
    volume = open_volume(data_dir / "time_lapse" / "volume--C00--T*.tif")
    assert (volume.axes, volume.sizes["T"], volume.shape) == ("TZYX", 10, (19, 172, 172, 1))
    region = (slice(3, 5), slice(10, 60), slice(7, 9))
    expected = tifffile.imread(data_dir / "time_lapse" / "volume--C00--T00006.tif")[region]
    np.testing.assert_array_equal(volume.read({"T": 6}, region, dtype=None)[..., 0], expected)


# Reading


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_any_region_is_read(tmp_path, rng, compression):
    array = rng.integers(0, 60_000, (5, 2, 9, 11)).astype(np.uint16)  # ZCYX
    for z, c in np.ndindex(5, 2):
        name = f"a_z{z}_c{c}.tif"
        tifffile.imwrite(tmp_path / name, array[z, c], photometric="minisblack", compression=compression)
    volume = open_volume(tmp_path)
    whole = np.moveaxis(array, 1, -1)
    np.testing.assert_array_equal(volume.read(dtype=None), whole)
    region = (slice(1, 4), slice(2, 7), slice(5, 6))
    np.testing.assert_array_equal(volume.read(region=region, dtype=None), whole[region])
    planes = volume.with_block_axes("YX")
    np.testing.assert_array_equal(planes.read({"Z": 4, "C": 1}, dtype=None)[..., 0], array[4, 1])


def test_only_the_files_of_a_region_are_opened(write_files):
    folder = write_files([f"z{z}.tif" for z in range(4)], "YX")
    volume = open_volume(folder)
    (folder / "z3.tif").unlink()
    volume.read(region=(slice(0, 3), slice(None), slice(None)))
    with pytest.raises(FileNotFoundError, match=r"z3\.tif"):
        volume.read()


def test_threads_read_the_files_at_once(write_files):
    volume = open_volume(write_files([f"t{t}.tif" for t in range(5)], "ZYX"))
    with ThreadPoolExecutor(8) as threads:
        values = [*threads.map(lambda i: volume.read({"T": i % 5}).max(), range(200))]
    assert values == [i % 5 for i in range(200)]


def test_calibration_comes_from_the_first_file(tmp_path, write_tiff):
    for t in range(2):
        array = np.zeros((3, 2, 4, 5), np.uint16)
        metadata = {"spacing": 0.5, "unit": "micron", "finterval": 2.0 + t, "Labels": ["DNA", "actin"] * 3}
        write_tiff(tmp_path / f"a{t}.tif", array, "ZCYX", **metadata)
    volume = open_volume(tmp_path)
    assert volume.voxel_size[0] == 0.5
    assert (volume.time_step, volume.channel_names) == (2.0, ("DNA", "actin"))


def test_many_files_need_no_handles_and_little_time(write_files):
    folder = write_files([f"z{z}.tif" for z in range(500)], "YX")
    before, start = psutil.Process().num_fds(), time.perf_counter()
    volume = open_volume(folder)
    assert volume.read().shape == (500, 4, 5, 1)
    assert psutil.Process().num_fds() == before
    assert time.perf_counter() - start < 10


def test_a_file_that_changes_changes_the_identity(write_files):
    folder = write_files(["a0.tif", "a1.tif"], "ZYX")
    before = open_volume(folder).signature()
    assert open_volume(folder).signature() == before
    os.utime(folder / "a1.tif", ns=(0, 0))
    assert open_volume(folder).signature() != before


# What is no image


def test_a_missing_combination_is_named(write_files):
    names = [f"C{c}_T{t}.tif" for c in range(2) for t in range(3)]
    names.remove("C1_T2.tif")
    with pytest.raises(ValueError, match=r"C\*\.tif lacks the file of T 2, C 1: of 5 files, 6 are needed"):
        open_volume(write_files(names, "ZYX") / "C*.tif")


def test_a_gap_in_time_is_warned_of(write_files):
    folder = write_files([f"t{t}.tif" for t in (0, 5, 10, 20, 25)], "ZYX")
    with pytest.warns(UserWarning, match="after T 10 follows 20, while others are 5 apart"):
        assert len(open_volume(folder).frames) == 5


def test_two_files_of_one_place_are_refused(write_files):
    folder = write_files(["t1.tif", "t01.tif", "t2.tif"], "ZYX")
    with pytest.raises(ValueError, match=r"t0?1\.tif and .*t0?1\.tif are both T 1"):
        open_volume(folder)


@pytest.mark.parametrize("odd", [0, 2])
def test_the_odd_one_out_is_named(write_files, tmp_path, odd):
    write_files([f"t{t}.tif" for t in range(4)], "ZYX")
    tifffile.imwrite(tmp_path / f"t{odd}.tif", np.zeros((2, 4, 5), np.uint16), metadata={"axes": "ZYX"})
    with pytest.raises(ValueError, match=rf"t{odd}\.tif is \(2, 4, 5\) .* the other files .* \(3, 4, 5\)"):
        open_volume(tmp_path)


@pytest.mark.parametrize("names", [["a1_b1", "a1_b2", "a2_b1", "a2_b2"], ["a_t1_7", "a_t1_8", "a_t2_7"], ["a", "b"]])
def test_names_that_do_not_tell_what_a_file_is_are_refused(write_files, names):
    folder = write_files([f"{name}.tif" for name in names], "ZYX")
    with pytest.raises(ValueError, match=r"matches [2-4] files, but .*cannot be told what each is.*--axes"):
        open_volume(folder)


def test_an_axis_of_the_files_cannot_be_one_of_the_set_too(write_files):
    folder = write_files(["cell_t1.tif", "cell_t2.tif"], "TZYX")
    with pytest.raises(ValueError, match=r"has the axis T twice: .*cell_t1\.tif has the axes TZYX.*PTZYX"):
        open_volume(folder)
    assert len(open_volume(folder, axes="PTZYX").frames) == 4


def test_two_axes_for_three_numbers_are_refused(write_files):
    folder = write_files([f"{i}_{k}_{m}.tif" for i in range(2) for k in range(2) for m in range(2)], "ZYX")
    with pytest.raises(ValueError, match="3 numbers vary: the axes 'PTZYX' name 2 of them"):
        open_volume(folder, axes="PTZYX")


def test_a_pattern_that_matches_nothing_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cell_t\*\.tif matches no file"):
        open_volume(tmp_path / "cell_t*.tif")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*\.tif"):
        open_volume(tmp_path)
