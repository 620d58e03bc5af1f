"""Axes and calibration of an image from the metadata of its file.

The calibration is read from TIFF files as tifffile has parsed them: a `TiffFile` and its first `TiffPageSeries`.
"""

import math
import re
from xml.etree import ElementTree


def _by_unit(units_by_factor):
    return {unit: factor for factor, units in units_by_factor.items() for unit in units.split()}


UM_PER_UNIT = _by_unit(
    {
        1e-6: "pm",
        1e-4: "angstrom å",
        1e-3: "nm nanometer",
        1.0: "um micron microns micrometer micrometre",
        1e3: "mm millimeter",
        1e4: "cm",
        25400.0: "inch in",
        1e6: "m meter",
    }
)
SECONDS_PER_UNIT = _by_unit(
    {1e-9: "ns", 1e-6: "us", 1e-3: "ms msec", 1.0: "s sec", 60.0: "min", 3600.0: "h hr hour", 86400.0: "d"}
)
_NOT_KNOWN = ((None, None, None), None, None)
MAX_PLANES = 10**7  # no TIFF holds more: the number is damaged. A list of this length still fits memory


def name_axes(path, letters, shape, axes=None):
    """Name the axis of each stored dimension, `_` for one of length 1; return the names and a warning or None.

    `letters` are those of the metadata: P (positions), T, C, Z, Y, X, S (samples of a pixel), or another one for an
    unknown axis. The user's `axes` come first: a letter for each dimension, or each one longer than 1; further ones
    have length 1.

    >>> name_axes("cell.tif", "QYX", (60, 256, 256))
    ('ZYX', None)
    >>> name_axes("cell.tif", "TZCYXS", (1, 60, 1, 256, 256, 1))
    ('_Z_YX_', None)
    >>> name_axes("cell.tif", "YX", (256, 256), "ZYX")
    ('YX', None)
    """
    dimensions = list(enumerate(zip(letters, shape, strict=True)))
    kept = [i for i, (letter, size) in dimensions if size > 1 or letter in "YX"]
    full = [i for i, (letter, size) in dimensions if size > 1 or letter != "S"]
    stored = "".join(letters[i] for i in kept)
    lengths = tuple(shape[i] for i in kept)
    assumed, warning = _assume_axes(stored, lengths)
    if axes is None:
        chosen = assumed
    else:
        warning = None
        if len(axes) == len(kept):
            chosen = axes
        elif _is_subsequence(stored, axes):
            chosen = stored
        elif len(axes) == len(full):
            kept, chosen = full, axes
        else:
            chosen = assumed if _is_subsequence(assumed or "?", axes) else axes[-len(kept) :]
    if chosen is None or len(chosen) < len(kept) or not set("YX") <= set(chosen):
        problem = "does not name the axes of its shape"
        if axes is not None:
            problem = f"cannot have the axes {axes!r}: its shape is"
        raise ValueError(f"{path} {problem} {lengths}. One letter is needed for each: {_way_out(len(kept))}.")
    named = ["_"] * len(shape)
    for i, axis in zip(kept, chosen, strict=True):
        named[i] = axis
    return "".join(named), warning and f"{path} {warning}"


def long_axes(letters, shape):
    """Letters of the dimensions longer than 1, and of Y and X.

    >>> long_axes("TCZYX", (1, 2, 60, 256, 256))
    'CZYX'
    """
    return "".join(letter for letter, size in zip(letters, shape, strict=True) if size > 1 or letter in "YX")


def _is_subsequence(part, whole):
    remaining = iter(whole)
    return all(letter in remaining for letter in part)


def _assume_axes(stored, lengths):
    """Complete the letters of the metadata: one nameless axis is Z, two are C and Z if their sizes fit."""
    axes = stored.replace("S", "C") if "C" not in stored else stored
    unknown = [letter for letter in axes if letter not in "PTCZYX"]
    if not unknown and len(set(axes)) == len(axes):
        return axes, None
    if len(unknown) == 1 and "Z" not in axes:
        return axes.replace(unknown[0], "Z"), None
    if len(unknown) == 2 and len(axes) == 4 and axes.endswith("YX") and lengths[0] <= lengths[1]:
        warning = f"does not name the axes of its shape {lengths}: CZYX is assumed. If not, {_way_out(4)}."
        return "CZYX", warning
    return None, None


def _way_out(num_axes):
    example = {2: "YX", 3: "ZYX", 4: "ZCYX"}.get(num_axes, "TZCYX")
    return f"name them in storage order, such as {example} (--axes, raw_data_format or gt_data_format)"


def read_calibrations(tiff):
    """Of each series: voxel size (z, y, x) in µm, channel names and time step in seconds, each None where not known."""
    kind = tiff.series[0].kind
    if kind == "ome":
        declared = iter(ome_pixels(tiff.ome_metadata))
        found = []
        for series in tiff.series:  # images without planes are none of them
            pixels = next((pixels for title, pixels in declared if title == series.name), None)
            found.append(_NOT_KNOWN if pixels is None else _ome_calibration(pixels))
        return found
    readers = {
        "imagej": _imagej_calibration,
        "lsm": _lsm_calibration,
        "stk": _stk_calibration,
        "mmstack": _micromanager_calibration,
        "ndtiff": _micromanager_calibration,
    }
    first = readers[kind](tiff) if kind in readers else _NOT_KNOWN
    return [first, *[_NOT_KNOWN] * (len(tiff.series) - 1)]


def ome_pixels(xml):
    """Title and element Pixels of each image that OME metadata declare."""
    return [
        (image.get("Name") or "", pixels)
        for image in ElementTree.fromstring(xml).findall(".//{*}Image")
        for pixels in image.findall("{*}Pixels")
    ]


def check_ome(path, xml):
    """Refuse OME metadata with an absurd number of planes: tifffile would make a list of that length."""
    for _, pixels in ome_pixels(xml):
        counts = [math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT")]
        counts += [
            int(plane.get(name, 0))
            for plane in pixels.findall("{*}TiffData")
            for name in ("IFD", "PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
        ]
        if max(counts) > MAX_PLANES:
            raise ValueError(
                f"{path} is damaged: its OME metadata declare {max(counts)} planes. Copy or export it again."
            )


def _ome_calibration(pixels):
    voxel_size = tuple(
        calibrate(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"), UM_PER_UNIT)
        for axis in "ZYX"
    )
    names = tuple(channel.get("Name") for channel in pixels.findall("{*}Channel"))
    time_step = calibrate(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"), SECONDS_PER_UNIT)
    return voxel_size, names if names and all(names) else None, time_step


def _imagej_calibration(tiff):
    metadata = tiff.imagej_metadata
    unit = metadata.get("unit", "")
    y, x = (_pixel_size(tiff.pages.first.tags.valueof(tag)) for tag in ("YResolution", "XResolution"))
    voxel_size = (
        calibrate(abs(float(metadata.get("spacing", 0))), metadata.get("zunit", unit), UM_PER_UNIT),
        calibrate(y, metadata.get("yunit", unit), UM_PER_UNIT),
        calibrate(x, unit, UM_PER_UNIT),
    )
    time_step = calibrate(metadata.get("finterval"), metadata.get("tunit", "s"), SECONDS_PER_UNIT)
    # A label belongs to a plane. They name channels if every volume and time point repeats the same ones.
    labels = metadata.get("Labels", ())
    labels = (labels,) if isinstance(labels, str) else tuple(labels)  # tifffile unpacks a single one
    num_channels = metadata.get("channels", 1)
    repeats = labels == labels[:num_channels] * (len(labels) // num_channels)
    return voxel_size, labels[:num_channels] if labels and repeats else None, time_step


def _lsm_calibration(tiff):
    """Of Zeiss's LSM files, which measure in m."""
    metadata = tiff.lsm_metadata
    voxel_size = tuple(calibrate(metadata.get(f"VoxelSize{axis}"), "m", UM_PER_UNIT) for axis in "ZYX")
    names = tuple(metadata.get("ChannelColors", {}).get("ColorNames", ()))
    return voxel_size, names or None, calibrate(metadata.get("TimeIntervall"), "s", SECONDS_PER_UNIT)


def _stk_calibration(tiff):
    """Of MetaMorph's STK files; the distance of planes is in µm, whatever the unit of the pixels."""
    metadata = tiff.stk_metadata
    distances = {float(distance) for distance in metadata.get("ZDistance", ())}
    pixels = [
        calibrate(metadata.get(f"{axis}Calibration"), metadata.get("CalibrationUnits"), UM_PER_UNIT) for axis in "YX"
    ]
    z = calibrate(distances.pop(), "um", UM_PER_UNIT) if len(distances) == 1 else None
    return (z, *pixels), None, None


def _micromanager_calibration(tiff):
    """Of Micro-Manager's stacks."""
    summary = tiff.micromanager_metadata["Summary"]
    pixel = calibrate(summary.get("PixelSize_um"), "um", UM_PER_UNIT)
    z = calibrate(abs(float(summary.get("z-step_um") or 0)), "um", UM_PER_UNIT)  # negative where scanned downwards
    return (
        (z, pixel, pixel),
        tuple(summary.get("ChNames") or ()) or None,
        calibrate(summary.get("Interval_ms"), "ms", SECONDS_PER_UNIT),
    )


def _pixel_size(resolution):
    """Size of a pixel from a resolution tag, a fraction of pixels by unit."""
    return resolution[1] / resolution[0] if resolution and resolution[0] else None


def calibrate(value, unit, factors):
    """Return a size in µm or a duration in seconds by factors of its unit; None unless positive and of a known unit.

    >>> calibrate("250", "nm", UM_PER_UNIT)
    0.25
    """
    # ImageJ escapes both micro signs as text, and some programs write them in another encoding than they say.
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(unit)).replace("Â", "")
    factor = factors.get(unit.strip().lower().replace("µ", "u").replace("μ", "u"))
    if value is None or factor is None:
        return None
    size = float(value) * factor
    return size if math.isfinite(size) and size > 0 else None
