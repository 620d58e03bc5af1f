"""What the README says about options is what the code does."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from rcan.__main__ import main
from rcan.config import RECIPES, Config, load_config
from rcan.restoration.options import RestoreOptions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", README, re.MULTILINE)


def test_options_table_lists_every_key_once():
    assert sorted(key for key, _, _ in ROWS) == sorted(Config.model_fields)


@pytest.mark.parametrize(("key", "shown"), [row[:2] for row in ROWS])
def test_options_table_gives_the_default(key, shown):
    default, _, published = shown.partition(", published ")
    for recipe, text in (("default", default), ("published", published or default)):
        expected = json.loads(json.dumps(RECIPES[recipe].get(key, Config.model_fields[key].default)))
        assert (None if text == "none" else json.loads(text.strip("`"))) == expected


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
    """A folder with the sample, and a network that was trained with it for one step."""
    folder = tmp_path_factory.mktemp("readme")
    values = json.loads((ROOT / "config.json").read_text())
    small = {"epochs": 1, "steps_per_epoch": 1, "num_channels": 4, "output_dir": "runs/sample"}
    (folder / "sample").symlink_to(ROOT / "sample")
    (folder / "config.json").write_text(json.dumps({**values, **small}))
    assert main(["train", "-c", str(folder / "config.json")]) == 0
    return folder


@pytest.fixture
def applied(sample_run, monkeypatch):
    """What apply.py makes of an image of the sample; its folder is the working directory."""
    monkeypatch.chdir(sample_run)
    flags = "-m runs/sample -i sample/test/raw/mixture_000.tif -o out.tif --precision float32 --overwrite"
    assert main(["apply", *flags.split()]) == 0
    return tifffile.imread("out.tif")


def test_python_example_restores_what_apply_restores(applied):
    code = re.search(r"^In Python:\n\n```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)[1]
    names = {}
    exec(code, names)
    np.testing.assert_allclose(names["restored"][..., 0], applied, atol=1e-3 * np.ptp(applied))


def block_of(mark):
    """The lines of the block of code that is marked."""
    (code,) = re.findall(rf"<!-- {mark} -->\n```\w+\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture(scope="module")
def exported(sample_run):
    """The same folder, after the commands that export the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sample_run)
        for line in block_of("export").splitlines():
            assert main(shlex.split(line)[1:]) == 0
    return sample_run


@pytest.mark.parametrize(
    "mark", ["load-keras jax", "load-keras torch", "load-onnx", "load-savedmodel", "load-bioimageio"]
)
def test_an_exported_network_restores_what_apply_restores(mark, applied, exported, monkeypatch):
    name, _, backend = mark.partition(" ")
    if backend and importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = block_of(name).replace('"torch"', f'"{backend}"')
    code += "import numpy, sys; numpy.save('restored.npy', restored); assert 'rcan' not in sys.modules"
    environment = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "PYTHONPATH")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
    found = np.load("restored.npy")
    inside, close = ..., 1e-5
    if name == "load-bioimageio":  # whose blocks are not the tile of apply.py
        inside, close = (slice(8, -8), slice(16, -16), slice(16, -16)), 1e-2
    np.testing.assert_allclose(found[inside], applied[inside], rtol=0, atol=close * np.ptp(applied))


def test_slurm_script_names_all_machines_and_the_task(tmp_path):
    (script,) = re.findall(r"<!-- slurm -->\n```sh\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
    commands = {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'export SLURM_PROCID=1; exec "$@"',
        "python": 'echo "$TF_CONFIG"; echo "$@"',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    config, arguments = done.stdout.splitlines()
    assert json.loads(config) == {
        "cluster": {"worker": ["node1:12345", "node2:12345"]},
        "task": {"type": "worker", "index": 1},
    }
    assert arguments == "train.py -c my_config.json --resume"


def test_cluster_script_starts_apply_with_the_address_of_the_cluster(monkeypatch):
    (code,) = re.findall(r"<!-- dask -->\n```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
    called = []

    class SLURMCluster:
        scheduler_address = "tcp://node1:8786"

        def __init__(self, **options):
            assert options["processes"] == 1

        def scale(self, jobs):
            called.append(jobs)

        wait_for_workers = scale

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=SLURMCluster))
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    exec(code, {})
    *_, command = called
    assert called[:2] == [8, 8]
    program, verb, *flags = command
    assert (program, verb) == ("rcan", "apply")
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert {name.lstrip("-") for name in given} - {"m", "i", "o"} <= RestoreOptions.model_fields.keys()
    assert given["--scheduler"] == "tcp://node1:8786"


@pytest.mark.parametrize("name", ["config.json", "config_gpu.json", "config_large.json"])
def test_shipped_config_is_valid(name):
    assert load_config(ROOT / name).output_dir.parent == ROOT / "runs"


def test_large_config_is_the_network_of_the_paper():
    config = load_config(ROOT / "config_large.json")
    differing = [
        key for key in Config.model_fields if key.startswith(("num_", "channel_", "epochs", "steps", "initial", "loss"))
        and getattr(config, key) != Config.model_fields[key].default
    ]  # fmt: skip
    assert differing == []
