"""Tables of what a network has learned from: its pairs, and the range of their raw images."""

import math
from pathlib import PureWindowsPath

from rcan.report.text import format_sizes

__all__ = ["pair_table", "range_table"]

_FEATURES = {  # features that are kept as logarithms, see rcan.fingerprint
    "snr": "signal-to-noise ratio",
    "lateral": "lateral fine structure, share of the coarse",
    "axial": "axial fine structure, share of the coarse",
    "brightness": "median intensity, share of the bright tenth",
}


def pair_table(record, *, most):
    """Header and rows of the first pairs, at most so many, of a `TrainingRecord`; files are named without folders."""
    pairs = [(kind, pair) for kind in ("training", "validation") for pair in getattr(record, kind)]
    header = ["raw", "ground truth", "for", "voxels (ZYXC)", "frames", "voxel size (µm)", "raw range", "truth's range"]
    return header, [_pair_row(kind, pair) for kind, pair in pairs[:most]]


def _pair_row(kind, pair):
    return [
        PureWindowsPath(pair.raw).name,  # of a path of any system
        PureWindowsPath(pair.gt).name,
        kind,
        _shapes(pair),
        str(pair.num_frames),
        _sizes("?" if size is None else f"{size:.3g}" for size in pair.voxel_size),
        _ranges(pair.raw_range),
        _ranges(pair.gt_range),
    ]


def range_table(fingerprint):
    """Header and rows of a `TrainingFingerprint`: the lowest and the highest of each feature in each channel."""
    several = len(fingerprint.channels) > 1
    header = ["of the raw volumes", *(["channel"] if several else []), "lowest", "highest"]
    return header, [
        [words, *([str(number)] if several else []), *(float(f"{math.exp(end):.3g}") for end in feature.range)]
        for name, words in _FEATURES.items()
        for number, channel in enumerate(fingerprint.channels)
        if (feature := channel.features.get(name))
    ]


def _sizes(sizes):
    return format_sizes(sizes, "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}")  # a cell is one line


def _shapes(pair):
    raw, gt = pair.raw_shape, pair.gt_shape
    return _sizes(raw) if raw == gt else f"{_sizes(raw)} to {_sizes(gt)}"


def _ranges(channels):
    return ", ".join(f"{low:.5g}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.5g}" for low, high in channels)
