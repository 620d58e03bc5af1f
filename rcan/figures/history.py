"""The charts of a training: loss and measures of every epoch; and of trainings on more and more data."""

import numpy as np

from rcan.figures.style import BLUE, ORANGE, new_figure, save_png

__all__ = ["best_epoch", "draw_history", "draw_learning_curve", "plot_history"]


def draw_history(path, epochs):
    """Write the chart of `plot_history` as PNG."""
    save_png(plot_history(epochs), path)


_MEASURES = {"loss": "loss", "psnr": "PSNR (dB)", "ssim": "SSIM"}
_MOST_MARKED = 60  # epochs; a longer curve has no room for markers


def plot_history(epochs):
    """Draw the loss and the measures of every epoch, and mark the best model.

    `epochs` are the rows of history.csv: ``epoch``, ``loss`` and, where there are such, ``psnr``, ``ssim`` and the same
    of the validation (``val_loss`` and so on). Values that are not finite are left out.
    """
    names = [name for name in _MEASURES if name in epochs[0]]
    figure = new_figure(4.2 * len(names), 3.6, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    best = best_epoch(epochs)
    for panel, name in zip(panels, names, strict=True):
        _draw_curve(panel, epochs, name, label="training", color=BLUE)
        if f"val_{name}" in epochs[0]:
            _draw_curve(panel, epochs, f"val_{name}", label="validation", color=ORANGE)
        _set_scales(panel, name, epochs[0]["epoch"], epochs[-1]["epoch"])
        if best is not None:
            label = f"best model (epoch {best:.0f})"
            panel.axvline(best, label=label, color="0.5", linestyle="--", linewidth=1, zorder=1)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_learning_curve(path, curve):
    """Write the chart of a `rcan.studies.learning_curve.LearningCurve` as PNG, with what twice the data may bring."""
    figure = new_figure(4.8, 3.6, layout="constrained")
    panel = figure.subplots()
    panel.plot(curve.shares, curve.psnr, marker="o", color=BLUE, label=f"on the {curve.scored_on} volumes")
    last = curve.psnr[-1]
    low, high = (last + gain for gain in curve.expected_gain)
    panel.fill_between(
        [1, 2], [last, low], [last, high], color=BLUE, alpha=0.2, linewidth=0, label="expected of twice the data"
    )
    panel.set_xscale("log", base=2)
    ticks = [*curve.shares, 2]
    panel.set_xticks(ticks, [f"1/{round(1 / share)}" if share < 1 else f"{share:g}" for share in ticks])
    panel.set_xlabel("share of the training data")
    panel.set_ylabel("PSNR (dB)")
    panel.legend(frameon=False, loc="lower right")
    save_png(figure, path)


def best_epoch(epochs):
    """Number of the first epoch with the lowest ``val_loss``, or ``loss`` where nothing was validated, or None."""
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
