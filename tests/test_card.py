"""Model cards say what is recorded, in the fields of Hugging Face and bioimage.io, and nothing else."""

import csv
import hashlib
import html
import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from huggingface_hub import EvalResult, ModelCard
from markdown_it import MarkdownIt

import rcan
from rcan.__main__ import main
from rcan.assess.limits.ends import RULES
from rcan.export.markdown import as_text, front_matter, table

DETAILS = {"author": ("Ada Lovelace",), "license": "CC-BY-4.0"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory, tiny_config, write_tiff, noisy_pair):
    """A folder with a trained network, `run`, evaluated and with limits in folders inside; and the images of both."""
    folder = tmp_path_factory.mktemp("card")
    values = tiny_config(folder, epochs=2, validation_split=0.25, recipe="default", area_ratio_threshold=0)
    (folder / "config.json").write_text(json.dumps(values))
    rcan.train(rcan.load_config(folder / "config.json"))
    for seed, name in enumerate(("one", "two"), start=10):
        for kind, image in zip(("raw", "gt"), noisy_pair((8, 24, 28), seed), strict=True):
            write_tiff(folder / f"new_{kind}" / f"{name}.tif", image, "ZYX")
    rcan.evaluate(folder / "run", folder / "new_raw", folder / "new_gt", folder / "run/judged", calibrate=False)
    rcan.find_limits(
        folder / "run",
        output=folder / "limits",
        input=folder / "new_gt",
        volumes=3,
        photon_ladder=(20,),
        blur_ladder=(2,),
        shape=(8, 24, 28),
        voxel_size=(0.3, 0.1, 0.1),
    )
    return folder


def write_card(model, path, **options):
    """Export the card alone; returns its text."""
    rcan.export_model(model, path, card=True, **options)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def card(judged):
    """The text of the card with everything."""
    return write_card(judged / "run", judged / "README.md", **DETAILS)


def section(text, title):
    """The text below a heading of the second level."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


# Fields of Hugging Face


def test_the_head_has_the_fields_of_hugging_face(card):
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "keras", "image-to-image")
    assert {"microscopy", "image-restoration", "3d"} <= set(data.tags)
    assert data.get("datasets") is None  # nothing tells which


def test_scores_are_read_back_as_results_of_hugging_face(judged, card):
    with open(judged / "run/judged/scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "restored"]
    same = {
        "task_type": "image-to-image",
        "task_name": "Image restoration",
        "dataset_type": "image-pairs",
        "dataset_name": "2 image pairs: one.tif, two.tif",
    }
    expected = [
        EvalResult(
            **same,
            metric_type=measure,
            metric_name=name,
            metric_value=pytest.approx(np.mean([float(row[measure]) for row in rows]), abs=6e-5),
        )
        for measure, name in (("psnr", "PSNR (dB)"), ("ssim", "SSIM"), ("nrmse", "NRMSE"))
    ]
    data = ModelCard(card).data
    assert data.model_name == "RCAN run"
    assert data.eval_results == expected


@pytest.mark.parametrize(
    "text",
    ["yes", "1.0", "a: b", "- x", "#", "'\"\\", "ä 😀", "a\nb", "\x07\x7f\u2028", "null", "1e5", " a ", "\udcff"],
)
def test_any_text_survives_in_the_head(text):
    values = {"a": text, "b": [text, {"c": text, "d": [{"e": text}]}], "f": {"g": 0.00001, "h": 20.0, "i": 3}}
    read = yaml.safe_load(front_matter(values).strip("-"))
    shown = text.encode(errors="backslashreplace").decode()
    for sign in "\n\x07\x7f\u2028":
        shown = shown.replace(sign, repr(sign)[1:-1])
    assert read["a"] == read["b"][0] == read["b"][1]["c"] == read["b"][1]["d"][0]["e"] == shown
    assert read["f"] == values["f"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("CERN-OHL-P-2.0", {"license": "other", "license_name": "cern-ohl-p-2.0"}),
    ],
)
def test_a_licence_is_one_that_hugging_face_knows_or_another_with_its_name(name, fields, tiny_models, tmp_path):
    data = ModelCard(write_card(tiny_models / "3d.keras", tmp_path / "a.md", license=name)).data.to_dict()
    assert {key: value for key, value in data.items() if key.startswith("license")} == fields


# What the card says


def test_the_data_are_told_without_their_folders(judged, card):
    told = section(card, "What it was trained on")
    record = json.loads((judged / "run/training.json").read_text())
    pairs = record["training"] + record["validation"]
    assert pairs
    for pair in pairs:
        assert f"| {Path(pair['raw']).name} | {Path(pair['gt']).name} |" in told
        low, high = pair["raw_range"][0]
        assert f"{low:.5g}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.5g}" in told
    assert str(judged) not in card


def test_the_trained_range_is_that_of_the_record(judged, card):
    record = json.loads((judged / "run/training.json").read_text())
    low, high = np.exp(record["training_fingerprint"]["channels"][0]["features"]["snr"]["range"])
    assert f"| signal-to-noise ratio | {float(f'{low:.3g}')} | {float(f'{high:.3g}')} |" in card
    assert "Size of a voxel (µm): not known" in section(card, "Trained range")


def test_the_best_epoch_is_that_of_the_history(judged, card):
    with open(judged / "run/history.csv", newline="") as file:
        best = min(csv.DictReader(file), key=lambda row: float(row["val_loss"]))
    told = section(card, "Training")
    assert f"Best network, of epoch {best['epoch']}: loss {float(best['val_loss']):.4g}, PSNR" in told
    assert "- Recipe: default" in told


def test_scores_stand_beside_those_of_the_filters(judged, card):
    found = json.loads((judged / "run/judged/scores.json").read_text())["total"]["methods"]
    told = section(card, "Validation")
    for method, means in found.items():
        assert f"| {method} | {means['psnr']['mean']:.2f} (" in told
    assert "None of these files was trained on" in told


@pytest.mark.parametrize("source", ["training.json", "limits.json"])
def test_limits_are_those_of_the_study(source, judged, card, tmp_path):
    found = json.loads((judged / "limits/limits.json").read_text())["limits"]
    if source == "limits.json":
        shutil.copy(judged / "run/best.keras", tmp_path)
        card = write_card(tmp_path, tmp_path / "a.md", limits=str(judged / "limits"))
    told = section(card, "Limits").replace("\\", "")
    assert "2 images taken as the ground truth" in told
    assert [f"- {limit['title']}: {limit['words']}" in told for limit in found.values()] == [True] * len(RULES)


def test_what_is_not_known_is_said_to_be_so(tiny_models, tmp_path, capsys):
    assert main(["export", "-m", str(tiny_models / "2d.keras"), "-o", str(tmp_path / "a.md"), "--card"]) == 0
    assert "Not known, and said so in the card: training (" in capsys.readouterr().out
    text = (tmp_path / "a.md").read_text("utf-8")
    for title in ("What it was trained on", "Grey values", "Trained range", "Training"):
        assert section(text, title).strip().startswith("Not known")
    for title, command in (("Validation", "rcan evaluate"), ("Limits", "rcan limits")):
        assert section(text, title).strip().startswith("Not measured")
        assert command in section(text, title)
    assert section(text, "Licence").strip().startswith("No licence is given")
    assert section(text, "Authors").strip() == "Not named."
    assert "model-index" not in ModelCard(text).data.to_dict()


def test_a_network_of_the_published_program_has_a_card(data_dir, tmp_path):
    text = write_card(data_dir / "legacy_models/3d_two_channels", tmp_path / "a.md")
    assert "It reads volumes (ZYX) of any size and 2 channels" in text
    assert section(text, "Training").strip().startswith("Not known")


def test_a_network_of_an_own_function_is_not_called_an_rcan(judged, tmp_path):
    shutil.copy(judged / "run/best.keras", tmp_path)
    record = json.loads((judged / "run/training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**record, "own_functions": {"network": "lab.unet"}}))
    _, _, text = write_card(tmp_path, tmp_path / "a.md").partition("\n# ")
    assert "like those that it was trained on: a network of lab.unet." in text.partition("## ")[0]
    assert "residual channel" not in text.partition("## Citation")[0]


def test_the_commands_of_a_card_restore(judged, card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(judged / "new_raw", "raw")
    shutil.copy("raw/one.tif", "raw.tif")
    use = section(card, "How to use it").replace("hf://OWNER/NAME", str(judged / "run"))
    (command,) = re.findall(r"^rcan (apply .*)$", use, re.MULTILINE)
    assert main([*shlex.split(command), "--precision", "float32"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", use, re.DOTALL)
    names = {}
    exec(code.replace('"restored")', '"from_python", precision="float32")'), names)
    expected = tifffile.imread("restored/one.tif")
    np.testing.assert_array_equal(tifffile.imread("from_python/one.tif"), expected)
    np.testing.assert_allclose(names["restored"][..., 0], expected, atol=1e-3 * np.ptp(expected) + 0.5)
    assert hashlib.sha256((judged / "run/best.keras").read_bytes()).hexdigest() in use


def test_names_of_files_are_no_markdown():
    name = "a|b\n<script>`*[x](y)"
    header, _, row = table(["raw"], [[name]]).splitlines()
    assert header == "| raw |"
    assert row == r"| a\|b\\n\<script>\`\*\[x](y) |"


@pytest.mark.parametrize(
    "text",
    ["__main__.net", "_a_", "a_b.tif", "a&lt;b", "<lambda>", "~~a~~", "- x", "+ x", "---", "> x", "1. x", "12) x",
     "# x", "x #", "  x", "-3.2 (-4)", "5.7 %", "A & B"],
)  # fmt: skip
def test_text_of_others_is_shown_as_it_is(text):
    page = "\n\n".join([f"# {as_text(text)}", as_text(text), table(["raw"], [[text]])])
    shown = html.unescape(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(page))
    for tag in ("h1", "p", "td"):
        assert f"<{tag}>{text.strip()}</{tag}>" in shown


def test_authors_are_named_without_blanks(tiny_models, tmp_path):
    text = write_card(tiny_models / "3d.keras", tmp_path / "a.md", author=["Ada Lovelace ", "", " Grace Hopper"])
    assert section(text, "Authors").strip() == "Ada Lovelace, Grace Hopper"


# Results of other networks


@pytest.mark.parametrize(("flag", "folder"), [("evaluation", "run/judged"), ("limits", "limits")])
def test_results_of_another_network_are_refused(flag, folder, judged, tiny_models, tmp_path):
    with pytest.raises(ValueError, match=r"is of another network than .*3d\.keras"):
        write_card(tiny_models / "3d.keras", tmp_path / "a.md", **{flag: str(judged / folder)})
    assert not (tmp_path / "a.md").exists()


def test_results_of_another_network_in_the_run_folder_are_left_out(judged, tiny_models, tmp_path):
    shutil.copy(tiny_models / "3d.keras", tmp_path / "best.keras")
    shutil.copytree(judged / "run/judged", tmp_path / "judged")
    assert section(write_card(tmp_path, tmp_path / "a.md"), "Validation").strip().startswith("Not measured")


def test_of_two_evaluations_one_is_to_be_named(judged, tmp_path):
    shutil.copytree(judged / "run", tmp_path / "run")
    shutil.copytree(judged / "run/judged", tmp_path / "run/judged_again")
    with pytest.raises(ValueError, match="hold results of this network: name one with --evaluation"):
        write_card(tmp_path / "run", tmp_path / "a.md")
    named = write_card(tmp_path / "run", tmp_path / "a.md", evaluation=str(judged / "run/judged"))
    assert len(ModelCard(named).data.eval_results) == 3


def test_a_folder_without_results_is_refused(tiny_models, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no scores\.json: --evaluation takes the folder that rcan evaluate"
    ):
        write_card(tiny_models / "3d.keras", tmp_path / "a.md", evaluation=str(tmp_path))


# Damaged files


DAMAGED = [
    ("history.csv", "epoch,loss\n1,abc\n", r"history\.csv is no table of numbers \(could not convert"),
    ("history.csv", "epoch,loss\n1\n", r"history\.csv is no table of numbers"),
    ("history.csv", "epoch,psnr\n1,2\n", r"history\.csv has no column loss"),
    ("config.json", {"epochs": "many"}, r'config\.json: epochs is "many": must be a whole number'),
    ("config.json", {"loss": 3}, r"config\.json: loss is 3: must be text"),
    ("judged/scores.json", {"total": {"over": "volumes", "methods": {}, "gains": {}}}, "has no restored"),
    ("judged/scores.json", {"total": {"over": "volumes", "methods": {"restored": {}}, "gains": {}}}, "has no psnr"),
    ("judged/scores.json", {"nulls": {"noise": {"raw": 5}}}, "must be an object of numbers"),
    ("judged/scores.json", {"versions": {}}, "has no rcan"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGED)
def test_a_damaged_file_is_named(name, damage, message, judged, tmp_path):
    shutil.copytree(judged / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ValueError, match=message) as caught:
        write_card(tmp_path / "run", tmp_path / "a.md")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_settings_that_an_earlier_version_did_not_have_are_as_they_were(judged, tmp_path):
    shutil.copytree(judged / "run", tmp_path / "run")
    config = json.loads((judged / "run/config.json").read_text())
    left = {name: value for name, value in config.items() if name not in ("recipe", "ema", "clipnorm")}
    (tmp_path / "run/config.json").write_text(json.dumps({**left, "of_a_later_version": 1}))
    told = section(write_card(tmp_path / "run", tmp_path / "a.md"), "Training")
    assert "moving average" not in told  # the published recipe has none
    assert "Recipe" not in told


def test_a_pair_of_another_system_is_named_without_its_folders(judged, tmp_path):
    shutil.copytree(judged / "run", tmp_path / "run")
    record = json.loads((judged / "run/training.json").read_text())
    record["training"] = [{**pair, "raw": "C:\\Users\\ada\\raw.tif"} for pair in record["training"]]
    (tmp_path / "run/training.json").write_text(json.dumps(record))
    text = write_card(tmp_path / "run", tmp_path / "a.md")
    assert "| raw.tif |" in text
    assert "ada" not in text


# The folder for Hugging Face


@pytest.fixture(scope="module")
def hub_folder(judged):
    """What is exported for Hugging Face."""
    rcan.export_model(judged / "run", judged / "hub", "huggingface", **DETAILS)
    return judged / "hub"


def test_the_folder_has_the_network_its_record_and_the_card(judged, hub_folder, card):
    assert sorted(path.name for path in hub_folder.iterdir()) == [
        "README.md", "best.keras", "config.json", "training.json"
    ]  # fmt: skip
    assert (hub_folder / "best.keras").read_bytes() == (judged / "run/best.keras").read_bytes()
    assert (hub_folder / "README.md").read_text("utf-8") == card


def test_the_folder_tells_no_paths(judged, hub_folder):
    for path in hub_folder.glob("*.json"):
        assert str(judged) not in path.read_text()
        assert str(judged) in (judged / "run" / path.name).read_text()


def test_the_trusted_range_holds_for_the_network_in_the_folder(judged, hub_folder):
    expected = rcan.load_model(judged / "run")[1].trusted_range
    assert expected.snr == rcan.load_model(hub_folder)[1].trusted_range.snr


def test_a_folder_with_other_files_is_never_replaced(tiny_models, tmp_path, capsys):
    flags = ["-m", tiny_models / "3d.keras", "-o", tmp_path / "hub", "--format", "huggingface"]
    command = ["export", *map(str, flags)]
    assert main(command) == 0
    assert main(command) == 1
    assert "exists: name another file, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    (tmp_path / "hub/.git").mkdir()
    assert main([*command, "--overwrite"]) == 1
    assert "no earlier export for Hugging Face, which alone is replaced" in capsys.readouterr().err
    assert (tmp_path / "hub/.git").is_dir()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_never_replaced_by_one(kind, tiny_models, tmp_path, capsys):
    path = tmp_path / "notes"
    path.write_text("mine") if kind == "file" else path.symlink_to(tmp_path / "nowhere")
    flags = ["-m", tiny_models / "3d.keras", "-o", path, "--format", "huggingface", "--overwrite"]
    assert main(["export", *map(str, flags)]) == 1
    assert "exists and is no earlier export for Hugging Face" in capsys.readouterr().err
    assert path.read_text() == "mine" if kind == "file" else path.is_symlink()
    assert [file.name for file in tmp_path.iterdir()] == ["notes"]


# The package of bioimage.io


def test_the_documentation_of_a_package_is_the_card(judged, card, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    from bioimageio.core import load_model_description

    image = judged / "new_raw/one.tif"
    printed = rcan.export_model(judged / "run", judged / "a.zip", "bioimageio", input=image, **DETAILS)
    assert "passed the test of bioimageio.core" in printed
    with zipfile.ZipFile(judged / "a.zip") as archive:
        documentation = archive.read("README.md").decode()
        assert not any(str(judged).encode() in archive.read(name) for name in archive.namelist())
    for title in ("Training", "Validation", "Limits", "Licence", "Authors", "Citation"):
        assert section(documentation, title) == section(card, title)
    found = load_model_description(judged / "a.zip").config.bioimageio
    assert (found.training.training_epochs, found.training.loss_function) == (2, "mae")
    assert found.model_parameter_count == rcan.load_model(judged / "run")[0].count_params()
    assert rcan.load_model(judged / "a.zip")[1].trusted_range  # holds for the network in the package


# Wrong flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "a.md"], "name either --format (bioimageio, huggingface, onnx, savedmodel, keras), or --card"),
        (["-o", "a.onnx", "--format", "onnx", "--card"], "or --card, which writes the card alone"),
        (["-o", "a.md", "--card", "--author", " ,"], "name at least one author"),
        (["-o", "a.txt", "--card"], "card is written as NAME.md: name it so"),
        (["-o", "a.zip", "--format", "huggingface"], "huggingface is written as a folder without suffix"),
        (["-o", "a.md", "--card", "-i", "raw.tif"], "--input is of no use to card"),
        (["-o", "a.keras", "--format", "keras", "--limits", "x"], "--limits is for --format bioimageio or huggingface"),
    ],
)
def test_wrong_flags_are_refused(flags, message, tiny_models, capsys):
    assert main(["export", "-m", str(tiny_models / "3d.keras"), *flags]) == 2
    assert message in capsys.readouterr().err
