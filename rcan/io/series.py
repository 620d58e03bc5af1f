"""One image in many files: each holds a time point, plane, channel or position.

The numbers in the name of a file say which. A number belongs to the word before it: files such as
``volume--C00--T00003.tif`` lie along C and T. Where one number varies and no word names its axis, it counts time
points of volumes, or planes. The axes that a user names come first.
"""

import glob
import hashlib
import itertools
import json
import math
import os
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from rcan.io.paths import image_name, is_zarr, list_volumes
from rcan.regions import region_shape

SET_AXES = "PTCZ"  # in the order in which files are stored where the user names none
WORDS = {
    "P": "p pos position point s scene series site xy f field fov",
    "T": "t tp time timepoint frame",
    "C": "c ch chan channel w wave wavelength",
    "Z": "z slice plane section",
}
AXIS_OF_WORD = {word: axis for axis, words in WORDS.items() for word in words.split()}
LAST_WORD = re.compile(r"([A-Z]?[a-z]+|[A-Z]+)[^A-Za-z]*$")  # of the text before a number: T in "cellT_"


class SeriesSource:
    """Files of equal shape as one array, see `rcan.io.volume.Source`; calibrated as the first file is.

    `path` is a pattern such as ``cell_t*.tif``, or a folder. `axes`, or None, are those of the whole image: the
    letters in front of those of a file are axes of the set, in the order in which the numbers stand in the names,
    unless the names say which they are. ``open_source(path, axes)`` opens one file. An OSError or ValueError says that
    nothing matches, that a file is missing or differs, or that the axes of the set cannot be found.
    """

    def __init__(self, path, axes, open_source):
        self.path = path
        self._open_source = open_source
        names = _FileNames(path, _find_files(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the file is opened again below
            set_axes, columns = names.find_axes(axes, self._axes_of_file)
        lengths, paths = names.arrange(set_axes, columns)
        self._sources = self._open_all(paths, axes and "".join(axis for axis in axes if axis not in set_axes))
        first = self._sources[0]
        own = first.axes.replace("_", "")
        if twice := sorted(set(set_axes) & set(own)):
            raise ValueError(
                f"{path} has the axis {twice[0]} twice: {first.path} has the axes {own}, and the files lie along "
                f"{set_axes}. Name the axes of the whole, such as P{own} (--axes, raw_data_format or gt_data_format)."
            )
        self._set_shape = tuple(lengths)
        self.axes, self.shape = set_axes + first.axes, (*lengths, *first.shape)
        self.dtype, self.voxel_size, self.time_step = first.dtype, first.voxel_size, first.time_step
        self.channel_names = first.channel_names if "C" not in set_axes else None

    def _axes_of_file(self, path):
        """Return the axes of one file as its metadata name them."""
        return self._open_source(path).axes.replace("_", "")

    def _open_all(self, paths, axes):
        """Open all files, and check that they are alike."""
        sources = [self._open_source(paths[0], axes)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning is enough for all files
            sources += [self._open_source(path, axes) for path in paths[1:]]
        kinds = [(source.axes, source.shape, source.dtype) for source in sources]
        usual, _ = Counter(kinds).most_common(1)[0]
        for source, kind in zip(sources, kinds, strict=True):
            if kind != usual:
                (axes, shape, dtype), (others, usual_shape, usual_dtype) = kind, usual
                raise ValueError(
                    f"{source.path} is {shape} ({axes}) of {dtype}, but the other files of {self.path} are "
                    f"{usual_shape} ({others}) of {usual_dtype}: all must be alike. Remove it, or replace it."
                )
        return sources

    def read(self, region):
        """Read a part of the array from the files that it lies in, see `rcan.io.volume.Source`."""
        chosen, inside = region[: len(self._set_shape)], region[len(self._set_shape) :]
        numbers = np.arange(len(self._sources)).reshape(self._set_shape)[chosen]
        if numbers.size == 1:
            return self._sources[numbers.item()].read(inside).reshape(region_shape(region))
        part = np.empty(region_shape(region), self.dtype)
        for where in np.ndindex(numbers.shape):
            part[where] = self._sources[numbers[where]].read(inside)
        return part

    def signature(self):
        """Return a digest of the names and signatures of all files."""
        states = [[str(source.path), source.signature()] for source in self._sources]
        return {"files": hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest()}

    def close(self):
        """Free what has been decoded and kept of the files."""
        for source in self._sources:
            source.close()


def _find_files(path):
    """Return the images of a pattern or folder in natural order: 2 before 10."""
    if path.is_dir():
        found = list_volumes(path)
    else:
        found = [Path(name) for name in glob.glob(str(path))]
        found = [file for file in found if file.is_file() or is_zarr(file)]
    if not found:
        raise FileNotFoundError(f"{path} matches no file: a pattern such as cell_t*.tif must match one at least.")
    return sorted(found, key=lambda file: _split(str(file)))


def _split(text):
    """Split into text and numbers in turn, beginning and ending with text."""
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _axis_after(text):
    """Return the axis of the number that follows a text, None if its last word names no axis."""
    word = LAST_WORD.search(text)
    return word and AXIS_OF_WORD.get(word[1].lower())


def _without_channel_names(texts):
    """Return the texts of a name without what MetaMorph adds to the number of a channel: w1GFP_s2 is w1_s2."""
    stripped = (
        re.sub("^[A-Za-z]+(?=_|$)", "", text) if _axis_after(before) == "C" else text
        for before, text in itertools.pairwise(texts)
    )
    return [texts[0], *stripped]


class _FileNames:
    """The names of a set of files, and the numbers in them."""

    def __init__(self, path, paths):
        self.path, self.paths = path, paths
        folder = os.path.commonpath([file.parent for file in paths])
        parts = [_split((file.parent / image_name(file)).relative_to(folder).as_posix()) for file in paths]
        texts = {tuple(_without_channel_names(part[::2])) for part in parts}
        numbers = np.array([part[1::2] if len(texts) == 1 else [] for part in parts], object)
        varying = [i for i in range(numbers.shape[1]) if len({*numbers[:, i]}) > 1]
        self._values = numbers[:, varying]  # (file, number)
        self._named = [_axis_after(parts[0][2 * i]) for i in varying]  # axes of these numbers, or None

    def find_axes(self, axes, axes_of_file):
        """Return the axes of the set, and which varying number belongs to each; None if the order of the names counts.

        `axes` are those of the whole image that the user names, or None; `axes_of_file` returns those of a path.
        """
        if len(self.paths) == 1:
            return "", []
        named, count = self._named, self._values.shape[1]
        are_clear = count and None not in named and len(set(named)) == count
        if are_clear and set(named) <= set(axes or SET_AXES):
            found = "".join(axis for axis in axes or SET_AXES if axis in named)
            return found, [named.index(axis) for axis in found]
        if axes is not None:
            return self._split_axes(axes, axes_of_file, count)
        if count == 1:
            return "T" if "Z" in axes_of_file(self.paths[0]) else "Z", [0]
        reason = f"{count} numbers vary" if count else "no numbers alone vary"
        raise ValueError(
            f"{self.path} matches {len(self.paths)} files, but in their names {reason}: it cannot be told what each is "
            f"({self.paths[0].name}, {self.paths[1].name}, ...). Name them as in cell_t01_c2.tif, with p, t, c or z "
            "before a number, or name the axes of the whole, such as TZYX (--axes, raw_data_format or "
            "gt_data_format)."
        )

    def _split_axes(self, axes, axes_of_file, count):
        """Split the axes that the user names into those of the set and those of a file."""
        try:
            num_axes = len(axes) - len(axes_of_file(self.paths[0]))
        except ValueError:  # its metadata do not name them
            num_axes = max(1, count)
        num_axes = max(1, min(num_axes, max(1, count), len(axes) - 2))
        if num_axes not in (1, count):
            raise ValueError(
                f"{self.path} matches {len(self.paths)} files in whose names {count} numbers vary: the axes {axes!r} "
                f"name {num_axes} of them. Name one axis for each, or one for all."
            )
        return axes[:num_axes], [*range(count)] if num_axes == count else None

    def arrange(self, set_axes, columns):
        """Return the lengths of the axes of the set, and the paths in order; refuse gaps and doubles."""
        if columns is None:
            return [len(self.paths)], self.paths
        values = [sorted({*self._values[:, column]}) for column in columns]
        self._warn_of_gaps(set_axes, values)
        places = {}
        for file, row in zip(self.paths, self._values[:, columns].tolist(), strict=True):
            other = places.setdefault(tuple(row), file)
            if other is not file:
                raise ValueError(
                    f"{self.path}: {other} and {file} are both {_as_text(set_axes, row) or 'the same image'}. "
                    "Remove one, or match fewer files."
                )
        for place in itertools.product(*values):
            if place not in places:
                raise ValueError(
                    f"{self.path} lacks the file of {_as_text(set_axes, place)}: of {len(places)} files, "
                    f"{math.prod(map(len, values))} are needed for every combination. Add it, or match fewer files."
                )
        return [len(numbers) for numbers in values], [places[place] for place in itertools.product(*values)]

    def _warn_of_gaps(self, set_axes, values):
        """Warn of time points or planes that are not evenly spaced."""
        for axis, numbers in zip(set_axes, values, strict=True):
            steps = np.diff(numbers)
            if axis in "TZ" and steps.size and np.ptp(steps):
                i = int(np.argmax(steps))
                warnings.warn(
                    f"{self.path}: after {axis} {numbers[i]} follows {numbers[i + 1]}, while others are "
                    f"{steps.min()} apart. Files may be missing.",
                    stacklevel=6,
                )


def _as_text(axes, numbers):
    return ", ".join(f"{axis} {number}" for axis, number in zip(axes, numbers, strict=True))
