"""Whether an image is like those that a network was trained on.

Each feature of an image has to lie between the lowest and the highest value of the training data, give or take a
tolerance. It allows for the usual difference between images of one kind. As the volumes of a training are often few,
this is estimated from the blocks within volumes, too: the spread is the error that a jackknife over the blocks finds,
together with the usual step from one training volume to the next. Volumes differ by more than parts of one do, and of
a single volume nobody knows by how much: for n volumes the error is taken 1 + 1/n times. The tolerance is the spread
times the quantile of Student's t that leaves 5 % of false alarms for all features together (Bonferroni), where each
volume counts for four degrees of freedom. Up to half of it an image is inside, beyond it outside.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from scipy import special

from rcan.fingerprint.records import FINGERPRINT_VERSION, ChannelRange, FeatureRange, TrainingFingerprint, TrustedRange

__all__ = ["DOMAIN_STATUSES", "VOXEL_RATIOS", "Verdict", "compare_fingerprint", "summarise_fingerprints", "widen_range"]

DOMAIN_STATUSES = ("inside", "edge", "outside")
_FALSE_ALARMS = 0.05
_FREEDOM = 4  # degrees of freedom of the spread for each volume
_INSIDE = 0.5  # of the tolerance
_MOST_ERROR = 2.0  # times the error of the training data, that of an image may take its place
VOXEL_RATIOS = (1.1, 1.5)  # from which voxels of another size are on the edge, and outside
_MOST_REASONS = 3  # in a line
_SATURATED = 0.001  # share of the voxels below which saturation is nothing to mention


class _Feature(NamedTuple):
    """A feature that is compared."""

    label: str  # with the number in place of {}
    least: float  # difference that does not matter however alike the volumes were
    show: object = math.exp  # from the feature to the number in the label


_FEATURES = {
    "snr": _Feature("SNR {}", math.log(1.5)),
    "lateral": _Feature("lateral fine structure {} of the coarse", math.log(1.5)),
    "axial": _Feature("axial fine structure {} of the coarse", math.log(1.5)),
    "brightness": _Feature("median intensity {} of the bright tenth", math.log(1.2)),
    "orientation": _Feature("orientation {} within planes", 0.05, show=float),
}
_NEED_WINDOW = ("lateral", "axial")  # comparable in windows of the same size only


class Verdict(NamedTuple):
    """What a comparison has found: one of `DOMAIN_STATUSES`, and the reasons, the weightiest first.

    Of an image that is inside, the reason is its SNR.
    """

    domain_status: str
    reasons: list

    def __str__(self):
        return f"{self.domain_status}: {'; '.join(self.reasons[:_MOST_REASONS])}"


class _Finding(NamedTuple):
    """How far something is beyond the training data, in units of the tolerance, and the sentence about it."""

    name: str
    excess: float
    reason: str

    def rank(self):
        """Order of the reasons: outside first, causes before what they entail, then by weight."""
        causes = ("trusted", "voxels", "snr")
        return self.excess <= 1, causes.index(self.name) if self.name in causes else len(causes), -self.excess


def summarise_fingerprints(fingerprints):
    """Find the range of a training from the `Fingerprint`s of the raw volumes it learns from and is chosen by."""
    sizes = zip(*(fingerprint.voxel_size for fingerprint in fingerprints), strict=True)
    known = [[size for size in along if size] for along in sizes]
    return TrainingFingerprint(
        version=FINGERPRINT_VERSION,
        num_volumes=len(fingerprints),
        voxel_size=tuple((min(along), max(along)) if along else None for along in known),
        channels=tuple(
            map(_summarise_channel, zip(*(fingerprint.channels for fingerprint in fingerprints), strict=True))
        ),
    )


def widen_range(training, fingerprints):
    """Widen a `TrainingFingerprint` to the features of images that the network saw besides, made of the same volumes.

    How many volumes there were, and how far they scatter, stays.
    """
    widened = []
    for channel, *others in zip(training.channels, *(each.channels for each in fingerprints), strict=True):
        features = {}
        for name, known in channel.features.items():
            alike = [each for each in others if name not in _NEED_WINDOW or each.window == channel.window]
            values = [each.features[name] for each in alike if each.features[name] is not None]
            ends = min([known.range[0], *values]), max([known.range[1], *values])
            features[name] = known.model_copy(update={"range": ends})
        shows_signal = channel.shows_signal and all(each.shows_signal for each in others)
        widened.append(channel.model_copy(update={"features": features, "shows_signal": shows_signal}))
    return training.model_copy(update={"channels": tuple(widened)})


def _summarise_channel(same):
    """Range of one channel over all volumes."""
    window = Counter(channel.window for channel in same).most_common(1)[0][0]
    alike = [channel for channel in same if channel.window == window]
    features = {}
    for name, feature in _FEATURES.items():
        compared = alike if name in _NEED_WINDOW else same
        known = [channel for channel in compared if channel.features[name] is not None]
        values = np.sort([channel.features[name] for channel in known])
        if not values.size:
            continue
        errors = [channel.errors[name] for channel in known if channel.errors[name] is not None]
        features[name] = FeatureRange(
            range=(float(values[0]), float(values[-1])),
            error=math.sqrt(np.mean(np.square(errors))) if errors else feature.least / 2,
            step=float(np.median(np.diff(values))) if len(values) > 1 else 0.0,
            num_volumes=len(values),
        )
    return ChannelRange(
        window=window,
        features=features,
        shows_signal=all(channel.shows_signal for channel in same),
        saturated=max(channel.saturated for channel in same),
        histogram=tuple(np.mean([channel.histogram for channel in same], axis=0).round(4).tolist()),
        spectrum={direction: _mean_spectrum(alike, direction) for direction in ("lateral", "axial")},
    )


def _mean_spectrum(channels, direction):
    known = [channel.spectrum[direction] for channel in channels if channel.spectrum[direction]]
    if not known:
        return None
    power = np.mean([spectrum.power for spectrum in known], axis=0)
    return known[0].model_copy(update={"power": tuple(float(f"{value:.3g}") for value in power)})


def compare_fingerprint(fingerprint, training, trusted=None):
    """Compare an image with what a network was trained on.

    Parameters
    ----------
    fingerprint : Fingerprint
        Of the image.
    training : TrainingFingerprint
        Of the network. A network of one channel restores all channels of an image: each is compared with it.
    trusted : TrustedRange, optional
        An image of another SNR is outside, whatever the network was trained on.

    Returns
    -------
    verdict : Verdict
        The worst of all channels and features. A voxel size that one side does not know is not compared, and the last
        reason says so.

    Examples
    --------
    ::

        training = summarise_fingerprints([measure_fingerprint(volume) for volume in training])
        print(compare_fingerprint(measure_fingerprint(image), training))  # outside: SNR 2.1, trained on 4 to 15
    """
    findings = _compare_voxels(fingerprint, training)
    channels = fingerprint.channels
    for place, channel in enumerate(channels):
        known = training.channels[place if len(training.channels) > 1 else 0]
        of_channel = _compare_trusted(channel, trusted or TrustedRange()) + _compare_channel(channel, known)
        if not channel.shows_signal:
            of_channel = [_say_no_signal(finding, known.shows_signal) for finding in of_channel]
        prefix = f"channel {channel.number}: " if len(channels) > 1 else ""
        findings += [finding._replace(reason=prefix + finding.reason) for finding in of_channel]
    beyond = sorted((finding for finding in findings if finding.excess > _INSIDE), key=_Finding.rank)
    if not beyond:  # of an image like all others its SNR is of interest
        beyond = [finding for finding in findings if finding.name == "snr"]
    reasons = [finding.reason for finding in beyond]
    axes = [axis for axis, size in zip("zyx", fingerprint.voxel_size, strict=True) if not size]
    if any(training.voxel_size) and set(axes) & set("zyx"[-fingerprint.ndim :]):
        reasons.append("voxel size unknown, not compared")
    worst = max(finding.excess for finding in findings)
    return Verdict(DOMAIN_STATUSES[int(worst > _INSIDE) + int(worst > 1)], reasons)


def _say_no_signal(finding, was_in_training):
    """The same of an image that shows nothing but noise, whose SNR is only what noise makes of it.

    It is outside where all images of the training showed signal.
    """
    if finding.name not in ("snr", "trusted"):
        return finding
    excess = math.inf if was_in_training else finding.excess
    return finding._replace(excess=excess, reason=f"no signal was found above the noise, {finding.reason}")


def _compare_channel(channel, training):
    """How far each feature is beyond the training data."""
    findings = []
    for name, known in training.features.items():
        value = channel.features[name]
        if value is None or (name in _NEED_WINDOW and channel.window != training.window):
            continue
        low, high = known.range
        tolerance = max(_tolerance(known, channel.errors[name]), _FEATURES[name].least)
        excess = max(low - value, value - high) / tolerance
        findings.append(_Finding(name, excess, _describe_feature(name, value, low, high)))
    allowed = max(10 * training.saturated, _SATURATED)
    if channel.saturated > allowed:
        share, before = (f"{100 * value:.2g} %" for value in (channel.saturated, training.saturated))
        reason = f"{share} of the voxels are saturated, in training {before} at most"
        findings.append(_Finding("saturated", 1.0, reason))
    return findings


def _tolerance(known, error):
    """What a feature of another image of the same kind may be beyond the range of the training data."""
    num = known.num_volumes
    error = np.clip(error or 0, known.error, _MOST_ERROR * known.error)  # few blocks scatter more than many
    spread = math.hypot((1 + 1 / num) * error, known.step)
    quantile = special.stdtrit(_FREEDOM * num, 1 - _FALSE_ALARMS / 2 / len(_FEATURES))  # of Student's t
    return float(quantile * math.sqrt(1 + 1 / num) * spread)


def _describe_feature(name, value, low, high):
    feature = _FEATURES[name]
    value, low, high = (_round(feature.show(number)) for number in (value, low, high))
    return f"{feature.label.format(value)}, trained on {low}" + f" to {high}" * (low != high)


def _round(number):
    return f"{number:.2g}" if number < 99.5 else f"{number:.0f}"


def _compare_trusted(channel, trusted):
    """An SNR at which the network was found to be no better than classical methods, or than raw itself."""
    low, high = trusted.snr
    snr = channel.snr
    if not trusted.gains:
        first, last = map(_round, trusted.tested["snr"])
        reason = f"SNR {_round(snr)}, the network was no better than classical methods from {first} to {last}"
        return [_Finding("trusted", math.inf, reason)]
    if low is not None and snr < low:
        bound = f"from {_round(low)}"
    elif high is not None and snr > high:
        bound = f"up to {_round(high)}"
    else:
        return []
    return [_Finding("trusted", math.inf, f"SNR {_round(snr)}, the network is to be trusted {bound}")]


def _compare_voxels(fingerprint, training):
    """How far the sides of a voxel are beyond the training data; axes with the same sizes share a sentence."""
    groups = {}  # (axis, size, range) by the numbers in the sentence
    for axis, size, known in zip("zyx", fingerprint.voxel_size, training.voxel_size, strict=True):
        if size and known and axis in "zyx"[-fingerprint.ndim :]:
            numbers = (f"{size:.3g}", *(f"{number:.3g}" for number in known))
            groups.setdefault(numbers, []).append((axis, size, known))
    findings = []
    for (shown, *ends), sides in groups.items():
        ratio = max(max(known[0] / size, size / known[1], 1) for _, size, known in sides)
        excess = np.interp(np.log(ratio), np.log([1, *VOXEL_RATIOS, 1000]), [0, _INSIDE, 1, 1000])
        axes = " and ".join(axis for axis, *_ in sides)
        trained = " to ".join(dict.fromkeys(ends))
        findings.append(_Finding("voxels", float(excess), f"voxels of {shown} µm along {axes}, trained on {trained}"))
    return findings
