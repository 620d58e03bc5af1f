"""`rcan demo`, and the package without the folder that it was built from."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
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


def test_the_demonstration_trains_and_restores_and_is_completed_by_the_same_call(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["--folder", str(folder), *SHORT]) == 0
    printed = capsys.readouterr().out
    assert f"Look at {folder / 'runs/sample/report.html'} in a browser" in printed
    assert (folder / "runs/sample/report.html").stat().st_size > 10_000
    restored = sorted((folder / "restored").glob("*.tif"))
    assert len(restored) == 2
    for path in ("train/raw/mixture_003.tif", "test/gt/mixture_001.tif"):
        ours, theirs = (open_volume(root / "sample" / path).read(dtype=None) for root in (folder, ROOT))
        np.testing.assert_array_equal(ours, theirs)
    weights = (folder / "runs/sample/best.keras").read_bytes()
    assert main(["--folder", str(folder), *SHORT]) == 0
    assert (folder / "runs/sample/best.keras").read_bytes() == weights


def test_a_config_of_somebody_else_is_not_replaced(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["--folder", str(tmp_path), *SHORT]) == 1
    assert "is not of the demonstration" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_what_is_built_works_without_the_checkout(tmp_path):
    copy = tmp_path / "checkout"
    copy.mkdir()
    names = ("rcan", "sample", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
    for name in names:
        path, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, copy / name, ignore=ignored) if path.is_dir() else shutil.copy(path, copy)
    build = [sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (source,) = tmp_path.glob("*.tar.gz")
    assert source.name == f"rcan_microscopy-{__version__}.tar.gz"
    assert source.stat().st_size < 1e7
    shutil.unpack_archive(source, tmp_path / "source")
    # installed from the source distribution as the Dockerfile says: both are complete
    site = follow_dockerfile(tmp_path / "source" / source.name.removesuffix(".tar.gz"), tmp_path)
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc") < 3e6
    # the libraries are those of this environment: that they are named is shown by the set-up of the README
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    options = {"cwd": tmp_path, "env": OUTSIDE, "capture_output": True, "text": True}
    python = tmp_path / "venv/bin/python"
    where = subprocess.run([python, "-c", "import rcan; print(rcan.__file__)"], check=True, **options).stdout
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    *_, (entry,) = (json.loads(rest) for word, rest in list_stages()[-1] if word == "ENTRYPOINT")
    done = subprocess.run([tmp_path / "venv/bin" / entry, "demo", *SHORT], **options)
    assert done.returncode == 0
    assert "error" not in done.stderr
    assert (tmp_path / "rcan_demo/runs/sample/report.html").is_file()


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
