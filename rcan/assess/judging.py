"""A network judged on pairs of images: raw, restored and classically filtered, side by side.

The network restores whole frames as `apply` does; of a large one the central part is judged. Everything is measured in
one unit, background 0 and signal 1 by the network's own percentiles, and in the ground truth's voxels.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from rcan.assess.quantification import local_error, quantify
from rcan.assess.references import best_references
from rcan.assess.resolution.measures import (
    AGAINST_TRUTH,
    decorrelation_resolution,
    fourier_resolution,
    single_image_resolution,
)
from rcan.assess.scores import bootstrap_blocks, bootstrap_interval, score_blocks, score_image
from rcan.intensity import match_affine
from rcan.regions import central_region
from rcan.scores import enlarge, mean_scores

__all__ = ["FEWEST_VOLUMES", "Findings", "evaluate_subject", "sum_up"]

_MOST_SHOWN = 2**23  # voxels of a picture
FEWEST_VOLUMES = 5  # that are resampled themselves; of fewer, their blocks are


@dataclass(frozen=True)
class Findings:
    """What was found out about one pair.

    Attributes
    ----------
    scores : dict of str to dict
        By method (``raw``, the classical ones, ``restored``), from `score_image`: means over the frames.
    settings : dict of str to str
        Of the classical methods.
    blocks : dict of str to list of Blocks
        By method, of each frame; empty where they were not asked for.
    resolution : dict
        ``resolution[way][image]`` is a dictionary of ``lateral`` and ``axial``, in µm or None: medians over the
        frames.
    quantification : dict of str to list of dict
        Of ``raw`` and ``restored``, of the first frame: `Quantification` of each channel, as lists.
    wrong : dict of str to float
        By method: share of the voxels whose local error exceeds a tenth of the signal, of all frames.
    """

    scores: dict
    settings: dict
    blocks: dict
    resolution: dict
    quantification: dict
    wrong: dict


def evaluate_subject(subject, restorer, *, fwhm=None, with_blocks=True, progress):
    """Restore all frames of a pair and judge them.

    Parameters
    ----------
    subject : Subject
    restorer : rcan.restoration.tiled.TiledRestorer
    fwhm : tuple of float, optional
        Of the blur of raw, (Z, Y, X) in µm.
    with_blocks : bool
        Score blocks besides, for intervals.
    progress : Progress
        Advanced by raw voxels: twice those of the subject, and once more with a second exposure.

    Returns
    -------
    findings : Findings
    images : dict of str to ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Of the first frame, in the unit of gt: ``raw``, the best classical method, ``restored`` and ``ground truth``,
        and of restored the local ``error`` and the image as it is (``unmatched``). Raw of other channels is left out.
        Of frames of more than eight million voxels, the central part.
    """
    frames, shown = [], None
    for number in subject.numbers:
        images, frame = _evaluate_frame(subject, number, restorer, fwhm, with_blocks, progress)
        frames.append(frame)
        shown = shown or images
    methods = [*frames[0].scores]
    return Findings(
        {method: mean_scores([frame.scores[method] for frame in frames]) for method in methods},
        {
            method: "; ".join(dict.fromkeys(frame.settings[method] for frame in frames))
            for method in frames[0].settings
        },
        {
            method: [block for frame in frames for block in frame.blocks[method]]
            for method in frames[0].blocks
        },
        _median([frame.resolution for frame in frames]),
        frames[0].quantification,
        mean_scores([frame.wrong for frame in frames]),
    ), shown


def _evaluate_frame(subject, number, restorer, fwhm, with_blocks, progress):
    """Pictures, of the first frame only, and findings of a frame."""
    raw, gt = subject.read(number, subject.part)
    restored = _restore_frame(restorer, subject.raw, number, subject.gt_part, progress)
    if not np.isfinite(restored).all():
        raise ValueError(
            f"{subject.raw.volume.path} is restored to NaN or infinite values: the image holds extreme values, or the "
            "network is damaged. Look at the image's brightest voxels, or name another network with -m."
        )
    images, settings, scores = {}, {}, {}
    has_raw = raw.shape[-1] == gt.shape[-1]
    if has_raw:
        images["raw"] = enlarge(raw, gt.shape)
        for name, reference in best_references(raw, gt, voxel_size=subject.voxel_size, fwhm=fwhm).items():
            images[name], settings[name], scores[name] = reference
    images["restored"] = restored
    scores = {name: scores.get(name) or score_image(image, gt) for name, image in images.items()}
    blocks = {name: [score_blocks(image, gt)] for name, image in images.items()} if with_blocks else {}
    judged = {name: _as_lists(quantify(images[name], gt)) for name in ("raw", "restored") if name in images}
    wrong = {name: local_error(image, gt, voxel_size=subject.voxel_size)[1] for name, image in images.items()}
    repeats = _restore_repeat(subject, number, restorer, progress)
    resolution = _measure_resolution(subject, {"raw": raw, "restored": restored}, gt, repeats)
    best = max(settings, key=lambda name: scores[name]["psnr"], default=None)
    shown = {name: images[name] for name in ("raw", best, "restored") if name in images}
    is_first = number == subject.numbers[0]
    shown = _pictures(shown, gt, subject.voxel_size) if is_first else None
    progress.advance(math.prod(subject.raw.volume.shape[:-1]))
    return shown, Findings(scores, settings, blocks, resolution, judged, wrong)


def _restore_frame(restorer, view, number, part, progress):
    """Restore a part of a frame, named in voxels of the output."""
    read = functools.partial(view.read, number)
    return restorer.restore(read, view.volume.shape[:-1], part=part, progress=progress)


def _pictures(images, gt, voxel_size):
    """Images for people, of a bounded part: they are kept when the next pair is evaluated."""
    part = central_region(gt.shape[:-1], _MOST_SHOWN)
    shown = {name: match_affine(image, gt)[part].astype(np.float32) for name, image in images.items()}
    error, _ = local_error(images["restored"], gt, voxel_size=voxel_size)
    return {
        **shown,
        "ground truth": gt[part].copy(),
        "error": error[part].copy(),
        "unmatched": images["restored"][part].copy(),
    }


def _as_lists(channels):
    return [
        {name: np.asarray(value).tolist() for name, value in channel._asdict().items()}
        for channel in channels
    ]


def _restore_repeat(subject, number, restorer, progress):
    """The second exposure of a frame, raw and restored."""
    if not subject.repeat:
        return {}
    restored = _restore_frame(restorer, subject.repeat, number, subject.gt_part, progress)
    return {"raw": subject.repeat.read(number, subject.part), "restored": restored}


def _measure_resolution(subject, images, gt, repeats):
    """Lateral and axial resolution in µm, by way and image, of the first channel.

    `images` are raw and restored, `repeats` the same of a second exposure (empty without one).
    """
    voxel_size, raw_size = subject.voxel_size, subject.raw_voxel_size
    sizes = {"raw": raw_size, "restored": voxel_size}
    first = {name: image[..., 0] for name, image in images.items()}
    truth = gt[..., 0]
    ways = {
        "decorrelation": {
            **{name: decorrelation_resolution(image, sizes[name]) for name, image in first.items()},
            "ground truth": decorrelation_resolution(truth, voxel_size),
        },
        "single exposure": {"raw": single_image_resolution(first["raw"], raw_size)},
        "against the ground truth": {
            name: fourier_resolution(
                enlarge(images[name], gt.shape)[..., 0], truth, voxel_size, threshold=AGAINST_TRUTH
            )
            for name in first
        },
    }
    if repeats:
        ways["two exposures"] = {
            name: fourier_resolution(first[name], repeats[name][..., 0], sizes[name]) for name in first
        }
    return ways


def _median(frames):
    """Median of each resolution over the frames where it was measured."""
    return {
        way: {
            image: {
                direction: _median_of([frame[way][image][direction] for frame in frames])
                for direction in ("lateral", "axial")
            }
            for image in images
        }
        for way, images in frames[0].items()
    }


def _median_of(values):
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def sum_up(findings, *, seed):
    """Means over all pairs, and what the network gains, with 95 % intervals.

    Parameters
    ----------
    findings : list of Findings
        With blocks, where there are fewer than five.
    seed : int
        Of the bootstrap.

    Returns
    -------
    total : dict
        ``over``: ``"volumes"`` or ``"blocks"``, that the intervals were taken over; ``best``: name of the classical
        method of highest mean PSNR (None without one); ``methods`` and ``gains``: ``mean``, ``low`` and ``high`` of
        each measure by method, and of the restored scores less those of ``raw`` and of ``best``, pair by pair.
    """
    methods = [method for method in findings[0].scores if all(method in each.scores for each in findings)]
    classical = [method for method in methods if method not in ("raw", "restored")]
    means = {method: mean_scores([each.scores[method] for each in findings]) for method in methods}
    best = max(classical, key=lambda method: means[method]["psnr"], default=None)
    bases = [method for method in ("raw", best) if method in methods]
    return {
        "over": "volumes" if len(findings) >= FEWEST_VOLUMES else "blocks",
        "best": best,
        "methods": {method: _with_intervals(findings, method, None, seed) for method in methods},
        "gains": {base: _with_intervals(findings, "restored", base, seed) for base in bases},
    }


def _with_intervals(findings, method, base, seed):
    """Mean and interval of each measure of a method, or of what it gains over another."""
    rows = [
        {
            measure: value - (each.scores[base][measure] if base else 0)
            for measure, value in each.scores[method].items()
        }
        for each in findings
    ]
    if len(findings) >= FEWEST_VOLUMES:
        intervals = {
            measure: bootstrap_interval([row[measure] for row in rows], seed=seed) for measure in rows[0]
        }
    else:
        blocks, minus = (
            [block for each in findings for block in each.blocks[name]] if name else None
            for name in (method, base)
        )
        # frames share the weight of their volume, as in the mean
        weights = [1 / len(each.blocks[method]) for each in findings for _ in each.blocks[method]]
        intervals = bootstrap_blocks(blocks, seed=seed, minus=minus, weights=weights)
    return {
        measure: {"mean": mean, "low": intervals[measure][0], "high": intervals[measure][1]}
        for measure, mean in mean_scores(rows).items()
    }
