"""Images in Zarr folders as one lazy array: OME-Zarr (NGFF) 0.4 and 0.5, and plain Zarr arrays.

An OME-Zarr folder is one image, or a collection of them: several scenes of a file, the fields of a well, the wells
of a plate. Images of one shape are positions, the axis P. Of each image the level of full resolution is read, chunk
by chunk, only those that a region touches; the last ones are kept in a cache of limited size, so that tiles which
overlap do not decode them again. Where Zarr 3 packs many chunks into one file (a shard), the chunk is what is read.

A chunk that is not stored is no damage: by the standard it holds the fill value.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import stat
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rcan.atomic_io import read_json
from rcan.failures import install_command
from rcan.io.cache import cache
from rcan.io.images import Contents, find_image
from rcan.io.metadata import SECONDS_PER_UNIT, UM_PER_UNIT, calibrate, long_axes, name_axes
from rcan.io.paths import ZARR_METADATA_FILES, is_zarr
from rcan.io.volume import FileStates, native_dtype, report_damage
from rcan.memory import free_memory
from rcan.regions import chunk_region, paste, region_shape, touched_chunks

# NGFF spells units out, as UDUNITS does; short ones are written all the same.
_PREFIXES = {"pico": 1e-12, "nano": 1e-9, "micro": 1e-6, "milli": 1e-3, "centi": 1e-2, "deci": 0.1, "": 1.0}
_UM = UM_PER_UNIT | {f"{prefix}met{end}": 1e6 * by for prefix, by in _PREFIXES.items() for end in ("er", "re")}
_SECONDS = SECONDS_PER_UNIT | {f"{prefix}second": by for prefix, by in _PREFIXES.items()}
_SECONDS |= {"minute": 60.0, "day": 86400.0}
_AXIS_OF_TYPE = {"time": "T", "channel": "C"}
_MOST_CHUNKS_FOR_ONE = 10**4  # that is stored: the others may have the fill value
_LARGEST_OVERHEAD = 2**20  # bytes of a stored chunk beyond twice the decoded one


class StoredImage(NamedTuple):
    """One image of a Zarr folder."""

    array: Any  # zarr.Array of full resolution
    letters: str  # of its dimensions, as the three below
    scale: tuple  # size of a voxel, or None
    units: tuple
    labels: tuple  # of the channels
    metadata_files: list[Path]

    def steps(self, axes):
        """Step and unit by axis; `axes` has a letter for each dimension."""
        return dict(zip(axes, zip(self.scale, self.units, strict=True), strict=True))

    def chunk_finder(self, path):
        """A function that tells whether there is a file with a chunk, by its number.

        It refuses one that is no file, or too large to be a chunk, before a codec gets it; `path` is for messages.
        """
        array, root, encode = self.array, str(self.array.store.root), self.array.metadata.encode_chunk_key
        stored_shape = array.shards or array.chunks
        per_file = [stored // size for stored, size in zip(stored_shape, array.chunks, strict=True)]
        most = 2 * math.prod(stored_shape) * array.dtype.itemsize + _LARGEST_OVERHEAD

        def is_stored(number):
            """Whether the file with this chunk is there."""
            key = encode(tuple(i // count for i, count in zip(number, per_file, strict=True)))
            try:
                found = os.stat(f"{root}/{key}")
            except FileNotFoundError:
                return False  # all of it has the fill value
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                what = f"of {found.st_size / 1e6:.3g} MB" if stat.S_ISREG(found.st_mode) else "not a file"
                name = (Path(root) / key).relative_to(path)
                raise ValueError(f"{path} is damaged: its chunk {name} is {what}. Copy or export it again.")
            return True

        return is_stored


def import_zarr(path):
    """Import zarr 3, or raise an ImportError that says how to get it for this path."""
    with contextlib.suppress(ImportError):
        import zarr

        if int(zarr.__version__.split(".")[0]) >= 3:
            return zarr
    raise ImportError(f"{path} is a Zarr image, which needs zarr 3: {install_command('zarr')} (Python 3.11 or newer).")


class ZarrSource:
    """One Zarr image, or the images of a collection along P, as one array, see `rcan.io.volume.Source`.

    A folder is an image, a plain array, a well or a plate, or the scenes of a file (bioformats2raw.layout). `image`,
    the number or folder of an image of a collection, takes one of them. The calibration is that of the first image.
    """

    def __init__(self, path, axes=None, image=None):
        self.path = path
        self._owner = object()  # of what the cache keeps of this image
        self._states = FileStates(path)
        zarr = import_zarr(path)
        with report_damage(path, "Zarr", passing=MemoryError):
            if image is None:
                found, contents = _open_images(zarr, path)
                chosen, left_out = contents.choose(path, image, axes)
                self._images = [found[i] for i in chosen]
            else:
                folders, titles = _find_images(path)
                self._images, left_out = [_open_image(zarr, folders[find_image(path, titles, image)])], None
            first, num_images = self._images[0], len(self._images)
            for image in self._images:
                for file in image.metadata_files:
                    self._states.note(file)
            self._check_format(first.array)
            self._has_positions = len(self._images) > 1
            named, assumption = name_axes(path, first.letters, first.array.shape, self._inner_axes(axes))
            self.axes = "P" * self._has_positions + named
            self.shape = (num_images,) * self._has_positions + first.array.shape
            self.dtype = native_dtype(first.array.dtype)
            self._calibrate(first, named)
        for message in filter(None, (left_out, assumption)):
            warnings.warn(message, stacklevel=4)  # points to who called `open_volume`

    def _inner_axes(self, axes):
        """The part of the axes named by the user that belongs to one image."""
        if axes is None or not self._has_positions:
            return axes
        if axes[0] != "P":
            raise ValueError(
                f"{self.path} cannot have the axes {axes!r}: it holds {len(self._images)} images of one shape, so "
                f"P comes first: P{axes.replace('P', '')}. Or open one of its images alone."
            )
        return axes[1:]

    def _check_format(self, array):
        """Refuse values that are no intensities, and chunks too large for the memory that is free."""
        if array.dtype.kind not in "buif":
            raise ValueError(
                f"{self.path} stores values of an unsupported kind ({array.dtype}): integers or real numbers "
                "are expected. Save it as uint16 or float32."
            )
        if 0 in array.shape:
            raise ValueError(f"{self.path} is {array.shape}: it holds no pixels. Export it again.")
        num_bytes = math.prod(array.chunks) * array.dtype.itemsize
        if num_bytes > free_memory():
            raise ValueError(
                f"{self.path} has chunks of {array.chunks}, each {num_bytes / 2**30:.1f} GiB, which do not fit the "
                "memory that is free. Store it in smaller chunks."
            )
        stored_shape = array.shards or array.chunks
        num_files = math.prod(-(-size // side) for size, side in zip(array.shape, stored_shape, strict=True))
        if not _holds(array.store.root, num_files // _MOST_CHUNKS_FOR_ONE):
            raise ValueError(
                f"{self.path} is damaged: by its metadata it is {array.shape}, {num_files:,} chunks, but hardly "
                "anything is stored. Copy or export it again, in larger chunks if it is as empty as that."
            )

    def _calibrate(self, image, named):
        """Read voxel size, time step and channel names."""
        axes = [letter if name == "_" else name for name, letter in zip(named, image.letters, strict=True)]
        steps = image.steps(axes)
        self.voxel_size = tuple(calibrate(*steps.get(axis, (None, None)), _UM) for axis in "ZYX")
        self.time_step = calibrate(*steps.get("T", (None, None)), _SECONDS)
        self.channel_names = image.labels if all(image.labels) else None

    def read(self, region):
        """Read a part of the array, see `rcan.io.volume.Source`."""
        part = np.empty(region_shape(region), self.dtype)
        positions, images = (0,), part[np.newaxis]
        if self._has_positions:
            positions, images = range(len(self._images))[region[0]], part
            region = region[1:]
        with report_damage(self.path, "Zarr", passing=MemoryError):  # a codec's own OSError has no number
            for position, target in zip(positions, images, strict=True):
                for file in self._images[position].metadata_files:
                    self._states.check(file)
                self._read_image(position, region, target)
        return part

    def _read_image(self, position, region, target):
        """Fill `target` from the chunks that a region of one image touches."""
        array, find = self._images[position].array, self._images[position].chunk_finder(self.path)
        is_filled = array.fill_value is not None
        if is_filled:
            target[...] = array.fill_value
        for number in touched_chunks(region, array.chunks):
            chunk = cache.get(self._owner, (position, number))
            if chunk is None and not find(number) and is_filled:
                continue  # an image may have millions that are not stored
            place = chunk_region(number, array.chunks, array.shape)
            if chunk is None:
                chunk = np.asarray(array[place]).astype(self.dtype, copy=False)
                cache.keep(self._owner, (position, number), chunk)
            paste(target, region, chunk, place)

    def signature(self):
        """Return a digest of size and time of modification of all metadata files."""
        files = [file for image in self._images for file in image.metadata_files]
        states = sorted((str(file), *self._states.note(file)) for file in files)
        return {"metadata": hashlib.sha256(json.dumps(states).encode()).hexdigest()}

    def close(self):
        """Free the decoded chunks; the next read decodes them again."""
        cache.drop(self._owner)


def _holds(folder, num_files):
    """Whether a folder has at least so many files."""
    for _, _, files in os.walk(folder) if num_files else ():
        num_files -= len(files)
        if num_files <= 0:
            return True
    return not num_files


def _attributes(folder):
    """Return the OME attributes of a group or array."""
    if (folder / "zarr.json").is_file():
        attributes = read_json(folder / "zarr.json").get("attributes", {})
        return attributes.get("ome", attributes)
    if (folder / ".zattrs").is_file():
        return read_json(folder / ".zattrs")
    if is_zarr(folder):
        return {}
    raise ValueError(
        f"{folder} is missing, or has lost its metadata ({', '.join(ZARR_METADATA_FILES[:2])}). Copy the image again."
    )


def _find_images(path):
    """The folder of each image, and its title: `path` itself, or those of the collection that it is, in their order."""
    attributes = _attributes(path)
    if "multiscales" in attributes or _is_array(path):
        return [path], [""]
    if "plate" in attributes:
        wells = [path / well["path"] for well in attributes["plate"]["wells"]]
        folders = [well / field["path"] for well in wells for field in _attributes(well)["well"]["images"]]
    elif "well" in attributes:
        folders = [path / field["path"] for field in attributes["well"]["images"]]
    elif "bioformats2raw.layout" in attributes:
        names = _attributes(path / "OME").get("series") if is_zarr(path / "OME") else None
        numbers = itertools.takewhile(lambda name: is_zarr(path / name), map(str, itertools.count()))
        folders = [path / name for name in names or numbers]
    else:
        raise ValueError(
            f"{path} is a Zarr group without OME metadata: name the folder of one of its images or arrays."
        )
    if not folders:
        raise ValueError(f"{path} declares no image: it is empty, or has lost metadata. Copy or export it again.")
    places = [folder.relative_to(path).as_posix() for folder in folders]
    return folders, ["" if place.isdecimal() else place for place in places]  # a number, from 0, is no title


def read_contents(path):
    """The images of a folder as `Contents`."""
    zarr = import_zarr(path)
    with report_damage(path, "Zarr", passing=MemoryError):
        return _open_images(zarr, path)[1]


def _open_images(zarr, path):
    """The images of a folder, open and as `Contents`."""
    folders, titles = _find_images(path)
    images = [_open_image(zarr, folder) for folder in folders]
    kinds = [(image.array.shape, image.array.dtype, image.letters) for image in images]
    steps = [image.steps(image.letters) for image in images]
    sizes = [tuple(calibrate(*each.get(axis, (None, None)), _UM) for axis in "ZYX") for each in steps]
    return images, Contents(titles, kinds, sizes, long_axes(images[0].letters, images[0].array.shape))


def _is_array(folder):
    if (folder / "zarr.json").is_file():
        return read_json(folder / "zarr.json").get("node_type") == "array"
    return (folder / ".zarray").is_file()


def _open_image(zarr, folder):
    """Open the array of full resolution; its pixels are not read."""
    attributes = _attributes(folder)
    if _is_array(folder):
        array = zarr.open_array(folder, mode="r")
        names = getattr(array.metadata, "dimension_names", None) or ("",) * (array.ndim - 2) + ("y", "x")
        unknown = (None,) * array.ndim
        return StoredImage(array, _letters(names), unknown, unknown, (), _metadata_files(folder))
    multiscale = attributes["multiscales"][0]
    level = multiscale["datasets"][0]
    if not _is_array(folder / level["path"]):
        raise ValueError(f"{folder} has lost its array {level['path']!r}. Copy or export it again.")
    array = zarr.open_array(folder / level["path"], mode="r")
    # before 0.3 axes had no names: the standard knew five, in this order
    axes = multiscale.get("axes") or list("tczyx")[-array.ndim :]
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]
    letters = _letters([axis["name"] for axis in axes], [axis.get("type") for axis in axes])
    steps = [
        transformation["scale"]
        for part in (level, multiscale)
        for transformation in part.get("coordinateTransformations") or ()
        if "scale" in transformation
    ]
    if any(len(numbers) != array.ndim for numbers in (axes, *steps)):
        raise ValueError(
            f"{folder} is damaged: its array has {array.ndim} dimensions, its metadata describe "
            f"{' and '.join(str(len(numbers)) for numbers in (axes, *steps))}. Export it again."
        )
    scale = [math.prod(factors) for factors in zip(*steps, strict=True)] if steps else (None,) * array.ndim
    labels = tuple(channel.get("label") for channel in attributes.get("omero", {}).get("channels", ()))
    units = tuple(axis.get("unit") for axis in axes)
    files = _metadata_files(folder, folder / level["path"])
    return StoredImage(array, letters, tuple(scale), units, labels, files)


def _letters(names, types=()):
    """Return a letter for each axis: that of its name, else that of its type, else Q for an unknown axis."""
    types = types or (None,) * len(names)
    return "".join(
        name.upper() if name in [*"tczyxTCZYX"] else _AXIS_OF_TYPE.get(kind, "Q")
        for name, kind in zip(names, types, strict=True)
    )


def _metadata_files(*folders):
    files = [folder / name for folder in folders for name in ZARR_METADATA_FILES]
    return [file for file in files if file.is_file()]
