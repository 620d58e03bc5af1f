"""The findings of an evaluation in words, for the terminal and the report."""

from rcan.assess.nulls import NULLS

__all__ = [
    "COVERAGE",
    "FORMS",
    "MEASURES",
    "describe_factor",
    "how_much",
    "interval_words",
    "judge_gain",
    "null_table",
    "percent",
    "tell_calibration",
    "tell_nulls",
]

MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "nrmse": "NRMSE", "pearson": "Pearson"}
FORMS = {"psnr": "{:.2f}", "ssim": "{:.3f}", "nrmse": "{:.3f}", "pearson": "{:.3f}"}
COVERAGE = "within_one", "calibrated_within_one", "within_two", "calibrated_within_two", "signal_within_one"
_FOUND_ON = {"validation": "the network's validation images", "evaluated": "the evaluated images themselves"}


def percent(share):
    """A share in words.

    Examples
    --------
    >>> percent(0.12345)
    '12.3 %'
    """
    return f"{100 * share:.3g} %"


def how_much(facts):
    """How much of an image was evaluated.

    Parameters
    ----------
    facts : dict
        Of a volume, as in scores.json.

    Returns
    -------
    words : str

    Examples
    --------
    >>> how_much({"part": [[0, 10], [20, 120]]})
    'central 10x100'
    """
    if not facts["part"]:
        return "whole"
    return "central " + "x".join(str(stop - start) for start, stop in facts["part"])


def interval_words(score, form):
    """A mean and its interval.

    Parameters
    ----------
    score : dict
        ``mean``, ``low`` and ``high``.
    form : str
        For one number.

    Returns
    -------
    words : str

    Examples
    --------
    >>> interval_words({"mean": 20, "low": 19.5, "high": 20.4}, "{:.1f}")
    '20.0 (19.5 to 20.4)'
    """
    mean, low, high = (form.format(score[key]) for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def judge_gain(base, gains):
    """Whether restored images are better than something else.

    Parameters
    ----------
    base : str
        What they are compared with.
    gains : dict of str to dict
        ``mean``, ``low`` and ``high`` of the difference, by measure.

    Returns
    -------
    words : str
        One line.

    Examples
    --------
    >>> gain = {"mean": 2.0, "low": 1.0, "high": 3.0}
    >>> judge_gain("raw", {"psnr": gain, "ssim": gain})
    'restored against raw: better, PSNR +2.00 (+1.00 to +3.00) dB, SSIM +2.000 (+1.000 to +3.000)'
    """
    ends = [gains[measure][end] for measure in ("psnr", "ssim") for end in ("low", "high")]
    lows, highs = ends[::2], ends[1::2]
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
    psnr, ssim = (
        interval_words(gains[measure], form) for measure, form in (("psnr", "{:+.2f}"), ("ssim", "{:+.3f}"))
    )
    return f"restored against {base}: {verdict}, PSNR {psnr} dB, SSIM {ssim}"


def tell_nulls(nulls):
    """The null tests as a table for the terminal.

    Parameters
    ----------
    nulls : dict
        From `rcan.assess.nulls.run_null_tests`.

    Returns
    -------
    table : str
    """
    header, rows = null_table(nulls)
    lines = ["Contrast made of images without structure (% of the ground truth's)"]
    lines.append(f"  {'':16}" + "".join(f"{name:>16}" for name in header[1:]))
    for title, *values in rows:
        lines.append(f"  {title:16}" + "".join(f"{value:>16}" for value in values))
    return "\n".join(lines)


def null_table(nulls):
    """Contrasts by null image and filter, and those of the network where an image is restored alone.

    Parameters
    ----------
    nulls : dict
        As `tell_nulls`.

    Returns
    -------
    header : list of str
    rows : list of list of str
    """
    filters = [*nulls["none"]]
    rows = []
    for null, title in {"none": "real image", **NULLS}.items():
        shares = [nulls[null][name]["contrast"] for name in filters]
        shares.append(nulls[null]["restored"].get("stretched_contrast"))
        rows.append([title, *("" if share is None else percent(share) for share in shares)])
    return ["image", *filters, "restored alone"], rows


def tell_calibration(calibration):
    """What the spread of the ensemble is worth, in words.

    Parameters
    ----------
    calibration : dict
        From `rcan.assess.evaluation.Study.run`.

    Returns
    -------
    words : str
        Some lines.
    """
    lines = [describe_factor(calibration)]
    for name, facts in calibration["coverage"].items() if calibration["factor"] else ():
        own = "the factor is theirs" if name == calibration["found_on"] else "a check"
        shares = [percent(facts[key]) for key in COVERAGE if facts[key] is not None]
        signal = (
            f"; where there is signal (truth above a tenth) one in {shares[4]}" if len(shares) > 4 else ""
        )
        lines.append(
            f"  {name} images ({own}): one spread holds the truth in {shares[1]} of the voxels (68.3 % expected, "
            f"{shares[0]} without the factor), two in {shares[3]} (95.4 % expected, {shares[2]} without){signal}."
        )
    return "\n".join(lines)


def describe_factor(calibration):
    """What the spread is to be multiplied by, and where that was found: a sentence or two.

    Parameters
    ----------
    calibration : dict
        As `tell_calibration`.
    """
    size, factor, num_lost = (calibration[key] for key in ("ensemble", "factor", "num_lost"))
    if factor is None:
        return (
            f"Spread of the ensemble of {size}: its members hardly differ, it tells nothing about the errors."
        )
    where = _FOUND_ON[calibration["found_on"]]
    lost = f" {num_lost} validation images are gone or have changed, and were left out." * (num_lost > 0)
    return f"Spread of the ensemble of {size}: to be multiplied by {factor:.3g}, found on {where}.{lost}"
