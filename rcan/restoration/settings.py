"""With which settings image files are restored."""

from dataclasses import dataclass

import numpy as np

from rcan.config import DEFAULT_PERCENTILES

__all__ = ["RestoreSettings"]


@dataclass(frozen=True)
class RestoreSettings:
    """What decides about the restored file of an image, besides the network and its tiles.

    Attributes
    ----------
    percentiles : tuple of float
        Percentiles that become 0 and 1.
    normalize : {"series", "frame", "training"}
        As `rcan.data.views.open_network_view`.
    training_range : ndarray or None
        Grey values that became 0 and 1 in training.
    axes, gt_axes : str or None
        Axes of the input and of the ground truth, where their metadata is wrong.
    channels : tuple of int or None
        Channels of the input to restore; all where None.
    bits : {32, 16, 8}
        Of an output value: float32, uint16 or uint8.
    as_channels : bool
        Write raw, restored and ground truth as channels, normalised.
    rescale : bool
        Match the result to the ground truth, and write it in its unit.
    stretch : bool
        Stretch each channel to [0, 1].
    with_spread : bool
        The network is an ensemble that gives its spread, too, which becomes a second file.
    spread_factor : float
        What the spread is multiplied by.
    training_fingerprint, trusted_range
        Of the network's `rcan.run_folder.record.TrainingRecord`; None where not known.
    """

    percentiles: tuple = DEFAULT_PERCENTILES
    normalize: str = "series"
    training_range: np.ndarray | None = None
    axes: str | None = None
    gt_axes: str | None = None
    channels: tuple | None = None
    bits: int = 32
    as_channels: bool = False
    rescale: bool = False
    stretch: bool = False
    with_spread: bool = False
    spread_factor: float = 1.0
    training_fingerprint: object | None = None
    trusted_range: object | None = None

    @property
    def is_normalised(self):
        """Whether the output is written from 0 to 1, not in the unit of its input."""
        return self.as_channels or self.stretch
