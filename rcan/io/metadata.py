"""What the metadata of a file say about its axes and its calibration.

The calibration is that of a TIFF file, from what tifffile has parsed: a `TiffFile` and its first `TiffPageSeries`.
"""

import math
import re
from xml.etree import ElementTree

UM_PER_UNIT = {
    "pm": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "m": 1e6,
    "meter": 1e6,
}
SECONDS_PER_UNIT = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "d": 86400.0,
}
MAX_PLANES = 10**7  # no TIFF holds more: the number is damaged. A list of this length still fits memory


def name_axes(path, letters, shape, axes=None):
    """Give each stored dimension its axis.

    Parameters
    ----------
    path : Path
        For messages.
    letters : str
        Letter of each dimension: P (positions), T, C, Z, Y, X, S (samples of a pixel) or one that says nothing.
    shape : tuple of int
    axes : str, optional
        What the user says: with as many letters as there are dimensions longer than 1, or as there are
        dimensions, or with more, where the ones beyond have length 1.

    Returns
    -------
    named : str
        One of P, T, C, Z, Y and X for each dimension, `_` for one of length 1 that has no name.
    warning : str or None
        What was assumed.

    Examples
    --------
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
        says = "does not name the axes of its shape"
        if axes is not None:
            says = f"cannot have the axes {axes!r}: its shape is"
        raise ValueError(f"{path} {says} {lengths}. One letter is needed for each: {_way_out(len(kept))}.")
    named = ["_"] * len(shape)
    for i, axis in zip(kept, chosen, strict=True):
        named[i] = axis
    return "".join(named), warning and f"{path} {warning}"


def count_positions(path, kinds, letters, shape, axes=None):
    """Tell whether the images of a file are read as positions, the axis P, or only the first.

    Parameters
    ----------
    path : Path
        For messages.
    kinds : list
        Of each image, what must be equal for all to be one array.
    letters, shape : str, tuple of int
        Of the first image.
    axes : str, optional
        What the user says: about all images if it names P, or an axis in front of those of one image.

    Returns
    -------
    count : int
        The number of images that are read.
    warning : str or None
        About what is not.
    """
    stored = "".join(
        letter for letter, size in zip(letters, shape, strict=True) if size > 1 or letter in "YX"
    )
    are_alike = len(set(kinds)) == 1
    if len(kinds) == 1 or (are_alike and (axes is None or "P" in axes or axes[1:] == stored)):
        return len(kinds), None
    way_out = " To read all, name the axes with P (positions) in front." if are_alike else ""
    return 1, f"{path} holds {len(kinds)} images: only the first is read.{way_out}"


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


def read_calibration(tiff, series):
    """Read voxel size, channel names and time step.

    Returns
    -------
    voxel_size : tuple of (float or None)
        (z, y, x) in µm.
    channel_names : tuple of str, or None
    time_step : float or None
        Seconds.
    """
    if series.kind == "ome":
        return _ome_calibration(tiff.ome_metadata)
    if series.kind == "imagej":
        return _imagej_calibration(tiff)
    return (None, None, None), None, None


def check_ome(path, xml):
    """Refuse OME metadata with an absurd number of planes: tifffile would make a list of that length."""
    for pixels in ElementTree.fromstring(xml).findall(".//{*}Pixels"):
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


def _ome_calibration(xml):
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
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


def _pixel_size(resolution):
    """Size of a pixel from a resolution tag, a fraction of pixels by unit."""
    return resolution[1] / resolution[0] if resolution and resolution[0] else None


def calibrate(value, unit, factors):
    """Bring a size or a duration to the unit that is used here, µm or seconds.

    Parameters
    ----------
    value : float, str or None
    unit : str or None
        As a file has it.
    factors : dict
        By unit, such as `UM_PER_UNIT`.

    Returns
    -------
    size : float or None
        None unless `value` is a positive number of a known unit.

    Examples
    --------
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
