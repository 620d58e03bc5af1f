"""The end of a training: the best network is scored, a picture and a report are written, and it is said where."""

import os
import shlex
import warnings
from pathlib import Path

from rcan.assess.volumes import score_pair
from rcan.atomic_io import atomic_file
from rcan.figures.projections import draw_projections
from rcan.inline import ReportFile
from rcan.report.training import write_training_report
from rcan.run_folder.models import load_model
from rcan.scores import format_scores, mean_scores
from rcan.training.devices import is_chief

__all__ = ["finish_training"]

_MOST_SCORED = 20  # volumes


def finish_training(run_dir, data, *, apply_program="rcan apply"):
    """Score the best network of a finished training, and write `restored.png` and `report.html`.

    It is scored on the test pairs of `data`, a `RunData`, else on the validation or training pairs. Of several
    machines that have trained together, the first one does it. The command that restores volumes, as it is shown,
    starts with `apply_program`. Returns the report, a `ReportFile`, which a notebook shows; None on other machines.
    """
    if not is_chief():
        return None
    run_dir = Path(run_dir)
    model, record = load_model(run_dir)
    kind = next(name for name in ("test", "validation", "training") if getattr(data, name))
    pairs = getattr(data, kind)
    scores = {}
    for name, pair in zip(_short_names(pairs)[:_MOST_SCORED], pairs, strict=False):
        pair.raw.keep_noise_range(record.noise_range)
        scores[name], images = score_pair(model, pair)
    voxel_size = pair.gt.volume.voxel_size
    _draw_restored(run_dir / "restored.png", images, scores[name], voxel_size=voxel_size, name=name)
    _print_scores(scores, kind, len(pairs))
    arguments = ["-m", _short_path(run_dir), "-i", _short_path(pair.raw.volume.path.parent), "-o", "restored"]
    command = f"{apply_program} {shlex.join(arguments)}"
    write_training_report(
        run_dir,
        scores=scores,
        kind=kind,
        images=images,
        shown=name,
        voxel_size=voxel_size,
        num_parameters=model.count_params(),
        command=command,
    )
    print(f"\nRun folder: {_short_path(run_dir)}")
    print(f"Picture:    {_short_path(run_dir / 'restored.png')}")
    print(f"Report:     {_short_path(run_dir / 'report.html')}")
    print(f"Restore volumes with:\n  {command}", flush=True)
    return ReportFile(run_dir / "report.html")


def _draw_restored(path, images, scores, **options):
    """Draw a scored volume, with its scores."""
    captions = {
        image: f"{scores[f'psnr_{image}']:.2f} dB, SSIM {scores[f'ssim_{image}']:.3f}"
        for image in ("raw", "restored")
        if image in images
    }
    with atomic_file(path) as partial:
        draw_projections(partial, images, captions=captions, **options)


def _print_scores(scores, kind, num_pairs):
    """Print the table, and warn where the network does harm."""
    print(f"\nThe best network on the {kind} volumes, after an affine match to the ground truth:")
    print(format_scores(scores))
    if num_pairs > len(scores):
        print(f"({len(scores)} of {num_pairs}; rcan apply with -g scores all)")
    mean = mean_scores(list(scores.values()))
    if mean["psnr_restored"] < mean["psnr_raw"]:
        warnings.warn(
            "the restored volumes are further from the ground truth than the raw ones: look at the picture and at "
            "history.png, check the pairs, or train longer.",
            stacklevel=3,
        )


def _short_names(pairs):
    """File names, or as much of the paths as tells the pairs apart."""
    raw, gt = ([getattr(pair, kind).volume.path.absolute() for pair in pairs] for kind in ("raw", "gt"))
    names = [path.name for path in raw]
    if len(set(names)) < len(names):
        names = [os.path.relpath(path, os.path.commonpath([path.parent for path in raw])) for path in raw]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.parent for path in gt])
        names = [f"{name} ({os.path.relpath(path, shared)})" for name, path in zip(names, gt, strict=True)]
    return names


def _short_path(path):
    """A path as one would type it here."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
