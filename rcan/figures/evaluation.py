"""Charts of an evaluation: scores, intensities, null tests, calibration."""

import numpy as np

from rcan.figures.style import BLUE, GREEN, GREY, MAP, ORANGE, PURPLE, new_figure

__all__ = ["draw_calibration", "draw_intensities", "draw_null_planes", "draw_nulls", "draw_scores"]

_LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
_LINE = 0.3  # inches for a method
_PLANE = 1.6  # inches for a picture
_MOST_PIXELS = 160  # of a side of a picture
_NUM_CELLS = 100  # of the histogram, along either axis
_SHOWN = (0.01, 99.99)  # percentiles of all intensities: beyond are single voxels


def draw_scores(volumes, total):
    """Draw PSNR and SSIM of every method: the mean with its interval, and each volume.

    `volumes` are the scores of each volume by method, `total` by method and measure the `Interval` of the mean.
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
            mean, low, high = total[method][measure]
            panel.plot([low, high], [place, place], color=color, linewidth=2)
            panel.plot(mean, place, "o", color=color, markersize=6)
        panel.set_yticks(places, methods)
        panel.set_ylim(-0.6, len(methods) - 0.4)
        panel.set_xlabel(label)
        panel.grid(axis="x", linewidth=0.4)
    return figure


def draw_intensities(restored, gt, channels):
    """Draw how many voxels have which restored and which true intensity.

    Each panel is a histogram in two dimensions, with logarithmic colours, of a channel. The dashed line is where
    restored equals true; the dots are the means of the restored intensities in bins of the true one, with their
    standard deviations. `channels` come from `rcan.assess.quantification.quantify`.
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


def draw_nulls(nulls, titles):
    """Draw how much structure each filter makes of images without any.

    `nulls` are `NullResult`s by null image and filter, `titles` the names of the null images to draw.
    """
    filters = [*next(iter(nulls.values()))]
    colors = dict(zip(filters, (GREY, BLUE, ORANGE), strict=False))
    figure = new_figure(7.2, 3.2, layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(filters)
    for number, name in enumerate(filters):
        shares = [100 * nulls[null][name].contrast for null in titles]
        places = np.arange(len(titles)) + (number - (len(filters) - 1) / 2) * width
        bars = panel.bar(places, shares, 0.9 * width, color=colors[name], label=name)
        panel.bar_label(bars, fmt="%.2g", fontsize=8, padding=2)
    panel.set_xticks(np.arange(len(titles)), [*titles.values()])
    panel.set_ylabel("contrast (% of the ground truth's)")
    panel.margins(y=0.15)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    return figure


def draw_null_planes(planes, titles):
    """Show planes (Y, X) of null images, and what each filter makes of them, all from background to signal.

    `planes` are given by null image and filter, `titles` are the names of the null images to show.
    """
    columns = list(dict.fromkeys(name for null in titles for name in planes[null]))
    figure = new_figure(_PLANE * len(columns), (_PLANE + 0.1) * len(titles) + 0.3, layout="constrained")
    panels = figure.subplots(len(titles), len(columns), squeeze=False)
    for row, (null, title) in zip(panels, titles.items(), strict=True):
        for panel, column in zip(row, columns, strict=True):
            panel.set(xticks=[], yticks=[])
            plane = planes[null].get(column)
            if plane is None:
                panel.spines[:].set_visible(False)
                plane = np.full_like(planes[null][columns[0]], np.nan)
            starts = [max(0, (size - _MOST_PIXELS) // 2) for size in plane.shape]
            plane = plane[tuple(slice(start, start + _MOST_PIXELS) for start in starts)]
            panel.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        row[0].set_ylabel(title, fontsize=9)
    for panel, column in zip(panels[0], columns, strict=True):
        panel.set_title(column, fontsize=9)
    return figure


def draw_calibration(curves):
    """Draw how often the truth lies within the spread, against how often it should.

    `curves` are `CoverageCurve`s by the name of the images.
    """
    figure = new_figure(4.6, 4.2, layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 100], [0, 100], color="0.5", linewidth=1, linestyle="--", label="as it should be")
    for (name, curve), color in zip(curves.items(), (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        expected, found, calibrated = (100 * np.array(shares) for shares in curve)
        panel.plot(expected, found, color=color, linestyle=":", label=f"{name}, spread as it is")
        panel.plot(expected, calibrated, color=color, label=f"{name}, calibrated")
    panel.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    panel.set_xlabel("truth expected within the spread (% of the voxels)")
    panel.set_ylabel("found (% of the voxels)")
    panel.legend(frameon=False, fontsize=8)
    return figure
