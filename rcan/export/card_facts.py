"""What is known of a network, for its card: read from the run folder, and from the results of studies."""

import re
from dataclasses import dataclass

from rcan.assess.results import KeptEvaluation, KeptLimits
from rcan.atomic_io import read_table
from rcan.config import Config
from rcan.export.run_files import read_config
from rcan.export.tensors import axes_of
from rcan.intensity import INPUT_CHANNELS
from rcan.run_folder.architecture import upscaling_of
from rcan.run_folder.models import digest_model, find_model
from rcan.run_folder.places import digest_of_file
from rcan.run_folder.record import TrainingRecord

__all__ = ["CardFacts", "gather_facts"]

_RESULTS = {"evaluation": ("scores.json", KeptEvaluation), "limits": ("limits.json", KeptLimits)}  # of `rcan KEY`


@dataclass(frozen=True)
class CardFacts:
    """All that a card tells; what is not known is None or empty."""

    name: str
    description: str
    authors: tuple
    license: str | None
    file_name: str  # of the network
    digest: str  # of this file, SHA-256
    axes: str  # "zyx" or "yx"
    channels: tuple  # that it reads, of an image, and writes
    upscaling: tuple
    num_parameters: int
    architecture: str | None  # in words, where it is known
    record: TrainingRecord
    config: dict | None  # of the training
    history: list  # rows of history.csv
    evaluation: KeptEvaluation | None
    limits: KeptLimits | None

    @property
    def is_recorded(self):
        """Whether it is known how the network was trained."""
        return bool(self.record.training and self.config)

    @property
    def noun(self):
        """What images are called."""
        return "volume" if self.axes == "zyx" else "image"


def gather_facts(options, model, record):
    """Gather what is known of a network: `CardFacts` by `ExportOptions`, `model` and `record` of `rcan.load_model`.

    A ValueError or OSError says that results cannot be read, or are those of another network.
    """
    path = find_model(options.model_dir)
    history = path.with_name("history.csv")
    limits = _find_results(options, "limits")
    if not limits and record.trusted_range:
        limits = KeptLimits.of_trusted_range(record.trusted_range)
    architecture = _describe_architecture(model, record)
    return CardFacts(
        name=options.name or _default_name(path),
        description=options.description or _describe_purpose(model, architecture),
        authors=options.author or (),
        license=options.license,
        file_name=path.name,
        digest=digest_of_file(path),
        axes=axes_of(model),
        channels=(model.input_shape[-1] // INPUT_CHANNELS[record.normalization], model.output_shape[-1]),
        upscaling=upscaling_of(model),
        num_parameters=model.count_params(),
        architecture=architecture,
        record=record,
        config=_read_settings(path, options.model_dir),
        history=read_table(history, ("epoch", "loss")) if record.training and history.is_file() else [],
        evaluation=_find_results(options, "evaluation"),
        limits=limits,
    )


def _read_settings(path, model_dir):
    """All settings of a training, in plain values; those that an earlier version did not have are as they were then."""
    if not (values := read_config(model_dir)):
        return None
    known = {key: value for key, value in values.items() if key in Config.model_fields}
    config = path.with_name("config.json")
    checked = Config.checked({"recipe": "published", **known}, label=lambda key: f"{config}: {key}")
    return {**checked.model_dump(mode="json"), "recipe": values.get("recipe")}


def _describe_architecture(model, record):
    """What kind of network it is, None where that is not known: files of other programs are loaded, too."""
    if own := (record.own_functions or {}).get("network"):
        return f"network of {own}"
    has_attention = any(type(layer).__name__.startswith("GlobalAveragePooling") for layer in model.layers)
    return "residual channel attention network (RCAN)" if has_attention else None


def _describe_purpose(model, architecture):
    """What a network is for, in a sentence."""
    noun = {"zyx": "volumes", "yx": "images"}[axes_of(model)]
    larger = "" if max(upscaling_of(model)) == 1 else ", and enlarges them"
    return (
        f"Restores fluorescence microscopy {noun} (removes noise and blur{larger}) like those that it was trained on: "
        f"a {architecture or 'neural network'}."
    )


def _default_name(path):
    name = re.sub(r"[^A-Za-z0-9_+\- ()]", "_", path.absolute().parent.name)
    return f"RCAN {name}"[:64]


def _find_results(options, kind):
    """Results of a study of this network, in the folder that is named or, where none is, inside the run folder.

    None where there are none; results of another network are refused if they are named.
    """
    file_name, record = _RESULTS[kind]
    named, digest = getattr(options, kind), digest_model(options.model_dir)
    if named:
        found = record.load(_named_file(named, file_name, kind))
        if found.digest != digest:
            raise ValueError(
                f"{named / file_name} is of another network than {find_model(options.model_dir)}, or of an earlier one "
                f"of this run: call rcan {'evaluate' if kind == 'evaluation' else kind} again."
            )
        return found
    paths = sorted(find_model(options.model_dir).parent.glob(f"*/{file_name}"))
    found = {path.parent: kept for path in paths if (kept := record.load(path)).digest == digest}
    if len(found) > 1:
        raise ValueError(f"{' and '.join(map(str, found))} hold results of this network: name one with --{kind}.")
    return next(iter(found.values()), None)


def _named_file(folder, file_name, kind):
    path = folder / file_name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {file_name}: --{kind} takes the folder that rcan "
            f"{'evaluate' if kind == 'evaluation' else kind} has written (-o)."
        )
    return path
