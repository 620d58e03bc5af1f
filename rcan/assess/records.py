"""What an evaluation has found, typed; scores.json holds the same."""

from dataclasses import dataclass, field

import numpy as np

from rcan.assess.calibration import Calibration
from rcan.records import to_json

__all__ = [
    "Evaluation",
    "EvaluationImages",
    "MethodScores",
    "NetworkFacts",
    "ShownImages",
    "Summary",
    "VolumeResult",
]


@dataclass(frozen=True)
class MethodScores:
    """How close the images of a method (raw, a classical one, restored) are to the ground truth: means over the frames.

    Attributes
    ----------
    scores : dict of str to float
        By measure, see `rcan.scores`.
    wrong : float
        Share of the voxels whose local error exceeds a tenth of the signal.
    setting : str or None
        Of a classical method, in words.
    """

    scores: dict
    wrong: float
    setting: str | None = None

    def as_row(self):
        """As in scores.csv and scores.json."""
        return {"setting": self.setting, **self.scores, "wrong": self.wrong}


@dataclass(frozen=True, kw_only=True)
class VolumeResult:
    """What was found about a raw image and its ground truth.

    Attributes
    ----------
    raw, ground_truth, repeat : str
        Files; repeat is None without a second exposure.
    shape : tuple of int
        Of a frame of the ground truth, (Z, Y, X, C) or (Y, X, C).
    num_frames : int
        That were evaluated.
    part : tuple of (int, int), or None
        First and last voxel (the last one left out) of the part of the ground truth that was evaluated, along each
        axis; None where that is the whole.
    voxel_size : tuple of (float or None)
        Of the ground truth, (z, y, x) in µm.
    learned_from : bool
        Whether the network was trained or validated on it.
    methods : dict of str to MethodScores
    resolution : dict of str to dict of str to rcan.assess.resolution.measures.Resolution
        By the way it is measured and the image: medians over the frames.
    quantification : dict of str to list of rcan.assess.quantification.Quantification
        Of the raw and the restored image, of the first frame: one for each channel.
    blocks : dict of str to list of rcan.assess.intervals.Blocks
        By method, of each frame; empty where they are not needed. Not kept in the file.
    """

    raw: str
    ground_truth: str
    repeat: str | None = None
    shape: tuple
    num_frames: int
    part: tuple | None = None
    voxel_size: tuple
    learned_from: bool
    methods: dict
    resolution: dict
    quantification: dict
    blocks: dict = field(default_factory=dict)

    @property
    def evaluated_part(self):
        """How much was evaluated: ``whole``, or such as ``central 6x20x20``."""
        if not self.part:
            return "whole"
        return "central " + "x".join(str(stop - start) for start, stop in self.part)

    def as_json(self):
        """As in scores.json."""
        methods = {name: scores.as_row() for name, scores in self.methods.items()}
        values = {**vars(self), "methods": methods}
        del values["blocks"]
        return to_json(values)


@dataclass(frozen=True)
class Summary:
    """All volumes together, with 95 % intervals.

    Attributes
    ----------
    over : {"volumes", "blocks"}
        What the intervals were taken over.
    best : str or None
        Classical method of highest mean PSNR.
    methods : dict of str to dict of str to rcan.assess.intervals.Interval
        By method and measure.
    gains : dict of str to dict of str to rcan.assess.intervals.Interval
        Of the restored scores less those of ``raw`` and of `best`, volume by volume.
    """

    over: str
    best: str | None
    methods: dict
    gains: dict


@dataclass(frozen=True)
class NetworkFacts:
    """The network that was evaluated."""

    path: str
    digest: str
    num_parameters: int
    percentiles: tuple


@dataclass(frozen=True)
class Evaluation:
    """A network, judged on pairs of images.

    Attributes
    ----------
    model : NetworkFacts
    versions : dict of str to str
    volumes : dict of str to VolumeResult
        By name.
    total : Summary
    nulls : dict of str to dict of str to rcan.assess.nulls.NullResult
        By null image and filter.
    calibration : rcan.assess.calibration.Calibration or None
    settings : dict
        The options, as JSON.
    """

    model: NetworkFacts
    versions: dict
    volumes: dict
    total: Summary
    nulls: dict
    calibration: Calibration | None
    settings: dict

    def as_json(self):
        """As in scores.json."""
        nulls = {
            null: {
                name: {k: v for k, v in found._asdict().items() if v is not None}
                for name, found in each.items()
            }
            for null, each in self.nulls.items()
        }
        volumes = {name: volume.as_json() for name, volume in self.volumes.items()}
        return to_json({**vars(self), "volumes": volumes, "nulls": nulls})


@dataclass(frozen=True)
class ShownImages:
    """Images of one volume for people, (Z, Y, X, C) or (Y, X, C), matched to the ground truth.

    Attributes
    ----------
    images : dict of str to ndarray
        By name: raw, the best classical method, restored, ground truth.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm.
    error : ndarray
        Of restored, in units of the signal.
    unmatched : ndarray, optional
        Restored as it is.
    """

    images: dict
    voxel_size: tuple
    error: np.ndarray
    unmatched: np.ndarray | None = None


@dataclass(frozen=True)
class EvaluationImages:
    """Images for the report: of the first volume and that of lowest PSNR by name, and planes of the null images."""

    volumes: dict
    nulls: dict
