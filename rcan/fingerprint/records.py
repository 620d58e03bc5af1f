"""Records of fingerprints: of an image, of the images of a training, and the range in which a network is trusted."""

from typing import Annotated

from pydantic import Field

from rcan.records import Record

__all__ = [
    "FINGERPRINT_VERSION",
    "ChannelFingerprint",
    "ChannelRange",
    "FeatureRange",
    "Fingerprint",
    "NoiseLevels",
    "Spectrum",
    "TrainingFingerprint",
    "TrustedRange",
]

FINGERPRINT_VERSION = 1  # of what is measured: fingerprints of different versions are not compared

_AS_FINE_AS_NOISE = -2.0  # of the feature "lateral": that of noise scatters around 0, of what optics blur from -3 on

Feature = Annotated[float, Field(ge=-700, le=700, allow_inf_nan=False)]  # a logarithm, but for one of 0 to 1


class NoiseLevels(Record):
    """Grey values for each photon, and standard deviation of the noise where background and signal are."""

    gain: float
    background: float
    signal: float


class Spectrum(Record):
    """Radially averaged power, as shares of all, by frequency; frequencies in cycles/µm where voxels are known."""

    cycles_per_voxel: tuple[float, ...]
    cycles_per_um: tuple[float, ...] | None
    power: tuple[float, ...]


class ChannelFingerprint(Record):
    """The fingerprint of one channel; what cannot be measured is None."""

    noise: NoiseLevels
    window: tuple[int, ...]  # voxels of a window of the spectrum, axial and lateral
    saturated: float  # share of the voxels
    snr: float
    range: tuple[float, float]  # grey values of background and signal
    histogram: tuple[float, ...]  # shares of the voxels in bins between the two
    spectrum: dict[str, Spectrum | None]  # lateral and axial
    features: dict[str, float | None]  # what is compared
    errors: dict[str, float | None]  # how far other content of the same kind would change each
    number: int  # of the channel in the file

    @property
    def shows_signal(self):
        """Whether anything but noise was found: an SNR of 1, or structure in the planes that is coarser than noise."""
        fineness = self.features["lateral"]
        return self.snr >= 1 or (fineness is not None and fineness < _AS_FINE_AS_NOISE)

    def noise_model(self):
        """Gain, level and floor of the noise, in grey values: its variance is floor + gain * (grey value - level)."""
        return self.noise.gain, self.range[0], self.noise.background**2


class Fingerprint(Record):
    """The fingerprint of an image."""

    version: int = FINGERPRINT_VERSION
    voxel_size: tuple[float | None, ...]  # z, y and x, in µm
    ndim: int
    channels: tuple[ChannelFingerprint, ...]


class FeatureRange(Record):
    """Lowest and highest value of a feature over the training volumes, and how far volumes of the kind may scatter."""

    range: tuple[Feature, Feature]
    error: Feature
    step: Feature
    num_volumes: int = Field(ge=1)


class ChannelRange(Record):
    """The range of one channel over all training volumes; histogram and spectrum are means, for reports."""

    window: tuple[int, ...]
    features: dict[str, FeatureRange]
    shows_signal: bool | None = None  # in each of them; earlier versions did not look
    saturated: float  # largest share of the voxels
    histogram: tuple[float, ...]
    spectrum: dict[str, Spectrum | None]


Ends = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # the lowest and the highest


class TrainingFingerprint(Record):
    """The range of the raw volumes that a network learned from and was chosen by."""

    version: int
    num_volumes: int
    voxel_size: tuple[Ends | None, Ends | None, Ends | None]  # along z, y and x, in µm
    channels: Annotated[tuple[ChannelRange, ...], Field(min_length=1)]


class TrustedRange(Record):
    """Between which ends the results of a network are to be trusted, as `rcan limits` has found.

    `snr` and `blur` are low and high ends, None where the ladder shows no end; `tested` are the first and the last step
    of each ladder. Words, intervals and rules have the names of `rcan.assess.limits.ends.RULES`.
    """

    snr: tuple[float | None, float | None] = (None, None)
    blur: tuple[float | None, float | None] = (None, None)
    gains: bool = True  # False: better than the best classical method at no step
    tested: dict[str, tuple[float, float]] = Field(default_factory=dict)
    words: dict[str, str] = Field(default_factory=dict)
    intervals: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    rules: dict[str, str] = Field(default_factory=dict)
    settings: dict = Field(default_factory=dict)  # of the study
    model: str | None = None  # digest of the network
