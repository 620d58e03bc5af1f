"""What is known of a trained network: `training.json`, typed.

The training writes what it learned from and how. Studies of the finished network add what they find out: `spread` by
`rcan evaluate`, `trusted_range` by `rcan limits`. Each carries the digest of its network, as a training that goes on
makes another one.
"""

import os

from pydantic import AliasChoices, Field

from rcan.config import DEFAULT_PERCENTILES
from rcan.fingerprint.records import FINGERPRINT_VERSION, TrainingFingerprint, TrustedRange
from rcan.records import Record

__all__ = ["PairRecord", "SpreadRecord", "TrainingRecord"]

RECORD_VERSION = 1


class PairRecord(Record):
    """A pair of volumes that a network learned from, or was chosen by; shapes are (Z, Y, X, C) or (Y, X, C)."""

    raw: str
    gt: str
    raw_shape: tuple[int, ...] = ()
    gt_shape: tuple[int, ...] = ()
    num_frames: int = 1
    voxel_size: tuple[float | None, ...] = (None, None, None)  # of raw, (z, y, x) in µm
    raw_range: tuple[tuple[float, float], ...] = ()  # grey values that became 0 and 1, for each channel
    gt_range: tuple[tuple[float, float], ...] = ()
    digests: tuple[str, ...] = ()  # of raw and gt


class SpreadRecord(Record):
    """By what the spread of an ensemble must be multiplied to hold the truth in 68 % of the voxels.

    The shares of voxels are described in `rcan.assess.uncertainty.Coverage`.
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


class TrainingRecord(Record):
    """What is known of a trained network; of a model file alone, the defaults.

    Attributes
    ----------
    versions : dict of str to str
        Of this package, Python and others.
    percentiles : (float, float)
        Percentiles of a volume that became 0 and 1.
    patch_shape : tuple of int or None
        (Z, Y, X) or (Y, X).
    upscaling : tuple of int or None
        Voxels of the ground truth for each raw voxel.
    training, validation : tuple of PairRecord
    training_fingerprint : TrainingFingerprint or None
        Range of the raw volumes; None where nothing or another version has measured it.
    spread : SpreadRecord or None
    trusted_range : TrustedRange or None
    """

    version: int = RECORD_VERSION
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    percentiles: tuple[float, float] = DEFAULT_PERCENTILES
    patch_shape: tuple[int, ...] | None = None
    upscaling: tuple[int, ...] | None = None
    training: tuple[PairRecord, ...] = ()
    validation: tuple[PairRecord, ...] = ()
    training_fingerprint: TrainingFingerprint | None = Field(
        None, validation_alias=AliasChoices("training_fingerprint", "seen")
    )
    spread: SpreadRecord | None = None
    trusted_range: TrustedRange | None = None

    @classmethod
    def read(cls, values, path):
        """Check the contents of a `training.json`; a fingerprint of another version is left out."""
        if isinstance(values, dict):
            kept = {
                key: value
                for key, value in values.items()
                if key not in ("training_fingerprint", "seen") or _is_current(value)
            }
            return super().read(kept, path)
        return super().read(values, path)

    def as_json(self):
        """The contents of `training.json`; what is not known is left out."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    @property
    def pairs(self):
        """All pairs that the network learned from or was chosen by."""
        return (*self.training, *self.validation)

    def real_paths(self, kinds=("raw", "gt")):
        """Files that the network learned from or was chosen by, links resolved."""
        return {os.path.realpath(getattr(pair, kind)) for pair in self.pairs for kind in kinds}


def _is_current(fingerprint):
    return isinstance(fingerprint, dict) and fingerprint.get("version") == FINGERPRINT_VERSION
