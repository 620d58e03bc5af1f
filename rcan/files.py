"""Files that appear whole or not at all."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

__all__ = ["naming", "read_json", "reserve", "whole_file", "write_json"]

_ZEROS = 2**24  # bytes written at a time


@contextmanager
def naming(path):
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
def whole_file(path):
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
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        with naming(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path, values):
    """Write a dictionary as readable JSON.

    Parameters
    ----------
    path : path
    values : dict
        What is not JSON (paths, say) is written as text.
    """
    with whole_file(path) as partial:
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


def reserve(stream, start, num_bytes):
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
