"""The networks that restore the test samples: one for all steps, or one trained for each.

One for each step, as in the blur study of Chen et al., shows the limit of the method itself.
"""

from pathlib import Path

import numpy as np

from rcan.assess.limits.exposures import noise_seed, take_exposure
from rcan.assess.limits.records import LimitsSettings
from rcan.assess.limits.specimens import choose_specimens
from rcan.assess.limits.steps import SETTINGS
from rcan.hardware import ChosenPrecision
from rcan.intensity import INPUT_CHANNELS
from rcan.io.opening import create_volume
from rcan.precision import choose_precision, suit_network, with_precision
from rcan.restoration.engine import find_devices
from rcan.restoration.setup import choose_for_devices
from rcan.restoration.tiled import restore
from rcan.run_folder.architecture import upscaling_of
from rcan.run_folder.checkpoints import load_checkpoint
from rcan.run_folder.models import load_model

__all__ = ["adapt_network", "choose_study_precision", "train_networks"]

_TRAINING_SERIES = 1  # of random numbers; the phantoms to test on have 0


def adapt_network(model, num_channels, normalization="percentiles"):
    """A Keras model as a function from its input, a volume (Z, Y, X, C), to the restored one.

    A two-dimensional network restores plane by plane. A ValueError says that the network enlarges, or reads or writes
    other than the `num_channels` of the specimens. Its input is made by the `normalization`.
    """
    ndim, channels = len(model.input_shape) - 2, (model.input_shape[-1], model.output_shape[-1])
    channels = channels[0] // INPUT_CHANNELS[normalization], channels[1]
    if channels != (num_channels, num_channels):
        raise ValueError(
            f"the network reads {channels[0]} and writes {channels[1]} channels, the ground truth has {num_channels}: "
            "limits are measured where all three are the same. Name other ground truth with -i."
        )
    if set(upscaling_of(model)) != {1}:
        raise ValueError("the network enlarges its input: limits are measured of networks that do not.")
    if ndim == 3:
        return lambda raw: restore(model, raw)
    return lambda raw: np.stack([restore(model, plane) for plane in raw])


def choose_study_precision(options, record):
    """Choose what the networks of a study restore in; a study that goes on stays with what it began with."""
    path = options.steps_folder / SETTINGS
    if options.precision == "auto" and path.is_file() and not options.overwrite:
        return ChosenPrecision(LimitsSettings.load(path).precision, "as the study began")
    devices = find_devices("auto")[:1]
    if options.train:  # each network is checked once it is there
        return choose_precision(options.precision, on_gpu=devices[0].startswith("gpu"), num_gpus=1)
    return choose_for_devices(options.precision, record, devices)


def train_networks(steps, options, settings, paths, num_channels):
    """Train a network for each step; those that are finished are kept, and one that was interrupted goes on.

    They learn from the images of `paths`, or from phantoms where that is None. Returns a function from a step to the
    restorer of its images, which have `num_channels`.
    """
    from rcan.training.fit import train

    folder, run_dirs = options.steps_folder / "training", {}
    specimens, _ = choose_specimens(options, settings, paths, options.training_volumes, series=_TRAINING_SERIES)
    for number, specimen in enumerate(specimens):
        _write(folder / "gt" / f"{number:03d}.tif", specimen.gt, specimen.voxel_size)
    for place, step in enumerate(steps, 1):
        config = options.config_for(step.name)
        run_dirs[step] = Path(config.output_dir)
        if _is_finished(run_dirs[step]):
            continue
        print(f"\n[{place}/{len(steps)}] A network for {step.photons:g} photons and blur {step.blur:g}:", flush=True)
        for number, specimen in enumerate(specimens):
            path = folder / step.name / f"{number:03d}.tif"
            if not path.exists():
                seed = noise_seed(settings.seed + 1, number, step)  # other noise than that of the test
                picture, _ = take_exposure(specimen, step, settings.microscope, np.random.default_rng(seed))
                _write(path, picture, specimen.voxel_size)
        train(config, resume=True)

    def restorer_of(step):
        """The network of a step, in the precision of the study."""
        model, record = load_model(run_dirs[step])
        chosen = ChosenPrecision(settings.precision, "as the study began")
        if options.precision == "auto":
            chosen = suit_network(chosen, record.bfloat16_check)
        return adapt_network(with_precision(model, chosen.name), num_channels, settings.normalization)

    return restorer_of


def _is_finished(run_dir):
    checkpoint = load_checkpoint(run_dir, repair=False)
    return checkpoint is not None and checkpoint.state.is_finished


def _write(path, block, voxel_size):
    """Write a block `(Z, Y, X, C)` unless the file exists: it is the same, as it depends on the settings alone."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = dict(zip("ZYXC", block.shape, strict=True))
    axes = "ZYX" if block.shape[-1] == 1 else "ZCYX"
    with create_volume(path, axes=axes, sizes=sizes, dtype=block.dtype, voxel_size=voxel_size) as file:
        file.write({}, None, block)
