"""The bytes of a TIFF file as one lazy array, whatever their layout.

tifffile reads the structure: tags, series, metadata. The pixels are read here, from a file that is open as long
as one call lasts: threads need not wait for each other, any number of volumes may be open, and a file that
vanishes meanwhile is an error (a memory map would end the process). Of a contiguous array the rows of a region
are read, anything else is decoded strip by strip (or tile by tile), only those that a region touches, and the
last ones are kept in a cache of limited size.

Damage is looked for before anything is decoded or allocated: every strip must lie inside the file, and hold enough
bytes for its number of pixels. tifffile itself would fill some gaps with zeros.
"""

import contextlib
import functools
import itertools
import logging
import math
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tifffile

from rcan.io.cache import cache
from rcan.io.images import Contents
from rcan.io.metadata import check_ome, long_axes, name_axes, ome_pixels, read_calibrations
from rcan.io.tiff_pages import check_page_list
from rcan.io.volume import FileStates, native_dtype, report_damage
from rcan.regions import paste, region_at, region_shape

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

_quiet = threading.local()
logging.getLogger("tifffile").addFilter(lambda record: not getattr(_quiet, "active", False))


@contextlib.contextmanager
def _report_damage(path):
    """As `rcan.io.volume.report_damage`; tifffile's log is held back."""
    _quiet.active = True
    try:
        with np.errstate(all="ignore"), report_damage(path, "TIFF", passing=(OSError, MemoryError)):
            yield
    finally:
        _quiet.active = False


class StoredPage(NamedTuple):
    """Where a page lies in a file: its strips or tiles, or a plain array."""

    file: str
    dtype: np.dtype
    decode: Callable | None  # None for a plain array
    offsets: np.ndarray
    sizes: np.ndarray  # bytes
    jpegtables: bytes | None


class TiffSource:
    """The images of a TIFF file as one array, see `rcan.io.volume.Source`.

    Several images of equal shape, axes, type and voxel size are positions, the axis P; of different ones the first is
    read, or `image`, the number or title of one.
    """

    def __init__(self, path, axes=None, image=None):
        self.path = path
        self._states = FileStates(path)
        self._owner = object()  # of what the cache keeps of this file
        _check_start(path)
        with _report_damage(path), tifffile.TiffFile(path) as tiff:
            found, calibrations, contents = _find_images(path, tiff)
            chosen, left_out = contents.choose(path, image, axes)
            images = [found[i] for i in chosen]
            series = images[0]
            self._check_format(tiff, series, axes)
            self.shape, letters = series.shape, series.axes
            if series.kind != "lsm":
                letters = letters.replace("P", "?")  # tifffile's P is a phase, of LSM a position
            if len(images) > 1:
                self.shape, letters = (len(images), *self.shape), "P" + letters
            elif "R" in letters:  # MicroManager's and other positions
                letters = letters.replace("R", "P")
            self.axes, assumption = name_axes(path, letters, self.shape, axes)
            self.dtype = native_dtype(series.dtype)
            self.voxel_size, self.channel_names, self.time_step = calibrations[chosen[0]]
            self._find_data(tiff, images)
        for message in filter(None, (left_out, assumption)):
            warnings.warn(message, stacklevel=4)  # points to who called `open_volume`

    def _check_format(self, tiff, series, axes):
        """Refuse colour, numbers that are no intensities, and files that end before their last image."""
        page = series.keyframe
        is_grey = page.photometric in GREY
        is_grey |= page.photometric == PALETTE and series.kind in ("imagej", "ome", "lsm")  # a display colour
        is_grey |= page.photometric == RGB and series.kind == "lsm"  # its channels
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
        if series.kind == "lsm" and "M" in series.axes:
            raise ValueError(
                f"{self.path} is a mosaic of tiles (axes {series.axes}): stitch it, and export it as OME-TIFF."
            )
        if 0 in series.shape:
            raise ValueError(f"{self.path} is {series.shape}: it holds no pixels. Export it again.")
        # tifffile falls back to the pages it finds where there are fewer than ImageJ's metadata declare.
        if tiff.is_imagej and series.kind in ("uniform", "generic"):
            raise ValueError(f"{self.path} is cut short: its ImageJ metadata declare more planes. Copy it again.")
        if series.kind in ("uniform", "generic", "shaped", "ome") and not self._chain_ends(tiff):
            raise ValueError(f"{self.path} is cut short or damaged: its list of planes has no end. Copy it again.")

    def _chain_ends(self, tiff):
        """Whether the last page points to no other one; tifffile only logs a pointer to nowhere."""
        tiff.filehandle.seek(tiff.pages.next_page_offset)
        return not any(tiff.filehandle.read(tiff.tiff.offsetsize))

    def _find_data(self, tiff, images):
        """Find where the pixels are: at one offset for each image, or in pages."""
        series = images[0]
        self._stored_dtype = series.dtype.newbyteorder(tiff.byteorder)
        offsets = [None if image.is_multifile else image.dataoffset for image in images]
        self._offsets = None if None in offsets else offsets
        self._image_shape = series.shape
        self._states.note(self.path)
        if self._offsets:
            for offset in offsets:
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
        """Return where a page lies, and check that the file can hold it."""
        if page is None:
            raise ValueError(f"{self.path} lacks planes that its metadata declare, or a file that holds them.")
        keyframe = page.keyframe
        file = page.parent.filehandle.path
        self._states.note(file)
        offsets, sizes = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
        if page.is_final:
            self._check_inside(file, int(offsets[0]), keyframe.nbytes)
            dtype = keyframe.dtype.newbyteorder(page.parent.byteorder)
            return StoredPage(file, dtype, None, offsets, sizes, None)
        expected = math.prod(keyframe.chunked)
        if not len(offsets) == len(sizes) == expected:
            found = len(sizes) if len(offsets) == expected else len(offsets)
            raise ValueError(
                f"{self.path} is damaged: a plane has {found} of {expected} strips. Copy or export it again."
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
        return StoredPage(file, keyframe.dtype, keyframe.decode, offsets, sizes, jpegtables)

    def _check_inside(self, file, offset, num_bytes):
        size, _ = self._states.note(file)
        missing = offset + num_bytes - size
        if offset <= 0:
            raise ValueError(f"{self.path} is damaged: a plane has no data. Export it again.")
        if missing > 0:
            raise ValueError(f"{self.path} is cut short: {missing} bytes are missing at its end. Copy it again.")

    def read(self, region):
        """Read a part of the array, see `rcan.io.volume.Source`."""
        with _report_damage(self.path), contextlib.ExitStack() as stack:

            @functools.cache  # each file is opened once in a call
            def open_file(file):
                """Open a file of the image, and check that it is the one whose structure was read."""
                opened = stack.enter_context(open(file, "rb", buffering=0))
                self._states.check(file)
                return opened

            if self._offsets:
                return self._read_images(region, open_file)
            return self._read_pages(region, open_file)

    def _read_images(self, region, open_file):
        """Read a part of images that lie in the file without gaps."""
        inner = region[len(region) - len(self._image_shape) :]
        parts = [
            _read_plain(open_file(self.path), offset, self._image_shape, self._stored_dtype, inner)
            for offset in (self._offsets[region[0]] if len(self._offsets) > 1 else self._offsets)
        ]
        return np.stack(parts) if len(parts) > 1 else parts[0].reshape(region_shape(region))

    def _read_pages(self, region, open_file):
        """Read a part of images page by page."""
        first, last = region[: self._page_axis], region[self._page_axis :]
        numbers = np.arange(len(self._pages)).reshape(self.shape[: self._page_axis])[first]
        part = np.empty(region_shape(region), self.dtype)
        long = iter(s for s, size in zip(last, self.shape[self._page_axis :], strict=True) if size > 1)
        in_page = tuple(next(long) if size > 1 else slice(0, 1) for size in self._page_shape)
        for where in np.ndindex(numbers.shape):
            page = self._read_page(numbers[where], in_page, open_file)
            part[where] = page.reshape(part[where].shape)
        return part

    def _read_page(self, number, region, open_file):
        """Read a region of a page, in the five dimensions of its strips."""
        page = self._pages[number]
        if page.decode is None:
            return _read_plain(open_file(page.file), int(page.offsets[0]), self._page_shape, page.dtype, region)
        start, stop = ([getattr(part, end) for part in region] for end in ("start", "stop"))
        block = np.empty(region_shape(region), self.dtype)
        touched = (self._starts < stop) & (self._starts + self._strip_shape > start)
        for i in np.flatnonzero(touched.all(axis=1)):
            strip = self._decode(number, i, open_file)[np.newaxis]
            paste(block, region, strip, region_at(self._starts[i], strip.shape))
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

    def signature(self):
        """Return size and time of modification of the file."""
        size, modified = self._states.note(self.path)
        return {"size": size, "modified": modified}

    def close(self):
        """Free the decoded strips; the next read decodes them again."""
        cache.drop(self._owner)


def _check_start(path):
    """Refuse an empty file; a missing one, a folder or a lack of rights is an OSError."""
    with open(path, "rb") as stream:
        if not stream.read(1):
            raise ValueError(f"{path} is empty (0 bytes). Copy or export it again.")


def read_contents(path):
    """The images of a file as `Contents`: several where its OME metadata declare them, None otherwise.

    Unlike pages of other files are thumbnails and labels more often than images.
    """
    _check_start(path)
    with _report_damage(path), tifffile.TiffFile(path) as tiff:
        if tiff.is_ome and len(ome_pixels(tiff.ome_metadata)) > 1:
            return _find_images(path, tiff)[-1]
    return None


def _find_images(path, tiff):
    """The images of a file: tifffile's series, their calibrations, and both as `Contents`.

    OME metadata also list those of other files of a set, and LSM files small copies: these are left out.
    """
    check_page_list(path, tiff)
    if tiff.is_ome:
        check_ome(path, tiff.ome_metadata)
    images = [*zip(tiff.series, read_calibrations(tiff), strict=True)]
    own = [pair for pair in images if pair[0].is_multifile or pair[0].keyframe.parent is tiff]
    images, calibrations = zip(*(own or images)[: 1 if tiff.is_lsm else None], strict=True)
    kinds = [(image.shape, image.axes, image.dtype, image.keyframe.hash) for image in images]
    titles = [image.name if image.kind == "ome" else "" for image in images]
    sizes = [voxel_size for voxel_size, _, _ in calibrations]
    return images, calibrations, Contents(titles, kinds, sizes, long_axes(images[0].axes, images[0].shape))


def _read_plain(file, offset, shape, dtype, region):
    """Read a region of an array that lies in a file without gaps; reads as few stretches as are worth it."""
    sizes = region_shape(region)
    part = np.empty(sizes, dtype)
    axis = len(shape)  # the axes from here on are read in one stretch
    inner = 1  # values of a stretch
    while axis and sizes[axis:] == tuple(shape[axis:]):
        axis -= 1
        inner = sizes[axis] * math.prod(shape[axis + 1 :])
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]  # values from one index to the next
    longer = (sizes[axis - 1] - 1) * steps[axis - 1] + inner if axis else math.inf
    has_gaps = longer <= MOST_SKIPPED * inner * sizes[axis - 1]  # to skip them costs less than more calls
    axis -= has_gaps
    stretch = np.empty(longer, dtype) if has_gaps else None
    strides = [step * part.itemsize for step in steps[axis:]]
    first = sum(s.start * step for s, step in zip(region, steps, strict=True))
    for where in itertools.product(*map(range, sizes[:axis])):
        start = first + sum(i * step for i, step in zip(where, steps, strict=False))
        target = stretch if has_gaps else part[where].reshape(-1)
        _read_into(file, offset + start * part.itemsize, target)
        if has_gaps:
            part[where] = np.lib.stride_tricks.as_strided(stretch, sizes[axis:], strides)
    return part


def _read_into(file, offset, array):
    """Fill an array from a place in a file."""
    target, done = memoryview(array.view(np.uint8)), 0
    file.seek(offset)
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise ValueError(f"{file.name} has become shorter since it was opened. Open it again.")
        done += count
