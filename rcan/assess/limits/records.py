"""Steps of the ladders and what was measured at each, typed: limits.json and the files in steps/ hold the same."""

from dataclasses import dataclass
from typing import NamedTuple

from rcan.inline import as_table
from rcan.records import Record, to_json

__all__ = [
    "LadderStep",
    "LimitsResult",
    "LimitsSettings",
    "MeasuredExposure",
    "MeasuredImage",
    "Microscope",
    "ShownStep",
    "Step",
]

Number = float | int  # numbers are kept as they were typed


class Step(NamedTuple):
    """How far specimens are degraded: photons at signal 1, and width of a point over that in the ground truth."""

    photons: float
    blur: float

    @property
    def name(self):
        """Of files and folders."""
        return f"photons_{self.photons:.10g}_blur_{self.blur:.10g}"


class Microscope(NamedTuple):
    """What all exposures share, in the units of `rcan.simulation.camera.expose`."""

    fwhm: tuple  # of a point in the ground truth, µm, (Z, Y, X)
    background: float
    offset: float
    gain: float
    read_noise: float

    @property
    def camera(self):
        """Arguments of `rcan.simulation.camera.expose`."""
        return {name: value for name, value in self._asdict().items() if name != "fwhm"}


class MeasuredImage(Record):
    """An image of an exposure: None where something cannot be measured."""

    psnr: float | None = None  # dB, after an affine match, as SSIM
    ssim: float | None = None
    lateral_true: float | None = None  # µm: the finest details that are right, by Fourier ring correlation
    axial_true: float | None = None
    lateral: float | None = None  # µm: the finest details, right or not, by image decorrelation analysis
    axial: float | None = None
    name: str | None = None  # of the best classical method
    setting: str | None = None


class MeasuredExposure(Record):
    """An exposure: its images are ``raw``, ``restored``, ``reference`` (the best classical method) and ``gt``.

    Of the ground truth only `lateral` and `axial` are measured.
    """

    specimen: str
    snr: float
    images: dict[str, MeasuredImage]


class LadderStep(Record):
    """A step that was measured; `snr` is the mean over the exposures."""

    photons: Number
    blur: Number
    snr: float
    exposures: tuple[MeasuredExposure, ...]

    @property
    def step(self):
        """The degradation alone."""
        return Step(self.photons, self.blur)

    def as_json(self):
        """As in its file."""
        return to_json(self)


class LimitsSettings(Record):
    """All that decides about the results of a step; the ladders themselves may grow."""

    model: str | None = None  # digest of the network; unset where networks are trained
    axes: str | None = None
    volumes: int  # exposures of a step
    shape: tuple[int, int, int]
    background: float
    offset: float
    gain: float
    read_noise: float
    seed: int
    fwhm: tuple[Number, Number, Number]  # of a point in the ground truth, µm, (Z, Y, X)
    percentiles: tuple[Number, Number]  # that become 0 and 1
    normalization: str = "percentiles"  # of the networks' input
    noise_range: list[list[tuple[Number, Number, Number]]] | None = None  # that the network has learned from
    input: list[tuple[str, list[int]]] | None = None  # images to test on, with their signatures
    precision: str = "float32"  # policy of Keras that networks are computed under; unset by version 0.1.0
    phantoms: str | None = None  # kind of phantom; unset for images
    voxel_size: tuple[Number, Number, Number] | None = None
    config: dict | None = None  # of the networks that are trained, without their data
    training_volumes: int | None = None
    training_input: list[tuple[str, list[int]]] | None = None

    @property
    def microscope(self):
        """Optics and camera of all exposures."""
        return Microscope(**{name: getattr(self, name) for name in Microscope._fields})

    @property
    def scaling(self):
        """How grey values become the networks' input, as of a `TrainingRecord`."""
        return {name: getattr(self, name) for name in ("percentiles", "normalization", "noise_range")}

    def as_json(self):
        """As in limits.json."""
        return to_json(self)


@dataclass(frozen=True)
class LimitsResult:
    """What a study of limits has found."""

    versions: dict
    settings: LimitsSettings
    limits: dict  # `Limit` by the names of `rcan.assess.limits.ends.RULES`
    ladders: dict  # lists of `LadderStep`, snr and blur
    intervals: dict  # `Interval` of the mean over the exposures, by `Step`, and by image and measure
    notes: list  # sentences about the specimens, for the reader

    def as_json(self):
        """As in limits.json."""
        return {
            "versions": self.versions,
            "settings": self.settings.as_json(),
            "limits": {name: limit.as_json() for name, limit in self.limits.items()},
            "ladders": {name: [step.as_json() for step in steps] for name, steps in self.ladders.items()},
        }

    def _repr_html_(self):
        """As a notebook shows it: where the network stops helping."""
        return as_table(["limit", "found"], [[limit.title, str(limit.end)] for limit in self.limits.values()])


class ShownStep(NamedTuple):
    """Images of an exposure for people, by name, matched to the ground truth, which is among them."""

    title: str
    images: dict
    voxel_size: tuple
