"""The list of pages of a TIFF file, looked at before anything follows it.

Each page says where the next one is. In a damaged file a page can point back to an earlier one, and whoever follows the
list never comes to an end.
"""

import struct

__all__ = ["check_page_list"]

_LARGEST_PAGE = 4096  # tags; files have about 20


def check_page_list(path, tiff):
    """Refuse a file, open as `tifffile.TiffFile`, whose list of pages comes back to an earlier page.

    A list that ends outside the file is not refused here. Checking takes two short reads for each page.
    """
    layout, stream = tiff.tiff, tiff.filehandle
    stream.seek(8 if layout.version == 43 else 4)  # BigTIFF
    number_of = {}  # of a page, by its place
    while place := _read_number(stream, layout.offsetformat, layout.offsetsize):
        if place in number_of:
            raise ValueError(
                f"{path} is damaged: its list of planes has no end, plane {len(number_of) - 1} points back to plane "
                f"{number_of[place]}. Copy or export it again."
            )
        number_of[place] = len(number_of)
        if place >= stream.size:
            return
        stream.seek(place)
        num_tags = _read_number(stream, layout.tagnoformat, layout.tagnosize)
        if num_tags > _LARGEST_PAGE:
            return  # tifffile says so
        stream.seek(place + layout.tagnosize + num_tags * layout.tagsize)


def _read_number(stream, format_, size):
    """A number at the present place; 0 where the file ends."""
    data = stream.read(size)
    return struct.unpack(format_, data)[0] if len(data) == size else 0
