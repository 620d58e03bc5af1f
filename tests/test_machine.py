"""What `rcan --version` and `rcan doctor` say of a machine."""

import subprocess
import sys

import pytest

from rcan import __version__
from rcan.__main__ import main
from rcan.studies import machine


@pytest.fixture
def smi(monkeypatch):
    """Let nvidia-smi answer by field: `smi(name="A", **{"memory.total": "81920"})`."""

    def answer(**by_field):
        monkeypatch.setattr("rcan.hardware._ask_nvidia", lambda field: by_field.get(field, "").splitlines())

    return answer


def test_the_version_names_libraries_and_devices(smi, capsys):
    smi(name="NVIDIA H100\nNVIDIA A40", **{"memory.total": "81920\n46080"})
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"rcan {__version__} (Python {sys.version.split()[0]}, TensorFlow 2.")
    assert second.endswith("cores, NVIDIA H100 (80 GiB), NVIDIA A40 (45 GiB)")


def test_the_version_is_told_without_tensorflow():
    code = "import sys; from rcan.__main__ import main; main(['--version']); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_doctor_says_that_there_is_no_gpu(smi, capsys):
    smi()
    assert main(["doctor"]) == 0
    assert "GPU: none (nvidia-smi finds no NVIDIA GPU)." in capsys.readouterr().out


def test_the_doctor_says_how_tensorflow_finds_a_gpu(smi):
    smi(name="NVIDIA H100", **{"memory.total": "81920"})
    (line,) = [line for line in machine.describe_machine() if line.startswith("GPU")]
    assert line.startswith("GPU: NVIDIA H100 (80 GiB), but TensorFlow does not find it.")
    assert 'python -m pip install "rcan-microscopy[gpu]"' in line


def test_the_doctor_names_the_gpus_that_are_used(smi, monkeypatch):
    smi(name="NVIDIA H100", **{"memory.total": "81920", "compute_cap": "9.0"})
    monkeypatch.setattr("rcan.restoration.engine.find_devices", lambda _: ("gpu:0",))
    assert "GPU: NVIDIA H100 (80 GiB); bfloat16: yes, the GPU has compute capability 9.0" in machine.describe_machine()


def test_the_doctor_knows_which_extras_are_missing(monkeypatch):
    known = machine._version
    monkeypatch.setattr(machine, "_version", lambda name: "not installed" if name == "dask" else known(name))
    lines = machine.describe_machine()
    assert 'dask: not installed; `python -m pip install "rcan-microscopy[dask]"` installs it' in lines
    assert any(line.startswith("movie: imageio-ffmpeg 0.") for line in lines)


def test_a_broken_tensorflow_is_told_and_is_no_crash(monkeypatch):
    def fail(_):
        raise ImportError("libcudart.so: cannot open\nshared object file")

    monkeypatch.setattr("rcan.restoration.engine.find_devices", fail)
    assert any(line.startswith("TensorFlow cannot be imported (libcudart.so") for line in machine.describe_machine())


def test_the_doctor_works_where_the_package_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine, "DISTRIBUTION", "rcan-nowhere")
    assert "rcan-nowhere is not installed: `python -m pip install -e .` in" in machine.describe_machine()[-1]
