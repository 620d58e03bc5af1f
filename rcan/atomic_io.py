"""Files that appear complete or not at all: written under a hidden name, then renamed."""

import csv
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
    "atomic_folder",
    "file_signature",
    "list_versions",
    "other_writers",
    "partial_path",
    "preallocate",
    "printable_name",
    "read_json",
    "read_table",
    "remove_stale_partials",
    "replace_folder",
    "report_errors_as",
    "write_json",
    "write_table",
]

_LONGEST_NAME = 150  # bytes of an image's name in that of its partial file: a name has at most 255
_ZEROS = 2**24  # bytes written at a time


@contextmanager
def report_errors_as(path):
    """Let an error of the system, such as a full disk, name the path that a user knows."""
    try:
        yield
    except OSError as failure:
        if failure.filename and ".partial-" not in str(failure.filename):
            raise  # of another file, which it names
        raise type(failure)(failure.errno, failure.strerror or str(failure), str(path)) from None


@contextmanager
def atomic_file(path):
    """Write a file under another name, and rename it when it is complete; an older file of its name is replaced.

    Yields the path to write to: in the same folder, with the same suffix.
    """
    path = Path(path)
    partial = path.with_name(f".{_shorten(path.stem)}.partial-{_process_name()}{path.suffix}")
    try:
        with report_errors_as(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path):
    """Write a folder under another name, and rename it when it is complete; an older folder of its name is replaced.

    Yields the path of the folder to make, in the same folder.
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        with report_errors_as(path):
            yield partial
            replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial, path):
    """Give a complete folder its name; an older folder of that name goes."""
    replaced = partial.with_name(f"{partial.name}.replaced")
    if not os.path.lexists(path):
        os.rename(partial, path)
        return
    os.rename(path, replaced)
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(replaced, path)
        raise
    if replaced.is_symlink():
        replaced.unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def partial_path(path):
    """Path at which this process writes an image until it is complete: hidden, beside it."""
    return path.with_name(f".{_shorten(path.name)}.partial-{_process_name()}")


def other_writers(path):
    """Partial files of other processes that write the same image now."""
    own = partial_path(path)
    pattern = glob.escape(own.name.rpartition(".partial-")[0]) + ".partial-*"
    return [partial for partial in own.parent.glob(pattern) if partial.name != own.name]


def _shorten(name):
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_NAME else encoded[:_LONGEST_NAME].decode(errors="ignore")


def _process_name():
    return f"{platform.node()}-{os.getpid()}"


def remove_stale_partials(folder):
    """Remove the partial files in a folder that killed processes of this machine have left.

    An image that such a process was about to replace gets its name back if it has none.
    """
    for partial in folder.glob(f".*.partial-{platform.node()}-*"):
        name, _, process = partial.name[1:].rpartition(".partial-")
        pid, _, kind = process.rpartition("-")[2].partition(".")
        if not pid.isdecimal() or int(pid) == os.getpid() or psutil.pid_exists(int(pid)):
            continue
        if kind == "replaced" and not os.path.lexists(folder / name):
            os.rename(partial, folder / name)
        elif partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def preallocate(stream, start, num_bytes):
    """Reserve disk space for zeros in a file, which may end before them; an OSError if there is no room.

    Without it, writing to a memory map of the file crashes when the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), start, num_bytes)
        return
    stream.seek(start)  # macOS, Windows
    for written in range(0, num_bytes, _ZEROS):
        stream.write(bytes(min(_ZEROS, num_bytes - written)))
    stream.flush()


def file_signature(path):
    """Numbers that change when an image on disk, a file or the folder of an OME-Zarr image, changes.

    Size in bytes and time of modification in ns; for a folder the sum, the latest time, and the number of files.
    """
    path = Path(path)
    if not path.is_dir():
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    stats = [file.stat() for file in path.rglob("*") if file.is_file()]
    latest = max((stat.st_mtime_ns for stat in stats), default=0)
    return [sum(stat.st_size for stat in stats), latest, len(stats)]


def printable_name(path):
    """Name of a file as text that can be written everywhere: bytes that are no Unicode become escapes."""
    return Path(path).name.encode(errors="backslashreplace").decode()


def list_versions(*packages):
    """Versions of this package, of Python and of `packages`, by name."""
    return {"rcan": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def write_json(path, values):
    """Write a dictionary as readable JSON; what JSON does not know, such as a path, becomes text."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(path):
    """Read what `write_json` has written; a ValueError if it is no JSON object."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as failure:
        raise ValueError(f"{path} is not JSON ({failure}): remove it, or restore it from a copy.") from failure
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object, {{...}}: remove it, or restore it from a copy.")
    return values


def write_table(path, rows, columns=None):
    """Write dictionaries as CSV, one in a line; the keys of the first are the columns where these are not given."""
    with atomic_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def read_table(path, columns=()):
    """Read the rows of a CSV file whose cells are all numbers, as `write_table` has written it.

    A ValueError says that it is no such file, or that one of the `columns` is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file, strict=True)]
    except (TypeError, ValueError, csv.Error) as failure:  # a TypeError of rows with more or fewer cells
        raise ValueError(
            f"{path} is no table of numbers ({failure}): restore it from a copy, or remove it."
        ) from failure
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}: restore it from a copy, or remove it.")
    return rows
