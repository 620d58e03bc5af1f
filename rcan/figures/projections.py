"""Volumes beside each other, as maximum projections."""

from typing import NamedTuple

import numpy as np

from rcan.figures.style import GAP, LINE, MARGIN, Sheet, save_png

__all__ = ["draw_projections"]


def draw_projections(path, images, *, voxel_size=(None, None, None), captions=None, name=None, notes=()):
    """Draw volumes beside each other as maximum projections, all to one scale, in a PNG.

    Each volume is seen along z (XY) and from one side: along y and below the first (XZ), or along x and to its
    right (ZY). Of these, and of volumes in a row or in a column, that is taken in which the panels are largest:
    usually a row with XZ below XY.

    The images (Z, Y, X, C) or (Y, X, C), by title, have one shape, background 0 and signal 1; the first channel is
    drawn. The voxel size, (z, y, x) in µm, is for proportions and scale bar: an unknown z or y counts as equal to x;
    without x all are equal and there is no scale bar. Captions, by title, stand under it; `name` is the heading; notes
    stand at the foot.
    """
    captions = {title: text for title, text in (captions or {}).items() if title in images}
    save_png(_projections_figure(images, voxel_size, captions, name, notes), path)


# Projections. Lengths on the page are in inches.

_PANELS = (9.6, 7.6)  # width and height that all panels together may take
_LEAST_WIDTH = 1.7  # of the room for a title and a caption
_LEAST_PAGE = 4.4  # of the room for the line at the foot


class _View(NamedTuple):
    """A projection of a volume, and where it lies from the upper left corner of the volume's views."""

    label: str
    axis: int
    x: float
    y: float
    width: float
    height: float


def _projections_figure(images, voxel_size, captions, name, notes=()):
    shape = next(iter(images.values())).shape  # (Z, Y, X, C) or (Y, X, C)
    extent = _extent(shape[:-1], voxel_size)
    stacked, beside, scale = _arrange(len(images), extent)
    views = _views(extent * scale, beside, gap=GAP)
    width, height = _size(views)
    columns, rows = (1, len(images)) if stacked else (len(images), 1)

    cell = max(width, _LEAST_WIDTH, _LEAST_PAGE / columns)
    gap = 3 * GAP if beside else GAP  # the two views of a volume stand closer than two volumes
    top = MARGIN + GAP if name else GAP
    heading = (2 if captions else 1) * LINE + GAP
    pitch = heading + height + beside * LINE + GAP
    sheet = Sheet(2 * MARGIN + columns * (cell + gap) - gap, top + rows * pitch + 1.5 * LINE)
    if name:
        sheet.write_heading(name)
    for number, (title, image) in enumerate(images.items()):
        column, row = (0, number) if stacked else (number, 0)
        x, y = MARGIN + column * (cell + gap) + cell / 2, top + row * pitch
        is_low = stacked and title not in captions  # close to its own volume; in a row, titles are level
        sheet.write(x, y + (heading - GAP if is_low else LINE), title, 13, room=cell, ha="center")
        if title in captions:
            sheet.write(x, y + 2 * LINE, captions[title], 10, room=cell, ha="center", is_faint=True)
        for view in views:
            panel = sheet.add_panel(x - width / 2 + view.x, y + heading + view.y, view.width, view.height)
            _draw_view(panel, image[..., 0], view, scale)
            if beside:
                panel.set_xlabel(view.label)
            elif len(views) > 1 and column == 0:
                panel.set_ylabel(view.label)
    notes = [*["maximum projections"] * (len(views) > 1), *[f"channel 1 of {shape[-1]}"] * (shape[-1] > 1), *notes]
    sheet.write_notes(notes)
    if voxel_size[-1]:
        sheet.draw_scale_bar(MARGIN + (cell - width) / 2, most=min(1, width / 2), scale=scale)
    return sheet.figure


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
    """Find how `count` volumes fill most of the sheet.

    Returns whether they stand one below the other, whether each one's side view stands beside it, and the inches on the
    page for each unit of `extent`.
    """

    def area_and_scale(stacked, beside):
        """Area of all views, and their scale, in one arrangement."""
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
