"""`train`: from a config file to a run folder, with scores, a picture and a report at the end."""

import functools
import os
import shlex
import sys
import warnings
from pathlib import Path

from pydantic import model_validator

from rcan.cli import run_command
from rcan.config import Config, load_config
from rcan.options import Settings, option

__all__ = ["main"]

_MOST_SCORED = 20  # volumes in the table at the end


class TrainOptions(Settings):
    """Flags of the command; every key of the config file is a flag besides."""

    config: Path = option(..., "config file (JSON)", letter="c")
    overwrite: bool = option(False, "replace the run that output_dir holds")
    resume: bool = option(False, "go on with the run that output_dir holds, if there is one")
    overrides: dict = option({}, "keys of the config file that are given as flags")

    @model_validator(mode="after")
    def _check_together(self):
        if self.resume and self.overwrite:
            raise ValueError("--resume goes on with a run, --overwrite replaces it: choose one.")
        return self


def train(options: TrainOptions):
    """Train a network on pairs of raw and ground-truth volumes.

    Every key of the config file can also be given as a flag, which counts more than the file. Keys of
    several parts are written as in JSON, lists of numbers as 16,256,256.
    """
    from rcan.run_folder.layout import check_run_dir

    config = load_config(options.config, options.overrides)
    check_run_dir(config.output_dir, overwrite=options.overwrite or options.resume)
    from rcan.training.devices import is_chief
    from rcan.training.fit import open_data, train

    data = open_data(config, resume=options.resume)
    run_dir = train(config, data, overwrite=options.overwrite, resume=options.resume)
    if is_chief():  # of several machines one scores
        _conclude(run_dir, data)


def _conclude(run_dir, data):
    """Score the best network, and say where to find it, its picture, its report, and the way on."""
    from rcan.assess.volumes import score_pair
    from rcan.atomic_io import atomic_file
    from rcan.figures.projections import draw_projections
    from rcan.report.training import write_training_report
    from rcan.run_folder.models import load_model

    model, _ = load_model(run_dir)
    kind = next(name for name in ("test", "validation", "training") if getattr(data, name))
    pairs = getattr(data, kind)
    names, scores = _short_names(pairs), {}
    for name, pair in zip(names[:_MOST_SCORED], pairs, strict=False):
        scores[name], images = score_pair(model, pair)
    captions = {
        image: f"{scores[name][f'psnr_{image}']:.2f} dB, SSIM {scores[name][f'ssim_{image}']:.3f}"
        for image in ("raw", "restored")
        if image in images
    }
    with atomic_file(run_dir / "restored.png") as partial:
        draw_projections(partial, images, voxel_size=pair.gt.voxel_size, captions=captions, name=name)
    _tell_scores(scores, kind, len(pairs))
    program = "python apply.py" if Path(sys.argv[0]).name == "train.py" else "rcan apply"
    example = shlex.join(["-m", _shown(run_dir), "-i", _shown(pair.raw.path.parent), "-o", "restored"])
    write_training_report(
        run_dir,
        scores=scores,
        kind=kind,
        images=images,
        shown=name,
        voxel_size=pair.gt.voxel_size,
        num_parameters=model.count_params(),
        command=f"{program} {example}",
    )
    places = {"Run folder": run_dir, "Picture": run_dir / "restored.png", "Report": run_dir / "report.html"}
    print("\n" + "\n".join(f"{what + ':':12}{_shown(path)}" for what, path in places.items()))
    print(f"Restore volumes with:\n  {program} {example}", flush=True)


def _tell_scores(scores, kind, num_pairs):
    """Print the table, and warn where the network does harm."""
    from rcan.scores import format_scores, mean_scores

    print(f"\nThe best network on the {kind} volumes, after an affine match to the ground truth:")
    print(format_scores(scores))
    if num_pairs > len(scores):
        print(f"({len(scores)} of {num_pairs}; apply.py with -g scores all)")
    mean = mean_scores(list(scores.values()))
    if mean["psnr_restored"] < mean["psnr_raw"]:
        warnings.warn(
            "the restored volumes are further from the ground truth than the raw ones: look at the picture and at "
            "history.png, check the pairs, or train longer.",
            stacklevel=3,
        )


def _short_names(pairs):
    """File names, or as much of the paths as tells the pairs apart."""
    raw, gt = ([getattr(pair, kind).path.absolute() for pair in pairs] for kind in ("raw", "gt"))
    names = [path.name for path in raw]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath([path.parent for path in raw])) for path in raw]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.parent for path in gt])
        names = [f"{name} ({os.path.relpath(path, shared)})" for name, path in zip(names, gt, strict=True)]
    return names


def _shown(path):
    """A path as one would type it here."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


main = functools.partial(run_command, train, prog="train.py", overrides=Config)
