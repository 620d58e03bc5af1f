"""A first network on simulated pairs, from nothing: what `rcan demo` does."""

import json
from pathlib import Path

from rcan.atomic_io import write_json
from rcan.config import load_config

__all__ = ["CONFIG", "run_demo"]

CONFIG = {  # of a network that trains in one or two minutes on two CPU cores
    "training_data_dir": {"raw": "sample/train/raw", "gt": "sample/train/gt"},
    "test_data_dir": {"raw": "sample/test/raw", "gt": "sample/test/gt"},
    "output_dir": "runs/sample",
    "recipe": "default",
    "patch_shape": [8, 16, 16],
    "area_ratio_threshold": 0.1,
    "num_channels": 32,
    "num_residual_groups": 1,
    "num_residual_blocks": 4,
    "epochs": 12,
    "steps_per_epoch": 104,
    "batch_size": 8,
    "initial_learning_rate": 0.002,
    "metrics": ["psnr", "ssim"],
}
_PAIRS = {"train": {"pairs": 8, "seed": 0}, "test": {"pairs": 2, "seed": 1}}
_SHAPE = (24, 96, 96)


def run_demo(folder, overrides=None):
    """Simulate pairs, train a network with them, and restore volumes that it has not seen.

    Parameters
    ----------
    folder : path
        Gets ``config.json``, ``sample``, ``runs/sample`` and ``restored``. What an earlier call has made is kept, and
        completed.
    overrides : dict, optional
        Keys of the config that replace those of the demonstration, such as ``{"epochs": 3}``.

    Returns
    -------
    report : Path
        The report of the training, an HTML file.

    Raises
    ------
    ValueError, OSError
        If the folder holds other files of these names, or cannot be written.
    """
    from rcan.report.finish import finish_training
    from rcan.restoration.folder import restore_folder
    from rcan.simulation.pairs import simulate_pairs
    from rcan.training.fit import train
    from rcan.training.run_data import open_data

    folder = Path(folder)
    path = folder / "config.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != CONFIG:
        raise FileExistsError(f"{path} is not of the demonstration: name another folder with --folder.")
    for name, options in _PAIRS.items():
        simulate_pairs(folder / "sample" / name, shape=_SHAPE, compress=True, **options)
    write_json(path, CONFIG)
    config = load_config(path, overrides)
    data = open_data(config, resume=True)
    run_dir = train(config, data, resume=True)
    finish_training(run_dir, data)
    restore_folder(run_dir, folder / "sample/test/raw", folder / "restored")
    return run_dir / "report.html"
