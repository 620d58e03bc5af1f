"""The evaluation of a network as a whole: scores, null tests and the spread of its ensemble."""

import math
import os
import warnings
from pathlib import Path

from rcan.assess.judging import FEWEST_VOLUMES, evaluate_subject, sum_up
from rcan.assess.nulls import null_voxels, run_null_tests
from rcan.assess.subjects import find_subjects
from rcan.assess.uncertainty import (
    choose_blocks,
    describe_coverage,
    find_factor,
    measure_blocks,
    open_validation,
)
from rcan.atomic_io import list_versions
from rcan.progress import Progress
from rcan.regions import count_voxels
from rcan.restoration.engine import Ensemble, KerasEngine, find_devices, voxels_within_memory
from rcan.restoration.tiled import TiledRestorer
from rcan.run_folder.models import digest_model, find_model, load_model

__all__ = ["Study"]

_ENSEMBLE = 8  # whose spread is calibrated where none is asked for
_PACKAGES = "keras", "numpy", "scipy", "scikit-image", "tifffile"


class Study:
    """A network, and the pairs that it is judged on.

    Parameters
    ----------
    model_dir : path
        Run folder or ``.keras`` file.
    ensemble : {None, 8, 16}
        Judge the mean over so many symmetries.
    devices : str
        As `rcan.restoration.engine.find_devices`.
    seed : int
        Of null images and intervals.

    Attributes
    ----------
    record : rcan.run_folder.record.TrainingRecord
        What is known of the network.
    subjects : list of Subject
        After `open`.

    Raises
    ------
    ValueError, OSError
        If the network cannot be loaded, or the ensemble does not fit it.
    """

    def __init__(self, model_dir, *, ensemble=None, devices="auto", seed=0):
        self._model_dir, self._seed, self._ensemble = Path(model_dir), seed, ensemble or _ENSEMBLE
        model, self.record = load_model(model_dir)
        self._num_parameters = model.count_params()
        self._percentiles = self.record.percentiles
        names = find_devices(devices)
        self._engine, self._most = (
            KerasEngine(model, names),
            voxels_within_memory(model, names),
        )
        engine = Ensemble(self._engine, ensemble) if ensemble else self._engine
        self._restorer = TiledRestorer(engine, max_voxels=self._most)
        self.subjects = []

    def open(self, paths, *, axes=None, gt_axes=None, fwhm=None):
        """Open and check all pairs.

        Parameters
        ----------
        paths : list of (Path, Path, Path or None)
            From `pair_images`.
        axes, gt_axes : str, optional
            Of the files, where their metadata is wrong.
        fwhm : tuple of float, optional
            Of the blur of raw, (Z, Y, X) in µm.

        Raises
        ------
        ValueError, OSError
            If a file cannot be read, a pair does not fit the network, or `fwhm` is given but a voxel size is unknown.

        Warns
        -----
        UserWarning
            Of pairs that the network has learned from.
        """
        how = {"percentiles": self._percentiles, "axes": axes, "gt_axes": gt_axes}
        self.subjects = find_subjects(paths, self._engine, **how)
        for subject in self.subjects if fwhm else ():
            if None in subject.voxel_size[-len(subject.upscaling) :]:
                raise ValueError(
                    f"--fwhm is in µm but {subject.gt.volume.path} does not give its voxel size: leave --fwhm out."
                )
        self._fwhm = fwhm
        learned = [subject.name for subject in self.subjects if self._has_learned_from(subject)]
        if learned:
            more = f" and {len(learned) - 1} more are" if len(learned) > 1 else " is"
            warnings.warn(
                f"{learned[0]}{more} training or validation data of this network: scores on them say nothing about "
                "new images. Name others.",
                stacklevel=2,
            )

    def _has_learned_from(self, subject):
        learned = self.record.real_paths()
        return any(os.path.realpath(image.volume.path) in learned for image in (subject.raw, subject.gt))

    def run(self, *, calibrate=True):
        """Do the long work.

        Parameters
        ----------
        calibrate : bool
            Compare the spread of the ensemble with the errors.

        Returns
        -------
        results : dict
            JSON: ``model``, ``versions``, ``volumes`` by name, ``total`` (see `sum_up`), ``nulls`` (see
            `measure_nulls`), ``calibration``.
        pictures : dict
            ``"volumes"``: by name (of the first pair and of that of lowest PSNR) images and voxel size; ``"nulls"``.
        """
        subjects, with_blocks = self.subjects, len(self.subjects) < FEWEST_VOLUMES
        calibration = self._plan_calibration() if calibrate else None
        amount = sum(
            (3 if subject.repeat else 2) * len(subject.numbers) * math.prod(subject.raw.volume.shape[:-1])
            for subject in subjects
        )
        amount += null_voxels(subjects) + (calibration.num_voxels if calibration else 0)
        found, first, worst = [], None, None
        with Progress(amount, "Evaluating", unit="voxel") as progress:
            for subject in subjects:
                findings, images = evaluate_subject(
                    subject, self._restorer, fwhm=self._fwhm, with_blocks=with_blocks, progress=progress
                )
                found.append(findings)
                picture = findings.scores["restored"]["psnr"], subject, images
                first = first or picture
                worst = min(worst or picture, picture, key=lambda each: each[0])
            nulls, planes = run_null_tests(
                subjects, self._restorer, percentiles=self._percentiles, seed=self._seed, progress=progress
            )
            calibration = calibration.run(progress) if calibration else None
        results = {
            "model": self._describe_model(),
            "versions": list_versions(*_PACKAGES),
            "volumes": {
                subject.name: self._describe(subject, findings)
                for subject, findings in zip(subjects, found, strict=True)
            },
            "total": sum_up(found, seed=self._seed),
            "nulls": nulls,
            "calibration": calibration,
        }
        volumes = {subject.name: (images, subject.voxel_size) for _, subject, images in (first, worst)}
        return results, {"volumes": volumes, "nulls": planes}

    def _describe_model(self):
        return {
            "path": str(find_model(self._model_dir).absolute()),
            "digest": digest_model(self._model_dir),
            "num_parameters": self._num_parameters,
            "percentiles": self._percentiles,
        }

    def _describe(self, subject, findings):
        """What scores.json says of a pair."""
        return {
            "raw": str(subject.raw.volume.path),
            "ground_truth": str(subject.gt.volume.path),
            "repeat": str(subject.repeat.volume.path) if subject.repeat else None,
            "shape": subject.gt.volume.shape,
            "num_frames": len(subject.numbers),
            "part": [[along.start, along.stop] for along in subject.gt_part] if subject.is_part else None,
            "voxel_size": subject.voxel_size,
            "learned_from": self._has_learned_from(subject),
            "methods": {
                method: {"setting": findings.settings.get(method), **scores, "wrong": findings.wrong[method]}
                for method, scores in findings.scores.items()
            },
            "resolution": findings.resolution,
            "quantification": findings.quantification,
        }

    def _plan_calibration(self):
        """What the spread is calibrated on; None where the network has no such ensemble, which is said."""
        try:
            engine = Ensemble(self._engine, self._ensemble, with_spread=True)
        except ValueError as failure:
            warnings.warn(f"the spread of the ensemble is not calibrated: {failure}", stacklevel=3)
            return None
        return _Calibration(
            self._model_dir,
            self.record,
            TiledRestorer(engine, max_voxels=self._most),
            self._ensemble,
            self.subjects,
        )


class _Calibration:
    """The blocks that the spread of an ensemble is compared with the errors on."""

    def __init__(self, model_dir, record, restorer, size, subjects):
        self._restorer, self._size, self._known = restorer, size, record.spread
        factors = restorer.engine.factors
        pairs, self._num_lost = open_validation(model_dir, record, ndim=len(factors))
        frames = {
            "validation": [(pair, number) for pair in pairs for number in range(pair.num_frames)],
            "evaluated": [(subject, number) for subject in subjects for number in subject.numbers],
        }
        self._blocks = {name: choose_blocks(each) for name, each in frames.items() if each}
        regions = [region for blocks in self._blocks.values() for _, _, region in blocks]
        self.num_voxels = size * sum(map(count_voxels, regions))

    def run(self, progress):
        """Restore the blocks and find the factor, as JSON."""
        ratios = {
            name: measure_blocks(blocks, self._restorer, size=self._size, progress=progress)
            for name, blocks in self._blocks.items()
        }
        found_on = "validation" if "validation" in ratios else "evaluated"
        factor = find_factor(ratios[found_on])
        known = self._known
        if (
            known
            and found_on == "evaluated"
            and known.found_on == "validation"
            and known.ensemble == self._size
        ):
            found_on, factor = "validation", known.factor  # of an earlier call, when its images were there
        return {
            "factor": factor,
            "ensemble": self._size,
            "found_on": found_on,
            "num_lost": self._num_lost,
            "coverage": {name: describe_coverage(each, factor or 1) for name, each in ratios.items()},
        }
