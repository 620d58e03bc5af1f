"""The commands and Python blocks of README.md and of the site do what the pages say, with networks that are tiny."""

import importlib.util
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from documents import PAGES, ROOT, block_of, list_blocks

from rcan.__main__ import main
from rcan.config import Config, load_config
from rcan.io.opening import create_volume
from rcan.restoration.options import RestoreOptions

SMALL = {
    "num_channels": 4,
    "num_residual_groups": 1,
    "num_residual_blocks": 1,
    "epochs": 1,
    "steps_per_epoch": 1,
    "batch_size": 1,
    "precision": "float32",
}
# What makes a command quick; it replaces what the page has.
QUICK = {
    "check": ["--area_ratio_threshold", "0.1", "--patch_shape", "8,16,16"],  # the specimen is sparse
    "simulate": ["--pairs", "1"],
    "limits": ["--volumes", "3", "--photon_ladder", "20", "--blur_ladder", "2", "--shape", "8,32,32"],
}
RUNNABLE = {
    page: [block for block in list_blocks(page) if block.language in ("sh", "python") and not block.mark]
    for page in PAGES
}


def write_image(path, image, voxel_size):
    """Write an image (Z, Y, X) with its voxel size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip("ZYX", image.shape, strict=True))
    with create_volume(path, axes="ZYX", sizes=sizes, dtype=image.dtype, voxel_size=voxel_size) as sink:
        sink.write({}, None, image[..., None])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what the pages speak of: pairs, config files, trained networks."""
    folder = tmp_path_factory.mktemp("pages")
    values = json.loads((ROOT / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **SMALL}))
    shutil.copytree(ROOT / "sample/test", folder / "sample/test")
    for source, number in [*itertools.product(["train"], range(2)), *itertools.product(["test"], range(2))]:
        for kind in ("raw", "gt"):
            image = tifffile.imread(ROOT / f"sample/{source}/{kind}/mixture_{number:03}.tif")[:16, :48, :48]
            if source == "train":
                write_image(folder / f"sample/train/{kind}/mixture_{number:03}.tif", image, (0.3, 0.1, 0.1))
            place = {"train": "", "test": "test/"}[source]
            write_image(folder / f"{place}{kind}/cell_t{number}.tif", image, (0.3, 0.1, 0.1))
    for name in ("good.tif", "sharp.tif"):
        shutil.copy(folder / "gt/cell_t0.tif", folder / name)
    (mine,) = [block for block in list_blocks(ROOT / "docs/guides/your_data.md") if block.language == "json"]
    (folder / "my_config.json").write_text(json.dumps({**json.loads(mine.code), **SMALL}))
    for config in ("config.json", "my_config.json"):
        assert main(["train", "-c", str(folder / config)]) == 0
    for name in ("runs/denoise", "runs/deblur"):
        shutil.copytree(folder / "runs/mine", folder / name)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of that folder, which is the working directory."""
    shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def make_quick(words):
    """The arguments of `rcan` for a command of a page: the same command, with less to do."""
    if words[:2] in (["python", "train.py"], ["python", "apply.py"]):
        words = ["rcan", words[1].removesuffix(".py"), *words[2:]]
    assert words[0] == "rcan", words
    command, *rest = words[1:]
    quick = QUICK.get(command, []) if "-c" not in rest or "--train" in rest else []
    if command == "simulate" and "--source" not in rest:
        quick = [*quick, "--shape", "8,32,32"]
    if command == "train" and "--epochs" in rest:
        quick = ["--epochs", "2"]
    for flag in quick[::2]:
        if flag in rest:
            at = rest.index(flag)
            del rest[at : at + 2]
    return [command, *rest, *quick]


def find_failing(code):
    """Run the lines of a block; return the first that fails, in a list, or none."""
    for line in code.splitlines():
        if not (words := shlex.split(line, comments=True)):
            continue
        arguments = make_quick(words)
        if arguments[0] == "train" and "--resume" not in arguments:  # the pages train into a new folder
            shutil.rmtree(load_config(arguments[arguments.index("-c") + 1]).output_dir, ignore_errors=True)
        if main(arguments) != 0:
            return [line]
    return []


@pytest.mark.filterwarnings("default")  # notes on tiny data
@pytest.mark.parametrize(
    "page", [page for page in PAGES if RUNNABLE[page]], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_run_one_after_the_other(page, folder):
    names = {}
    for block in RUNNABLE[page]:
        if block.language == "sh":
            assert find_failing(block.code) == []
        else:
            exec(block.code, names)
            assert names  # what the block has made; an exception would have ended it


@pytest.mark.parametrize(
    "code", [block.code for page in PAGES for block in list_blocks(page) if block.language == "json"]
)
def test_a_config_of_a_page_is_valid(code):
    assert Config.checked(json.loads(code)).training_data_dir


def test_the_page_on_files_names_the_files_of_a_run(prepared):
    text = (ROOT / "docs/reference/files.md").read_text("utf-8").partition("## training.json")[0]
    names = {path.name + "/" * path.is_dir() for path in (prepared / "runs/sample").iterdir()}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_page_on_files_names_the_keys_of_the_manifest(folder):
    assert main(["apply", "-m", "runs/mine", "-i", "raw", "-o", "restored"]) == 0
    text = (ROOT / "docs/reference/files.md").read_text("utf-8").partition("## manifest.jsonl")[2]
    for line in Path("restored/manifest.jsonl").read_text().splitlines():
        assert {key for key in json.loads(line) if f"`{key}`" not in text} == set()


# Blocks that are compared with what apply.py makes


@pytest.fixture
def applied(prepared, monkeypatch):
    """What apply.py makes of an image of the sample; its folder is the working directory."""
    monkeypatch.chdir(prepared)
    flags = "-m runs/sample -i sample/test/raw/mixture_000.tif -o out.tif --precision float32 --overwrite"
    assert main(["apply", *flags.split()]) == 0
    return tifffile.imread("out.tif")


def test_python_example_restores_what_apply_restores(applied):
    names = {}
    exec(block_of("python-example"), names)
    np.testing.assert_allclose(names["restored"][..., 0], applied, atol=1e-3 * np.ptp(applied))


@pytest.fixture(scope="module")
def exported(prepared):
    """The same folder, after the commands that export the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(prepared)
        for line in block_of("export").splitlines():
            assert main(shlex.split(line)[1:]) == 0
    return prepared


@pytest.mark.parametrize(
    "mark", ["load-keras jax", "load-keras torch", "load-onnx", "load-savedmodel", "load-bioimageio"]
)
def test_an_exported_network_restores_what_apply_restores(mark, applied, exported, monkeypatch):
    name, _, backend = mark.partition(" ")
    if backend and importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = block_of(name)
    if backend:
        code = code.replace('"tensorflow"', f'"{backend}"')
    code += "import numpy, sys; numpy.save('restored.npy', restored); assert 'rcan' not in sys.modules"
    environment = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "PYTHONPATH")}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, check=True)
    found = np.load("restored.npy")
    inside, close = ..., 1e-5
    if name == "load-bioimageio":  # whose blocks are not the tile of apply.py
        inside, close = (slice(8, -8), slice(16, -16), slice(16, -16)), 1e-2
    np.testing.assert_allclose(found[inside], applied[inside], rtol=0, atol=close * np.ptp(applied))


def test_slurm_script_names_all_machines_and_the_task(tmp_path):
    script = block_of("slurm")
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
    code = block_of("dask")
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
