"""One image seen as blocks of fixed axes.

A `Source` knows a format: there are `TiffSource`, `ZarrSource`, `SeriesSource` and `VendorSource`. A `Volume` knows
blocks, frames and regions.
"""

import contextlib
import glob
from pathlib import Path
from typing import Protocol

import numpy as np

ALL_AXES = "PTZYXC"  # in the order in which frames are looped over and blocks are laid out
BLOCK_AXES = ("ZYXC", "ZYX", "YXC", "YX")
VENDOR_SUFFIXES = (".czi", ".nd2", ".lif", ".oir", ".ims", ".dv")  # read through bioio


def open_volume(path, *, axes=None, block_axes="ZYXC"):
    """Open an image file; only its metadata is read.

    Parameters
    ----------
    path : str or Path
        TIFF, BigTIFF, ImageJ hyperstack, OME-TIFF; the folder of an OME-Zarr image; a vendor's file. A pattern such
        as ``"cell_t*.tif"``, or a folder of images: one image, of which each file is a part (see
        `rcan.io.series`).
    axes : str, optional
        The stored axes in storage order, of the letters P (positions), T, C, Z, Y and X. Overrides the metadata.
        May name axes of length 1 that the file does not store.
    block_axes : {"ZYXC", "ZYX", "YXC", "YX"}
        Which axes one block has; the others are looped over as frames.

    Returns
    -------
    volume : Volume

    Raises
    ------
    OSError
        If the file is missing or may not be read.
    ValueError
        If it is no image of this kind, is damaged, or has axes that cannot be told.
    """
    path = Path(str(path))
    if axes is not None:
        axes = str(axes).upper()
        if not set("YX") <= set(axes) <= set(ALL_AXES) or len(set(axes)) < len(axes):
            raise ValueError(
                f"{path} cannot have the axes {axes!r}: name each stored axis once, in storage order, with "
                "the letters P (positions), T, C, Z, Y and X; Y and X are needed. Example: ZCYX."
            )
    source = source_of(path)(path, axes)
    return Volume(source, axes or source.axes.replace("_", ""), block_axes)


def source_of(path):
    """Find what reads a path; its library is imported with the first file, not with the package.

    Parameters
    ----------
    path : Path

    Returns
    -------
    source_class : type
        A `Source`, made of the path and of the axes that the user names or None.
    """
    if is_zarr(path):
        from rcan.io.zarr import ZarrSource

        return ZarrSource
    if path.is_dir() or (not path.exists() and glob.has_magic(str(path))):
        from rcan.io.series import SeriesSource

        return SeriesSource
    if path.suffix.lower() in VENDOR_SUFFIXES:
        from rcan.io.vendor import VendorSource

        return VendorSource
    from rcan.io.tiff import TiffSource

    return TiffSource


def is_zarr(path):
    """Whether a path is the folder of a Zarr group or array.

    Parameters
    ----------
    path : Path
    """
    return any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))


@contextlib.contextmanager
def one_error(path, kind, *, passing):
    """Turn whatever a reader finds wrong with a file into one ValueError that starts with the path.

    What is wrong with the disk stays what it is: such an error has a number.

    Parameters
    ----------
    path : Path
    kind : str
        Of image, for the message.
    passing : type or tuple of type
        Exceptions that stay what they are, too.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        is_ours = isinstance(error, ValueError) and str(error).startswith(str(path))
        if is_ours or getattr(error, "errno", None) is not None:
            raise
        reason = (str(error).splitlines() or [""])[0][:200].rstrip(".") or type(error).__name__
        reason = f"its metadata lack {reason}" if isinstance(error, KeyError) else reason
        raise ValueError(
            f"{path} cannot be read as a {kind} image: {reason}. Copy or export it again."
        ) from error


class Source(Protocol):
    """The stored array of an image, read by slices.

    Attributes
    ----------
    path : Path
    axes : str
        One letter for each stored dimension, `_` for a nameless one of length 1.
    shape : tuple of int
    dtype : numpy.dtype
    voxel_size, time_step
        As in `Volume`.
    channel_names : tuple of str, or None
        May be more or fewer than there are channels.
    """

    def read(self, slices):
        """Read a part of the array.

        Parameters
        ----------
        slices : dict
            Slice by axis, with start and stop; axes that are not named are read whole.

        Returns
        -------
        part : ndarray
            In the order of `axes`.
        """

    def state(self):
        """JSON that changes when the data on disk do."""

    def close(self):
        """Free what has been decoded and kept; the next read decodes it again."""


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

    Attributes
    ----------
    path : Path
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

    def __init__(self, source, axes, block_axes, bounds=None):
        if block_axes not in BLOCK_AXES:
            raise ValueError(f"block_axes={block_axes!r} is not one of {', '.join(BLOCK_AXES)}.")
        self._source = source
        stored = dict(zip(source.axes, source.shape, strict=True))
        sizes = {axis: stored.get(axis, 1) for axis in ALL_AXES}
        self._is_crop = bounds is not None
        self._bounds = bounds or {axis: (0, sizes[axis]) for axis in block_axes if axis != "C"}
        sizes |= {axis: stop - start for axis, (start, stop) in self._bounds.items()}
        looped = [axis for axis in "PTZC" if axis in axes and axis not in block_axes]
        self.path = source.path
        self.axes = axes
        self.sizes = {axis: sizes[axis] for axis in axes}
        self.dtype = source.dtype
        self.voxel_size = source.voxel_size
        names = source.channel_names  # those of another number name something else
        self.channel_names = names if names and len(names) == sizes["C"] else None
        self.time_step = source.time_step
        self.block_axes = block_axes
        num_channels = sizes["C"] if "C" in block_axes else 1
        self.shape = (*(sizes[axis] for axis in self._bounds), num_channels)
        self.frames = [
            dict(zip(looped, index, strict=True)) for index in np.ndindex(*(sizes[axis] for axis in looped))
        ]

    @property
    def identity(self):
        """What tells this view of a file from others, and from a later state of the file: JSON."""
        return {
            "path": str(self.path.absolute()),
            **self._source.state(),
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
        slices = {axis: slice(i, i + 1) for axis, i in (frame or self.frames[0]).items()}
        bounds = self._locate(region)
        slices |= {axis: slice(*limits) for axis, limits in bounds.items()}
        stored = self._source.read(slices)
        order = sorted(range(stored.ndim), key=lambda i: ALL_AXES.find(self._source.axes[i]))
        shape = (*(stop - start for start, stop in bounds.values()), self.shape[-1])
        block = stored.transpose(order).reshape(shape)  # looped and nameless axes have length 1
        with np.errstate(
            over="ignore"
        ):  # what no float32 can hold becomes infinite, which check_pair reports
            return np.array(block, dtype or self.dtype, order="C")

    def crop(self, region):
        """Return a view of a region: the same file, with the `shape` and `sizes` of the part.

        Parameters
        ----------
        region : tuple of slice
            One slice for each spatial block axis, in coordinates of this volume.

        Returns
        -------
        part : Volume
        """
        return Volume(self._source, self.axes, self.block_axes, self._locate(region))

    def with_block_axes(self, block_axes):
        """Return the same file seen with other block axes; a crop is refused, as its region would not fit."""
        if self._is_crop:
            raise ValueError(f"{self.path} is cropped: choose the block axes first, then crop.")
        return Volume(self._source, self.axes, block_axes)

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
