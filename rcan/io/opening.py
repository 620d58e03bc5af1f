"""Open and create image files of all formats; the library of a format is imported with its first file."""

import functools
import glob
import warnings
from pathlib import Path

import numpy as np

from rcan.failures import as_one_line
from rcan.io.images import ImageFile
from rcan.io.paths import VENDOR_SUFFIXES, is_zarr
from rcan.io.time_limit import limited_time
from rcan.io.volume import Volume, are_valid_axes

_NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
FORMATS = {  # that are written, and the types that each can hold
    "imagej": ("uint8", "uint16", "float32"),
    "ome": _NUMBERS,
    "zarr": _NUMBERS,
    "zarr-0.4": _NUMBERS,
}
_ZARR_VERSIONS = {"zarr": "0.5", "zarr-0.4": "0.4"}  # of the specification of OME-Zarr


def open_volume(path, *, axes=None, block_axes="ZYXC", image=None):
    """Open an image file; only its metadata is read.

    Parameters
    ----------
    path : str or Path
        TIFF, BigTIFF, ImageJ hyperstack, OME-TIFF, LSM, STK, a stack of Micro-Manager; the folder of an OME-Zarr
        image; a vendor's file. A pattern such as ``"cell_t*.tif"``, or a folder of images: one image, of which each
        file is a part (see `rcan.io.series`). Or one of `list_images`.
    axes : str, optional
        The stored axes in storage order, of the letters P (positions), T, C, Z, Y and X. Overrides the metadata.
        May name axes of length 1 that the file does not store.
    block_axes : {"ZYXC", "ZYX", "YXC", "YX"}
        Which axes one block has; the others are looped over as frames.
    image : int or str, optional
        Which image of a file that holds several: its number, from 1, or its title. If not given, images that are
        alike are positions of one, and of unlike ones the first is read.

    Returns
    -------
    volume : Volume

    Raises
    ------
    OSError
        If the file is missing or may not be read.
    ValueError
        If it is no such image, is damaged, has axes that are not known, or control characters in its name.

    Examples
    --------
    A file is restored frame by frame::

        with open_volume("cell.tif") as volume:
            for frame in volume.frames:
                block = volume.read(frame)  # (Z, Y, X, C), float32
    """
    path, image = (path.path, path.number) if isinstance(path, ImageFile) else (Path(str(path)), image)
    if as_one_line(path) != str(path):
        raise ValueError(f"{as_one_line(path)} has control characters in its name: rename it.")
    if axes is not None:
        axes = str(axes).upper()
        if not are_valid_axes(axes):
            raise ValueError(
                f"{path} cannot have the axes {axes!r}: name each stored axis once, in storage order, with "
                "the letters P (positions), T, C, Z, Y and X; Y and X are needed. Example: ZCYX."
            )
    source = _open_source(path, axes, image)
    return Volume(source, axes or source.axes.replace("_", ""), block_axes, image=image)


def list_images(path, *, axes=None):
    """List what a file or folder holds: itself, or each of several images that are unlike.

    Images that are alike, in shape, type and voxel size, are positions of one. Those of OME-TIFF, OME-Zarr and
    microscopes' files are told apart. `axes` are those of `open_volume`: without P they are of a single image.

    Returns
    -------
    images : list of ImageFile
        Each with its `path`, and where there are several with `number`, from 1, and `title`. `open_volume` takes them.

    Raises
    ------
    OSError, ValueError
        If the file is missing or damaged.
    """
    path = Path(str(path))
    if _is_series(path):
        return [ImageFile(path)]
    with limited_time(path):
        _, read_contents = _format_of(path)
        contents = read_contents(path)
    return contents.list(path, axes) if contents else [ImageFile(path)]


def _open_source(path, axes=None, image=None):
    """Open a path with the reader of its format; `axes` and `image` are those that the user names, or None."""
    if _is_series(path):
        from rcan.io.series import SeriesSource

        return SeriesSource(path, axes, functools.partial(_open_source, image=image))
    with limited_time(path):
        source_class, _ = _format_of(path)
        return source_class(path, axes, image)


def _is_series(path):
    """Whether a path means many files that are one image."""
    return not is_zarr(path) and (path.is_dir() or (not path.exists() and glob.has_magic(str(path))))


def _format_of(path):
    """What reads a file or folder: the class of its `Source`, and a function that gives its `Contents`, or None."""
    if is_zarr(path):
        from rcan.io.zarr import ZarrSource, read_contents

        return ZarrSource, read_contents
    if path.suffix.lower() in VENDOR_SUFFIXES:
        from rcan.io.vendor import VendorSource, read_contents

        return VendorSource, read_contents
    from rcan.io.tiff import TiffSource, read_contents

    return TiffSource, read_contents


def create_volume(
    path,
    *,
    axes,
    sizes,
    dtype,
    voxel_size=(None, None, None),
    channel_names=None,
    time_step=None,
    file_format="imagej",
    compressed=False,
):
    """Prepare an image file to be written block by block.

    Nothing is written before the `with` block begins, and the file gets its name only when the block ends
    without an exception.

    Parameters
    ----------
    path : str or Path
    axes : str
        Of the letters P, T, C, Z, Y and X, in any order; TIFF stores them as PTZCYX, Zarr as TCZYX.
    sizes : dict
        Length by axis.
    dtype : dtype
        uint8, uint16 or float32 for ImageJ; also the other integers up to 32 bits and float64 for the others.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm. ImageJ stores z only where y and x are known.
    channel_names : sequence of str, optional
    time_step : float, optional
        Seconds.
    file_format : {"imagej", "ome", "zarr", "zarr-0.4"}
        ImageJ's or OME's TIFF; the folder of an OME-Zarr image, version 0.5 or 0.4. OME-TIFF takes the place of
        ImageJ's format where that cannot hold the image.
    compressed : bool
        Deflate the planes of a TIFF file, without loss, once all are written.

    Returns
    -------
    sink : rcan.io.volume.Sink
        A context manager with `write(frame, region, block)`.

    Raises
    ------
    ValueError
        If the format cannot store this axis, type or size.

    Warns
    -----
    UserWarning
        If the image has more than 4 GiB, several positions or a width of one voxel, and is written as OME-TIFF
        instead of ImageJ's.

    Examples
    --------
    ::

        with create_volume("out.tif", axes="ZYX", sizes={"Z": 8, "Y": 64, "X": 64}, dtype="float32") as out:
            out.write({}, None, block)  # (Z, Y, X, C)
    """
    path, dtype = Path(str(path)), np.dtype(dtype)
    if not are_valid_axes(axes):
        raise ValueError(f"{path} cannot have the axes {axes!r}: the letters P, T, C, Z, Y and X, Y and X among them.")
    if file_format not in FORMATS:
        raise ValueError(f"{path} cannot be written as {file_format!r}: choose one of {', '.join(FORMATS)}.")
    if dtype.name not in FORMATS[file_format]:
        raise ValueError(f"{path} cannot hold {dtype} as {file_format!r}: choose {', '.join(FORMATS[file_format])}.")
    sizes = {axis: int(sizes[axis]) if axis in axes else 1 for axis in "PTZCYX"}
    if min(sizes.values()) < 1:
        raise ValueError(f"{path} cannot be {sizes}: each size must be at least 1.")
    if channel_names is not None and len(channel_names) != sizes["C"]:
        raise ValueError(f"{path} has {sizes['C']} channels but {len(channel_names)} channel_names: one for each.")
    facts = (axes, sizes, dtype, voxel_size, channel_names, time_step)
    if file_format in _ZARR_VERSIONS:
        from rcan.io.zarr_writing import ZarrSink

        return ZarrSink(path, *facts, version=_ZARR_VERSIONS[file_format])
    from rcan.io.tiff_writing import TiffSink, why_not_imagej

    if file_format == "imagej" and (reason := why_not_imagej(sizes, dtype)):
        warnings.warn(f"{path} {reason}: written as OME-TIFF.", stacklevel=2)
        file_format = "ome"
    return TiffSink(path, *facts, file_format=file_format, compressed=compressed)
