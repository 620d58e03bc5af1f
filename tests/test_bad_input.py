"""What goes wrong ends in one line that helps, and harms nothing."""

import json
import os
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from rcan.__main__ import main
from rcan.training.loop import Loop

CORRUPT = Path(__file__).parents[2] / "shared/data/odd_tiffs/corrupt"
SETTINGS = {
    "patch_shape": [8, 16, 16],
    "num_channels": 8,
    "num_residual_groups": 1,
    "num_residual_blocks": 1,
    "epochs": 1,
    "steps_per_epoch": 1,
    "output_dir": "new",
}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, tiny_config, tiny_models, write_tiff):
    """A folder with good data, bad data, configs, models and an older run."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "config.json").write_text(json.dumps({**tiny_config(folder), **SETTINGS, **data("raw", "gt")}))
    (folder / "no_data.json").write_text(json.dumps(SETTINGS))
    for name, text in CONFIGS.items():
        (folder / name).write_text(text)
    for path in tiny_models.iterdir():
        shutil.copy(path, folder)
    good = tifffile.imread(folder / "raw/0.tif")
    for name, (image, axes) in bad_images(good).items():
        write_tiff(folder / "bad" / name, image, axes)
    tifffile.imwrite(folder / "bad/rgb.tif", np.zeros((24, 28, 3), np.uint8), photometric="rgb")
    (folder / "bad/cut.tif").write_bytes((folder / "raw/0.tif").read_bytes()[:-3000])
    (folder / "bad/empty.tif").touch()
    (folder / "bad/text.tif").write_text("no image")
    (folder / "bad/text.keras").write_text("no model")
    with zipfile.ZipFile(folder / "bad/zip.keras", "w") as file:
        file.writestr("hello.txt", "no model")
    (folder / "bad/cut.keras").write_bytes((folder / "3d.keras").read_bytes()[:-500])
    for place in ("no_images", "old/train", "damaged", "learned", "tables", "published"):
        (folder / place).mkdir(parents=True)
    for name in (
        "best.keras",
        "last.keras",
        "history.csv",
        "training.json",
        "train/events.out.1",
        "notes.txt",
    ):
        (folder / "old" / name).write_text(f"older {name}")
    shutil.copy(folder / "3d.keras", folder / "damaged/best.keras")
    (folder / "damaged/training.json").write_text("{")
    (folder / "tables/scores.csv").write_text("cell,score\n1,2\n")
    (folder / "published/weights_001_0.1.hdf5").write_text("older network")
    shutil.copy(folder / "3d.keras", folder / "learned/best.keras")
    learned_from = [{"raw": "raw/0.tif", "gt": "gt/0.tif"}]  # relative to the desk
    (folder / "learned/training.json").write_text(json.dumps({"training": learned_from}))
    shutil.copytree(folder / "raw", folder / "one_more")
    shutil.copy(folder / "raw/0.tif", folder / "one_more/2.tif")
    (folder / "out.tif").write_text("older result")
    (folder / "link.tif").symlink_to("raw/0.tif")
    (folder / "link").symlink_to("raw")
    return folder


@pytest.fixture
def desk(prepared, tmp_path, monkeypatch):
    """A copy of the prepared folder, and the current one."""
    shutil.copytree(prepared, tmp_path / "desk", symlinks=True)
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def data(raw, gt):
    return {"training_data_dir": {"raw": raw, "gt": gt}}


CONFIGS = {
    "syntax.json": '{"epochs": 3,\n "loss": mae}',
    "unknown.json": json.dumps({**data("raw", "gt"), "epoch": 3}),
    "type.json": json.dumps({**data("raw", "gt"), "epochs": "3"}),
    "range.json": json.dumps({**data("raw", "gt"), "area_ratio_threshold": 1.5}),
    "twice.json": '{"epochs": 3, "epochs": 4}',
    "list.json": "[]",
    "nothing.json": "{}",
    "unset.json": json.dumps(data("raw", "gt")),
}


def bad_images(good):
    """Image and axes by file name."""
    broken = {name: good.astype(np.float32) for name in ("nan", "infinity")}
    broken["nan"][3, 4, 5], broken["infinity"][3, 4, 5] = np.nan, -np.inf
    return {
        "nan.tif": (broken["nan"], "ZYX"),
        "infinity.tif": (broken["infinity"], "ZYX"),
        "constant.tif": (np.full_like(good, 7), "ZYX"),
        "narrow.tif": (good[:, :, :20], "ZYX"),
        "plane.tif": (good[3], "YX"),
        "series.tif": (good, "TYX"),
        "two_channels.tif": (np.stack([good, good], axis=1), "ZCYX"),
        "three_channels.tif": (np.stack([good] * 3, axis=1), "ZCYX"),
    }


def snapshot(folder):
    """Everything in a folder: bytes of files, targets of links."""
    paths = (Path(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names))
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in paths
    }


def pair(raw="raw/0.tif", gt="gt/0.tif", options=""):
    """Train on one pair."""
    flag = shlex.quote(json.dumps([{"raw": raw, "gt": gt}]))
    return f"train -c no_data.json --training_image_pairs {flag} {options}"


def folders(raw="raw", gt="gt"):
    """Train on two folders."""
    return f"train -c no_data.json --training_data_dir {shlex.quote(json.dumps({'raw': raw, 'gt': gt}))}"


def restore(options="", *, model="3d.keras", image="raw/0.tif", output="out.tif"):
    """Restore an image, over an older result."""
    return f"apply -m {model} -i {image} -o {output} --overwrite {options}"


SCORED = "-g gt/0.tif"
STRETCHED = "--normalize_output_range_between_zero_and_one"

# Command, exit status, the offender, the way out.
CASES = {
    "config: missing": ("train -c missing.json", 1, "missing.json does not exist", "-c takes a config file"),
    "config: folder": ("train -c raw", 1, "raw does not exist or is not a file", "-c takes a config file"),
    "config: no JSON": ("train -c syntax.json", 1, "syntax.json: line 2, column 10", "must be JSON"),
    "config: list": ("train -c list.json", 1, "list.json: holds a list", "must be one JSON object"),
    "config: unknown key": ("train -c unknown.json", 1, "unknown.json: epoch", "Did you mean epochs?"),
    "config: type": ("train -c type.json", 1, 'type.json: epochs is "3"', "must be a whole number"),
    "config: range": (
        "train -c range.json",
        1,
        "range.json: area_ratio_threshold is 1.5",
        "less than or equal to 1",
    ),
    "config: key twice": ("train -c twice.json", 1, "twice.json: epochs is given 2 times", "keep one"),
    "config: no data": (
        "train -c nothing.json",
        1,
        "nothing.json: training_data_dir",
        "or training_image_pairs",
    ),
    "config: no run folder": (
        "train -c unset.json",
        1,
        "output_dir is missing",
        "name the run folder in the config file or with -o",
    ),
    "train: no flag": ("train", 2, "--config is missing", "train --help lists all flags"),
    "train: beginning of a flag": (
        "train -c config.json --epoch 3",
        2,
        "--epoch is not",
        "Did you mean --epochs?",
    ),
    "train: unknown flag": ("train -c config.json --gpu 1", 2, "--gpu is not", "--help lists all flags"),
    "train: range": ("train -c config.json --epochs 0", 2, "--epochs is 0", "greater than or equal to 1"),
    "train: number": ("train -c config.json --epochs few", 2, '--epochs is "few"', "must be a whole number"),
    "train: word": ("train config.json", 2, "config.json belongs to no flag", "train -c PATH"),
    "train: patch": (
        "train -c config.json --patch_shape 16",
        2,
        "--patch_shape is [16]",
        "at least 2 values",
    ),
    "data: missing folder": (folders("nowhere"), 1, "nowhere is not a folder", "folder of *.tif or *.tiff"),
    "data: a file": (folders("raw/0.tif"), 1, "raw/0.tif is not a folder", "folder of *.tif or *.tiff"),
    "data: no image": (
        folders("no_images"),
        1,
        "no_images holds no *.tif",
        "Name the folder that holds the images",
    ),
    "data: counts": (folders("one_more"), 1, "one_more/2.tif", "Add or remove files"),
    "data: missing file": (pair("raw/9.tif"), 1, "raw/9.tif: no such file", "check the name"),
    "data: one file twice": (pair("gt/0.tif"), 1, "gt/0.tif is both raw and gt", "Name two files"),
    "data: shapes": (pair("bad/narrow.tif"), 1, "bad/narrow.tif is (8, 24, 20)", "Crop one of them"),
    "data: frames": (pair("bad/series.tif"), 1, "bad/series.tif has axes TYX", "raw_data_format"),
    "data: plane": (
        pair("bad/plane.tif", "bad/plane.tif"),
        1,
        "bad/plane.tif has axes YX",
        "patch_shape of two",
    ),
    "data: infinity in gt": (pair(gt="bad/infinity.tif"), 1, "bad/infinity.tif holds 1 values", "Replace them"),
    "data: infinity": (pair("bad/infinity.tif"), 1, "bad/infinity.tif holds 1 values", "Replace them"),
    "data: constant": (pair("bad/constant.tif"), 1, "bad/constant.tif is 7 everywhere", "Leave it out"),
    "data: photograph": (pair("bad/rgb.tif"), 1, "bad/rgb.tif is a colour photograph", "Split its channels"),
    "data: cut short": (pair("bad/cut.tif"), 1, "bad/cut.tif is cut short", "Copy it again"),
    "data: empty": (pair("bad/empty.tif"), 1, "bad/empty.tif is empty", "Copy or export it again"),
    "data: no TIFF": (pair("bad/text.tif"), 1, "bad/text.tif cannot be read", "Copy or export it again"),
    "data: axes": (pair(options="--raw_data_format ZX"), 2, '--raw_data_format is "ZX"', "such as ZYX"),
    "data: too few axes": (
        pair(options="--raw_data_format YX"),
        1,
        "raw/0.tif cannot have the axes 'YX'",
        "such as ZYX",
    ),
    "data: no signal": (
        pair(options="--intensity_threshold 9"),
        1,
        "no patch of 8x16x16 voxels has enough signal",
        "Lower area_ratio_threshold",
    ),
    "run: another one": ("train -c config.json -o old", 1, "old already holds a run", "--overwrite"),
    "run: bad data, overwriting": (
        pair("bad/infinity.tif", options="-o old --overwrite"),
        1,
        "infinity.tif",
        "Replace them",
    ),
    "run: a file": ("train -c config.json -o out.tif", 1, "out.tif is a file", "Name another with -o"),
    "run: below a file": (
        "train -c config.json -o out.tif/run",
        1,
        "out.tif is a file",
        "Name another folder",
    ),
    "model: missing": (
        restore(model="nowhere"),
        1,
        "nowhere does not exist",
        "-m takes the folder that rcan train",
    ),
    "model: folder without": (restore(model="raw"), 1, "raw has neither best.keras", "-m takes the folder"),
    "model: published": (
        restore(model="published"),
        1,
        "published/weights_001_0.1.hdf5 is damaged, or no Keras model",
        "Copy it again, or name another with -m. (no HDF5 file.)",
    ),
    "model: an image": (
        restore(model="raw/0.tif"),
        1,
        "raw/0.tif is not a .keras or .hdf5 file",
        "-m takes the folder",
    ),
    "model: no zip": (
        restore(model="bad/text.keras"),
        1,
        "bad/text.keras is damaged, or no Keras",
        "another with -m",
    ),
    "model: other zip": (
        restore(model="bad/zip.keras"),
        1,
        "bad/zip.keras is damaged, or no Keras",
        "Copy it again",
    ),
    "model: cut short": (
        restore(model="bad/cut.keras"),
        1,
        "bad/cut.keras is damaged, or no Keras",
        "Copy it again",
    ),
    "model: older run": (restore(model="old"), 1, "old/best.keras is damaged", "Copy it again"),
    "model: damaged notes": (restore(model="damaged"), 1, "damaged/training.json is not JSON", "remove it"),
    "image: missing": (
        restore(image="raw/9.tif"),
        1,
        "raw/9.tif does not exist",
        "-i takes an image or a folder",
    ),
    "image: no folder of images": (
        restore(image="no_images", output="new"),
        1,
        "no_images holds no *.tif",
        "Name the folder that holds the images",
    ),
    "image: infinity": (
        restore(image="bad/infinity.tif"),
        1,
        "bad/infinity.tif holds NaN or inf",
        "Replace them",
    ),
    "image: constant": (
        restore(image="bad/constant.tif"),
        1,
        "bad/constant.tif: percentiles 2 and",
        "Leave it out",
    ),
    "image: photograph": (
        restore(image="bad/rgb.tif"),
        1,
        "bad/rgb.tif is a colour photo",
        "Split its channels",
    ),
    "image: cut short": (restore(image="bad/cut.tif"), 1, "bad/cut.tif is cut short", "Copy it again"),
    "image: empty": (restore(image="bad/empty.tif"), 1, "bad/empty.tif is empty", "Copy or export it again"),
    "image: no TIFF": (
        restore(image="bad/text.tif"),
        1,
        "bad/text.tif cannot be read",
        "Copy or export it again",
    ),
    "image: plane": (
        restore(image="bad/plane.tif"),
        1,
        "bad/plane.tif has axes YX, without Z",
        "use a 2D network",
    ),
    "image: series": (restore(image="bad/series.tif"), 1, "bad/series.tif has axes TYX", "--axes"),
    "image: 1 channel for 2": (
        restore(model="two_channels.keras"),
        1,
        "raw/0.tif has 1 channel (ZYX) but the network has 2",
        "use a network of as many channels",
    ),
    "image: 3 channels for 2": (
        restore(model="two_channels.keras", image="bad/three_channels.tif"),
        1,
        "bad/three_channels.tif has 3 channels (ZCYX) but the network has 2",
        "use a network of as many channels",
    ),
    "image: axes": (restore("--axes FOO"), 2, '--axes is "FOO"', "such as ZYX"),
    "image: small letters": (restore("--axes zyx"), 2, '--axes is "zyx"', "capital letters"),
    "image: too few axes": (restore("--axes YX"), 1, "raw/0.tif cannot have the axes 'YX'", "such as ZYX"),
    "output: the input": (restore(output="raw/0.tif"), 1, "raw/0.tif is an input", "name another file"),
    "output: the input, spelled otherwise": (
        restore(output="bad/../raw/0.tif"),
        1,
        "is an input",
        "name another file",
    ),
    "output: link to the input": (restore(output="link.tif"), 1, "link.tif is an input", "name another file"),
    "output: input by a link": (
        restore(image="link.tif", output="raw/0.tif"),
        1,
        "is an input",
        "name another file",
    ),
    "output: the input's folder": (
        restore(image="raw", output="raw"),
        1,
        "raw is the input folder",
        "Name another with -o",
    ),
    "output: link to the folder": (
        restore(image="raw", output="link"),
        1,
        "link is the input folder",
        "Name another with -o",
    ),
    "output: the ground truth": (
        restore(SCORED, output="gt/0.tif"),
        1,
        "gt/0.tif is an input",
        "name another file",
    ),
    "output: the ground truth's folder": (
        restore("-g gt", image="raw", output="gt"),
        1,
        "gt/0.tif is an input",
        "name another file or folder with -o",
    ),
    "output: an older result": (
        "apply -m 3d.keras -i raw/0.tif -o out.tif",
        1,
        "out.tif would be replaced",
        "or replace with --overwrite",
    ),
    "output: images of equal names": (
        "apply -m 3d.keras -i raw -o gt",
        1,
        "gt/0.tif and 1 more would be replaced",
        "name another place with -o",
    ),
    "output: no TIFF": (restore(output="out.png"), 1, "out.png does not end in .tif", "name it so with -o"),
    "output: training data": (
        "apply -m learned -i raw -o gt --overwrite",
        1,
        "gt/0.tif is training data of this network",
        "name another place with -o",
    ),
    "output: a table that is no scores": (
        "apply -m 3d.keras -i raw/0.tif -o tables/out.tif -g gt/0.tif",
        1,
        "tables/scores.csv is not a table of scores",
        "move it",
    ),
    "output: a folder": (
        restore(output="gt"),
        1,
        "gt is a folder but the input is one image",
        "name a file with -o",
    ),
    "output: a file": (
        restore(image="raw"),
        1,
        "out.tif is a file but the input is a folder",
        "name a folder with -o",
    ),
    "output: no folder for it": (restore(output="new/a.tif"), 1, "new does not exist", "make the folder"),
    "output: below a file": (
        restore(output="out.tif/a.tif"),
        1,
        "out.tif is not a folder",
        "name another with -o",
    ),
    "output: folder below a file": (
        restore(image="raw", output="out.tif/new"),
        1,
        "out.tif/new: not a directory",
        "name another folder",
    ),
    "gt: missing": (restore("-g gt/9.tif"), 1, "gt/9.tif does not exist", "-g takes an image or a folder"),
    "gt: folder for an image": (
        restore("-g gt"),
        1,
        "gt and raw/0.tif",
        "must both be images or both be folders",
    ),
    "gt: shape": (
        restore("-g bad/narrow.tif"),
        1,
        "bad/narrow.tif is 1 x (8, 24, 20, 1)",
        "Crop one of them",
    ),
    "gt: NaN": (restore("-g bad/nan.tif"), 1, "bad/nan.tif holds NaN", "Replace them"),
    "gt: constant": (restore("-g bad/constant.tif"), 1, "bad/constant.tif: percentiles", "Leave it out"),
    "gt: counts": (
        restore("-g one_more", image="raw", output="new"),
        1,
        "one_more/2.tif",
        "Add or remove files",
    ),
    "gt: axes without it": (restore("--gt_axes ZYX"), 2, "--gt_axes is of a ground truth", "name it with -g"),
    "apply: unknown flag": (restore("--gpu 1"), 2, "--gpu is not a known flag", "--help lists all flags"),
    "apply: beginning of a flag": (restore("--rescal"), 2, "--rescal is not", "Did you mean --rescale?"),
    "apply: several beginnings": (
        restore("--block 8,8,8"),
        2,
        "--block is not",
        "--block_shape or --block_overlap",
    ),
    "apply: missing flag": (
        "apply -m 3d.keras -i raw",
        2,
        "--output is missing",
        "image to write, or folder where",
    ),
    "apply: bits": (restore("-b 12"), 2, "--bpp is 12", "8, 16 or 32"),
    "apply: format": (restore("-f tiff"), 2, '--output_tiff_format is "tiff"', "'imagej' or 'ome'"),
    "apply: percentile": (restore("--p_min -1"), 2, "--p_min is -1", "greater than or equal to 0"),
    "apply: percentiles": (
        restore("--p_min 60 --p_max 40"),
        1,
        "percentiles 60 and 40",
        "--p_min must be below",
    ),
    "apply: tile": (restore("-B 0,16,16"), 2, "--block_shape.0 is 0", "greater than or equal to 1"),
    "apply: flat tile": (restore("-B 16,16"), 1, "--block_shape is [16, 16]", "give 3 numbers"),
    "apply: flat overlap": (restore("-O 2,2"), 1, "--block_overlap_shape is [2, 2]", "give 3 numbers"),
    "apply: overlap": (
        restore("-B 8,16,16 -O 8,2,2"),
        2,
        "--block_overlap_shape is [8, 2, 2]",
        "each smaller",
    ),
    "apply: rescale": (restore("--rescale"), 2, "--rescale needs a ground truth", "name it with -g"),
    "apply: rescale, stretch": (
        restore(f"{SCORED} --rescale {STRETCHED}"),
        2,
        "--rescale and --norm",
        "choose one",
    ),
    "apply: switch": (restore("--compare perhaps"), 2, '--compare is "perhaps"', "must be true or false"),
    "simulate: no flag": ("simulate", 2, "OUTPUT", "simulate --help lists all flags"),
    "simulate: kind": ("simulate new --kind cubes", 2, '--kind is "cubes"', "'filaments'"),
    "simulate: shape": ("simulate new --shape 8,0,8", 2, "--shape.1 is 0", "greater than or equal to 1"),
    "simulate: aperture": ("simulate new --numerical_aperture 1.6", 2, "is 1.6", "below --refractive_index"),
    "simulate: files there": ("simulate .", 1, "raw already holds files", "name another folder"),
    "simulate: below a file": ("simulate out.tif", 1, "out.tif/raw: not a directory", "name another folder"),
    "simulate: missing source": ("simulate new --source 9.tif", 1, "9.tif: no such file", "check the name"),
    "simulate: no voxel size": (
        "simulate new --source raw/0.tif",
        1,
        "raw/0.tif does not give",
        "--voxel_size Z,Y,X",
    ),
    "simulate: NaN": (
        "simulate new --source bad/nan.tif --voxel_size 1,1,1",
        1,
        "bad/nan.tif holds NaN",
        "Replace them",
    ),
    "simulate: constant": (
        "simulate new --source bad/constant.tif --voxel_size 1,1,1",
        1,
        "bad/constant.tif: channel 0",
        "choose another one",
    ),
    "simulate: series": (
        "simulate new --source bad/series.tif --voxel_size 1,1,1",
        1,
        "bad/series.tif has 8 time points",
        "Save one of them",
    ),
    "apply: empty": (restore("-g ''"), 2, "--ground_truth is empty", "give it a value, or leave it out"),
    "train: empty": ("train -c config.json -o ''", 2, "--output_dir is empty", "give it a value"),
    "rcan: command": ("aply -m 3d.keras", 2, "aply is not a command", "Did you mean apply?"),
}


@pytest.mark.parametrize(("line", "status", "offender", "way_out"), CASES.values(), ids=CASES)
def test_bad_input_ends_in_one_line_that_helps_and_harms_nothing(desk, capsys, line, status, offender, way_out):
    before = snapshot(desk)
    assert main(shlex.split(line)) == status
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert offender in err
    assert way_out in err
    if Path("new/measured").exists():  # what was measured of good data may stay, and nothing else
        shutil.rmtree("new/measured")
        Path("new").rmdir()
    assert snapshot(desk) == before


@pytest.mark.parametrize("name", sorted(os.listdir(CORRUPT)) if CORRUPT.is_dir() else [])
def test_a_damaged_file_does_not_keep_the_rest_of_its_folder_from_being_restored(desk, capsys, data_dir, name):
    shutil.copytree("raw", "mixed")
    shutil.copy(data_dir / "odd_tiffs/corrupt" / name, "mixed")
    before = snapshot(desk)
    assert main(shlex.split(restore(image="mixed", output="new"))) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: mixed/{name}")
    assert last == "error: 1 of 3 images were not restored, see above."
    after = snapshot(desk)
    assert {path.name for path in after.keys() - before.keys()} == {"new", "0.tif", "1.tif", "manifest.jsonl"}
    assert {path: after[path] for path in before} == before
    assert tifffile.imread("new/0.tif").shape == tifffile.imread("raw/0.tif").shape


def test_two_images_that_would_become_one_file_are_refused(desk, capsys):
    shutil.copytree("raw", "alike")
    shutil.copy("raw/1.tif", "alike/0.ome.tif")
    before = snapshot(desk)
    assert main(shlex.split(restore(image="alike", output="new"))) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: alike/0.ome.tif and alike/0.tif would both become new/0.tif: ")
    assert "-f ome" in err
    assert snapshot(desk) == before


# Unusual, but right


def test_a_diverging_training_stops_and_says_what_to_try(desk, capsys):
    assert main(["train", "-c", "config.json", "--epochs", "9", "--initial_learning_rate", "1e30"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "loss has become" in error
    assert "Lower initial_learning_rate, which is 1e+30" in error


def test_a_run_config_of_the_user_is_never_replaced(desk, capsys):
    before = (desk / "config.json").read_text()
    assert main(["train", "-c", "config.json", "-o", ".", "--overwrite"]) == 1
    assert "config.json was not written by a run" in capsys.readouterr().err
    assert (desk / "config.json").read_text() == before


def test_a_file_that_vanishes_during_training_is_named(desk, capsys, monkeypatch):
    def run(self):
        for path in (desk / "raw").iterdir():
            path.unlink()
        original(self)

    original = Loop.run
    monkeypatch.setattr(Loop, "run", run)
    assert main(["train", "-c", "config.json"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert re.fullmatch(r"error: .*raw/[01]\.tif: no such file or directory: check the name .*", error)


def test_pairs_of_equal_names_have_a_row_each(desk, capsys):
    pairs = [
        {"raw": f"{raw}/0.tif", "gt": f"{gt}/0.tif"} for raw, gt in (("raw", "gt"), ("raw", "more"), ("more", "gt"))
    ]
    shutil.copytree("gt", "more")
    assert main(["train", "-c", "config.json", "--test_image_pairs", json.dumps(pairs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines if ".tif" in line and "Validating" not in line]
    assert names == ["raw/0.tif (gt/0.tif)", "raw/0.tif (more/0.tif)", "more/0.tif (gt/0.tif)"]


def test_test_data_that_was_learned_is_warned_of(desk, capsys):
    flag = json.dumps({"raw": "raw", "gt": "gt"})
    assert main(["train", "-c", "config.json", "--test_data_dir", flag]) == 0
    assert "gt/0.tif is both training and test data" in capsys.readouterr().err


def test_a_patch_larger_than_a_volume_is_cut_down_with_a_warning(desk, capsys):
    options = "--patch_shape 16,64,64 --validation_data_dir " + shlex.quote('{"raw": "raw", "gt": "gt"}')
    assert main(shlex.split(f"train -c config.json {options}")) == 0
    err = capsys.readouterr().err.splitlines()
    assert "gt/0.tif is both training and validation data, and 1 more" in err[0]
    assert err[1:3] == [
        "warning: patch_shape [16, 64, 64] is cut down to the smallest volume: [8, 24, 28].",
        "warning: quarter turns need patches as wide as high, patch_shape is [8, 24, 28]: only half turns and flips "
        "are used. Set patch_shape to [8, 24, 24] for all of them.",
    ]
    assert json.loads(Path("new/config.json").read_text())["patch_shape"] == [8, 24, 28]


@pytest.mark.parametrize("name", ["2021_01_02", "a#b"])
def test_a_name_of_digits_or_signs_is_a_run_folder(desk, capsys, name):
    assert main(["train", "-c", "config.json", "-o", name]) == 0
    assert (desk / name / "best.keras").is_file()
    assert f"-m {shlex.quote(name)} -i raw" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["2021_01_02", "a#b", "10"])
def test_a_name_of_digits_or_signs_is_an_output(desk, name):
    assert main(["apply", "-m", "3d.keras", "-i", "raw", "-o", name]) == 0
    assert [path.name for path in sorted((desk / name).glob("*.tif"))] == ["0.tif", "1.tif"]


def test_unrelated_images_are_trained_on_with_a_warning(desk, capsys):
    noise = np.random.default_rng(1).poisson(100, (8, 24, 28)).astype(np.uint16)
    tifffile.imwrite("bad/noise.tif", noise, photometric="minisblack")
    assert main(shlex.split(pair("bad/noise.tif", options="--intensity_threshold 0"))) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {desk}/bad/noise.tif and {desk}/gt/0.tif have a correlation of ")


def test_overwriting_replaces_the_run_and_keeps_other_files(desk):
    assert main(["train", "-c", "config.json", "-o", "old", "--overwrite"]) == 0
    assert (desk / "old/notes.txt").read_text() == "older notes.txt"
    assert not (desk / "old/train/events.out.1").exists()
    assert (desk / "old/history.csv").read_text().startswith("epoch,")


def test_images_in_folders_named_as_those_of_a_run_survive_overwriting(desk):
    for source, kind in (
        ("raw", "train/raw"),
        ("gt", "train/gt"),
        ("raw", "validation/raw"),
        ("gt", "validation/gt"),
    ):
        shutil.copytree(source, desk / "project" / kind)
    before = snapshot(desk / "project")
    for overwrite in ([], ["--overwrite"]):
        assert main(["train", "-c", "config.json", "-o", "project", *overwrite]) == 0
    after = snapshot(desk / "project")
    assert {path: after[path] for path in before} == before
