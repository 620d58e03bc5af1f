"""Images written block by block, complete or not at all."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np

from rcan.files import naming, reserve

STORED_AXES = "TZCYX"  # ImageJ demands this order; OME-TIFF takes it as well
DTYPES = {
    "imagej": ("uint8", "uint16", "float32"),
    "ome": ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"),
}
MAX_IMAGEJ_BYTES = 2**32 - 2**25  # offsets in a classic TIFF have 32 bits; some room is left for the metadata


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
        Of the letters T, C, Z, Y and X, in any order; stored as TZCYX.
    sizes : dict
        Length by axis.
    dtype : dtype
        uint8, uint16 or float32 for ImageJ; also the other integers up to 32 bits and float64 for OME-TIFF.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm. ImageJ stores z only where y and x are known.
    channel_names : sequence of str, optional
    time_step : float, optional
        Seconds.
    file_format : {"imagej", "ome"}
    compressed : bool
        Deflate the planes, without loss, once all are written.

    Returns
    -------
    destination : Destination
        A context manager with `write(frame, region, block)`.

    Raises
    ------
    ValueError
        If the format cannot store this axis, type or size.

    Examples
    --------
    ::

        with create_volume("out.tif", axes="ZYX", sizes={"Z": 8, "Y": 64, "X": 64}, dtype="float32") as out:
            out.write({}, None, block)  # (Z, Y, X, C)
    """
    path, dtype = Path(str(path)), np.dtype(dtype)
    if not set("YX") <= set(axes) <= set(STORED_AXES) or len(set(axes)) < len(axes):
        raise ValueError(
            f"{path} cannot have the axes {axes!r}: the letters T, C, Z, Y and X, Y and X among them."
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
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if file_format == "imagej" and num_bytes > MAX_IMAGEJ_BYTES:
        raise ValueError(
            f"{path} would measure {num_bytes / 2**30:.1f} GiB but the ImageJ format ends at 4 GiB: "
            "choose file_format='ome' (`-f ome`), or fewer bits (`--bpp 16`)."
        )
    destination = Destination(path, shape, dtype, voxel_size, channel_names, time_step, file_format)
    destination.compressed = compressed
    return destination


class Destination:
    """An image file that is being written; see `create_volume`.

    Attributes
    ----------
    display_range : tuple of float, or None
        Grey values that ImageJ shows as black and white; may be set until the `with` block ends.
    compressed : bool
        Whether the planes are deflated at the end.
    """

    def __init__(self, path, shape, dtype, voxel_size, channel_names, time_step, file_format):
        self.path = path
        self.display_range = None
        self.compressed = False
        self._shape, self._dtype = shape, dtype
        self._num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._voxel_size, self._channel_names, self._time_step = voxel_size, channel_names, time_step
        self._format = file_format
        self._partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        self._array = None  # (T, Z, Y, X, C), a memory map
        self._options = None  # of tifffile, for what stands around the pixels

    def __enter__(self):
        try:
            with naming(self.path):
                if self.path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                free = shutil.disk_usage(self.path.absolute().parent).free
                if free < self._num_bytes:
                    needed = f"{self._num_bytes / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free"
                    raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")
                self._create()
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise
        return self

    def write(self, frame, region, block):
        """Write one block.

        Parameters
        ----------
        frame : dict
            Index by axis of what the block leaves out: T; Z of a block without Z; C is the first channel that
            the block's channels go to. 0 where not given.
        region : tuple of slice, or None
            Where the block goes, one slice for each of its spatial axes; None for everything.
        block : ndarray of shape (Z, Y, X, C) or (Y, X, C)
            Rounded and clipped where integers are stored.
        """
        volume = self._array[frame.get("T", 0)]  # (Z, Y, X, C)
        if block.ndim == 3:
            volume = volume[frame.get("Z", 0)]
        first = frame.get("C", 0)
        target = volume[region or ()][..., first : first + block.shape[-1]]
        if target.shape != block.shape:
            raise ValueError(f"{self.path}: a block of {block.shape} does not fit the region {target.shape}.")
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            block = np.clip(np.rint(block, dtype=np.float64), limits.min, limits.max)
        target[...] = block

    def __exit__(self, exception_type, *exception):
        try:
            with naming(self.path):
                self._array.flush()
                if exception_type is None and self.compressed:
                    self._compress()
                self._array = None  # unmaps the file
                if exception_type is None:
                    self._finish()
        finally:
            self._partial.unlink(missing_ok=True)

    def _create(self):
        """Write the metadata and reserve the pixels."""
        import tifffile

        z, y, x = self._voxel_size
        num_channels = self._shape[STORED_AXES.index("C")]
        metadata = {"axes": STORED_AXES}
        options = {"metadata": metadata, "photometric": "minisblack"}
        if self._format == "imagej":
            order = ">"  # as ImageJ itself writes
            options |= {"imagej": True, "byteorder": order}
            metadata |= {"mode": "composite" if num_channels > 1 else "grayscale"}
            metadata |= _known(finterval=self._time_step)
            if x is not None and y is not None:
                options |= {"resolution": (1 / x, 1 / y), "resolutionunit": "none"}
                metadata |= {"unit": "micron"} | _known(spacing=z)
            if self._channel_names:  # ImageJ labels planes, the channels of a volume one after the other
                planes = int(np.prod(self._shape[:3]))
                metadata |= {"Labels": list(self._channel_names) * (planes // num_channels)}
        else:
            order = "<"
            options |= {"ome": True, "byteorder": order}
            for axis, size in zip("ZYX", (z, y, x), strict=True):
                metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"} if size else {}
            if self._time_step:
                metadata |= {"TimeIncrement": self._time_step, "TimeIncrementUnit": "s"}
            if self._channel_names:
                metadata |= {"Channel": {"Name": list(self._channel_names)}}
        self._options = options
        where = tifffile.imwrite(
            self._partial, shape=self._shape, dtype=self._dtype, returnoffset=True, **options
        )
        with open(self._partial, "rb+") as stream:
            reserve(stream, where[0], self._num_bytes)
        stored = np.memmap(self._partial, self._dtype.newbyteorder(order), "r+", where[0], self._shape)
        self._array = stored.transpose([STORED_AXES.index(axis) for axis in "TZYXC"])

    def _compress(self):
        """Replace the plain planes by deflated ones."""
        import tifffile

        deflated = self._partial.with_name(f"{self._partial.name}.deflated")
        try:
            stored = self._array.transpose(["TZYXC".index(axis) for axis in STORED_AXES])
            tifffile.imwrite(deflated, stored, compression="zlib", predictor=True, **self._options)
            os.replace(deflated, self._partial)
        finally:
            deflated.unlink(missing_ok=True)

    def _finish(self):
        """Complete the metadata and give the file its name, once it is on the disk."""
        import tifffile

        if self.display_range is not None and self._format == "imagej":
            low, high = self.display_range
            with tifffile.TiffFile(self._partial, mode="r+") as tiff:
                tag = tiff.pages.first.tags["ImageDescription"]
                tag.overwrite(f"{tag.value.rstrip()}\nmin={float(low)}\nmax={float(high)}\n")
        with open(self._partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(self._partial, self.path)


def _known(**values):
    return {name: value for name, value in values.items() if value is not None}
