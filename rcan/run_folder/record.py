"""What is known of a trained network: `training.json`, typed.

The training writes what it learned from and how, and in the end `bfloat16_check`. Studies of the finished network add
what they find out: `spread` by `rcan evaluate`, `trusted_range` by `rcan limits`. Each carries the digest of its
network, as a training that goes on makes another one.
"""

import os

from pydantic import AliasChoices, Field

from rcan.config import DEFAULT_PERCENTILES, Percentiles
from rcan.fingerprint.records import FINGERPRINT_VERSION, TrainingFingerprint, TrustedRange
from rcan.records import Record

__all__ = ["PairRecord", "PrecisionCheck", "SpreadRecord", "TrainingRecord"]

RECORD_VERSION = 1
_FINGERPRINT_KEYS = ("training_fingerprint", "seen")  # the second one until version 0.1.0


class PairRecord(Record):
    """A pair of volumes that a network learned from, or was chosen by; shapes are (Z, Y, X, C) or (Y, X, C)."""

    raw: str
    gt: str
    raw_start: tuple[int, ...] = ()  # where in the file a part begins; unset where that is its end, or the file whole
    gt_start: tuple[int, ...] = ()
    raw_shape: tuple[int, ...] = ()
    gt_shape: tuple[int, ...] = ()
    num_frames: int = 1
    voxel_size: tuple[float | None, ...] = (None, None, None)  # of raw, (z, y, x) in µm
    raw_range: tuple[tuple[float, float], ...] = ()  # grey values that became 0 and 1, for each channel
    gt_range: tuple[tuple[float, float], ...] = ()
    digests: tuple[str, ...] = ()  # of raw and gt


class SpreadRecord(Record):
    """What the spread of an ensemble must be multiplied by to hold the truth in 68 % of the voxels.

    `rcan.assess.uncertainty.Coverage` says what the shares of voxels mean.
    """

    factor: float
    ensemble: int
    found_on: str
    within_one: float | None = None
    within_two: float | None = None
    calibrated_within_one: float | None = None
    calibrated_within_two: float | None = None
    signal_within_one: float | None = None
    num_voxels: int | None = None
    model: str | None = None  # digest of the network


class PrecisionCheck(Record):
    """How far the output of a network in bfloat16 is from that in float32, on validation patches."""

    difference: float  # root mean square, in units of the error in float32
    num_voxels: int
    model: str | None = None  # digest of the network


class TrainingRecord(Record):
    """What is known of a trained network; of a model file alone, the defaults."""

    version: int = RECORD_VERSION
    versions: dict[str, str] = Field(default_factory=dict)  # of this package, Python and others
    seed: int | None = None
    precision: str | None = None  # policy of Keras that it was trained under; unset by version 0.1.0
    percentiles: Percentiles = DEFAULT_PERCENTILES  # of a volume, that became 0 and 1
    normalization: str = "percentiles"  # of the network's input, see `rcan.data.views.NetworkView`
    # the least and the most noise that it has learned from, (2, C, 3), as of `rcan.intensity.stabilise`
    noise_range: tuple[tuple[tuple[float, float, float], ...], ...] | None = Field(None, min_length=2, max_length=2)
    patch_shape: tuple[int, ...] | None = None  # (Z, Y, X) or (Y, X)
    upscaling: tuple[int, ...] | None = None  # voxels of the ground truth for each raw voxel
    own_functions: dict[str, str] | None = None  # names, by what they stand for: network, loss, augment
    training: tuple[PairRecord, ...] = ()
    validation: tuple[PairRecord, ...] = ()
    training_fingerprint: TrainingFingerprint | None = Field(  # of the raw volumes; of this version alone
        None, validation_alias=AliasChoices(*_FINGERPRINT_KEYS)
    )
    bfloat16_check: PrecisionCheck | None = None
    spread: SpreadRecord | None = None
    trusted_range: TrustedRange | None = None

    @classmethod
    def read(cls, values, path):
        """Check the contents of a `training.json`; a fingerprint of another version is left out."""
        if isinstance(values, dict):
            outdated = [key for key in _FINGERPRINT_KEYS if not _is_current(values.get(key))]
            values = {key: value for key, value in values.items() if key not in outdated}
        return super().read(values, path)

    def as_json(self):
        """The contents of `training.json`; what is not known is left out."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    @property
    def scaling(self):
        """How grey values become the network's input: keywords of `rcan.view_image`, for example."""
        return {name: getattr(self, name) for name in ("percentiles", "normalization", "noise_range")}

    @property
    def pairs(self):
        """All pairs that the network learned from or was chosen by."""
        return (*self.training, *self.validation)

    def real_paths(self, kinds=("raw", "gt")):
        """Files that the network learned from or was chosen by, links resolved."""
        return {os.path.realpath(getattr(pair, kind)) for pair in self.pairs for kind in kinds}


def _is_current(fingerprint):
    return isinstance(fingerprint, dict) and fingerprint.get("version") == FINGERPRINT_VERSION
