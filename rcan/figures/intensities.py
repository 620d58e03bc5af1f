"""Restored against true intensities."""

import numpy as np

from rcan.figures.style import MAP, ORANGE, new_figure

__all__ = ["draw_intensities"]

_NUM_CELLS = 100  # of the histogram, along either axis
_SHOWN = (0.01, 99.99)  # percentiles of all intensities: beyond are single voxels


def draw_intensities(restored, gt, channels):
    """Draw how many voxels have which restored and which true intensity.

    Each panel is a histogram in two dimensions, with logarithmic colours, of a channel. The dashed line is where
    restored equals true; the dots are the means of the restored intensities in bins of the true one, with their
    standard deviations.

    Parameters
    ----------
    restored, gt : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Background 0 and signal 1.
    channels : list of rcan.assess.quantification.Quantification
        One for each channel, from `rcan.assess.quantification.quantify`; named from 0, as everywhere.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    figure = new_figure(4.6 * len(channels), 4.4, layout="constrained")
    panels = figure.subplots(1, len(channels), squeeze=False)[0]
    for number, (panel, found) in enumerate(zip(panels, channels, strict=True)):
        counts = _draw_counts(panel, restored[..., number].ravel(), gt[..., number].ravel())
        figure.colorbar(counts, ax=panel, label="voxels")
        low, high = panel.get_xlim()
        panel.plot([low, high], [low, high], "--", color=ORANGE, linewidth=1, label="restored = true")
        shown = (found.counts > 0) & (low <= found.truth) & (found.truth <= high)
        panel.errorbar(
            *(values[shown] for values in (found.truth, found.means, found.deviations)),
            fmt=".",
            color=ORANGE,
            linewidth=1,
            label="mean and standard deviation",
        )
        panel.set_xlabel("true intensity")
        panel.set_ylabel("restored intensity")
        line = f"slope {found.slope:.3f}, offset {found.offset:.3f}, R² {found.r_squared:.3f}"
        panel.set_title(f"channel {number}: {line}" if len(channels) > 1 else line, size=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw_counts(panel, restored, gt):
    from matplotlib.colors import LogNorm

    low, high = np.percentile(np.concatenate([restored, gt]), _SHOWN)
    if not high > low:  # both are constant
        low, high = low - 0.5, high + 0.5
    counts, *_ = np.histogram2d(gt, restored, _NUM_CELLS, [(low, high)] * 2)
    return panel.imshow(
        np.ma.masked_equal(counts.T, 0),  # cells without voxels stay empty
        cmap=MAP,
        norm=LogNorm(1, max(2, counts.max())),
        origin="lower",
        extent=(low, high, low, high),
        interpolation="nearest",
        aspect="auto",  # the layout has no room for labels beside panels of fixed aspect
    )
