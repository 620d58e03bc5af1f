"""TIFF images written block by block, complete or not at all.

The pixels go to their place in a file that has been reserved on the disk: nothing of it stays in memory, and a
memory map would grow with the volume.
"""

import errno
import math
import os
import uuid

import numpy as np

from rcan.atomic_io import partial_path, preallocate, report_errors_as
from rcan.intensity import to_dtype
from rcan.io.volume import check_space, place_block

STORED_AXES = "PTZCYX"  # ImageJ demands TZCYX, OME-TIFF takes it as well; positions are images of their own
MAX_CLASSIC_BYTES = 2**32 - 2**25  # offsets have 32 bits; some room is left for the metadata
PAGE_BYTES = 256  # of the metadata of one plane, at most
CONVERTED_VALUES = 2**22  # made integers at a time, 32 MiB in float64


def why_not_imagej(sizes, dtype):
    """Say why ImageJ's format cannot store an image: the end of a sentence about its file, or None if it can."""
    shape = [sizes[axis] for axis in STORED_AXES]
    if sizes["X"] == 1:
        return "is one voxel wide, which is less than what ImageJ's format holds"  # readers take X for Y there
    if sizes["P"] > 1:
        return f"has {sizes['P']} positions, more than the one that ImageJ's format holds"
    if _is_large(shape, dtype):
        gigabytes = math.prod(shape) * dtype.itemsize / 2**30
        return f"would measure {gigabytes:.1f} GiB, beyond what ImageJ's format holds"
    return None


def _is_large(shape, dtype):
    """Whether an image outgrows a classic TIFF file."""
    return math.prod(shape) * dtype.itemsize + math.prod(shape[:-2]) * PAGE_BYTES > MAX_CLASSIC_BYTES


class TiffSink:
    """A TIFF file that is being written, see `rcan.io.volume.Sink`; made by `rcan.io.opening.create_volume`."""

    def __init__(self, path, axes, sizes, dtype, voxel_size, channel_names, time_step, *, file_format, compressed):
        self.path = path
        self.display_range = None
        self.notes = {}
        self._sizes = {axis: sizes[axis] if axis in axes else 1 for axis in STORED_AXES}
        self._shape = tuple(self._sizes.values())
        self._is_imagej = file_format == "imagej"
        self._stored_dtype = dtype.newbyteorder(">" if self._is_imagej else "<")  # ImageJ writes this
        self._num_bytes = math.prod(self._shape) * dtype.itemsize
        self._voxel_size, self._channel_names, self._time_step = voxel_size, channel_names, time_step
        self._is_compressed = compressed
        self._partial = partial_path(path)
        self._file = None  # open until the image is complete
        self._is_complete = False
        self._offsets = ()  # of the pixels of each position

    def __enter__(self):
        try:
            with report_errors_as(self.path):
                if self.path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                check_space(self.path, self._num_bytes)
                self._offsets = self._write_tiff(self._partial)
                self._file = open(self._partial, "rb+", buffering=0)
                for offset in self._offsets:
                    preallocate(self._file, offset, self._num_bytes // len(self._offsets))
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frame, region, block):
        """Write one block, see `rcan.io.volume.Sink.write`."""
        block, region = place_block(self.path, frame, region, block, self._sizes)
        z, y, x, c = (part.start for part in region)
        block = np.moveaxis(block, -1, 1)  # (Z, C, Y, X)
        step = max(1, CONVERTED_VALUES // max(1, block[:1].size))
        for i in range(0, len(block), step):
            part, _ = to_dtype(block[i : i + step], self._stored_dtype)
            start = (frame.get("T", 0), z + i, c, y, x)
            with report_errors_as(self.path):
                offset = self._offsets[frame.get("P", 0)]
                _write_plain(self._file, offset, self._shape[1:], start, part[np.newaxis])

    def complete(self):
        """Finish the image under its partial name, see `rcan.io.volume.Sink.complete`."""
        if not self._is_complete:
            with report_errors_as(self.path):
                if self._is_compressed:
                    self._compress()
                self._file.close()
                with open(self._partial, "rb+") as stream:
                    os.fsync(stream.fileno())
            self._is_complete = True
        return self._partial

    def __exit__(self, exception_type, *exception):
        try:
            if exception_type is None:
                self.complete()
                with report_errors_as(self.path):
                    os.replace(self._partial, self.path)
        finally:
            self._discard()

    def _discard(self):
        """Close the file, and remove it if it still has its partial name."""
        if self._file:
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write_tiff(self, path, **compression):
        """Write metadata and compressed planes of each position; without compression, room for them.

        Returns where the pixels of each position begin, if they are not compressed.
        """
        import tifffile

        options = {"imagej": True} if self._is_imagej else {"ome": True}
        options |= {"bigtiff": _is_large(self._shape, self._stored_dtype)}
        notes = {"Info" if self._is_imagej else "Description": self._notes_as_lines()} if self.notes else {}
        places = []
        with tifffile.TiffWriter(path, byteorder=">" if self._is_imagej else "<", **options) as tiff:
            for position in range(self._shape[0]):
                metadata = self._imagej_metadata() if self._is_imagej else self._ome_metadata(position)
                place = tiff.write(
                    self._planes(position) if compression else None,
                    shape=self._shape[1:],
                    dtype=self._stored_dtype,
                    photometric="minisblack",
                    returnoffset=True,
                    metadata={"axes": STORED_AXES[1:], **notes, **metadata},
                    **(self._resolution() if self._is_imagej else {}),
                    **compression,
                )
                places.append(place)
        return [place[0] for place in places if place]

    def _imagej_metadata(self):
        """Return tifffile's options for ImageJ's description of the image."""
        z, y, x = self._voxel_size
        num_channels = self._sizes["C"]
        metadata = {"mode": "composite" if num_channels > 1 else "grayscale"}
        if self.display_range is not None:
            ranges = np.broadcast_to(np.asarray(self.display_range, float), (num_channels, 2))
            metadata |= {"min": ranges[0, 0].item(), "max": ranges[0, 1].item()}
            metadata |= {"Ranges": tuple(ranges.ravel().tolist())} if num_channels > 1 else {}
        if self._time_step is not None:
            metadata["finterval"] = self._time_step
        if x is not None and y is not None:
            metadata |= {"unit": "micron"} | ({} if z is None else {"spacing": z})
        if self._channel_names:  # ImageJ labels planes, the channels of a volume one after the other
            metadata["Labels"] = [*self._channel_names] * (self._sizes["T"] * self._sizes["Z"])
        return metadata

    def _resolution(self):
        """Return tifffile's options for ImageJ's pixel size."""
        _, y, x = self._voxel_size
        if x is None or y is None:
            return {}
        return {"resolution": (1 / x, 1 / y), "resolutionunit": "none"}

    def _ome_metadata(self, position):
        """Return tifffile's options for OME's description of a position."""
        metadata = {"UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.path.name} {self._shape}"))}
        if self._sizes["P"] > 1:
            metadata["Name"] = f"Position {position + 1}"
        for axis, size in zip("ZYX", self._voxel_size, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"} if size else {}
        if self._time_step:
            metadata |= {"TimeIncrement": self._time_step, "TimeIncrementUnit": "s"}
        if self._channel_names:
            metadata["Channel"] = {"Name": [*self._channel_names]}
        return metadata

    def _notes_as_lines(self):
        """Return the notes as text, a line such as ``rcan.name = ...`` for each."""
        texts = {name: note if isinstance(note, str) else "; ".join(note) for name, note in self.notes.items()}
        return "\n".join(f"rcan.{name} = {text}" for name, text in texts.items())

    def _planes(self, position):
        """Yield the planes of a position as they have been written."""
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


def _write_plain(file, offset, shape, start, part):
    """Write a contiguous part of an array that lies in a file without gaps, in as few calls as possible."""
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
