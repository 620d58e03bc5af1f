import csv
import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
import tifffile

from rcan.assess.limits import steps as study
from rcan.assess.limits.ends import apply_rules, describe_range, find_end, summarise, trusted_range
from rcan.assess.limits.exposures import measure_exposure, signal_to_noise, take_exposure
from rcan.assess.limits.networks import adapt_network
from rcan.assess.limits.records import LadderStep, Microscope, Step
from rcan.assess.limits.specimens import Specimen, cut_specimens, draw_specimens
from rcan.assess.limits.steps import measure_steps, open_study
from rcan.atomic_io import write_json
from rcan.commands.limits import main
from rcan.figures.limits import draw_ladder
from rcan.fingerprint.measure import measure_fingerprint
from rcan.fingerprint.records import FINGERPRINT_VERSION
from rcan.io.opening import open_volume
from rcan.run_folder.models import read_record
from rcan.simulation.camera import expose

VOXEL_SIZE = (0.3, 0.1, 0.1)
SCALING = {"percentiles": (2, 99.9)}
MICROSCOPE = Microscope(fwhm=(0.52, 0.19, 0.19), background=2, offset=100, gain=2, read_noise=1.6)
TINY = [
    "--shape",
    "4,24,24",
    "--volumes",
    "3",
    "--photon_ladder",
    "5,50",
    "--blur_ladder",
    "1,2",
    "--photons",
    "5",
]


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """A run folder whose network changes nothing."""
    inputs = keras.Input((None, None, None, 1))
    folder = tmp_path_factory.mktemp("identity")
    keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs)).save(folder / "best.keras")
    (folder / "training.json").write_text(json.dumps({"percentiles": [2, 99.9]}))
    return folder


@pytest.fixture
def run_dir(identity, tmp_path):
    return shutil.copytree(identity, tmp_path / "model")


@pytest.fixture(scope="module")
def finished(identity, tmp_path_factory):
    """Output of a whole run on phantoms, and the network's run folder."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(identity, folder / "model")
    assert main(["-m", str(folder / "model"), "-o", str(folder / "out"), *TINY]) == 0
    return folder


def read_csv(folder):
    with open(folder / "limits.csv", newline="") as file:
        return list(csv.DictReader(file))


def phantoms(count=2):
    options = {"kind": "spheres", "shape": (4, 24, 24), "voxel_size": VOXEL_SIZE, "percentiles": (2, 99.9)}
    return draw_specimens(count, **options, fwhm=MICROSCOPE.fwhm, seed=(0, 0))


# Signal-to-noise ratio


@pytest.mark.parametrize(("photons", "background", "read_noise"), [(20, 2, 1.6), (1, 0, 0), (500, 10, 3)])
def test_snr_of_an_image_of_signal_1_is_the_stated_formula(photons, background, read_noise):
    image = np.repeat([0.0, 1.0], 500).reshape(1, 1, -1, 1)
    snr = signal_to_noise(image, photons=photons, background=background, read_noise=read_noise)
    assert snr == pytest.approx(photons / np.sqrt(photons + background + read_noise**2))


def test_snr_is_that_of_the_grey_values(rng):
    """The simulated camera is the independent source: mean and deviation of its bright voxels."""
    image = np.repeat([0.2, 0.7], 50_000).reshape(1, 1, -1, 1)
    grey = expose(image, photons=30, background=4, gain=5, read_noise=2, rng=rng).ravel().astype(float)
    dark, bright = grey[:50_000], grey[50_000:]
    measured = (bright.mean() - dark.mean()) / bright.std()
    assert signal_to_noise(image, photons=30, background=4, read_noise=2) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("step", [Step(2, 2), Step(20, 2), Step(20, 4), Step(200, 1)])
def test_snr_is_what_a_fingerprint_measures_without_knowing_the_camera(tmp_path, step, write_tiff):
    """So that the limits of a network can be compared with the images that `apply` is given."""
    options = {"kind": "mixture", "shape": (24, 96, 96), "voxel_size": VOXEL_SIZE, "percentiles": (2, 99.9)}
    (specimen,) = draw_specimens(1, **options, fwhm=MICROSCOPE.fwhm, seed=(0, 0))
    picture, image = take_exposure(specimen, step, MICROSCOPE, np.random.default_rng(0))
    snr = signal_to_noise(image, photons=step.photons, background=2, read_noise=1.6)
    path = write_tiff(tmp_path / "a.tif", picture[..., 0], "ZYX")
    assert measure_fingerprint(open_volume(path)).channels[0].snr == pytest.approx(snr, rel=0.2)


# Where it breaks

LADDER = [1, 2, 4, 8, 16]


def differences(curve, spread=0.1):
    """Differences of five exposures around a known curve."""
    return [curve(position) + spread * np.linspace(-1, 1, 5) for position in LADDER]


def test_end_is_where_the_curves_are_known_to_cross_0():
    end = find_end(LADDER, differences(lambda snr: np.log2(snr) - 1.5), side="low", seed=0, is_log=True)
    assert end.mean_position == pytest.approx(2**1.5)
    assert end.other_confidence_bound < end.mean_position < end.position
    # a curve of slope 1 in log2: the ends lie as far from the middle as those of the interval
    assert np.log2(end.position / end.mean_position) == pytest.approx(0.1, abs=0.03)
    assert end.position * end.other_confidence_bound == pytest.approx(end.mean_position**2, rel=0.01)


def test_intervals_shrink_with_the_spread():
    wide, narrow = (
        find_end(LADDER, differences(lambda snr: np.log2(snr) - 1.5, spread), side="low", seed=0, is_log=True)
        for spread in (0.4, 0.01)
    )
    assert narrow.position - narrow.other_confidence_bound < 0.1 * (wide.position - wide.other_confidence_bound)


def test_blur_is_interpolated_linearly():
    end = find_end([1, 2, 4], [[3, 3], [1, 1], [-1, -1]], side="high", seed=0)
    assert end.position == pytest.approx(3)
    assert str(end) == "3 (between the steps 2 and 4; mean difference 0 at 3, 95 % interval 3 to 3)"


def test_order_of_the_ladder_does_not_matter():
    rows = differences(lambda snr: np.log2(snr) - 1.5)
    end = find_end(LADDER[::-1], rows[::-1], side="low", seed=0, is_log=True)
    assert end == find_end(LADDER, rows, side="low", seed=0, is_log=True)


def test_range_between_two_bad_parts_has_two_ends():
    rows = differences(lambda snr: 1.5 - abs(np.log2(snr) - 2))  # above 0 between 2**0.5 and 2**3.5
    low, high = (find_end(LADDER, rows, side=side, seed=0, is_log=True) for side in ("low", "high"))
    assert (low.mean_position, high.mean_position) == pytest.approx((2**0.5, 2**3.5))
    assert low.position > low.mean_position > low.other_confidence_bound
    assert high.position < high.mean_position < high.other_confidence_bound


def test_gain_beyond_a_gap_does_not_count():
    rows = [[1, 1], [-1, -1], [3, 3], [3, 3], [3, 3]]
    assert find_end(LADDER, rows, side="low", seed=0).position == pytest.approx(2.5)


@pytest.mark.parametrize(("level", "side", "state", "words"), [
    (1, "low", "none", "none down to 1"),
    (1, "high", "none", "none up to 16"),
    (-1, "low", "never", "no gain at any step from 1 to 16"),
    (-1, "high", "never", "no gain at any step from 1 to 16"),
    (0, "low", "never", "no gain at any step from 1 to 16"),
    (np.nan, "low", "unknown", "not measured"),
])  # fmt: skip
def test_no_number_is_given_where_the_ladder_shows_no_end(level, side, state, words):
    end = find_end(LADDER, differences(lambda snr: level, spread=0), side=side, seed=0)
    assert (end.state, end.position, str(end)) == (state, None, words)


@pytest.mark.parametrize(("side", "around"), [("low", (1, 2)), ("high", (8, 16))])
def test_an_end_at_the_very_last_step_lies_between_the_last_two(side, around):
    rows = [[0, 0], [1, 1], [3, 3], [1, 1], [0, 0]]
    for is_log in (False, True):
        assert find_end(LADDER, rows, side=side, seed=0, is_log=is_log).steps == around


def test_gain_within_its_own_spread_is_not_shown():
    rows = [[-1, 1.2, -0.8, 1.1, -0.4]] * 5  # mean above 0
    assert find_end(LADDER, rows, side="low", seed=0).state == "never"


def test_steps_that_could_not_be_measured_are_left_out():
    rows = [[np.nan, 1.0], [2, 2], [2, np.nan, 2], [-2, -2], [np.nan, np.nan]]
    end = find_end(LADDER, rows, side="high", seed=0)
    assert (end.position, end.tested) == (pytest.approx(6), (2, 8))


def measured(position, *, restored, raw=20.0, reference=21.0, lateral=0.3, raw_lateral=0.5, gt_lateral=0.2):
    """A step whose three exposures have these scores, a little apart."""
    exposures = []
    for shift in (-0.01, 0, 0.01):
        images = {
            name: {
                "psnr": psnr + shift * (name == "restored"),
                "ssim": psnr / 100,
                "lateral_true": raw_lateral if name == "raw" else 0.5,
                "axial_true": None,
            }
            for name, psnr in {"raw": raw, "restored": restored, "reference": reference}.items()
        }
        images["restored"]["lateral_true"] = lateral
        exposures.append(
            {
                "specimen": "a",
                "snr": position,
                "images": {**images, "gt": {"lateral": gt_lateral, "axial": None}},
            }
        )
    return LadderStep.checked({"photons": position, "snr": position, "blur": position, "exposures": exposures})


def test_limits_are_those_of_the_rules():
    snr = [measured(position, restored=psnr) for position, psnr in ((1, 20), (4, 22), (16, 22), (64, 19))]
    blur = [measured(position, restored=25, lateral=lateral) for position, lateral in ((1, 0.2), (2, 0.25), (3, 0.45))]
    limits = apply_rules({"snr": snr, "blur": blur}, seed=0)
    assert limits["snr_low"].end.mean_position == pytest.approx(2)  # 21 dB of the reference
    assert limits["snr_high"].end.mean_position == pytest.approx(16 * 4 ** (2 / 3))  # 20 dB of raw
    assert limits["blur_high"].end.position == pytest.approx(2.5)  # 0.35 µm is halfway from 0.5 to 0.2
    assert limits["snr_low"].scores["restored"]["psnr"] == pytest.approx(21, abs=0.02)
    assert limits["snr_low"].scores["raw"] == {"psnr": pytest.approx(20), "ssim": pytest.approx(0.2)}
    low, high = limits["snr_low"].end.position, limits["snr_high_classical"].end.position
    assert describe_range(limits, "snr") == (
        f"Restored is better than the best classical reference from SNR {low:.3g} to {high:.3g}."
    )
    assert "from blur 1 (the first step) to 3 (the last step)" in describe_range(limits, "blur")
    facts = trusted_range(limits, smallest_blur=1, settings={})
    assert facts.gains is True
    assert facts.snr == (limits["snr_low"].end.position, limits["snr_high"].end.position)
    assert facts.blur == (1, pytest.approx(2.5))
    assert facts.tested == {"snr": (1, 64), "blur": (1, 3)}
    assert type(facts).checked(json.loads(json.dumps(facts.model_dump(mode="json")))) == facts


def test_trusted_range_is_open_where_nothing_breaks_and_empty_where_all_is_broken():
    steps = [measured(position, restored=25) for position in (1, 2, 4)]
    facts = trusted_range(apply_rules({"snr": steps, "blur": steps}, seed=0), smallest_blur=1, settings={})
    assert facts.snr == (None, None)
    steps = [measured(position, restored=15, lateral=0.5) for position in (1, 2, 4)]
    facts = trusted_range(apply_rules({"snr": steps, "blur": steps}, seed=0), smallest_blur=1, settings={})
    low, high = facts.snr
    assert low > high
    assert facts.blur == (1, 1)


def test_nothing_is_regained_where_nothing_was_lost():
    """Raw is right to 0.5 µm, the ground truth no finer than 2 µm: a network that is right to 0.8 µm has damaged it."""
    steps = [measured(position, restored=25, lateral=0.8, gt_lateral=2.0) for position in (1, 2)]
    assert apply_rules({"snr": steps, "blur": steps}, seed=0)["blur_high"].end.state == "never"


@pytest.mark.parametrize("raw", [0.5, None])
def test_a_step_at_which_nothing_is_right_is_an_end_and_not_left_out(raw):
    """An image that does not correlate with the ground truth has no resolution: the worst that there is."""
    steps = [measured(position, restored=25, lateral=0.2) for position in (1, 2)]
    steps.append(measured(4, restored=25, lateral=None, raw_lateral=raw))
    end = apply_rules({"snr": steps, "blur": steps}, seed=0)["blur_high"].end
    assert (end.state, end.tested, end.steps) == ("found", (1, 4), (2, 4))


def test_point_narrower_than_a_voxel_is_warned_of(run_dir, tmp_path, write_tiff, capsys):
    density = phantoms(1)[0].density[..., 0]
    path = write_tiff(tmp_path / "cell.tif", (1000 * density).astype(np.uint16), "ZYX")
    flags = [*TINY, "--voxel_size", "0.6,0.3,0.3", "--photon_ladder", "5", "--blur_ladder", "2"]
    assert main(["-m", str(run_dir), "-i", str(path), "-o", str(tmp_path / "out"), *flags]) == 0
    assert "a point of 0.19 µm is narrower than a voxel of 0.3 µm" in capsys.readouterr().err


# Specimens


def test_middle_of_a_volume_comes_first(tmp_path, write_tiff, rng):
    image = rng.integers(0, 1000, (10, 40, 60)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", image, "ZYX")
    (specimen,) = cut_specimens([path], 1, shape=(4, 16, 20), percentiles=(2, 99.9), voxel_size=VOXEL_SIZE)
    low, high = np.percentile(image, (2, 99.9))
    np.testing.assert_allclose(specimen.gt[..., 0], (image[3:7, 12:28, 20:40] - low) / (high - low), atol=1e-5)
    assert (specimen.name, specimen.source_blur) == ("a.tif[3:7,12:28,20:40]", 1)
    np.testing.assert_allclose(specimen.density, np.maximum(specimen.gt, 0))


def test_parts_do_not_overlap_and_parts_without_signal_are_passed_over(tmp_path, write_tiff, rng):
    image = rng.integers(0, 1000, (4, 40, 40)).astype(np.uint16)
    image[:, :20, :20] //= 100
    path = write_tiff(tmp_path / "a.tif", image, "ZYX")
    options = {"shape": (4, 8, 8), "percentiles": (2, 99.9), "voxel_size": VOXEL_SIZE}
    regions = [specimen.name.split("[")[1] for specimen in cut_specimens([path], 99, **options)]
    corners = [[int(part.split(":")[0]) for part in region.split(",")[1:]] for region in regions]
    assert corners[0] == [16, 16]
    assert len({tuple(corner) for corner in corners}) == len(corners) == 25 - 4
    assert all((y % 8, x % 8) == (0, 0) and (y >= 16 or x >= 16) for y, x in corners)


def test_volumes_are_taken_in_turn_and_small_ones_whole(tmp_path, write_tiff, rng):
    paths = [
        write_tiff(tmp_path / name, rng.integers(0, 99, shape).astype(np.uint8), "ZYX")
        for name, shape in (("a.tif", (4, 24, 40)), ("b.tif", (3, 20, 12)))
    ]
    specimens = cut_specimens(paths, 3, shape=(4, 24, 12), percentiles=(2, 99.9), voxel_size=VOXEL_SIZE)
    assert [specimen.name for specimen in specimens] == [
        "a.tif[0:4,0:24,14:26]",
        "b.tif",
        "a.tif[0:4,0:24,2:14]",
    ]
    assert specimens[1].gt.shape == (3, 20, 12, 1)


def test_of_a_time_lapse_the_frame_in_the_middle_is_taken(tmp_path, write_tiff, rng):
    image = rng.integers(0, 1000, (3, 4, 16, 16)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", image, "TZYX")
    (specimen,) = cut_specimens([path], 1, shape=(4, 16, 16), percentiles=(0, 100), voxel_size=VOXEL_SIZE)
    expected = (image[1] - image[1].min()) / np.ptp(image[1].astype(float))
    np.testing.assert_allclose(specimen.gt[..., 0], expected, atol=1e-5)


def test_image_without_voxel_size_is_refused(tmp_path, write_tiff, rng):
    path = write_tiff(tmp_path / "a.tif", rng.integers(0, 99, (4, 16, 16)).astype(np.uint8), "ZYX")
    with pytest.raises(ValueError, match="name it in µm with --voxel_size Z,Y,X"):
        cut_specimens([path], 1, shape=(4, 16, 16), percentiles=(2, 99.9))


# Measuring


def test_identity_restores_what_is_raw(identity):
    restorer = adapt_network(keras.saving.load_model(identity / "best.keras"), 1)
    exposure = measure_exposure(
        restorer,
        phantoms(1)[0],
        Step(20, 2),
        microscope=MICROSCOPE,
        scaling=SCALING,
        rng=np.random.default_rng(0),
    )
    raw, restored = (exposure.images[name].model_dump(exclude_unset=True) for name in ("raw", "restored"))
    assert restored == {name: pytest.approx(value, abs=1e-4) for name, value in raw.items()}
    assert exposure.images["reference"].psnr >= raw["psnr"]


def test_perfect_restoration_is_as_sharp_as_the_ground_truth():
    specimen = phantoms(1)[0]
    options = {"microscope": MICROSCOPE, "scaling": SCALING, "rng": np.random.default_rng(0)}
    images = measure_exposure(lambda raw: specimen.gt, specimen, Step(20, 2), **options).images
    assert images["restored"].psnr == pytest.approx(120)
    assert all(getattr(images["restored"], name) == getattr(images["gt"], name) for name in ("lateral", "axial"))
    assert images["restored"].lateral_true == pytest.approx(0.2)  # two voxels


@pytest.mark.parametrize("name", ["two_channels", "2d"])
def test_network_of_other_channels_is_refused_and_planes_are_restored_one_by_one(tiny_models, name):
    model = keras.saving.load_model(tiny_models / f"{name}.keras")
    if name == "two_channels":
        with pytest.raises(ValueError, match="reads 2 and writes 2 channels, the ground truth has 1"):
            adapt_network(model, 1)
        return
    raw = np.random.default_rng(0).uniform(size=(3, 24, 24, 1)).astype(np.float32)
    restored = adapt_network(model, 1)(raw)
    np.testing.assert_allclose(restored[1], model.predict_on_batch(raw[1:2])[0], atol=1e-5)


def test_study_that_was_interrupted_goes_on_to_the_same_results(tmp_path):
    steps = [Step(5, 2), Step(50, 2)]
    options = {"num_exposures": 2, "microscope": MICROSCOPE, "scaling": SCALING, "seed": 0}
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        open_study(folder, {"seed": 0})
    whole = measure_steps(steps, phantoms(), lambda step: np.abs, folder=folders[0], **options)
    restored = []

    def restore(raw):
        restored.append(raw)
        if len(restored) == 4:
            raise KeyboardInterrupt
        return np.abs(raw)

    with pytest.raises(KeyboardInterrupt):
        measure_steps(steps, phantoms(), lambda step: restore, folder=folders[1], **options)
    again = measure_steps(steps, phantoms(), lambda step: restore, folder=folders[1], **options)
    assert again == whole
    assert len(restored) == 4 + 2  # the first step was kept


def test_exposures_of_one_specimen_differ_in_noise(tmp_path):
    open_study(tmp_path / "steps", {})
    options = {"num_exposures": 2, "microscope": MICROSCOPE, "scaling": SCALING, "seed": 0}
    step = Step(20, 2)
    found = measure_steps([step], phantoms(1), lambda step: np.abs, folder=tmp_path / "steps", **options)
    one, other = found[step].exposures
    assert one.specimen == other.specimen
    assert one.images["raw"].psnr != other.images["raw"].psnr


# The command


def test_restored_equals_raw_in_all_tables_of_an_identity(finished):
    rows = read_csv(finished / "out")
    assert len(rows) == (2 + 2) * 4
    for ladder in ("snr", "blur"):
        raw, restored = (
            [
                [float(row[name]) for name in ("psnr", "psnr_low", "ssim")]
                for row in rows
                if (row["ladder"], row["image"]) == (ladder, image)
            ]
            for image in ("raw", "restored")
        )
        np.testing.assert_allclose(raw, restored, atol=1e-3)


def test_identity_is_never_better_than_anything(finished):
    limits = json.loads((finished / "out" / "limits.json").read_text())["limits"]
    assert {name: limit["end"]["state"] for name, limit in limits.items() if name.startswith("snr")} == {
        "snr_low": "never",
        "snr_high": "never",
        "snr_high_classical": "never",
    }


def test_table_has_the_means_and_intervals_of_the_exposures(finished):
    steps = json.loads((finished / "out" / "limits.json").read_text())["ladders"]["snr"]
    row = next(row for row in read_csv(finished / "out") if row["image"] == "reference")
    values = [one["images"]["reference"]["psnr"] for one in steps[0]["exposures"]]
    assert float(row["psnr"]) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(row["psnr_low"]) < float(row["psnr"]) < float(row["psnr_high"])
    assert float(row["psnr_low"]) >= min(values) - 1e-4  # no resample has a lower mean
    assert (float(row["photons"]), float(row["blur"])) == (5, 2)
    assert float(row["snr"]) < 5 / np.sqrt(5 + 2 + 1.6**2)  # blur takes from the signal


def test_trusted_range_is_kept_with_the_network(finished):
    trusted = read_record(finished / "model").trusted_range
    assert trusted.snr[0] > trusted.snr[1]  # an identity is to be trusted nowhere
    assert trusted.settings["photons"] == 5
    assert trusted.words["snr_low"].startswith("no gain at any step")
    assert trusted.gains is False


def test_the_range_of_images_with_other_voxels_is_not_kept(finished, capsys):
    about = json.loads((finished / "model" / "training.json").read_text())
    sizes = [[0.3, 0.3], [0.2, 0.2], [0.2, 0.2]]
    channel = {"window": [16, 32], "features": {}, "saturated": 0, "histogram": [], "spectrum": {}}
    fingerprint = {"version": FINGERPRINT_VERSION, "num_volumes": 1, "voxel_size": sizes, "channels": [channel]}
    write_json(finished / "model" / "training.json", {**about, "training_fingerprint": fingerprint})
    assert main(["-m", str(finished / "model"), "-o", str(finished / "out"), *TINY]) == 0
    assert "voxels of these images have another size" in capsys.readouterr().err
    write_json(finished / "model" / "training.json", about)


def test_report_and_charts_are_there(finished):
    page = (finished / "out" / "report.html").read_text(encoding="utf-8")
    assert "Where it breaks" in page
    assert "5 to 50 detected photons at full signal" in page
    assert "S / sqrt(S + B + r²)" in page
    for name in ("snr.png", "blur.png"):
        assert (finished / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_same_call_measures_nothing_again(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "out" / "steps").glob("photons*")}
    table = (finished / "out" / "limits.csv").read_bytes()
    assert main(["-m", str(finished / "model"), "-o", str(finished / "out"), *TINY]) == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "out" / "steps").glob("photons*")} == before
    assert (finished / "out" / "limits.csv").read_bytes() == table
    assert (
        "SNR below which restored is no better than the best classical reference: no gain " in capsys.readouterr().out
    )


def test_other_settings_are_refused_and_leave_all_as_it_is(finished, capsys):
    files = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["-m", str(finished / "model"), "-o", str(finished / "out"), *TINY, "--seed", "3"]) == 1
    assert "other settings: seed (was 0, is 3)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == files


def test_ladder_may_grow(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished / "out", tmp_path / "out")
    seen = []
    monkeypatch.setattr(study, "measure_exposure", _noting(study.measure_exposure, seen))
    flags = [*TINY, "--photon_ladder", "5,20,50"]
    assert main(["-m", str(finished / "model"), "-o", str(folder), *flags]) == 0
    assert seen == [Step(20, 2)] * 3


def _noting(call, seen):
    def measure(restorer, specimen, step, **options):
        seen.append(step)
        return call(restorer, specimen, step, **options)

    return measure


@pytest.mark.parametrize("name", ["report.html", "steps/mine.txt"])
def test_files_of_others_are_not_touched(run_dir, tmp_path, capsys, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert main(["-m", str(run_dir), "-o", str(tmp_path / "out"), *TINY, "--overwrite"]) == 1
    assert "is not of this command" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_overwrite_measures_anew(finished, tmp_path):
    folder = shutil.copytree(finished / "out", tmp_path / "out")
    (folder / "steps" / "photons_7_blur_7.json").write_text("{}")
    flags = [*TINY, "--photon_ladder", "5", "--blur_ladder", "2", "--seed", "3", "--overwrite"]
    assert main(["-m", str(finished / "model"), "-o", str(folder), *flags]) == 0
    assert sorted(path.name for path in (folder / "steps").iterdir()) == [
        "photons_5_blur_2.json",
        "settings.json",
    ]


def test_overwrite_with_a_network_that_does_not_fit_replaces_nothing(finished, tiny_models, capsys):
    files = {path: path.read_bytes() for path in (finished / "out").rglob("*") if path.is_file()}
    model = tiny_models / "two_channels.keras"
    assert main(["-m", str(model), "-o", str(finished / "out"), *TINY, "--overwrite"]) == 1
    assert "reads 2 and writes 2 channels" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (finished / "out").rglob("*") if path.is_file()} == files


def test_a_network_that_makes_nan_is_refused(tmp_path, capsys):
    inputs = keras.Input((None, None, None, 1))
    model = tmp_path / "nan.keras"
    keras.Model(inputs, keras.layers.Rescaling(3e38, offset=3e38)(inputs)).save(model)
    assert main(["-m", str(model), "-o", str(tmp_path / "out"), *TINY]) == 1
    assert "is restored to NaN or infinite values" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_warning_is_given_once_although_steps_are_exposed_again_for_the_pictures(run_dir, tmp_path, capsys):
    flags = [*TINY, "--photon_ladder", "20", "--blur_ladder", "2", "--photons", "20", "--gain", "5000"]
    assert main(["-m", str(run_dir), "-o", str(tmp_path / "out"), *flags]) == 0
    assert capsys.readouterr().err.count("saturate at 65535") == 1


def test_only_images_that_are_exposed_are_counted(run_dir, tmp_path, write_tiff, capsys):
    density = (1000 * phantoms(1)[0].density[..., 0]).astype(np.uint16)
    for number in range(4):
        write_tiff(tmp_path / "gt" / f"{number}.tif", density, "ZYX")
    flags = [*TINY, "--voxel_size", "0.3,0.1,0.1", "--photon_ladder", "5", "--blur_ladder", "2"]
    assert main(["-m", str(run_dir), "-i", str(tmp_path / "gt"), "-o", str(tmp_path / "out"), *flags]) == 0
    assert "of 3 parts of 3 images" in capsys.readouterr().out
    assert "on 3 images taken as the ground truth" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_is_written_all_the_same(run_dir, tmp_path, write_tiff):
    density = (1000 * phantoms(1)[0].density[..., 0]).astype(np.uint16)
    write_tiff(tmp_path / "gt" / os.fsdecode(b"\xb5m.tif"), density, "ZYX")
    flags = [*TINY, "--voxel_size", "0.3,0.1,0.1", "--photon_ladder", "5", "--blur_ladder", "2"]
    assert main(["-m", str(run_dir), "-i", str(tmp_path / "gt"), "-o", str(tmp_path / "out"), *flags]) == 0
    assert "\\udcb5m.tif" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_images_of_a_user_are_the_ground_truth(run_dir, tmp_path, write_tiff, capsys):
    density = phantoms(1)[0].density[..., 0]
    (run_dir / "training.json").unlink()
    path = write_tiff(tmp_path / "gt" / "cell.tif", (1000 * density).astype(np.uint16), "ZYX")
    flags = [
        *TINY,
        "--voxel_size",
        "0.3,0.1,0.1",
        "--photon_ladder",
        "20",
        "--blur_ladder",
        "1",
        "--photons",
        "20",
    ]
    assert main(["-m", str(run_dir), "-i", str(path.parent), "-o", str(tmp_path / "out"), *flags]) == 0
    out = capsys.readouterr().out
    assert "of 1 part of cell.tif" in out
    assert "differ in noise alone" in out
    assert "has no training.json: its trusted range is in the report alone" in out


def test_training_data_as_input_is_warned_of(run_dir, tmp_path, write_tiff, capsys):
    path = write_tiff(tmp_path / "a.tif", np.zeros((4, 24, 24), np.uint8), "ZYX")
    pairs = {"training": [{"raw": "raw.tif", "gt": str(path), "voxel_size": VOXEL_SIZE}]}
    (run_dir / "training.json").write_text(json.dumps(pairs))
    assert main(["-m", str(run_dir), "-i", str(path), "-o", str(tmp_path / "out"), *TINY]) == 1
    assert "a.tif is training data of this network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "offender", "way_out"),
    [
        ("-o out", "--model_dir is missing", "or --train some with -c"),
        ("--train -o out", "--train makes", "name a config file with -c"),
        ("--train -c c.json -m model -o out", "--train makes", "no model"),
        ("-m model -c c.json -o out", "--config is of --train", "leave --config out"),
        ("-m model -o out --training_volumes 3", "--training_volumes is of --train", "leave"),
        ("-m model -i a.tif --phantoms mixture -o out", "--input", "leave one of them out"),
        ("-m model --axes ZYX -o out", "--axes", "name it with -i"),
        ("-m model -o out --volumes 2", "--volumes", "3"),
        ("-m model -o out --blur_ladder 0.5,2", "--blur_ladder", "1"),
        ("-m model -o out --photon_ladder 0,2", "--photon_ladder", "0"),
        ("-m model -o out --fwhm 0.5,0.2,0.2 --wavelength 0.6", "--wavelength", "leave one"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(tmp_path, monkeypatch, capsys, flags, offender, way_out):
    monkeypatch.chdir(tmp_path)
    assert main(flags.split()) == 2
    error = capsys.readouterr().err
    assert offender in error
    assert way_out in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", ["-m nowhere", "-m model -i nowhere"])
def test_what_is_missing_is_named(tmp_path, run_dir, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    assert main([*flags.split(), "-o", "out"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_leaves_nothing_behind(tmp_path, run_dir, write_tiff, capsys):
    path = write_tiff(tmp_path / "a.tif", np.arange(4 * 24 * 24, dtype=np.uint16).reshape(4, 24, 24), "ZYX")
    assert main(["-m", str(run_dir), "-i", str(path), "-o", str(tmp_path / "out"), *TINY]) == 1
    assert "name it in µm with --voxel_size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_study_in_which_nothing_was_finished_does_not_bind(tmp_path):
    for settings in ({"seed": 0}, {"seed": 1}):
        open_study(tmp_path / "steps", settings)
    assert json.loads((tmp_path / "steps" / "settings.json").read_text()) == {"seed": 1}


def test_interruption_says_how_to_go_on(tmp_path, run_dir, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "measure_exposure", interrupt)
    assert main(["-m", str(run_dir), "-o", str(tmp_path / "out"), *TINY]) == 130
    assert "keeps what is finished: the same call goes on." in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


# A network for each step


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.json"
    values = {
        "training_data_dir": {"raw": "nowhere", "gt": "nowhere"},
        "patch_shape": [4, 16, 16],
        "num_channels": 4,
        "num_residual_groups": 1,
        "num_residual_blocks": 1,
        "channel_reduction": 2,
        "epochs": 1,
        "steps_per_epoch": 2,
        "intensity_threshold": 0,
    }
    path.write_text(json.dumps(values))
    return path


def test_networks_are_trained_for_each_step_and_kept(tmp_path, config_path):
    flags = ["--train", "-c", str(config_path), "-o", str(tmp_path / "out"), *TINY, "--training_volumes", "2"]
    flags += ["--photon_ladder", "5", "--blur_ladder", "1,2"]
    assert main(flags) == 0
    networks = tmp_path / "out" / "steps" / "networks"
    assert sorted(path.name for path in networks.iterdir()) == ["photons_5_blur_1", "photons_5_blur_2"]
    learned = {pair.gt for pair in read_record(networks / "photons_5_blur_2").pairs}
    assert len(learned) == 2
    tested = draw_specimens(
        3,
        kind="mixture",
        shape=(4, 24, 24),
        voxel_size=VOXEL_SIZE,
        fwhm=MICROSCOPE.fwhm,
        percentiles=(2, 99.9),
        seed=(0, 0),
    )
    for path in learned:
        gt = tifffile.imread(path)
        assert all(np.abs(gt - specimen.gt[..., 0]).max() > 0.1 for specimen in tested)
    table = (tmp_path / "out" / "limits.csv").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in networks.rglob("*.keras")}
    assert main(flags) == 0
    assert {path: path.stat().st_mtime_ns for path in networks.rglob("*.keras")} == times
    assert (tmp_path / "out" / "limits.csv").read_bytes() == table


def test_no_test_image_is_learned_from(tmp_path, config_path, write_tiff, identity, monkeypatch):
    def train(config, *, resume):
        shutil.copytree(identity, config.output_dir)

    monkeypatch.setattr("rcan.training.fit.train", train)
    for number, specimen in enumerate(phantoms(3)):
        grey = (1000 * specimen.density[..., 0]).astype(np.uint16)
        write_tiff(tmp_path / "gt" / f"{number}.tif", grey, "ZYX")
    flags = [
        "--train",
        "-c",
        str(config_path),
        "-i",
        str(tmp_path / "gt"),
        "-o",
        str(tmp_path / "out"),
        *TINY,
    ]
    flags += ["--photon_ladder", "5", "--blur_ladder", "2", "--voxel_size", "0.3,0.1,0.1"]
    assert main(flags) == 0
    settings = json.loads((tmp_path / "out" / "limits.json").read_text())["settings"]
    learned, tested = ({path for path, _ in settings[key]} for key in ("training_input", "input"))
    assert learned | tested == {str(path) for path in (tmp_path / "gt").iterdir()}
    assert not learned & tested
    truth = open_volume(next(iter(tested))).read().ravel()
    for path in (tmp_path / "out" / "steps" / "training" / "gt").iterdir():
        assert np.corrcoef(open_volume(path).read().ravel(), truth)[0, 1] < 0.9


def test_training_on_one_image_is_refused(tmp_path, config_path, write_tiff, capsys):
    path = write_tiff(tmp_path / "gt" / "a.tif", np.zeros((4, 24, 24), np.uint8), "ZYX")
    flags = ["--train", "-c", str(config_path), "-i", str(path), "-o", str(tmp_path / "out")]
    assert main(flags) == 1
    assert "learns from some and tests on others" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The chart


def test_chart_draws_every_measured_curve_and_mark():
    known, unknown = np.array([[20, 19, 21], [25, 24, 26]]), np.full((2, 3), np.nan)
    curves = {
        "psnr": {"raw": known, "reference": known + 1, "restored": known + 2},
        "ssim": {"raw": known / 100, "restored": known / 90},
        "lateral_true": {"raw": known / 50, "gt": known / 99},
        "axial": {"raw": unknown, "gt": unknown},
    }
    figure = draw_ladder([10, 1], curves, label="SNR", is_log=True, marks={"broken": 3.0})
    panels = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_ylabel() for panel in panels] == [
        "PSNR (dB)",
        "SSIM",
        "lateral detail that is right (µm)",
    ]
    assert [len(panel.lines) for panel in panels] == [4, 3, 3]
    np.testing.assert_array_equal(panels[0].lines[0].get_xydata(), [[1, 25], [10, 20]])
    assert panels[0].get_xscale() == "log"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "raw", "best classical", "restored", "broken", "ground truth"
    ]  # fmt: skip


def test_summary_of_what_was_not_measured_is_nan():
    intervals = summarise(measured(1, restored=20), seed=0)
    assert np.isnan(intervals["raw", "axial_true"]).all()
    mean, low, high = intervals["restored", "psnr"]
    assert low < mean < high
    assert mean == pytest.approx(20)


def test_specimens_are_the_same_for_the_same_seed():
    for one, other in zip(phantoms(), phantoms(), strict=True):
        assert isinstance(one, Specimen)
        np.testing.assert_array_equal(one.density, other.density)


# A folder that is not as it was left


def test_a_step_that_describes_another_is_refused(tmp_path, run_dir, capsys):
    flags = ["-m", str(run_dir), "-o", str(tmp_path / "out"), *TINY]
    assert main(flags) == 0
    file = sorted((tmp_path / "out/steps").glob("photons*.json"))[0]
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "photons": 77}))
    capsys.readouterr()
    assert main(flags) == 1
    assert f"of {file.stem} are expected. Remove it, to measure it again." in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_settings_that_are_no_object_are_refused_by_name(tmp_path, content):
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json (is not JSON|holds no JSON object)"):
        open_study(tmp_path / "steps", {"seed": 0})
