"""What the processors of this machine compute fast, and what is chosen by it: as operating system and driver say."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["FLOAT32", "ChosenPrecision", "Support", "find_bfloat16", "name_gpus", "query_gpus"]

_CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # instructions, by their names in Linux
_LEAST_CAPABILITY = 8.0  # of NVIDIA's GPUs that compute in bfloat16


class Support(NamedTuple):
    """Whether bfloat16 is fast here, and why, in words that go on after "because"."""

    is_fast: bool
    reason: str


class ChosenPrecision(NamedTuple):
    """The name of a policy of Keras (``float32``, ``mixed_bfloat16``, ``mixed_float16``), and why it was taken."""

    name: str
    reason: str

    def __str__(self):
        return f"Computing in {self.name.removeprefix('mixed_')}: {self.reason}."


FLOAT32 = ChosenPrecision("float32", "as it always works")


def find_bfloat16(*, on_gpu, num_gpus=None):
    """Whether the CPU, or all of the first GPUs that this process sees, have instructions for bfloat16: `Support`."""
    return _ask_gpus(num_gpus) if on_gpu else _ask_cpu()


def _ask_cpu(path="/proc/cpuinfo"):
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return Support(False, "the operating system does not list the instructions of the processor")
    flags = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    found = [flag for flag in _CPU_FLAGS if flag in flags]
    if not found:
        return Support(False, f"the processor has neither {' nor '.join(_CPU_FLAGS)}")
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") == "0":
        return Support(False, "TF_ENABLE_ONEDNN_OPTS=0 turns off the library that computes in it")
    return Support(True, f"the processor has {found[0]}")


def _ask_gpus(num_gpus):
    capabilities = query_gpus("compute_cap")[:num_gpus]
    if not capabilities:
        return Support(False, "nvidia-smi does not tell the compute capability of the GPU")
    if min(capabilities) < _LEAST_CAPABILITY:
        return Support(False, f"a GPU of compute capability {min(capabilities):.1f} has no bfloat16, 8.0 has it")
    return Support(True, f"the GPU has compute capability {min(capabilities):.1f}")


def query_gpus(field):
    """Numbers that nvidia-smi gives for the GPUs that this process sees; none where it cannot be asked."""
    try:
        return [float(value) for value in _ask_nvidia(field)]
    except ValueError:
        return []


def name_gpus():
    """Names of the GPUs that this process sees, with their memory; none where nvidia-smi cannot be asked."""
    sizes = query_gpus("memory.total")
    return [f"{name} ({size / 1024:.0f} GiB)" for name, size in zip(_ask_nvidia("name"), sizes, strict=False)]


def _ask_nvidia(field):
    """A line of nvidia-smi for each GPU."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query.append(f"--id={visible}")
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
