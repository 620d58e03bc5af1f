"""What is wrong with training data, in words: one judgement after the other on the facts of all pairs."""

import os
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import printable_name
from rcan.data.registration import left_unexplained

__all__ = ["Finding", "are_unlike", "find_duplicates", "is_swapped", "judge_pairs", "list_names"]

_SAME = 0.99999  # correlation of raw and gt that are one image
_SAME_SPECIMEN = 0.999  # correlation of the thumbnails of two ground truths
_LEAST_LIKE = 0.1  # correlation of raw and gt: less have nothing in common
_LEAST_PARTNER = 0.5  # correlation of a raw image with the ground truth of another pair
_UNEXPLAINED = 0.7  # of the variance, with that ground truth, in units of that with its own one
_BETTER_SNR = 1.5  # times that of the other image
_AS_FINE = 0.2  # of `fineness`, a logarithm
_FINER = 0.5
_SATURATED = {"note": 0.001, "problem": 0.02}  # shares of the voxels
_SAME_VOXEL = 0.05  # relative difference of voxel sizes
_LEAST_DRIFT = 1.0  # voxels by which the shifts of frames, or of channels, differ
_DIFFERENT_LIGHT = 10  # times another one's range
_MOST_NAMES = 5  # of files in a sentence


class Finding(NamedTuple):
    """What was found of one topic."""

    level: str  # ok, note, problem
    topic: str
    text: str

    def __str__(self):
        return f"{self.level:8}{self.topic}: {self.text}"


def judge_pairs(sets):
    """Judge pairs by their facts: at least one `Finding` for each topic.

    `sets` are lists of `rcan.data.facts.PairFacts` by the name of the set: training, validation, test.
    """
    facts = [pair for pairs in sets.values() for pair in pairs]
    findings = []
    for topic, judge in _JUDGES.items():
        found = judge(facts)
        found = found if isinstance(found, list) else [("ok", found)]
        findings += [Finding(level, topic, text) for level, text in found]
    return findings


def find_duplicates(sets):
    """Say which sets share specimens: a list with one `Finding`.

    `sets` are lists of path and thumbnail of ground truths, by the name of the set.
    """
    found = []
    names = [name for name in sets if sets[name]]
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            shared = [
                (path, like)
                for path, thumbnail in sets[other]
                if (like := _find_like(thumbnail, sets[one], _SAME_SPECIMEN))
            ]
            if shared:
                path, like = shared[0]
                is_same = os.path.realpath(path) == os.path.realpath(like)
                what = (
                    f"{path} is both {one} and {other} data"
                    if is_same
                    else f"{path} ({other}) shows the same specimen as {like} ({one})"
                )
                found.append(
                    f"{what}{_and_others(shared)}: its scores say nothing about new images. Name others as {other} "
                    "data."
                )
    if found:
        return [Finding("problem", "sets", text) for text in found]
    return [
        Finding("ok", "sets", "no ground truth is in two of them." if len(names) > 1 else "all data is for training.")
    ]


def _find_like(thumbnail, others, least):
    """Path of the first of the others whose thumbnail is as like as this, or None."""
    for path, other in others:
        if len(other) == len(thumbnail) and other @ thumbnail / len(other) >= least:
            return path
    return None


def _and_others(found):
    return f", and {len(found) - 1} more" if len(found) > 1 else ""


def _name(pair):
    return printable_name(pair.raw.path)


def list_names(paths):
    """Names of some files, and how many there are besides."""
    names = [printable_name(path) for path in paths]
    return ", ".join(names[:_MOST_NAMES]) + (f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES))


def _list(pairs):
    return list_names([pair.raw.path for pair in pairs])


def _are(pairs):
    return "is" if len(pairs) == 1 else "are"


# Judgements: each takes the facts of all pairs, and returns a sentence where all is well, else levels and sentences.


def _judge_identity(facts):
    same = [pair for pair in facts if pair.raw.digest == pair.gt.digest or pair.shift.unshifted >= _SAME]
    if same:
        text = f"in {_list(same)} raw and ground truth are the same image: nothing can be learned. Name two images."
        return [("problem", text)]
    twice = {}
    for pair in facts:
        twice.setdefault((pair.raw.digest, pair.raw.shape), []).append(pair)
    copies = [pairs for pairs in twice.values() if len(pairs) > 1]
    if copies:
        names = " = ".join(printable_name(pair.raw.path) for pair in copies[0])
        return [
            ("note", f"the same raw image is there more than once: {names}{_and_others(copies)}. Leave copies out.")
        ]
    return "no image is there twice."


def _judge_partners(facts):
    found = []
    unlike = [pair for pair in facts if pair.shift.unshifted < _LEAST_LIKE and not _is_explained(pair)]
    if unlike:
        text = f"raw and ground truth of {_list(unlike)} have nothing in common. Look at both, and check the names."
        found.append(("problem", text))
    swapped = []
    by_shape = {}
    for pair in facts:
        by_shape.setdefault((pair.raw.shape, pair.gt.shape), []).append(pair)
    for alike in by_shape.values():
        raw, gt = (np.array([getattr(pair, kind).thumbnail for pair in alike]) for kind in ("raw", "gt"))
        if raw.shape == gt.shape:
            swapped += _find_partners(alike, raw @ gt.T / raw.shape[1], gt @ gt.T / gt.shape[1])
    if swapped:
        names = [f"{_name(pair)} shows what {printable_name(other.gt.path)} shows" for pair, other in swapped[:3]]
        text = (
            f"{', '.join(names)}{_and_others(swapped[2:])}: not its own ground truth. Correct the names of the files."
        )
        found.append(("problem", text))
    return found or f"each raw image is like its ground truth (correlation {_least(facts):.2f} and more)."


def _is_explained(pair):
    """Whether raw and ground truth are alike once one of them is moved or turned."""
    return pair.orientation.is_certain or pair.shift.is_certain


def _least(facts):
    return min((pair.shift.correlation for pair in facts if not pair.orientation.is_certain), default=0)


def _find_partners(pairs, correlation, between_gt):
    """Pairs whose raw image is clearly more like the ground truth of another pair."""
    own = np.diag(correlation)
    best = correlation.argmax(axis=1)
    found = []
    for number, partner in enumerate(best):
        unexplained = left_unexplained(correlation[number, partner], own[number])
        is_clear = correlation[number, partner] >= _LEAST_PARTNER and unexplained < _UNEXPLAINED
        if partner != number and is_clear and between_gt[number, partner] < _SAME_SPECIMEN:
            found.append((pairs[number], pairs[partner]))
    return found


def _judge_orientation(facts):
    turned = [pair for pair in facts if pair.orientation.is_certain]
    if turned:
        text = (
            f"the ground truth of {_list(turned)} {_are(turned)} {turned[0].orientation}: turned back, its correlation "
            f"with raw is {turned[0].orientation.correlation:.2f}, as it is {turned[0].orientation.as_it_is:.2f}. Turn "
            "one of the two images."
        )
        return [("problem", text)]
    return "no ground truth is flipped or turned."


def _judge_register(facts):
    facts = [pair for pair in facts if not pair.orientation.is_certain]
    found = []
    distorted = [pair for pair in facts if pair.distortion and pair.distortion.is_certain]
    if distorted:
        text = (
            f"against its ground truth, raw is {distorted[0].distortion}, in {_list(distorted)}. No shift mends that: "
            "register the images with a program for it, or take them anew."
        )
        found.append(("problem", text))
    for moving, what in (("frame_shifts", "in time"), ("channel_shifts", "from channel to channel")):
        drifting = [pair for pair in facts if are_unlike(getattr(pair, moving))]
        if drifting:
            shifts = getattr(drifting[0], moving)
            text = (
                f"raw moves against its ground truth {what}, from {shifts[0]} to {shifts[-1]}, in {_list(drifting)}: "
                "align each of them by itself."
            )
            found.append(("problem", text))
    shifted = [pair for pair in facts if pair.shift.is_certain]
    if shifted:
        worst = max(shifted, key=lambda pair: max(map(abs, pair.shift.voxels)))
        text = (
            f"{len(shifted)} of {len(facts)} pairs that were looked at are out of register: {_name(worst)} lies "
            f"{worst.shift} beyond its ground truth. From such pairs a network learns to blur: align them before the "
            "training (`rcan check … --align FOLDER`)."
        )
        found.append(("problem", text))
    if found:
        return found
    sure = [pair for pair in facts if pair.shift.is_known]
    farthest = max((abs(step) for pair in sure for step in pair.shift.voxels), default=0)
    unsure = f", but {len(facts) - len(sure)} have too little in common to tell" if len(sure) < len(facts) else ""
    return f"raw and ground truth lie within {farthest:.1f} voxels of each other{unsure}."


def are_unlike(shifts):
    """Whether shifts, of frames or of channels, differ; those of images with little in common do not count."""
    sure = np.array([shift.voxels for shift in shifts if shift.is_inside and shift.is_known])
    return len(sure) > 1 and bool(np.ptp(sure, axis=0).max() >= _LEAST_DRIFT)


def _judge_order(facts):
    swapped = [pair for pair in facts if is_swapped(pair.raw, pair.gt, pair.upscaling)]
    if swapped:
        pair = swapped[0]
        text = (
            f"raw looks better than the ground truth in {_list(swapped)} (SNR {pair.raw.snr:.1f} and "
            f"{pair.gt.snr:.1f}). Exchange the two if they are swapped."
        )
        return [("problem", text)]
    return "no ground truth looks worse than its raw image."


def is_swapped(raw, gt, upscaling):
    """Whether raw has clearly less noise, and is as sharp, or has no more noise and is clearly sharper.

    Both are `rcan.data.facts.ImageFacts`.
    """
    if max(upscaling) > 1 or None in (raw.fineness, gt.fineness):
        return False
    ratio, finer = raw.snr / gt.snr, raw.fineness - gt.fineness
    return (ratio >= _BETTER_SNR and finer >= -_AS_FINE) or (ratio >= 1 and finer >= _FINER)


def _judge_signal(facts):
    found = []
    for level, kind, advice in (
        ("problem", "gt", "Nothing can be learned from it: leave the pair out."),
        ("note", "raw", "A network would guess there: take images with more light."),
    ):
        empty = [pair for pair in facts if not getattr(pair, kind).shows_signal]
        if empty:
            word = "ground truth" if kind == "gt" else "raw"
            found.append((level, f"no signal was found above the noise in the {word} of {_list(empty)}. {advice}"))
    lowest, highest = (sorted(pair.raw.snr for pair in facts)[end] for end in (0, -1))
    return found or f"raw images have an SNR of {lowest:.2g} to {highest:.2g}."


def _judge_saturation(facts):
    found = []
    for kind, word in (("raw", "raw"), ("gt", "ground truth")):
        worst = max(facts, key=lambda pair: getattr(pair, kind).saturated)
        share = getattr(worst, kind).saturated
        level = next((level for level in ("problem", "note") if share >= _SATURATED[level]), None)
        if level:
            text = (
                f"{100 * share:.2g} % of the voxels in the {word} of {_name(worst)} are saturated: their values are "
                "lost. Take images with less light or gain, or leave it out."
            )
            found.append((level, text))
    return found or "hardly a voxel is saturated."


def _judge_voxels(facts):
    known = [pair for pair in facts if None not in (*pair.raw.voxel_size, *pair.gt.voxel_size)]
    found = []
    unlike = [pair for pair in known if _differ(_scaled_voxel(pair), pair.gt.voxel_size)]
    if unlike:
        pair = unlike[0]
        text = (
            f"voxels of raw and ground truth do not fit in {_list(unlike)}: {_as_um(pair.raw.voxel_size)} in raw, "
            f"{_as_um(pair.gt.voxel_size)} in the ground truth. One of the files may be wrong."
        )
        found.append(("note", text))
    others = [pair for pair in known if _differ(pair.raw.voxel_size, known[0].raw.voxel_size)]
    if others:
        text = (
            f"voxel sizes differ: {_as_um(known[0].raw.voxel_size)} in {_name(known[0])}, "
            f"{_as_um(others[0].raw.voxel_size)} in {_list(others)}. A network learns structures by their size in "
            "voxels: train one for each, or resample."
        )
        found.append(("note", text))
    if not known:
        found.append(("note", "no file gives its voxel size. Restored images will not have one either."))
    return found or f"{_as_um(known[0].raw.voxel_size)} in {len(known)} of {len(facts)} pairs."


def _scaled_voxel(pair):
    """Voxel size that the ground truth should have."""
    factors = (1, *pair.upscaling)[-3:]
    return tuple(size / factor for size, factor in zip(pair.raw.voxel_size, factors, strict=True))


def _differ(one, other):
    return any(abs(a / b - 1) > _SAME_VOXEL for a, b in zip(one, other, strict=True) if a and b)


def _as_um(voxel_size):
    return " x ".join(f"{size:.3g}" for size in voxel_size) + " µm (ZYX)"


def _judge_values(facts):
    found = []
    for kind, word in (("raw", "raw images"), ("gt", "ground truths")):
        types = {}
        for pair in facts:
            types.setdefault(getattr(pair, kind).dtype, pair)
        if len(types) > 1:
            names = ", ".join(f"{dtype} ({_name(pair)})" for dtype, pair in types.items())
            found.append(("note", f"{word} have different types: {names}. That is right if the camera was the same."))
    spans = {id(pair): max(high - low for low, high in pair.raw.ranges) for pair in facts}
    faint, bright = (choose(facts, key=lambda pair: spans[id(pair)]) for choose in (min, max))
    if spans[id(bright)] > _DIFFERENT_LIGHT * spans[id(faint)]:
        text = (
            f"{_name(bright)} is {spans[id(bright)] / spans[id(faint)]:.0f} times as bright as {_name(faint)}. The "
            "normalization anscombe is made for images of different light."
        )
        found.append(("note", text))
    low, high = spans[id(faint)], spans[id(bright)]
    return found or f"{facts[0].raw.dtype}; signal is {low:.4g} to {high:.4g} grey values above the background in raw."


_JUDGES = {
    "images": _judge_identity,
    "partners": _judge_partners,
    "orientation": _judge_orientation,
    "register": _judge_register,
    "raw and gt": _judge_order,
    "signal": _judge_signal,
    "saturation": _judge_saturation,
    "voxel size": _judge_voxels,
    "grey values": _judge_values,
}
