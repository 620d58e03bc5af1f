"""Volumes beside each other, as maximum projections."""

from typing import NamedTuple

import numpy as np

from rcan.figures.style import new_figure, save_png

__all__ = ["draw_projections"]


def draw_projections(path, images, *, voxel_size=(None, None, None), captions=None, name=None):
    """Draw volumes beside each other as maximum projections, all to one scale.

    Each volume is seen along z (XY) and from one side: along y and below the first (XZ), or along x and to its
    right (ZY). Of these, and of volumes in a row or in a column, that is taken in which the panels are largest:
    usually a row with XZ below XY.

    Parameters
    ----------
    path : path
        The PNG to write.
    images : dict of str to ndarray of shape (Z, Y, X, C) or (Y, X, C)
        By title, all of one shape; background 0 and signal 1. The first channel is drawn.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm, for the proportions and the scale bar. An unknown z or y counts as equal to x; without
        x all are equal and there is no scale bar.
    captions : dict of str to str, optional
        A line under the title, such as scores, by title.
    name : str, optional
        Heading of the picture, such as the name of the file.
    """
    captions = {title: text for title, text in (captions or {}).items() if title in images}
    save_png(_projections_figure(images, voxel_size, captions, name), path)


# Projections. Lengths on the page are in inches.

_PANELS = (9.6, 7.6)  # width and height that all panels together may take
_LEAST_WIDTH = 1.7  # of the room for a title and a caption
_LEAST_PAGE = 4.4  # of the room for the line at the foot
_BAR_ROOM = 1.8  # of the scale bar and its length in words
_GAP = 0.08
_MARGIN = 0.35
_LINE = 0.22  # height of a line of text


class _View(NamedTuple):
    """A projection of a volume, and where it lies from the upper left corner of the volume's views."""

    label: str
    axis: int
    x: float
    y: float
    width: float
    height: float


class _Page:
    """A figure on which positions are inches from the upper left corner."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.figure = new_figure(width, height)

    def write(self, x, y, text, size, *, room, **options):
        """Write a line that stands on `y`, smaller than `size` where it needs more than `room`."""
        size = min(size, 72 * room / (0.62 * len(text)))  # a letter is about 0.62 times as wide as its size
        inches = self.figure.dpi_scale_trans
        self.figure.text(x, self.height - y, text, size=size, transform=inches, parse_math=False, **options)

    def add_panel(self, x, y, width, height):
        bottom = self.height - y - height
        box = x / self.width, bottom / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box, xticks=[], yticks=[])

    def draw_bar(self, x, y, length):
        from matplotlib.patches import Rectangle

        inches = self.figure.dpi_scale_trans
        bar = Rectangle((x, self.height - y), length, 0.05, color="black", linewidth=0, transform=inches)
        self.figure.add_artist(bar)


def _projections_figure(images, voxel_size, captions, name):
    shape = next(iter(images.values())).shape  # (Z, Y, X, C) or (Y, X, C)
    extent = _extent(shape[:-1], voxel_size)
    stacked, beside, scale = _arrange(len(images), extent)
    views = _views(extent * scale, beside, gap=_GAP)
    width, height = _size(views)
    columns, rows = (1, len(images)) if stacked else (len(images), 1)

    cell = max(width, _LEAST_WIDTH, _LEAST_PAGE / columns)
    gap = 3 * _GAP if beside else _GAP  # the two views of a volume stand closer than two volumes
    top = _MARGIN + _GAP if name else _GAP
    heading = (2 if captions else 1) * _LINE + _GAP
    pitch = heading + height + beside * _LINE + _GAP
    page = _Page(2 * _MARGIN + columns * (cell + gap) - gap, top + rows * pitch + 1.5 * _LINE)
    if name:
        page.write(
            page.width / 2, _MARGIN, name, 12, room=page.width - 2 * _MARGIN, ha="center", weight="bold"
        )
    for number, (title, image) in enumerate(images.items()):
        column, row = (0, number) if stacked else (number, 0)
        x, y = _MARGIN + column * (cell + gap) + cell / 2, top + row * pitch
        is_low = stacked and title not in captions  # close to its own volume; in a row, titles are level
        page.write(x, y + (heading - _GAP if is_low else _LINE), title, 13, room=cell, ha="center")
        if title in captions:
            page.write(x, y + 2 * _LINE, captions[title], 10, room=cell, ha="center", color="0.3")
        for view in views:
            panel = page.add_panel(x - width / 2 + view.x, y + heading + view.y, view.width, view.height)
            _draw_view(panel, image[..., 0], view, scale)
            if beside:
                panel.set_xlabel(view.label)
            elif len(views) > 1 and column == 0:
                panel.set_ylabel(view.label)
    if voxel_size[-1]:
        _draw_scale_bar(page, _MARGIN + (cell - width) / 2, most=min(1, width / 2), scale=scale)
    _write_notes(page, projected=len(views) > 1, num_channels=shape[-1])
    return page.figure


def _extent(shape, voxel_size):
    """(z, y, x) in µm, or in voxels where their size is unknown; no depth where there is a single plane."""
    z, y, x = voxel_size
    sizes = np.array([z or x, y or x, x] if x else [1, 1, 1])
    planes = shape[0] if len(shape) == 3 and shape[0] > 1 else 0
    return sizes * (planes, *shape[-2:])


def _views(extent, beside, gap=0):
    depth, height, width = extent
    views = [_View("XY", 0, 0, 0, width, height)]
    if depth and beside:
        views.append(_View("ZY", 2, width + gap, 0, depth, height))
    elif depth:
        views.append(_View("XZ", 1, 0, height + gap, width, depth))
    return views


def _size(views):
    return max(view.x + view.width for view in views), max(view.y + view.height for view in views)


def _arrange(count, extent):
    """Find how `count` volumes fill most of the page.

    Returns
    -------
    stacked : bool
        Whether they stand one below the other.
    beside : bool
        Whether each one's side view stands beside it.
    scale : float
        Inches on the page for each unit of `extent`.
    """

    def area_and_scale(stacked, beside):
        views = _views(extent, beside)
        columns, rows = (1, count) if stacked else (count, 1)
        width, height = _size(views)
        scale = min(_PANELS[0] / (columns * width), _PANELS[1] / (rows * height))
        return scale**2 * sum(view.width * view.height for view in views), scale

    usual = False, False
    others = [(True, False), (True, True), (False, True)]
    best = max(others, key=lambda way: area_and_scale(*way)[0])
    if area_and_scale(*best)[0] < 1.5 * area_and_scale(*usual)[0]:
        best = usual
    return *best, area_and_scale(*best)[1]


def _draw_view(panel, volume, view, scale):
    volume = volume.reshape(-1, *volume.shape[-2:])  # (Z, Y, X)
    image = volume.max(axis=view.axis)
    panel.imshow(
        image.T if view.label == "ZY" else image,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, view.width / scale, view.height / scale, 0),
    )


def _draw_scale_bar(page, x, *, most, scale):
    """Draw a bar of a round length, at most `most` inches, below the panels: there it hides nothing."""
    step = 10.0 ** np.floor(np.log10(most / scale))
    length = max(part * step for part in (1, 2, 5) if part * step <= most / scale)
    y = page.height - _LINE / 2
    page.draw_bar(x, y - 0.02, length * scale)
    page.write(x + length * scale + _GAP, y, f"{length:g} µm", 9, room=_BAR_ROOM - 1)


def _write_notes(page, *, projected, num_channels):
    notes = ["maximum projections"] * projected + [f"channel 1 of {num_channels}"] * (num_channels > 1)
    if notes:
        right, room = page.width - _MARGIN, page.width - 2 * _MARGIN - _BAR_ROOM
        page.write(right, page.height - _LINE / 2, ", ".join(notes), 9, room=room, ha="right", color="0.3")
