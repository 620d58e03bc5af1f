"""One network for each step of the ladders, as in the blur study of Chen et al.: the limit of the method itself."""

from pathlib import Path

import numpy as np

from rcan.assess.limits.exposures import noise_seed, take_exposure
from rcan.io.opening import create_volume
from rcan.run_folder.checkpoints import load_checkpoint

__all__ = ["train_steps"]


def train_steps(steps, specimens, config_for, *, folder, microscope, seed):
    """Train a network for each step; what is finished is kept, and what was interrupted goes on.

    Parameters
    ----------
    steps : list of rcan.assess.limits.exposures.Step
    specimens : list of rcan.assess.limits.specimens.Specimen
        To learn from.
    config_for : callable
        From a step to its `rcan.Config`, whose training data are ``folder / step.name`` and ``folder / "gt"``.
    folder : Path
        Gets the simulated pairs.
    microscope : rcan.assess.limits.exposures.Microscope
    seed : int
        Of the noise.

    Returns
    -------
    run_dirs : dict of Step to Path
    """
    from rcan.training.fit import train

    for number, specimen in enumerate(specimens):
        _write(Path(folder) / "gt" / f"{number:03d}.tif", specimen.gt, specimen.voxel_size)
    run_dirs = {}
    for place, step in enumerate(steps, 1):
        config = config_for(step)
        run_dirs[step] = Path(config.output_dir)
        if _is_finished(run_dirs[step]):
            continue
        print(
            f"\n[{place}/{len(steps)}] A network for {step.photons:g} photons and blur {step.blur:g}:",
            flush=True,
        )
        for number, specimen in enumerate(specimens):
            path = Path(folder) / step.name / f"{number:03d}.tif"
            if not path.exists():
                rng = np.random.default_rng(noise_seed(seed, number, step))
                picture, _ = take_exposure(specimen, step, microscope, rng)
                _write(path, picture, specimen.voxel_size)
        train(config, resume=True)
    return run_dirs


def _is_finished(run_dir):
    checkpoint = load_checkpoint(run_dir, repair=False)
    return checkpoint is not None and checkpoint.state.is_finished


def _write(path, block, voxel_size):
    """Write a block `(Z, Y, X, C)` unless it is there already, which is the same: it depends on the settings alone."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip("ZYXC", block.shape, strict=True))
    axes = "ZYX" if block.shape[-1] == 1 else "ZCYX"
    with create_volume(path, axes=axes, sizes=sizes, dtype=block.dtype, voxel_size=voxel_size) as file:
        file.write({}, None, block)
