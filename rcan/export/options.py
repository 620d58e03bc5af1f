"""What a user can say of exporting a network: the flags of `rcan export`, the keywords of `rcan.export_model`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rcan.config import Axes
from rcan.options import Settings, option

__all__ = ["ExportOptions"]

_SUFFIXES = {
    "bioimageio": (".zip",),
    "huggingface": ("",),
    "onnx": (".onnx",),
    "savedmodel": ("", ".zip"),
    "keras": (".keras",),
    "card": (".md",),
}
_OF_A_CARD = ("author", "license", "name", "description", "evaluation", "limits")


def _without_blanks(names):
    """Names without the space around them; a ValueError if all are empty."""
    named = tuple(name.strip() for name in names if name.strip())
    if not named:
        raise ValueError("name at least one author, or leave it out")
    return named


class ExportOptions(Settings):
    """Which network to export, and how."""

    model_dir: Path = option(
        ..., "run folder of rcan train, a .keras file, or a model of the published program", letter="m"
    )
    output: Path = option(
        ...,
        "what to write: NAME.zip (bioimageio), NAME.onnx, NAME.keras, a folder (huggingface), NAME.zip or a folder "
        "(savedmodel); of --card README.md",
        letter="o",
    )
    format: Literal["bioimageio", "huggingface", "onnx", "savedmodel", "keras"] | None = option(
        None,
        "bioimage.io package with Keras and ONNX weights; folder to upload to Hugging Face, which -m hf://owner/name "
        "reads; ONNX file; SavedModel of TensorFlow; or Keras file",
    )
    card: bool = option(
        False,
        "write the model card alone: what the network was trained on, for which images, its scores, limits and "
        "licence; a bioimageio package and a huggingface folder have it inside",
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
    author: Annotated[tuple[str, ...], AfterValidator(_without_blanks)] | None = option(
        None, "names of who made the network, with commas between them, for the card; bioimageio needs them"
    )
    license: str | None = option(
        None,
        "licence of the network, an identifier of SPDX such as CC-BY-4.0 or MIT, for the card; bioimageio needs it",
    )
    name: str | None = option(
        None,
        "what the card or package calls the network, in a package 5 to 64 letters, digits, spaces and _+-() (default: "
        "RCAN and the name of the run folder)",
    )
    description: str | None = option(None, "what the network is for, in a sentence (default: one that fits any)")
    evaluation: Path | None = option(
        None, "folder of rcan evaluate whose scores the card has (default: one inside the run folder)"
    )
    limits: Path | None = option(
        None, "folder of rcan limits whose limits the card has (default: one inside the run folder, or training.json)"
    )
    overwrite: bool = option(False, "replace the file or folder of an earlier export that is there")

    @model_validator(mode="after")
    def _check_together(self):
        if bool(self.format) == self.card:
            formats = ", ".join(name for name in _SUFFIXES if name != "card")
            raise ValueError(f"name either --format ({formats}), or --card, which writes the card alone.")
        suffixes = _SUFFIXES[self.kind]
        if self.output.suffix not in suffixes:
            kinds = " or ".join(f"NAME{suffix}" if suffix else "a folder without suffix" for suffix in suffixes)
            raise ValueError(f"--output is {self.output}, but {self.kind} is written as {kinds}: name it so.")
        if not self.input:
            for name in ("axes", "channels"):
                if getattr(self, name):
                    raise ValueError(f"--{name} is of an image: name it with -i, or leave --{name} out.")
        elif self.kind in ("card", "huggingface"):
            raise ValueError(f"--input is of no use to {self.kind}, which is of the network as it is: leave -i out.")
        if self.kind not in ("bioimageio", "card", "huggingface"):
            for name in _OF_A_CARD:
                if getattr(self, name):
                    raise ValueError(
                        f"--{name} is for --format bioimageio or huggingface, or --card: a file of {self.kind} has no "
                        "place for it."
                    )
        return self

    @property
    def kind(self):
        """The format, or ``"card"``."""
        return self.format or "card"
