"""OME-Zarr images (NGFF 0.4 and 0.5) written block by block, complete or not at all.

Blocks come in any shape, Zarr stores chunks: a chunk stays in memory until all of its voxels are there and is then
compressed once. Blosc with Zstandard is what readers of either Zarr version know; its bit shuffle puts the noisy
low bits of intensities apart from the quiet high ones. Of a denoised stack (uint16, float32) it stores about 15 % less
than plain Zstandard of the same level, and is as fast.

At the end each image gets its pyramid: every level holds averages of the level before, down to a size that viewers
can show at once. An averaged voxel lies between those that it stands for: this is the translation of its level.
"""

import errno
import itertools
import math
import shutil
from pathlib import Path

import numpy as np

from rcan.atomic_io import partial_path, replace_folder, report_errors_as
from rcan.intensity import to_dtype
from rcan.io.paths import image_name, is_zarr
from rcan.io.volume import check_space, place_block
from rcan.io.zarr import import_zarr
from rcan.regions import (
    chunk_region,
    cut_into_grid,
    intersect,
    region_shape,
    relative_region,
    scale_region,
    touched_chunks,
)

STORED_AXES = "TCZYX"  # the order that NGFF demands
ZARR_FORMATS = {"0.4": 2, "0.5": 3}
CHUNK_PLANES = 16
CHUNK_BYTES = 2 * 2**20  # decoded, at most: some ms to decode, and few enough files
PENDING_BYTES = 32 * 10**6  # of incomplete chunks that are kept in memory
SMALLEST_PLANE = 256  # pixels along y and x of the last level, at most
NEARLY_ISOTROPIC = 1.5  # times the pixel size is the plane distance from which planes are halved as well
MOST_COMPRESSED = 0.1  # share of its size that an image needs at least
COLOURS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")  # of several channels, in turn
AXIS_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


class ZarrSink:
    """An OME-Zarr folder that is being written, see `rcan.io.volume.Sink`; made by `rcan.io.opening.create_volume`.

    A Zarr folder of the same name is replaced at the end, nothing else is. Along P there is an image each, in a
    collection (bioformats2raw.layout 3, without its OME-XML). The notes become the attribute ``"rcan"``. The version
    is that of NGFF: 0.5 in Zarr 3, 0.4 in Zarr 2. `chunk_shape` is (Z, Y, X); `writer`, a `ZarrWriter`, is what other
    processes get, pickled, to write other chunks of the same image.
    """

    def __init__(
        self,
        path,
        axes,
        sizes,
        dtype,
        voxel_size=(None, None, None),
        channel_names=None,
        time_step=None,
        *,
        version="0.5",
    ):
        import_zarr(path)
        self.path = path = Path(path)
        self.display_range = None
        self.notes = {}
        self._version = version
        self._dtype = np.dtype(dtype)
        self._axes = "".join(axis for axis in STORED_AXES if axis in axes)
        self._shape = tuple(int(sizes[axis]) if axis in axes else 1 for axis in STORED_AXES)
        self._voxel_size, self._channel_names, self._time_step = voxel_size, channel_names, time_step
        # absolute, as other processes may have another working directory
        self._partial = partial_path(path.absolute())
        self._is_complete = False
        self._folders = [self._partial]
        if "P" in axes:
            self._folders = [self._partial / str(position) for position in range(int(sizes["P"]))]
        self.chunk_shape = _chunk_shape(self._shape[2:], self._dtype.itemsize)
        self._factors = _pyramid(self._shape[2:], voxel_size)
        self.writer = ZarrWriter(path, self._folders, self._axes, self._shape, self._dtype, self.chunk_shape)

    def __enter__(self):
        zarr = import_zarr(self.path)
        try:
            with report_errors_as(self.path):
                self._check_place()
                shutil.rmtree(self._partial, ignore_errors=True)  # of a killed process of the same number
                self._partial.mkdir()
                for folder in self._folders:
                    self._create_array(zarr, folder / "0", self._shape)
        except BaseException:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise
        return self

    def _check_place(self):
        """Refuse to replace anything but a Zarr folder, and to write where there is too little room."""
        if self.path.exists() and not is_zarr(self.path):
            rule = "exists and is no Zarr folder, which alone is replaced: choose another name"
            raise FileExistsError(errno.EEXIST, rule, str(self.path))
        num_bytes = len(self._folders) * math.prod(self._shape) * self._dtype.itemsize
        check_space(self.path, num_bytes, least_share=MOST_COMPRESSED)

    def _create_array(self, zarr, folder, shape):
        """Create the array of one level; `shape` is TCZYX."""
        import numcodecs

        if self._version == "0.4":
            options = {
                "compressors": numcodecs.Blosc("zstd", clevel=3, shuffle=numcodecs.Blosc.BITSHUFFLE),
                "chunk_key_encoding": {"name": "v2", "separator": "/"},
            }
        else:
            options = {
                "compressors": zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
                "dimension_names": list(self._axes.lower()),
            }
        return zarr.create_array(
            folder,
            shape=self._stored(shape),
            chunks=self._stored((1, 1, *map(min, self.chunk_shape, shape[2:]))),
            dtype=self._dtype,
            fill_value=0,
            zarr_format=ZARR_FORMATS[self._version],
            **options,
        )

    def _stored(self, values):
        """Return those of five values, for T, C, Z, Y and X, whose axes are stored."""
        return tuple(value for axis, value in zip(STORED_AXES, values, strict=True) if axis in self._axes)

    def write(self, frame, region, block):
        """Write one block, see `rcan.io.volume.Sink.write`."""
        self.writer.write(frame, region, block)

    def complete(self):
        """Finish the image under its partial name, see `rcan.io.volume.Sink.complete`."""
        if not self._is_complete:
            with report_errors_as(self.path):
                self.writer.flush()
                self._add_levels_and_metadata()
            self._is_complete = True
        return self._partial

    def __exit__(self, exception_type, *exception):
        try:
            if exception_type is None:
                self.complete()
                with report_errors_as(self.path):
                    replace_folder(self._partial, self.path)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _add_levels_and_metadata(self):
        zarr = import_zarr(self.path)
        for folder in self._folders:
            self._build_pyramid(zarr, folder)
            notes = {"rcan": self.notes} if self.notes else {}
            self._create_group(zarr, folder, self._image_metadata(), notes)
        if self._folders != [self._partial]:
            names = [folder.name for folder in self._folders]
            self._create_group(zarr, self._partial, {"bioformats2raw.layout": 3})
            self._create_group(zarr, self._partial / "OME", {"series": names})

    def _create_group(self, zarr, folder, metadata, notes=None):
        """Create a group with NGFF's metadata and other attributes."""
        if self._version != "0.4":
            metadata = {"ome": {"version": self._version, **metadata}}
        attributes = {**metadata, **(notes or {})}
        zarr.create_group(folder, zarr_format=ZARR_FORMATS[self._version], attributes=attributes)

    def _build_pyramid(self, zarr, folder):
        """Average each level into the next one, chunk by chunk."""
        finer = zarr.open_array(folder / "0", mode="r")
        for level, (before, factor) in enumerate(itertools.pairwise(self._factors), 1):
            shape = (*self._shape[:2], *_reduced(self._shape[2:], factor))
            coarser = self._create_array(zarr, folder / str(level), shape)
            steps = self._stored((1, 1, *map(int, factor // before)))
            for where in cut_into_grid(coarser.shape, coarser.chunks):
                coarser[where] = _average(finer[scale_region(where, steps)], steps)
            finer = coarser

    def _image_metadata(self):
        """NGFF's metadata of one image."""
        sizes = (self._time_step, None, *self._voxel_size)
        first = np.array([size or 1.0 for size in sizes])
        axes = []
        for axis, size in zip(self._axes, self._stored(sizes), strict=True):
            unit = {"unit": "second" if axis == "T" else "micrometer"} if size else {}
            axes.append({"name": axis.lower(), "type": AXIS_TYPES[axis], **unit})
        datasets = []
        for level, factor in enumerate(self._factors):
            factors = np.array((1, 1, *factor))
            scale = self._stored((first * factors).tolist())
            shift = self._stored((first * (factors - 1) / 2).tolist())
            transformations = [{"type": "scale", "scale": scale}]
            transformations += [{"type": "translation", "translation": shift}] if level else []
            datasets.append({"path": str(level), "coordinateTransformations": transformations})
        multiscale = {"name": image_name(self.path), "type": "mean", "axes": axes, "datasets": datasets}
        multiscale |= {"version": self._version} if self._version == "0.4" else {}
        return {"multiscales": [multiscale]} | self._display_metadata()

    def _display_metadata(self):
        """Names and display windows of the channels; the standard wants a window for each that is named."""
        if self.display_range is None and not self._channel_names:
            return {}
        limits = np.iinfo(self._dtype) if self._dtype.kind in "iu" else None
        shown = self.display_range
        if shown is None:
            shown = (limits.min, limits.max) if limits else (0, 1)
        num_channels = self._shape[STORED_AXES.index("C")]
        colours, channels = itertools.cycle(COLOURS if num_channels > 1 else ("FFFFFF",)), []
        for low, high in np.broadcast_to(np.asarray(shown, float), (num_channels, 2)).tolist():
            window = {"min": low, "max": high, "start": low, "end": high}
            if limits:
                window |= {"min": float(limits.min), "max": float(limits.max)}
            channels.append({"active": True, "color": next(colours), "window": window})
        for channel, name in zip(channels, self._channel_names or (), strict=False):
            channel["label"] = name
        return {"omero": {"channels": channels}}


class ZarrWriter:
    """Writes blocks into images of full resolution; can be pickled, and used from one thread.

    Several processes may each have one if they write different chunks: regions that begin and end at multiples of
    the `chunk_shape` of the `ZarrSink`. Each calls `flush` at its end, before the `with` block of the sink ends.
    """

    def __init__(self, path, folders, axes, shape, dtype, chunk_shape):
        self._path = path  # final name, for messages
        self._folders = folders  # of the images along P, or of the only one
        self._axes, self._shape = axes, shape  # stored axes; TCZYX
        self._dtype, self._chunk_shape = dtype, chunk_shape  # (Z, Y, X)
        self._arrays = {}  # open ones, by position
        self._pending = {}  # incomplete chunks, the oldest first, by (p, t, c, z, y, x)
        self._missing = {}  # voxels that are not written yet, by chunk that has been begun

    def __getstate__(self):
        return {**self.__dict__, "_arrays": {}, "_pending": {}, "_missing": {}}

    def write(self, frame, region, block):
        """Write one block, see `rcan.io.volume.Sink.write`."""
        sizes = dict(zip(STORED_AXES, self._shape, strict=True))
        block, (*region, channels) = place_block(self._path, frame, region, block, sizes)
        with report_errors_as(self._path):
            for i in range(block.shape[-1]):
                for number in touched_chunks(region, self._chunk_shape):
                    key = (frame.get("P", 0), frame.get("T", 0), channels.start + i, *number)
                    self._fill(key, block[..., i], region)

    def flush(self):
        """Write the chunks that are still incomplete."""
        with report_errors_as(self._path):
            while self._pending:
                self._store_oldest()

    def _fill(self, key, part, region):
        """Copy into the chunk of a key what a part (Z, Y, X), which fills a region, has of it."""
        place = chunk_region(key[3:], self._chunk_shape, self._shape[2:])
        common = intersect(region, place)
        values, _ = to_dtype(part[relative_region(common, region)], self._dtype)
        shape = region_shape(place)
        missing = self._missing.get(key, math.prod(shape)) - values.size
        chunk = self._pending.pop(key, None)
        if chunk is None and key in self._missing and values.shape != shape:
            array, where = self._locate(key)
            chunk = array[where].reshape(shape)
        elif chunk is None:
            chunk = np.zeros(shape, self._dtype)
        chunk[relative_region(common, place)] = values
        self._missing[key] = missing
        if missing <= 0:
            self._store(key, chunk)
            return
        self._pending[key] = chunk
        chunk_bytes = math.prod(self._chunk_shape) * self._dtype.itemsize
        if len(self._pending) * chunk_bytes > PENDING_BYTES:
            self._store_oldest()

    def _store_oldest(self):
        key = next(iter(self._pending))
        self._store(key, self._pending.pop(key))

    def _store(self, key, chunk):
        array, where = self._locate(key)
        array[where] = chunk.reshape(region_shape(where))

    def _locate(self, key):
        """Return the array of a chunk, and its place there."""
        position, *number = key
        if position not in self._arrays:
            zarr, folder = import_zarr(self._path), self._folders[position]
            self._arrays[position] = zarr.open_array(folder / "0", mode="r+")
        region = chunk_region(number, (1, 1, *self._chunk_shape), self._shape)
        stored = (part for axis, part in zip(STORED_AXES, region, strict=True) if axis in self._axes)
        return self._arrays[position], tuple(stored)


def _chunk_shape(shape, itemsize):
    """Return the shape of chunks: a few planes, and along y and x a power of two that `CHUNK_BYTES` hold."""
    planes = min(CHUNK_PLANES, shape[0])
    side = 2 ** int(math.log2(CHUNK_BYTES / (planes * itemsize)) / 2)
    return planes, min(side, shape[1]), min(side, shape[2])


def _pyramid(shape, voxel_size):
    """Return by how much each level is coarser than the first along z, y and x.

    Z is halved from the level on where planes lie about as close as pixels; never where the distances are unknown.
    """
    factors = [np.ones(3, int)]
    while max(_reduced(shape[1:], factors[-1][1:])) > SMALLEST_PLANE:
        before = factors[-1]
        is_halved = np.array([False, True, True])
        if None not in voxel_size:
            z, y, x = before * voxel_size
            is_halved[0] = z <= NEARLY_ISOTROPIC * max(y, x)
        is_halved &= np.array(_reduced(shape, before)) > 1
        factors.append(np.where(is_halved, 2 * before, before))
    return factors


def _reduced(shape, factors):
    return tuple(-(-size // int(factor)) for size, factor in zip(shape, factors, strict=True))


def _average(cells, steps):
    """Average pairs along the axes whose step is 2; the last one of an odd number stands for itself."""
    averages = cells.astype(np.result_type(cells.dtype, np.float32))
    for axis, step in enumerate(steps):
        if step == 2:
            along = np.moveaxis(averages, axis, 0)
            pairs = along[::2].copy(order="K")
            pairs[: len(along) // 2] += along[1::2]
            pairs[: len(along) // 2] /= 2
            averages = np.moveaxis(pairs, 0, axis)
    return np.rint(averages) if cells.dtype.kind in "iu" else averages
