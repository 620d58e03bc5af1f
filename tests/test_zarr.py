import errno
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rcan.io import zarr_writing
from rcan.io.cache import cache, limit_cache
from rcan.io.opening import create_volume, open_volume
from rcan.io.zarr import ZarrSource
from rcan.io.zarr_writing import ZarrSink

zarr = pytest.importorskip("zarr", minversion="3", reason="zarr 3 is absent, it needs Python 3.11")
SIZES = {"P": 3, "T": 2, "C": 2, "Z": 4, "Y": 6, "X": 7}
TYPES = {"t": "time", "c": "channel"}
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])


def write_group(folder, attributes, version="0.5"):
    if version == "0.5":
        attributes = {"ome": {"version": version, **attributes}}
    zarr.create_group(folder, zarr_format=3 if version == "0.5" else 2, attributes=attributes)
    return folder


def write_image(folder, array, axes, *, version="0.5", scale=None, units=None, outer_scale=None, labels=(), **options):
    """An OME-Zarr image with one level, made by zarr."""
    options = {"chunks": tuple(min(3, size) for size in array.shape), **options}
    options |= {"shape": array.shape, "dtype": array.dtype, "zarr_format": 3 if version == "0.5" else 2}
    zarr.create_array(folder / "0", **options)[...] = array
    named = [{"name": axis, "type": TYPES.get(axis, "space")} for axis in axes.lower()]
    for axis, unit in zip(named, units or (), strict=False):
        axis |= {"unit": unit} if unit else {}
    scale = [{"type": "scale", "scale": list(scale or (1.0,) * array.ndim)}]
    multiscale = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    if outer_scale:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": outer_scale}]
    channels = [{"label": label, "color": "FFFFFF"} for label in labels]
    return write_group(folder, {"multiscales": [multiscale], "omero": {"channels": channels}}, version=version)


def write_scenes(folder, arrays, axes, version="0.5"):
    for number, array in enumerate(arrays):
        write_image(folder / str(number), array, axes, version=version)
    return write_group(folder, {"bioformats2raw.layout": 3}, version)


def make(path, array, axes, **options):
    """Write an array with the axes PTZYXC, in one block a frame."""
    full = dict(zip("PTZYXC", array.shape, strict=True))
    with ZarrSink(path, axes, {axis: full[axis] for axis in axes}, array.dtype, **options) as out:
        for p, t in np.ndindex(array.shape[:2]):
            out.write({"P": p, "T": t}, None, array[p, t])
    return path


def read_all(path, **options):
    """(P, T, Z, Y, X, C)"""
    with open_volume(path, **options) as volume:
        blocks = np.stack([volume.read(frame, dtype=None) for frame in volume.frames])
        outer = [volume.sizes.get(axis, 1) for axis in "PT"]
        return blocks.reshape(*outer, *blocks.shape[1:])


def level_metadata(path, level):
    """Scale and translation (None where not given) of one level."""
    attributes = zarr.open_group(path, mode="r").attrs["ome"]
    entry = attributes["multiscales"][0]["datasets"][level]["coordinateTransformations"]
    return entry[0]["scale"], entry[1]["translation"] if entry[1:] else None


@pytest.fixture
def values(rng):
    """Random integers with the axes that are named: `values("TZYXC")`, PTZYXC."""

    def draw(axes):
        return rng.integers(0, 60000, [SIZES[axis] if axis in axes else 1 for axis in "PTZYXC"], np.uint16)

    return draw


# Round trips


@VERSIONS
@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "ZYXC", "TZYX", "TCZYX", "PZYX", "XYZCTP"])
def test_what_is_written_is_read_back(tmp_path, values, axes, version):
    array = values(axes)
    path = make(tmp_path / "a.ome.zarr", array, axes, version=version)
    volume = open_volume(path)
    assert volume.axes == "".join(axis for axis in "PTCZYX" if axis in axes)
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(read_all(path), array)


@VERSIONS
def test_zarr_finds_the_axes_in_the_order_of_the_standard(tmp_path, values, version):
    array = values("TZYXC")
    path = make(tmp_path / "a.zarr", array, "TZYXC", version=version)
    stored = zarr.open_array(path / "0", mode="r")
    assert stored.metadata.zarr_format == {"0.4": 2, "0.5": 3}[version]
    np.testing.assert_array_equal(stored[:], np.moveaxis(array[0], -1, 1))


@VERSIONS
@pytest.mark.parametrize("axes", ["YX", "ZYX", "TCZYX"])
def test_an_image_satisfies_the_models_of_the_standard(tmp_path, values, axes, version):
    models = pytest.importorskip("ome_zarr_models", reason="it needs Python 3.11 to 3.13")
    facts = {"voxel_size": (0.4, 0.1, 0.1), "time_step": 2.0, "version": version}
    names = ["a", "b"] if "C" in axes else None
    path = make(tmp_path / "a.zarr", values(axes), axes, channel_names=names, **facts)
    image = models.open_ome_zarr(zarr.open_group(path, mode="r"))
    assert image.ome_zarr_version == version
    assert type(image).__name__ == "Image"


@VERSIONS
def test_positions_satisfy_the_models_of_the_standard(tmp_path, values, version):
    pytest.importorskip("ome_zarr_models", reason="it needs Python 3.11 to 3.13")
    from ome_zarr_models.v04.bioformats2raw import BioFormats2Raw as Model04
    from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw as Model05

    path = make(tmp_path / "a.zarr", values("PZYX"), "PZYX", version=version)
    model = {"0.4": Model04, "0.5": Model05}[version].from_zarr(zarr.open_group(path, mode="r"))
    assert model.image_paths == ["0", "1", "2"]


@VERSIONS
def test_calibration_and_channel_names_are_kept(tmp_path, values, version):
    facts = {"voxel_size": (0.5, 0.125, 0.25), "time_step": 1.5, "channel_names": ("actin", "DNA")}
    volume = open_volume(make(tmp_path / "a.zarr", values("TCZYX"), "TCZYX", version=version, **facts))
    assert {name: getattr(volume, name) for name in facts} == facts


@VERSIONS
def test_what_is_unknown_stays_unknown(tmp_path, values, version):
    volume = open_volume(make(tmp_path / "a.zarr", values("TCZYX"), "TCZYX", version=version))
    assert (volume.voxel_size, volume.time_step, volume.channel_names) == ((None, None, None), None, None)


def test_a_lonely_voxel_size_is_kept(tmp_path, values):
    path = make(tmp_path / "a.zarr", values("ZYX"), "ZYX", voxel_size=(0.5, None, None))
    assert open_volume(path).voxel_size == (0.5, None, None)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "float32", "float64"])
def test_each_type_is_kept(tmp_path, values, dtype):
    array = values("ZYX").astype(dtype)
    path = make(tmp_path / "a.zarr", array, "ZYX")
    assert open_volume(path).dtype == dtype
    np.testing.assert_array_equal(read_all(path), array)


@VERSIONS
def test_create_volume_writes_it(tmp_path, values, version):
    array, path = values("ZYX"), tmp_path / "a.zarr"
    file_format = {"0.4": "zarr-0.4", "0.5": "zarr"}[version]
    sizes = {axis: SIZES[axis] for axis in "ZYX"}
    with create_volume(path, axes="ZYX", sizes=sizes, dtype="uint16", file_format=file_format) as out:
        out.write({}, None, array[0, 0])
    np.testing.assert_array_equal(read_all(path), array)


# Reading: axes and calibration


@pytest.mark.parametrize(("step", "unit", "size"), [
    (0.25, "micrometer", 0.25),
    (250, "nanometer", 0.25),
    (0.002, "millimeter", 2),
    (5, "angstrom", 5e-4),
    (1, "inch", 25400),
    (0.25, "µm", 0.25),
    (1, None, None),
    (1, "furlong", None),
    (0, "micrometer", None),
    (-1, "micrometer", None),
])  # fmt: skip
def test_a_voxel_size_has_the_unit_of_its_axis(tmp_path, step, unit, size):
    path = write_image(tmp_path / "a.zarr", np.zeros((2, 4, 5), np.uint8), "ZYX", scale=(step, 1, 1), units=(unit,))
    assert open_volume(path).voxel_size == (size and pytest.approx(size), None, None)


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("second", 2), ("millisecond", 0.002), ("minute", 120), ("hour", 7200), (None, None)],
)
def test_a_time_step_has_the_unit_of_its_axis(tmp_path, unit, seconds):
    array = np.zeros((3, 4, 5), np.uint8)
    path = write_image(tmp_path / "a.zarr", array, "TYX", scale=(2, 1, 1), units=(unit,))
    assert open_volume(path).time_step == seconds


def test_the_scale_of_all_levels_multiplies_that_of_the_first(tmp_path):
    path = write_image(
        tmp_path / "a.zarr",
        np.zeros((2, 4, 5), np.uint8),
        "ZYX",
        scale=(1, 0.5, 0.5),
        outer_scale=(4, 2, 3),
        units=("micrometer",) * 3,
    )
    assert open_volume(path).voxel_size == (4, 1, 1.5)


def test_channel_names_that_do_not_fit_are_not_taken(tmp_path):
    path = write_image(tmp_path / "a.zarr", np.zeros((2, 4, 5), np.uint8), "CYX", labels=("a", "b", "c"))
    assert open_volume(path).channel_names is None


def test_an_axis_of_another_name_is_known_by_its_type(tmp_path, rng):
    array = rng.integers(0, 9, (2, 4, 5), np.uint8)
    path = write_image(tmp_path / "a.zarr", array, "CYX")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["ome"]["multiscales"][0]["axes"][0]["name"] = "wavelength"
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert open_volume(path).axes == "CYX"


@pytest.mark.parametrize("axes", [None, ["t", "c", "z", "y", "x"]])
def test_axes_of_older_versions_are_known(tmp_path, axes):
    path = write_image(tmp_path / "a.zarr", np.zeros((3, 2, 4, 5, 6), np.uint8), "TCZYX", version="0.4")
    metadata = json.loads((path / ".zattrs").read_text())
    metadata["multiscales"][0] |= {"axes": axes}
    del metadata["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    (path / ".zattrs").write_text(json.dumps(metadata))
    volume = open_volume(path)
    assert (volume.axes, volume.voxel_size) == ("TCZYX", (None, None, None))


def test_axes_of_length_one_are_left_out(tmp_path):
    path = write_image(tmp_path / "a.zarr", np.zeros((1, 1, 4, 5, 6), np.uint8), "TCZYX")
    assert open_volume(path).axes == "ZYX"
    assert open_volume(path, axes="CZYX").axes == "CZYX"


def test_the_voxel_size_of_a_single_plane_is_known(tmp_path):
    path = write_image(
        tmp_path / "a.zarr", np.zeros((1, 5, 6), np.uint8), "ZYX", scale=(2, 1, 1), units=("micrometer",) * 3
    )
    assert open_volume(path).voxel_size == (2, 1, 1)


def test_axes_named_by_the_user_override_the_metadata(tmp_path, rng):
    array = rng.integers(0, 9, (2, 4, 5), np.uint8)
    path = write_image(tmp_path / "a.zarr", array, "ZYX", scale=(3, 2, 1), units=("second", "micrometer", "micrometer"))
    volume = open_volume(path, axes="TYX")
    assert (volume.axes, volume.time_step, volume.voxel_size) == ("TYX", 3, (None, 2, 1))
    np.testing.assert_array_equal(read_all(path, axes="TYX")[0, :, 0, ..., 0], array)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plain_array_is_zyx(tmp_path, rng, zarr_format):
    array = rng.integers(0, 9, (2, 4, 5), np.uint8)
    zarr.create_array(tmp_path / "a.zarr", data=array, zarr_format=zarr_format)
    assert open_volume(tmp_path / "a.zarr").axes == "ZYX"
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr")[0, 0, ..., 0], array)


def test_a_plain_array_of_four_dimensions_is_czyx_with_a_warning(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.warns(UserWarning, match="CZYX is assumed"):
        assert open_volume(tmp_path / "a.zarr").axes == "CZYX"
    assert open_volume(tmp_path / "a.zarr", axes="TZYX").axes == "TZYX"


def test_a_plain_array_may_name_its_dimensions(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((3, 2, 4, 5), np.uint8), dimension_names=["z", "c", "y", "x"])
    assert open_volume(tmp_path / "a.zarr").axes == "ZCYX"


# Reading: positions


@VERSIONS
def test_scenes_of_one_shape_are_positions(tmp_path, values, version):
    array = values("PZYX")
    path = write_scenes(tmp_path / "a.zarr", array[:, 0, ..., 0], "ZYX", version)
    assert open_volume(path).sizes == {"P": 3, "Z": 4, "Y": 6, "X": 7}
    np.testing.assert_array_equal(read_all(path), array)
    assert open_volume(path, axes="PTYX").axes == "PTYX"


def test_scenes_come_in_the_order_that_the_series_names(tmp_path, values):
    array = values("PZYX")
    path = write_scenes(tmp_path / "a.zarr", array[:, 0, ..., 0], "ZYX")
    write_group(path / "OME", {"series": ["2", "0"]})
    np.testing.assert_array_equal(read_all(path), array[[2, 0]])


def test_a_single_scene_is_no_position(tmp_path, values):
    path = write_scenes(tmp_path / "a.zarr", values("ZYX")[:, 0, ..., 0], "ZYX")
    assert open_volume(path).axes == "ZYX"


def test_of_scenes_that_differ_the_first_is_read_with_a_warning(tmp_path):
    arrays = np.ones((2, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8)
    path = write_scenes(tmp_path / "a.zarr", arrays, "ZYX")
    with pytest.warns(UserWarning, match=r"a\.zarr holds 2 images that differ: only the first is read"):
        volume = open_volume(path)
    assert volume.sizes == {"Z": 2, "Y": 4, "X": 5}
    assert volume.read().all()


@VERSIONS
def test_fields_of_a_plate_are_positions(tmp_path, values, version):
    array, path = values("PZYX"), tmp_path / "plate.zarr"
    fields = [("A/1", "0"), ("A/1", "1"), ("B/12", "0")]
    for (well, field), image in zip(fields, array[:, 0, ..., 0], strict=True):
        write_image(path / well / field, image, "ZYX", version=version)
    write_group(path / "A/1", {"well": {"images": [{"path": "0"}, {"path": "1"}]}}, version)
    write_group(path / "B/12", {"well": {"images": [{"path": "0"}]}}, version)
    write_group(path, {"plate": {"wells": [{"path": "A/1"}, {"path": "B/12"}]}}, version)
    np.testing.assert_array_equal(read_all(path), array)
    np.testing.assert_array_equal(read_all(path / "A/1"), array[:2])


def test_axes_of_several_positions_begin_with_p(tmp_path, values):
    path = write_scenes(tmp_path / "a.zarr", values("PZYX")[:, 0, ..., 0], "ZYX")
    with pytest.raises(ValueError, match=r"a\.zarr cannot have the axes 'ZPYX'.*P comes first: PZYX"):
        open_volume(path, axes="ZPYX")


def test_axes_of_one_image_choose_the_first_of_several_with_a_warning(tmp_path, values):
    array = values("PZYX")[:, 0, ..., 0]
    path = write_scenes(tmp_path / "a.zarr", array, "ZYX")
    with pytest.warns(UserWarning, match=r"a\.zarr holds 3 images: only the first is read\. .*with P"):
        volume = open_volume(path, axes="ZYX")
    np.testing.assert_array_equal(volume.read()[..., 0], array[0])


# Reading: pixels


@pytest.mark.parametrize("region", [(slice(0, 1), slice(2, 5), slice(6, 7)), (slice(1, 4), slice(0, 6), slice(2, 3))])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_region_is_a_slice_of_the_whole(tmp_path, values, region, version):
    array = values("CZYX")
    path = write_image(tmp_path / "a.zarr", np.moveaxis(array[0, 0], -1, 0), "CZYX", version=version)
    np.testing.assert_array_equal(open_volume(path).read(region=region), array[0, 0][region])


@pytest.mark.parametrize("stored", [bool, ">u2", "<i8", "float16", ">f4"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_stored_types_become_native(tmp_path, rng, stored, version):
    array = rng.integers(0, 2, (3, 4, 5)).astype(stored)
    path = write_image(tmp_path / "a.zarr", array, "ZYX", version=version)
    expected = np.dtype(np.uint8 if stored is bool else stored).newbyteorder("=")
    assert open_volume(path).dtype == expected
    assert open_volume(path).dtype.isnative
    np.testing.assert_array_equal(read_all(path)[0, 0, ..., 0], array)


@pytest.mark.parametrize("stored", ["complex64", "datetime64[s]"])
def test_what_is_no_grey_value_is_refused(tmp_path, stored):
    path = write_image(tmp_path / "a.zarr", np.zeros((3, 4, 5), stored), "ZYX", version="0.4")
    with pytest.raises(ValueError, match=r"a\.zarr stores values of an unsupported kind.*Save it as uint16"):
        open_volume(path)


def test_the_level_of_full_resolution_is_read(tmp_path, rng):
    array = rng.random((1, 1, 1, 5, 600, 1), np.float32)
    np.testing.assert_array_equal(read_all(make(tmp_path / "a.zarr", array, "YX")), array)


def test_a_decoded_chunk_is_kept_until_close(tmp_path, values):
    path = write_image(tmp_path / "a.zarr", values("ZYX")[0, 0, ..., 0], "ZYX", chunks=(4, 6, 7))
    volume = open_volume(path)
    block = volume.read()
    shutil.rmtree(path / "0" / "c")
    np.testing.assert_array_equal(volume.read(), block)
    volume.close()
    assert not volume.read().any()  # a chunk that is not stored


def test_no_more_is_kept_than_the_cache_may(tmp_path, values):
    path = write_image(tmp_path / "a.zarr", values("ZYX")[0, 0, ..., 0], "ZYX")
    try:
        limit_cache(100)
        open_volume(path).read()
        assert cache.num_bytes <= 100
    finally:
        limit_cache(None)


def test_a_chunk_that_is_not_stored_holds_the_fill_value(tmp_path):
    write_image(tmp_path / "a.zarr", np.ones((4, 6, 6), np.uint8), "ZYX", fill_value=7, chunks=(4, 6, 3))
    os.remove(tmp_path / "a.zarr/0/c/0/0/1")
    expected = np.ones((4, 6, 6, 1))
    expected[..., 3:, :] = 7
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(), expected)


def test_a_shard_is_not_decoded_whole(tmp_path, values):
    array = values("ZYX")[0, 0, ..., 0]
    path = write_image(tmp_path / "a.zarr", array, "ZYX", chunks=(1, 6, 7), shards=(4, 6, 7))
    shard = path / "0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[:20] = bytes(20)  # of the first of the four chunks
    shard.write_bytes(data)
    volume = open_volume(path)
    later = (slice(1, 4), slice(0, 6), slice(0, 7))
    np.testing.assert_array_equal(volume.read(region=later)[..., 0], array[1:])
    with pytest.raises(ValueError, match=r"a\.zarr cannot be read"):
        volume.read()


def test_many_threads_may_read_at_once(tmp_path, values):
    array = values("TCZYX")
    path = make(tmp_path / "a.zarr", array, "TCZYX")
    regions = [
        (slice(z, 4), slice(y, y + 2), slice(x, 7)) for z, y, x in itertools.product(range(4), range(4), range(7))
    ]
    with open_volume(path) as volume, ThreadPoolExecutor(8) as pool:
        blocks = pool.map(lambda region: volume.read({"T": 1}, region, dtype=None), regions)
        for region, block in zip(regions, blocks, strict=True):
            np.testing.assert_array_equal(block, array[0, 1][region])


# Damage


def break_json(path):
    (path / "zarr.json").write_text('{"attributes": {')


def lose_metadata(path):
    (path / "0/zarr.json").unlink()


def lose_array(path):
    shutil.rmtree(path / "0")


def lose_datasets(path):
    write_metadata(path, lambda ome: ome["multiscales"][0].pop("datasets"))


def lose_multiscales(path):
    write_metadata(path, lambda ome: ome.clear())


def empty_multiscales(path):
    write_metadata(path, lambda ome: ome["multiscales"].clear())


def lose_an_axis(path):
    write_metadata(path, lambda ome: ome["multiscales"][0]["axes"].pop(0))


def shorten_scale(path):
    level = "coordinateTransformations"
    write_metadata(path, lambda ome: ome["multiscales"][0]["datasets"][0][level][0]["scale"].pop(0))


def repeat_an_axis(path):
    write_metadata(path, lambda ome: ome["multiscales"][0]["axes"][0].update(name="y"))


def break_array_json(path):
    (path / "0/zarr.json").write_text((path / "0/zarr.json").read_text()[:-40])


def name_an_unknown_codec(path):
    text = (path / "0/zarr.json").read_text()
    (path / "0/zarr.json").write_text(text.replace('"bytes"', '"secret"'))


def make_chunks_huge(path):
    text = json.loads((path / "0/zarr.json").read_text())
    text["shape"] = text["chunk_grid"]["configuration"]["chunk_shape"] = [10**6, 10**6, 10**6]
    (path / "0/zarr.json").write_text(json.dumps(text))


def lose_all_pixels(path):
    text = json.loads((path / "0/zarr.json").read_text())
    (path / "0/zarr.json").write_text(json.dumps(text | {"shape": [0, 6, 7]}))


def write_metadata(path, change):
    metadata = json.loads((path / "zarr.json").read_text())
    change(metadata["attributes"]["ome"])
    (path / "zarr.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(("damage", "message"), [
    (break_json, "is not JSON.*restore it from a copy"),
    (lose_metadata, "has lost its array '0'.*Copy or export it again"),
    (lose_array, "has lost its array '0'.*Copy or export it again"),
    (lose_datasets, "metadata lack 'datasets'.*Copy or export it again"),
    (lose_multiscales, "without OME metadata: name the folder of one of its images"),
    (empty_multiscales, "cannot be read as a Zarr image.*Copy or export it again"),
    (lose_an_axis, "3 dimensions, its metadata describe 2 and 3.*Export it again"),
    (shorten_scale, "3 dimensions, its metadata describe 3 and 2.*Export it again"),
    (repeat_an_axis, r"does not name the axes of its shape \(4, 6, 7\).*raw_data_format"),
    (break_array_json, "is not JSON.*restore it from a copy"),
    (name_an_unknown_codec, "cannot be read as a Zarr image.*Copy or export it again"),
    (make_chunks_huge, "do not fit the memory that is free.*smaller chunks"),
    (lose_all_pixels, "holds no pixels.*Export it again"),
])  # fmt: skip
def test_damage_is_one_error_with_a_way_out(tmp_path, values, damage, message):
    path = write_image(tmp_path / "a.zarr", values("ZYX")[0, 0, ..., 0], "ZYX")
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        open_volume(path)
    assert str(caught.value).startswith(str(path))


def lose_an_image(path):
    shutil.rmtree(path / "1")


def lose_the_layout(path):
    write_metadata(path, lambda ome: ome.update({"bioformats2raw.layout": 3, "series": []}))
    shutil.rmtree(path / "OME")
    for number in range(3):
        shutil.rmtree(path / str(number))


@pytest.mark.parametrize(("damage", "message"), [
    (lose_an_image, "is missing, or has lost its metadata"),
    (lose_the_layout, "declares no image"),
])  # fmt: skip
def test_a_damaged_collection_is_one_error_with_a_way_out(tmp_path, values, damage, message):
    path = make(tmp_path / "a.zarr", values("PZYX"), "PZYX")
    damage(path)
    with pytest.raises(ValueError, match=f"{message}.*[Cc]opy") as caught:
        open_volume(path)
    assert str(caught.value).startswith(str(path))


@VERSIONS
@pytest.mark.parametrize("data", [b"", b"not a chunk", bytes(2000)], ids=["empty", "text", "zeros"])
def test_a_chunk_that_cannot_be_decoded_is_one_error(tmp_path, values, version, data):
    path = make(tmp_path / "a.zarr", values("ZYX"), "ZYX", version=version)
    (chunk,) = (file for file in (path / "0").rglob("*") if file.name == "0" and file.is_file())
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zarr cannot be read.*Copy or export it again") as caught:
        open_volume(path).read()
    assert str(caught.value).startswith(str(path))


def test_an_image_that_changed_since_it_was_opened_is_refused(tmp_path, values):
    path = write_image(tmp_path / "a.zarr", values("ZYX")[0, 0, ..., 0], "ZYX")
    volume = open_volume(path)
    os.utime(path / "0/zarr.json", (0, 0))
    with pytest.raises(ValueError, match=r"a\.zarr has changed since it was opened. Open it again"):
        volume.read()


def test_an_image_that_vanished_is_an_error_and_not_black(tmp_path, values):
    path = write_image(tmp_path / "a.zarr", values("ZYX")[0, 0, ..., 0], "ZYX")
    volume = open_volume(path)
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError):
        volume.read()


def test_its_identity_tells_a_later_state(tmp_path, values):
    path = make(tmp_path / "a.zarr", values("PZYX"), "PZYX")
    before = open_volume(path).signature()
    assert json.loads(json.dumps(before)) == json.loads(json.dumps(open_volume(path).signature()))
    os.utime(path / "2/0/zarr.json", (0, 0))
    assert open_volume(path).signature() != before


@pytest.mark.parametrize("module", [None, types.SimpleNamespace(__version__="2.18.3")])
def test_without_zarr_3_the_extra_is_named(tmp_path, values, monkeypatch, module):
    path = make(tmp_path / "a.zarr", values("ZYX"), "ZYX")
    monkeypatch.setitem(sys.modules, "zarr", module)
    with pytest.raises(ImportError, match=r'a\.zarr.*python -m pip install "rcan-microscopy\[zarr\]"'):
        open_volume(path)
    with pytest.raises(ImportError, match=r'b\.zarr.*python -m pip install "rcan-microscopy\[zarr\]"'):
        ZarrSink(tmp_path / "b.zarr", "YX", {"Y": 2, "X": 2}, "uint8")


# Writing: blocks


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 planes, 8 x 8 pixels for uint16."""
    monkeypatch.setattr(zarr_writing, "CHUNK_PLANES", 4)
    monkeypatch.setattr(zarr_writing, "CHUNK_BYTES", 4 * 8 * 8 * 2)


def write_in_parts(path, array, *, order=1, **options):
    """Write (Z, Y, X, C) in blocks that no chunk is aligned with."""
    cuts = [range(0, size, step) for size, step in zip(array.shape[:3], (3, 5, 6), strict=True)]
    sizes = dict(zip("ZYXC", array.shape, strict=True))
    with ZarrSink(path, "ZYXC", sizes, array.dtype, **options) as out:
        for start in list(itertools.product(*cuts))[::order]:
            steps = zip(start, (3, 5, 6), array.shape, strict=False)
            region = tuple(slice(s, min(s + step, size)) for s, step, size in steps)
            out.write({}, region, array[region])
        assert out.chunk_shape == (4, 8, 8)
    return path


@VERSIONS
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("limit", [0, 5 * 4 * 8 * 8 * 2, 10**6])
@pytest.mark.usefixtures("small_chunks")
def test_blocks_need_not_be_aligned_with_chunks(tmp_path, rng, monkeypatch, version, order, limit):
    monkeypatch.setattr(zarr_writing, "PENDING_BYTES", limit)
    array = rng.integers(0, 60000, (6, 12, 13, 2), np.uint16)
    path = write_in_parts(tmp_path / "a.zarr", array, order=order, version=version)
    np.testing.assert_array_equal(open_volume(path).read(), array)


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_is_written_once_when_it_is_complete(tmp_path, rng, monkeypatch):
    array = rng.integers(0, 60000, (6, 12, 13, 2), np.uint16)
    written, store = [], zarr_writing.ZarrWriter._store
    monkeypatch.setattr(zarr_writing.ZarrWriter, "_store", lambda *args: (written.append(args[1]), store(*args)))
    write_in_parts(tmp_path / "a.zarr", array)
    assert len(written) == len(set(written)) == 2 * 2 * 2 * 2


@pytest.mark.usefixtures("small_chunks")
def test_chunks_may_be_written_again(tmp_path):
    sizes = {"Z": 4, "Y": 16, "X": 8}
    with ZarrSink(tmp_path / "a.zarr", "ZYX", sizes, "uint16") as out:
        out.write({}, None, np.full((4, 16, 8, 1), 5))
        out.write({}, (slice(1, 2), slice(4, 12), slice(0, 3)), np.full((1, 8, 3, 1), 9))
    expected = np.full((4, 16, 8, 1), 5)
    expected[1, 4:12, :3] = 9
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(), expected)


def test_what_is_never_written_is_zero(tmp_path):
    with ZarrSink(tmp_path / "a.zarr", "ZYX", {"Z": 3, "Y": 4, "X": 5}, "uint16") as out:
        out.write({}, (slice(0, 1), slice(0, 4), slice(0, 5)), np.ones((1, 4, 5, 1)))
    assert open_volume(tmp_path / "a.zarr").read().sum(axis=(1, 2, 3)).tolist() == [20, 0, 0]


def test_planes_and_channels_may_come_one_by_one(tmp_path, values):
    array = values("TCZYX")[0]
    sizes = {axis: SIZES[axis] for axis in "TCZYX"}
    with ZarrSink(tmp_path / "a.zarr", "TCZYX", sizes, "uint16") as out:
        for t, z, c in np.ndindex(2, 4, 2):
            out.write({"T": t, "Z": z, "C": c}, None, array[t, z, ..., c : c + 1])
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr")[0], array)


def test_integers_are_rounded_and_clipped(tmp_path):
    with ZarrSink(tmp_path / "a.zarr", "YX", {"Y": 1, "X": 5}, "uint8") as out:
        out.write({}, None, np.float32([-3, 0.4, 0.6, 254.6, 1e9]).reshape(1, 5, 1))
    assert open_volume(tmp_path / "a.zarr").read().ravel().tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(("frame", "shape"), [({}, (4, 6, 8, 1)), ({}, (4, 6, 7, 3)), ({"C": 1}, (4, 6, 7, 2))])
def test_a_block_that_does_not_fit_is_refused(tmp_path, frame, shape):
    sizes = {axis: SIZES[axis] for axis in "CZYX"}
    with (
        pytest.raises(ValueError, match=r"a\.zarr: a block of .* does not fit the region"),
        ZarrSink(tmp_path / "a.zarr", "CZYX", sizes, "uint16") as out,
    ):
        out.write(frame, None, np.zeros(shape))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 4000, 4000), (6, 900, 900), (100, 2000, 70), (3, 20, 30)])
def test_chunks_have_one_or_two_megabytes_or_the_whole_volume(tmp_path, shape, dtype):
    sizes = dict(zip("ZYX", shape, strict=True))
    chunk = ZarrSink(tmp_path / "a.zarr", "ZYX", sizes, dtype).chunk_shape
    num_bytes = np.prod(chunk) * np.dtype(dtype).itemsize
    assert num_bytes <= 2 * 2**20
    whole = all(part == size for part, size in zip(chunk[1:], shape[1:], strict=True))
    assert whole or num_bytes >= 2**19 * min(1, chunk[2] / chunk[1])


def test_writers_of_several_processes_write_one_image(tmp_path, monkeypatch, rng):
    array = rng.integers(0, 60000, (2, 600, 300, 1), np.uint16)
    work = (
        "import pickle, sys, numpy as np\n"
        "writer, region, block = pickle.load(sys.stdin.buffer)\n"
        "writer.write({}, region, block)\n"
        "writer.flush()\n"
    )
    monkeypatch.chdir(tmp_path)  # a relative path means the same in a process that works elsewhere
    with ZarrSink("a.zarr", "ZYX", {"Z": 2, "Y": 600, "X": 300}, "uint16") as out:
        assert out.chunk_shape == (2, 512, 300)
        region = (slice(0, 2), slice(512, 600), slice(0, 300))
        message = pickle.dumps((out.writer, region, array[region]))
        subprocess.run([sys.executable, "-c", work], input=message, check=True, cwd=os.path.dirname(__file__))
        out.write({}, (slice(0, 2), slice(0, 512), slice(0, 300)), array[:, :512])
    np.testing.assert_array_equal(open_volume("a.zarr").read(), array)


# Writing: levels and metadata


@VERSIONS
def test_levels_hold_averages_of_cells(tmp_path, rng, version):
    array = rng.random((1, 1, 3, 8, 1024, 2), np.float32)
    path = make(tmp_path / "a.zarr", array, "CZYX", version=version)
    expected = np.moveaxis(array[0, 0], -1, 0)
    for level in range(3):
        np.testing.assert_allclose(zarr.open_array(path / str(level), mode="r")[:], expected, rtol=1e-6)
        expected = expected.reshape(2, 3, expected.shape[2] // 2, 2, -1, 2).mean(axis=(3, 5))
    assert not (path / "3").exists()


def test_the_last_cell_of_an_odd_length_averages_what_it_has(tmp_path):
    array = np.float32(np.arange(3)[:, np.newaxis] * 1000 + np.arange(513))
    path = make(tmp_path / "a.zarr", array[None, None, None, ..., None], "YX")
    level = zarr.open_array(path / "1", mode="r")
    assert level.shape == (2, 257)
    np.testing.assert_array_equal(level[:, -1], [array[:2, 512].mean(), array[2, 512]])
    np.testing.assert_array_equal(level[1, :-1], array[2, :-1].reshape(-1, 2).mean(axis=1))


def test_averages_of_integers_are_rounded(tmp_path, rng):
    array = rng.integers(0, 60000, (1, 1, 1, 2, 512, 1), np.uint16)
    path = make(tmp_path / "a.zarr", array, "YX")
    exact = array[0, 0, 0, ..., 0].reshape(1, 2, 256, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(zarr.open_array(path / "1", mode="r")[:], np.rint(exact))


def test_levels_of_many_chunks_hold_averages_too(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(zarr_writing, "CHUNK_PLANES", 2)
    monkeypatch.setattr(zarr_writing, "CHUNK_BYTES", 2 * 64 * 64 * 4)
    array = rng.random((1, 1, 5, 70, 264, 1), np.float32)
    path = make(tmp_path / "a.zarr", array, "ZYX", voxel_size=(1, 1, 1))
    expected = np.pad(array[0, 0, ..., 0], [(0, 1), (0, 0), (0, 0)], mode="edge")
    expected = expected.reshape(3, 2, 35, 2, 132, 2).mean(axis=(1, 3, 5))
    level = zarr.open_array(path / "1", mode="r")
    assert level.chunks == (2, 35, 64)
    np.testing.assert_allclose(level[:], expected, rtol=1e-6)


@pytest.mark.parametrize(("voxel_size", "factors"), [
    ((0.2, 0.2, 0.2), [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]),
    ((0.28, 0.2, 0.2), [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]),
    ((0.4, 0.2, 0.2), [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]),
    ((2, 0.2, 0.2), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]),
    ((None, 0.2, 0.2), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]),
    ((None, None, None), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]),
])  # fmt: skip
def test_planes_are_halved_as_soon_as_voxels_are_nearly_cubes(tmp_path, voxel_size, factors):
    path = make(tmp_path / "a.zarr", np.ones((1, 1, 16, 16, 2000, 1), np.uint8), "ZYX", voxel_size=voxel_size)
    levels = [zarr.open_array(path / str(level), mode="r") for level in range(4)]
    shapes = [tuple(np.ceil(np.array((16, 16, 2000)) / factor).astype(int)) for factor in factors]
    assert [level.shape for level in levels] == shapes
    first = np.array([size or 1 for size in voxel_size])
    np.testing.assert_allclose([level_metadata(path, i)[0] for i in range(4)], first * factors)


def test_scale_and_translation_tell_where_each_average_lies(tmp_path):
    voxel_size = (0.2, 0.2, 0.1)
    axes = [np.arange(n) * size for n, size in zip((16, 16, 2048), voxel_size, strict=True)]
    for axis, places in enumerate(axes):  # the grey value is the place, in µm
        ramp = np.broadcast_to(np.expand_dims(places, [i for i in range(3) if i != axis]), (16, 16, 2048))
        path = make(tmp_path / "a.zarr", ramp[None, None, ..., None], "ZYX", voxel_size=voxel_size)
        for level in range(4):
            stored = np.moveaxis(zarr.open_array(path / str(level), mode="r")[:], axis, 0)[:, 0, 0]
            scale, translation = level_metadata(path, level)
            first = translation[axis] if translation else 0
            np.testing.assert_allclose(stored, first + scale[axis] * np.arange(len(stored)), atol=1e-9)


def test_a_display_range_becomes_the_window_of_each_channel(tmp_path, values):
    sizes = {axis: SIZES[axis] for axis in "CYX"}
    with ZarrSink(tmp_path / "a.zarr", "CYX", sizes, "uint16", channel_names=["a", "b"]) as out:
        out.display_range = (100, 900.5)
    channels = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == ["a", "b"]
    window = {"min": 0, "max": 65535, "start": 100, "end": 900.5}
    assert [channel["window"] for channel in channels] == [window, window]


# Whole or not at all


def open_destination(path):
    return ZarrSink(path, "YX", {"Y": 4, "X": 5}, "uint16")


def fail_while_writing(path):
    with pytest.raises(ValueError, match="does not fit"), open_destination(path) as out:  # noqa: PT012
        out.write({}, None, np.ones((4, 5, 1)))
        out.write({}, None, np.ones((40, 50, 1)))


def test_an_interrupted_write_leaves_nothing(tmp_path):
    fail_while_writing(tmp_path / "a.zarr")
    assert not [*tmp_path.iterdir()]


def test_an_interrupted_write_keeps_what_was_there(tmp_path, values):
    array = values("ZYX")
    path = make(tmp_path / "a.zarr", array, "ZYX")
    fail_while_writing(path)
    assert [*tmp_path.iterdir()] == [path]
    np.testing.assert_array_equal(read_all(path), array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_zarr_folder_is_replaced(tmp_path, values, version):
    path = make(tmp_path / "a.zarr", values("PTZYX"), "PTZYX", version=version)
    array = values("ZYX")
    make(path, array, "ZYX")
    assert [*tmp_path.iterdir()] == [path]
    assert sorted(file.name for file in path.iterdir()) == ["0", "zarr.json"]
    np.testing.assert_array_equal(read_all(path), array)


def test_the_old_image_stays_until_the_new_one_is_whole(tmp_path, values):
    array = values("ZYX")
    path = make(tmp_path / "a.zarr", array, "ZYX")
    with open_destination(path) as out:
        out.write({}, None, np.ones((4, 5, 1)))
        np.testing.assert_array_equal(read_all(path), array)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_else_is_replaced(tmp_path, kind):
    path = tmp_path / "results"
    path.mkdir() if kind == "folder" else path.write_text("precious")
    with pytest.raises(FileExistsError, match="no Zarr folder") as caught, open_destination(path):
        pass
    assert caught.value.filename == str(path)
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_that_does_not_exist_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, open_destination(tmp_path / "nowhere" / "a.zarr"):
        pass
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_too_little_space_is_known_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=3))
    with pytest.raises(OSError, match="3e-09 GB are free") as caught, open_destination(tmp_path / "a.zarr"):
        pass
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.zarr"))
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_takes_no_more_is_an_error_with_the_name(tmp_path, rng):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OSError, match="too large") as caught:
            make(tmp_path / "a.zarr", rng.random((1, 1, 1, 64, 64, 1)), "YX")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "a.zarr")
    assert not [*tmp_path.iterdir()]


def test_a_source_reads_by_region(tmp_path, values):
    array = values("PTCZYX")
    source = ZarrSource(make(tmp_path / "a.zarr", array, "PTCZYX"))
    assert (source.axes, source.shape) == ("PTCZYX", (3, 2, 2, 4, 6, 7))
    part = source.read((slice(1, 3), *map(slice, (0, 0, 0, 0, 2), (2, 2, 4, 6, 4))))
    np.testing.assert_array_equal(part, array.transpose(0, 1, 5, 2, 3, 4)[1:, ..., 2:4])
