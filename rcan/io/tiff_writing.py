"""Images written block by block, complete or not at all.

The pixels go to their place in a file that has been reserved on the disk: nothing of it stays in memory, and a
memory map would grow with the volume.
"""

import errno
import math
import os
import shutil
import uuid
import warnings
from pathlib import Path

import numpy as np

from rcan.atomic_io import partial_path, preallocate, report_errors_as

STORED_AXES = "PTZCYX"  # ImageJ demands TZCYX, OME-TIFF takes it as well; positions are images of their own
ZARR_VERSIONS = {"zarr": "0.5", "zarr-0.4": "0.4"}  # of the specification of OME-Zarr
DTYPES = {"imagej": ("uint8", "uint16", "float32")}
DTYPES |= dict.fromkeys(
    ("ome", *ZARR_VERSIONS),
    ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"),
)
MAX_CLASSIC_BYTES = 2**32 - 2**25  # offsets have 32 bits; some room is left for the metadata
PAGE_BYTES = 256  # of the metadata of one plane, at most
CONVERTED_VALUES = 2**22  # made integers at a time, 32 MiB in float64


def create_volume(
    path,
    *,
    axes,
    sizes,
    dtype,
    voxel_size=(None, None, None),
    channel_names=None,
    time_step=None,
    file_format="imagej",
    compressed=False,
):
    """Prepare an image file to be written block by block.

    Nothing is written before the `with` block begins, and the file gets its name only when the block ends
    without an exception.

    Parameters
    ----------
    path : str or Path
    axes : str
        Of the letters P, T, C, Z, Y and X, in any order; stored as PTZCYX.
    sizes : dict
        Length by axis.
    dtype : dtype
        uint8, uint16 or float32 for ImageJ; also the other integers up to 32 bits and float64 for the others.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm. ImageJ stores z only where y and x are known.
    channel_names : sequence of str, optional
    time_step : float, optional
        Seconds.
    file_format : {"imagej", "ome", "zarr", "zarr-0.4"}
        ImageJ's or OME's TIFF; the folder of an OME-Zarr image, version 0.5 or 0.4. OME-TIFF takes the place of
        ImageJ's format where that cannot hold the image.
    compressed : bool
        Deflate the planes of a TIFF file, without loss, once all are written.

    Returns
    -------
    destination : Destination or ZarrDestination
        A context manager with `write(frame, region, block)`.

    Raises
    ------
    ValueError
        If the format cannot store this axis, type or size.

    Warns
    -----
    UserWarning
        If the image has more than 4 GiB, several positions or a width of one voxel, and is written as OME-TIFF
        instead of ImageJ's.

    Examples
    --------
    ::

        with create_volume("out.tif", axes="ZYX", sizes={"Z": 8, "Y": 64, "X": 64}, dtype="float32") as out:
            out.write({}, None, block)  # (Z, Y, X, C)
    """
    path, dtype = Path(str(path)), np.dtype(dtype)
    if not set("YX") <= set(axes) <= set(STORED_AXES) or len(set(axes)) < len(axes):
        raise ValueError(
            f"{path} cannot have the axes {axes!r}: the letters P, T, C, Z, Y and X, Y and X among them."
        )
    if file_format not in DTYPES:
        raise ValueError(f"{path} cannot be written as {file_format!r}: choose one of {', '.join(DTYPES)}.")
    if dtype.name not in DTYPES[file_format]:
        raise ValueError(
            f"{path} cannot hold {dtype} as {file_format!r}: choose {', '.join(DTYPES[file_format])}."
        )
    shape = tuple(int(sizes[axis]) if axis in axes else 1 for axis in STORED_AXES)
    if min(shape) < 1:
        raise ValueError(
            f"{path} cannot be {dict(zip(STORED_AXES, shape, strict=True))}: each size must be at least 1."
        )
    num_channels = shape[STORED_AXES.index("C")]
    if channel_names is not None and len(channel_names) != num_channels:
        raise ValueError(
            f"{path} has {num_channels} channels but {len(channel_names)} channel_names: one for each."
        )
    if file_format in ZARR_VERSIONS:
        from rcan.io.zarr_writing import ZarrDestination

        return ZarrDestination(
            path,
            axes=axes,
            sizes=sizes,
            dtype=dtype,
            voxel_size=voxel_size,
            channel_names=channel_names,
            time_step=time_step,
            version=ZARR_VERSIONS[file_format],
        )
    if file_format == "imagej" and (excess := _beyond_imagej(shape, dtype)):
        warnings.warn(f"{path} {excess} ImageJ's format holds: written as OME-TIFF.", stacklevel=2)
        file_format = "ome"
    return Destination(path, shape, dtype, voxel_size, channel_names, time_step, file_format, compressed)


def _beyond_imagej(shape, dtype):
    """What an image has too much of for ImageJ's format: the words before "ImageJ's format holds"."""
    if shape[-1] == 1:
        return "is one voxel wide, which is less than what"  # readers take X for Y there
    if shape[0] > 1:
        return f"has {shape[0]} positions, more than the one that"
    if _is_large(shape, dtype):
        return f"would measure {math.prod(shape) * dtype.itemsize / 2**30:.1f} GiB, beyond what"
    return None


def _is_large(shape, dtype):
    """Whether an image outgrows a classic TIFF file."""
    return math.prod(shape) * dtype.itemsize + math.prod(shape[:-2]) * PAGE_BYTES > MAX_CLASSIC_BYTES


def round_to_integers(values, dtype):
    """Round and clip values that will be stored as integers.

    Parameters
    ----------
    values : ndarray
    dtype : numpy.dtype
        What they will be stored as, in any byte order.

    Returns
    -------
    rounded : ndarray
        In float64; `values` themselves where they are stored as real numbers, or have the type already.
    """
    if dtype.kind not in "iu" or values.dtype == dtype.newbyteorder("="):
        return values
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values, dtype=np.float64), limits.min, limits.max)


class Destination:
    """A TIFF file that is being written; see `create_volume`.

    Attributes
    ----------
    path : Path
    display_range : array of shape (2,) or (C, 2), or None
        Grey values that ImageJ shows as black and white, of all channels or of each; to be set before the `with`
        block begins.
    notes : dict
        Words and lists of words by name, for the metadata: a line each, as ``rcan.name = ...``, of ImageJ's Info or
        OME's Description. To be set before the `with` block begins.
    when_whole : callable, or None
        Called with the final and the present path once all is written, right before the file gets its name.
    """

    def __init__(
        self, path, shape, dtype, voxel_size, channel_names, time_step, file_format, compressed=False
    ):
        self.path = path
        self.display_range = None
        self.notes = {}
        self.when_whole = None
        self._shape = shape
        self._stored_dtype = dtype.newbyteorder(">" if file_format == "imagej" else "<")  # ImageJ writes this
        self._num_bytes = math.prod(shape) * dtype.itemsize
        self._voxel_size, self._channel_names, self._time_step = voxel_size, channel_names, time_step
        self._format, self._compressed = file_format, compressed
        self._partial = partial_path(path)
        self._file = None  # open while the `with` block lasts
        self._offsets = ()  # of the pixels of each position

    def __enter__(self):
        try:
            with report_errors_as(self.path):
                if self.path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                free = shutil.disk_usage(self.path.absolute().parent).free
                if free < self._num_bytes:
                    needed = f"{self._num_bytes / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free"
                    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")
                self._offsets = self._write_tiff(self._partial)
                self._file = open(self._partial, "rb+", buffering=0)
                for offset in self._offsets:
                    preallocate(self._file, offset, self._num_bytes // len(self._offsets))
        except BaseException:
            self._discard()
            raise
        return self

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
        spatial = self._shape[2:3] * (block.ndim == 4) + self._shape[4:]
        region = region or (slice(None),) * len(spatial)
        parts = [range(*part.indices(size)) for part, size in zip(region, spatial, strict=True)]
        channels = range(self._shape[3])[frame.get("C", 0) :][: block.shape[-1]]
        target = (*map(len, parts), len(channels))
        if target != block.shape:
            raise ValueError(f"{self.path}: a block of {block.shape} does not fit the region {target}.")
        if block.ndim == 3:
            plane = frame.get("Z", 0)
            block, parts = block[np.newaxis], [range(plane, plane + 1), *parts]
        z, y, x = parts
        block = np.moveaxis(block, -1, 1)  # (Z, C, Y, X)
        step = max(1, CONVERTED_VALUES // max(1, block[:1].size))
        for i in range(0, len(block), step):
            part = round_to_integers(block[i : i + step], self._stored_dtype)
            part = np.ascontiguousarray(part, self._stored_dtype)[np.newaxis]
            start = (frame.get("T", 0), z.start + i, channels.start, y.start, x.start)
            with report_errors_as(self.path):
                _write_plain(self._file, self._offsets[frame.get("P", 0)], self._shape[1:], start, part)

    def __exit__(self, exception_type, *exception):
        try:
            with report_errors_as(self.path):
                if exception_type is None and self._compressed:
                    self._compress()
                if exception_type is None:
                    self._finish()
        finally:
            self._discard()

    def _discard(self):
        """Close the file, and remove it if it still has its partial name."""
        if self._file:
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write_tiff(self, path, **compression):
        """Write the metadata of each position around its planes: the deflated ones, or room for them.

        Returns
        -------
        offsets : list of int
            Where the pixels of each position begin; without compression.
        """
        import tifffile

        options = {"imagej": True} if self._format == "imagej" else {"ome": True}
        options |= {"bigtiff": _is_large(self._shape, self._stored_dtype)}
        order, found = ">" if self._format == "imagej" else "<", []
        with tifffile.TiffWriter(path, byteorder=order, **options) as tiff:
            for position in range(self._shape[0]):
                found.append(
                    tiff.write(
                        self._planes(position) if compression else None,
                        shape=self._shape[1:],
                        dtype=self._stored_dtype,
                        photometric="minisblack",
                        returnoffset=True,
                        **self._describe(position),
                        **compression,
                    )
                )
        return [place[0] for place in found if place]

    def _describe(self, position):
        """tifffile's options for what stands around the pixels of a position."""
        z, y, x = self._voxel_size
        num_positions, *planes, num_channels = self._shape[:4]
        metadata, options = {"axes": STORED_AXES[1:]}, {}
        if self.notes:
            metadata["Info" if self._format == "imagej" else "Description"] = _as_lines(self.notes)
        if self._format == "imagej":
            metadata |= {"mode": "composite" if num_channels > 1 else "grayscale"}
            if self.display_range is not None:
                ranges = np.broadcast_to(np.asarray(self.display_range, float), (num_channels, 2))
                metadata |= {"min": ranges[0, 0].item(), "max": ranges[0, 1].item()}
                metadata |= {"Ranges": tuple(ranges.ravel().tolist())} if num_channels > 1 else {}
            metadata |= _known(finterval=self._time_step)
            if x is not None and y is not None:
                options = {"resolution": (1 / x, 1 / y), "resolutionunit": "none"}
                metadata |= {"unit": "micron"} | _known(spacing=z)
            if self._channel_names:  # ImageJ labels planes, the channels of a volume one after the other
                metadata |= {"Labels": list(self._channel_names) * math.prod(planes)}
        else:
            metadata |= {"UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.path.name} {self._shape}"))}
            if num_positions > 1:
                metadata |= {"Name": f"Position {position + 1}"}
            for axis, size in zip("ZYX", (z, y, x), strict=True):
                metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"} if size else {}
            if self._time_step:
                metadata |= {"TimeIncrement": self._time_step, "TimeIncrementUnit": "s"}
            if self._channel_names:
                metadata |= {"Channel": {"Name": list(self._channel_names)}}
        return {"metadata": metadata, **options}

    def _planes(self, position):
        """The planes of a position as they have been written, one after the other."""
        shape, dtype = self._shape[-2:], self._stored_dtype
        num_values = math.prod(shape)
        for number in range(math.prod(self._shape[1:-2])):
            offset = self._offsets[position] + number * num_values * dtype.itemsize
            yield np.fromfile(self._partial, dtype, num_values, offset=offset).reshape(shape)

    def _compress(self):
        """Replace the plain planes by deflated ones."""
        deflated = self._partial.with_name(f"{self._partial.name}.deflated")
        try:
            self._write_tiff(deflated, compression="zlib", predictor=True)
            self._file.close()
            os.replace(deflated, self._partial)
        finally:
            deflated.unlink(missing_ok=True)

    def _finish(self):
        """Give the file its name, once it is on the disk."""
        self._file.close()
        with open(self._partial, "rb+") as stream:
            os.fsync(stream.fileno())
        if self.when_whole:
            self.when_whole(self.path, self._partial)
        os.replace(self._partial, self.path)


def _as_lines(notes):
    said = {name: note if isinstance(note, str) else "; ".join(note) for name, note in notes.items()}
    return "\n".join(f"rcan.{name} = {note}" for name, note in said.items())


def _known(**values):
    return {name: value for name, value in values.items() if value is not None}


def _write_plain(file, offset, shape, start, part):
    """Write a region of an array that lies in a file without gaps, in as few stretches as it has there.

    Parameters
    ----------
    file : file
        Open for writing, without a buffer.
    offset : int
        Where the array begins.
    shape, start : tuple of int
        Of the array; where the region begins.
    part : ndarray
        The region, contiguous, as it is stored.
    """
    axis = len(shape)  # the axes from here on are written in one stretch
    while axis and part.shape[axis:] == shape[axis:]:
        axis -= 1
    steps = [math.prod(shape[i + 1 :]) * part.itemsize for i in range(len(shape))]
    first = offset + sum(i * step for i, step in zip(start, steps, strict=True))
    for where in np.ndindex(part.shape[:axis]):
        place = first + sum(i * step for i, step in zip(where, steps, strict=False))
        _write_from(file, place, part[where])


def _write_from(file, place, array):
    """Write an array to a place in a file; a call of the system may write less than it is asked to."""
    source, done = memoryview(array.reshape(-1).view(np.uint8)), 0
    while done < len(source):
        if hasattr(os, "pwrite"):
            done += os.pwrite(file.fileno(), source[done:], place + done)
        else:  # Windows
            file.seek(place + done)
            done += file.write(source[done:])
