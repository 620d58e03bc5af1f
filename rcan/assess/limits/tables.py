"""The ladders of a study of limits as tables."""

from rcan.assess.limits.ends import MEASURES, RULES, say_range, summarise

__all__ = ["format_ladder", "tabulate"]

_IMAGES = ("raw", "reference", "restored")
_TITLES = {
    "snr": "Ladder of the signal-to-noise ratio, blur {blur:g}",
    "blur": "Ladder of blur, {photons:g} photons",
}
_HEADS = (
    "photons  blur    SNR |  PSNR (dB): raw  classical  restored |  SSIM: raw  classical  restored |"
    "  right (µm): raw  classical  restored"
)
_FOOT = "right: the finest lateral details that are right, by Fourier ring correlation with the ground truth"


def tabulate(ladders, *, seed):
    """All means and intervals.

    Parameters
    ----------
    ladders : dict of str to list of dict
        Measured steps, see `rcan.assess.limits.exposures.measure_steps`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    rows : list of dict
        One for each step and image, all with the same keys.
    """
    rows = []
    for ladder, steps in ladders.items():
        for step in steps:
            for image in (*_IMAGES, "gt"):
                row = {
                    "ladder": ladder,
                    **{key: step[key] for key in ("photons", "blur", "snr")},
                    "image": image,
                }
                for measure in MEASURES:
                    values = summarise(step, image, measure, seed=seed)
                    names = (measure, f"{measure}_low", f"{measure}_high")
                    row |= {name: f"{value:.6g}" for name, value in zip(names, values, strict=True)}
                rows.append(row)
    return rows


def format_ladder(ladder, steps, limits, *, seed):
    """Lay out one ladder for the terminal: means over the exposures, and the limits below.

    Parameters
    ----------
    ladder : {"snr", "blur"}
    steps : list of dict
    limits : dict
        From `rcan.assess.limits.ends.find_limits`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    table : str
    """
    count = len(steps[0]["exposures"])
    lines = [f"{_TITLES[ladder].format(**steps[0])} (means over {count} exposures)", _HEADS]
    for step in steps:
        psnrs, ssims, details = (
            [summarise(step, image, measure, seed=seed)[0] for image in _IMAGES]
            for measure in ("psnr", "ssim", "lateral_true")
        )
        lines.append(
            f"{step['photons']:7g}{step['blur']:6g}{step['snr']:7.2f} |"
            + "{:16.2f}{:11.2f}{:10.2f} |".format(*psnrs)
            + "{:11.3f}{:11.3f}{:10.3f} |".format(*ssims)
            + "{:17.3f}{:11.3f}{:10.3f}".format(*details)
        )
    lines += [_FOOT, say_range(limits, ladder)]
    found = [limit for name, limit in limits.items() if RULES[name].ladder == ladder]
    return "\n".join([*lines, *(f"{limit['title']}: {limit['end']}" for limit in found)])
