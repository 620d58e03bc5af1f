"""A network judged as a whole: scores, null tests and the spread of its ensemble."""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from rcan.assess.calibration import calibrate, plan_calibration
from rcan.assess.nulls import null_voxels, run_null_tests
from rcan.assess.options import PACKAGES
from rcan.assess.records import Evaluation, EvaluationImages, NetworkFacts
from rcan.assess.subjects import find_subjects
from rcan.assess.volumes import FEWEST_VOLUMES, evaluate_subject, sum_up
from rcan.atomic_io import list_versions
from rcan.hardware import ChosenPrecision
from rcan.precision import with_precision
from rcan.progress import Progress
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, voxels_within_memory
from rcan.restoration.setup import choose_for_devices
from rcan.restoration.tiled import TiledRestorer
from rcan.run_folder.models import digest_model, find_model, load_model
from rcan.run_folder.record import TrainingRecord

__all__ = ["LoadedNetwork", "evaluate_network", "load_network", "open_subjects"]

_ENSEMBLE = 8  # whose spread is calibrated where no ensemble is chosen


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory, what is known of it, and what restores with it: `restorer`, perhaps of an ensemble."""

    model_dir: Path
    record: TrainingRecord
    num_parameters: int
    precision: ChosenPrecision
    engine: KerasEngine
    restorer: TiledRestorer
    ensemble: int | None


def load_network(model_dir, *, ensemble=None, devices="auto", precision="auto"):
    """Load a run folder or ``.keras`` file, to restore with the mean over `ensemble` symmetries where that is given.

    A ValueError or OSError says why the network cannot be loaded, or the ensemble does not fit it.
    """
    model, record = load_model(model_dir)
    names = find_devices(devices)
    chosen = choose_for_devices(precision, record, names)
    model = with_precision(model, chosen.name)
    engine = KerasEngine(model, names)
    restorer = TiledRestorer(
        Ensemble(engine, ensemble) if ensemble else engine, max_voxels=voxels_within_memory(model, names)
    )
    return LoadedNetwork(Path(model_dir), record, model.count_params(), chosen, engine, restorer, ensemble)


def open_subjects(network, paths, *, axes=None, gt_axes=None, fwhm=None):
    """Open and check all pairs of `pair_images`: a list of `Subject`.

    `axes` and `gt_axes` are those of the files, where their metadata is wrong; `fwhm`, the blur of raw in µm, needs a
    known voxel size. A warning names pairs that the network has learned from.
    """
    subjects = find_subjects(paths, network.engine, scaling=network.record.scaling, axes=axes, gt_axes=gt_axes)
    for subject in subjects if fwhm else ():
        if None in subject.voxel_size[-len(subject.upscaling) :]:
            raise ValueError(
                f"--fwhm is in µm but {subject.gt.volume.path} does not give its voxel size: leave --fwhm out."
            )
    learned = [subject.name for subject in subjects if _has_learned_from(network, subject)]
    if learned:
        more = f" and {len(learned) - 1} more are" if len(learned) > 1 else " is"
        warnings.warn(
            f"{learned[0]}{more} training or validation data of this network: scores on them say nothing about "
            "new images. Name others.",
            stacklevel=2,
        )
    return subjects


def _has_learned_from(network, subject):
    learned = network.record.real_paths()
    return any(os.path.realpath(image.volume.path) in learned for image in (subject.raw, subject.gt))


def evaluate_network(network, subjects, *, fwhm=None, with_calibration=True, seed=0, settings=None):
    """Judge a network, a `LoadedNetwork`, on the pairs of `open_subjects`: an `Evaluation` and its `EvaluationImages`.

    `fwhm` is that of the blur of raw, (Z, Y, X) in µm. With a calibration the spread of the ensemble, of 8 where the
    network has none, is compared with the errors. `settings` are kept with the results.
    """
    with_blocks = len(subjects) < FEWEST_VOLUMES
    plan = _plan_calibration(network, subjects) if with_calibration else None
    num_voxels = sum(
        (3 if subject.repeat else 2) * len(subject.numbers) * math.prod(subject.raw.volume.shape[:-1])
        for subject in subjects
    )
    num_voxels += null_voxels(subjects) + (plan.num_voxels if plan else 0)
    results, first, worst = [], None, None
    with Progress(num_voxels, "Evaluating", unit="voxel") as progress:
        for subject in subjects:
            result, images = evaluate_subject(
                subject,
                network.restorer,
                learned_from=_has_learned_from(network, subject),
                fwhm=fwhm,
                with_blocks=with_blocks,
                progress=progress,
            )
            results.append(result)
            shown = result.methods["restored"].scores["psnr"], subject.name, images
            first = first or shown
            worst = min(worst or shown, shown, key=lambda each: each[0])
        scaling = network.record.scaling
        nulls, planes = run_null_tests(subjects, network.restorer, scaling=scaling, seed=seed, progress=progress)
        calibration = calibrate(plan, progress) if plan else None
    evaluation = Evaluation(
        model=NetworkFacts(
            path=str(find_model(network.model_dir).absolute()),
            digest=digest_model(network.model_dir),
            num_parameters=network.num_parameters,
            percentiles=network.record.percentiles,
            precision=network.precision.name,
        ),
        versions=list_versions(*PACKAGES),
        volumes={subject.name: result for subject, result in zip(subjects, results, strict=True)},
        total=sum_up(results, seed=seed),
        nulls=nulls,
        calibration=calibration,
        settings=settings or {},
    )
    return evaluation, EvaluationImages({name: images for _, name, images in (first, worst)}, planes)


def _plan_calibration(network, subjects):
    """What the spread is calibrated on; None, with a warning, where the network has no such ensemble."""
    size = network.ensemble or _ENSEMBLE
    try:
        engine = Ensemble(network.engine, size, with_spread=True)
    except ValueError as failure:
        warnings.warn(f"the spread of the ensemble is not calibrated: {failure}", stacklevel=3)
        return None
    restorer = network.restorer.with_engine(engine)
    return plan_calibration(network.model_dir, network.record, restorer, subjects, size=size)
