"""Charts of how resolution was measured: correlation over frequency."""

import numpy as np

from rcan.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure

__all__ = ["plot_decorrelation_curves", "plot_fourier_curves"]

_COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE)
_FREQUENCY = "frequency (cycles/µm)"


def plot_fourier_curves(curves):
    """Plot Fourier ring correlations of several images over each other, a panel for each direction.

    `curves` are by the name of the image those of `fourier_curves` or `single_image_curves` of
    `rcan.assess.resolution.fourier`. A ValueError says that there is none.
    """
    directions = _measured(curves)
    figure = new_figure(4.8 * len(directions), 3.4, layout="constrained")
    for panel, direction in zip(figure.subplots(1, len(directions), squeeze=False)[0], directions, strict=True):
        for number, (name, of_image) in enumerate(curves.items()):
            if (curve := of_image[direction]) is not None:
                _draw_fourier(panel, curve, name, _COLOURS[number % len(_COLOURS)])
        panel.set(xlabel=_FREQUENCY, ylabel="Fourier ring correlation", ylim=(-0.25, 1.05))
        panel.set_xlim(left=0)
        panel.legend(title=direction, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return figure


def _draw_fourier(panel, curve, name, colour):
    label = f"{name}: {_describe(curve.resolution, at_limit=curve.at_limit)}"
    panel.plot(curve.frequencies, curve.correlation, color=colour, linewidth=1.2, label=label)
    panel.axhline(curve.threshold, color="0.5", linestyle="--", linewidth=1, zorder=1)
    if curve.resolution is not None and not curve.at_limit:
        panel.plot(1 / curve.resolution, curve.threshold, "o", color=colour, markersize=5)


def plot_decorrelation_curves(curves):
    """Plot the decorrelation curves of several images beside each other: a row for each direction.

    The image itself is in colour, its high-pass filtered versions in grey, their peaks are dots, and the highest
    frequency among them is a line. `curves` are by the name of the image those of `decorrelation_curves` of
    `rcan.assess.resolution.decorrelation`. A ValueError says that there is none.
    """
    directions = _measured(curves)
    figure = new_figure(3.6 * len(curves), 2.9 * len(directions), layout="constrained")
    panels = figure.subplots(len(directions), len(curves), squeeze=False, sharex="row", sharey=True)
    for row, direction in zip(panels, directions, strict=True):
        for panel, (name, of_image) in zip(row, curves.items(), strict=True):
            if (curve := of_image[direction]) is not None:
                _draw_decorrelation(panel, curve)
                panel.set_title(f"{name}, {direction}: {_describe(curve.resolution)}")
            panel.set_xlabel(_FREQUENCY)
        row[0].set_ylabel("decorrelation")
    return figure


def _draw_decorrelation(panel, curve):
    itself, *filtered = curve.correlations
    panel.plot(curve.frequencies, np.transpose(filtered), color="0.75", linewidth=0.8)
    panel.plot(curve.frequencies, itself, color=BLUE, linewidth=1.5)
    panel.plot(*curve.peaks.T, "o", color=ORANGE, markersize=3.5)
    if curve.resolution is not None:
        panel.axvline(1 / curve.resolution, color=ORANGE, linestyle="--", linewidth=1, zorder=1)


def _measured(curves):
    directions = dict.fromkeys(direction for of_image in curves.values() for direction in of_image)
    measured = [name for name in directions if any(of_image[name] is not None for of_image in curves.values())]
    if not measured:
        raise ValueError(
            f"no resolution was measured of {', '.join(curves) or 'any image'}: that takes a known voxel size and "
            "16 voxels along an image's axes. Leave the figure out."
        )
    return measured


def _describe(resolution, *, at_limit=False):
    if resolution is None:
        return "none found"
    return f"{'at most ' if at_limit else ''}{resolution:.3g} µm"
