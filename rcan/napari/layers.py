"""Image layers of napari as images of this package, and restored images as layers.

Nothing of a layer is copied or computed before it is read: layers of dask and Zarr stay lazy.
"""

import itertools
import math
from pathlib import Path

import numpy as np

from rcan.failures import as_one_line
from rcan.intensity import CELL
from rcan.io.opening import FORMATS, create_volume
from rcan.io.volume import Volume, are_valid_axes, native_dtype, report_damage
from rcan.progress import Progress

__all__ = ["LayerSource", "list_axes", "make_layer", "open_levels", "save_layer"]

_CHOICES = {  # by number of dimensions, the likeliest first
    2: ("YX",),
    3: ("ZYX", "TYX", "CYX"),
    4: ("TZYX", "CZYX", "ZCYX", "TCYX", "CTYX", "ZTYX"),
    5: ("TCZYX", "TZCYX", "CTZYX", "CZTYX", "ZTCYX", "ZCTYX"),
}
_LETTERS = {
    **{axis.lower(): axis for axis in "TCZYX"},
    **{"time": "T", "frame": "T", "ch": "C", "channel": "C", "channels": "C", "plane": "Z"},
}
_LARGEST_CHUNK = 2**24  # voxels; larger ones are not read as a whole
_COPIED_VOXELS = 2**22  # at a time
# What a restored layer has in common with its raw layer:
_LOOK = ("colormap", "contrast_limits", "gamma", "blending", "rendering", "interpolation2d", "interpolation3d")
_PLACE = ("rotate", "shear", "affine")


def list_axes(layer):
    """Axes that a layer may have, the likeliest first: those of its labels, or others of as many dimensions.

    A ValueError says that it is no image of 2 to 5 dimensions.
    """
    if layer.rgb:
        raise ValueError(f"{layer.name} is a colour picture: split it into channels (right click, Split RGB).")
    if layer.ndim not in _CHOICES:
        raise ValueError(f"{layer.name} has {layer.ndim} dimensions: images have 2 to 5 (T, C, Z, Y, X).")
    labels = [str(label).strip().lower() for label in getattr(layer, "axis_labels", ())]
    named = "".join(_LETTERS.get(label, "?") for label in labels)
    first = [named] if are_valid_axes(named) else []
    return list(dict.fromkeys([*first, *_CHOICES[layer.ndim]]))


class LayerSource:
    """The array of a layer, of axes such as ``"TCZYX"``, as a `rcan.io.volume.Source`; of several levels the finest.

    ``check()`` is called before each reading; an exception that it raises ends the work. `state` is what napari knows
    of the layer besides its array. Where the units of a layer are not lengths, a scale other than 1 is taken for µm.
    """

    channel_names = None

    def __init__(self, layer, axes, *, check=lambda: None):
        if axes not in list_axes(layer):
            raise ValueError(f"{layer.name} has {layer.ndim} dimensions, its axes cannot be {axes}: choose others.")
        self.check = check
        self._data = layer.data[0] if layer.multiscale else layer.data
        self.path, self.axes, self.shape = Path(as_one_line(layer.name)), axes, tuple(map(int, self._data.shape))
        stored = np.dtype(self._data.dtype)
        if stored.kind not in "buif":
            raise ValueError(f"{layer.name} is of type {stored}: intensities are integers or floating-point numbers.")
        self.dtype = native_dtype(stored)
        _, self.state, _ = layer.as_layer_data_tuple()
        steps = dict(zip(axes, map(_step_in_um_or_s, layer.scale, self._units(layer)), strict=True))
        lateral = [steps[axis] for axis in "YX"]
        is_calibrated = any(unit for unit, _ in lateral) or {step for _, step in lateral} != {1.0}
        sizes = {axis: step for axis, (unit, step) in steps.items() if unit in (None, "um") and is_calibrated}
        self.voxel_size = tuple(sizes.get(axis) for axis in "ZYX")
        unit, step = steps.get("T", (None, None))
        self.time_step = step if unit == "s" else None

    @staticmethod
    def _units(layer):
        return getattr(layer, "units", None) or (None,) * layer.ndim

    @property
    def edges(self):
        """Where chunks begin and end, see `rcan.io.volume.Source`; None where they are not known, or too large."""
        chunks = getattr(self._data, "chunks", None)
        if not chunks:
            return None
        if not isinstance(chunks[0], tuple):  # Zarr's are all alike
            sides = zip(chunks, self.shape, strict=True)
            chunks = [[side] * (size // side) + [size % side] * bool(size % side) for side, size in sides]
        if math.prod(max(sides, default=1) for sides in chunks) > _LARGEST_CHUNK:
            return None
        edges = {}
        for axis, sides, size in zip(self.axes, chunks, self.shape, strict=True):
            step = CELL if axis in "YX" else 1  # the cells in which ranges are measured stay whole
            edges[axis] = sorted({0, size, *(end // step * step for end in itertools.accumulate(sides))})
        return {axis: edges[axis] for axis in "ZYX" if axis in edges}

    def read(self, region):
        """Read the part of the array that a slice for each dimension names."""
        self.check()
        with report_damage(self.path, "napari", passing=MemoryError):
            return np.asarray(self._data[region]).astype(self.dtype, copy=False)

    def volume(self):
        """The layer as an open image."""
        return Volume(self, self.axes, "ZYXC")

    def signature(self):
        """Return what makes the array another one: there is no file that could change."""
        return {"layer": id(self._data)}

    def close(self):
        """Keep the array: it is napari's."""


def _step_in_um_or_s(scale, unit):
    """Unit, ``"um"``, ``"s"`` or None where it is none of length or time, and the step in it."""
    scale = abs(float(scale))
    for name in ("um", "s"):
        if unit is not None and unit.is_compatible_with(name):
            return name, float((scale * unit).to(name).magnitude)
    return None, scale


def save_layer(source, path):
    """Write a `LayerSource` as OME-TIFF, with its calibration; types that it does not know become float32."""
    volume = source.volume()
    dtype = volume.dtype if volume.dtype.name in FORMATS["ome"] else np.dtype(np.float32)
    facts = {"axes": volume.axes, "sizes": volume.sizes, "voxel_size": volume.voxel_size}
    num_voxels = len(volume.frames) * math.prod(volume.shape)
    with (
        create_volume(path, dtype=dtype, time_step=volume.time_step, file_format="ome", **facts) as file,
        Progress(num_voxels, f"Writing {source.path}", unit="voxel") as progress,
    ):
        for frame in volume.frames:
            for region in volume.cut(_COPIED_VOXELS // volume.shape[-1]):
                block = volume.read(frame, region, dtype=dtype)
                file.write(frame, region, block)
                progress.advance(block.size)


def open_levels(path):
    """The levels of an OME-Zarr image that this package has written, as lazy arrays, and their axes."""
    import dask.array
    import zarr

    group = zarr.open_group(path, mode="r")
    (image,) = group.attrs["ome"]["multiscales"]
    stored = [group[level["path"]] for level in image["datasets"]]
    axes = "".join(axis["name"].upper() for axis in image["axes"])
    return [dask.array.from_array(level, chunks=level.chunks) for level in stored], axes


def make_layer(source, levels, stored_axes, factors, *, name, **changes):
    """Make a layer of what was restored of a `LayerSource`, as napari takes it: data, attributes, kind.

    `levels` are arrays with the axes `stored_axes`, the finest first; `factors` the voxels for each raw voxel by axis.
    The layer lies where the raw layer does, with the same units and look; `changes` are other attributes. Axes are in
    the order of the raw layer's; channels that it does not have come first.
    """
    axes = "C" * ("C" in stored_axes and "C" not in source.axes) + source.axes
    levels = [_arrange(level, stored_axes, axes) for level in levels]
    state = source.state
    known = {key: state[key] for key in _LOOK if key in state} | {"name": name, "rgb": False}
    num_new = len(axes) - len(source.axes)
    if num_new == 0:
        known |= {key: state[key] for key in _PLACE if key in state}
    step = np.array([1 / factors.get(axis, 1) for axis in source.axes])
    # the first voxel's centre, by which napari places a layer, moves where voxels are smaller
    moved = np.asarray(state["rotate"]) @ (np.asarray(state["scale"]) * (step - 1) / 2)
    known["scale"] = [1.0] * num_new + list(state["scale"] * step)
    known["translate"] = [0.0] * num_new + list(state["translate"] + moved)
    if "units" in state:
        known["units"] = ["pixel"] * num_new + list(state["units"])
        known["axis_labels"] = ["c"] * num_new + list(state["axis_labels"])
    is_multiscale = len(levels) > 1
    return levels if is_multiscale else levels[0], {**known, "multiscale": is_multiscale, **changes}, "image"


def _arrange(array, stored_axes, axes):
    """An array with its axes in another order; those that it does not have are of length 1."""
    missing = [axis for axis in axes if axis not in stored_axes]
    for _ in missing:
        array = array[np.newaxis]
    stored = [*missing, *stored_axes]
    return array.transpose([stored.index(axis) for axis in axes])
