"""Where a network stops helping: the ends of the range in which it gains, by stated rules.

At every step of a ladder (of signal-to-noise ratios, or of blur) the same exposures are judged in two ways, and their
paired differences are positive where the network gains. Their mean has a bootstrap interval. The network counts as
gaining where the *lower* end of that interval is above 0; between two steps the ends are interpolated. Nothing is
said beyond the ladder.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rcan.assess.intervals import Interval, bootstrap_interval
from rcan.fingerprint.records import TrustedRange
from rcan.records import to_json

__all__ = [
    "IMAGES",
    "MEASURES",
    "RULES",
    "End",
    "Limit",
    "apply_rules",
    "describe_range",
    "find_end",
    "summarise",
    "trusted_range",
]

IMAGES = ("raw", "reference", "restored", "gt")  # of an exposure
MEASURES = ("psnr", "ssim", "lateral_true", "axial_true", "lateral", "axial")


class End(NamedTuple):
    """One end of the range in which a network gains.

    The state ``none`` says that it gains up to the last step of the ladder on this side, ``never`` that it gains at no
    step, ``unknown`` that fewer than two differences could be measured at every step, ``found`` none of these. The
    positions are where the mean difference and the ends of its interval fall to 0; None beyond the ladder.
    """

    side: str  # "low" or "high"
    state: str
    position: float | None  # of the lower end of the interval
    mean_position: float | None
    other_confidence_bound: float | None  # of the upper end: with `position` the interval of `mean_position`
    tested: tuple  # first and last step of the ladder
    steps: tuple | None = None  # those that `position` lies between: it is known no better

    @property
    def interval(self):
        """Low and high end of the interval of `mean_position`."""
        ends = self.other_confidence_bound, self.position
        return ends if self.side == "low" else ends[::-1]

    def __str__(self):
        """Such as ``3.9 (between the steps 2 and 4; mean difference 0 at 3.1, 95 % interval 2.4 to 3.9)``."""
        first, last = (f"{value:.3g}" for value in self.tested)
        is_low = self.side == "low"
        if self.state == "unknown":
            return "not measured"
        if self.state == "none":
            return f"none down to {first}" if is_low else f"none up to {last}"
        if self.state == "never":
            return f"no gain at any step from {first} to {last}"
        beyond = f"below {first}" if is_low else f"above {last}"
        mean, low, high = (
            beyond if value is None else f"{value:.3g}" for value in (self.mean_position, *self.interval)
        )
        return (
            f"{self.position:.3g} (between the steps {self.steps[0]:.3g} and {self.steps[1]:.3g}; "
            f"mean difference 0 at {mean}, 95 % interval {low} to {high})"
        )


def find_end(positions, differences, *, side, seed, is_log=False):
    """Find one end of the range in which paired differences are shown to be above 0.

    The step whose interval has the highest lower end is where the walk begins; from there it goes to the side that is
    asked for until a curve is 0 or below. Gains beyond a gap therefore do not count.

    Parameters
    ----------
    positions : sequence of float
        Of the steps of a ladder, in any order; above 0 where `is_log`.
    differences : sequence of sequence of float
        For each step those of the exposures, positive where the network gains; NaN where not measured.
    side : {"low", "high"}
    seed : int
        Of the bootstrap.
    is_log : bool
        Interpolate on the logarithm of the positions.

    Returns
    -------
    end : End

    Examples
    --------
    >>> find_end([1, 2, 4], [[-1, -1], [1, 1], [3, 3]], side="low", seed=0, is_log=True).position.round(3)
    np.float64(1.414)
    """
    steps = sorted(
        (position, finite)
        for position, row in zip(positions, differences, strict=True)
        if len(finite := [value for value in row if np.isfinite(value)]) >= 2
    )
    tested = min(positions), max(positions)
    if not steps:
        return End(side, "unknown", None, None, None, tested)
    tested = steps[0][0], steps[-1][0]
    scale = np.array([position for position, _ in steps], float)
    scale = np.log(scale) if is_log else scale
    lower, upper = np.transpose([bootstrap_interval(row, seed=seed) for _, row in steps])
    mean = [np.mean(row) for _, row in steps]
    start = int(np.argmax(lower))
    if not lower[start] > 0:
        return End(side, "never", None, None, None, tested)
    crossings = [_walk(scale, curve, start, -1 if side == "low" else 1) for curve in (lower, mean, upper)]
    crossed = [crossing and crossing[0] for crossing in crossings]
    if is_log:
        crossed = [value if value is None else np.exp(value) for value in crossed]
    if crossings[0] is None:
        return End(side, "none", *crossed, tested)
    between = sorted(steps[i][0] for i in crossings[0][1])
    return End(side, "found", *crossed, tested, tuple(between))


def _walk(scale, curve, start, step):
    """Where a curve falls to 0 on the way from `start`, by linear interpolation, and the numbers of the steps around.

    None if it does not.
    """
    here = start
    while 0 <= here + step < len(curve):
        there = here + step
        if curve[there] <= 0:
            part = curve[here] / (curve[here] - curve[there])
            return scale[here] + part * (scale[there] - scale[here]), (here, there)
        here = there
    return None


def _psnr_over(other):
    return lambda images: images["restored"].psnr - images[other].psnr


def _regained(images):
    """By how much a restored image is right beyond halfway from raw to ground truth, in µm; NaN where unknown.

    How fine the details of a restored image are would tell nothing: a network makes fine ones of whatever image. Where
    raw is as right as the ground truth is fine, nothing is lost, and restored must not be worse than raw. A restored
    image of which nothing is right gains nothing: left out, the network would look better the more often it fails.
    """
    raw, restored, gt = images["raw"].lateral_true, images["restored"].lateral_true, images["gt"].lateral
    if gt is None:
        return np.nan
    if restored is None:
        return 0.0 if raw is None else min(gt - raw, 0) / 2
    return np.nan if raw is None else (raw + min(raw, gt)) / 2 - restored


class Rule(NamedTuple):
    """What an end means: where on which ladder which gain is no longer shown to be above 0."""

    ladder: str
    side: str
    gain: Callable  # from the images of an exposure to a number
    title: str
    text: str


_NOT_SHOWN = "the lower end of the 95 % bootstrap interval of the mean paired difference {} is not above 0"
_IN_PSNR = _NOT_SHOWN.format("in PSNR")
RULES = {
    "snr_low": Rule(
        "snr",
        "low",
        _psnr_over("reference"),
        "SNR below which restored is no better than the best classical reference",
        _IN_PSNR,
    ),
    "snr_high": Rule(
        "snr", "high", _psnr_over("raw"), "SNR above which restored is no better than raw itself", _IN_PSNR
    ),
    "snr_high_classical": Rule(
        "snr", "high", _psnr_over("reference"), "SNR above which the best classical reference is as good", _IN_PSNR
    ),
    "blur_high": Rule(
        "blur",
        "high",
        _regained,
        "blur above which at most half of the lost lateral resolution is regained",
        _NOT_SHOWN.format(
            "in µm between the halfway point, from the finest details of raw that are right to the finest of the "
            "ground truth, and the finest details of restored that are right,"
        ),
    ),
    "blur_low_classical": Rule(
        "blur", "low", _psnr_over("reference"), "blur below which the best classical reference is as good", _IN_PSNR
    ),
    "blur_high_classical": Rule(
        "blur", "high", _psnr_over("reference"), "blur above which the best classical reference is as good", _IN_PSNR
    ),
}


class Limit(NamedTuple):
    """An end with its meaning; `scores` are the mean PSNR and SSIM of each image there, interpolated."""

    title: str
    rule: str
    end: End
    scores: dict | None = None

    def as_json(self):
        """As in limits.json."""
        names = {"other_confidence_bound": "loose_position"}  # of the file
        end = {names.get(name, name): value for name, value in self.end._asdict().items()}
        scores = {"scores": self.scores} if self.scores else {}
        return to_json({"title": self.title, "rule": self.rule, "end": end, **scores, "words": str(self.end)})


def apply_rules(ladders, *, seed):
    """Find all limits, by the names of `RULES`, in the ladders ``snr`` and ``blur``, lists of `LadderStep`."""
    limits = {}
    for name, rule in RULES.items():
        steps, is_log = ladders[rule.ladder], rule.ladder == "snr"
        positions = [getattr(step, rule.ladder) for step in steps]
        gains = [[rule.gain(exposure.images) for exposure in step.exposures] for step in steps]
        end = find_end(positions, gains, side=rule.side, seed=seed, is_log=is_log)
        is_found = end.state == "found"
        scale = np.log if is_log else np.array
        scores = _scores_at(end.position, positions, steps, scale) if is_found else None
        limits[name] = Limit(rule.title, rule.text, end, scores)
    return limits


def describe_range(limits, ladder):
    """A sentence: where, on the ladder ``snr`` or ``blur``, restored is better than the best classical reference."""
    names = {"snr": ("snr_low", "snr_high_classical"), "blur": ("blur_low_classical", "blur_high_classical")}
    low, high = (limits[name].end for name in names[ladder])
    quantity = {"snr": "SNR", "blur": "blur"}[ladder]
    first, last = (f"{value:.3g}" for value in low.tested)
    if low.state == "unknown":
        return f"Whether restored is better than the best classical reference was not measured ({quantity})."
    if low.state == "never":
        return f"Restored is better than the best classical reference at no {quantity} from {first} to {last}."
    start = f"{first} (the first step)" if low.position is None else f"{low.position:.3g}"
    stop = f"{last} (the last step)" if high.position is None else f"{high.position:.3g}"
    return f"Restored is better than the best classical reference from {quantity} {start} to {stop}."


def _scores_at(position, positions, steps, scale):
    order = np.argsort(positions)
    at = scale(np.array(positions, float)[order])

    def interpolate(image, measure):
        """Mean score of an image at the position, between those of the steps."""
        means = [np.mean([getattr(exposure.images[image], measure) for exposure in step.exposures]) for step in steps]
        return float(np.interp(scale(position), at, np.array(means)[order]))

    return {
        image: {measure: interpolate(image, measure) for measure in ("psnr", "ssim")}
        for image in ("raw", "restored", "reference")
    }


def trusted_range(limits, *, smallest_blur, settings):
    """Between which ends the results of a network are to be trusted, to be kept with it: a `TrustedRange`.

    Where the network gained at no step of a ladder, the low end is its last step or the high end its first: that is
    all that is known. `smallest_blur` is the first step of the ladder of blur.
    """

    def bound(name):
        """Where a limit lies: the end of the ladder where the network was never better, None where none was found."""
        end = limits[name].end
        if end.state == "never":
            return float(end.tested[1] if end.side == "low" else end.tested[0])
        return None if end.position is None else float(end.position)

    ends = {name: limit.end for name, limit in limits.items()}
    return TrustedRange.checked(
        {
            "snr": [bound("snr_low"), bound("snr_high")],
            "blur": [float(smallest_blur) if smallest_blur == 1 else None, bound("blur_high")],
            "gains": ends["snr_low"].state != "never",
            "tested": {ladder: ends[f"{ladder}_high"].tested for ladder in ("snr", "blur")},
            "words": {name: str(end) for name, end in ends.items()},
            "intervals": {name: end.interval for name, end in ends.items() if end.state == "found"},
            "rules": {name: f"{limit.title}: {limit.rule}" for name, limit in limits.items()},
            "settings": settings,
        }
    )


def summarise(step, *, seed):
    """Mean over the exposures of a step with its bootstrap interval, by image and measure, of `IMAGES` and `MEASURES`.

    NaN where fewer than two exposures could be measured. `step` is a `LadderStep`, `seed` that of the bootstrap.
    """
    intervals = {}
    for image in IMAGES:
        for measure in MEASURES:
            values = [getattr(exposure.images[image], measure) for exposure in step.exposures]
            values = [value for value in values if value is not None]
            interval = Interval(np.nan, np.nan, np.nan)
            if len(values) > 1:
                interval = Interval(float(np.mean(values)), *bootstrap_interval(values, seed=seed))
            intervals[image, measure] = interval
    return intervals
