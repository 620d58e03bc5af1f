"""Facts that are written in several files agree: name, version, versions of Python; the container image."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser

import pytest
from documents import ROOT
from repository import PYTHONS, list_stages, load_yaml

from rcan import __version__
from rcan.failures import DISTRIBUTION

SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_messages_name_the_package_as_pip_does():
    assert SETUP["metadata"]["name"] == DISTRIBUTION


@pytest.mark.parametrize("place", ["rcan/**/*.py", "docs/**/*.md", "notebooks/*.ipynb", "*.md"])
def test_no_text_lets_pip_install_extras_of_another_program(place):
    assert [path for path in ROOT.glob(place) if "rcan[" in path.read_text("utf-8")] == []


# Versions


def test_the_newest_heading_of_the_changelog_is_the_version():
    assert re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1] == __version__


def test_the_citation_is_of_this_version():
    assert load_yaml("CITATION.cff")["version"] == __version__


def test_the_package_declares_the_versions_of_python_that_the_readme_names():
    assert SETUP["options"]["python_requires"] == f">={PYTHONS[0]}"
    declared = re.findall(r"Language :: Python :: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert (declared[0], declared[-1]) == PYTHONS


def print_notes(*arguments):
    """The command that prints the notes on a release."""
    command = [sys.executable, ROOT / ".github/release_notes.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_notes_on_a_release_are_its_section_of_the_changelog():
    notes = print_notes("0.1.0").stdout
    assert notes.startswith("- Train a 2D or 3D residual channel attention network from a config file")
    assert "\n## " not in notes


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["9.9"], "CHANGELOG.md has no section 9.9: it has "), ([], "name one version: python .github/release_notes.py")],
)
def test_notes_that_do_not_exist_end_in_one_line(arguments, reason):
    done = print_notes(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {reason}")


# conda


def test_the_environment_of_conda_is_that_of_the_readme_and_installs_this_folder():
    environment = load_yaml("environment.yml")
    oldest, newest = PYTHONS
    python, _, installed = environment["dependencies"]
    assert python == f"python >={oldest},<3.{int(newest.split('.')[1]) + 1}"
    assert installed == {"pip": ["."]}
    assert f"{environment['name']} = rcan.__main__:main" in SETUP["options.entry_points"]["console_scripts"]


# Docker; that the package installs as the Dockerfile says is a test of test_demo.py


def test_the_image_is_made_from_a_version_of_python_that_is_supported():
    (base, *_), *others = list_stages()
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+ AS base", base.rest)[1]
    assert PYTHONS[0] <= f"3.{version}" <= PYTHONS[1]
    assert all(stage[0].rest.split()[0] == "base" for stage in others)


def test_the_image_runs_rcan_and_not_as_root():
    last = dict(list_stages()[-1])
    assert last["ENTRYPOINT"] == '["rcan"]'
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])


def test_docker_is_sent_what_is_copied_and_nothing_else():
    copied = [rest.split()[:-1] for word, rest in list_stages()[1] if word == "COPY"]
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", *sorted(f"!{name}" for names in copied for name in names), "**/__pycache__"]


def test_another_variant_is_refused_in_one_line(tmp_path):
    (step,) = [rest for word, rest in list_stages()[1] if word == "RUN"]
    environment = {"PATH": os.environ["PATH"], "VARIANT": "tpu", "VIRTUAL_ENV": str(tmp_path / "venv")}
    done = subprocess.run(["sh", "-c", step], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: VARIANT is tpu: cpu or gpu is expected.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def image():
    """The image for a CPU: the program that runs it, and its name."""
    programs = [name for name in ("docker", "podman") if shutil.which(name)]
    working = [name for name in programs if subprocess.run([name, "info"], capture_output=True).returncode == 0]
    if not working:
        pytest.skip("neither Docker nor Podman works here: the image is not built")
    name = f"rcan-test-{os.getpid()}"
    subprocess.run([working[0], "build", "-t", name, ROOT], check=True)
    yield working[0], name
    subprocess.run([working[0], "rmi", name], check=True)


def test_the_image_trains_and_restores_in_a_folder_of_the_user(image, tmp_path):
    program, name = image
    (folder := tmp_path / "data").mkdir()
    folder.chmod(0o777)
    user = os.getuid() or 12345  # without a name in the image
    command = [program, "run", "--rm", "--user", f"{user}:{user}", "-v", f"{folder}:/data", name]
    subprocess.run([*command, "demo", "--epochs", "1", "--steps_per_epoch", "2"], check=True)
    assert (folder / "rcan_demo/runs/sample/report.html").stat().st_uid == user
