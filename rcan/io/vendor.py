"""Files of microscope makers (CZI, ND2, LIF and others), read plane by plane through bioio's plugins.

Planes are kept in the cache that all files share: a network reads overlapping tiles, and each would otherwise
decode its planes again.
"""

import contextlib
import math
import re
import threading
import warnings

import numpy as np

from rcan.failures import install_command
from rcan.io.cache import cache
from rcan.io.images import Contents, find_image
from rcan.io.metadata import long_axes, name_axes
from rcan.io.volume import FileStates, report_damage
from rcan.regions import region_shape

STORED_AXES = "PTCZYX"
BATCH_BYTES = 2**26  # of planes that are read in one go
PASSING = (OSError, MemoryError, ImportError)  # exceptions of a plugin that say enough


class VendorSource:
    """A microscope's file as one array, see `rcan.io.volume.Source`; scenes that are alike are positions.

    `image`, the number or title of a scene, takes one of them.

    Raises
    ------
    ImportError
        If bioio, or its plugin for the format, is not installed.
    ValueError
        If the file is damaged, a photograph in colour, or has other axes.
    """

    def __init__(self, path, axes=None, image=None):
        self.path = path
        self._owner = object()  # of what the cache keeps of this file
        self._lock = threading.Lock()  # a reader has one current scene
        self._states = FileStates(path)
        with open(path, "rb"):  # a missing file or a lack of rights ends here, as OSError
            self._states.note(path)
        with report_damage(path, path.suffix, passing=PASSING):
            self._reader = _find_reader(path)(str(path))
            if image is None:
                contents = _examine_scenes(path, self._reader)
                self._scenes, left_out = contents.choose(path, image, axes)
                self._reader.set_scene(self._scenes[0])
                shape, self.dtype = contents.kinds[self._scenes[0]]
            else:
                titles = [*map(str, self._reader.scenes)]
                self._scenes, left_out = [find_image(path, titles, image)], None
                self._reader.set_scene(self._scenes[0])
                shape, self.dtype = _examine(path, self._reader)
        self.shape = (len(self._scenes), *shape)
        self.axes, assumption = name_axes(path, STORED_AXES, self.shape, axes)
        self._read_calibration()
        for message in filter(None, (left_out, assumption)):
            warnings.warn(message, stacklevel=4)  # points to who called `open_volume`

    def _read_calibration(self):
        """Note voxel size, channel names and time step, each unknown where the plugin does not find it."""
        found = {}
        for name in ("channel_names", "time_interval"):
            with contextlib.suppress(Exception):  # plugins differ in how they say that there is none
                found[name] = getattr(self._reader, name)
        self.voxel_size = _voxel_size(self._reader)
        interval = found.get("time_interval")
        seconds = interval.total_seconds() if interval else 0
        self.time_step = seconds if seconds > 0 else None
        names = tuple(map(str, found.get("channel_names") or ()))
        is_made_up = any(re.fullmatch(r"Channel:\d+(:\d+)*", name) for name in names)  # by the plugin
        self.channel_names = None if is_made_up else names

    def read(self, region):
        """Read a part of the array, see `rcan.io.volume.Source`."""
        part = np.empty(region_shape(region), self.dtype)
        *stacks, planes = (range(side.start, side.stop) for side in region[:4])
        for where in np.ndindex(part.shape[:3]):
            stack = tuple(indices[i] for indices, i in zip(stacks, where, strict=True))
            for i, plane in enumerate(self._planes(stack, planes)):
                part[(*where, i)] = plane[region[4:]]
        return part

    def _planes(self, stack, planes):
        """Yield planes of a stack (position, time point, channel), from the file or from the cache."""
        step = len(planes)
        if self._reads_planes():
            step = max(1, BATCH_BYTES // (math.prod(self.shape[-2:]) * self.dtype.itemsize))
        for first in range(0, len(planes), step):
            wanted = planes[first : first + step]
            found = {z: cache.get(self._owner, (stack, z)) for z in wanted}
            missing = [z for z, plane in found.items() if plane is None]
            if missing:
                for z, plane in zip(missing, self._decode(stack, missing), strict=True):
                    found[z] = plane.copy()  # a view would keep the others in memory
                    cache.keep(self._owner, (stack, z), found[z])
            yield from found.values()

    def _decode(self, stack, planes):
        """Read planes of a stack, (Z, Y, X)."""
        position, time_point, channel = stack
        with self._lock, report_damage(self.path, self.path.suffix, passing=PASSING):
            self._states.check(self.path)
            self._reader.set_scene(self._scenes[position])
            chosen = {"T": time_point, "C": channel, "Z": planes}
            if self._reads_planes():
                return self._reader.get_image_data("ZYX", **chosen)
            return self._reader.get_image_dask_data("ZYX", **chosen).compute(scheduler="synchronous")

    def _reads_planes(self):
        """Whether the plugin reads single planes itself; through dask that takes seconds in a file of thousands."""
        from bioio_base.reader import Reader

        return type(self._reader)._read_indexed is not Reader._read_indexed

    def signature(self):
        """Return size and time of modification of the file."""
        size, modified = self._states.note(self.path)
        return {"size": size, "modified": modified}

    def close(self):
        """Free the decoded planes; the next read decodes them again."""
        cache.drop(self._owner)


def read_contents(path):
    """The images of a file as `Contents`."""
    with report_damage(path, path.suffix, passing=PASSING):
        return _examine_scenes(path, _find_reader(path)(str(path)))


def _examine_scenes(path, reader):
    """The scenes of an open file as `Contents`."""
    titles, kinds, sizes = [str(scene) for scene in reader.scenes], [], []
    for scene in range(len(titles)):
        reader.set_scene(scene)
        try:
            with report_damage(path, path.suffix, passing=PASSING):
                kinds.append(_examine(path, reader))
        except ValueError as failure:  # of this scene; others may be sound
            kinds.append(failure)
        sizes.append(_voxel_size(reader))
    first = next((kind[0] for kind in kinds if isinstance(kind, tuple)), (1,) * 5)
    return Contents(titles, kinds, sizes, long_axes(STORED_AXES[1:], first))


def _examine(path, reader):
    """Shape (T, C, Z, Y, X) and type of a scene; refuse one that is no stack of grey planes."""
    sizes = dict(zip(reader.dims.order, reader.dims.shape, strict=True))
    dtype = np.dtype(reader.dtype).newbyteorder("=")
    if sizes.get("S", 1) > 1:
        raise ValueError(
            f"{path} is a colour photograph (RGB): grey values of one or more channels are expected. "
            "Split its channels, and save them along a C axis."
        )
    others = {axis: size for axis, size in sizes.items() if size > 1 and axis not in STORED_AXES[1:]}
    if others:
        found = ", ".join(f"{axis}: {size}" for axis, size in others.items())
        raise ValueError(
            f"{path} has dimensions other than T, C, Z, Y and X ({found}; M is for the tiles of a mosaic): "
            "export the part that is to be restored, stitched if need be, as OME-TIFF."
        )
    if sizes.get("Y", 1) == 1 and sizes.get("Z", 1) > 1:
        raise ValueError(
            f"{path} is an XZ scan, planes of one line along Y: planes along X and Y are restored. Leave it out, or "
            "export it as TIFF with its Z as Y."
        )
    if dtype.kind not in "buif":
        raise ValueError(f"{path} stores {dtype}: integers or real numbers are expected.")
    return tuple(sizes.get(axis, 1) for axis in STORED_AXES[1:]), dtype


def _voxel_size(reader):
    """Voxel size of the current scene, (z, y, x) in µm, None where the plugin does not find it."""
    sizes = None
    with contextlib.suppress(Exception):  # plugins differ in how they say that there is none
        sizes = reader.physical_pixel_sizes
    return tuple(float(size) if size and size > 0 else None for size in sizes or (None, None, None))


def _find_reader(path):
    """Return the reader of bioio's plugin for the suffix of a path."""
    with contextlib.suppress(ImportError):
        from bioio.plugins import get_plugins

        plugins = get_plugins(use_cache=True).get(path.suffix.lower())
        if plugins:
            return plugins[0].metadata.get_reader()
    raise ImportError(
        f"{path} needs bioio and its plugin for {path.suffix} files: {install_command('bioio')} brings those for .czi, "
        ".nd2 and .lif; for others add bioio-bioformats."
    )
