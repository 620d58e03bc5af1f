import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

import rcan
from rcan.assess import network as study
from rcan.assess import subjects
from rcan.assess.intervals import bootstrap_interval, score_blocks
from rcan.assess.quantification import local_error
from rcan.assess.records import MethodScores, VolumeResult
from rcan.assess.volumes import sum_up
from rcan.commands import apply as apply_command
from rcan.commands.evaluate import main
from rcan.config import Config
from rcan.model import PixelShuffle
from rcan.report import evaluation as report
from rcan.restoration.engine import KerasEngine
from rcan.restoration.tiled import TiledRestorer, TileTooLarge
from rcan.scores import score_image
from rcan.training.fit import train

PERCENTILES = (2, 99.9)


def save_network(folder, function, *, ndim=3, channels=1, **about):
    """A run folder whose network is a function of its input."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = keras.Input((None,) * ndim + (channels,))
    keras.Model(inputs, function(inputs)).save(folder / "best.keras")
    (folder / "training.json").write_text(json.dumps({"percentiles": PERCENTILES, **about}))
    return folder


def square(x):
    return layers.Multiply()([x, x])


def shift(x):
    """The neighbour along x: a network that is not the same turned or flipped."""
    cropped = layers.Cropping3D(((0, 0), (0, 0), (0, 1)))(x)
    return layers.ZeroPadding3D(((0, 0), (0, 0), (1, 0)))(cropped)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "same": save_network(folder / "same", layers.Rescaling(1.0)),
        "square": save_network(folder / "square", square),
        "square of planes": save_network(folder / "square2d", square, ndim=2),
        "square of two": save_network(folder / "square_of_two", square, channels=2),
        "larger": save_network(folder / "larger", lambda x: PixelShuffle((1, 2, 2))(layers.Concatenate()([x] * 4))),
        "shift": save_network(folder / "shift", shift),
    }  # fmt: skip


@pytest.fixture
def network(networks, tmp_path):
    """A copy of a run folder, to be written to."""
    return lambda name: Path(shutil.copytree(networks[name], tmp_path / "network"))


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Run the command on raw/ and gt/; return what it printed: `out, err = run("-m", …, status=0)`.

    Drawing the report takes longest, and is left out unless `draws` is set.
    """

    def run(*flags, status=0, draws=False):
        if not draws:
            monkeypatch.setattr(report, "write_evaluation_report", lambda path, *_: path.write_text("report"))
        folders = ["-i", tmp_path / "raw", "-g", tmp_path / "gt", "-o", tmp_path / "report"]
        assert main([str(flag) for flag in (*folders, *flags)]) == status
        return capfd.readouterr()

    return run


def make_images(rng, shape):
    """Grey values of raw and ground truth; the ground truth is about the square of raw."""
    space = (1.0,) * 2 if len(shape) == 2 else (0,) * (len(shape) - 3) + (0.7, 1.0, 1.0)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), space)
    raw = (smooth - smooth.min()) / np.ptp(smooth)
    gt = raw**2 + rng.normal(0, 0.02, shape)
    return (1000 * raw + 100).astype(np.uint16), (2000 * gt + 300).astype(np.uint16)


@pytest.fixture
def pair(tmp_path, write_tiff, rng):
    """Write a pair: `pair(shape, axes)`; return raw and ground truth as arrays."""

    def make(shape=(6, 32, 34), axes="ZYX", name="a.tif", **metadata):
        raw, gt = make_images(rng, shape)
        metadata = {"spacing": 0.3, "unit": "micron", "resolution": (10, 10), **metadata}
        for kind, image in (("raw", raw), ("gt", gt)):
            path = tmp_path / kind / name
            path.parent.mkdir(exist_ok=True)
            resolution = metadata["resolution"]
            own = {key: value for key, value in metadata.items() if key != "resolution"}
            tifffile.imwrite(path, image, imagej=True, resolution=resolution, metadata={"axes": axes, **own})
        return raw, gt

    return make


def read_rows(tmp_path):
    with open(tmp_path / "report" / "scores.csv", newline="") as file:
        return {(row["volume"], row["method"]): row for row in csv.DictReader(file)}


def read_results(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads((tmp_path / "report" / "scores.json").read_text(), parse_constant=refuse)


def normalised(image):
    low, high = np.percentile(image.astype(float), PERCENTILES)
    return (image - low) / (high - low)


def psnr_after_fit(image, gt):
    gain, offset = np.polyfit(image.ravel(), gt.ravel(), 1)
    return peak_signal_noise_ratio(gt, gain * image + offset, data_range=1)


def test_raw_and_restored_are_scored_as_the_network_sees_them(run, networks, pair, tmp_path):
    raw, gt = map(normalised, pair())
    out, _ = run("-m", networks["square"])
    rows = read_rows(tmp_path)
    for method, image in (("raw", raw), ("restored", raw**2)):
        row = rows["a.tif", method]
        assert float(row["psnr"]) == pytest.approx(psnr_after_fit(image, gt), abs=1e-2)
        assert float(row["psnr_unmatched"]) == pytest.approx(peak_signal_noise_ratio(gt, image, data_range=1), abs=1e-2)
        assert float(row["pearson"]) == pytest.approx(np.corrcoef(image.ravel(), gt.ravel())[0, 1], abs=1e-4)
        assert f"{float(row['psnr']):.2f}" in out
    assert {method for _, method in rows} == {
        "raw", "Gaussian", "median", "Richardson-Lucy", "non-local means", "restored"
    }  # fmt: skip
    assert rows["a.tif", "Gaussian"]["setting"].startswith("sigma")
    assert rows["a.tif", "raw"]["evaluated"] == "whole"


# What is written


def test_the_report_tells_scores_nulls_and_methods(run, network, pair, tmp_path):
    pair((16, 32, 34))
    out, _ = run("-m", network("square"), draws=True)
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>")
    results = read_results(tmp_path)
    psnr = results["total"]["methods"]["restored"]["psnr"]
    assert f"{psnr['mean']:.4g} ({psnr['low']:.4g} to {psnr['high']:.4g})" in html
    for section in (
        "Scores",
        "Images",
        "Resolution",
        "Quantification",
        "Null tests",
        "Uncertainty",
        "Methods",
    ):
        assert f"<h2>{section}</h2>" in html
    assert "restored against raw: " in out
    assert out.strip().endswith(f"Report: {tmp_path / 'report' / 'report.html'}")


def test_json_has_all_numbers_and_how_they_came_about(run, networks, pair, tmp_path):
    raw, gt = (normalised(image)[..., np.newaxis] for image in pair((16, 32, 34)))
    run("-m", networks["square"], "--seed", 3, "--calibrate", "false")
    results = read_results(tmp_path)
    assert results["settings"]["seed"] == 3
    assert results["model"]["percentiles"] == list(PERCENTILES)
    assert set(results["versions"]) > {"rcan", "keras", "numpy"}
    assert results["calibration"] is None
    facts = results["volumes"]["a.tif"]
    assert (facts["shape"], facts["num_frames"], facts["part"]) == ([16, 32, 34, 1], 1, None)
    assert facts["voxel_size"] == pytest.approx([0.3, 0.1, 0.1])
    assert set(facts["resolution"]) == {"decorrelation", "single exposure", "against the ground truth"}
    assert facts["resolution"]["against the ground truth"]["restored"]["lateral"] > 0
    assert facts["quantification"]["restored"][0]["r_squared"] > 0.9
    _, share = local_error(raw, gt, voxel_size=(0.3, 0.1, 0.1))
    assert facts["methods"]["raw"]["wrong"] == pytest.approx(share, abs=1e-4)
    assert set(results["nulls"]) == {"none", "noise", "flat", "shuffled"}


@pytest.mark.parametrize(("count", "over"), [(2, "blocks"), (5, "volumes")])
def test_intervals_are_over_volumes_where_there_are_five(run, networks, pair, tmp_path, count, over):
    for number in range(count):
        pair((4, 20, 20), name=f"{number}.tif")
    run("-m", networks["square"], "--calibrate", "false")
    results = read_results(tmp_path)
    assert results["total"]["over"] == over
    each = [facts["methods"]["restored"]["psnr"] for facts in results["volumes"].values()]
    psnr = results["total"]["methods"]["restored"]["psnr"]
    assert psnr["mean"] == pytest.approx(np.mean(each))
    assert psnr["low"] < psnr["mean"] < psnr["high"]
    if over == "volumes":
        assert (psnr["low"], psnr["high"]) == pytest.approx(bootstrap_interval(each, seed=0))


def volume_of(scores, blocks=None):
    """The result of a volume with these scores by method."""
    return VolumeResult(
        raw="raw.tif",
        ground_truth="gt.tif",
        shape=(32, 32, 1),
        num_frames=1,
        voxel_size=(None, None, None),
        learned_from=False,
        methods={method: MethodScores(of_method, wrong=0.0) for method, of_method in scores.items()},
        resolution={},
        quantification={},
        blocks=blocks or {},
    )


def test_gains_are_taken_pair_by_pair():
    """Volumes differ by 10 dB, methods by 1 dB in each: the interval of the gain is narrow."""

    def volume(level):
        gains = {"raw": 0, "median": 2, "restored": 3}
        return volume_of({method: {"psnr": level + gain, "ssim": 0.5} for method, gain in gains.items()})

    total = sum_up([volume(level) for level in (10, 20, 30, 40, 50)], seed=0)
    assert total.best == "median"
    assert total.gains["median"]["psnr"] == pytest.approx((1, 1, 1))
    psnr = total.methods["restored"]["psnr"]
    assert psnr.high - psnr.low > 10


def test_intervals_lie_around_the_mean_where_volumes_have_different_numbers_of_frames(rng):
    """A still of 10 dB beside a time-lapse of nine frames of 30 dB: the mean over both is 20 dB."""

    def volume(noise, num_frames):
        gt = rng.uniform(size=(32, 32, 1)).astype(np.float32)
        image = gt + rng.normal(0, noise, gt.shape).astype(np.float32)
        blocks = {"restored": [score_blocks(image, gt)] * num_frames}
        return volume_of({"restored": score_image(image, gt)}, blocks)

    total = sum_up([volume(10**-0.5, 1), volume(10**-1.5, 9)], seed=0)
    psnr = total.methods["restored"]["psnr_unmatched"]
    assert psnr.mean == pytest.approx(20, abs=0.5)
    assert psnr.low < psnr.mean < psnr.high


# What it takes


@pytest.mark.parametrize(
    ("name", "shape", "axes", "num_frames"),
    [
        ("square", (2, 4, 20, 22), "TZYX", 2),
        ("square", (4, 2, 20, 22), "ZCYX", 2),
        ("square of two", (4, 2, 20, 22), "ZCYX", 1),
        ("square of planes", (4, 20, 22), "ZYX", 4),
        ("square of planes", (20, 22), "YX", 1),
    ],
)
def test_frames_channels_and_planes_are_restored_as_apply_does(
    run, networks, pair, tmp_path, name, shape, axes, num_frames
):
    pair(shape, axes)
    run("-m", networks[name], "--calibrate", "false")
    (row,) = read_results(tmp_path)["volumes"].values()
    assert row["num_frames"] == num_frames
    flags = ["-m", networks[name], "-i", tmp_path / "raw", "-g", tmp_path / "gt", "-o", tmp_path / "restored"]
    assert apply_command.main([str(flag) for flag in flags]) == 0
    with open(tmp_path / "restored" / "scores.csv", newline="") as file:
        (expected,) = csv.DictReader(file)
    assert row["methods"]["restored"]["psnr"] == pytest.approx(float(expected["psnr_restored"]), abs=1e-3)
    assert row["methods"]["raw"]["psnr"] == pytest.approx(float(expected["psnr_raw"]), abs=1e-3)


def test_an_upscaling_network_is_held_against_the_larger_ground_truth(run, network, pair, tmp_path):
    _, gt = pair((4, 20, 22))
    tifffile.imwrite(tmp_path / "gt" / "a.tif", gt.repeat(2, 1).repeat(2, 2), imagej=True, metadata={"axes": "ZYX"})
    run("-m", network("larger"))
    (row,) = read_results(tmp_path)["volumes"].values()
    assert row["shape"] == [4, 40, 44, 1]
    assert row["voxel_size"] == pytest.approx([0.3, 0.05, 0.05])
    assert row["methods"]["restored"]["psnr"] == pytest.approx(row["methods"]["raw"]["psnr"], abs=1e-3)


def test_a_network_that_makes_one_channel_of_two_has_no_classical_reference(run, tmp_path, rng):
    fused = save_network(tmp_path / "fused", lambda x: layers.Conv3D(1, 1)(x), channels=2)
    raw, gt = make_images(rng, (4, 2, 20, 22))
    for kind, image, axes in (("raw", raw, "ZCYX"), ("gt", gt[:, 0], "ZYX")):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", image, imagej=True, metadata={"axes": axes})
    run("-m", fused)
    results = read_results(tmp_path)
    assert list(results["total"]["methods"]) == ["restored"]
    assert results["total"]["gains"] == {}
    assert list(results["nulls"]["noise"]) == ["restored"]


def test_frames_whose_ground_truth_is_constant_are_left_out_and_this_is_said(run, network, tmp_path, rng):
    raw, gt = make_images(rng, (3, 4, 20, 22))
    raw[0], gt[0] = raw.min(), gt.min()  # as registration pads a stack
    for kind, image in (("raw", raw), ("gt", gt)):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", image, imagej=True, metadata={"axes": "TZYX"})
    _, err = run("-m", network("shift"))
    assert "a.tif: 1 of 3 frames are constant, and left out" in err
    results = read_results(tmp_path)
    facts = results["volumes"]["a.tif"]
    assert facts["num_frames"] == 2
    frames = list(zip(normalised(raw)[1:], normalised(gt)[1:], strict=True))
    expected = np.mean([psnr_after_fit(*frame) for frame in frames])
    assert facts["methods"]["raw"]["psnr"] == pytest.approx(expected, abs=1e-2)
    assert facts["methods"]["raw"]["pearson"] is not None
    assert results["nulls"]["none"]["restored"]["contrast"] > 0
    assert results["calibration"]["coverage"]["evaluated"]["num_voxels"] == raw[1:].size


def test_a_ground_truth_that_is_constant_in_its_middle_is_refused_before_the_work(
    run, networks, tmp_path, rng, monkeypatch
):
    monkeypatch.setattr(subjects, "MOST_VOXELS", 4 * 8 * 8)
    raw, gt = make_images(rng, (4, 20, 22))
    gt[:, 4:16, 4:18] = 300
    for kind, image in (("raw", raw), ("gt", gt)):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", image, imagej=True, metadata={"axes": "ZYX"})
    assert "is constant in the part that is evaluated" in run("-m", networks["square"], status=1)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_is_written_all_the_same(run, networks, pair, tmp_path):
    pair(name=os.fsdecode(b"\xb5m.tif"))
    run("-m", networks["square"], "--calibrate", "false", draws=True)
    assert ("\\udcb5m.tif", "restored") in read_rows(tmp_path)
    assert "\\udcb5m.tif" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_of_a_large_image_the_central_part_is_evaluated_and_this_is_said(run, networks, pair, tmp_path, monkeypatch):
    raw, gt = map(normalised, pair((6, 32, 34)))
    monkeypatch.setattr(subjects, "MOST_VOXELS", 6 * 20 * 20)
    out, _ = run("-m", networks["square"], "--calibrate", "false")
    centre = (slice(None), slice(6, 26), slice(7, 27))
    row = read_rows(tmp_path)["a.tif", "restored"]
    assert float(row["psnr"]) == pytest.approx(psnr_after_fit(raw[centre] ** 2, gt[centre]), abs=1e-2)
    assert row["evaluated"] == "central 6x20x20"
    assert "a.tif (central 6x20x20 ZYX)" in out


def test_richardson_lucy_gets_the_blur_that_is_stated(run, networks, pair, tmp_path):
    pair()
    run("-m", networks["square"], "--calibrate", "false", "--fwhm", "0.5,0.2,0.2")
    assert "blur 0.5 x 0.2 x 0.2 µm" in read_rows(tmp_path)["a.tif", "Richardson-Lucy"]["setting"]


def test_a_second_exposure_tells_up_to_where_images_repeat(run, networks, pair, tmp_path, rng):
    raw, _ = pair((16, 40, 40))
    (tmp_path / "again").mkdir()
    again = raw + rng.integers(0, 20, raw.shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "again" / "a.tif", again, imagej=True, metadata={"axes": "ZYX"})
    run("-m", networks["square"], "--calibrate", "false", "--repeat", tmp_path / "again")
    found = read_results(tmp_path)["volumes"]["a.tif"]["resolution"]["two exposures"]
    assert found["raw"]["lateral"] > 0
    assert found["restored"]["lateral"] > 0


def test_the_ensemble_is_what_is_judged_when_it_is_asked_for(run, networks, pair, tmp_path):
    """Its members shift the image by a voxel, to all four sides twice."""
    raw, gt = map(normalised, pair())
    run("-m", networks["shift"], "--calibrate", "false", "--ensemble", 8)
    moved = [ndimage.shift(raw, (0, *by), order=0) for by in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    expected = psnr_after_fit(np.mean(moved, axis=0), gt)
    assert float(read_rows(tmp_path)["a.tif", "restored"]["psnr"]) == pytest.approx(expected, abs=1e-2)


def test_tiles_are_halved_until_they_fit_the_memory(rng):
    model = keras.Sequential([keras.Input((None, None, None, 1)), layers.Rescaling(2.0)])
    shapes = []

    class Small(KerasEngine):
        def __call__(self, tile):
            shapes.append(tile.shape)
            if tile.size > 20_000:
                raise TileTooLarge("too large")
            return super().__call__(tile)

    image = rng.normal(size=(8, 90, 100, 1)).astype(np.float32)
    with pytest.warns(UserWarning, match="memory is too small for tiles of 8x"):
        restored = TiledRestorer(Small(model), max_voxels=2**20).restore_array(image)
    np.testing.assert_allclose(restored, 2 * image, rtol=1e-5)
    assert max(map(np.prod, shapes)) > 20_000


# What is refused


def test_an_output_folder_that_holds_files_is_left_alone(run, networks, pair, tmp_path):
    pair()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "scores.csv").write_text("mine")
    _, err = run("-m", networks["square"], status=1)
    assert "already holds files (scores.csv)" in err
    assert (tmp_path / "report" / "scores.csv").read_text() == "mine"
    run("-m", networks["square"], "--calibrate", "false", "--overwrite")
    assert ("a.tif", "restored") in read_rows(tmp_path)


def test_an_output_that_is_a_file_is_refused(run, networks, pair, tmp_path):
    pair()
    (tmp_path / "report").write_text("mine")
    assert "is a file: name a folder with -o" in run("-m", networks["square"], status=1)[1]


@pytest.mark.parametrize(
    ("shape", "message"), [((6, 32, 30), "the ground truth must have"), ((6, 32, 34), "the image is constant")]
)
def test_all_pairs_are_checked_before_the_work_begins(run, networks, pair, tmp_path, monkeypatch, shape, message):
    pair(name="a.tif")
    pair(name="b.tif")
    constant = np.full(shape, 7, np.uint16)
    tifffile.imwrite(tmp_path / "gt" / "b.tif", constant, imagej=True, metadata={"axes": "ZYX"})
    monkeypatch.setattr(study, "evaluate_subject", None)  # is not called
    _, err = run("-m", networks["square"], status=1)
    assert message in err
    assert "b.tif" in err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-g", "raw"], "is the raw image, too"),
        (["-g", "missing"], "does not exist"),
        (["-g", "gt/a.tif"], "must both be images or both be folders"),
        (["--repeat", "raw"], "is the raw image, too"),
        (["--fwhm", "0.5,0.2"], "--fwhm has too few values: number 3 is missing"),
        (["-m", "raw"], "has neither best.keras nor last.keras"),
    ],
)
def test_what_does_not_fit_together_is_refused(run, networks, pair, tmp_path, monkeypatch, flags, message):
    pair()
    monkeypatch.chdir(tmp_path)
    status = 2 if "--fwhm" in flags else 1
    assert message in run("-m", networks["square"], *flags, status=status)[1]
    assert not (tmp_path / "report").exists()


def test_a_blur_in_micrometres_needs_a_voxel_size(run, networks, tmp_path, write_tiff, rng):
    for kind, image in zip(("raw", "gt"), make_images(rng, (6, 32, 34)), strict=True):
        write_tiff(tmp_path / kind / "a.tif", image, "ZYX")
    _, err = run("-m", networks["square"], "--fwhm", "0.5,0.2,0.2", status=1)
    assert "does not give its voxel size" in err


def test_training_data_are_named_as_such(run, pair, tmp_path):
    pair(name="a.tif")
    pair(name="b.tif")
    learned = {"raw": str(tmp_path / "raw" / "b.tif"), "gt": "elsewhere.tif"}
    network = save_network(tmp_path / "network", square, training=[learned])
    _, err = run("-m", network, "--calibrate", "false")
    assert "warning: b.tif is training or validation data of this network" in err
    volumes = read_results(tmp_path)["volumes"]
    assert [facts["learned_from"] for facts in volumes.values()] == [False, True]


@pytest.mark.parametrize("is_swapped", [True, False])
def test_raw_images_that_look_better_than_their_ground_truth_are_named(run, networks, tmp_path, rng, is_swapped):
    smooth = ndimage.gaussian_filter(rng.normal(size=(8, 64, 64)), 1.5)
    sharp = (500 + 400 * smooth / np.abs(smooth).max()).astype(np.float32)
    noisy = sharp + rng.normal(0, 100, sharp.shape).astype(np.float32)
    for kind, image in zip(("raw", "gt") if is_swapped else ("gt", "raw"), (sharp, noisy), strict=True):
        (tmp_path / kind).mkdir()
        tifffile.imwrite(tmp_path / kind / "a.tif", image, imagej=True, metadata={"axes": "ZYX"})
    _, err = run("-m", networks["square"], "--calibrate=False")  # whose result is worse than raw
    assert ("raw looks better than the ground truth in a.tif (SNR " in err) == is_swapped
    assert ("exchange -i and -g if they are swapped" in err) == is_swapped


def test_an_interruption_leaves_nothing_behind(run, networks, pair, tmp_path, monkeypatch):
    pair()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run_null_tests", interrupt)
    run("-m", networks["square"], status=130)
    assert not (tmp_path / "report").exists()


def test_help_does_not_wait_for_keras():
    code = (
        "import sys; from rcan.__main__ import main; status = main(['evaluate', '--help']); "
        "sys.exit(status or bool({'keras', 'matplotlib', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--ground_truth" in done.stdout


# The spread of the ensemble


def noted(folder):
    return json.loads((folder / "training.json").read_text()).get("spread")


def test_the_spread_is_calibrated_on_validation_images_and_checked_on_the_others(run, pair, tmp_path, tiny_config):
    pair((8, 40, 40))
    values = tiny_config(tmp_path / "learned", validation_split=0.25)
    folder = train(Config.model_validate_json(json.dumps(values)))
    out, _ = run("-m", folder)
    calibration, facts = read_results(tmp_path)["calibration"], noted(folder)
    assert (calibration["found_on"], calibration["num_lost"]) == ("validation", 0)
    assert set(calibration["coverage"]) == {"validation", "evaluated"}
    assert facts["factor"] == calibration["factor"]
    assert facts["calibrated_within_one"] == pytest.approx(0.6827, abs=1e-3)
    assert facts["within_one"] == calibration["coverage"]["validation"]["within_one"]
    assert "validation images (the factor is theirs): one spread holds the truth in 68.3 %" in out
    assert "evaluated images (a check)" in out
    shutil.rmtree(tmp_path / "learned" / "raw")  # the factor stays when the images are gone
    out, _ = run("-m", folder, "--overwrite")
    assert noted(folder) == facts
    assert f"to be multiplied by {facts['factor']:.3g}, found on the network's validation images" in out


def test_the_spread_is_calibrated_on_the_evaluated_images_where_there_are_no_others(run, network, pair, tmp_path):
    pair((6, 40, 40))
    folder = network("shift")
    out, _ = run("-m", folder)
    calibration, facts = read_results(tmp_path)["calibration"], noted(folder)
    assert calibration["found_on"] == facts["found_on"] == "evaluated"
    assert facts["factor"] == calibration["factor"]
    assert facts["ensemble"] == 8
    assert facts["calibrated_within_one"] == pytest.approx(0.6827, abs=1e-3)
    assert f"to be multiplied by {facts['factor']:.3g}, found on the evaluated images themselves" in out


def test_no_factor_is_kept_that_was_found_on_training_data(run, pair, tmp_path):
    pair((6, 40, 40))
    learned = {"raw": str(tmp_path / "raw" / "a.tif"), "gt": str(tmp_path / "gt" / "a.tif")}
    folder = save_network(tmp_path / "network", shift, training=[learned])
    out, _ = run("-m", folder)
    assert "a.tif is training or validation data: the factor is in the report alone" in out
    assert noted(folder) is None


def test_a_network_that_makes_nan_is_refused(run, pair, tmp_path):
    pair()
    network = save_network(tmp_path / "network", layers.Rescaling(3e38, offset=3e38))
    _, err = run("-m", network, status=1)
    assert "a.tif is restored to NaN or infinite values" in err
    assert not (tmp_path / "report").exists()


def test_a_network_that_makes_a_constant_is_worse_than_raw(run, pair, tmp_path):
    pair()
    network = save_network(tmp_path / "network", layers.Rescaling(0.0, offset=0.3))
    out, _ = run("-m", network, "--calibrate", "false")
    assert "restored against raw: worse" in out
    results = read_results(tmp_path)
    assert results["total"]["methods"]["restored"]["pearson"]["mean"] is None  # JSON has no NaN
    assert results["nulls"]["noise"]["restored"]["contrast"] == 0


def test_members_that_agree_have_no_spread_to_calibrate(run, network, pair, tmp_path):
    pair()
    folder = network("square")
    out, _ = run("-m", folder)
    assert "its members hardly differ" in out
    assert noted(folder) is None


def test_a_network_without_record_keeps_no_factor(run, network, pair, tmp_path):
    pair((6, 40, 40))
    folder = network("shift")
    (folder / "training.json").unlink()
    out, _ = run("-m", folder)
    assert "has no training.json: the factor is in the report alone" in out
    assert [path.name for path in folder.iterdir()] == ["best.keras"]


def apply(folder, tmp_path, name, *flags, status=0):
    command = ["-m", folder, "-i", tmp_path / "raw", "-o", tmp_path / name, "--uncertainty", *flags]
    assert apply_command.main([str(flag) for flag in command]) == status
    return tmp_path / name / "a_uncertainty.tif"


def test_apply_multiplies_the_spread_by_the_factor_and_says_so(run, network, pair, tmp_path, capfd):
    pair((6, 40, 40))
    folder = network("shift")
    before = tifffile.imread(apply(folder, tmp_path, "before", "--ensemble", 8))
    assert "is the spread of the ensemble as it is" in capfd.readouterr().out
    run("-m", folder)
    factor = noted(folder)["factor"]
    path = apply(folder, tmp_path, "after", "--ensemble", 8)
    assert f"is the spread of the ensemble times {factor:.3g}" in capfd.readouterr().out
    np.testing.assert_allclose(tifffile.imread(path), factor * before, rtol=1e-4)
    with tifffile.TiffFile(path) as file:
        assert f"rcan.spread_factor = {factor:.6g}" in file.imagej_metadata["Info"]


def test_apply_takes_no_factor_of_an_ensemble_of_another_size(run, network, pair, tmp_path, capfd):
    pair((6, 40, 40))
    folder = network("shift")
    before = tifffile.imread(apply(folder, tmp_path, "before", "--ensemble", 16))
    run("-m", folder)
    after = tifffile.imread(apply(folder, tmp_path, "after", "--ensemble", 16))
    assert "it was calibrated for an ensemble of 8 only" in capfd.readouterr().out
    np.testing.assert_array_equal(after, before)


def test_a_folder_is_not_continued_with_another_factor(run, network, pair, tmp_path, capfd):
    pair((6, 40, 40))
    folder = network("shift")
    apply(folder, tmp_path, "restored", "--ensemble", 8)
    run("-m", folder)
    apply(folder, tmp_path, "restored", "--ensemble", 8, status=1)
    assert "spread_factor" in capfd.readouterr().err


# From Python


def test_a_python_caller_gets_the_results_that_the_command_writes(networks, pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "write_evaluation_report", lambda path, *_: path.write_text("report"))
    pair()
    folders = [tmp_path / name for name in ("raw", "gt", "report")]
    evaluation = rcan.evaluate(networks["square"], *folders, calibrate=False, seed=3)
    results = read_results(tmp_path)
    assert evaluation.as_json() == results
    psnr = evaluation.volumes["a.tif"].methods["restored"].scores["psnr"]
    assert psnr == results["volumes"]["a.tif"]["methods"]["restored"]["psnr"]
    assert f"{psnr:.2f}" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="already holds files"):
        rcan.evaluate(networks["square"], *folders)
    with pytest.raises(ValueError, match="ensemble is 7: must be 8 or 16"):
        rcan.evaluate(networks["square"], *folders, ensemble=7)
