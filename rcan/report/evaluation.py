"""The report of `rcan evaluate`."""

import json

from rcan.assess.nulls import NULLS
from rcan.assess.quantification import quantify
from rcan.assess.resolution.fourier import fourier_curves
from rcan.assess.resolution.measures import AGAINST_TRUTH
from rcan.figures.evaluation import draw_calibration, draw_intensities, draw_null_planes, draw_nulls, draw_scores
from rcan.figures.resolution import plot_fourier_curves
from rcan.records import to_json
from rcan.report.methods import CITATIONS, describe_evaluation
from rcan.report.page import Page
from rcan.report.text import (
    COVERAGE,
    FORMS,
    MEASURES,
    describe_factor,
    describe_gain,
    format_interval,
    null_table,
    percent,
)

__all__ = ["write_evaluation_report"]

_NULLS = (
    "What does the network make of images without structure? Noise alone has the background and the noise of the raw "
    "image; a flat field lies halfway between background and signal, with the noise that goes with it; shuffled "
    "phases have the power of the raw image at every spatial frequency, but nothing in its place.",
    "The number is the contrast of the result: its standard deviation, less slow variation, over that of the ground "
    "truth, in the ground truth's unit. 0 % is nothing, 100 % as much structure as the specimen has. Noise never "
    "vanishes altogether, so compare with the best Gaussian filter, which averages noise and cannot invent: more than "
    "it leaves of noise or of a flat field is structure out of nothing. Of shuffled phases a linear filter leaves "
    "about as much as of the real image; a network that makes more of them takes texture for specimen.",
    "Null images are given to the network in the unit of the real raw image, where background is 0 and signal 1. An "
    "image without a specimen that is restored alone is normalised by its own percentiles, which stretch noise to the "
    "contrast of a signal: that is the column 'restored alone'. Normalise such images by the training data "
    "(rcan apply --normalize training), or leave them out.",
)


def write_evaluation_report(path, evaluation, images):
    """Write the report, an HTML file, of an `Evaluation` and its `EvaluationImages`."""
    page = Page("Evaluation", evaluation.model.path)
    _add_scores(page, evaluation)
    _add_images(page, images.volumes, evaluation.volumes)
    _add_resolution(page, evaluation.volumes, images.volumes)
    _add_quantification(page, evaluation.volumes, images.volumes)
    _add_nulls(page, evaluation.nulls, images.nulls)
    if evaluation.calibration:
        _add_calibration(page, evaluation.calibration)
    page.section("Methods")
    page.text(describe_evaluation(evaluation), copy=True)
    page.text(*CITATIONS)
    page.section("Settings")
    page.details("settings", json.dumps(evaluation.settings, indent=2, default=str))
    facts = {"model": to_json(evaluation.model), "versions": evaluation.versions}
    page.details("network and versions", json.dumps(facts, indent=2, default=str))
    page.write(path)


def _add_scores(page, evaluation):
    volumes, total = evaluation.volumes, evaluation.total
    page.section("Scores")
    page.text(*(f"{_as_sentence(describe_gain(base, gains))}." for base, gains in total.gains.items()))
    learned = [name for name, volume in volumes.items() if volume.learned_from]
    if learned:
        page.text(f"Training or validation data of the network, on which scores say nothing: {', '.join(learned)}.")
    page.figure(
        draw_scores(
            {method: [volume.methods[method].scores for volume in volumes.values()] for method in total.methods},
            total.methods,
        ),
        caption=f"Mean with its 95 % interval over {total.over} (line), and each image (tick).",
        alt="PSNR and SSIM of raw, classically filtered and restored images",
    )
    page.table(
        ["method", *MEASURES.values()],
        [
            [
                _unbroken(method),
                *(_unbroken(format_interval(intervals[measure], FORMS[measure])) for measure in MEASURES),
            ]
            for method, intervals in total.methods.items()
        ],
        caption=f"Means over {len(volumes)} images with 95 % bootstrap intervals over {total.over}, after the "
        "affine match to the ground truth. Each classical method has the setting that comes closest to the ground "
        "truth, which flatters it.",
    )
    parts = [f"{name}: the {volume.evaluated_part} voxels" for name, volume in volumes.items() if volume.part]
    page.table(
        ["image", "method", *MEASURES.values()],
        _score_rows(volumes, MEASURES, _with_setting),
        caption="Every image, after the affine match." + f" Evaluated in part: {'; '.join(parts)}." * bool(parts),
    )
    page.table(
        ["image", "method", "PSNR (dB)", "SSIM", "NRMSE"],
        _score_rows(volumes, ("psnr", "ssim", "nrmse"), lambda method, _: method, ending="_unmatched"),
        caption="Every image without the match, in the unit in which background is 0 and signal 1.",
    )


def _score_rows(volumes, measures, label_of, ending=""):
    return [
        [
            name if i == 0 else "",
            _unbroken(label_of(method, each)),
            *(f"{each.scores[measure + ending]:{FORMS[measure]}}" for measure in measures),
        ]
        for name, volume in volumes.items()
        for i, (method, each) in enumerate(volume.methods.items())
    ]


def _unbroken(text):
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _with_setting(method, scores):
    return f"{method}: {scores.setting}" if scores.setting else method


def _as_sentence(text):
    return text[0].upper() + text[1:]


def _add_images(page, shown, volumes):
    page.section("Images")
    for number, (name, each) in enumerate(shown.items()):
        methods = volumes[name].methods
        settings = [
            _with_setting(method, methods[method])
            for method in each.images
            if method in methods and methods[method].setting
        ]
        which = "the first image" if number == 0 else "the image of lowest PSNR"
        is_whole = each.error.shape == _evaluated_shape(volumes[name])
        which += "" if is_whole else " (the middle of it, here and in the charts below)"
        matched = f"{name}, {which}. All are matched to the ground truth"
        error = "error: local root mean square of restored less ground truth, signal is 1"
        page.viewer(
            each.images,
            voxel_size=each.voxel_size,
            error=each.error,
            caption="; ".join([matched, *settings, error]) + ".",
        )
        if each.error.ndim == 4 and len(each.error) > 1:
            caption = f"{name}: maximum projections; drag to turn."
            page.rotation(each.images, voxel_size=each.voxel_size, caption=caption)


def _evaluated_shape(volume):
    sizes = [stop - start for start, stop in volume.part] if volume.part else volume.shape[:-1]
    return (*sizes, volume.shape[-1])


def _add_resolution(page, volumes, shown):
    page.section("Resolution")
    page.text(
        "In µm, by image decorrelation analysis (doi:10.1038/s41592-019-0515-7) and by Fourier ring correlation "
        "(doi:10.1038/nmeth.2448). Decorrelation says how fine the structure in an image is, not whether it is true; "
        "against the ground truth, the correlation says up to where it is right. Two exposures that are restored alike "
        "also share the network's expectations: their resolution is an upper bound. Of an image of several "
        "frames, the median over them; of channels restored together, the first. A dash: it cannot be measured."
    )
    rows = [
        [name, way, image, *found]
        for name, volume in volumes.items()
        for way, images in volume.resolution.items()
        for image, found in images.items()
    ]
    page.table(["image", "by", "of", "lateral (µm)", "axial (µm)"], rows)
    name, first = next(iter(shown.items()))
    truth = first.images["ground truth"][..., 0]
    curves = {
        method: fourier_curves(image[..., 0], truth, first.voxel_size, threshold=AGAINST_TRUTH)
        for method, image in first.images.items()
        if method != "ground truth"
    }
    if any(curve for of_image in curves.values() for curve in of_image.values()):
        page.figure(
            plot_fourier_curves(curves),
            caption=f"{name}: Fourier ring correlation with the ground truth, with the threshold at which signal and "
            "noise are as strong as where two exposures have 1/7.",
        )


def _add_quantification(page, volumes, shown):
    page.section("Quantification")
    page.text(
        "Can intensities be measured in restored images? The line is the least-squares fit of the image's intensities "
        "to the true ones, both with background 0 and signal 1, without a match: a slope of 1 and an offset of 0 are "
        "ideal. A slope below 1 says that bright voxels come out too dark, or dark ones too bright. R² is the share of "
        "the variance that the line explains. Wrong are voxels whose local error (after the match, root mean square "
        "over some voxels) exceeds a tenth of the signal. Of an image of several frames, the line is that of the first."
    )
    rows = [
        [name, kind, number, line.slope, line.offset, line.r_squared, percent(volume.methods[kind].wrong)]
        for name, volume in volumes.items()
        for kind, channels in volume.quantification.items()
        for number, line in enumerate(channels)
    ]
    page.table(["image", "of", "channel", "slope", "offset", "R²", "wrong"], rows)
    name, first = next(iter(shown.items()))
    restored, gt = first.unmatched, first.images["ground truth"]
    page.figure(
        draw_intensities(restored, gt, quantify(restored, gt)),
        caption=f"{name}: restored and true intensities, without a match.",
    )


def _add_nulls(page, nulls, planes):
    page.section("Null tests")
    page.text(*_NULLS)
    header, rows = null_table(nulls)
    page.table(header, rows, caption="Contrast of the result, % of the ground truth's.")
    page.figure(
        draw_nulls(nulls, NULLS), caption="Contrast made of images without structure.", alt="Bars of the table above"
    )
    titles = {"none": "real image", **NULLS}
    rows = [[title, *(found.brightest for found in nulls[null].values())] for null, title in titles.items()]
    page.table(header[:-1], rows, caption="The brightest 0.1 % of the voxels above the median; signal is 1.")
    chosen = ("input", "best Gaussian", "restored", "restored alone")
    shown = {null: {name: plane for name, plane in each.items() if name in chosen} for null, each in planes.items()}
    page.figure(
        draw_null_planes(shown, titles),
        caption="Middle planes of the first image, all from background (black) to signal (white).",
    )


def _add_calibration(page, calibration):
    page.section("Uncertainty")
    page.text(describe_factor(calibration))
    if calibration.factor is None:
        return
    page.text(
        "The spread is the standard deviation of the members of an ensemble: the same network on the image turned and "
        "flipped. Mistakes that all members share do not show in it. One factor corrects it on average over images "
        "like these, not voxel by voxel: look at the share where there is signal."
    )
    rows = []
    for name, coverage in calibration.coverage.items():
        shares = [getattr(coverage, field) for field in COVERAGE]
        role = " (the factor is theirs)" * (name == calibration.found_on)
        rows.append([name + role, *("" if share is None else percent(share) for share in shares)])
    page.table(
        ["images", "within one, as it is", "within one", "within two, as it is", "within two", "within one, signal"],
        [*rows, ["expected", "", "68.3 %", "", "95.4 %", "68.3 %"]],
        caption="Voxels whose truth, after the affine match, lies within one and two spreads, as it is and multiplied "
        "by the factor; and where there is signal (truth above a tenth), multiplied.",
    )
    curves = {f"{name} images": coverage.curve for name, coverage in calibration.coverage.items()}
    page.figure(
        draw_calibration(curves),
        caption="How often the truth lies within the spread, against how often it should by a normal distribution.",
    )
