"""The steps of the ladders, measured one after the other; each that is finished is kept in a folder.

The blur factors of the ladder are those of the study of Chen et al., Nat. Methods 18, 678 (2021),
doi:10.1038/s41592-021-01155-x, with steps between them.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from rcan.assess.limits.ends import summarise
from rcan.assess.limits.exposures import compare_exposure, measure_exposure, noise_seed
from rcan.assess.limits.records import LadderStep, ShownStep
from rcan.atomic_io import read_json, write_json
from rcan.intensity import match_affine
from rcan.progress import Progress

__all__ = ["SETTINGS", "choose_shown_steps", "measure_steps", "open_study", "show_step", "summarise_steps"]

SETTINGS = "settings.json"
# Of studies that do not name them:
_OLD_SETTINGS = {"precision": "float32", "normalization": "percentiles", "noise_range": None}


def open_study(folder, settings, *, overwrite=False):
    """Make the folder of the steps of a study, or find it again.

    `settings`, JSON, are all that decides about the results of a step. To overwrite empties a folder of a study. A
    FileExistsError says that it holds steps of other settings, or is not of a study.
    """
    settings = json.loads(json.dumps(settings, default=str))
    path = folder / SETTINGS
    earlier = {**_OLD_SETTINGS, **read_json(path)} if path.is_file() else None
    if earlier is None and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not of this command: name another folder with -o.")
    is_begun = earlier is not None and any(part != path for part in folder.iterdir())
    if is_begun and overwrite:
        shutil.rmtree(folder)
    elif is_begun and earlier != settings:
        changes = [
            f"{key} (was {json.dumps(earlier.get(key))}, is {json.dumps(settings.get(key))})"
            for key in {**settings, **earlier}
            if earlier.get(key) != settings.get(key)
        ]
        raise FileExistsError(
            f"{folder.parent} holds limits of other settings: {', '.join(changes)}. Name another folder with -o, or "
            "replace them with --overwrite."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def measure_steps(steps, specimens, restorer_of, *, folder, num_exposures, microscope, scaling, seed):
    """Measure steps, and keep each that is finished in a folder of `open_study`: `LadderStep` by `Step`.

    The specimens are exposed in turn, `num_exposures` times at each step; `restorer_of` gives the restorer of
    `measure_exposure` for a step. A step that the folder holds is not measured again.
    """
    paths = {step: Path(folder) / f"{step.name}.json" for step in steps}
    measured = {step: LadderStep.load(path) for step, path in paths.items() if path.is_file()}
    for step, found in measured.items():
        if found.step != step or len(found.exposures) != num_exposures:
            raise ValueError(
                f"{paths[step]} has {len(found.exposures)} exposures of {found.step.name}: {num_exposures} of "
                f"{step.name} are expected. Remove it, to measure it again."
            )
    total = len(steps) * num_exposures
    options = {"microscope": microscope, "scaling": scaling}
    with Progress(total, "Measuring", unit="image", done=len(measured) * num_exposures) as progress:
        for step in (step for step in steps if step not in measured):
            restorer, exposures = restorer_of(step), []
            for number in range(num_exposures):
                rng = np.random.default_rng(noise_seed(seed, number, step))
                specimen = specimens[number % len(specimens)]
                exposures.append(measure_exposure(restorer, specimen, step, rng=rng, **options))
                progress.advance(photons=f"{step.photons:g}", blur=f"{step.blur:g}")
            snr = float(np.mean([exposure.snr for exposure in exposures]))
            measured[step] = LadderStep(**step._asdict(), snr=snr, exposures=tuple(exposures))
            write_json(paths[step], measured[step].as_json())
    return {step: measured[step] for step in steps}


def summarise_steps(ladders, *, seed):
    """Means and intervals of all steps, as `LimitsResult.intervals`; `seed` is that of the bootstrap."""
    steps = {measured.step: measured for along in ladders.values() for measured in along}
    return {step: summarise(measured, seed=seed) for step, measured in steps.items()}


def choose_shown_steps(ladders, limits):
    """The ends of the ladder of photons, the step next to where the network breaks, and the largest blur."""
    along = ladders["snr"]
    snrs = np.array([step.snr for step in along])
    broken = limits["snr_low"].end.position
    middle = len(along) // 2 if broken is None else int(np.argmin(np.abs(np.log(snrs / broken))))
    shown = [along[0], along[middle], along[-1], ladders["blur"][-1]]
    return list(dict.fromkeys(measured.step for measured in shown))


def show_step(restorer, specimen, step, settings):
    """Images of the first exposure of a step, for people: a `ShownStep`."""
    rng = np.random.default_rng(noise_seed(settings.seed, 0, step))
    options = {"microscope": settings.microscope, "scaling": settings.scaling}
    found = compare_exposure(restorer, specimen, step, rng=rng, **options)
    images = {"raw": found.raw, found.method: found.reference.image, "restored": found.restored}
    matched = {name: match_affine(image, specimen.gt) for name, image in images.items()}
    title = f"{specimen.name}: {step.photons:g} photons, blur {step.blur:g}, SNR {found.snr:.3g}"
    return ShownStep(title, {**matched, "ground truth": specimen.gt}, specimen.voxel_size)
