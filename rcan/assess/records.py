"""What an evaluation has found, typed; scores.json holds the same."""

from dataclasses import dataclass, field

import numpy as np

from rcan.assess.calibration import Calibration
from rcan.inline import as_table
from rcan.records import to_json

__all__ = ["Evaluation", "EvaluationImages", "MethodScores", "NetworkFacts", "ShownImages", "Summary", "VolumeResult"]


@dataclass(frozen=True)
class MethodScores:
    """How close the images of a method (raw, a classical one, restored) are to the truth: means over the frames."""

    scores: dict  # float by measure, see `rcan.scores`
    wrong: float  # share of the voxels whose local error exceeds a tenth of the signal
    setting: str | None = None  # of a classical method, in words

    def as_row(self):
        """As in scores.csv and scores.json."""
        return {"setting": self.setting, **self.scores, "wrong": self.wrong}


@dataclass(frozen=True, kw_only=True)
class VolumeResult:
    """What was found about a raw image and its ground truth."""

    raw: str  # files, as text
    ground_truth: str
    repeat: str | None = None  # the second exposure
    shape: tuple  # of a frame of the ground truth, (Z, Y, X, C) or (Y, X, C)
    num_frames: int  # that were evaluated
    part: tuple | None = None  # start and stop of the evaluated voxels along each axis; None of the whole
    voxel_size: tuple  # of the ground truth, (z, y, x) in µm
    learned_from: bool  # whether the network was trained or validated on it
    methods: dict  # `MethodScores` by name
    resolution: dict  # medians over the frames: `Resolution` by the way it is measured and the image
    quantification: dict  # of the first frame, raw and restored: a `Quantification` for each channel
    blocks: dict = field(default_factory=dict)  # a `Blocks` for each frame, by method; not in the file

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
    """All volumes together, with 95 % intervals."""

    over: str  # what the intervals were taken over: "volumes" or "blocks"
    best: str | None  # classical method of highest mean PSNR
    methods: dict  # `Interval` by method and measure
    gains: dict  # restored less raw, and less the best, volume by volume: `Interval` by base and measure


@dataclass(frozen=True)
class NetworkFacts:
    """The network that was evaluated."""

    path: str
    digest: str
    num_parameters: int
    percentiles: tuple
    precision: str  # policy of Keras that it was computed under


@dataclass(frozen=True)
class Evaluation:
    """A network, judged on pairs of images."""

    model: NetworkFacts
    versions: dict
    volumes: dict  # `VolumeResult` by name
    total: Summary
    nulls: dict  # `NullResult` by null image and filter
    calibration: Calibration | None
    settings: dict  # the options, as JSON

    def as_json(self):
        """As in scores.json."""
        nulls = {
            null: {name: {k: v for k, v in found._asdict().items() if v is not None} for name, found in each.items()}
            for null, each in self.nulls.items()
        }
        volumes = {name: volume.as_json() for name, volume in self.volumes.items()}
        return to_json({**vars(self), "volumes": volumes, "nulls": nulls})

    def _repr_html_(self):
        """As a notebook shows it: the scores of each method, means with 95 % intervals."""
        rows = [
            [
                method,
                "{:.2f} ({:.2f} to {:.2f})".format(*intervals["psnr"]),
                "{:.3f} ({:.3f} to {:.3f})".format(*intervals["ssim"]),
            ]
            for method, intervals in self.total.methods.items()
        ]
        caption = f"{len(self.volumes)} {'image' if len(self.volumes) == 1 else 'images'}, with 95 % intervals"
        return as_table(["method", "PSNR (dB)", "SSIM"], rows, caption=f"{caption} over {self.total.over}")


@dataclass(frozen=True)
class ShownImages:
    """Images of one volume for people, (Z, Y, X, C) or (Y, X, C), matched to the ground truth."""

    images: dict  # by name: raw, the best classical method, restored, ground truth
    voxel_size: tuple  # (z, y, x) in µm
    error: np.ndarray  # of restored, in units of the signal
    unmatched: np.ndarray | None = None  # restored as it is


@dataclass(frozen=True)
class EvaluationImages:
    """Images for the report: of the first volume and that of lowest PSNR by name, and planes of the null images."""

    volumes: dict
    nulls: dict
