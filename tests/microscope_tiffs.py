"""Writes TIFF files as programs of microscopes do, as far as readers need them: STK, LSM and Micro-Manager's stacks.

Layouts: MetaMorph's note "STK file format"; Zeiss's "LSM 5/7 file format"; Micro-Manager's page "File formats".
"""

import json
import struct

import numpy as np
import tifffile

LONG, ASCII, SHORT, RATIONAL, BYTE = 4, 2, 3, 5, 1
VALUES = {BYTE: "B", SHORT: "H", LONG: "I"}


def directory(entries, place, next_place=0):
    """Bytes of an image file directory at a place; entries are tag, type, count, and bytes of the value."""
    start, body, beyond = place + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in sorted(entries):
        if len(value) > 4:
            body += struct.pack("<HHII", tag, kind, count, start + len(beyond))
            beyond += value
        else:
            body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", next_place) + beyond


def numbers(kind, *values):
    """The value of an entry, with its count."""
    return kind, len(values), struct.pack(f"<{len(values)}{VALUES[kind]}", *values)


def image_entries(shape, offset, bits=16):
    """What each TIFF image has."""
    height, width = shape
    return [
        (256, *numbers(LONG, width)),
        (257, *numbers(LONG, height)),
        (258, *numbers(SHORT, bits)),
        (259, *numbers(SHORT, 1)),
        (262, *numbers(SHORT, 1)),
        (273, *numbers(LONG, offset)),
        (277, *numbers(SHORT, 1)),
        (278, *numbers(LONG, height)),
        (279, *numbers(LONG, height * width * bits // 8)),
    ]


def write_stk(path, array, *, pixel, unit, z):
    """One image of which all planes (Z, Y, X) follow each other; calibrations are fractions of 1000."""
    planes = len(array)
    head, unit = 1024, unit.encode() + b"\0"
    strings = head - 64  # in front of the pixels: the pixel size, and its unit
    calibration = [(4, strings), (5, strings), (6, strings + 8)]  # X, Y, unit
    distances = [value for _ in range(planes) for value in (round(1000 * z), 1000, 0, 0, 0, 0)]
    entries = [
        *image_entries(array.shape[1:], head),
        (33628, LONG, len(calibration), struct.pack("<6I", *sum(calibration, ()))),
        (33629, RATIONAL, planes, struct.pack(f"<{6 * planes}I", *distances)),
    ]
    content = (struct.pack("<2sHI", b"II", 42, 8) + directory(entries, 8)).ljust(strings, b"\0")
    content += struct.pack("<III", round(1000 * pixel), 1000, len(unit)) + unit
    path.write_bytes(content.ljust(head, b"\0") + array.astype("<u2").tobytes())
    return path


def write_lsm(path, array, *, voxel_size=(1e-6, 1e-6, 1e-6), time_step=0, photometric="minisblack"):
    """Planes (Z, Y, X) or (Z, C, Y, X), each followed by a small copy; `voxel_size` is (z, y, x) in m.

    Zeiss's program calls several channels RGB, and one with a display colour a palette.
    """
    planes, height, width = len(array), *array.shape[-2:]
    channels = array.shape[1] if array.ndim == 4 else 1
    z, y, x = voxel_size
    info = struct.pack("<Ii", 67127628, 132)
    info += struct.pack("<8i", width, height, planes, channels, 1, 2, 8, 8)
    info += struct.pack("<6d", x, y, z, 0, 0, 0)
    info += struct.pack("<HHI4I", 0, 0, 0, 0, 0, 0, 0)
    info += struct.pack("<d7I", time_step, *[0] * 7)
    with tifffile.TiffWriter(path, byteorder="<") as tiff:
        for number, plane in enumerate(array):
            extra = [(34412, BYTE, len(info), info, True)] if number == 0 else []
            look = {"photometric": photometric, "planarconfig": "separate" if channels > 1 else None}
            if photometric == "palette":
                look["colormap"] = np.zeros((3, 2 ** (8 * array.itemsize)), np.uint16)
            tiff.write(plane, metadata=None, extratags=extra, **look)
            tiff.write(np.zeros((8, 8), np.uint8), photometric="minisblack", metadata=None, subfiletype=1)
    return path


def write_micromanager(path, array, **summary):
    """Frames (T, Z, C, Y, X) of a stack of Micro-Manager 2, as its summary metadata name them."""
    *counts, height, width = array.shape
    frames, slices, channels = counts
    summary = {"MicroManagerVersion": "2.0", "Frames": frames, "Slices": slices, "Channels": channels, **summary}
    text = json.dumps({"Positions": 1, "TimeFirst": True, "SlicesFirst": True, **summary}).encode()
    of_frame, num_bytes = b'{"Exposure-ms": 100}', 2 * height * width
    first, size = 40 + len(text), 162 + num_bytes + len(of_frame)  # a directory of 13 entries, pixels, metadata
    places = {where: first + i * size for i, where in enumerate(np.ndindex(*counts))}
    index_place = first + len(places) * size
    content = struct.pack("<2sHI", b"II", 42, first)
    content += struct.pack("<8I", 54773648, index_place, 0, 0, 0, 0, 2355492, len(text)) + text
    for i, (where, place) in enumerate(places.items()):
        extra = [(tag, *numbers(SHORT, 1)) for tag in (266, 274, 296)]
        extra += [(51123, ASCII, len(of_frame), struct.pack("<I", place + 162 + num_bytes))]
        last = i == len(places) - 1
        content += directory([*image_entries((height, width), place + 162), *extra], place, 0 if last else place + size)
        content += array[where].astype("<u2").tobytes() + of_frame
    content += struct.pack("<II", 3453623, len(places))
    for (t, z, c), place in places.items():
        content += struct.pack("<5I", c, z, t, 0, place)
    path.write_bytes(content)
    return path
