"""What all figures share: a canvas without a window, colours that the colour-blind tell apart."""

import warnings
from contextlib import contextmanager

import numpy as np

__all__ = [
    "BLUE", "GAP", "GREEN", "GREY", "LINE", "MAP", "MARGIN", "ORANGE", "PURPLE", "Sheet", "new_figure", "render",
    "save_png",
]  # fmt: skip

# Okabe, Ito, "Color Universal Design" (2008)
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#808080"
MAP = "viridis"  # perceptually uniform, for maps of numbers

# Inches on a sheet
GAP = 0.08
MARGIN = 0.35
LINE = 0.22  # height of a line of text
_LOW_LINE = 0.15  # of two at the foot
_LEAST_SIZE = 7  # of letters at the foot, in points
_BAR_ROOM = 1.8  # of the scale bar and its length in words


def new_figure(width, height, **options):
    """Make an empty figure, in inches, that no window belongs to; `options` are those of Matplotlib's `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, **options)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure, path):
    """Write a figure as PNG."""
    with _boxes_for_unknown_letters():
        figure.savefig(path, format="png")


def render(figure):
    """Draw a figure into an array (height, width, 3), uint8."""
    with _boxes_for_unknown_letters():
        figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3]


@contextmanager
def _boxes_for_unknown_letters():
    """The name of a file may have letters that the font lacks; they become boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _size_within(room, text, size):
    return min(size, 72 * room / (0.62 * len(text)))  # a letter is about 0.62 times as wide as its size


class Sheet:
    """A figure, `figure`, on which positions are inches from the upper left corner; light on black where `dark`."""

    def __init__(self, width, height, *, dark=False):
        self.width, self.height = width, height
        self._ink, self._faint, ground = ("white", "0.7", "black") if dark else ("black", "0.3", "white")
        self.figure = new_figure(width, height, facecolor=ground)

    def write(self, x, y, text, size, *, room, is_faint=False, **options):
        """Write a line that stands on `y`, smaller than `size` where it needs more than `room`."""
        options = {"color": self._faint if is_faint else self._ink, "parse_math": False, **options}
        size = _size_within(room, text, size)
        inches = self.figure.dpi_scale_trans
        self.figure.text(x, self.height - y, text, size=size, transform=inches, **options)

    def write_heading(self, text):
        """Write a line in bold across the top, down to `MARGIN`."""
        room = self.width - 2 * MARGIN
        self.write(self.width / 2, MARGIN, text, 12, room=room, ha="center", weight="bold")

    def write_notes(self, notes):
        """Write words at the foot, to the right of the scale bar: in two lines where one would be small."""
        right, room = self.width - MARGIN, self.width - 2 * MARGIN - _BAR_ROOM
        lines = [", ".join(notes)] if notes else []
        if len(notes) > 1 and _size_within(room, lines[0], 9) < _LEAST_SIZE:
            ways = [[", ".join(notes[:i]) + ",", ", ".join(notes[i:])] for i in range(1, len(notes))]
            lines = min(ways, key=lambda way: max(map(len, way)))
        size = min([9, *(_size_within(room, line, 9) for line in lines)])
        base = self.height - LINE / 2 - _LOW_LINE * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            self.write(right, base + _LOW_LINE * number, line, size, room=room, ha="right", is_faint=True)

    def add_panel(self, x, y, width, height):
        """Add empty axes."""
        bottom = self.height - y - height
        box = x / self.width, bottom / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box, xticks=[], yticks=[])

    def draw_scale_bar(self, x, *, most, scale):
        """Draw a bar of a round length in µm, at most `most` inches, at the foot: there it hides nothing.

        `scale` is the number of inches for each µm.
        """
        from matplotlib.patches import Rectangle

        longest = most / scale * (1 + 1e-9)  # or that of 0.0999… might be 0.1, as its logarithm is
        step = 10.0 ** np.floor(np.log10(longest))
        length = max(part * step for part in (1, 2, 5) if part * step <= longest)
        inches = self.figure.dpi_scale_trans
        corner = x, LINE / 2 + 0.02
        bar = Rectangle(corner, length * scale, 0.05, color=self._ink, linewidth=0, transform=inches)
        self.figure.add_artist(bar)
        self.write(x + length * scale + GAP, self.height - LINE / 2, f"{length:g} µm", 9, room=_BAR_ROOM - 1)
