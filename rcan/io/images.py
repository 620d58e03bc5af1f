"""Several images in one file: images that are alike are positions of one, unlike ones are read apart."""

import math
import re
from pathlib import Path
from typing import NamedTuple

_MADE_UP_TITLE = re.compile(r"(\w+:)?\d*")  # by a reader, such as Scene:0
_SAME_SIZE = 0.01  # relative: programs round voxel sizes
_LONGEST_TITLE = 60  # letters of it in the name of a file


class ImageFile(NamedTuple):
    """An image on disk: a file or folder, or one of several images in it.

    >>> str(ImageFile(Path("cells.lif"), 2, "Series 7"))
    'cells.lif, image 2 (Series 7)'
    """

    path: Path
    number: int | str | None = None  # from 1, or a title that nobody has looked up; None where there is one image
    title: str = ""

    @property
    def key(self):
        """The path alone, or where there are several images, what tells this one from the others."""
        return self.path if self.number is None else self

    @property
    def name(self):
        """The name of the file, with the number of the image."""
        return str(self._replace(path=self.path.name))

    @property
    def suffix_of_name(self):
        """What tells its files from those of the other images; a title that only counts is left out.

        >>> ImageFile(Path("cells.lif"), 2, "Series 7/after").suffix_of_name
        '_2_Series_7_after'
        >>> ImageFile(Path("cells.czi"), 2, "Scene:1").suffix_of_name
        '_2'
        """
        if self.number is None:
            return ""
        title = "" if _MADE_UP_TITLE.fullmatch(self.title) else self.title[:_LONGEST_TITLE]
        return "_" + re.sub(r"[^\w+-]+", "_", f"{self.number}_{title}").strip("_")

    def __str__(self):
        title = f" ({self.title})" if self.title else ""
        return str(self.path) if self.number is None else f"{self.path}, image {self.number}{title}"


class Contents(NamedTuple):
    """The images that a file or folder holds.

    `kinds` has shape, type and what else must be equal for images to be one array; of an image that cannot be read, the
    ValueError that says why. `axes` are those of the first image, in storage order, without those of length 1.
    """

    titles: list[str]
    kinds: list
    voxel_sizes: list[tuple]  # (z, y, x) in µm, None where not known
    axes: str

    def are_positions(self, axes):
        """Whether all are one array, along P; the user's `axes` say so by a P, or by one axis more."""
        are_alike = all(kind == self.kinds[0] for kind in self.kinds)
        are_alike &= all(_are_near(size, self.voxel_sizes[0]) for size in self.voxel_sizes)
        return are_alike and (axes is None or "P" in axes or axes[1:] == self.axes)

    def choose(self, path, number, axes):
        """Return the indices of the images to read, and a warning or None; `number` is that of an `ImageFile`."""
        chosen, warning = [0], None
        if number is not None:
            chosen = [find_image(path, self.titles, number)]
        elif len(self.titles) > 1 and self.are_positions(axes):
            chosen = list(range(len(self.titles)))
        elif len(self.titles) > 1:
            differ, way_out = " that differ", ""
            if self.are_positions(None):
                differ, way_out = "", " To read all, name the axes with P (positions) in front."
            warning = f"{path} holds {len(self.titles)} images{differ}: only the first is read.{way_out}"
        if isinstance(self.kinds[chosen[0]], ValueError):
            raise self.kinds[chosen[0]]
        return chosen, warning

    def list(self, path, axes):
        """The images as an `ImageFile` each; one of them all where they are positions, or the only one."""
        if len(self.titles) == 1 or self.are_positions(axes):
            return [ImageFile(path)]
        return [ImageFile(path, number, title) for number, title in enumerate(self.titles, 1)]


def find_image(path, titles, number):
    """Index of an image among titles by its number, from 1, or its title; a ValueError if there is none."""
    text = str(number)
    if text.isdecimal() and 1 <= int(text) <= len(titles):
        return int(text) - 1
    if titles.count(text) == 1:
        return titles.index(text)
    shown = ", ".join(f"{i} ({title})" if title else str(i) for i, title in enumerate(titles[:10], 1))
    more = f" and {len(titles) - 10} more" * (len(titles) > 10)
    raise ValueError(f"{path} has no image {text!r}: it holds {shown}{more}. Name one of them.")


def _are_near(one, other):
    """Whether two voxel sizes are the same but for rounding."""
    return all(a == b or (a and b and math.isclose(a, b, rel_tol=_SAME_SIZE)) for a, b in zip(one, other, strict=True))
