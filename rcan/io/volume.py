"""One image on disk as blocks of fixed axes, and what all formats share.

A format offers a `Source` that reads its files, a `Sink` that writes them, or both. A `Volume` makes blocks,
frames and regions of a source. This module knows no format: `rcan.io.opening` knows them all.
"""

import contextlib
import errno
import itertools
import math
import os
import shutil
from typing import Protocol

import numpy as np

from rcan.atomic_io import file_signature
from rcan.failures import as_one_line
from rcan.regions import cut_into_slabs, region_shape, resolve_region

ALL_AXES = "PTZYXC"  # in the order in which frames are looped over and blocks are laid out
_MOST_FRAMES = 1_000_000  # of an image: 0.3 GB of their indices
BLOCK_AXES = ("ZYXC", "ZYX", "YXC", "YX")


class Source(Protocol):
    """What a format's reader offers: the stored array of an image, read by regions.

    Attributes
    ----------
    path : Path
    axes : str
        One letter for each stored dimension, `_` for a nameless one of length 1.
    shape : tuple of int
    dtype : numpy.dtype
        In native byte order.
    voxel_size, time_step
        As in `Volume`.
    channel_names : tuple of str, or None
        May be more or fewer than there are channels.
    edges : dict, optional
        Where the parts begin and end in which the whole image is read fastest, by spatial axis; along an axis without
        edges it is read one by one. Slabs where there is no such attribute.
    """

    def read(self, region):
        """Read the part of the array that a slice for each dimension, with start and stop, names."""

    def signature(self):
        """Return JSON that changes when the files change."""

    def close(self):
        """Free what has been decoded and kept; the next read decodes it again."""


class Sink(Protocol):
    """What a format's writer offers: a context manager that writes an image block by block.

    Attributes
    ----------
    path : Path
        The image gets this name when the `with` block ends without an exception.
    display_range : array of shape (2,) or (C, 2), or None
        Grey values that viewers show as black and white, of all channels or of each. To be set before the `with`
        block begins.
    notes : dict
        Text and lists of text by name, for the metadata. To be set before the `with` block begins.
    """

    def write(self, frame, region, block):
        """Write one block.

        Parameters
        ----------
        frame : dict
            Index by axis of what the block leaves out: P and T; Z of a block without Z; C is the first channel
            that the block's channels go to. 0 where not given.
        region : tuple of slice, or None
            Where the block goes, one slice for each of its spatial axes; None for everything.
        block : ndarray of shape (Z, Y, X, C) or (Y, X, C)
            Rounded and clipped where integers are stored.
        """

    def complete(self):
        """Finish the image, and return its present, hidden path; the end of the `with` block does it otherwise.

        None for an image in memory.
        """

    def __enter__(self): ...

    def __exit__(self, exception_type, *exception): ...


class Volume:
    """An image file, or a crop of one, that is read block by block.

    Many threads may read at once. The file itself is open only while `read` runs; `close` frees what has been
    decoded and kept, and reading again is possible.

    Parameters
    ----------
    source : Source
    axes : str
        Axes of the file in storage order.
    block_axes : {"ZYXC", "ZYX", "YXC", "YX"}
        Axes of one block.
    bounds : dict, optional
        Start and stop of a crop by spatial axis.
    image : int or str, optional
        Number or title of the image in a file that holds several.

    Attributes
    ----------
    path : Path
    image : int, str or None
    axes : str
        Storage order; axes of length 1 are left out unless the user named them.
    sizes : dict
        Length by axis.
    dtype : numpy.dtype
        As stored, in native byte order; uint8 for bilevel images.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm.
    channel_names : tuple of str, or None
    time_step : float or None
        Seconds.
    block_axes : str
    shape : tuple of int
        Shape of one block. The last axis holds the channels, of which there is 1 where C is not a block axis.
    frames : list of dict
        Index by looped axis, for example ``[{"T": 0}, {"T": 1}]``; ``[{}]`` where nothing is looped over. In
        the order P, T, Z, C however the file is stored, so that frames of two files correspond.
    """

    def __init__(self, source, axes, block_axes, bounds=None, image=None):
        if block_axes not in BLOCK_AXES:
            raise ValueError(f"block_axes={block_axes!r} is not one of {', '.join(BLOCK_AXES)}.")
        self._source = source
        stored = dict(zip(source.axes, source.shape, strict=True))
        sizes = {axis: stored.get(axis, 1) for axis in ALL_AXES}
        self._is_crop = bounds is not None
        self._bounds = bounds or {axis: (0, sizes[axis]) for axis in block_axes if axis != "C"}
        sizes |= {axis: stop - start for axis, (start, stop) in self._bounds.items()}
        looped = [axis for axis in "PTZC" if axis in axes and axis not in block_axes]
        num_frames = math.prod(sizes[axis] for axis in looped)
        if num_frames > _MOST_FRAMES:
            raise ValueError(
                f"{source.path} has {num_frames:,} frames ({', '.join(f'{axis} {sizes[axis]:,}' for axis in looped)}), "
                f"at most {_MOST_FRAMES:,} are read of one image. If that is right, divide it."
            )
        self.path, self.image = source.path, image
        self.axes = axes
        self.sizes = {axis: sizes[axis] for axis in axes}
        self.dtype = source.dtype
        self.voxel_size = source.voxel_size
        names = source.channel_names  # those of another number name something else
        self.channel_names = tuple(map(as_one_line, names)) if names and len(names) == sizes["C"] else None
        self.time_step = source.time_step
        self.block_axes = block_axes
        num_channels = sizes["C"] if "C" in block_axes else 1
        self.shape = (*(sizes[axis] for axis in self._bounds), num_channels)
        self.frames = [dict(zip(looped, index, strict=True)) for index in np.ndindex(*(sizes[axis] for axis in looped))]

    def signature(self):
        """Return JSON that differs for other views of the file, and after a change of the file."""
        return {
            "path": str(self.path.absolute()),
            **self._source.signature(),
            **({} if self.image is None else {"image": self.image}),
            "axes": [self.axes, self.block_axes],
            "bounds": self._bounds,
        }

    def read(self, frame=None, region=None, *, dtype=np.float32):
        """Read one block, or a region of it.

        Parameters
        ----------
        frame : dict, optional
            One of `frames`; the first if not given.
        region : tuple of slice, optional
            One slice for each spatial block axis; everything if not given.
        dtype : dtype, optional
            Of the block; None keeps the file's.

        Returns
        -------
        block : ndarray of shape (Z, Y, X, C) or (Y, X, C)
            A new contiguous array.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        bounds = self._locate(region)
        slices = {axis: slice(i, i + 1) for axis, i in (frame or self.frames[0]).items()}
        slices |= {axis: slice(*limits) for axis, limits in bounds.items()}
        dimensions = zip(self._source.axes, self._source.shape, strict=True)
        stored = self._source.read(tuple(slices.get(axis, slice(0, size)) for axis, size in dimensions))
        order = sorted(range(stored.ndim), key=lambda i: ALL_AXES.find(self._source.axes[i]))
        shape = (*(stop - start for start, stop in bounds.values()), self.shape[-1])
        block = stored.transpose(order).reshape(shape)  # looped and nameless axes have length 1
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which checks of the image report
            return np.array(block, dtype or self.dtype, order="C")

    def cut(self, num_voxels):
        """Cut a block into regions in which all of it is read fastest: slabs of at most `num_voxels`, as a rule."""
        edges = getattr(self._source, "edges", None)
        if edges is None or self._is_crop:
            return cut_into_slabs(self.shape[:-1], num_voxels)
        along = [edges.get(axis, range(stop + 1)) for axis, (_, stop) in self._bounds.items()]
        regions = itertools.product(*([slice(*pair) for pair in itertools.pairwise(side)] for side in along))
        longest = self.shape.index(max(self.shape[:-1]))
        return sorted(regions, key=lambda region: region[longest].start)  # as tiles are visited

    @property
    def start(self):
        """Where in the file a block begins, on each spatial axis: 0 but for a crop."""
        return tuple(start for start, _ in self._bounds.values())

    def crop(self, region):
        """Return a view of a region, one slice for each spatial block axis: the same file, smaller."""
        return Volume(self._source, self.axes, self.block_axes, self._locate(region), self.image)

    def with_block_axes(self, block_axes):
        """Return the same file in other blocks; a crop is refused, as its region would not fit."""
        if self._is_crop:
            raise ValueError(f"{self.path} is cropped: choose the block axes first, then crop.")
        return Volume(self._source, self.axes, block_axes, image=self.image)

    @property
    def source(self):
        """What the blocks are read from, a `Source`."""
        return self._source

    def of_source(self, source):
        """The same view of another source of the same axes and sizes."""
        return Volume(source, self.axes, self.block_axes, self._bounds if self._is_crop else None, self.image)

    def close(self):
        """Free what has been decoded and kept, also of crops and other views of the same file."""
        self._source.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"<Volume {self.path.name} {self.axes} {self.dtype}, {len(self.frames)} x {self.shape}>"

    def _locate(self, region):
        """Start and stop in the file, by spatial axis, of a region of this volume."""
        if region is None:
            return self._bounds
        located = {}
        for (axis, (start, stop)), part in zip(self._bounds.items(), region, strict=True):
            first, last, _ = part.indices(stop - start)
            located[axis] = (start + first, start + last)
        return located


def are_valid_axes(axes):
    """Whether axes have each letter at most once, Y and X among them, and none but P, T, C, Z, Y and X."""
    return set("YX") <= set(axes) <= set(ALL_AXES) and len(set(axes)) == len(axes)


def native_dtype(stored):
    """Return the type in which values are read: native byte order, uint8 for bilevel images."""
    return np.dtype(np.uint8 if stored.kind == "b" else stored.newbyteorder("="))


def place_block(path, frame, region, block, sizes):
    """Return a block as (Z, Y, X, C), and its region in an image of these sizes by axis; see `Sink.write`."""
    first = frame.get("C", 0)
    region = (*(region or (slice(None),) * (block.ndim - 1)), slice(first, first + block.shape[-1]))
    region = resolve_region(region, [sizes[axis] for axis in "ZYXC"[-block.ndim :]])
    target = region_shape(region)
    if target != block.shape:
        raise ValueError(f"{path}: a block of {block.shape} does not fit the region {target}.")
    if block.ndim == 3:
        plane = frame.get("Z", 0)
        block, region = block[np.newaxis], (slice(plane, plane + 1), *region)
    return block, region


def check_space(path, num_bytes, *, least_share=1.0):
    """Refuse to write an image where less than a share of its bytes is free on the disk."""
    free = shutil.disk_usage(path.absolute().parent).free
    if free < least_share * num_bytes:
        needed = f"{num_bytes / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free"
        needed = needed if least_share == 1 else f"up to {needed}"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")


class FileStates:
    """Size and time of modification of the files of an image, by which a later change is noticed."""

    def __init__(self, path):
        self._path = path  # of the image, for messages
        self._states = {}

    def note(self, file):
        """Note a file as it is now, unless it has been noted before; return its size and time."""
        if file not in self._states:
            self._states[file] = file_signature(file)
        return self._states[file]

    def check(self, file):
        """Refuse to read a file that has changed since it was noted."""
        if file_signature(file) != self._states[file]:
            raise ValueError(f"{self._path} has changed since it was opened. Open it again.")


@contextlib.contextmanager
def report_damage(path, kind, *, passing):
    """Turn any error that a reader of this kind of image raises into one ValueError that starts with the path.

    Errors of the disk, which have a number, and exceptions of the types in `passing` stay what they are.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        is_ours = isinstance(error, ValueError) and str(error).startswith(str(path))
        if is_ours or getattr(error, "errno", None) is not None:
            raise
        reason = as_one_line((str(error).splitlines() or [""])[0][:200]).rstrip(".") or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"its metadata lack {reason}"
        elif isinstance(error, (AttributeError, TypeError)):  # said of Python's objects, not of the image
            reason = "its metadata are not of the form that they should have"
        raise ValueError(f"{path} cannot be read as a {kind} image: {reason}. Copy or export it again.") from error
