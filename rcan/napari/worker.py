"""Restoring a layer in a process of its own: ``python -m rcan.napari.worker``, started by `rcan.napari.restore`.

TensorFlow and the drivers that napari draws with do not bear each other: on Linux, Mesa and TensorFlow bring their own
LLVM, and a process that loads both may crash. So napari has no TensorFlow in it. This process asks for the parts of the
image that it reads, and hands over those that it has restored; napari survives whatever happens here.

Messages are pickled tuples, on standard input and output: a word, and facts. `Link` is one end of them.
"""

import os
import pickle
import sys
import threading
from pathlib import Path

from rcan.cli import plain_warnings
from rcan.failures import describe_failure
from rcan.io.opening import create_volume
from rcan.io.volume import Volume
from rcan.progress import observed_progress
from rcan.restoration.options import RestoreOptions

__all__ = ["FACTS", "Link", "main"]

FACTS = ("path", "axes", "shape", "dtype", "voxel_size", "time_step", "channel_names", "edges")  # of a `Source`


class Link:
    """One end of a connection between two processes; several threads may use it."""

    def __init__(self, reading, writing):
        self._reading, self._writing = reading, writing
        self._telling, self._asking = threading.Lock(), threading.Lock()

    def tell(self, word, *facts):
        """Send a message."""
        with self._telling:
            pickle.dump((word, *facts), self._writing, protocol=5)
            self._writing.flush()

    def hear(self):
        """Wait for a message: its word and facts. An EOFError says that the other process is gone."""
        try:
            return pickle.load(self._reading)
        except pickle.UnpicklingError as failure:  # it was cut off
            raise EOFError("the other process has ended within a message") from failure

    def ask(self, word, *facts):
        """Send a message, and wait for its answer; a ValueError says why there is none."""
        with self._asking:
            self.tell(word, *facts)
            answer, fact = self.hear()
        if answer == "failed":
            raise ValueError(fact)
        return fact


class _RemoteSource:
    """The array of a layer in the other process, a `rcan.io.volume.Source`; `facts` are those of `FACTS`."""

    def __init__(self, link, facts):
        self._link = link
        self.__dict__.update(facts)

    def read(self, region):
        """Ask for a part of the array."""
        return self._link.ask("read", region)

    def signature(self):
        """Return what makes the array another one: there is no file that could change."""
        return {"layer": str(self.path)}

    def close(self):
        """Keep the array: it is the other process's."""


class _RemoteSink:
    """An array in the other process that blocks are written to, a `rcan.io.volume.Sink`."""

    def __init__(self, link, path, axes, sizes, dtype):
        self.path, self.display_range, self.notes = path, None, {}
        self._link, self._layout = link, (axes, sizes, dtype)

    def __enter__(self):
        self._link.ask("create", str(self.path), *self._layout)
        return self

    def __exit__(self, *exception):
        pass

    def write(self, frame, region, block):
        """Send one block."""
        self._link.tell("write", str(self.path), frame, region, block)

    def complete(self):
        """Return None: there is no file."""


def main(link):
    """Do what the first message asks for: options, facts of the image, and where it is written to, None for memory."""
    with plain_warnings(lambda line: link.tell("warning", line)):
        try:
            with observed_progress(lambda *facts: link.tell("progress", *facts)):
                link.tell("done", _restore(link, *link.hear()))
        except EOFError:  # nobody waits any more
            return
        except Exception as failure:
            link.tell("failed", describe_failure(failure, where="a call of rcan apply on a file may tell more"))


def _restore(link, values, facts, output, spread_path):
    """Restore the image; returns what is known of the result."""
    source = _RemoteSource(link, facts)
    options = RestoreOptions.checked({**values, "input": source.path, "output": output or source.path})
    link.tell("progress", "Loading the network", 0, 1)
    from rcan.restoration.setup import load_restorer

    restorer = load_restorer(options)
    link.tell("progress", f"Looking at {source.path}", 0, 1)
    place = {"label": f"Restoring {source.path}", "spread_path": spread_path}
    if output:
        place |= {"file_format": "zarr", "create": create_volume}
    else:
        place["create"] = lambda path, axes, sizes, dtype, **_: _RemoteSink(link, path, axes, sizes, dtype)
    with restorer.open(Volume(source, source.axes, "ZYXC")) as task:
        link.tell("verdict", task.verdict and (task.verdict.domain_status, list(task.verdict.reasons)))
        with task.restore(output or Path("restored"), **place) as report:
            pass  # nothing is left to do before the files get their names
        spatial = task.raw.volume.block_axes.replace("C", "")
    return {
        "factors": dict(zip(spatial, restorer.tiled.engine.factors, strict=True)),
        "display_ranges": [file.display_range for file in report.files],
    }


if __name__ == "__main__":
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    main(Link(sys.stdin.buffer, messages))
