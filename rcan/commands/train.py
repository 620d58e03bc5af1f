"""`train`: from a config file to a run folder, with scores and a picture at the end."""

import functools
import shlex
from pathlib import Path

from rcan.cli import Settings, import_keras, option, run_command
from rcan.config import Config, load_config

__all__ = ["main"]

_MOST_SCORED = 20  # volumes in the table at the end


class TrainOptions(Settings):
    """Flags of the command; every key of the config file is a flag besides."""

    config: Path = option(..., "config file (JSON)", letter="c")
    overwrite: bool = option(False, "replace the run that output_dir holds")
    overrides: dict = option({}, "keys of the config file that are given as flags")


def train(options: TrainOptions):
    """Train a network on pairs of raw and ground-truth volumes.

    Every key of the config file can also be given as a flag, which counts more than the file. Keys of
    several parts are written as in JSON, lists of numbers as 16,256,256.
    """
    from rcan.checkpoint import check_run_dir, load_model

    config = load_config(options.config, options.overrides)
    check_run_dir(config.output_dir, overwrite=options.overwrite)
    import_keras()
    from rcan.evaluation import format_scores, save_projections, score_pair
    from rcan.training import open_data, train

    data = open_data(config)
    run_dir = train(config, data, overwrite=options.overwrite)

    model, about = load_model(run_dir)
    kind = next(name for name in ("test", "validation", "training") if getattr(data, name))
    pairs = getattr(data, kind)
    scores = {}
    for pair in pairs[:_MOST_SCORED]:
        scores[pair.raw.path.name], images = score_pair(model, pair, tile_shape=about["patch_shape"])
    save_projections(run_dir / "restored.png", images, voxel_size=pair.gt.voxel_size)
    print(f"\nThe best network on the {kind} volumes, after an affine match to the ground truth:")
    print(format_scores(scores))
    if len(pairs) > _MOST_SCORED:
        print(f"({_MOST_SCORED} of {len(pairs)}; apply.py with -g scores all)")
    example = shlex.join(["-m", _shown(run_dir), "-i", _shown(pair.raw.path.parent), "-o", "restored"])
    print(f"\nRun folder: {_shown(run_dir)}\nPicture:    {_shown(run_dir / 'restored.png')}")
    print(f"Restore volumes with:\n  python apply.py {example}", flush=True)


def _shown(path):
    """A path as one would type it here."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


main = functools.partial(run_command, train, prog="train.py", overrides=Config)
