"""The chart of a study of limits: scores and resolution along a ladder of degradation."""

import numpy as np

from rcan.figures.style import BLUE, GREY, ORANGE, new_figure

__all__ = ["draw_ladder"]

_PANELS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lateral_true": "lateral detail that is right (µm)",
    "lateral": "lateral detail, right or not (µm)",
    "axial_true": "axial detail that is right (µm)",
    "axial": "axial detail, right or not (µm)",
}
_LOOKS = {
    "raw": {"label": "raw", "color": GREY, "marker": "s"},
    "reference": {"label": "best classical", "color": BLUE, "marker": "^"},
    "restored": {"label": "restored", "color": ORANGE, "marker": "o"},
    "gt": {"label": "ground truth", "color": "black", "linestyle": "--"},
}


def draw_ladder(positions, curves, *, label, is_log=False, marks=None):
    """Draw measures along a ladder: means as lines, their intervals as bands.

    `curves` are arrays (N, 3) by measure and image (``raw``, ``reference``, ``restored``, ``gt``): mean, low and high
    at each of the N `positions`, NaN where unknown. `label` is that of the axis along the ladder; `marks` are places
    on it by what they mean.
    """
    known = {name for name, rows in curves.items() if np.isfinite([*rows.values()]).any()}
    names = [name for name in _PANELS if name in known]
    figure = new_figure(9, 3.2 * -(-len(names) // 2) + 0.7, layout="constrained")
    panels = np.ravel(figure.subplots(-(-len(names) // 2), 2, squeeze=False))
    order = np.argsort(positions)
    places = np.asarray(positions, float)[order]
    for panel, name in zip(panels, names, strict=False):
        for image, look in _LOOKS.items():
            if image in curves[name]:
                _draw_curve(panel, places, np.asarray(curves[name][image])[order], look)
        for (meaning, place), style in zip((marks or {}).items(), ("--", ":", "-.") * 2, strict=False):
            panel.axvline(place, label=meaning, color="0.5", linestyle=style, linewidth=1.2, zorder=1)
        if is_log:
            _set_log_axis(panel)
        panel.set_xlabel(label)
        panel.set_ylabel(_PANELS[name])
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    labels = {}
    for panel in panels[: len(names)]:
        labels |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_curve(panel, places, rows, look):
    """A line with its band; a measure that is unknown at a step leaves a gap."""
    panel.plot(places, rows[:, 0], markersize=4, linewidth=1.4, **look)
    if "marker" in look:
        panel.fill_between(places, rows[:, 1], rows[:, 2], color=look["color"], alpha=0.2, linewidth=0)


def _set_log_axis(panel):
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
