"""Networks one after the other are what two calls with a file in float32 between them are."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tifffile
from engines import Engine, make_restorer

import rcan
from rcan.commands.apply import main
from rcan.fingerprint.domain import summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.io.opening import open_volume
from rcan.model import build_rcan
from rcan.restoration.engine import KerasEngine

TILES = ("-B", "6,24,24", "-O", "2,8,8")


def save_network(folder, seed, *, normalization="percentiles", **size):
    """A run folder whose network, of random weights, changes its input a good deal."""
    keras.utils.set_random_seed(seed)
    channels = size.pop("num_input_channels", 1)
    size = {"num_channels": 8, "num_residual_blocks": 1, "num_residual_groups": 1, "channel_reduction": 2, **size}
    factor = {"percentiles": 1, "anscombe": 2}[normalization]
    model = build_rcan(num_input_channels=factor * channels, **size)
    folder.mkdir(parents=True)
    model.save(folder / "best.keras")
    about = {"percentiles": (2, 99.9), "patch_shape": [6, 16, 16], "normalization": normalization}
    (folder / "training.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("networks")
    two = {"num_input_channels": 2, "num_output_channels": 2}
    sizes = {
        "first": {},
        "second": {},
        "larger": {"upscaling": (1, 2, 2)},
        "coarse": {"downsampling": (1, 2, 2)},
        "noise_first": {"normalization": "anscombe"},
        "noise_second": {"normalization": "anscombe"},
        "two": two,
        "two_again": two,
        "two_to_one": {"num_input_channels": 2},
        "planes": {"ndim": 2},
    }
    return {name: save_network(folder / name, seed, **size) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture
def apply(capfd):
    """Run the command; return what it printed: `out, err = apply("-m", …, status=0)`."""

    def apply(*flags, status=0):
        found = main([str(flag) for flag in flags])
        out, err = capfd.readouterr()
        assert found == status, out + err
        return out, err

    return apply


@pytest.fixture
def image(tmp_path, write_tiff, noisy_pair):
    """Write grey values: `image("TZYX", 2, 9, 40, 50)`."""

    def image(axes, *shape):
        return write_tiff(tmp_path / "raw.tif", noisy_pair(shape, 0)[0], axes)

    return image


def chain_of(networks, *names):
    return ",".join(str(networks[name]) for name in names)


def one_by_one(apply, networks, names, raw, folder, *flags, form="ome"):
    """The last of several calls' outputs, each of which restores the one before; `flags` are of the first alone."""
    for number, name in enumerate(names):
        output = folder / f"step_{number}.{'ome.tif' if form == 'ome' else 'tif'}"
        apply("-m", networks[name], "-i", raw, "-o", output, *TILES, *(flags if number == 0 else ()))
        raw = output
    return raw


def read(path):
    with open_volume(path) as file:
        return np.stack([file.read(frame) for frame in file.frames]), file.voxel_size, file.axes


def assert_alike(found, expected):
    """The same voxels, to 1e-4 of their range, and the same axes and voxel size."""
    (found, *about), (expected, *about_expected) = read(found), read(expected)
    assert about == about_expected
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.ptp(expected))
    assert np.ptp(expected) > 0


# Equal to calls one after the other


@pytest.mark.parametrize(
    "names",
    [
        ("first", "second"),
        ("first", "first"),
        ("noise_first", "noise_second"),
        ("noise_first", "second"),
        ("first", "noise_second"),
        ("larger", "second"),
        ("first", "larger"),
        ("larger", "larger"),
        ("coarse", "noise_second"),
        ("first", "noise_second", "larger"),
    ],
    ids=" ".join,
)
def test_a_chain_is_what_calls_one_after_the_other_are(apply, networks, image, tmp_path, names):
    raw = image("ZYX", 9, 44, 50)
    expected = one_by_one(apply, networks, names, raw, tmp_path)
    apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif", *TILES)
    assert_alike(tmp_path / "chain.ome.tif", expected)


@pytest.mark.parametrize("normalize", ["series", "frame"])
@pytest.mark.parametrize("names", [("first", "second"), ("noise_first", "noise_second")], ids=" ".join)
def test_of_a_time_lapse_too(apply, networks, image, tmp_path, names, normalize):
    raw = image("TZYX", 3, 9, 30, 40)
    for network in names:  # the second call has the same flag
        output = tmp_path / f"{network}.ome.tif"
        source = tmp_path / f"{names[0]}.ome.tif" if network == names[-1] else raw
        apply("-m", networks[network], "-i", source, "-o", output, "--normalize", normalize, *TILES)
    flags = ("-o", tmp_path / "chain.ome.tif", "--normalize", normalize, *TILES)
    apply("-m", chain_of(networks, *names), "-i", raw, *flags)
    assert_alike(tmp_path / "chain.ome.tif", tmp_path / f"{names[-1]}.ome.tif")


@pytest.mark.parametrize(
    "names", [("first", "two"), ("two", "first"), ("two", "two_again"), ("two_to_one", "second")], ids=" ".join
)
def test_of_channels_that_are_restored_together_or_one_by_one(apply, networks, image, tmp_path, names):
    raw = image("ZCYX", 9, 2, 30, 40)
    expected = one_by_one(apply, networks, names, raw, tmp_path)
    apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif", *TILES)
    assert_alike(tmp_path / "chain.ome.tif", expected)


@pytest.mark.parametrize("names", [("planes", "second"), ("first", "planes"), ("planes", "planes")], ids=" ".join)
def test_of_planes_and_volumes(apply, networks, image, tmp_path, names):
    raw = image("ZYX", 9, 30, 40)
    source = raw
    for number, name in enumerate(names):
        apply("-m", networks[name], "-i", source, "-o", tmp_path / f"step_{number}.ome.tif")
        source = tmp_path / f"step_{number}.ome.tif"
    apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif")
    assert_alike(tmp_path / "chain.ome.tif", source)


def test_of_some_channels_without_spikes_as_imagej(apply, networks, image, tmp_path):
    raw = image("ZCYX", 9, 3, 30, 40)
    flags = ("--channels", "2,0", "--despike")
    expected = one_by_one(apply, networks, ("first", "second"), raw, tmp_path, *flags, form="imagej")
    apply("-m", chain_of(networks, "first", "second"), "-i", raw, "-o", tmp_path / "chain.tif", *flags, *TILES)
    assert_alike(tmp_path / "chain.tif", expected)


def test_of_an_ensemble(apply, networks, image, tmp_path):
    raw, source = image("ZYX", 9, 30, 40), None
    for number, name in enumerate(("first", "larger")):
        output = tmp_path / f"step_{number}.ome.tif"
        apply("-m", networks[name], "-i", source or raw, "-o", output, "--ensemble", 8, *TILES)
        source = output
    flags = ("-o", tmp_path / "chain.ome.tif", "--ensemble", 8, *TILES)
    apply("-m", chain_of(networks, "first", "larger"), "-i", raw, *flags)
    assert_alike(tmp_path / "chain.ome.tif", source)


def test_missing_voxels_and_dark_frames_stay_what_they_are(apply, networks, tmp_path, write_tiff, noisy_pair):
    values = noisy_pair((3, 9, 30, 40), 0)[0].astype(np.float32)
    values[0, :, :8], values[1] = np.nan, 100
    raw = write_tiff(tmp_path / "raw.tif", values, "TZYX")
    flags = ("--normalize", "frame", *TILES)
    apply("-m", networks["first"], "-i", raw, "-o", tmp_path / "step.ome.tif", *flags)
    apply("-m", networks["larger"], "-i", tmp_path / "step.ome.tif", "-o", tmp_path / "expected.ome.tif", *flags)
    apply("-m", chain_of(networks, "first", "larger"), "-i", raw, "-o", tmp_path / "chain.ome.tif", *flags)
    found, expected = (tifffile.imread(tmp_path / f"{name}.ome.tif") for name in ("chain", "expected"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.nanmax(np.abs(expected)))
    np.testing.assert_array_equal(np.isnan(found[0]), np.broadcast_to(np.arange(60)[:, np.newaxis] < 16, (9, 60, 80)))
    np.testing.assert_array_equal(found[1], 100)


def test_each_voxel_of_an_image_that_fits_the_memory_is_computed_once_by_each_network(
    apply, networks, image, tmp_path, monkeypatch
):
    counted = {}
    compute = KerasEngine.__call__

    def count(engine, tile):
        counted[engine._name] = counted.get(engine._name, 0) + tile[..., 0].size
        return compute(engine, tile)

    monkeypatch.setattr(KerasEngine, "__call__", count)
    raw = image("TZYX", 2, 9, 44, 50)
    apply("-m", chain_of(networks, "first", "noise_second"), "-i", raw, "-o", tmp_path / "chain.ome.tif", *TILES)
    together = dict(counted)
    counted.clear()
    one_by_one(apply, networks, ("first", "noise_second"), raw, tmp_path)
    assert together == counted


def test_with_little_memory_the_result_is_the_same(apply, networks, image, tmp_path, monkeypatch):
    raw = image("ZYX", 9, 44, 50)
    names = ("noise_first", "noise_second")
    expected = one_by_one(apply, networks, names, raw, tmp_path)
    for module in ("rcan.io.cache", "rcan.restoration.chain"):
        monkeypatch.setattr(f"{module}.SHARE_OF_FREE_MEMORY", 0)
    _, err = apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif", *TILES)
    assert f"warning: {raw}: what {networks['noise_first']} makes of it" in err
    assert_alike(tmp_path / "chain.ome.tif", expected)


# What belongs to an image and its folder


def test_raw_beside_restored_is_the_image_before_all_networks(apply, networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    names = ("larger", "second")
    expected = one_by_one(apply, networks, names, raw, tmp_path)
    apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "chain.ome.tif", "--compare", *TILES)
    with open_volume(tmp_path / "chain.ome.tif") as file:
        shown, restored = np.moveaxis(file.read(), -1, 0)
        assert file.channel_names == ("raw", "restored")
    values = tifffile.imread(raw).astype(float)
    low, high = np.percentile(values, (2, 99.9))
    np.testing.assert_allclose(shown, ((values - low) / (high - low)).repeat(2, 1).repeat(2, 2), atol=1e-5)
    low, high = np.percentile(tifffile.imread(tmp_path / "step_0.ome.tif"), (2, 99.9))
    np.testing.assert_allclose(restored, (tifffile.imread(expected) - low) / (high - low), atol=1e-3)


def test_scores_compare_the_image_before_all_networks(apply, networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    flags = ("-i", raw, "-g", raw, "-o")  # raw is its own ground truth: PSNR of 120 dB at most
    apply("-m", chain_of(networks, "first", "second"), *flags, tmp_path / "chain.tif")
    name, *scores = (tmp_path / "scores.csv").read_text().splitlines()[-1].split(",")
    header = (tmp_path / "scores.csv").read_text().splitlines()[0].split(",")[1:]
    found = dict(zip(header, map(float, scores), strict=True))
    assert (name, found["psnr_raw"]) == ("chain.tif", pytest.approx(120))
    assert found["psnr_restored"] < 60


def test_pictures_can_be_drawn(apply, networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    flags = ("-o", tmp_path / "a.tif", "--preview", "--attention", "local")
    apply("-m", chain_of(networks, "noise_first", "larger"), "-i", raw, *flags)
    assert (tmp_path / "a_preview.png").stat().st_size > 1000


def test_the_manifest_names_all_networks_and_another_chain_is_refused(apply, networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    (tmp_path / "in").mkdir()
    raw = raw.rename(tmp_path / "in" / "a.tif")
    flags = ("-i", raw.parent, "-o", tmp_path / "out")
    apply("-m", chain_of(networks, "first", "second"), *flags)
    entry = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    digests = [
        hashlib.sha256((networks[name] / "best.keras").read_bytes()).hexdigest()[:16] for name in ("first", "second")
    ]
    assert entry["settings"]["model"] == digests
    assert entry["networks"] == [str(networks[name]) for name in ("first", "second")]
    out, _ = apply("-m", chain_of(networks, "first", "second"), *flags)
    assert "1 of 1 restored, 1 of them before" in out
    for other in (("second", "first"), ("first",), ("second",), ("first", "second", "second")):
        _, err = apply("-m", chain_of(networks, *other), *flags, status=1)
        assert "made with another network" in err


def test_what_each_network_sees_is_compared_with_its_training(apply, networks, image, tmp_path):
    raw = image("ZYX", 16, 64, 64)
    with open_volume(raw) as file:
        known = summarise_fingerprints([measure_fingerprint(file)]).model_dump(mode="json")
    for name in ("first", "second"):
        target = shutil.copytree(networks[name], tmp_path / name)
        about = json.loads((target / "training.json").read_text())
        (target / "training.json").write_text(json.dumps({**about, "training_fingerprint": known}))
    chain = f"{tmp_path / 'first'},{tmp_path / 'second'}"
    out, _ = apply("-m", tmp_path / "first", "-i", raw, "-o", tmp_path / "step.tif", "-f", "imagej")
    assert "raw.tif: inside" in out
    out, _ = apply("-m", tmp_path / "second", "-i", tmp_path / "step.tif", "-o", tmp_path / "b.tif")
    (alone,) = [line.split(": ", 1)[1] for line in out.splitlines() if line.startswith("step.tif: outside: ")]
    out, _ = apply("-m", chain, "-i", raw, "-o", tmp_path / "chain.tif")
    (line,) = [line for line in out.splitlines() if line.startswith("raw.tif: outside")]
    first_reason = alone.removeprefix("outside: ").split(";")[0]
    assert line.startswith(f"raw.tif: outside: {tmp_path / 'second'}: {first_reason}")
    _, err = apply("-m", chain, "-i", raw, "-o", tmp_path / "strict.tif", "--strict", status=1)
    assert "unlike the training data" in err
    assert not (tmp_path / "strict.tif").exists()


# Which models


def test_python_takes_a_list_or_commas(networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    chosen = [networks["first"], networks["second"]]
    rcan.restore_folder(chosen, raw, tmp_path / "list.tif")
    rcan.restore_folder(",".join(map(str, chosen)), raw, tmp_path / "text.tif")
    rcan.restore_folder(chosen[0], raw, tmp_path / "one.tif")
    found = {name: tifffile.imread(tmp_path / f"{name}.tif") for name in ("list", "text", "one")}
    np.testing.assert_array_equal(found["list"], found["text"])
    assert np.abs(found["list"] - found["one"]).max() > 0.01 * np.ptp(found["one"])


def test_a_path_with_a_comma_that_exists_is_one_model(apply, networks, image, tmp_path):
    raw = image("ZYX", 9, 30, 40)
    with_comma = shutil.copytree(networks["first"], tmp_path / "one,two")
    apply("-m", with_comma, "-i", raw, "-o", tmp_path / "a.tif")
    apply("-m", networks["first"], "-i", raw, "-o", tmp_path / "b.tif")
    assert_alike(tmp_path / "a.tif", tmp_path / "b.tif")
    apply("-m", f"{with_comma},{networks['second']}", "-i", raw, "-o", tmp_path / "c.tif")
    apply("-m", networks["second"], "-i", tmp_path / "b.tif", "-o", tmp_path / "d.tif")
    assert_alike(tmp_path / "c.tif", tmp_path / "d.tif")


@pytest.mark.parametrize(
    ("names", "axes", "shape", "reason"),
    [
        (("first", "two"), "ZYX", (9, 30, 40), r"\{first\} makes 1 channel of it, but \{two\} reads 2"),
        (("two_to_one", "two"), "ZCYX", (9, 2, 30, 40), r"\{two_to_one\} makes 1 channel of it, but \{two\} reads 2"),
        (("planes", "first"), "YX", (30, 40), r"\{planes\} makes planes of it, but \{first\} restores volumes"),
    ],
)
def test_networks_that_do_not_fit_are_named(apply, networks, image, tmp_path, names, axes, shape, reason):
    raw = image(axes, *shape)
    _, err = apply("-m", chain_of(networks, *names), "-i", raw, "-o", tmp_path / "a.tif", status=1)
    for name in names:
        err = err.replace(str(networks[name]), f"{{{name}}}")
    assert re.search(rf"^error: .*raw\.tif: {reason}", err)
    assert not (tmp_path / "a.tif").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--ensemble", 8, "--uncertainty"), "--uncertainty is the spread of one network"),
        (("--scheduler", "local"), "--scheduler restores with one network"),
    ],
)
def test_what_is_not_done_with_several_is_refused(apply, networks, image, tmp_path, flags, reason):
    raw = image("ZYX", 9, 30, 40)
    chain = chain_of(networks, "first", "second")
    _, err = apply("-m", chain, "-i", raw, "-o", tmp_path / "a.zarr", *flags, status=2)
    assert reason in err


@pytest.mark.parametrize("named", ["{first},", ",{first}", "{first},,{first}"])
def test_a_comma_without_a_path_is_refused(apply, networks, image, tmp_path, named):
    named = named.format(first=networks["first"])
    _, err = apply("-m", named, "-i", image("ZYX", 9, 30, 40), "-o", tmp_path / "a.tif", status=2)
    assert f"--model_dir is {json.dumps(named)}: a path is missing beside a comma." in err


def test_a_model_that_is_not_there_is_named(apply, networks, image, tmp_path):
    chain = f"{networks['first']},{tmp_path / 'nothing'}"
    _, err = apply("-m", chain, "-i", image("ZYX", 9, 30, 40), "-o", tmp_path / "a.tif", status=1)
    assert f"{tmp_path / 'nothing'} does not exist" in err


def test_planes_and_volumes_cannot_be_compared_frame_by_frame(apply, networks, image, tmp_path):
    flags = ("-i", image("ZYX", 9, 30, 40), "-o", tmp_path / "a.tif", "--compare")
    _, err = apply("-m", chain_of(networks, "planes", "second"), *flags, status=1)
    assert "cannot be compared frame by frame" in err


def test_the_network_whose_tile_is_too_large_gets_a_smaller_one(image, tmp_path):
    def double_of_little(tile):
        if tile.size > 20_000:
            raise MemoryError
        return 2 * tile

    raw = image("ZYX", 9, 60, 70)
    first = make_restorer(Engine(double_of_little))
    second = make_restorer(Engine(np.square))
    with pytest.warns(UserWarning, match="memory is too small for tiles of 9x60x70: going on with 9x"):
        replace(second, earlier=(first,)).restore(raw, tmp_path / "chain.tif")
    assert np.prod(first.tiled.plan((9, 60, 70))[0]) <= 20_000
    assert second.tiled.plan((9, 60, 70))[0] == (9, 60, 70)
    first.restore(raw, tmp_path / "step.tif")
    second.restore(tmp_path / "step.tif", tmp_path / "expected.tif")
    assert_alike(tmp_path / "chain.tif", tmp_path / "expected.tif")
