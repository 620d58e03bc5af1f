"""The chart of a learning curve: PSNR by the share of the training data."""

from rcan.figures.style import BLUE, new_figure, save_png

__all__ = ["draw_learning_curve"]


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
