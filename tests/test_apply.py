import csv
import json
import re
import warnings

import keras
import numpy as np
import ome_types
import pytest
import tifffile
from keras import layers
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rcan.commands.apply import main
from rcan.config import Config
from rcan.model import PixelShuffle
from rcan.restoration.engine import KerasEngine
from rcan.restoration.file import FileRestorer, ImageTask
from rcan.restoration.tiled import TiledRestorer, restore
from rcan.training.fit import train

PERCENTILES = (2, 99.9)


def save_network(folder, function, *, ndim=3, channels=1, **about):
    """A run folder whose network is a function of its input."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = keras.Input((None,) * ndim + (channels,))
    keras.Model(inputs, function(inputs)).save(folder / "best.keras")
    (folder / "training.json").write_text(
        json.dumps({"percentiles": PERCENTILES, "patch_shape": [8, 16, 16][-ndim:], **about})
    )
    return folder


def same(x):
    return layers.Rescaling(1.0)(x)


def square(x):
    return layers.Multiply()([x, x])


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "same": save_network(folder / "same", same),
        "square": save_network(folder / "square", square),
        "square of planes": save_network(folder / "square2d", square, ndim=2),
        "square of two": save_network(folder / "square_of_two", square, channels=2),
        "triple": save_network(folder / "triple", layers.Rescaling(3.0)),
        "larger": save_network(folder / "larger", lambda x: PixelShuffle((1, 2, 2))(layers.Concatenate()([x] * 4))),
    }  # fmt: skip


@pytest.fixture
def run(tmp_path, capfd):
    """Run the command; return what it printed: `out, err = run("-m", …, status=0)`."""

    def run(*flags, status=0):
        assert main([str(flag) for flag in flags]) == status
        return capfd.readouterr()

    return run


@pytest.fixture
def volume(tmp_path, write_tiff, rng):
    """A file and its grey values (Z, Y, X)."""
    image = rng.gamma(2, 500, (11, 21, 23)).astype(np.uint16)
    path = write_tiff(tmp_path / "raw" / "cell.tif", image, "ZYX", spacing=0.5, unit="micron", finterval=2.0)
    return path, image


def ranges(image, space):
    return np.percentile(image.astype(float), PERCENTILES, axis=space, keepdims=True)


def applied(function, image, space=None):
    """A function of normalised intensities, applied to grey values."""
    low, high = ranges(image, space)
    return function((image - low) / (high - low)) * (high - low) + low


def calibration(path):
    """Axes, sizes, voxel size in the file's unit and frame interval, as tifffile reads them."""
    with tifffile.TiffFile(path) as tiff:
        metadata, page = tiff.imagej_metadata, tiff.pages.first
        sizes = [page.tags.valueof(tag) for tag in ("YResolution", "XResolution")]
        pixels = [size[1] / size[0] if "unit" in metadata else None for size in sizes]
        return (tiff.series[0].axes, tiff.series[0].shape), [
            metadata.get("spacing"),
            *pixels,
            metadata.get("finterval"),
        ]


def assert_close(found, expected, image):
    """Equal to a thousandth of the range of intensities."""
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(ranges(image, None)))


# The default output


def test_output_is_the_restored_volume_in_the_unit_of_the_input(run, networks, volume, tmp_path):
    path, image = volume
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif")
    assert_close(tifffile.imread(tmp_path / "out.tif"), image, image)


def test_network_sees_normalised_intensities(run, networks, volume, tmp_path):
    path, image = volume
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif")
    assert_close(tifffile.imread(tmp_path / "out.tif"), applied(np.square, image), image)


@pytest.mark.parametrize(
    "name",
    [
        "time_lapse/hyperstack_tzyx.tif",
        "volumes/spots_zcyx.tif",
        "volumes/six_planes.tif",
        "volumes/cell_uint8.tif",
    ],
)
def test_output_of_a_real_file_keeps_axes_and_calibration(run, networks, data_dir, tmp_path, name):
    run("-m", networks["same"], "-i", data_dir / name, "-o", tmp_path / "out.tif")
    (layout, sizes), (expected_layout, expected_sizes) = (
        calibration(path) for path in (tmp_path / "out.tif", data_dir / name)
    )
    assert layout == expected_layout
    for found, expected in zip(sizes, expected_sizes, strict=True):
        assert found == (expected and pytest.approx(expected, rel=1e-5))
    image = tifffile.imread(data_dir / name)
    assert_close(tifffile.imread(tmp_path / "out.tif"), image, image)


def test_output_keeps_channel_names_and_time_step(run, networks, write_tiff, tmp_path, rng):
    image = rng.gamma(2, 500, (2, 3, 2, 16, 17)).astype(np.uint16)
    labels = ["membrane", "nuclei"] * 6
    path = write_tiff(tmp_path / "raw.tif", image, "TZCYX", Labels=labels, finterval=12.5, mode="composite")
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.imagej_metadata["Labels"] == labels
        assert tiff.imagej_metadata["finterval"] == 12.5
        assert tiff.series[0].axes == "TZCYX"


def test_imagej_shows_the_output_in_the_range_of_the_input(run, networks, volume, tmp_path):
    path, image = volume
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        shown = [tiff.imagej_metadata[name] for name in ("min", "max")]
    np.testing.assert_allclose(shown, ranges(image, None).ravel())


def test_series_is_normalised_as_a_whole(run, networks, write_tiff, tmp_path, rng):
    image = (rng.gamma(2, 500, (3, 9, 20, 21)) * np.array([1, 2, 4])[:, None, None, None]).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, "TZYX")
    run("-m", networks["square"], "-i", path, "-o", tmp_path / "out.tif")
    assert_close(tifffile.imread(tmp_path / "out.tif"), applied(np.square, image), image)


@pytest.mark.parametrize("network", ["square", "square of two"])
def test_every_channel_has_a_range_of_its_own(run, networks, write_tiff, tmp_path, rng, network):
    image = (rng.gamma(2, 300, (9, 2, 20, 21)) * np.array([1, 5])[:, None, None]).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, "ZCYX")
    run("-m", networks[network], "-i", path, "-o", tmp_path / "out.tif")
    assert_close(tifffile.imread(tmp_path / "out.tif"), applied(np.square, image, (0, 2, 3)), image)


@pytest.mark.parametrize(("axes", "shape"), [("ZYX", (5, 20, 21)), ("YX", (20, 21)), ("TZCYX", (2, 3, 2, 20, 21))])
def test_2d_network_restores_plane_by_plane(run, networks, write_tiff, tmp_path, rng, axes, shape):
    image = rng.gamma(2, 500, shape).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, axes)
    run("-m", networks["square of planes"], "-i", path, "-o", tmp_path / "out.tif")
    space = tuple(i for i, axis in enumerate(axes) if axis != "C")
    assert calibration(tmp_path / "out.tif")[0] == (axes, shape)
    assert_close(tifffile.imread(tmp_path / "out.tif"), applied(np.square, image, space), image)


def test_larger_output_has_smaller_voxels(run, networks, volume, tmp_path):
    path, image = volume
    run("-m", networks["larger"], "-i", path, "-o", tmp_path / "out.tif", "-f", "ome", "--axes", "ZYX")
    assert_close(tifffile.imread(tmp_path / "out.tif"), np.kron(image, np.ones((1, 2, 2))), image)


def test_voxel_size_is_divided_by_the_upscaling(run, networks, data_dir, tmp_path):
    path = data_dir / "volumes" / "cell_uint8.tif"
    run("-m", networks["larger"], "-i", path, "-o", tmp_path / "out.tif")
    (_, before), (_, after) = calibration(path), calibration(tmp_path / "out.tif")
    np.testing.assert_allclose(after[:3], np.divide(before[:3], [1, 2, 2]), rtol=1e-5)


# Folders


@pytest.fixture
def folder(tmp_path, write_tiff, rng):
    """Three volumes, their ground truth, and the grey values of both by name."""
    images = {}
    for kind in ("raw", "gt"):
        for name in ("a.tif", "b.tif", "c.tiff"):
            images[kind, name] = rng.gamma(2, 500, (11, 20, 21)).astype(np.uint16)
    for name in ("a.tif", "b.tif", "c.tiff"):
        images["raw", name] += images["gt", name] // 2
    for (kind, name), image in images.items():
        write_tiff(tmp_path / kind / name, image, "ZYX")
    return tmp_path, images


def test_folder_becomes_a_folder_of_the_same_names(run, networks, folder):
    root, images = folder
    out, _ = run("-m", networks["same"], "-i", root / "raw", "-o", root / "new" / "out")
    assert sorted(path.name for path in (root / "new" / "out").glob("*.tif*")) == ["a.tif", "b.tif", "c.tiff"]
    for name in ("a.tif", "c.tiff"):
        assert_close(tifffile.imread(root / "new" / "out" / name), images["raw", name], images["raw", name])
    assert "3 of 3 restored" in out


def test_bad_file_does_not_keep_the_others_from_being_restored(run, networks, folder):
    root, _ = folder
    (root / "raw" / "b.tif").write_bytes(b"no image")
    out, err = run("-m", networks["same"], "-i", root / "raw", "-o", root / "out", status=1)
    assert sorted(path.name for path in (root / "out").glob("*.tif*")) == ["a.tif", "c.tiff"]
    assert "2 of 3 restored" in out
    assert "b.tif" in err
    assert "1 of 3 images were not restored" in err


@pytest.mark.parametrize(("file_format", "expected"), [("imagej", "cell.tif"), ("ome", "cell.ome.tif")])
def test_imagej_output_is_not_named_ome(run, networks, volume, tmp_path, file_format, expected):
    path, _ = volume
    path.rename(path.with_name("cell.ome.tif"))
    run("-m", networks["same"], "-i", tmp_path / "raw", "-o", tmp_path / "out", "-f", file_format)
    assert [path.name for path in (tmp_path / "out").glob("*.tif")] == [expected]
    with tifffile.TiffFile(tmp_path / "out" / expected) as tiff:
        assert (tiff.is_imagej, tiff.is_ome) == (file_format == "imagej", file_format == "ome")


@pytest.mark.parametrize("flags", [("-i", "raw", "-o", "raw"), ("-i", "raw/cell.tif", "-o", "raw/cell.tif")])
def test_input_is_never_overwritten(run, networks, volume, monkeypatch, tmp_path, flags):
    path, _ = volume
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    _, err = run("-m", networks["same"], *flags, status=1)
    assert re.search("is (an|the) input", err)
    assert path.read_bytes() == before


# Extreme intensities


def test_small_differences_of_large_values_reach_the_network(run, networks, tmp_path, rng):
    image = 1.7e9 + rng.uniform(0, 50, (11, 21, 23))
    tifffile.imwrite(tmp_path / "raw.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    flags = ("-o", tmp_path / "out.tif", "--normalize_output_range_between_zero_and_one")
    run("-m", networks["same"], "-i", tmp_path / "raw.tif", *flags)
    expected = (image - image.min()) / np.ptp(image)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), expected, atol=1e-4)


def test_values_that_the_output_cannot_tell_apart_are_warned_of(run, networks, tmp_path, rng):
    image = 4_000_000_000 + rng.integers(0, 200, (11, 21, 23), np.uint32)
    tifffile.imwrite(tmp_path / "raw.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    _, err = run("-m", networks["same"], "-i", tmp_path / "raw.tif", "-o", tmp_path / "out.tif")
    assert "grey values near 4e+09 are stored in steps of 256" in err


@pytest.mark.parametrize("bits", ["16", "32"])
def test_output_that_is_not_finite_is_an_error_and_no_file(run, networks, tmp_path, rng, bits):
    image = rng.uniform(0, 50, (11, 21, 23))
    image[5, 6, 7] = 1e300
    tifffile.imwrite(tmp_path / "raw.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    flags = ("-o", tmp_path / "out.tif", "-b", bits)
    _, err = run("-m", networks["same"], "-i", tmp_path / "raw.tif", *flags, status=1)
    assert "raw.tif is restored to NaN or infinite values" in err
    assert not (tmp_path / "out.tif").exists()


# Integers


@pytest.mark.parametrize(("bits", "dtype"), [("8", np.uint8), ("16", np.uint16)])
def test_integers_are_rounded_and_clipped_and_what_is_clipped_is_counted(
    run, networks, write_tiff, tmp_path, rng, bits, dtype
):
    top = np.iinfo(dtype).max
    image = rng.integers(top // 10, top * 3 // 4, (9, 20, 21)).astype(dtype)
    path = write_tiff(tmp_path / "raw.tif", image, "ZYX")
    _, err = run("-m", networks["triple"], "-i", path, "-o", tmp_path / "out.tif", "-b", bits)
    expected = np.rint(applied(lambda x: 3 * x, image))
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.dtype == dtype
    assert np.abs(found - expected.clip(0, top)).max() <= 1  # of rounding numbers near one half
    assert np.mean(found == expected.clip(0, top)) > 0.99
    said = re.search(rf"(\d+) values \((.*) %\) lay outside 0 to {top} and were clipped", err)
    num_clipped = np.sum((expected < 0) | (expected > top))
    assert int(said[1]) == pytest.approx(num_clipped, abs=2)
    assert float(said[2]) == pytest.approx(100 * num_clipped / expected.size, rel=0.05)


def test_nothing_is_said_where_nothing_is_clipped(run, networks, volume, tmp_path):
    path, image = volume
    _, err = run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif", "-b", "16")
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif").astype(float), image, atol=1)
    assert err == ""


# Side by side


@pytest.mark.parametrize("with_gt", [True, False])
def test_compare_writes_normalised_channels_with_names(run, networks, folder, with_gt):
    root, images = folder
    flags = ("-g", root / "gt" / "a.tif") if with_gt else ()
    run("-m", networks["square"], "-i", root / "raw" / "a.tif", "-o", root / "out.tif", "--compare", *flags)
    raw, gt = (
        (images[kind, "a.tif"] - low) / (high - low)
        for kind in ("raw", "gt")
        for low, high in [ranges(images[kind, "a.tif"], None)]
    )
    expected = np.stack([raw, raw**2, gt][: 2 + with_gt], axis=1)
    found = tifffile.imread(root / "out.tif")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
    with tifffile.TiffFile(root / "out.tif") as tiff:
        assert tiff.series[0].axes == "ZCYX"
        num_channels = 2 + with_gt
        assert tiff.imagej_metadata["Labels"][:num_channels] == ["raw", "restored", "ground truth"][:num_channels]


@pytest.mark.parametrize("network", ["square", "square of two"])
def test_compare_of_several_channels_numbers_them(run, networks, write_tiff, tmp_path, rng, network):
    image = (rng.gamma(2, 300, (2, 9, 2, 20, 21)) * np.array([1, 5])[:, None, None]).astype(np.uint16)
    paths = [write_tiff(tmp_path / f"{kind}.tif", image, "TZCYX") for kind in ("raw", "gt")]
    run("-m", networks[network], "-i", paths[0], "-g", paths[1], "-o", tmp_path / "out.tif", "--compare")
    low, high = ranges(image, (0, 1, 3, 4))
    raw = (image - low) / (high - low)
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_allclose(found, np.concatenate([raw, raw**2, raw], axis=2), atol=1e-3)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        names = tiff.imagej_metadata["Labels"][:6]
    assert names == ["raw 1", "raw 2", "restored 1", "restored 2", "ground truth 1", "ground truth 2"]


@pytest.mark.parametrize(("bits", "top"), [("8", 255), ("16", 65535)])
def test_compare_in_integers_maps_zero_to_one_to_the_full_range(run, networks, volume, tmp_path, bits, top):
    path, image = volume
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif", "--compare", "-b", bits)
    low, high = ranges(image, None)
    expected = np.rint(top * (image - low) / (high - low)).clip(0, top)
    found = tifffile.imread(tmp_path / "out.tif").astype(float)
    np.testing.assert_allclose(found, np.stack([expected] * 2, axis=1), atol=1)


def test_compare_enlarges_raw_to_the_size_of_the_restored(run, networks, volume, tmp_path):
    path, _ = volume
    run("-m", networks["larger"], "-i", path, "-o", tmp_path / "out.tif", "--compare")
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.shape == (11, 2, 42, 46)
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-4)


# Against the ground truth


def scores_of(image, gt):
    """PSNR and SSIM of scikit-image after a linear fit to the normalised ground truth."""
    low, high = ranges(gt, None)
    gt = (gt - low) / (high - low)
    gain, shift = np.polyfit(image.ravel().astype(float), gt.ravel(), 1)
    image = gain * image + shift
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    return peak_signal_noise_ratio(gt, image, data_range=1), structural_similarity(gt, image, **options)


def read_scores(path):
    with open(path, newline="") as file:
        return {row.pop("file"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}


def test_scores_are_those_of_scikit_image_in_table_and_file(run, networks, folder):
    root, images = folder
    out, _ = run("-m", networks["square"], "-i", root / "raw", "-g", root / "gt", "-o", root / "out")
    rows = read_scores(root / "out" / "scores.csv")
    assert list(rows) == ["a.tif", "b.tif", "c.tiff"]
    for name, row in rows.items():
        raw, gt = images["raw", name], images["gt", name]
        psnr_raw, ssim_raw = scores_of(raw, gt)
        psnr, ssim = scores_of(applied(np.square, raw), gt)
        np.testing.assert_allclose([row["psnr_raw"], row["psnr_restored"]], [psnr_raw, psnr], atol=1e-3)
        np.testing.assert_allclose([row["ssim_raw"], row["ssim_restored"]], [ssim_raw, ssim], atol=1e-3)
        (line,) = (line for line in out.splitlines() if line.startswith(name))
        shown = [row["psnr_raw"], row["psnr_restored"], row["psnr_restored"] - row["psnr_raw"]]
        assert line.split()[1:4] == [f"{shown[0]:.2f}", f"{shown[1]:.2f}", f"{shown[2]:+.2f}"]
    (mean,) = (line for line in out.splitlines() if line.startswith("mean"))
    assert float(mean.split()[2]) == pytest.approx(np.mean([row["psnr_restored"] for row in rows.values()]), abs=0.006)


def test_scores_of_one_file_lie_beside_its_output(run, networks, folder):
    root, _ = folder
    (root / "out").mkdir()
    run(
        "-m",
        networks["same"],
        "-i",
        root / "raw/a.tif",
        "-g",
        root / "gt/a.tif",
        "-o",
        root / "out" / "x.tif",
    )
    assert list(read_scores(root / "out" / "scores.csv")) == ["x.tif"]


def test_scores_of_one_more_file_are_added_to_the_table(run, networks, folder):
    root, _ = folder
    for name in ("a.tif", "b.tif"):
        files = ["-i", root / "raw" / name, "-g", root / "gt" / name, "-o", root / name]
        run("-m", networks["same"], *files)
    assert list(read_scores(root / "scores.csv")) == ["a.tif", "b.tif"]


def test_scores_are_in_the_table_before_the_next_file_is_begun(run, networks, folder, monkeypatch):
    root, _ = folder
    restore = ImageTask.restore

    def interrupted(self, *paths, **options):
        if self.raw.volume.path.name == "b.tif":
            raise KeyboardInterrupt
        return restore(self, *paths, **options)

    monkeypatch.setattr(ImageTask, "restore", interrupted)
    files = ["-i", root / "raw", "-g", root / "gt", "-o", root / "out"]
    run("-m", networks["same"], *files, status=130)
    assert list(read_scores(root / "out/scores.csv")) == ["a.tif"]


def test_ground_truth_may_have_axes_of_its_own(run, networks, volume, tmp_path, write_tiff):
    path, image = volume
    turned = write_tiff(tmp_path / "gt.tif", image.transpose(2, 0, 1).copy(), "ZYX")  # XZY, wrongly named
    run("-m", networks["same"], "-i", path, "-g", turned, "--gt_axes", "XZY", "-o", tmp_path / "out.tif")
    assert read_scores(tmp_path / "scores.csv")["out.tif"]["ssim_raw"] == pytest.approx(1)


def test_scores_of_a_series_are_the_mean_over_its_frames(run, networks, write_tiff, tmp_path, rng):
    gt = rng.gamma(2, 500, (2, 11, 20, 21)).astype(np.uint16)
    raw = gt + rng.poisson(300, gt.shape).astype(np.uint16) * np.array([1, 3], np.uint16)[:, None, None, None]
    paths = [write_tiff(tmp_path / f"{i}.tif", image, "TZYX") for i, image in enumerate((raw, gt))]
    run("-m", networks["same"], "-i", paths[0], "-g", paths[1], "-o", tmp_path / "out.tif")
    low, high = ranges(gt, None)
    expected = []
    for one, truth in zip(raw, (gt - low) / (high - low), strict=True):
        gain, shift = np.polyfit(one.ravel(), truth.ravel(), 1)
        expected.append(peak_signal_noise_ratio(truth, gain * one + shift, data_range=1))
    row = read_scores(tmp_path / "scores.csv")["out.tif"]
    assert row["psnr_restored"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_rescaled_output_is_the_straight_line_that_fits_the_ground_truth(run, networks, folder):
    root, images = folder
    raw, gt = images["raw", "a.tif"], images["gt", "a.tif"]
    run(
        "-m",
        networks["square"],
        "-i",
        root / "raw/a.tif",
        "-g",
        root / "gt/a.tif",
        "-o",
        root / "out.tif",
        "--rescale",
    )
    restored = applied(np.square, raw)
    gain, shift = np.polyfit(restored.ravel(), gt.ravel().astype(float), 1)
    assert_close(tifffile.imread(root / "out.tif"), gain * restored + shift, gt)


def test_rescaled_series_is_matched_by_one_line(run, networks, write_tiff, tmp_path, rng):
    restored = rng.gamma(2, 500, (3, 11, 20, 21))
    gt = (restored * np.array([1, 0.6, 0.3])[:, None, None, None] + 90).astype(np.uint16)  # it bleaches
    raw = restored.astype(np.uint16)
    paths = [write_tiff(tmp_path / f"{i}.tif", image, "TZYX") for i, image in enumerate((raw, gt))]
    run("-m", networks["same"], "-i", paths[0], "-g", paths[1], "-o", tmp_path / "out.tif", "--rescale")
    gain, shift = np.polyfit(raw.ravel().astype(float), gt.ravel().astype(float), 1)
    assert_close(tifffile.imread(tmp_path / "out.tif"), gain * raw + shift, gt)


def test_stretched_output_reaches_from_zero_to_one_in_every_channel(run, networks, write_tiff, tmp_path, rng):
    image = (rng.gamma(2, 300, (2, 9, 2, 20, 21)) * np.array([1, 5])[:, None, None]).astype(np.uint16)
    path = write_tiff(tmp_path / "raw.tif", image, "TZCYX")
    flags = ("--normalize_output_range_between_zero_and_one", "-i", path, "-o")
    run("-m", networks["same"], *flags, tmp_path / "out.tif")
    space = (0, 1, 3, 4)
    low, high = (f(image.astype(float), axis=space, keepdims=True) for f in (np.min, np.max))
    found = tifffile.imread(tmp_path / "out.tif")
    np.testing.assert_allclose(found, (image - low) / (high - low), atol=1e-4)
    run("-m", networks["same"], *flags, tmp_path / "out8.tif", "-b", "8")
    assert tifffile.imread(tmp_path / "out8.tif").max(axis=space).tolist() == [255, 255]


def test_stretched_comparison_reaches_from_zero_to_full_in_every_channel(run, networks, volume, tmp_path):
    path, image = volume
    flags = (
        "--compare",
        "--normalize_output_range_between_zero_and_one",
        "-b",
        "16",
        "-o",
        tmp_path / "out.tif",
    )
    _, err = run("-m", networks["square"], "-i", path, *flags)
    found = tifffile.imread(tmp_path / "out.tif")  # (Z, C, Y, X)
    assert [found.min(axis=(0, 2, 3)).tolist(), found.max(axis=(0, 2, 3)).tolist()] == [
        [0, 0],
        [65535, 65535],
    ]
    raw = (image - image.min()) / np.ptp(image.astype(float)) * 65535
    np.testing.assert_allclose(found[:, 0], raw, atol=1)
    assert "clipped" not in err


# OME-TIFF


def test_ome_output_is_valid_and_complete(run, networks, write_tiff, tmp_path, rng):
    image = rng.gamma(2, 500, (2, 5, 2, 16, 17)).astype(np.uint16)
    labels = ["membrane", "nuclei"] * 10
    options = {"spacing": 0.5, "unit": "micron", "Labels": labels, "finterval": 2.0}
    path = tmp_path / "raw.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(5, 4), metadata={"axes": "TZCYX", **options})
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.ome.tif", "-f", "ome")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ome_types itself
        pixels = ome_types.from_tiff(tmp_path / "out.ome.tif").images[0].pixels
    assert (pixels.size_t, pixels.size_z, pixels.size_c, pixels.size_y, pixels.size_x) == (2, 5, 2, 16, 17)
    assert pixels.type.value == "float"
    sizes = pixels.physical_size_z, pixels.physical_size_y, pixels.physical_size_x
    assert sizes == pytest.approx((0.5, 0.25, 0.2))
    assert {unit.value for unit in (pixels.physical_size_z_unit, pixels.physical_size_x_unit)} == {"µm"}
    assert [channel.name for channel in pixels.channels] == ["membrane", "nuclei"]
    assert pixels.time_increment == 2
    assert_close(tifffile.imread(tmp_path / "out.ome.tif"), image, image)


# The network and how it was trained


def test_keras_file_is_taken_as_a_model(run, networks, volume, tmp_path):
    path, image = volume
    alone = tmp_path / "alone.keras"
    alone.write_bytes((networks["square"] / "best.keras").read_bytes())
    run("-m", alone, "-i", path, "-o", tmp_path / "out.tif")
    assert_close(tifffile.imread(tmp_path / "out.tif"), applied(np.square, image), image)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (10, 90)),
        (("--p_min", "0"), (0, 90)),
        (("--p_max", "99"), (10, 99)),
        (("--p_min", "1", "--p_max", "100"), (1, 100)),
    ],
)
def test_percentiles_are_those_of_training_unless_given(run, volume, tmp_path, flags, expected):
    path, image = volume
    network = save_network(tmp_path / "network", square, percentiles=[10, 90])
    run("-m", network, "-i", path, "-o", tmp_path / "out.tif", *flags)
    low, high = np.percentile(image, expected)
    restored = ((image - low) / (high - low)) ** 2 * (high - low) + low
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), restored, rtol=1e-3, atol=1)


@pytest.fixture
def blurring(tmp_path):
    """A network that tells its tiles: it averages 5x5x5 voxels, zeros beyond the tile."""
    average = layers.Conv3D(
        1, 5, padding="same", use_bias=False, kernel_initializer=keras.initializers.Constant(1 / 125)
    )
    return save_network(tmp_path / "blurring", average)


@pytest.mark.parametrize(
    ("flags", "tile_shape", "overlap"),
    [
        ((), (11, 21, 23), (0, 0, 0)),
        (("-B", "6,10,12"), (6, 10, 12), (1, 2, 3)),
        (("-B", "6,10,12", "-O", "2,4,5"), (6, 10, 12), (2, 4, 5)),
        (("--block_overlap_shape", "3,4,5"), (11, 21, 23), (0, 0, 0)),
        (("--block_shape=64,256,256"), (64, 256, 256), (16, 16, 16)),
    ],
)
def test_a_volume_that_memory_holds_is_one_tile_unless_tiles_are_given(
    run, volume, tmp_path, blurring, flags, tile_shape, overlap
):
    path, image = volume
    flags = (flags,) if isinstance(flags, str) else flags
    run("-m", blurring, "-i", path, "-o", tmp_path / "out.tif", *flags)
    low, high = ranges(image, None)
    model = keras.saving.load_model(blurring / "best.keras")
    normalised = ((image - low) / (high - low)).astype(np.float32)[..., np.newaxis]
    expected = restore(model, normalised, tile_shape=tile_shape, overlap=overlap)[..., 0] * (high - low) + low
    assert_close(tifffile.imread(tmp_path / "out.tif"), expected, image)


def test_what_train_leaves_is_what_apply_takes(run, tiny_config, tmp_path):
    run_dir = train(Config.checked(tiny_config(tmp_path, epochs=2, steps_per_epoch=4, initial_learning_rate=0.01)))
    folders = ("-i", tmp_path / "raw", "-g", tmp_path / "gt", "-o", tmp_path / "out")
    run("-m", run_dir, *folders, "--precision", "float32")
    raw = tifffile.imread(tmp_path / "raw" / "0.tif")
    low, high = ranges(raw, None)
    model = keras.saving.load_model(run_dir / "best.keras")
    normalised = ((raw - low) / (high - low)).astype(np.float32)[..., np.newaxis]
    expected = restore(model, normalised)[..., 0] * (high - low) + low
    assert_close(tifffile.imread(tmp_path / "out" / "0.tif"), expected, raw)
    assert list(read_scores(tmp_path / "out" / "scores.csv")) == ["0.tif", "1.tif"]


# Whole or not at all


def test_older_result_is_replaced_where_told_so(run, networks, volume, tmp_path):
    path, image = volume
    (tmp_path / "out.tif").write_bytes(b"the result of yesterday")
    run("-m", networks["same"], "-i", path, "-o", tmp_path / "out.tif", "--overwrite")
    assert_close(tifffile.imread(tmp_path / "out.tif"), image, image)


@pytest.mark.parametrize("flags", [(), ("--normalize_output_range_between_zero_and_one",), ("-f", "ome")])
def test_failure_midway_leaves_the_old_output_and_nothing_else(run, networks, volume, tmp_path, monkeypatch, flags):
    path, _ = volume
    output = tmp_path / "out" / "out.tif"
    output.parent.mkdir()
    output.write_bytes(b"the result of yesterday")

    def restore_one_block(engine, read, shape, **options):
        yield (slice(0, 1), slice(0, shape[1]), slice(0, shape[2])), np.zeros((1, *shape[1:], 1), np.float32)
        raise RuntimeError("no more")

    monkeypatch.setattr("rcan.restoration.blocks.restore_blocks", restore_one_block)
    run("-m", networks["same"], "-i", path, "-o", output, "--overwrite", *flags, status=1)
    assert output.read_bytes() == b"the result of yesterday"
    assert [path.name for path in output.parent.iterdir()] == ["out.tif"]


def test_no_block_larger_than_a_tile_is_read_once_the_percentiles_are_known(networks, volume, tmp_path, monkeypatch):
    from rcan.io.volume import Volume

    path, image = volume
    shapes = []
    read = Volume.read

    def record(self, frame=None, region=None, **options):
        block = read(self, frame, region, **options)
        shapes.append(block.shape)
        return block

    known = np.percentile(image, PERCENTILES)[np.newaxis]
    monkeypatch.setattr("rcan.data.views.percentile_range", lambda *args, **options: known)
    monkeypatch.setattr(Volume, "read", record)
    engine = KerasEngine(keras.saving.load_model(networks["same"] / "best.keras"))
    FileRestorer(TiledRestorer(engine, tile_shape=(4, 16, 16))).restore(path, tmp_path / "out.tif")
    assert {*shapes} == {(4, 16, 16, 1)}
    assert_close(tifffile.imread(tmp_path / "out.tif"), image, image)
