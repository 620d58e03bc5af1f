"""`limits`: where a network stops helping, along ladders of photons and of blur."""

import csv
import functools
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rcan.assess.limits.study import Study, config_for, folder_of
from rcan.atomic_io import file_signature
from rcan.cli import run_command
from rcan.config import Axes, Count
from rcan.failures import describe_failure
from rcan.options import Settings, option
from rcan.simulation.settings import (
    APERTURE,
    BACKGROUND,
    GAIN,
    OFFSET,
    READ_NOISE,
    REFRACTIVE_INDEX,
    WAVELENGTH,
    Micrometres,
    PhantomKind,
    Width,
    check_sharpness,
    choose_widths,
    each_warning_once,
)

__all__ = ["main"]

Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=1)]
_RESULTS = ("limits.csv", "limits.json", "snr.png", "blur.png", "report.html")
_VOXEL_SIZE = (0.3, 0.1, 0.1)
_VOXEL_RATIO = 1.5  # beyond it `apply` takes images for others than the training data
_PACKAGES = ("keras", "numpy", "scipy", "scikit-image", "tifffile")


class LimitsOptions(Settings):
    """Flags of the command."""

    model_dir: Path | None = option(None, "run folder of train.py, or a .keras file", letter="m")
    train: bool = option(
        False,
        "train one network for each step instead, by --config: the limits of the method, not of a network",
    )
    config: Path | None = option(
        None,
        "config file (JSON) of --train; its data and output_dir are not used: the networks learn from --input or from "
        "phantoms, degraded by each step",
        letter="c",
    )
    input: Path | None = option(
        None,
        "sharp image with little noise, or folder of such images, to degrade: the ground truth (default: phantoms). "
        "They are taken to be as sharp as --fwhm says",
        letter="i",
    )
    output: Path = option(..., "folder for the report, the tables and the finished steps", letter="o")
    overwrite: bool = option(
        False, "measure all steps anew (and train all networks), and replace what is there"
    )
    phantoms: PhantomKind = option("mixture", "kind of phantom")
    axes: Axes | None = option(None, "axes of the input, where its metadata is wrong")
    volumes: int = option(
        5,
        "phantoms, or parts of the input, exposed at each step: intervals are over them (8 or more make good ones)",
        ge=3,
    )
    training_volumes: int = option(8, "the same for --train to learn from", ge=2)
    shape: tuple[Count, Count, Count] = option(
        (24, 96, 96),
        "voxels of a phantom, or of the largest part taken from an image (its centre first), Z,Y,X",
    )
    voxel_size: tuple[Micrometres, Micrometres, Micrometres] | None = option(
        None,
        "size of a voxel, µm, Z,Y,X (default: the input's; of phantoms that of the training data, else "
        "0.3,0.1,0.1)",
    )
    photon_ladder: Annotated[tuple[Positive, ...], Field(min_length=1)] = option(
        (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        "detected photons at a voxel of full signal, at blur --blur: the ladder of the signal-to-noise ratio",
    )
    blur_ladder: Annotated[tuple[Factor, ...], Field(min_length=1)] = option(
        (1, 1.5, 2, 2.5, 3, 4),
        "widths of a point over that in the ground truth, at --photons photons: the ladder of blur",
    )
    photons: float = option(20, "detected photons at a voxel of full signal on the ladder of blur", gt=0)
    blur: float = option(2, "width of a point over that in the ground truth on the ladder of photons", ge=1)
    fwhm: tuple[Width, Width, Width] | None = option(
        None,
        "width of a point in the ground truth: full width at half maximum, µm, Z,Y,X (default: 0.52,0.19,0.19, from "
        "--numerical_aperture, --wavelength and --refractive_index)",
    )
    numerical_aperture: float = APERTURE
    wavelength: float = WAVELENGTH
    refractive_index: float = REFRACTIVE_INDEX
    background: float = BACKGROUND
    offset: float = OFFSET
    gain: float = GAIN
    read_noise: float = READ_NOISE
    seed: int = option(0, "the same seed gives the same phantoms, noise and intervals", ge=0)

    @model_validator(mode="after")
    def _check_together(self):
        given = self.model_fields_set
        if self.train and (self.model_dir or not self.config):
            raise ValueError(
                "--train makes networks of its own: name a config file with -c, and no model (-m)."
            )
        if not self.train and not self.model_dir:
            raise ValueError("--model_dir is missing: name a network with -m, or --train some with -c.")
        for name in ("config", "training_volumes"):
            if name in given and not self.train:
                raise ValueError(f"--{name} is of --train: add it, or leave --{name} out.")
        if self.input and "phantoms" in given:
            raise ValueError("--input takes the place of --phantoms: leave one of them out.")
        if self.axes and not self.input:
            raise ValueError("--axes is of an input: name it with -i, or leave --axes out.")
        check_sharpness(self)
        return self


def limits(options: LimitsOptions):
    """Find the noise and the blur at which a network stops helping.

    Ground truth, phantoms or images of yours, is degraded step by step. At each step the restored image is compared
    with raw and with the best classical method. Finished steps are kept: the same call goes on after an
    interruption.
    """
    record = _read_network(options)
    percentiles = record.percentiles
    learned, tested = _choose_inputs(options)
    _warn_of_learned(record, tested or [])
    settings = _settings(options, record, percentiles, learned, tested)
    from rcan.assess.limits.ends import find_limits
    from rcan.assess.limits.exposures import Step, adapt_network, measure_steps, open_study
    from rcan.assess.limits.tables import format_ladder
    from rcan.run_folder.models import load_model

    _check_output(options)
    ladders = {
        "snr": [Step(photons, options.blur) for photons in sorted(set(options.photon_ladder))],
        "blur": [Step(options.photons, factor) for factor in sorted(set(options.blur_ladder))],
    }
    steps = list(dict.fromkeys([*ladders["snr"], *ladders["blur"]]))
    with each_warning_once(), _going_on(options):
        study = Study(options, settings, percentiles)
        specimens, notes = study.specimens(tested, options.volumes)
        num_channels = specimens[0].gt.shape[-1]
        if not options.train:  # a network that does not fit is refused before anything is replaced
            restorer = adapt_network(load_model(options.model_dir)[0], num_channels)
        open_study(folder_of(options), settings, overwrite=options.overwrite)
        print("\n".join(notes), flush=True)
        restorer_of = study.train(steps, learned, num_channels) if options.train else lambda step: restorer
        measured = measure_steps(
            steps,
            specimens,
            restorer_of,
            folder=folder_of(options),
            num_exposures=options.volumes,
            microscope=study.microscope,
            percentiles=percentiles,
            seed=options.seed,
        )
        ladders = {name: [measured[step] for step in along] for name, along in ladders.items()}
        found = find_limits(ladders, seed=options.seed)
        pictures = study.draw_steps(_steps_to_show(ladders, found), specimens[0], restorer_of)
    _write_results(options, ladders, found, notes, settings, pictures)
    for name, along in ladders.items():
        print(f"\n{format_ladder(name, along, found, seed=options.seed)}")
    print(f"\nReport: {options.output / 'report.html'}", flush=True)
    if not options.train:
        _keep_range(options, record, found, settings, specimens[0].voxel_size)


def _read_network(options):
    """What is known of the network; of networks that are to be trained, their percentiles."""
    from rcan.run_folder.models import read_record
    from rcan.run_folder.record import TrainingRecord

    if options.train:
        return TrainingRecord(percentiles=config_for(options, "none").percentiles)
    return read_record(options.model_dir)


def _choose_inputs(options):
    """Images to learn from, for --train, and images to test on; None where phantoms are drawn."""
    from rcan.io.paths import is_folder_of_images, list_volumes

    if options.input is None:
        return None, None
    if not options.input.exists():
        raise FileNotFoundError(f"{options.input} does not exist: -i takes an image or a folder of them.")
    paths = list_volumes(options.input) if is_folder_of_images(options.input) else [options.input]
    if not options.train:
        return None, paths[: options.volumes]  # one part of each comes first: others would not be looked at
    if len(paths) < 2:
        raise ValueError(
            f"{options.input} holds one image: --train learns from some and tests on others. Name a folder of two or "
            "more."
        )
    num_tested = max(1, len(paths) // 4)
    learned, tested = paths[num_tested:], paths[:num_tested]
    return learned[: options.training_volumes], tested[: options.volumes]


def _warn_of_learned(record, paths):
    """A network restores what it has learned from better than what is new to it."""
    learned = record.real_paths(["gt"])
    seen = [path for path in paths if os.path.realpath(path) in learned]
    if seen:
        warnings.warn(
            f"{seen[0]} is training data of this network: on new images it may break earlier. Name others with -i.",
            stacklevel=2,
        )


def _settings(options, record, percentiles, learned, tested):
    """All that decides about the results of a step; the ladders themselves may grow."""
    from rcan.run_folder.models import digest_model

    names = ("axes", "volumes", "shape", "background", "offset", "gain", "read_noise", "seed")
    settings = options.model_dump(mode="json", include={*names})
    settings |= {"fwhm": choose_widths(options), "percentiles": percentiles}
    if options.input:
        settings["input"] = [[os.path.realpath(path), file_signature(path)] for path in tested]
        settings["voxel_size"] = options.voxel_size
    else:
        settings["phantoms"] = options.phantoms
        sizes = [pair.voxel_size for pair in record.training]
        known = sizes[0] if sizes and None not in sizes[0] else _VOXEL_SIZE
        settings["voxel_size"] = options.voxel_size or known
    if not options.train:
        return {"model": digest_model(options.model_dir), **settings}
    config = config_for(options, "none").model_dump(mode="json")
    own = [key for key in config if key.endswith(("_dir", "_pairs", "_data_format"))]
    settings["config"] = {key: value for key, value in config.items() if key not in own}
    settings["training_volumes"] = options.training_volumes
    if learned:
        settings["training_input"] = [[os.path.realpath(path), file_signature(path)] for path in learned]
    return settings


def _check_output(options):
    """Refuse to replace results that are not of an earlier call."""
    there = [name for name in _RESULTS if (options.output / name).exists()]
    if there and not folder_of(options).exists():
        raise FileExistsError(
            f"{options.output / there[0]} is not of this command: name another folder with -o."
        )


def _steps_to_show(ladders, found):
    """The ends of the ladder of photons, the step next to where it breaks, and the largest blur."""
    import numpy as np

    from rcan.assess.limits.exposures import Step

    along = ladders["snr"]
    snrs = [step["snr"] for step in along]
    broken = found["snr_low"]["end"].position
    middle = len(along) // 2 if broken is None else int(np.argmin(np.abs(np.log(np.array(snrs) / broken))))
    shown = [along[0], along[middle], along[-1], ladders["blur"][-1]]
    return list(dict.fromkeys(Step(step["photons"], step["blur"]) for step in shown))


@contextmanager
def _going_on(options):
    """Say after Ctrl-C or SIGTERM how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f"stopped; {folder_of(options)} keeps what is finished: the same call goes on."
        ) from None


# Results


def _write_results(options, ladders, found, notes, settings, pictures):
    from rcan.assess.limits.tables import tabulate
    from rcan.atomic_io import atomic_file, list_versions, write_json
    from rcan.figures.style import save_png
    from rcan.report.limits import draw_study, write_limits_report

    rows = tabulate(ladders, seed=options.seed)
    with atomic_file(options.output / "limits.csv") as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    words = {
        name: {**limit, "end": limit["end"]._asdict(), "words": str(limit["end"])}
        for name, limit in found.items()
    }
    results = {
        "versions": list_versions(*_PACKAGES),
        "settings": settings,
        "limits": words,
        "ladders": ladders,
    }
    write_json(options.output / "limits.json", results)
    for name, steps in ladders.items():
        with atomic_file(options.output / f"{name}.png") as partial:
            save_png(draw_study(name, steps, found, seed=options.seed), partial)
    subject = (
        f"networks trained for each step by {options.config}" if options.train else str(options.model_dir)
    )
    write_limits_report(
        options.output / "report.html",
        subject=subject,
        ladders=ladders,
        limits=found,
        notes=notes,
        settings={**settings, "versions": results["versions"]},
        pictures=pictures,
        seed=options.seed,
    )


def _keep_range(options, record, found, settings, voxel_size):
    """Keep the trusted range with the network, if it was found on images of its kind."""
    from rcan.assess.limits.ends import trusted_range
    from rcan.run_folder.models import add_to_record, has_record

    if not has_record(options.model_dir):
        print(f"{options.model_dir} has no training.json: its trusted range is in the report alone.")
        return
    fingerprint = record.training_fingerprint
    known = zip(voxel_size, fingerprint.voxel_size if fingerprint else [None] * 3, strict=True)
    if any(ends and not ends[0] / _VOXEL_RATIO < size < ends[1] * _VOXEL_RATIO for size, ends in known):
        warnings.warn(
            "the trusted range is in the report alone: the voxels of these images have another size than those of the "
            "training data.",
            stacklevel=2,
        )
        return
    settings = {**settings, "photons": options.photons, "blur": options.blur}
    facts = trusted_range(found, smallest_blur=min(options.blur_ladder), settings=settings)
    try:
        add_to_record(options.model_dir, "trusted_range", facts)
    except OSError as failure:
        warnings.warn(f"the trusted range is in the report alone: {describe_failure(failure)}", stacklevel=2)
        return
    instead = ", instead of that of an earlier study" * bool(record.trusted_range)
    print(f"Trusted range: kept with the network in {options.model_dir}{instead}")


main = functools.partial(run_command, limits, prog="rcan limits")
