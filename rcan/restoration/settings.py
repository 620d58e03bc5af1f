"""With which settings image files are restored."""

from dataclasses import dataclass

import numpy as np

from rcan.config import DEFAULT_PERCENTILES
from rcan.hardware import FLOAT32, ChosenPrecision

__all__ = ["CACHE_BYTES", "RestoreSettings"]

CACHE_BYTES = 2**27  # of decoded parts of compressed files: neighbouring tiles touch the same ones


@dataclass(frozen=True)
class RestoreSettings:
    """What decides about the restored file of an image, besides the network and its tiles."""

    percentiles: tuple = DEFAULT_PERCENTILES  # that become 0 and 1
    normalization: str = "percentiles"  # of the network's input, see `rcan.data.views.NetworkView`
    normalize: str = "series"  # or "frame" or "training", as `rcan.data.views.open_network_view`
    noise_range: tuple | None = None  # that the network has learned from, see there
    training_range: np.ndarray | None = None  # grey values that became 0 and 1 in training
    noise: np.ndarray | None = None  # of the image, see `rcan.data.views.NetworkView`; measured where None
    axes: str | None = None  # of the input, where its metadata is wrong
    gt_axes: str | None = None
    despike: bool = False  # see `rcan.data.despike`
    channels: tuple | None = None  # of the input, to restore; all where None
    precision: ChosenPrecision = FLOAT32  # that the network is computed in
    bits: int = 32  # of an output value: 32 float32, 16 uint16, 8 uint8
    as_channels: bool = False  # write raw, restored and ground truth as channels, normalised
    rescale: bool = False  # match the result to the ground truth, and write it in its unit
    stretch: bool = False  # stretch each channel to [0, 1]
    with_spread: bool = False  # the network is an ensemble that gives its spread, too: a second file
    spread_factor: float = 1.0  # what the spread is multiplied by
    training_fingerprint: object | None = None  # of the `TrainingRecord`; None where not known
    trusted_range: object | None = None

    @property
    def is_normalised(self):
        """Whether the output is written from 0 to 1, not in the unit of its input."""
        return self.as_channels or self.stretch
