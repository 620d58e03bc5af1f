"""Several devices, several machines, other precisions: the same network comes out."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from rcan.config import Config
from rcan.training.fit import train

ON_SEVERAL = """
import sys
import time
from rcan.keras_setup import tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
from rcan.commands.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("devices")
    values = tiny_config(folder, epochs=2, initial_learning_rate=1e-4, ema=0.5)
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


def train_on_several(*flags):
    """Train in a process that has four logical CPU devices; a process can use one strategy only."""
    command = [sys.executable, "-W", "ignore", "-c", ON_SEVERAL, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def weights_of(run_dir):
    return keras.saving.load_model(run_dir / "last.keras").get_weights()


def history_of(run_dir):
    return np.genfromtxt(run_dir / "history.csv", delimiter=",", names=True)


@pytest.fixture(scope="module")
def runs(config_file):
    """Run folders of trainings that draw the same four patches in a step, on 1, 2 and 4 devices."""
    folder = config_file.parent
    for devices in (1, 2, 4):
        steps, output = ("--steps_per_epoch", 6 * devices), ("-o", folder / str(devices))
        train_on_several("-c", config_file, "--batch_size", 4 // devices, "--devices", devices, *steps, *output)
    return folder


@pytest.mark.parametrize("devices", ["2", "4"])
def test_several_devices_train_the_network_of_one_whose_weights_are_averaged(runs, devices):
    for one, several in zip(weights_of(runs / "1"), weights_of(runs / devices), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-6)


@pytest.mark.parametrize("devices", ["2", "4"])
def test_several_devices_write_the_history_of_one(runs, devices):
    one, several = history_of(runs / "1"), history_of(runs / devices)
    for name in ("epoch", "loss", "psnr", "val_loss", "val_psnr", "learning_rate"):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-4)


def test_several_devices_in_bfloat16_train_the_network_of_one_within_rounding(config_file, tmp_path):
    for devices in (1, 2):
        flags = ("--devices", devices, "--batch_size", 2 // devices, "--precision", "mixed_bfloat16")
        train_on_several("-c", config_file, "-o", tmp_path / str(devices), *flags)
    for one, several in zip(*(weights_of(tmp_path / name) for name in "12"), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-3)


def test_run_on_two_devices_goes_on_with_one(runs, config_file, tmp_path):
    shutil.copytree(runs / "2", tmp_path / "run")
    before = history_of(runs / "2")
    values = {"steps_per_epoch": 12, "batch_size": 2, "devices": "1", "epochs": 3}
    run_dir = train(
        Config.checked({**json.loads(config_file.read_text()), **values, "output_dir": str(tmp_path / "run")}),
        resume=True,
    )
    after = history_of(run_dir)
    assert after[:2].tolist() == before.tolist()
    assert after["loss"][2] < before["loss"][1]


def test_more_devices_than_there_are_is_an_error_with_their_number(config_file):
    config = Config.checked({**json.loads(config_file.read_text()), "devices": 5})
    with pytest.raises(ValueError, match=r"devices is 5 but there is 1 \(CPU\)"):
        train(config)


@pytest.mark.filterwarnings("ignore:precision mixed")
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_a_network_of_full_precision(config_file, tmp_path, precision):
    values = {"precision": precision, "output_dir": str(tmp_path / "run"), "epochs": 1}
    run_dir = train(Config.checked({**json.loads(config_file.read_text()), **values}))
    model = keras.saving.load_model(run_dir / "best.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert np.isfinite(history_of(run_dir)["loss"])


def test_xla_trains_the_same_network(config_file, tmp_path):
    values = json.loads(config_file.read_text())
    runs = [
        train(Config.checked({**values, "jit_compile": jit, "output_dir": str(tmp_path / str(jit))}))
        for jit in (False, True)
    ]
    for plain, compiled in zip(*map(weights_of, runs), strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


# Several machines

ONE_OF_SEVERAL = """
import os
import sys
import time
import numpy as np
import rcan.precision
from rcan.training.loop import Loop

def run_and_write(self):
    run(self)
    np.savez(sys.argv[1], *self._learner.weights_for_evaluation())

run, Loop.run = Loop.run, run_and_write
if "HAS_BFLOAT16" in os.environ:
    support = rcan.hardware.Support(os.environ["HAS_BFLOAT16"] == "True", "this test says so")
    rcan.precision.find_bfloat16 = lambda **_: support
from rcan.commands.train import main
sys.exit(main(sys.argv[2:]))
"""


def start_machines(folder, *flags, has_bfloat16=None):
    """Two processes on this machine, as a queue would start them; each writes its weights and a log."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        workers = [f"localhost:{place.getsockname()[1]}" for place in (one, two)]
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-W", "ignore", "-c", ONE_OF_SEVERAL, folder / f"{index}.npz", *flags]
        with open(folder / f"{index}.log", "a") as log:
            environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
            if has_bfloat16:
                environment["HAS_BFLOAT16"] = str(has_bfloat16[index])
            processes.append(subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=log))
    return processes


@pytest.fixture(scope="module")
def two_machines(config_file, tmp_path_factory):
    """The folder in which two machines have trained together, drawing the same four patches in a step."""
    folder = tmp_path_factory.mktemp("machines")
    flags = ("-c", config_file, "-o", folder / "run", "--batch_size", 2, "--steps_per_epoch", 12)
    for index, process in enumerate(start_machines(folder, *flags)):
        assert process.wait() == 0, (folder / f"{index}.log").read_text()
    return folder


def test_two_machines_train_one_network(two_machines):
    with np.load(two_machines / "0.npz") as one, np.load(two_machines / "1.npz") as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


def test_two_machines_train_the_network_of_one(two_machines, runs):
    for one, several in zip(weights_of(runs / "1"), weights_of(two_machines / "run"), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-5)


def test_of_two_machines_only_the_first_writes(two_machines):
    assert len(list((two_machines / "run/train").iterdir())) == 1
    assert "Run folder" in (two_machines / "0.log").read_text()
    assert "Run folder" not in (two_machines / "1.log").read_text()


def test_two_machines_compute_in_what_both_have(config_file, tmp_path):
    flags = ("-c", config_file, "-o", tmp_path / "run", "--epochs", 1, "--steps_per_epoch", 2, "--precision", "auto")
    for index, process in enumerate(start_machines(tmp_path, *flags, has_bfloat16=(True, False))):
        assert process.wait() == 0, (tmp_path / f"{index}.log").read_text()
    assert json.loads((tmp_path / "run/training.json").read_text())["precision"] == "float32"
    for index in range(2):
        assert "Computing in float32: " in (tmp_path / f"{index}.log").read_text()


def test_lost_machine_ends_the_others_with_a_line_and_the_run_goes_on(config_file, tmp_path):
    flags = ("-c", config_file, "-o", tmp_path / "run", "--epochs", 4, "--steps_per_epoch", 40, "--resume")
    chief, other = start_machines(tmp_path, *flags)
    while not list(tmp_path.glob("run/checkpoints/epoch_*")) and chief.poll() is None:
        time.sleep(0.1)
    other.kill()
    other.wait()
    assert chief.wait() == 1
    last = (tmp_path / "0.log").read_text().splitlines()[-1]
    assert last.startswith("error: another machine of the cluster has stopped or cannot be reached")
    assert "--resume" in last
    for process in start_machines(tmp_path, *flags):
        assert process.wait() == 0
    assert list(history_of(tmp_path / "run")["epoch"]) == [1, 2, 3, 4]
