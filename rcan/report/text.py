"""Results in words: numbers and sentences that reports, methods paragraphs and the terminal share."""

from numbers import Integral

from rcan.assess.nulls import NULLS

__all__ = [
    "COVERAGE",
    "FORMS",
    "MEASURES",
    "count",
    "describe_calibration",
    "describe_duration",
    "describe_factor",
    "describe_gain",
    "format_evaluation",
    "format_interval",
    "format_sizes",
    "join",
    "null_table",
    "percent",
]

MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nrmse": "NRMSE", "pearson": "Pearson"}
FORMS = {"psnr": ".2f", "ssim": ".3f", "nrmse": ".3f", "pearson": ".3f"}
COVERAGE = "within_one", "calibrated_within_one", "within_two", "calibrated_within_two", "signal_within_one"
_FOUND_ON = {"validation": "the network's validation images", "evaluated": "the evaluated images themselves"}
_RESOLUTIONS = {
    "decorrelation": "Resolution by image decorrelation analysis: how fine the structure is",
    "against the ground truth": "By Fourier ring correlation with the ground truth: up to where it is right",
}


def percent(share):
    """A share in percent.

    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * share:.3g} %"


def format_sizes(sizes, sign=" × "):
    """Sizes along axes.

    >>> format_sizes([24, 0.1])
    '24 × 0.1'
    """
    return sign.join(str(size) if isinstance(size, (Integral, str)) else f"{size:g}" for size in sizes)


def join(words):
    """An enumeration.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def count(number, noun, plural=None):
    """A number with its noun.

    >>> count(2, "pair")
    '2 pairs'
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def describe_duration(seconds):
    """How long something took.

    >>> describe_duration(90)
    '1.5 minutes'
    """
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"


def format_interval(interval, form):
    """A mean and its interval.

    >>> format_interval((20, 19.5, 20.4), ".1f")
    '20.0 (19.5 to 20.4)'
    """
    mean, low, high = (f"{value:{form}}" for value in interval)
    return f"{mean} ({low} to {high})"


def describe_gain(base, gains):
    """Whether restored images are better than `base`, by the intervals of the differences of each measure.

    >>> from rcan.assess.intervals import Interval
    >>> gain = Interval(2.0, 1.0, 3.0)
    >>> describe_gain("raw", {"psnr": gain, "ssim": gain})
    'restored against raw: better, PSNR +2.00 (+1.00 to +3.00) dB, SSIM +2.000 (+1.000 to +3.000)'
    """
    lows, highs = ([getattr(gains[measure], end) for measure in ("psnr", "ssim")] for end in ("low", "high"))
    if min(lows) > 0:
        verdict = "better"
    elif max(highs) < 0:
        verdict = "worse"
    elif max(lows) > 0 > min(highs):
        verdict = "better by one measure, worse by the other"
    elif max(lows) > 0:
        verdict = "better by one measure alone"
    elif min(highs) < 0:
        verdict = "worse by one measure"
    else:
        verdict = "no difference can be told"
    psnr, ssim = format_interval(gains["psnr"], "+.2f"), format_interval(gains["ssim"], "+.3f")
    return f"restored against {base}: {verdict}, PSNR {psnr} dB, SSIM {ssim}"


def null_table(nulls):
    """Header and rows: contrasts by null image and filter, and that of the network for the image restored alone."""
    filters = [*nulls["none"]]
    rows = []
    for null, title in {"none": "real image", **NULLS}.items():
        shares = [nulls[null][name].contrast for name in filters]
        shares.append(nulls[null]["restored"].stretched_contrast)
        rows.append([title, *("" if share is None else percent(share) for share in shares)])
    return ["image", *filters, "restored alone"], rows


def describe_calibration(calibration):
    """What the spread of the ensemble is worth, in some lines."""
    lines = [describe_factor(calibration)]
    for name, coverage in calibration.coverage.items() if calibration.factor else ():
        role = "the factor is theirs" if name == calibration.found_on else "a check"
        shares = [getattr(coverage, field) for field in COVERAGE]
        shares = [percent(share) for share in shares if share is not None]
        signal = f"; where there is signal (truth above a tenth) one in {shares[4]}" if len(shares) > 4 else ""
        lines.append(
            f"  {name} images ({role}): one spread holds the truth in {shares[1]} of the voxels (68.3 % expected, "
            f"{shares[0]} without the factor), two in {shares[3]} (95.4 % expected, {shares[2]} without){signal}."
        )
    return "\n".join(lines)


def describe_factor(calibration):
    """What the spread is to be multiplied by, and where that was found."""
    size, factor, num_lost = calibration.ensemble, calibration.factor, calibration.num_lost
    if factor is None:
        return f"Spread of the ensemble of {size}: its members hardly differ, it tells nothing about the errors."
    where = _FOUND_ON[calibration.found_on]
    lost = f" {num_lost} validation images are gone or have changed, and were left out." * (num_lost > 0)
    return f"Spread of the ensemble of {size}: to be multiplied by {factor:.3g}, found on {where}.{lost}"


# The tables of an evaluation for the terminal


def format_evaluation(evaluation):
    """All results of an `Evaluation` as text."""
    parts = [
        _format_volumes(evaluation.volumes),
        _format_summary(evaluation.total, len(evaluation.volumes)),
        _format_resolution(evaluation.volumes),
        _format_nulls(evaluation.nulls),
    ]
    if evaluation.calibration:
        parts.append(describe_calibration(evaluation.calibration))
    return "\n\n".join(parts)


def _format_volumes(volumes):
    labels = {
        (name, method): f"  {method}{': ' * bool(scores.setting)}{scores.setting or ''}"
        for name, volume in volumes.items()
        for method, scores in volume.methods.items()
    }
    width = max(map(len, labels.values()))
    lines = [f"{'':{width}}" + "".join(f"{title:>11}" for title in MEASURES.values())]
    for name, volume in volumes.items():
        lines.append(name + f" ({volume.evaluated_part} ZYX)" * bool(volume.part))
        for method, each in volume.methods.items():
            cells = [f"{each.scores[measure]:>11{form}}" for measure, form in FORMS.items()]
            lines.append(f"{labels[name, method]:{width}}" + "".join(cells))
    return "\n".join(lines)


def _format_summary(total, num_volumes):
    subject = f"mean of {num_volumes} images" if num_volumes > 1 else "the image"
    lines = [f"{subject}, with 95 % intervals over {total.over}"]
    longest = max(map(len, total.methods))
    for method, intervals in total.methods.items():
        cells = [
            f"{MEASURES[measure]} {format_interval(intervals[measure], FORMS[measure])}" for measure in ("psnr", "ssim")
        ]
        lines.append(f"  {method:{longest}}  " + "  ".join(f"{cell:34}" for cell in cells).rstrip())
    return "\n".join([*lines, *(describe_gain(base, gains) for base, gains in total.gains.items())])


def _format_resolution(volumes):
    lines, longest = [], max(map(len, volumes))
    for way, title in _RESOLUTIONS.items():
        lines.append(f"{title}, lateral / axial (µm)")
        for name, volume in volumes.items():
            cells = [
                f"{image} {_format_length(found.lateral)} / {_format_length(found.axial)}"
                for image, found in volume.resolution[way].items()
            ]
            lines.append(f"  {name:{longest}}  {', '.join(cells)}")
    return "\n".join(lines)


def _format_length(length):
    return "-" if length is None else f"{length:.3f}"


def _format_nulls(nulls):
    header, rows = null_table(nulls)
    lines = ["Contrast made of images without structure (% of the ground truth's)"]
    lines.append(f"  {'':16}" + "".join(f"{name:>16}" for name in header[1:]))
    for title, *shares in rows:
        lines.append(f"  {title:16}" + "".join(f"{share:>16}" for share in shares))
    return "\n".join(lines)
