"""Facts that are kept in JSON files: typed, and checked as a whole when a file is read."""

import dataclasses
import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from rcan.atomic_io import read_json
from rcan.options import Settings

__all__ = ["Record", "to_json"]


class Record(Settings):
    """Base of all that is read back from a file of ours. Keys of other versions are left out."""

    model_config = ConfigDict(extra="ignore", strict=False, allow_inf_nan=True)

    @classmethod
    def _validate(cls, values):
        return cls.model_validate(values)  # of JSON, names of files that are no Unicode would be refused

    @classmethod
    def load(cls, path):
        """Read a JSON file; a ValueError names file, key, value and rule."""
        return cls.read(read_json(path), path)

    @classmethod
    def read(cls, values, path):
        """Check a dictionary that was read from a file."""
        return cls.checked(values, label=lambda key: f"{path}: {key}")


def to_json(value):
    """Records as dictionaries and arrays as lists; numbers that are not finite become None, as JSON has no NaN.

    >>> from typing import NamedTuple
    >>> to_json({"scores": NamedTuple("Scores", [("psnr", float), ("ssim", float)])(20.0, math.nan)})
    {'scores': {'psnr': 20.0, 'ssim': None}}
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
