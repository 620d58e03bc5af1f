"""Facts that are kept in JSON files: typed, and checked as a whole when a file is read."""

from pydantic import ConfigDict

from rcan.atomic_io import read_json
from rcan.options import Settings

__all__ = ["Record"]


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
        """Check what was read from a file."""
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no JSON object, {{...}}: restore it from a copy, or remove it.")
        return cls.checked(values, label=lambda key: f"{path}: {key}")
