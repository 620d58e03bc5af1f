"""Results of finished studies, read back from their files: scores.json of an evaluation, limits.json of a study."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from rcan.assess.intervals import Interval
from rcan.assess.limits.records import LimitsSettings
from rcan.assess.nulls import NullResult
from rcan.records import Record

__all__ = ["KeptEvaluation", "KeptLimits"]


def _as_nan(values):
    """Numbers that JSON has no word for were written as null."""
    if not isinstance(values, dict):
        raise ValueError("must be an object of numbers")
    return {key: math.nan if value is None else value for key, value in values.items()}


def _has(*names):
    """A check that a dictionary has these keys, of which texts tell."""

    def check(values):
        """The dictionary; a ValueError says what it lacks."""
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"has no {missing[0]}: restore the file from a copy, or call the study again")
        return values

    return AfterValidator(check)


Means = Annotated[dict[str, Annotated[Interval, BeforeValidator(_as_nan)]], _has("psnr", "ssim")]  # by measure


class KeptNetwork(Record):
    """Which network was evaluated."""

    digest: str
    percentiles: tuple[float, float]
    precision: str = "float32"


class KeptVolume(Record):
    """An image that was evaluated."""

    learned_from: bool
    part: tuple | None = None


class KeptSummary(Record):
    """All images together, as `rcan.assess.records.Summary`."""

    over: Literal["volumes", "blocks"]
    best: str | None = None
    methods: Annotated[dict[str, Means], _has("restored")]
    gains: dict[str, Means]


class KeptCalibration(Record):
    """What the spread of an ensemble must be multiplied by."""

    factor: float | None
    ensemble: int
    found_on: str


class KeptEvaluation(Record):
    """What `rcan evaluate` has found, as `rcan.assess.records.Evaluation`, as far as texts tell of it."""

    model: KeptNetwork
    versions: Annotated[dict[str, str], _has("rcan")]
    volumes: Annotated[dict[str, KeptVolume], Field(min_length=1)]
    total: KeptSummary
    nulls: dict[str, dict[str, Annotated[NullResult, BeforeValidator(_as_nan)]]] = Field(default_factory=dict)
    calibration: KeptCalibration | None = None
    settings: dict = Field(default_factory=dict)

    @property
    def digest(self):
        """Of the network."""
        return self.model.digest


class KeptLimit(Record):
    """A limit in words, as `rcan.assess.limits.ends.Limit`."""

    title: str
    words: str


class KeptLimits(Record):
    """What `rcan limits` has found, as far as texts tell of it."""

    settings: LimitsSettings
    limits: dict[str, KeptLimit]

    @property
    def digest(self):
        """Of the network; None where networks were trained for each step."""
        return self.settings.model

    @classmethod
    def of_trusted_range(cls, trusted):
        """The same of what a run folder keeps, a `TrustedRange`."""
        titles = {name: rule.partition(": ")[0] for name, rule in trusted.rules.items()}
        limits = {name: {"title": titles.get(name, name), "words": words} for name, words in trusted.words.items()}
        return cls.read({"settings": trusted.settings, "limits": limits}, "trusted_range")
