"""The report of `rcan limits`."""

import json

import numpy as np

from rcan.assess.limits.ends import MEASURES, RULES, describe_range
from rcan.figures.limits import draw_ladder
from rcan.report.methods import CITATIONS, describe_limits
from rcan.report.page import Page

__all__ = ["draw_chart", "write_limits_report"]

_LADDERS = {"snr": "Signal-to-noise ratio", "blur": "Blur"}
_AXES = {"snr": "signal-to-noise ratio (log scale)", "blur": "width of a point over that in the ground truth"}
_IMAGES = {"raw": "raw", "restored": "restored", "reference": "best classical"}
_DETAILS = {
    "lateral_true": "lateral, right (µm)",
    "axial_true": "axial, right (µm)",
    "lateral": "lateral (µm)",
    "axial": "axial (µm)",
}
_SCORES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
_STEP_HEADER = ["photons", "blur", "SNR"]
_MARKS = {
    "snr_low": "better than classical from here",
    "snr_high": "worse than raw from here",
    "snr_high_classical": "classical as good from here",
    "blur_high": "half of the loss is not regained from here",
    "blur_low_classical": "better than classical from here",
    "blur_high_classical": "classical as good from here",
}
_SNR = (
    "The signal-to-noise ratio is S / sqrt(S + B + r²), at the bright end of the expected raw image: S is its range "
    "from background to signal (percentiles 2 and 99.9) in detected photons, B the photons below it (stray light, dark "
    "current, and the image's own at its low percentile), r the read noise in electrons. Both ladders give the mean "
    "over the exposures."
)
_INTERVALS = (
    "Bands and brackets are 95 % bootstrap intervals of the mean over the exposures. Few exposures give intervals that "
    "are too narrow; exposures of one volume differ in noise alone. A limit between two steps is interpolated: what a "
    "finer ladder would change is not in its interval."
)
_CLASSICAL = (
    "The classical reference is, for each exposure, the method and the setting with the highest PSNR: a choice that "
    "needs the ground truth, so that the reference is at its best. All scores are taken after an "
    "affine match."
)
_RESOLUTION = (
    "Resolution is given twice. Details that are right: up to which frequency the image correlates with the ground "
    "truth (Fourier ring correlation above 0.378, which against an image without noise stands for the 1/7 of two "
    "exposures, doi:10.1038/nmeth.2448). Details, right or not: image decorrelation analysis "
    "(doi:10.1038/s41592-019-0515-7) of the image alone. Where a network makes details up, the second stays fine and "
    "the first does not."
)


def draw_chart(result, ladder):
    """Draw the chart of a ladder, ``snr`` or ``blur``, of a `LimitsResult`."""
    steps, limits = result.ladders[ladder], result.limits
    curves = {
        measure: {
            image: np.array([result.intervals[step.step][image, measure] for step in steps])
            for image in (*_IMAGES, *(["gt"] if measure in _DETAILS else []))
        }
        for measure in MEASURES
    }
    marks = {
        meaning: limits[name].end.position
        for name, meaning in _MARKS.items()
        if RULES[name].ladder == ladder and limits[name].end.state == "found"
    }
    positions = [getattr(step, ladder) for step in steps]
    return draw_ladder(positions, curves, label=_AXES[ladder], is_log=ladder == "snr", marks=marks)


def write_limits_report(path, result, shown, *, subject):
    """Write the report, an HTML file, of a `LimitsResult` and some `ShownStep`s; `subject` says what was tested."""
    limits = result.limits.values()
    page = Page("Limits", subject)
    page.section("Where it breaks")
    page.text(*(describe_range(result.limits, ladder) for ladder in _LADDERS))
    page.text(*result.notes)
    page.table(
        ["limit", "value", "raw (dB)", "restored (dB)", "classical (dB)", "SSIM of restored"],
        [_limit_row(limit) for limit in limits],
        caption="Limits, with the mean scores there. Nothing is said beyond the steps that were measured.",
        bold=[(row, 1) for row in range(len(limits))],
    )
    page.details("rules", "\n".join(f"{limit.title}: {limit.rule}." for limit in limits))
    page.text(_CLASSICAL, _RESOLUTION, _INTERVALS)
    for ladder, title in _LADDERS.items():
        _add_ladder(page, title, result, ladder)
    page.section("Images")
    for each in shown:
        error = np.abs(each.images["restored"] - each.images["ground truth"])
        caption = f"{each.title}. Matched to the ground truth; error: absolute difference, signal is 1."
        page.viewer(each.images, voxel_size=each.voxel_size, error=error, caption=caption)
    turned = shown[min(1, len(shown) - 1)]  # next to the limit
    caption = f"{turned.title}: maximum projections; drag to turn."
    page.rotation(turned.images, voxel_size=turned.voxel_size, caption=caption)
    page.section("Methods")
    page.text(describe_limits(result), copy=True)
    page.text(*CITATIONS)
    page.section("Settings")
    settings = {**result.settings.as_json(), "versions": result.versions}
    page.details("settings", json.dumps(settings, indent=2, default=str))
    page.write(path)


def _limit_row(limit):
    psnrs = [limit.scores[image]["psnr"] if limit.scores else None for image in _IMAGES]
    return [limit.title, str(limit.end), *psnrs, limit.scores["restored"]["ssim"] if limit.scores else None]


def _add_ladder(page, title, result, ladder):
    steps = result.ladders[ladder]
    page.section(title)
    if ladder == "snr":
        page.text(_SNR, f"Every step has blur {steps[0].blur:g}.")
    else:
        page.text(f"Every step has {steps[0].photons:g} photons at full signal.")
    page.figure(
        draw_chart(result, ladder),
        caption="Means over the exposures and their intervals.",
        alt=f"PSNR, SSIM and resolution of raw, restored and best classical images along the ladder: {title}",
    )
    _add_table(page, result, steps, _SCORES, _IMAGES, "Scores against the ground truth, with intervals.")
    for ending, subject in (("_true", "Details that are right"), ("", "Details, right or not")):
        titles = {f"{name}{ending}": _DETAILS[f"{name}{ending}"] for name in ("lateral", "axial")}
        images = _IMAGES if ending else {**_IMAGES, "gt": "ground truth"}
        _add_table(page, result, steps, titles, images, f"{subject}: resolution, smaller is finer.")
    page.table(
        [*_STEP_HEADER, "method and setting (number of exposures)"],
        [[*_step_cells(step), _describe_references(step)] for step in steps],
        caption="The best classical reference.",
    )


def _add_table(page, result, steps, titles, images, caption):
    """Means with their intervals of some measures, by their titles, and images, by their names."""
    header = [f"{title}: {name}" for title in titles.values() for name in images.values()]
    rows = []
    for step in steps:
        intervals = result.intervals[step.step]
        cells = [_format_cell(intervals[image, measure], measure) for measure in titles for image in images]
        rows.append([*_step_cells(step), *cells])
    page.table([*_STEP_HEADER, *header], rows, caption=caption)


def _step_cells(step):
    return [step.photons, step.blur, float(f"{step.snr:.3g}")]


def _format_cell(interval, measure):
    mean, low, high = (f"{value:{'.2f' if measure == 'psnr' else '.3f'}}" for value in interval)
    return f"{mean} [{low},\N{NO-BREAK SPACE}{high}]" if np.isfinite(interval.mean) else None


def _describe_references(step):
    """Methods that were the best reference, the most frequent first."""
    best = [exposure.images["reference"] for exposure in step.exposures]
    names = [f"{reference.name}, {reference.setting}" for reference in best]
    return "; ".join(f"{name} ({names.count(name)})" for name in sorted(set(names), key=names.count)[::-1])
