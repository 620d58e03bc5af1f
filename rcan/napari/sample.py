"""Sample data: a simulated pair."""

import numpy as np

from rcan.simulation.options import DEFAULT_VOXEL_SIZE, SimulateOptions
from rcan.simulation.pairs import phantom_pair

__all__ = ["open_sample"]

_OPTIONS = {"seed": 1, "shape": (24, 96, 96)}  # the first of the test pairs in the folder `sample`


def open_sample():
    """Simulate a pair, raw and ground truth, in half a second: two layers as napari takes them."""
    options = SimulateOptions.checked({"output": "unused", **_OPTIONS})
    calibration = {"scale": DEFAULT_VOXEL_SIZE, "units": ("um",) * 3, "axis_labels": ("z", "y", "x")}
    layers = []
    for name, image in zip(("sample raw", "sample ground truth"), phantom_pair(options, 0), strict=True):
        limits = float(image.min()), float(np.percentile(image, 99.9))
        layers.append((image[..., 0], {"name": name, "contrast_limits": limits, **calibration}, "image"))
    layers[1][1]["visible"] = False  # it lies on top
    return layers
