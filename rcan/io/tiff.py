"""The bytes of a TIFF file as one lazy array, whatever their layout.

tifffile reads the structure: tags, series, metadata. The pixels are read here, from a file that is open as long
as one call lasts: threads need not wait for each other, any number of volumes may be open, and a file that
vanishes meanwhile is an error (a memory map would end the process). Of a contiguous array the rows of a region
are read, anything else is decoded strip by strip (or tile by tile), only those that a region touches, and the
last ones are kept in a cache of limited size.

Damage is looked for before anything is decoded or allocated: every strip must lie inside the file, and hold
enough bytes for what it claims to become. tifffile itself would fill some gaps with zeros.
"""

import contextlib
import itertools
import logging
import math
import os
import threading
import warnings
from collections import namedtuple

import numpy as np
import tifffile

from rcan.io.cache import cache
from rcan.io.metadata import check_ome, count_positions, name_axes, read_calibration
from rcan.io.volume import one_error

GREY, RGB, PALETTE = (0, 1), 2, 3  # values of the tag PhotometricInterpretation
# Most bytes that one stored byte can become. PackBits: 128 from 2. LZW: a string of about 3840 from 12 bits.
# Deflate: 1032. JPEG 2000 and LERC store a constant plane of any size in some bytes. The others know no limit
# either; this is beyond a run of Zstandard, 128 KiB from 4.
MAX_EXPANSION = {1: 1, 32773: 64, 5: 2600, 8: 1040, 32946: 1040}
MAX_EXPANSION |= dict.fromkeys((33003, 33004, 33005, 34712, 34887), 10**7)
MAX_EXPANSION_OTHERS = 40_000
SMALL_SEGMENT = 16 * 2**20  # bytes that may be allocated for a strip without asking
MOST_SKIPPED = 16  # times as many bytes as are needed may be read in one go
JPEG = (6, 7, 33007, 34892)

# Where a page lies: `offsets` and `sizes` of its strips or tiles in `file`; a plain array has no `decode`.
Page = namedtuple("Page", "file dtype decode offsets sizes jpegtables")

_quiet = threading.local()
logging.getLogger("tifffile").addFilter(lambda record: not getattr(_quiet, "active", False))


@contextlib.contextmanager
def _one_error(path):
    """As `rcan.io.volume.one_error`; tifffile's log is held back."""
    _quiet.active = True
    try:
        with np.errstate(all="ignore"), one_error(path, "TIFF", passing=(OSError, MemoryError)):
            yield
    finally:
        _quiet.active = False


class TiffSource:
    """The images of a TIFF file as one array read by slices.

    Several images of equal shape, axes and type are positions, the axis P; of different ones the first is read.

    Parameters
    ----------
    path : Path
    axes : str, optional
        Overrides the metadata, see `rcan.io.metadata.name_axes`.

    Attributes
    ----------
    path : Path
    axes : str
        One letter for each stored dimension, `_` for one of length 1 without a name.
    shape : tuple of int
    dtype : numpy.dtype
    voxel_size, channel_names, time_step
        As in `rcan.io.Volume`.
    """

    def __init__(self, path, axes=None):
        self.path = path
        self._states = {}  # size and time of modification of each file
        self._owner = object()  # of what the cache keeps of this file
        with open(path, "rb") as stream:  # a missing file, a folder or a lack of rights ends here, as OSError
            if not stream.read(1):
                raise ValueError(f"{path} is empty (0 bytes). Copy or export it again.")
        with _one_error(path), tifffile.TiffFile(path) as tiff:
            if tiff.is_ome:
                check_ome(path, tiff.ome_metadata)
            images = _own_images(tiff)
            series = images[0]
            kinds = [(image.shape, image.axes, image.dtype, image.keyframe.hash) for image in images]
            count, left_out = count_positions(path, kinds, series.axes, series.shape, axes)
            images = images[:count]
            self._check_format(tiff, series, axes)
            self.shape, letters = series.shape, series.axes.replace("P", "?")  # tifffile's P is a phase
            if len(images) > 1:
                self.shape, letters = (len(images), *self.shape), "P" + letters
            elif "R" in letters:  # MicroManager's and other positions
                letters = letters.replace("R", "P")
            self.axes, assumption = name_axes(path, letters, self.shape, axes)
            self.dtype = np.dtype(np.uint8 if series.dtype.kind == "b" else series.dtype.newbyteorder("="))
            self.voxel_size, self.channel_names, self.time_step = read_calibration(tiff, series)
            self._find_data(tiff, images)
        for message in filter(None, (left_out, assumption)):
            warnings.warn(message, stacklevel=3)

    def _check_format(self, tiff, series, axes):
        """Refuse colour, numbers that are no intensities, and files that end before their last image."""
        page = series.keyframe
        is_grey = page.photometric in GREY
        is_grey |= page.photometric == PALETTE and series.kind in ("imagej", "ome")  # a display colour
        is_grey |= page.photometric == RGB and axes is not None  # the user says what its samples are
        if not is_grey:
            kind = getattr(page.photometric, "name", page.photometric)
            raise ValueError(
                f"{self.path} is a colour photograph ({kind}): grey values of one or more channels are "
                "expected. Split its channels, save them along a C axis, or name its axes if these are "
                "no colours (--axes, raw_data_format or gt_data_format)."
            )
        if page.dtype is None or page.dtype.kind not in "buif" or series.transform is not None:
            raise ValueError(
                f"{self.path} stores {page.bitspersample}-bit values of an unsupported kind ({page.dtype}): "
                "integers or real numbers are expected. Save it as uint16 or float32."
            )
        if 0 in series.shape:
            raise ValueError(f"{self.path} is {series.shape}: it holds no pixels. Export it again.")
        # tifffile falls back to the pages it finds where there are fewer than ImageJ's metadata declare.
        if tiff.is_imagej and series.kind in ("uniform", "generic"):
            raise ValueError(
                f"{self.path} is cut short: its ImageJ metadata declare more planes. Copy it again."
            )
        if series.kind in ("uniform", "generic", "shaped", "ome") and not self._chain_ends(tiff):
            raise ValueError(
                f"{self.path} is cut short or damaged: its list of planes has no end. Copy it again."
            )

    def _chain_ends(self, tiff):
        """Whether the last page points to no other one; tifffile only logs a pointer to nowhere."""
        tiff.filehandle.seek(tiff.pages.next_page_offset)
        return not any(tiff.filehandle.read(tiff.tiff.offsetsize))

    def _find_data(self, tiff, images):
        """Note where the pixels are: at one offset for each image, or in pages."""
        series = images[0]
        self._stored_dtype = series.dtype.newbyteorder(tiff.byteorder)
        self._offsets = [None if image.is_multifile else image.dataoffset for image in images]
        self._image_shape = series.shape
        self._note_state(self.path)
        if None not in self._offsets:
            for offset in self._offsets:
                self._check_inside(self.path, offset, math.prod(series.shape) * self.dtype.itemsize)
            return
        self._pages = [self._find_page(page) for image in images for page in image]
        self._page_shape = series.keyframe.shaped  # (planar samples, Z, Y, X, samples of a pixel)
        if any(page.decode for page in self._pages):
            decode = series.keyframe.decode  # without data it tells where a strip belongs
            self._starts = np.array([decode(None, i)[1] for i in range(math.prod(series.keyframe.chunked))])
            self._strip_shape = np.array((1, *decode(None, 0)[2]))
        inner = [size for size in self._page_shape if size > 1]
        for i in range(len(self.shape) + 1):
            outer, rest = math.prod(self.shape[:i]), [size for size in self.shape[i:] if size > 1]
            if outer == len(self._pages) and rest == inner:
                self._page_axis = i  # the dimensions from here on lie inside a page
                return
        raise ValueError(
            f"{self.path} is {self.shape}, but holds {len(self._pages)} planes of {series.keyframe.shape}: "
            "planes are missing. Copy or export it again."
        )

    def _find_page(self, page):
        """Locate one page and check that what it claims can be true."""
        if page is None:
            raise ValueError(
                f"{self.path} lacks planes that its metadata declare, or a file that holds them."
            )
        keyframe = page.keyframe
        file = page.parent.filehandle.path
        self._note_state(file)
        offsets, sizes = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
        if page.is_final:
            self._check_inside(file, int(offsets[0]), keyframe.nbytes)
            return Page(file, keyframe.dtype.newbyteorder(page.parent.byteorder), None, offsets, sizes, None)
        if not len(offsets) == len(sizes) == math.prod(keyframe.chunked):
            raise ValueError(
                f"{self.path} is damaged: a plane has {len(offsets)} of {math.prod(keyframe.chunked)} strips."
            )
        if offsets.min() <= 0 or sizes.min() <= 0:
            raise ValueError(f"{self.path} is damaged: a strip of a plane is missing. Export it again.")
        last = np.argmax(offsets + sizes)
        self._check_inside(file, int(offsets[last]), int(sizes[last]))
        expansion = MAX_EXPANSION.get(keyframe.compression, MAX_EXPANSION_OTHERS)
        expansion *= 8 * keyframe.dtype.itemsize / keyframe.bitspersample  # 12 bits become 16
        segment = math.prod(keyframe.chunks) * keyframe.dtype.itemsize
        if keyframe.nbytes > expansion * sizes.sum() or segment > max(SMALL_SEGMENT, expansion * sizes.max()):
            raise ValueError(
                f"{self.path} is damaged: {sizes.sum()} stored bytes cannot be a plane of {keyframe.shape}. "
                "Copy or export it again."
            )
        jpegtables = page.jpegtables if keyframe.compression in JPEG else None
        return Page(file, keyframe.dtype, keyframe.decode, offsets, sizes, jpegtables)

    def _note_state(self, file):
        if file not in self._states:
            stat = os.stat(file)
            self._states[file] = stat.st_size, stat.st_mtime_ns

    def _check_inside(self, file, offset, num_bytes):
        missing = offset + num_bytes - self._states[file][0]
        if offset <= 0:
            raise ValueError(f"{self.path} is damaged: a plane has no data. Export it again.")
        if missing > 0:
            raise ValueError(
                f"{self.path} is cut short: {missing} bytes are missing at its end. Copy it again."
            )

    def read(self, slices):
        """Read a part of the array, see `rcan.io.volume.Source`."""
        index = tuple(
            slices.get(axis, slice(0, size)) for axis, size in zip(self.axes, self.shape, strict=True)
        )
        with _one_error(self.path), contextlib.ExitStack() as stack:
            files = {}

            def open_file(path):  # each file once in a call
                if path not in files:
                    files[path] = stack.enter_context(open(path, "rb", buffering=0))
                    self._check_unchanged(path)
                return files[path]

            if None not in self._offsets:
                inner = index[len(index) - len(self._image_shape) :]
                offsets = self._offsets[index[0]] if len(self._offsets) > 1 else self._offsets
                parts = [
                    _read_plain(open_file(self.path), offset, self._image_shape, self._stored_dtype, inner)
                    for offset in offsets
                ]
                if len(parts) > 1:
                    return np.stack(parts)
                return parts[0].reshape([s.stop - s.start for s in index])
            first, last = index[: self._page_axis], index[self._page_axis :]
            numbers = np.arange(len(self._pages)).reshape(self.shape[: self._page_axis])[first]
            part = np.empty([s.stop - s.start for s in index], self.dtype)
            long = iter(s for s, size in zip(last, self.shape[self._page_axis :], strict=True) if size > 1)
            region = tuple(next(long) if size > 1 else slice(0, 1) for size in self._page_shape)
            for where in np.ndindex(numbers.shape):
                page = self._read_page(numbers[where], region, open_file)
                part[where] = page.reshape(part[where].shape)
            return part

    def _check_unchanged(self, file):
        stat = os.stat(file)
        if (stat.st_size, stat.st_mtime_ns) != self._states[file]:
            raise ValueError(f"{self.path} has changed since it was opened. Open it again.")

    def _read_page(self, number, region, open_file):
        """Read a region of a page, in the five dimensions of its strips."""
        page = self._pages[number]
        if page.decode is None:
            return _read_plain(
                open_file(page.file), int(page.offsets[0]), self._page_shape, page.dtype, region
            )
        start = np.array([s.start for s in region])
        stop = np.array([s.stop for s in region])
        block = np.empty(stop - start, self.dtype)
        touched = (self._starts < stop) & (self._starts + self._strip_shape > start)
        for i in np.flatnonzero(touched.all(axis=1)):
            strip = self._decode(number, i, open_file)[np.newaxis]
            low = np.maximum(start, self._starts[i])
            high = np.minimum(stop, self._starts[i] + strip.shape)
            inside = tuple(map(slice, low - self._starts[i], high - self._starts[i]))
            block[tuple(map(slice, low - start, high - start))] = strip[inside]
        return block

    def _decode(self, number, i, open_file):
        """Decode a strip or tile of a page, or take it from the cache."""
        strip = cache.get(self._owner, (number, i))
        if strip is None:
            page = self._pages[number]
            data = np.empty(page.sizes[i], np.uint8)
            _read_into(open_file(page.file), int(page.offsets[i]), data)
            strip = page.decode(data.tobytes(), int(i), jpegtables=page.jpegtables)[0]
            cache.keep(self._owner, (number, i), strip)
        return strip

    def state(self):
        """Size and time of modification, by which a later state of the file is told."""
        size, modified = self._states[self.path]
        return {"size": size, "modified": modified}

    def close(self):
        """Free the decoded strips; the next read decodes them again."""
        cache.drop(self._owner)


def _own_images(tiff):
    """The images of a file. OME metadata also list those of other files of a set, which are left to these."""
    own = [series for series in tiff.series if series.is_multifile or series.keyframe.parent is tiff]
    return own or tiff.series


def _read_plain(file, offset, shape, dtype, index):
    """Read a region of an array that lies in a file without gaps; reads as few stretches as are worth it."""
    sizes = [s.stop - s.start for s in index]
    region, dtype = np.empty(sizes, dtype), np.dtype(dtype)
    axis = len(shape)  # the axes from here on are read in one stretch
    inner = 1  # values of a stretch
    while axis and sizes[axis:] == list(shape[axis:]):
        axis -= 1
        inner = sizes[axis] * math.prod(shape[axis + 1 :])
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]  # values from one index to the next
    longer = (sizes[axis - 1] - 1) * steps[axis - 1] + inner if axis else math.inf
    has_gaps = longer <= MOST_SKIPPED * inner * sizes[axis - 1]  # to skip them costs less than more calls
    axis -= has_gaps
    stretch = np.empty(longer, dtype) if has_gaps else None
    strides = [step * dtype.itemsize for step in steps[axis:]]
    first = sum(s.start * step for s, step in zip(index, steps, strict=True))
    for where in itertools.product(*map(range, sizes[:axis])):
        start = first + sum(i * step for i, step in zip(where, steps, strict=False))
        target = stretch if has_gaps else region[where].reshape(-1)
        _read_into(file, offset + start * dtype.itemsize, target)
        if has_gaps:
            region[where] = np.lib.stride_tricks.as_strided(stretch, sizes[axis:], strides)
    return region


def _read_into(file, offset, array):
    """Fill an array from a place in a file."""
    target, done = memoryview(array.view(np.uint8)), 0
    file.seek(offset)
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise ValueError(f"{file.name} has become shorter since it was opened. Open it again.")
        done += count
