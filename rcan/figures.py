"""Pictures for people: volumes beside each other, and how a training went.

Both are PNG, drawn on Matplotlib's Agg canvas: no window, and no state that others share. Matplotlib is imported
when something is drawn, so that importing this module is quick.
"""

import warnings
from typing import NamedTuple

import numpy as np

__all__ = ["draw_history", "draw_projections"]


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
    _save(_projections_figure(images, voxel_size, captions, name), path)


def draw_history(path, epochs):
    """Draw the loss and the measures of every epoch, and mark the best model.

    The best model is that of the first epoch with the lowest ``val_loss``, or the lowest ``loss`` where nothing
    was validated. Values that are not finite are left out.

    Parameters
    ----------
    path : path
        The PNG to write.
    epochs : list of dict of str to float
        As in history.csv: ``epoch``, ``loss`` and, where there are such, ``psnr``, ``ssim`` and the same of the
        validation (``val_loss`` and so on).
    """
    _save(_history_figure(epochs), path)


def _new_figure(width, height, **options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, **options)
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    with warnings.catch_warnings():
        # A name may have letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="png")


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
        self.figure = _new_figure(width, height)

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


# History

_MEASURES = {"loss": "loss", "psnr": "PSNR (dB)", "ssim": "SSIM"}
_MOST_MARKED = 60  # epochs; a longer curve has no room for markers


def _history_figure(epochs):
    names = [name for name in _MEASURES if name in epochs[0]]
    figure = _new_figure(4.2 * len(names), 3.6, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    best = _best_epoch(epochs)
    for panel, name in zip(panels, names, strict=True):
        _draw_curve(panel, epochs, name, label="training", color="#0072b2")
        if f"val_{name}" in epochs[0]:
            _draw_curve(panel, epochs, f"val_{name}", label="validation", color="#d55e00")
        _set_scales(panel, name, epochs[0]["epoch"], epochs[-1]["epoch"])
        if best is not None:
            label = f"best model (epoch {best:.0f})"
            panel.axvline(best, label=label, color="0.5", linestyle="--", linewidth=1, zorder=1)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _best_epoch(epochs):
    """Number of the epoch whose model is kept as the best, None where no loss is finite."""
    losses = [(row.get("val_loss", row["loss"]), row["epoch"]) for row in epochs]
    losses = [pair for pair in losses if np.isfinite(pair[0])]
    return min(losses)[1] if losses else None  # of equal losses, the first is kept


def _draw_curve(panel, epochs, column, **style):
    points = [(row["epoch"], row[column]) for row in epochs if np.isfinite(row[column])]
    marker = "." if len(points) <= _MOST_MARKED else None
    panel.plot(*np.reshape(points, (-1, 2)).T, marker=marker, linewidth=1.2, **style)


def _set_scales(panel, name, first, last):
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    panel.set_xlabel("epoch")
    panel.set_ylabel(_MEASURES[name])
    margin = max(0.5, 0.03 * (last - first))
    panel.set_xlim(first - margin, last + margin)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    values = np.concatenate([line.get_ydata() for line in panel.lines])
    if name == "loss" and len(values) and values.min() > 0:
        panel.set_yscale("log")
        panel.set_yticks(_round_values(*panel.get_ylim()))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(_plain))
    else:
        panel.ticklabel_format(axis="y", style="plain", useOffset=False)


def _round_values(low, high):
    """Ticks of a logarithmic axis: powers of ten, more of each decade where it is shorter, else even steps."""
    from matplotlib.ticker import MaxNLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    choices = [np.outer(powers, parts).ravel() for parts in ([1], [1, 2, 5], range(1, 9))]
    choices.append(MaxNLocator(5).tick_values(low, high))
    choices = [ticks[(low <= ticks) & (ticks <= high)] for ticks in choices]
    return next((ticks for ticks in choices if len(ticks) >= 3), choices[-1])


def _plain(value, position=None):
    """A number in plain decimals: 0.00002, not 2e-05."""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")
