"""What has been restored into a folder: from which input, by which network, with which settings.

`manifest.jsonl` has a line of JSON for each output, written when the output is complete and before it gets its name.
A job that was killed at any moment therefore knows of every file under its final name whether it is this job's, and
goes on with the rest. Lines are only ever appended, so that several processes may work into one folder.
"""

import json
import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from pydantic import ConfigDict, Field

from rcan.atomic_io import file_signature, report_errors_as
from rcan.records import Record

__all__ = ["Manifest"]

_NAME = "manifest.jsonl"
_KEYS_OF_IMAGES = ("format", "ground_truth", "image")  # settings that the images of a call may differ in


class _Entry(Record):
    """A line: what is known of an output. What else stands there is kept, too."""

    model_config = ConfigDict(extra="allow")

    output: str
    state: list[int]  # a file signature
    input: str
    input_state: list[int]
    settings: dict
    time: str = ""
    trained_range: str | None = None
    reasons: list[str] = Field(default_factory=list)
    scores: dict[str, float | None] | None = None


class Manifest:
    """Reads and appends the entries of a folder's restored images."""

    def __init__(self, folder):
        self.path = Path(folder) / _NAME
        self._entries = defaultdict(list)  # by name of the output, the newest last
        self._num_read = 0  # bytes
        self._read()

    def _read(self):
        """Read what has been written since, by whichever process."""
        with suppress(FileNotFoundError, NotADirectoryError), open(self.path, "rb") as file:
            file.seek(self._num_read)
            lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._num_read += len(lines)
            for line in lines.decode(errors="replace").splitlines():
                with suppress(ValueError, RecursionError):  # a line that a killed process began, or that was changed
                    entry = json.loads(line)
                    _Entry.read(entry, self.path)
                    self._entries[entry["output"]].append(entry)

    def entry(self, output_path):
        """The entry of an output as it is on disk now; empty if there is none, or it has changed since."""
        try:
            signature = file_signature(output_path)
        except OSError:  # a link to nowhere
            return {}
        self._read()
        entries = reversed(self._entries.get(Path(output_path).name, []))
        return next((entry for entry in entries if entry["state"] == signature), {})

    def status(self, raw_path, output_path, settings):
        """Return what there is under the name of an output, for a job with these settings.

        "absent"; "done", made of this input with these settings; "outdated", the same, but the input has changed
        since; made with "other settings"; "foreign", not made by a job, or changed since.
        """
        if not os.path.lexists(output_path):
            return "absent"
        entry = self.entry(output_path)
        if not entry:
            return "foreign"
        if not _agree(entry["settings"], settings):
            return "other settings"
        same_path = entry["input"] == os.path.realpath(raw_path)
        return "done" if same_path and entry["input_state"] == file_signature(raw_path) else "outdated"

    def difference(self, output_path, settings):
        """The settings that an output was made with otherwise, such as ``ensemble 8``; empty where not known."""
        entry = self.entry(output_path)
        if not entry:
            return ""
        earlier = _with_precision(entry["settings"])
        settings = {"precision": earlier["precision"], **settings}
        differences = ["another network"] if earlier.get("model") != settings["model"] else []
        changed = [key for key in sorted({*earlier, *settings} - {"model"}) if earlier.get(key) != settings.get(key)]
        return ", ".join([*differences, *(f"{key} {_shown(earlier.get(key, 'not given'))}" for key in changed)])

    def newest_precision(self, settings):
        """Precision of the newest output that was made with the same settings; None if there is none."""

        def of_call(each):
            """Settings of the call alone, without those that differ by image."""
            return {key: value for key, value in each.items() if key not in ("precision", *_KEYS_OF_IMAGES)}

        entries = (entry for entries in self._entries.values() for entry in entries)
        made = [entry for entry in entries if of_call(entry["settings"]) == of_call(settings)]
        newest = max(made, key=lambda entry: entry.get("time", ""), default=None)
        return newest and _with_precision(newest["settings"])["precision"]

    def append(self, origin, output_path, present_path, facts=()):
        """Add an output that is complete and still has its partial name, `present_path`.

        `origin` has the input, its signature before it was read, and the settings; `facts` are what else is known of
        the output, such as its seams.
        """
        entry = {
            "output": Path(output_path).name,
            "state": file_signature(present_path),
            **origin,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            **dict(facts),
        }
        line = json.dumps(entry) + "\n"
        with report_errors_as(self.path), open(self.path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line  # after the line that a killed process began
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._read()


def _with_precision(made):
    """Settings of an entry; version 0.1.0 computed in float32 alone and did not say so."""
    return {"precision": "float32", **made}


def _agree(made, settings):
    """Whether an output was made with settings; where these leave the precision open, with any."""
    made = _with_precision(made)
    return made == {"precision": made["precision"], **settings}


def _shown(value):
    return f"{value:g}" if isinstance(value, float) else value
