"""The benchmark of recipes, on one small data set and for a moment."""

import argparse
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def quality():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("quality", ROOT / "benchmarks/quality.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def psnr(image, gt):
    """PSNR of one plane after the line of least squares, in dB; the peak is percentile 99.9 above percentile 2."""
    matched = np.polyval(np.polyfit(image.ravel(), gt.ravel(), 1), image)
    low, high = np.percentile(gt, [2, 99.9])
    return 10 * np.log10((high - low) ** 2 / np.mean((matched - gt) ** 2))


def test_the_table_holds_each_recipe_and_what_is_trained_is_kept(quality, data_dir, monkeypatch, tmp_path, capsys):
    """Raw images of the right half of the field score as NumPy says, and a second call trains nothing."""
    options = argparse.Namespace(
        folder=tmp_path, data=data_dir, data_sets="confocal", recipes="default", seconds=1.0, seeds=1, equal="seconds"
    )
    monkeypatch.setattr(quality, "plan_steps", lambda *_: (1, 0.0))
    monkeypatch.setattr(quality, "best_classical", lambda *_: ("Gaussian", {"psnr": 28.0, "ssim": 0.8}))
    quality.compare_recipes(options)
    first = capsys.readouterr().out
    ((classical, restored),) = re.findall(r"^\| confocal \| ([\d.]+) / 0.800 \| ([\d.]+) / 0", first, re.MULTILINE)
    assert float(classical) == 28

    planes = [tifffile.imread(data_dir / f"fmd_pairs/raw/Confocal_BPAE_R_{n}.tif")[:, 256:] for n in range(1, 5)]
    gt = tifffile.imread(data_dir / "fmd_pairs/gt/Confocal_BPAE_R.tif")[:, 256:].astype(float)
    expected = np.mean([psnr(plane.astype(float), gt) for plane in planes])
    (raw,) = re.findall(r"raw ([\d.]+) dB", first)
    assert float(raw) == pytest.approx(expected, abs=0.02)
    assert 10 < float(restored) < 30

    monkeypatch.setattr(quality, "run", None)
    quality.compare_recipes(options)
    assert f"{classical} / 0.800 | {restored}" in capsys.readouterr().out


def test_recipes_differ_by_what_they_are_called(quality):
    data_set = Path("data")
    published, tuned = (quality.settings(name, 3, data_set) for name in ("published", "tuned 2e-3"))
    assert {key for key in tuned if tuned[key] != published.get(key)} == {"initial_learning_rate"}
    default = quality.settings("default", 3, data_set)
    for name, change in quality.ABLATIONS.items():
        changed = quality.settings(name, 3, data_set)
        assert {key for key in changed if changed[key] != default.get(key)} == set(change), name


def test_planes_are_learned_from_in_patches_of_planes(quality):
    for recipe in ("default", "published", "large patches"):
        values = quality.settings(recipe, 2, Path("data"))
        assert len(values["patch_shape"]) == 2, recipe
    assert quality.settings("features on the full grid", 2, Path("data"))["downsampling"] == [1, 1]
