"""What all figures share: a canvas without a window, colours that the colour-blind tell apart."""

import warnings

__all__ = ["BLUE", "GREEN", "GREY", "MAP", "ORANGE", "PURPLE", "new_figure", "save_png"]

# Okabe, Ito, "Color Universal Design" (2008)
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#808080"
MAP = "viridis"  # perceptually uniform, for maps of numbers


def new_figure(width, height, **options):
    """Make an empty figure that no window belongs to.

    Parameters
    ----------
    width, height : float
        Inches.
    **options
        Of `matplotlib.figure.Figure`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, **options)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure, path):
    """Write a figure as PNG.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
    """
    with warnings.catch_warnings():
        # A name may have letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="png")
