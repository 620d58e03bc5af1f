"""The ladders of a study of limits as tables: for limits.csv, and for the terminal."""

from rcan.assess.limits.ends import IMAGES, MEASURES, RULES, describe_range

__all__ = ["format_ladder", "make_rows"]

_COMPARED = ("raw", "reference", "restored")
_TITLES = {
    "snr": "Ladder of the signal-to-noise ratio, blur {0.blur:g}",
    "blur": "Ladder of blur, {0.photons:g} photons",
}
_HEADS = (
    "photons  blur    SNR |  PSNR (dB): raw  classical  restored |  SSIM: raw  classical  restored |"
    "  right (µm): raw  classical  restored"
)
_FOOT = "right: the finest lateral details that are right, by Fourier ring correlation with the ground truth"


def make_rows(result):
    """All means and intervals of a `LimitsResult`: a row, with the same keys, for each step and image."""
    rows = []
    for ladder, steps in result.ladders.items():
        for step in steps:
            intervals = result.intervals[step.step]
            for image in IMAGES:
                row = {"ladder": ladder, **step.step._asdict(), "snr": step.snr, "image": image}
                for measure in MEASURES:
                    names = (measure, f"{measure}_low", f"{measure}_high")
                    values = intervals[image, measure]
                    row |= {name: f"{value:.6g}" for name, value in zip(names, values, strict=True)}
                rows.append(row)
    return rows


def format_ladder(result, ladder):
    """One ladder, ``snr`` or ``blur``, of a `LimitsResult` as text: means over the exposures, and the limits below."""
    steps = result.ladders[ladder]
    lines = [f"{_TITLES[ladder].format(steps[0])} (means over {len(steps[0].exposures)} exposures)", _HEADS]
    for step in steps:
        intervals = result.intervals[step.step]
        psnrs, ssims, details = (
            [intervals[image, measure].mean for image in _COMPARED] for measure in ("psnr", "ssim", "lateral_true")
        )
        lines.append(
            f"{step.photons:7g}{step.blur:6g}{step.snr:7.2f} |"
            + "{:16.2f}{:11.2f}{:10.2f} |".format(*psnrs)
            + "{:11.3f}{:11.3f}{:10.3f} |".format(*ssims)
            + "{:17.3f}{:11.3f}{:10.3f}".format(*details)
        )
    lines += [_FOOT, describe_range(result.limits, ladder)]
    found = [limit for name, limit in result.limits.items() if RULES[name].ladder == ladder]
    return "\n".join([*lines, *(f"{limit.title}: {limit.end}" for limit in found)])
