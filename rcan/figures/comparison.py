"""Charts of an evaluation: scores, null tests, calibration."""

import numpy as np

from rcan.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure

__all__ = ["draw_calibration", "draw_null_pictures", "draw_nulls", "draw_scores"]

_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
_LINE = 0.3  # inches for a method
_PLANE = 1.6  # inches for a picture
_MOST_PIXELS = 160  # of a side of a picture


def draw_scores(volumes, total):
    """Draw PSNR and SSIM of every method: the mean with its interval, and each volume.

    Parameters
    ----------
    volumes : dict of str to list of dict
        Scores of each volume by method: ``psnr``, ``ssim``.
    total : dict of str to dict
        By method and measure ``mean``, ``low`` and ``high``.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    methods = [*total]
    figure = new_figure(8.4, 1.1 + _LINE * len(methods), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(methods))[::-1]
    for panel, (measure, label) in zip(panels, _LABELS.items(), strict=True):
        for place, method in zip(places, methods, strict=True):
            color = ORANGE if method.startswith("restored") else GREY if method == "raw" else BLUE
            each = [row[measure] for row in volumes[method]]
            panel.plot(each, np.full(len(each), place), "|", color=color, alpha=0.5, markersize=8)
            row = total[method][measure]
            panel.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2)
            panel.plot(row["mean"], place, "o", color=color, markersize=6)
        panel.set_yticks(places, methods)
        panel.set_ylim(-0.6, len(methods) - 0.4)
        panel.set_xlabel(label)
        panel.grid(axis="x", linewidth=0.4)
    return figure


def draw_nulls(facts, titles):
    """Draw how much structure each filter makes of images without any.

    Parameters
    ----------
    facts : dict
        ``facts[null][filter]["contrast"]``, as from `rcan.assess.measure_nulls`.
    titles : dict of str to str
        Nulls to draw, with their names.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    filters = [*next(iter(facts.values()))]
    colors = dict(zip(filters, (GREY, BLUE, ORANGE), strict=False))
    figure = new_figure(7.2, 3.2, layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(filters)
    for number, name in enumerate(filters):
        shares = [100 * facts[null][name]["contrast"] for null in titles]
        places = np.arange(len(titles)) + (number - (len(filters) - 1) / 2) * width
        bars = panel.bar(places, shares, 0.9 * width, color=colors[name], label=name)
        panel.bar_label(bars, fmt="%.2g", fontsize=8, padding=2)
    panel.set_xticks(np.arange(len(titles)), [*titles.values()])
    panel.set_ylabel("contrast (% of the ground truth's)")
    panel.margins(y=0.15)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    return figure


def draw_null_pictures(pictures, titles):
    """Show planes of null images, and what each filter makes of them, all from background to signal.

    Parameters
    ----------
    pictures : dict
        ``pictures[null][filter]``, planes (Y, X), as from `rcan.assess.measure_nulls`.
    titles : dict of str to str
        Nulls to show, with their names.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    columns = list(dict.fromkeys(name for null in titles for name in pictures[null]))
    figure = new_figure(_PLANE * len(columns), (_PLANE + 0.1) * len(titles) + 0.3, layout="constrained")
    panels = figure.subplots(len(titles), len(columns), squeeze=False)
    for row, (null, title) in zip(panels, titles.items(), strict=True):
        for panel, column in zip(row, columns, strict=True):
            panel.set(xticks=[], yticks=[])
            plane = pictures[null].get(column)
            if plane is None:
                panel.spines[:].set_visible(False)
                plane = np.full_like(pictures[null][columns[0]], np.nan)
            starts = [max(0, (size - _MOST_PIXELS) // 2) for size in plane.shape]
            plane = plane[tuple(slice(start, start + _MOST_PIXELS) for start in starts)]
            panel.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[0].set_ylabel(title, fontsize=9)
    for panel, column in zip(panels[0], columns, strict=True):
        panel.set_title(column, fontsize=9)
    return figure


def draw_calibration(curves):
    """Draw how often the truth lies within the spread, against how often it should.

    Parameters
    ----------
    curves : dict of str to dict
        By the name of the data: ``expected``, ``found`` and ``calibrated`` shares, as from
        `rcan.assess.describe_coverage`.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    figure = new_figure(4.6, 4.2, layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 100], [0, 100], color="0.5", linewidth=1, linestyle="--", label="as it should be")
    for (name, curve), color in zip(curves.items(), (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        expected, found, calibrated = (
            100 * np.array(curve[kind]) for kind in ("expected", "found", "calibrated")
        )
        panel.plot(expected, found, color=color, linestyle=":", label=f"{name}, spread as it is")
        panel.plot(expected, calibrated, color=color, label=f"{name}, calibrated")
    panel.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    panel.set_xlabel("truth expected within the spread (% of the voxels)")
    panel.set_ylabel("found (% of the voxels)")
    panel.legend(frameon=False, fontsize=8)
    return figure
