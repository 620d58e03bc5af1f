"""`rcan demo`, and the package without the folder that it was built from."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from repository import list_stages

from rcan import __version__
from rcan.commands.demo import main
from rcan.io.opening import open_volume
from rcan.studies.first_network import CONFIG

ROOT = Path(__file__).parents[1]
OUTSIDE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
SHORT = ["--epochs", "1", "--steps_per_epoch", "2", "--precision", "float32"]


def test_the_demonstration_is_the_first_training_of_the_readme():
    assert json.loads((ROOT / "config.json").read_text()) == CONFIG


def test_a_config_of_somebody_else_is_not_replaced(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["--folder", str(tmp_path), *SHORT]) == 1
    assert "is not of the demonstration" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder where the package was installed, in venv/, from its source distribution, as the Dockerfile says."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"
    copy.mkdir()
    names = ("rcan", "sample", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
    for name in names:
        path, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, copy / name, ignore=ignored) if path.is_dir() else shutil.copy(path, copy)
    build = [sys.executable, "-m", "build", "--sdist", "-o", str(folder), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    assert source.name == f"rcan_microscopy-{__version__}.tar.gz"
    assert source.stat().st_size < 1e7
    shutil.unpack_archive(source, folder / "source")
    site = follow_dockerfile(folder / "source" / source.name.removesuffix(".tar.gz"), folder)
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc") < 3e6
    # the libraries are those of this environment: that they are named is shown by the set-up of the README
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def call(folder, program, *arguments):
    """Run a program of that installation, and return what it prints."""
    command = [folder / "venv/bin" / program, *arguments]
    done = subprocess.run(command, cwd=folder, env=OUTSIDE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demonstrated(built):
    """That folder after `rcan demo`, and what it has printed."""
    *_, (entry,) = (json.loads(rest) for word, rest in list_stages()[-1] if word == "ENTRYPOINT")
    return built, call(built, entry, "demo", *SHORT)


def test_what_is_built_works_without_the_checkout(built):
    where = call(built, "python", "-c", "import rcan; print(rcan.__file__)")
    assert Path(where.strip()).is_relative_to(built / "venv")


def test_the_demonstration_makes_pairs_trains_and_restores(demonstrated):
    built, printed = demonstrated
    folder = built / "rcan_demo"
    assert "rcan_demo/runs/sample/report.html in a browser" in printed
    assert (folder / "runs/sample/report.html").stat().st_size > 10_000
    assert len(list((folder / "restored").glob("*.tif"))) == 2
    for path in ("train/raw/mixture_003.tif", "test/gt/mixture_001.tif"):
        ours, theirs = (open_volume(root / "sample" / path).read(dtype=None) for root in (folder, ROOT))
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_call_completes_the_demonstration(demonstrated, monkeypatch):
    built, _ = demonstrated
    weights, (image, _) = (
        built / "rcan_demo/runs/sample/best.keras",
        sorted((built / "rcan_demo/restored").glob("*.tif")),
    )
    trained, restored = weights.read_bytes(), image.read_bytes()
    image.unlink()
    monkeypatch.chdir(built)
    assert main(SHORT) == 0
    assert weights.read_bytes() == trained
    assert image.read_bytes() == restored


def follow_dockerfile(source, folder):
    """Run the steps of the Dockerfile that install the package, without its libraries; return where it lies."""
    (context := folder / "src").mkdir()
    for word, rest in list_stages()[1]:
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                if (source / name).is_dir():
                    shutil.copytree(source / name, context / target, dirs_exist_ok=True)
                else:
                    shutil.copy(source / name, context / target)
        elif word == "RUN":
            given = {"VARIANT": "cpu", "VIRTUAL_ENV": str(folder / "venv"), "PIP_NO_DEPS": "1"}
            given["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            subprocess.run(["sh", "-c", rest], cwd=context, env={**OUTSIDE, **given}, check=True)
    return next((folder / "venv/lib").glob("python*/site-packages"))
