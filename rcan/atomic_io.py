"""Files that appear whole or not at all."""

import glob
import json
import os
import platform
import shutil
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

from rcan import __version__

__all__ = [
    "atomic_file",
    "file_signature",
    "list_versions",
    "other_writers",
    "partial_path",
    "preallocate",
    "printable_name",
    "read_json",
    "remove_stale_partials",
    "report_errors_as",
    "write_json",
]

_LONGEST_NAME = 150  # bytes of an image's name in that of its partial file: a name has at most 255
_ZEROS = 2**24  # bytes written at a time


@contextmanager
def report_errors_as(path):
    """Give an error of the system, such as a full disk, the path that a user knows.

    Parameters
    ----------
    path : path
    """
    try:
        yield
    except OSError as failure:
        if failure.filename and ".partial-" not in str(failure.filename):
            raise  # of another file, which it names
        raise type(failure)(failure.errno, failure.strerror or str(failure), str(path)) from None


@contextmanager
def atomic_file(path):
    """Write a file under another name, and give it its own only when it is whole.

    Parameters
    ----------
    path : path
        Final name; replaced if it exists.

    Yields
    ------
    partial : Path
        Name to write to, in the same folder and with the same suffix.
    """
    path = Path(path)
    partial = path.with_name(f".{_shortened(path.stem)}.partial-{_owner()}{path.suffix}")
    try:
        with report_errors_as(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path):
    """Name under which an image is written until it is whole: hidden, beside it, and of this process alone.

    Parameters
    ----------
    path : Path

    Returns
    -------
    partial : Path
    """
    return path.with_name(f".{_shortened(path.name)}.partial-{_owner()}")


def _shortened(name):
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def other_writers(path):
    """Partial files of other processes that write the same image now.

    Parameters
    ----------
    path : Path

    Returns
    -------
    partials : list of Path
    """
    own = partial_path(path)
    pattern = glob.escape(own.name.rpartition(".partial-")[0]) + ".partial-*"
    return [partial for partial in own.parent.glob(pattern) if partial.name != own.name]


def _owner():
    return f"{platform.node()}-{os.getpid()}"


def remove_stale_partials(folder):
    """Clear away what processes of this machine that were killed have left in a folder.

    What they were writing is removed; an image that was about to be replaced gets its name back if it has none.

    Parameters
    ----------
    folder : Path
    """
    for partial in folder.glob(f".*.partial-{platform.node()}-*"):
        name, _, owner = partial.name[1:].rpartition(".partial-")
        pid, _, kind = owner.rpartition("-")[2].partition(".")
        if not pid.isdecimal() or int(pid) == os.getpid() or psutil.pid_exists(int(pid)):
            continue
        if kind == "replaced" and not os.path.lexists(folder / name):
            os.rename(partial, folder / name)
        elif partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def printable_name(path):
    """Name of a file as text that can be written everywhere: bytes that are no Unicode become escapes.

    Parameters
    ----------
    path : Path

    Returns
    -------
    name : str
    """
    return path.name.encode(errors="backslashreplace").decode()


def file_signature(path):
    """What changes when the data of an image on disk change.

    Parameters
    ----------
    path : path
        A file, or the folder of an OME-Zarr image.

    Returns
    -------
    state : list of int
        Size and time of modification in nanoseconds; of a folder the sum over its files, the latest time, and their
        number.
    """
    path = Path(path)
    if not path.is_dir():
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    stats = [file.stat() for file in path.rglob("*") if file.is_file()]
    latest = max((stat.st_mtime_ns for stat in stats), default=0)
    return [sum(stat.st_size for stat in stats), latest, len(stats)]


def list_versions(*packages):
    """Versions of this package, of Python and of others, for files that say how they came about.

    Parameters
    ----------
    *packages : str

    Returns
    -------
    versions : dict of str to str
    """
    return {
        "rcan": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def write_json(path, values):
    """Write a dictionary as readable JSON.

    Parameters
    ----------
    path : path
    values : dict
        What is not JSON (paths, say) is written as text.
    """
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(path):
    """Read what `write_json` has written.

    Parameters
    ----------
    path : path

    Returns
    -------
    values : dict

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as failure:
        raise ValueError(
            f"{path} is not JSON ({failure}): remove it, or restore it from a copy."
        ) from failure


def preallocate(stream, start, num_bytes):
    """Give zeros in a file their place on the disk: a memory map without it ends in a crash when the disk is full.

    Parameters
    ----------
    stream : file
        Open for writing.
    start, num_bytes : int
        Where the zeros begin, and how many they are; the file may end before.

    Raises
    ------
    OSError
        If there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), start, num_bytes)
        return
    stream.seek(start)  # macOS, Windows
    for written in range(0, num_bytes, _ZEROS):
        stream.write(bytes(min(_ZEROS, num_bytes - written)))
    stream.flush()
