"""The tests of `gui_napari.py`, in a process of their own.

TensorFlow, which the other tests load, and the drivers of OpenGL do not bear each other in one process. napari needs a
screen: Xvfb takes its place where there is none.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

FILE = Path(__file__).with_name("gui_napari.py")
NAMES = re.findall(r"^def (test_\w+)", FILE.read_text("utf-8"), re.MULTILINE)
WARNINGS = [  # what libraries tell their developers differs from version to version; what concerns us is an error
    "error",
    "ignore::DeprecationWarning",
    "error::DeprecationWarning:rcan",
    "error::DeprecationWarning:gui_napari",
]


@contextmanager
def opened_screen():
    """Variables of a screen for OpenGL, which napari draws with."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        yield {}
        return
    if not shutil.which("Xvfb"):
        pytest.skip("napari needs a screen, or Xvfb: apt-get install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1600x1200x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        with os.fdopen(reading) as stream:
            number = stream.readline().strip()
        yield {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "offscreen"}  # drawn there, without a manager of windows
        server.terminate()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Failures and reasons of skipping, two lists, of each test by its name."""
    for package in ("napari", "pytestqt"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is absent: python -m pip install -e '.[test]'")
    path = tmp_path_factory.mktemp("napari") / "outcomes.xml"
    command = [sys.executable, "-m", "pytest", FILE, "--confcutdir", FILE.parent, "--junitxml", path]
    command += [
        "-o",
        "addopts=--strict-markers -p no:cacheprovider",
        "-o",
        "\n".join(["filterwarnings=", *WARNINGS]),
    ]
    with opened_screen() as screen:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, env=kept | screen, capture_output=True, text=True, cwd=FILE.parents[1])
    if not path.is_file():
        pytest.fail(f"the process ended with status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found = {name: ([], []) for name in NAMES}
    for case in ElementTree.parse(path).iter("testcase"):
        failures, skips = found[case.get("name").partition("[")[0]]
        failures += [node.text or node.get("message") for node in [*case.iter("failure"), *case.iter("error")]]
        skips += [node.get("message") for node in case.iter("skipped")]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_in_napari(outcomes, name):
    failures, skips = outcomes[name]
    assert not failures, "\n\n".join(failures)
    if skips:
        pytest.skip(skips[0])
