"""What has been restored into a folder: from which input, by which network, with which settings.

One line of JSON for each output, written when the output is whole and before it gets its name. A job that was killed
at any moment therefore knows of every file under its final name whether it is this job's, and goes on with the rest.
Lines are only ever appended, so that several processes may work into one folder.
"""

import contextlib
import json
import os
import time
from collections import defaultdict
from pathlib import Path

from rcan.atomic_io import file_signature

__all__ = ["Manifest"]

_NAME = "manifest.jsonl"
_KEYS = {"output", "state", "input", "input_state", "settings"}


class Manifest:
    """Reads and writes the list of a folder's restored images.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder):
        self.path = Path(folder) / _NAME
        self._entries = defaultdict(list)  # by name of the output; what stands last is newest
        self._num_read = 0  # bytes
        self._read()

    def _read(self):
        """Read what has been written since, by whichever process."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(self.path, "rb") as file:
            file.seek(self._num_read)
            lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
            self._num_read += len(lines)
            for line in lines.decode(errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # a line that a killed process began
                    entry = json.loads(line)
                    if isinstance(entry, dict) and entry.keys() >= _KEYS and isinstance(entry["output"], str):
                        self._entries[entry["output"]].append(entry)

    def _entry(self, output_path):
        """What is known of a file under the name of an output; None if it is not, or has changed since."""
        try:
            state = file_signature(output_path)
        except OSError:  # a link to nowhere
            return None
        self._read()
        entries = reversed(self._entries.get(Path(output_path).name, []))
        return next((entry for entry in entries if entry["state"] == state), None)

    def facts(self, output_path):
        """All that is known of an output as it is now.

        Parameters
        ----------
        output_path : path

        Returns
        -------
        facts : dict
            Empty where nothing is known.
        """
        return self._entry(output_path) or {}

    def status(self, raw_path, output_path, settings):
        """What a file under the name of an output is.

        Parameters
        ----------
        raw_path, output_path : path
        settings : dict
            JSON: all that decides about the values of the output.

        Returns
        -------
        status : {"absent", "done", "outdated", "other settings", "foreign"}
            Done: made of this input with these settings. Outdated: the same, but the input has changed since.
            Foreign: not made by a job, or changed since.
        """
        if not os.path.lexists(output_path):
            return "absent"
        entry = self._entry(output_path)
        if entry is None:
            return "foreign"
        if entry["settings"] != settings:
            return "other settings"
        same_input = entry["input"] == os.path.realpath(raw_path) and entry["input_state"] == file_signature(
            raw_path
        )
        return "done" if same_input else "outdated"

    def difference(self, output_path, settings):
        """How an output was made otherwise: the settings that differ, such as ``ensemble 8``.

        Parameters
        ----------
        output_path : path
        settings : dict

        Returns
        -------
        words : str
            Empty where nothing is known of the output.
        """
        entry = self._entry(output_path)
        if entry is None:
            return ""
        made = entry["settings"]
        words = ["another network"] if made.get("model") != settings["model"] else []
        keys = sorted((made.keys() | settings.keys()) - {"model"})
        words += [f"{key} {made.get(key, 'not given')}" for key in keys if made.get(key) != settings.get(key)]
        return ", ".join(words)

    def note(self, raw_path, input_state, output_path, present_path, settings):
        """Write down an output that is whole.

        Parameters
        ----------
        raw_path : path
        input_state : list
            As `rcan.atomic_io.file_signature`, before it was read.
        output_path, present_path : path
            Its final name, and the one that it still has.
        settings : dict
        """
        self._append(
            {
                "output": Path(output_path).name,
                "state": file_signature(present_path),
                "input": os.path.realpath(raw_path),
                "input_state": input_state,
                "settings": settings,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
        )

    def add(self, output_path, facts):
        """Add what is known about an output only afterwards, such as its seams.

        Parameters
        ----------
        output_path : path
        facts : dict
        """
        self._append({**self._entries[Path(output_path).name][-1], **facts})

    def _append(self, entry):
        line = json.dumps(entry) + "\n"
        with open(self.path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line  # after the line that a killed process began
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._read()
