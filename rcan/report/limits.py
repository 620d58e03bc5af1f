"""The report of `rcan limits`."""

import json

import numpy as np

from rcan.assess.limits.ends import MEASURES, RULES, say_range, summarise
from rcan.figures.ladders import draw_ladder
from rcan.report.methods import CITATIONS, describe_limits
from rcan.report.page import Page

__all__ = ["LADDERS", "draw_study", "write_limits_report"]

LADDERS = {"snr": "Signal-to-noise ratio", "blur": "Blur"}
_AXES = {
    "snr": "signal-to-noise ratio (log scale)",
    "blur": "width of a point over that in the ground truth",
}
_IMAGES = {"raw": "raw", "restored": "restored", "reference": "best classical"}
_DETAILS = {
    "lateral_true": "lateral, right (µm)",
    "axial_true": "axial, right (µm)",
    "lateral": "lateral (µm)",
    "axial": "axial (µm)",
}
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


def draw_study(ladder, steps, limits, *, seed):
    """Draw the chart of one ladder.

    Parameters
    ----------
    ladder : {"snr", "blur"}
    steps : list of dict
        Its steps, as `rcan.assess.limits.exposures.measure_steps` returns them.
    limits : dict
        From `rcan.assess.limits.ends.find_limits`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    curves = {
        measure: {
            image: np.array([summarise(step, image, measure, seed=seed) for step in steps])
            for image in (*_IMAGES, *(["gt"] if measure in _DETAILS else []))
        }
        for measure in MEASURES
    }
    marks = {
        meaning: limits[name]["end"].position
        for name, meaning in _MARKS.items()
        if RULES[name].ladder == ladder and limits[name]["end"].state == "found"
    }
    positions = [step[ladder] for step in steps]
    return draw_ladder(positions, curves, label=_AXES[ladder], is_log=ladder == "snr", marks=marks)


def write_limits_report(path, *, subject, ladders, limits, notes, settings, pictures, seed):
    """Write the report of a study of limits.

    Parameters
    ----------
    path : path
        The HTML file.
    subject : str
        What was studied.
    ladders : dict of str to list of dict
        ``snr`` and ``blur``: measured steps.
    limits : dict
        From `rcan.assess.limits.ends.find_limits`.
    notes : list of str
        What a reader has to know about the specimens.
    settings : dict
        Of the study.
    pictures : dict
        By what is said of them: images by name, the ground truth among them, and their voxel size.
    seed : int
        Of the bootstrap.
    """
    page = Page("Limits", subject)
    page.section("Where it breaks")
    page.text(*(say_range(limits, ladder) for ladder in LADDERS))
    page.text(*notes)
    page.table(
        ["limit", "value", "raw (dB)", "restored (dB)", "classical (dB)", "SSIM of restored"],
        [_limit_row(limit) for limit in limits.values()],
        caption="Limits, with the mean scores there. Nothing is said beyond the steps that were measured.",
        bold=[(row, 1) for row in range(len(limits))],
    )
    page.details("rules", "\n".join(f"{limit['title']}: {limit['rule']}." for limit in limits.values()))
    page.text(_CLASSICAL, _RESOLUTION, _INTERVALS)
    for ladder, title in LADDERS.items():
        _add_ladder(page, title, ladder, ladders[ladder], limits, seed=seed)
    page.section("Images")
    for words, (images, voxel_size) in pictures.items():
        error = np.abs(images["restored"] - images["ground truth"])
        caption = f"{words}. Matched to the ground truth; error: absolute difference, signal is 1."
        page.viewer(images, voxel_size=voxel_size, error=error, caption=caption)
    words, (images, voxel_size) = list(pictures.items())[min(1, len(pictures) - 1)]  # next to the limit
    page.rotation(images, voxel_size=voxel_size, caption=f"{words}: maximum projections; drag to turn.")
    page.section("Methods")
    page.text(describe_limits({"settings": settings, "ladders": ladders, "limits": limits}), copy=True)
    page.text(*CITATIONS)
    page.section("Settings")
    page.details("settings", json.dumps(settings, indent=2, default=str))
    page.write(path)


def _limit_row(limit):
    scores = limit.get("scores", {})
    psnrs = [scores[image]["psnr"] if scores else None for image in _IMAGES]
    return [limit["title"], str(limit["end"]), *psnrs, scores["restored"]["ssim"] if scores else None]


def _add_ladder(page, title, ladder, steps, limits, *, seed):
    page.section(title)
    if ladder == "snr":
        page.text(_SNR, f"Every step has blur {steps[0]['blur']:g}.")
    else:
        page.text(f"Every step has {steps[0]['photons']:g} photons at full signal.")
    page.figure(
        draw_study(ladder, steps, limits, seed=seed),
        caption="Means over the exposures and their intervals.",
        alt=f"PSNR, SSIM and resolution of raw, restored and best classical images along the ladder: {title}",
    )
    steps_header, images = ["photons", "blur", "SNR"], {**_IMAGES, "gt": "ground truth"}
    page.table(
        steps_header
        + [f"{measure}: {name}" for measure in ("PSNR (dB)", "SSIM") for name in _IMAGES.values()],
        [_step_row(step, ("psnr", "ssim"), _IMAGES, seed=seed) for step in steps],
        caption="Scores against the ground truth, with intervals.",
    )
    for kind, caption in (("_true", "Details that are right"), ("", "Details, right or not")):
        measures = [f"{direction}{kind}" for direction in ("lateral", "axial")]
        shown = _IMAGES if kind else images
        page.table(
            steps_header
            + [f"{_DETAILS[measure]}: {name}" for measure in measures for name in shown.values()],
            [_step_row(step, measures, shown, seed=seed) for step in steps],
            caption=f"{caption}: resolution, smaller is finer.",
        )
    page.table(
        [*steps_header, "method and setting (number of exposures)"],
        [[step["photons"], step["blur"], float(f"{step['snr']:.3g}"), _methods_of(step)] for step in steps],
        caption="The best classical reference.",
    )


def _step_row(step, measures, images, *, seed):
    cells = [step["photons"], step["blur"], float(f"{step['snr']:.3g}")]
    for measure in measures:
        for image in images:
            mean, low, high = summarise(step, image, measure, seed=seed)
            form = ".2f" if measure == "psnr" else ".3f"
            cells.append(
                f"{mean:{form}} [{low:{form}},\N{NO-BREAK SPACE}{high:{form}}]" if np.isfinite(mean) else None
            )
    return cells


def _methods_of(step):
    """Methods that were the best reference, the most frequent first."""
    best = [exposure["images"]["reference"] for exposure in step["exposures"]]
    words = [f"{reference['name']}, {reference['setting']}" for reference in best]
    return "; ".join(f"{word} ({words.count(word)})" for word in sorted(set(words), key=words.count)[::-1])
