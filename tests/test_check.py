"""`rcan check`: every fault that is planted in clean pairs is found, and clean pairs are not blamed."""

import io
import json
import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import rcan
from rcan.commands.check import main
from rcan.config import Config
from rcan.figures.overlay import draw_overlays
from rcan.io.opening import open_volume
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import simulate_pair
from rcan.simulation.phantoms import make_phantom

SHAPE, VOXEL_SIZE = (16, 64, 64), (0.3, 0.1, 0.1)
TINY = {
    "patch_shape": [8, 16, 16],
    "num_channels": 8,
    "num_residual_groups": 1,
    "num_residual_blocks": 1,
    "epochs": 2,
    "steps_per_epoch": 2,
    "batch_size": 1,
    "area_ratio_threshold": 0.05,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def clean():
    """Three pairs: raw, with noise and blur, and ground truth, (Z, Y, X)."""
    pairs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        density = make_phantom("mixture", SHAPE, voxel_size=VOXEL_SIZE, rng=rng)
        optics = {"voxel_size": VOXEL_SIZE, "fwhm": gaussian_widths(), "photons": 50, "blur_factor": 2}
        raw, gt = simulate_pair(density, rng=rng, **optics)
        pairs.append((raw[..., 0], gt[..., 0].astype(np.uint16)))
    return pairs


def write(path, image, voxel_size=VOXEL_SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = voxel_size
    metadata = {"axes": "ZYX", "spacing": z, "unit": "um"}
    tifffile.imwrite(path, image, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)


@pytest.fixture
def check(tmp_path):
    """Write pairs to folders and check them: `check(pairs, names=...)`; the levels and texts by topic."""

    def run(pairs, *, voxel_sizes=(VOXEL_SIZE, VOXEL_SIZE), validation=(), **values):
        data = {}
        for name, some in (("training", pairs), ("validation", validation)):
            folders = {kind: tmp_path / name / kind for kind in ("raw", "gt")}
            for number, images in enumerate(some):
                for folder, image, voxel_size in zip(folders.values(), images, voxel_sizes, strict=True):
                    write(folder / f"{number}.tif", image, voxel_size)
            if some:
                data[f"{name}_data_dir"] = {kind: str(folder) for kind, folder in folders.items()}
        found = rcan.check_data(Config.checked({**TINY, **data, **values}), tries_training=False)
        by_topic = {}
        for finding in found.findings:
            by_topic.setdefault(finding.topic, []).append((finding.level, finding.text))
        return by_topic

    return run


def test_clean_pairs_are_ok_in_every_topic(check, clean):
    found = check(clean)
    assert {level for topic in found.values() for level, _ in topic} == {"ok"}
    topics = "files images partners orientation register signal saturation sets patches"
    assert {*topics.split(), "raw and gt", "voxel size", "grey values"} == {*found}


def expect(found, topic, level, words):
    """That one finding of a topic has this level and these words, and no other topic has a problem."""
    (only,) = found[topic]
    assert only[0] == level
    assert words in only[1]
    problems = {name for name, findings in found.items() if any(each[0] == "problem" for each in findings)}
    assert problems <= {topic}


def test_a_shift_is_a_problem(check, clean):
    found = check([(raw[2:, 3:, :-1], gt[:-2, :-3, 1:]) for raw, gt in clean])
    expect(found, "register", "problem", "3 of 3 pairs that were looked at are out of register")
    assert re.search(r"lies -2\.0, -3\.[01], 1\.0 voxels .ZYX. beyond its ground truth", found["register"][0][1])


def test_a_rotation_is_named(check, clean):
    turned = [(ndimage.rotate(raw, 3, (1, 2), reshape=False, order=1, mode="nearest"), gt) for raw, gt in clean]
    expect(check(turned), "register", "problem", "degrees in XY, in 0.tif, 1.tif, 2.tif")


def test_a_reversed_z_is_a_problem(check, clean):
    found = check([clean[0], (clean[1][0], clean[1][1][::-1]), clean[2]])
    expect(found, "orientation", "problem", "the ground truth of 1.tif is flipped along Z")


def test_a_turned_camera_is_a_problem(check, clean):
    found = check([(raw, np.swapaxes(gt, 1, 2)) for raw, gt in clean])
    expect(found, "orientation", "problem", "0.tif, 1.tif, 2.tif are with Y and X exchanged")


def test_raw_and_ground_truth_that_are_swapped_are_a_problem(check, clean):
    found = check([(gt, raw) for raw, gt in clean])
    expect(found, "raw and gt", "problem", "raw looks better than the ground truth in 0.tif, 1.tif, 2.tif")


def test_a_copy_of_raw_as_ground_truth_is_a_problem(check, clean):
    found = check([clean[0], (clean[1][0], clean[1][0])])
    expect(found, "images", "problem", "in 1.tif raw and ground truth are the same image")


def test_a_copy_in_another_type_and_unit_is_the_same_image(check, clean):
    raw = clean[1][0]
    found = check([clean[0], (raw, (2.5 * raw).astype(np.float32))])
    expect(found, "images", "problem", "in 1.tif raw and ground truth are the same image")


def test_a_raw_image_that_is_there_twice_is_noted(check, clean):
    expect(check([*clean, clean[0]]), "images", "note", "more than once: 0.tif = 3.tif")


def test_names_that_are_mixed_up_are_a_problem(check, clean):
    found = check([(clean[0][0], clean[1][1]), (clean[1][0], clean[0][1]), clean[2]])
    (_, unlike), *others = found["partners"]
    texts = [unlike, *(text for _, text in others)]
    assert any("0.tif shows what 1.tif shows, 1.tif shows what 0.tif shows" in text for text in texts)


def test_images_without_anything_in_common_are_a_problem(check, clean, rng):
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE), (1, 3, 3))
    other = (1000 + 300 * noise / noise.std()).clip(0).astype(np.uint16)
    level, text = check([clean[0], clean[1], (clean[2][0], other)])["partners"][0]
    assert (level, "2.tif have nothing in common" in text) == ("problem", True)


def test_a_specimen_in_training_and_validation_is_a_problem(check, clean):
    raw, gt = clean[1]
    validation = [(raw + np.uint16(3), (gt // 2).astype(np.uint16))]  # exported anew
    found = check(clean, validation=validation)
    expect(found, "sets", "problem", "(validation) shows the same specimen as")


def test_saturated_images_are_a_problem(check, clean):
    gt = np.minimum(clean[1][1], np.percentile(clean[1][1], 95).astype(np.uint16))
    expect(check([clean[0], (clean[1][0], gt)]), "saturation", "problem", "in the ground truth of 1.tif are saturated")


def test_a_ground_truth_of_noise_is_a_problem(check, clean, rng):
    level, text = check([*clean, (clean[0][0], rng.poisson(100, SHAPE).astype(np.uint16))])["signal"][0]
    assert (level, "noise in the ground truth of 3.tif" in text) == ("problem", True)


def test_voxel_sizes_that_do_not_fit_are_noted(check, clean):
    found = check(clean, voxel_sizes=(VOXEL_SIZE, (0.3, 0.2, 0.2)))
    expect(found, "voxel size", "note", "0.3 x 0.1 x 0.1 µm (ZYX) in raw, 0.3 x 0.2 x 0.2 µm (ZYX) in the ground truth")


def test_different_types_and_light_are_noted(check, clean):
    bright = (clean[1][0].astype(np.float32) - 100) * 40
    texts = [text for level, text in check([clean[0], (bright, clean[1][1])])["grey values"] if level == "note"]
    assert len(texts) == 2
    assert "different types: uint16 (0.tif), float32 (1.tif)" in texts[0]
    assert "times as bright as 0.tif" in texts[1]


def test_a_pair_without_signal_by_the_thresholds_is_noted_and_a_threshold_suggested(check, clean):
    found = check(clean, area_ratio_threshold=0.45, validation_split=0.0, intensity_threshold=0.5)
    assert {level for level, _ in found["patches"]} == {"note"}
    assert "With area_ratio_threshold 0.25 there would be" in " ".join(text for _, text in found["patches"])


def test_thresholds_that_no_patch_reaches_are_a_problem(check, clean):
    level, text = check(clean, area_ratio_threshold=0.99)["patches"][0]
    assert (level, "Lower area_ratio_threshold below" in text) == ("problem", True)


def test_all_pairs_are_checked_where_one_cannot_be_read(check, clean, tmp_path):
    (tmp_path / "training/raw").mkdir(parents=True)
    (tmp_path / "training/gt").mkdir(parents=True)
    for kind in ("raw", "gt"):
        (tmp_path / f"training/{kind}/9.tif").write_bytes(b"no image")
    found = check([(raw[:, 3:], gt[:, :-3]) for raw, gt in clean])
    assert found["files"][0][0] == "problem"
    assert "9.tif" in found["files"][0][1]
    assert "3 of 3 pairs" in found["register"][0][1]


def test_a_shift_that_changes_with_time_is_a_problem(tmp_path, clean, write_tiff):
    raw, gt = clean[0]
    write_tiff(tmp_path / "raw.tif", np.stack([np.roll(raw, step, axis=2) for step in (0, 1, 3)]), "TZYX")
    write_tiff(tmp_path / "gt.tif", np.stack([gt] * 3), "TZYX")
    pair = {kind: str(tmp_path / f"{kind}.tif") for kind in ("raw", "gt")}
    found = rcan.check_data(Config.checked({**TINY, "training_image_pairs": [pair]}), tries_training=False)
    assert any("raw moves against its ground truth in time, from 0.0, 0.0, 0.0" in each.text for each in found.problems)


def test_a_shift_between_channels_is_a_problem(tmp_path, clean, write_tiff):
    raw, gt = clean[0]
    write_tiff(tmp_path / "raw.tif", np.stack([raw, np.roll(raw, 2, axis=2)], axis=1), "ZCYX")
    write_tiff(tmp_path / "gt.tif", np.stack([gt] * 2, axis=1), "ZCYX")
    pair = {kind: str(tmp_path / f"{kind}.tif") for kind in ("raw", "gt")}
    found = rcan.check_data(Config.checked({**TINY, "training_image_pairs": [pair]}), tries_training=False)
    assert any("from channel to channel" in each.text for each in found.problems)


# Clean data of other origin


def test_the_sample_raises_no_alarm():
    folder = {kind: f"sample/train/{kind}" for kind in ("raw", "gt")}
    found = rcan.check_data(Config.checked({**TINY, "training_data_dir": folder}), tries_training=False)
    assert not found.problems


def test_real_pairs_raise_no_alarm(data_dir):
    folder = data_dir / "fmd_pairs"
    pairs = [
        {"raw": str(raw), "gt": str(folder / "gt" / f"{raw.stem[:-2]}.tif")}
        for raw in sorted(folder.glob("raw/*_[13].tif"))
        if (folder / "gt" / f"{raw.stem[:-2]}.tif").exists()
    ]
    values = {**TINY, "patch_shape": [32, 32], "training_image_pairs": pairs}
    found = rcan.check_data(Config.checked(values), tries_training=False)
    assert len(found.pairs["training"]) >= 16
    assert [finding.text for finding in found.problems] == []


# The command


@pytest.fixture
def shifted(tmp_path, clean):
    """Folder with a config and pairs whose raw lies 1, -2 and 3 voxels beyond the ground truth."""
    for number, (raw, gt) in enumerate(clean):
        write(tmp_path / f"raw/{number}.tif", raw[:-1, 2:, :-3])
        write(tmp_path / f"gt/{number}.tif", gt[1:, :-2, 3:])
    values = {**TINY, "training_data_dir": {kind: kind for kind in ("raw", "gt")}, "output_dir": "run"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path


def test_the_command_tells_what_the_training_takes_and_ends_with_status_1_on_a_problem(shifted, capsys):
    assert main(["-c", str(shifted / "config.json")]) == 1
    printed = capsys.readouterr()
    assert "problem register: 3 of 3 pairs" in printed.out
    assert "All of it takes about" in printed.out
    assert printed.err.endswith("error: 1 problem found in the data: mend what is said above.\n")
    assert not (shifted / "run/config.json").exists()


def test_json_is_all_that_is_printed(shifted, capsys):
    assert main(["-i", str(shifted / "raw"), "-g", str(shifted / "gt"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"]["training"][0]["shift"]["voxels"] == pytest.approx([1, -2, 3], abs=0.2)
    assert {"level": "problem", "topic": "register"}.items() <= found["findings"][0].items()


def test_aligned_copies_are_shifted_and_cropped_and_nothing_is_interpolated(shifted, clean, capsys):
    assert main(["-c", str(shifted / "config.json"), "--align", str(shifted / "aligned")]) == 0
    for number, (raw, gt) in enumerate(clean):
        files = [open_volume(shifted / f"aligned/training/{kind}/00{number}_{number}.tif") for kind in ("raw", "gt")]
        inside = tuple(slice(abs(step), -abs(step)) for step in (1, 2, 3))
        for file, image in zip(files, (raw, gt), strict=True):
            np.testing.assert_array_equal(file.read(dtype=None)[..., 0], image[inside])
            assert file.voxel_size == pytest.approx(VOXEL_SIZE)


def test_aligned_pairs_pass_the_check(shifted, capsys):
    main(["-c", str(shifted / "config.json"), "--align", str(shifted / "aligned")])
    folders = (str(shifted / "aligned/training" / kind) for kind in ("raw", "gt"))
    assert main([*map(str.__add__, ("-i=", "-g="), folders), "--area_ratio_threshold", "0.01"]) == 0


def test_the_rest_of_a_voxel_is_interpolated_where_asked_for(tmp_path, clean, capsys):
    _, gt = clean[0]
    moved = ndimage.shift(gt.astype(float), (0, 1.4, -2.6), order=3, mode="nearest").clip(0).astype(np.uint16)
    write(tmp_path / "raw.tif", moved)
    write(tmp_path / "gt.tif", gt)
    flags = ["-i", tmp_path / "raw.tif", "-g", tmp_path / "gt.tif", "--align", tmp_path / "out", "--interpolate"]
    main([*map(str, flags), "--area_ratio_threshold", "0.01"])
    aligned = [open_volume(tmp_path / f"out/training/{kind}/000_raw.tif").read()[..., 0] for kind in ("raw", "gt")]
    inner = np.s_[:, 4:-4, 4:-4]
    assert np.corrcoef(aligned[0][inner].ravel(), aligned[1][inner].ravel())[0, 1] > 0.995


def test_what_no_shift_mends_is_not_aligned(shifted, capsys):
    for path in (shifted / "gt").iterdir():
        write(path, tifffile.imread(path)[::-1])
    assert main(["-c", str(shifted / "config.json"), "--align", str(shifted / "aligned")]) == 1
    assert "is flipped along Z: turn it back first" in capsys.readouterr().err
    assert not (shifted / "aligned").exists()


def test_several_raw_images_of_one_ground_truth_each_get_a_copy_of_it(tmp_path, clean, rng, capsys):
    gt = clean[0][1]
    write(tmp_path / "gt.tif", gt)
    pairs = []
    for number, step in enumerate((0, 2)):
        noisy = rng.poisson(np.roll(gt, step, axis=2) / 50 + 20).astype(np.uint16)
        write(tmp_path / f"{number}/raw.tif", noisy)
        pairs.append({"raw": str(tmp_path / f"{number}/raw.tif"), "gt": str(tmp_path / "gt.tif")})
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "training_image_pairs": pairs}))
    assert main(["-c", str(tmp_path / "config.json"), "--align", str(tmp_path / "out")]) == 0
    widths = [open_volume(tmp_path / f"out/training/gt/00{number}_raw.tif").shape[2] for number in range(2)]
    assert widths == [64, 62]


def test_pairs_that_move_with_time_are_not_aligned(tmp_path, clean, write_tiff, capsys):
    raw, gt = clean[0]
    write_tiff(tmp_path / "raw.tif", np.stack([np.roll(raw, step, axis=2) for step in (0, 1, 3)]), "TZYX")
    write_tiff(tmp_path / "gt.tif", np.stack([gt] * 3), "TZYX")
    flags = ["-i", tmp_path / "raw.tif", "-g", tmp_path / "gt.tif", "--align", tmp_path / "out"]
    assert main([*map(str, flags)]) == 1
    assert "moves against its ground truth from frame to frame" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_to(shifted, capsys):
    assert main(["-c", str(shifted / "config.json"), "--align", str(shifted / "raw")]) == 1
    assert "already holds files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [[], ["-i", "raw"], ["-c", "a.json", "-i", "raw", "-g", "gt"], ["-i", "a", "-g", "b", "--interpolate"]]
)
def test_wrong_usage_is_told(flags, capsys):
    assert main(flags) == 2
    assert "error: " in capsys.readouterr().err


# What a training says by itself


def test_a_training_warns_of_the_same_problems(shifted, clean):
    from rcan.training.run_data import open_data

    with pytest.warns(UserWarning, match="3 of 3 pairs that were looked at are out of register"):
        open_data(rcan.load_config(shifted / "config.json"))


def test_a_training_warns_of_test_data_that_is_learned_from(shifted, clean):
    from rcan.training.run_data import open_data

    for number, (raw, gt) in enumerate(clean):
        write(shifted / f"raw/{number}.tif", raw)
        write(shifted / f"gt/{number}.tif", gt)
    for kind in ("raw", "gt"):
        (shifted / "test" / kind).mkdir(parents=True)
        shutil.copy(shifted / kind / "1.tif", shifted / "test" / kind / "other_name.tif")
    config = rcan.load_config(
        shifted / "config.json", {"test_data_dir": {kind: str(shifted / "test" / kind) for kind in ("raw", "gt")}}
    )
    with pytest.warns(UserWarning, match="other_name.tif .test. shows the same specimen as"):
        open_data(config)


# The report


def test_the_report_has_all_findings_and_a_picture_of_each_pair_before_and_after(shifted, capsys):
    flags = ["-i", shifted / "raw", "-g", shifted / "gt", "--report", shifted / "report.html"]
    main([*map(str, flags)])
    page = (shifted / "report.html").read_text()
    assert page.count("data:image/png;base64") == len(list((shifted / "raw").iterdir()))
    assert "3 of 3 pairs that were looked at are out of register" in page
    assert "<td>1.0, -2.0, 3.0</td>" in page


def test_images_that_agree_are_drawn_without_colour(clean):
    _, gt = clean[0]
    for other, is_grey in ((2 * gt.astype(float) + 5, True), (np.roll(gt, 6, axis=2), False)):
        picture = np.asarray(Image.open(io.BytesIO(draw_overlays({"a": (other, gt)}, places=1))).convert("RGB"), int)
        assert (np.abs(picture[..., 0] - picture[..., 1]).max() <= 1) == is_grey
