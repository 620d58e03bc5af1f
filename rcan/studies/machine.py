"""What this machine has, and what it lacks, in words: what `rcan doctor` says."""

import platform
import re
import shutil
import sys
from importlib import metadata

import psutil

from rcan import __version__
from rcan.failures import DISTRIBUTION, as_one_line, install_command
from rcan.hardware import find_bfloat16, name_gpus
from rcan.memory import free_memory

__all__ = ["describe_devices", "describe_machine", "describe_versions"]

_PACKAGES = ("numpy", "tifffile", "scipy")
_EXTRA = re.compile(r"extra\s*==\s*[\"'](\w+)[\"']")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NO_FEATURE = ("test", "dev", "docs", "lint", "benchmark", "gpu")  # extras that are for developers, or said otherwise


def describe_versions():
    """Versions of this package, of Python, TensorFlow and Keras, in a line; nothing is imported for it."""
    versions = {"Python": platform.python_version(), "TensorFlow": _version("tensorflow"), "Keras": _version("keras")}
    return f"rcan {__version__} ({', '.join(f'{name} {version}' for name, version in versions.items())})"


def describe_devices():
    """What there is to compute on, in a line, as the operating system and the driver say."""
    gpus = name_gpus()
    return f"Devices: CPU with {psutil.cpu_count()} cores, {', '.join(gpus) if gpus else 'no NVIDIA GPU'}"


def describe_machine():
    """Lines about the machine, its GPU, its memory, and the parts of the package that are installed."""
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(".")
    support = find_bfloat16(on_gpu=False)
    return [
        describe_versions(),
        f"System: {platform.platform()}, {sys.executable}",
        ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        f"Memory: {_as_gb(free_memory())} of {_as_gb(memory.total)} are free; {psutil.cpu_count()} CPU cores",
        f"Disk: {_as_gb(disk.free)} of {_as_gb(disk.total)} are free in this folder",
        *_describe_gpus(),
        f"bfloat16 on the CPU: {'yes' if support.is_fast else 'no'}, {support.reason}",
        *_describe_extras(),
    ]


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _as_gb(num_bytes):
    return f"{num_bytes / 1e9:.1f} GB"


def _describe_gpus():
    """Which GPUs TensorFlow uses, or why it uses none."""
    names = name_gpus()
    try:
        from rcan.restoration.engine import find_devices

        found = [device for device in find_devices("auto") if not device.startswith("cpu")]
    except Exception as failure:  # whatever is wrong with an installation of TensorFlow
        return [f"TensorFlow cannot be imported ({as_one_line(failure)}): install it again."]
    if found:
        support = find_bfloat16(on_gpu=True)
        bfloat16 = f"bfloat16: {'yes' if support.is_fast else 'no'}, {support.reason}"
        return [f"GPU: {', '.join(names) or ', '.join(found)}; {bfloat16}"]
    if names:
        return [
            f"GPU: {', '.join(names)}, but TensorFlow does not find it. Install its libraries with "
            f"`{install_command('gpu')}`, and start rcan from that environment."
        ]
    if sys.platform == "win32":
        return ["GPU: none. TensorFlow uses GPUs on Linux only: install rcan in WSL2."]
    return ["GPU: none (nvidia-smi finds no NVIDIA GPU). Training works on the CPU, slower."]


def _describe_extras():
    """Which optional parts are installed, and how the others are."""
    needed = {}
    try:
        requirements = metadata.requires(DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:  # run from its folder, or installed under an earlier name
        return [f"{DISTRIBUTION} is not installed: `python -m pip install -e .` in its folder installs it."]
    for requirement in requirements:
        if (extra := _EXTRA.search(requirement)) and extra[1] not in _NO_FEATURE:
            needed.setdefault(extra[1], []).append(_NAME.match(requirement)[0])
    lines = []
    for extra, packages in needed.items():
        missing = [package for package in packages if _version(package) == "not installed"]
        if missing:
            lines.append(f"{extra}: not installed; `{install_command(extra)}` installs it")
        else:
            lines.append(f"{extra}: {', '.join(f'{package} {_version(package)}' for package in packages)}")
    return lines
