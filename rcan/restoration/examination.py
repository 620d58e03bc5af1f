"""What needs the whole restored image before anything is written: scores, the match to the ground truth, limits."""

import math
import tempfile
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from rcan.atomic_io import preallocate, report_errors_as
from rcan.intensity import fit_affine
from rcan.scores import blank_out, compare, mean_scores

__all__ = ["Examination", "examine", "open_scratch"]


class Examination(NamedTuple):
    """Mean scores of the frames (None without ground truth), and lowest and highest values by kind and channel."""

    scores: dict | None
    limits: dict


def examine(restored, raw, gt, num_channels, *, rescale):
    """Score restored frames and find the limits of each channel; with `rescale` match them to the ground truth first.

    `restored` is (frames, Z, Y, X, C), its first `num_channels` channels are restored, the others a spread; matched
    in place. `raw` and `gt` are `NetworkView`s.
    """
    if rescale:
        _match(restored, raw, gt, num_channels)
    scores, limits = [], {}
    for number, frame in enumerate(raw.frames):
        images = {"raw": raw.read(number), "restored": np.array(restored[number][..., :num_channels])}
        if gt:
            images["ground truth"] = gt.read(number)
        missing = np.isnan(images["raw"]).any(axis=-1, keepdims=True)
        images = {kind: blank_out(image, missing) for kind, image in images.items()}
        if gt:
            scores.append(compare(*images.values()))
        for kind, image in images.items():
            space, key = tuple(range(image.ndim - 1)), (kind, frame.get("C"))
            low, high = limits.get(key, (np.inf, -np.inf))
            limits[key] = np.minimum(low, image.min(axis=space)), np.maximum(high, image.max(axis=space))
    return Examination(mean_scores(scores) if scores else None, limits)


def _match(restored, raw, gt, num_channels):
    """Bring all frames to the ground truth by one line for each channel, so that a time course stays one."""
    by_channel = {}
    for number, frame in enumerate(raw.frames):
        by_channel.setdefault(frame.get("C"), []).append(number)
    for numbers in by_channel.values():
        line = fit_affine((restored[i][..., :num_channels], gt.read(i)) for i in numbers)
        for i in numbers:
            restored[i][..., :num_channels] = line[:, 0] * restored[i][..., :num_channels] + line[:, 1]
            restored[i][..., num_channels:] *= np.abs(line[:, 0])


@contextmanager
def open_scratch(folder, shape):
    """An array of float32 on disk that is gone afterwards."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with report_errors_as(folder):
            preallocate(file, 0, 4 * math.prod(shape))
        array = np.memmap(file, np.float32, "w+", shape=shape)
        yield array
        del array
