"""One volume judged: raw, restored and classically filtered images, compared with the ground truth.

The network restores whole frames as `apply` does; of a large one the central part is judged. Everything is measured in
one unit, background 0 and signal 1 by the network's own percentiles, and in the ground truth's voxels.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from rcan.assess.intervals import Interval, bootstrap_blocks, bootstrap_interval, score_blocks
from rcan.assess.quantification import local_error, quantify
from rcan.assess.records import MethodScores, ShownImages, Summary, VolumeResult
from rcan.assess.references import best_references
from rcan.assess.resolution.measures import (
    AGAINST_TRUTH,
    Resolution,
    decorrelation_resolution,
    fourier_resolution,
    single_image_resolution,
)
from rcan.intensity import match_affine
from rcan.regions import central_region
from rcan.restoration.tiled import restore
from rcan.scores import blank_out, compare, enlarge, mean_scores, score_image

__all__ = ["FEWEST_VOLUMES", "evaluate_subject", "score_pair", "sum_up"]

FEWEST_VOLUMES = 5  # to take intervals over volumes; over the blocks of fewer
_MOST_SHOWN = 2**23  # voxels of a picture


class _FrameResult(NamedTuple):
    """As `VolumeResult`, of one frame."""

    methods: dict
    resolution: dict
    quantification: dict
    blocks: dict


def evaluate_subject(subject, restorer, *, learned_from, fwhm=None, with_blocks=True, progress):
    """Restore all frames of a `Subject` and judge them: a `VolumeResult`, and `ShownImages` of the first frame.

    `learned_from` says whether the network was trained or validated on it; `fwhm` is that of the blur of raw, (Z, Y,
    X) in µm; blocks are scored for intervals. `progress` is advanced by raw voxels: twice those of the subject, and
    once more with a second exposure. Raw of other channels than gt is not shown; of frames of more than eight million
    voxels, the central part is.
    """
    frames, shown = [], None
    for number in subject.numbers:
        images, frame = _evaluate_frame(subject, number, restorer, fwhm, with_blocks, progress)
        frames.append(frame)
        shown = shown or images
    result = VolumeResult(
        raw=str(subject.raw.volume.path),
        ground_truth=str(subject.gt.volume.path),
        repeat=str(subject.repeat.volume.path) if subject.repeat else None,
        shape=subject.gt.volume.shape,
        num_frames=len(subject.numbers),
        part=tuple((along.start, along.stop) for along in subject.gt_part) if subject.is_part else None,
        voxel_size=subject.voxel_size,
        learned_from=learned_from,
        methods={name: _mean_method([frame.methods[name] for frame in frames]) for name in frames[0].methods},
        resolution=_median_resolution([frame.resolution for frame in frames]),
        quantification=frames[0].quantification,
        blocks={name: [frame.blocks[name] for frame in frames] for name in frames[0].blocks},
    )
    return result, shown


def _mean_method(frames):
    return MethodScores(
        mean_scores([frame.scores for frame in frames]),
        float(np.mean([frame.wrong for frame in frames])),
        "; ".join(dict.fromkeys(frame.setting for frame in frames)) if frames[0].setting else None,
    )


def _evaluate_frame(subject, number, restorer, fwhm, with_blocks, progress):
    """Images, of the first frame only, and results of a frame."""
    raw, gt = subject.read(number, subject.part)
    restored = _restore_frame(restorer, subject.raw, number, subject.gt_part, progress)
    if not np.isfinite(restored).all():
        raise ValueError(
            f"{subject.raw.volume.path} is restored to NaN or infinite values: the image holds extreme values, or the "
            "network is damaged. Look at the image's brightest voxels, or name another network with -m."
        )
    images, references = {}, {}
    if raw.shape[-1] == gt.shape[-1]:
        images["raw"] = enlarge(raw, gt.shape)
        references = best_references(raw, gt, voxel_size=subject.voxel_size, fwhm=fwhm)
        images |= {name: reference.image for name, reference in references.items()}
    images["restored"] = restored
    methods = {}
    for name, image in images.items():
        reference = references.get(name)
        scores = reference.scores if reference else score_image(image, gt)
        _, wrong = local_error(image, gt, voxel_size=subject.voxel_size)
        methods[name] = MethodScores(scores, wrong, reference.setting if reference else None)
    repeats = _restore_repeat(subject, number, restorer, progress)
    result = _FrameResult(
        methods=methods,
        resolution=_measure_resolution(subject, {"raw": raw, "restored": restored}, gt, repeats),
        quantification={name: quantify(images[name], gt) for name in ("raw", "restored") if name in images},
        blocks={name: score_blocks(image, gt) for name, image in images.items()} if with_blocks else {},
    )
    best = max(references, key=lambda name: references[name].scores["psnr"], default=None)
    is_first = number == subject.numbers[0]
    chosen = {name: images[name] for name in ("raw", best, "restored") if name in images}
    shown = _show(chosen, gt, subject.voxel_size) if is_first else None
    progress.advance(math.prod(subject.raw.volume.shape[:-1]))
    return shown, result


def _restore_frame(restorer, view, number, part, progress):
    """Restore a part of a frame, named in voxels of the output."""
    read = functools.partial(view.read_input, number)
    return restorer.restore(read, view.volume.shape[:-1], part=part, progress=progress)


def _restore_repeat(subject, number, restorer, progress):
    """The second exposure of a frame, raw and restored."""
    if not subject.repeat:
        return {}
    restored = _restore_frame(restorer, subject.repeat, number, subject.gt_part, progress)
    return {"raw": subject.repeat.read(number, subject.part), "restored": restored}


def _show(images, gt, voxel_size):
    """Images for people, of a bounded part: they are kept while the next volumes are evaluated."""
    part = central_region(gt.shape[:-1], _MOST_SHOWN)
    matched = {name: match_affine(image, gt)[part].astype(np.float32) for name, image in images.items()}
    error, _ = local_error(images["restored"], gt, voxel_size=voxel_size)
    return ShownImages(
        {**matched, "ground truth": gt[part].copy()}, voxel_size, error[part].copy(), images["restored"][part].copy()
    )


def _measure_resolution(subject, images, gt, repeats):
    """Resolution of the first channel, by the way it is measured and the image.

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


def _median_resolution(frames):
    """Median of each resolution over the frames where it was measured."""
    return {
        way: {
            image: Resolution(*map(_median, zip(*(frame[way][image] for frame in frames), strict=True)))
            for image in images
        }
        for way, images in frames[0].items()
    }


def _median(values):
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


# All volumes together


def sum_up(volumes, *, seed):
    """Means over a list of `VolumeResult`, and what the network gains, with 95 % intervals: a `Summary`.

    Where there are fewer than five, the intervals are taken over their blocks. `seed` is that of the bootstrap.
    """
    methods = [name for name in volumes[0].methods if all(name in volume.methods for volume in volumes)]
    classical = [name for name in methods if name not in ("raw", "restored")]
    means = {name: mean_scores([volume.methods[name].scores for volume in volumes]) for name in methods}
    best = max(classical, key=lambda name: means[name]["psnr"], default=None)
    bases = [name for name in ("raw", best) if name in methods]
    return Summary(
        over="volumes" if len(volumes) >= FEWEST_VOLUMES else "blocks",
        best=best,
        methods={name: _find_intervals(volumes, name, None, seed) for name in methods},
        gains={base: _find_intervals(volumes, "restored", base, seed) for base in bases},
    )


def _find_intervals(volumes, method, base, seed):
    """Mean and interval of each measure of a method, or of what it gains over another."""
    rows = [
        {
            measure: value - (volume.methods[base].scores[measure] if base else 0)
            for measure, value in volume.methods[method].scores.items()
        }
        for volume in volumes
    ]
    if len(volumes) >= FEWEST_VOLUMES:
        ends = {measure: bootstrap_interval([row[measure] for row in rows], seed=seed) for measure in rows[0]}
    else:
        blocks, minus = (
            [block for volume in volumes for block in volume.blocks[name]] if name else None for name in (method, base)
        )
        # frames share the weight of their volume, as in the mean
        weights = [1 / len(volume.blocks[method]) for volume in volumes for _ in volume.blocks[method]]
        ends = bootstrap_blocks(blocks, seed=seed, minus=minus, weights=weights)
    return {measure: Interval(mean, *ends[measure]) for measure, mean in mean_scores(rows).items()}


# After a training


def score_pair(model, pair, *, tile_shape=None):
    """Restore the raw volume of a `rcan.data.pairs.Pair`, and score it and the raw one against the ground truth.

    Returns the scores of `rcan.scores.compare`, means over the frames, and the last frame by name: ``raw``,
    ``restored`` and ``ground truth``, matched, background 0 and signal 1.
    """
    frames = []
    for number in range(pair.num_frames):
        raw, gt, missing = pair.read_masked(number)
        restored = restore(model, pair.raw.as_input(number, raw), tile_shape=tile_shape)
        if missing is not None:
            raw, restored, gt = (blank_out(enlarge(each, gt.shape), missing) for each in (raw, restored, gt))
        frames.append(compare(raw, restored, gt))
    images = {"raw": enlarge(raw, gt.shape), "restored": restored}
    images = {name: match_affine(image, gt) for name, image in images.items() if image.shape == gt.shape}
    return mean_scores(frames), {**images, "ground truth": gt}
