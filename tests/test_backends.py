"""A trained network restores on every backend of Keras, with the same result."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tifffile

import rcan
from rcan.model import build_rcan

BACKENDS = ["jax", "torch"]
SCRIPT = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

import rcan


class WithoutTensorFlow(PathFinder):
    # As if it were not installed: where it is, Keras imports it whatever its backend.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
folder = Path(sys.argv[1])
model, record = rcan.load_model(folder / "run")
raw = np.load(folder / "raw.npy")
np.save(folder / "called.npy", np.asarray(rcan.keras_setup.ops.convert_to_numpy(model(raw[None])))[0])
np.save(folder / "restored.npy", rcan.restore(model, raw, tile_shape=(8, 24, 24)))
summary = rcan.restore_folder(folder / "run", folder / "raw", folder / "out", block_shape=(8, 24, 24))
print(rcan.keras_setup.keras.backend.backend(), len(summary.restored), "tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, write_tiff):
    """A run folder, a volume in memory and a folder of images."""
    folder = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    (folder / "run").mkdir()
    build_rcan(num_channels=8, num_residual_groups=2, num_residual_blocks=1).save(folder / "run" / "best.keras")
    (folder / "run" / "training.json").write_text(json.dumps({"percentiles": [2, 99.9]}))
    np.save(folder / "raw.npy", rng.random((8, 40, 44, 1), np.float32))
    for name in ("a.tif", "b.tif"):
        write_tiff(folder / "raw" / name, rng.gamma(2, 500, (8, 40, 44)).astype(np.uint16), "ZYX")
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def outcome(request, work):
    """What the script has left in the folder, run with another backend."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    environment = {
        **os.environ,
        "KERAS_BACKEND": request.param,
        "PYTHONPATH": str(Path(rcan.__file__).parents[1]),
    }
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, work]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{request.param} 2 False"
    restored = {path.name: tifffile.imread(path) for path in sorted((work / "out").glob("*.tif"))}
    for path in (work / "out").iterdir():
        path.unlink()
    return {**{name: np.load(work / f"{name}.npy") for name in ("called", "restored")}, **restored}


def test_a_loaded_model_gives_what_it_gives_with_tensorflow(work, outcome):
    model, _ = rcan.load_model(work / "run")
    expected = np.asarray(model(np.load(work / "raw.npy")[None]))[0]
    np.testing.assert_allclose(outcome["called"], expected, atol=1e-5)


def test_a_volume_is_restored_as_with_tensorflow(work, outcome):
    model, _ = rcan.load_model(work / "run")
    expected = rcan.restore(model, np.load(work / "raw.npy"), tile_shape=(8, 24, 24))
    np.testing.assert_allclose(outcome["restored"], expected, atol=1e-5)


def test_a_folder_is_restored_as_with_tensorflow(work, outcome, tmp_path):
    rcan.restore_folder(work / "run", work / "raw", tmp_path / "out", block_shape=(8, 24, 24))
    for name in ("a.tif", "b.tif"):
        expected = tifffile.imread(tmp_path / "out" / name)
        np.testing.assert_allclose(outcome[name], expected, atol=1e-4 * np.ptp(expected))
