"""The order of the modules: data and imports go one way."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import rcan
from rcan.commands.apply import main as apply_main
from rcan.model import build_rcan

ROOT = Path(__file__).parents[1]
CHAIN = [
    "__init__",
    "keras_setup",
    "failures",
    "options",
    "config",
    "inline",
    "progress",
    "atomic_io",
    "records",
    "memory",
    "hardware",
    "regions",
    "intensity",
    "ranges",
    "scores",
    "losses",
    "model",
    "precision",
    "io",
    "fingerprint",
    "data",
    "simulation",
    "figures",
    "run_folder",
    "restoration",
    "training",
    "assess",
    "report",
    "export",
    "studies",
    "cli",
]
ON_TOP = ["napari", "commands", "__main__"]
MODULES = sorted((ROOT / "rcan").rglob("*.py"))


def module_of(path):
    """The module that a file belongs to; a folder is one module."""
    return path.relative_to(ROOT / "rcan").with_suffix("").parts[0]


def imported_names(path):
    """Full name of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path):
    """Modules of ours that a file imports, itself left out."""
    names = [name.split(".") for name in imported_names(path)]
    inside = {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "rcan"}
    known = {*CHAIN, *ON_TOP}  # `from rcan import __version__` asks __init__
    return {name if name in known else "__init__" for name in inside} - {module_of(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_modules_above_it(path):
    chain = [*CHAIN, *ON_TOP]
    assert imported_modules(path) <= set(chain[: chain.index(module_of(path))])


def test_no_modules_import_each_other_in_a_circle():
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    imports = {
        names[path]: {
            module
            for name in imported_names(path)
            for module in (name, name.rpartition(".")[0])
            if module in names.values()
        }
        for path in MODULES
    }
    while free := [module for module, needed in imports.items() if not needed & imports.keys() - {module}]:
        for module in free:
            del imports[module]
    assert not imports  # what is left imports each other


def test_every_module_has_a_place_in_the_chain():
    assert {module_of(path) for path in MODULES} <= {*CHAIN, *ON_TOP}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_data_training_and_the_saved_model_import_tensorflow(path):
    uses = "rcan.keras_setup.tf" in imported_names(path)
    assert not uses or module_of(path) in ("data", "training") or path.stem == "saved_model"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keras_and_tensorflow_come_from_the_module_that_sets_them_up(path):
    direct = {name.split(".")[0] for name in imported_names(path)} & {"keras", "tensorflow"}
    assert not direct or module_of(path) == "keras_setup"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_opening_knows_the_formats(path):
    formats = {"series", "tiff", "tiff_writing", "vendor", "zarr", "zarr_writing"}
    names = [name.split(".") for name in imported_names(path) if name.startswith("rcan.io.")]
    known = {name[2] for name in names} & formats
    assert path.stem == "opening" or known <= ({"zarr"} if path.stem == "zarr_writing" else set())


def test_the_public_names_exist():
    for name in rcan.__all__:
        assert getattr(rcan, name) is not None
    assert rcan.build_rcan is importlib.import_module("rcan.model").build_rcan


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'rcan' has no attribute 'nothing'"):
        _ = rcan.nothing


def imports_of(command):
    """Modules that a call of Python imports, and what it prints."""
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines()}, done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import rcan"],
        ["train.py", "--help"],
        ["apply.py", "--help"],
        ["-m", "rcan", "--help"],
        ["-m", "rcan", "simulate", "--help"],
        ["-m", "rcan", "evaluate", "--help"],
        ["-m", "rcan", "limits", "--help"],
        ["-m", "rcan", "export", "--help"],
        ["train.py", "--epoch", "3"],
    ],
    ids=" ".join,
)
def test_the_package_and_its_help_do_not_wait_for_keras(command):
    imported, _ = imports_of(command)
    assert "rcan" in imported
    assert not imported & {"keras", "tensorflow"}


def test_scoring_a_finished_folder_again_does_not_wait_for_keras(tmp_path, write_tiff):
    build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1).save(tmp_path / "a.keras")
    image = np.random.default_rng(0).poisson(100, (4, 20, 21)).astype(np.uint16)
    for kind in ("raw", "gt"):
        write_tiff(tmp_path / kind / "a.tif", image, "ZYX")
    flags = [
        "-m",
        tmp_path / "a.keras",
        "-i",
        tmp_path / "raw",
        "-g",
        tmp_path / "gt",
        "-o",
        tmp_path / "out",
    ]
    assert apply_main([*map(str, flags)]) == 0
    imported, output = imports_of(["apply.py", *flags])
    assert "1 of 1 restored, 1 of them before" in output
    assert "PSNR (dB): raw" in output
    assert not imported & {"keras", "tensorflow"}


def test_restoring_imports_no_library_that_it_does_not_need():
    imported, _ = imports_of(["-c", "import rcan.restoration.setup"])
    assert "rcan.keras_setup" in imported
    assert not imported & {"scipy.signal", "scipy.stats", "skimage", "matplotlib", "zarr", "dask"}


def test_applying_says_nothing_on_standard_error_that_is_not_for_the_user(tmp_path, write_tiff):
    keras.utils.set_random_seed(0)
    build_rcan(num_channels=4, num_residual_groups=1, num_residual_blocks=1).save(tmp_path / "a.keras")
    image = np.random.default_rng(0).poisson(100, (4, 20, 21)).astype(np.uint16)
    raw = write_tiff(tmp_path / "raw" / "a.tif", image, "ZYX").parent
    command = [sys.executable, "apply.py", "-m", tmp_path / "a.keras", "-i", raw, "-o", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
