"""What a user can say of exporting a network: the flags of `rcan export`, the keywords of `rcan.export_model`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcan.config import Axes
from rcan.options import Settings, option

__all__ = ["ExportOptions"]

_SUFFIXES = {"bioimageio": (".zip",), "onnx": (".onnx",), "savedmodel": ("", ".zip"), "keras": (".keras",)}


class ExportOptions(Settings):
    """Which network to export, and how."""

    model_dir: Path = option(
        ..., "run folder of train.py, a .keras file, or a model of the published program", letter="m"
    )
    output: Path = option(
        ..., "file to write: NAME.zip, NAME.onnx, NAME.keras; of a SavedModel NAME.zip or a folder", letter="o"
    )
    format: Literal["bioimageio", "onnx", "savedmodel", "keras"] = option(
        ..., "bioimage.io package with Keras and ONNX weights, ONNX file, SavedModel of TensorFlow, or Keras file"
    )
    input: Path | None = option(
        None,
        "image whose intensity range and noise the exported network takes for those of all images, and whose grey "
        "values it reads and writes; bioimageio needs it and takes its test from it, the others export the network "
        "itself without it",
        letter="i",
    )
    axes: Axes | None = option(None, "axes of the image, where its metadata is wrong")
    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = option(
        None, "channels of the image, counted from 0, as many as the network restores (default: all)"
    )
    author: Annotated[tuple[str, ...], Field(min_length=1)] | None = option(
        None, "names of who made the network, with commas between them; bioimageio needs them"
    )
    license: str | None = option(
        None, "licence of the network, an identifier of SPDX such as CC-BY-4.0 or MIT; bioimageio needs it"
    )
    name: str | None = option(
        None,
        "what the bioimage.io package calls the network, 5 to 64 letters, digits, spaces and _+-() (default: RCAN and "
        "the name of the run folder)",
    )
    description: str | None = option(None, "what the network is for, in a sentence (default: one that fits any)")
    overwrite: bool = option(False, "replace the file or SavedModel that is there")

    @model_validator(mode="after")
    def _check_together(self):
        suffixes = _SUFFIXES[self.format]
        if self.output.suffix not in suffixes:
            kinds = " or ".join(f"NAME{suffix}" if suffix else "a folder without suffix" for suffix in suffixes)
            raise ValueError(f"--output is {self.output}, but {self.format} is written as {kinds}: name it so.")
        if not self.input:
            for name in ("axes", "channels"):
                if getattr(self, name):
                    raise ValueError(f"--{name} is of an image: name it with -i, or leave --{name} out.")
        if self.format != "bioimageio":
            for name in ("author", "license", "name", "description"):
                if getattr(self, name):
                    raise ValueError(
                        f"--{name} is for --format bioimageio: a file of {self.format} has no place for it."
                    )
        return self
