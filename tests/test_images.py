"""Files that hold several images which differ: told apart, and all restored."""

import json
import warnings

import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from lif_files import write_lif

from rcan.commands.apply import main
from rcan.io.opening import list_images, open_volume

zarr = pytest.importorskip("zarr")
TITLES = ["before", "after drug", "Series 9"]


@pytest.fixture
def arrays(rng):
    """Three images of different numbers of planes."""
    return [rng.gamma(2, 500, (planes, 20, 21)).astype(np.uint16) for planes in (5, 6, 7)]


def write_ome(path, arrays, voxel_sizes=(0.1, 0.1, 0.1)):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for array, title, size in zip(arrays, TITLES, voxel_sizes, strict=False):
            calibration = {"PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeZ": 0.5}
            tiff.write(array, photometric="minisblack", metadata={"axes": "ZYX", "Name": title, **calibration})
    return path


def write_leica(path, arrays):
    pytest.importorskip("bioio_lif", reason='needs python -m pip install "rcan-microscopy[bioio]"')
    return write_lif(path, [(title, "ZYX", array) for title, array in zip(TITLES, arrays, strict=False)])


def write_zarr(path, arrays):
    """The scenes of a file, as Bio-Formats writes them."""
    zarr.open_group(path, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    for number, array in enumerate(arrays):
        group = zarr.open_group(path / str(number), mode="w", zarr_format=2)
        group.create_array("0", data=array)
        axes = [{"name": name, "type": "space"} for name in "zyx"]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    return path


WRITERS = {"a.ome.tif": write_ome, "a.lif": write_leica, "a.zarr": write_zarr}


@pytest.fixture
def network(tmp_path):
    """A run folder of a network that changes nothing."""
    folder = tmp_path / "same"
    folder.mkdir()
    inputs = keras.Input((None, None, None, 1))
    keras.Model(inputs, layers.Rescaling(1.0)(inputs)).save(folder / "best.keras")
    (folder / "training.json").write_text(json.dumps({"percentiles": [2, 99.9], "patch_shape": [8, 16, 16]}))
    return folder


@pytest.fixture
def run(network, capfd):
    """Run the command: `out, err = run("-i", …, status=0)`."""

    def run(*flags, status=0):
        assert main(["-m", str(network), *map(str, flags)]) == status, capfd.readouterr()
        return capfd.readouterr()

    return run


def read(path):
    with open_volume(path) as volume:
        return volume.read()[..., 0]


# Telling them apart


@pytest.mark.parametrize("name", WRITERS)
def test_images_that_differ_are_listed_and_opened_one_by_one(tmp_path, arrays, name):
    images = list_images(WRITERS[name](tmp_path / name, arrays))
    assert [image.number for image in images] == [1, 2, 3]
    for image, array in zip(images, arrays, strict=True):
        np.testing.assert_array_equal(read(image), array)


@pytest.mark.parametrize("name", WRITERS)
def test_images_that_are_alike_are_one(tmp_path, arrays, name):
    path = WRITERS[name](tmp_path / name, [arrays[0], arrays[0] + 1])
    assert list_images(path) == [(path, None, "")]
    assert open_volume(path).sizes["P"] == 2


def test_images_of_different_voxel_size_are_not_alike(tmp_path, arrays):
    path = write_ome(tmp_path / "a.ome.tif", [arrays[0]] * 2, voxel_sizes=(0.1, 0.2))
    assert [open_volume(image).voxel_size for image in list_images(path)] == [(0.5, 0.1, 0.1), (0.5, 0.2, 0.2)]


def test_axes_of_one_image_take_alike_images_apart(tmp_path, arrays):
    path = write_ome(tmp_path / "a.ome.tif", [arrays[0]] * 2)
    assert [image.number for image in list_images(path, axes="ZYX")] == [1, 2]
    assert len(list_images(path, axes="PZYX")) == 1


@pytest.mark.parametrize(("name", "title"), [("a.ome.tif", "after drug"), ("a.lif", "after drug"), ("a.zarr", "2")])
def test_an_image_is_named_by_number_or_title(tmp_path, arrays, name, title):
    path = WRITERS[name](tmp_path / name, arrays)
    for image in title, 2:
        np.testing.assert_array_equal(open_volume(path, image=image).read()[..., 0], arrays[1])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("image", [0, 4, "during"])
def test_an_image_that_is_not_there_is_an_error(tmp_path, arrays, name, image):
    path = WRITERS[name](tmp_path / name, arrays)
    with pytest.raises(ValueError, match=rf"{name} has no image '{image}': it holds 1"):
        open_volume(path, image=image)


def test_the_first_is_read_with_a_warning_where_none_is_named(tmp_path, arrays):
    path = write_leica(tmp_path / "a.lif", arrays)
    with pytest.warns(UserWarning, match=r"a\.lif holds 3 images that differ: only the first is read"):
        assert open_volume(path).sizes["Z"] == 5


def test_images_without_planes_do_not_shift_the_calibration(tmp_path, arrays):
    path = write_ome(tmp_path / "a.ome.tif", arrays[:2], voxel_sizes=(0.1, 0.2))
    empty = '<Image ID="Image:9" Name="lost"><Pixels ID="Pixels:9" DimensionOrder="XYZCT" Type="uint16" SizeX="1" '
    empty += 'SizeY="1" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="9"><MetadataOnly/></Pixels></Image>'
    xml = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, xml.replace("<Image ", f"{empty}<Image ", 1).encode())
    assert [open_volume(image).voxel_size[-1] for image in list_images(path)] == [0.1, 0.2]


# Restoring


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.ome.tif", ["a_1_before.tif", "a_2_after_drug.tif", "a_3_Series_9.tif"]),
        ("a.lif", ["a_1_before.tif", "a_2_after_drug.tif", "a_3_Series_9.tif"]),
        ("a.zarr", ["a_1.zarr", "a_2.zarr", "a_3.zarr"]),
    ],
)
def test_all_images_of_a_folder_are_restored(tmp_path, run, arrays, name, expected):
    (tmp_path / "raw").mkdir()
    WRITERS[name](tmp_path / "raw" / name, arrays)
    out, _ = run("-i", tmp_path / "raw", "-o", tmp_path / "out")
    assert "3 of 3 restored" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [other for other in names if other != "manifest.jsonl"] == expected
    for other, array in zip(expected, arrays, strict=True):
        np.testing.assert_allclose(read(tmp_path / "out" / other), array, rtol=1e-3, atol=1)


def test_a_file_of_several_images_goes_to_a_folder(tmp_path, run, arrays):
    path = write_ome(tmp_path / "a.ome.tif", arrays)
    _, err = run("-i", path, "-o", tmp_path / "out.tif", status=1)
    assert "a.ome.tif holds 3 images: name a folder with -o instead of" in err
    assert "--image" in err
    run("-i", path, "-o", tmp_path / "out")
    assert len([*(tmp_path / "out").glob("a_*.tif")]) == 3


@pytest.mark.parametrize("image", ["2", "after drug"])
def test_one_image_is_restored_alone(tmp_path, run, arrays, image):
    path = write_ome(tmp_path / "a.ome.tif", arrays)
    run("-i", path, "-o", tmp_path / "out.tif", "--image", image)
    np.testing.assert_allclose(read(tmp_path / "out.tif"), arrays[1], rtol=1e-3, atol=1)


def test_one_image_of_a_zarr_goes_to_a_folder_or_alone(tmp_path, run, arrays):
    path = write_zarr(tmp_path / "a.zarr", arrays)
    run("-i", path, "-o", tmp_path / "out", "--image", 2)
    run("-i", path, "-o", tmp_path / "alone.zarr", "--image", 2)
    for other in tmp_path / "out/a_2.zarr", tmp_path / "alone.zarr":
        np.testing.assert_allclose(read(other), arrays[1], rtol=1e-3, atol=1)


def test_a_second_call_restores_the_images_that_are_not_there(tmp_path, run, arrays):
    path = write_ome(tmp_path / "a.ome.tif", arrays)
    run("-i", path, "-o", tmp_path / "out", "--image", 2)
    out, _ = run("-i", path, "-o", tmp_path / "out")
    assert "3 of 3 restored, 1 of them before" in out
    entries = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [entry["settings"]["image"] for entry in entries] == [2, 1, 3]


def test_an_image_that_cannot_be_restored_leaves_the_others(tmp_path, run, arrays):
    pytest.importorskip("bioio_lif", reason='needs python -m pip install "rcan-microscopy[bioio]"')
    path = tmp_path / "a.lif"
    write_lif(path, [("line", "ZX", arrays[0][:, 0].copy()), ("stack", "ZYX", arrays[1])])
    out, err = run("-i", path, "-o", tmp_path / "out", status=1)
    assert f"error: {path}, image 1 (line) is an XZ scan, planes of one line along Y" in err
    assert "1 of 2 restored" in out
    np.testing.assert_allclose(read(tmp_path / "out/a_2_stack.tif"), arrays[1], rtol=1e-3, atol=1)


def test_each_image_has_its_own_ground_truth(tmp_path, run, arrays):
    raw, gt = (write_ome(tmp_path / f"{kind}.ome.tif", arrays) for kind in ("raw", "gt"))
    run("-i", raw, "-g", gt, "-o", tmp_path / "out")
    assert len((tmp_path / "out/scores.csv").read_text().splitlines()) == 4
    write_ome(gt, arrays[:2])
    _, err = run("-i", raw, "-g", gt, "-o", tmp_path / "out", status=1)
    assert f"error: {gt} has no image '3': it holds 1 (before), 2 (after drug)." in err


def test_a_damaged_file_is_not_blamed_on_the_output(tmp_path, run):
    pytest.importorskip("bioio_lif", reason='needs python -m pip install "rcan-microscopy[bioio]"')
    (tmp_path / "a.lif").write_bytes(b"damaged")
    _, err = run("-i", tmp_path / "a.lif", "-o", tmp_path / "out", status=1)
    assert f"error: {tmp_path / 'a.lif'} cannot be read as a .lif image" in err
    assert "does not end in" not in err


def test_a_damaged_file_of_a_folder_leaves_the_others(tmp_path, run, arrays):
    (tmp_path / "raw").mkdir()
    write_ome(tmp_path / "raw/a.ome.tif", arrays)
    (tmp_path / "raw/b.ome.tif").write_bytes(b"II*\0 damaged")
    out, err = run("-i", tmp_path / "raw", "-o", tmp_path / "out", status=1)
    assert "3 of 4 restored" in out
    assert f"error: {tmp_path / 'raw/b.ome.tif'} " in err


def test_a_pattern_is_one_image_whatever_its_files_hold(tmp_path, run, arrays):
    for t in range(2):
        write_ome(tmp_path / f"c_t{t}.ome.tif", arrays)
    run("-i", tmp_path / "c_t*.ome.tif", "-o", tmp_path / "out.tif", "--image", 2)
    assert open_volume(tmp_path / "out.tif").sizes == {"T": 2, "Z": 6, "Y": 20, "X": 21}
    _, err = run("-i", tmp_path / "c_t*.ome.tif", "-o", tmp_path / "out", "--image", 2, status=1)
    assert "out does not end in .tif, .tiff or .zarr" in err


def test_rounding_of_voxel_sizes_makes_no_other_image(tmp_path, arrays):
    path = write_ome(tmp_path / "a.ome.tif", [arrays[0]] * 2, voxel_sizes=(0.29999, 0.30001))
    assert open_volume(path).sizes["P"] == 2


def test_nothing_is_warned_of_where_all_are_restored(tmp_path, run, arrays):
    path = write_ome(tmp_path / "a.ome.tif", arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("-i", path, "-o", tmp_path / "out")
    assert len([*(tmp_path / "out").glob("a_*.tif")]) == 3
