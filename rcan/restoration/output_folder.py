"""The folder that a call restores into: which images are there already, and with which settings."""

import os

from rcan.atomic_io import file_signature
from rcan.restoration.jobs import fills_folder
from rcan.restoration.manifest import Manifest
from rcan.restoration.score_table import SCORE_COLUMNS, ScoreTable
from rcan.run_folder.models import digest_model, read_record
from rcan.run_folder.places import find_place

__all__ = ["OutputFolder"]

# Options that decide about the values of an output.
_DECIDING = (
    "compare", "bpp", "block_shape", "block_overlap_shape", "normalize", "p_min", "p_max", "rescale",
    "normalize_output_range_between_zero_and_one", "attention", "ensemble", "axes", "gt_axes", "channels", "despike",
)  # fmt: skip


class OutputFolder:
    """The folder that the images of a call go to, with its manifest and its table of scores.

    Around a single image it has no manifest: nothing counts as restored before.
    """

    def __init__(self, options):
        self.is_of_folder = fills_folder(options)
        self.path = options.output if self.is_of_folder else options.output.absolute().parent
        self._options = options
        self._manifest = Manifest(self.path) if self.is_of_folder else None
        self._scores = ScoreTable(self.path / "scores.csv", must_be_one=options.ground_truth is not None)
        self._settings = _deciding_settings(options) if self.is_of_folder else {}

    def sort(self, jobs):
        """Split jobs into those to do and those that are done; refuse to replace what another call has made."""
        todo, done, conflicts = [], [], []
        for job in jobs:
            statuses = {path: self._status(job, path) for path in job.outputs}
            conflicts += [(job, path) for path, status in statuses.items() if status in ("foreign", "other settings")]
            is_done = set(statuses.values()) == {"done"} and self._is_scored(job)
            (done if is_done else todo).append(job)
        if conflicts:
            raise FileExistsError(self._describe_conflicts(conflicts))
        return todo, done

    def _describe_conflicts(self, conflicts):
        job, path = conflicts[0]
        more = f" and {len(conflicts) - 1} more" * (len(conflicts) > 1)
        difference = self._manifest.difference(path, self._settings_of(job)) if self._manifest else ""
        reason = f", made with {difference}," if difference else ""
        return f"{path}{more}{reason} would be replaced: name another place with -o, or replace with --overwrite."

    def _status(self, job, path):
        if self._manifest:
            return self._manifest.status(job.raw.path, path, self._settings_of(job))
        return "foreign" if os.path.lexists(path) else "absent"

    def _is_scored(self, job):
        """Whether a restored image needs no scores, or has been scored against this ground truth."""
        entry = self.entry(job)
        are_whole = {*SCORE_COLUMNS[1:]} <= (entry.get("scores") or {}).keys()
        return not job.gt or (are_whole and entry.get("ground_truth") == _identify(job.gt))

    def has_images(self, job):
        """Whether the images of a job, though perhaps not its pictures, are done."""
        return all(self._status(job, path) == "done" for path in job.images) and self._is_scored(job)

    def entry(self, job):
        """The entry of the manifest for the restored image of a job that is done."""
        return self._manifest.entry(job.output)

    def _settings_of(self, job):
        """Settings of the call, and what else decides about the values of this image's outputs."""
        settings = {**self._settings, "format": job.format}
        if job.raw.number is not None:
            settings["image"] = job.raw.number
        if job.gt and (self._options.compare or self._options.rescale):
            settings["ground_truth"] = _identify(job.gt)
        return settings

    def is_in_float32(self):
        """Whether the images that are there, made with the settings of this call, were computed in float32."""
        return bool(self._manifest) and self._manifest.newest_precision(self._settings) == "float32"

    def describe_origin(self, job, precision):
        """What the outputs of a job will be made of, for the manifest: to be asked before the image is read."""
        if not self._manifest:
            return {}
        return {
            "input": os.path.realpath(job.raw.path),
            "input_state": file_signature(job.raw.path),
            "networks": [os.path.realpath(find_place(model_dir)) for model_dir in self._options.model_dir],
            "settings": {**self._settings_of(job), "precision": precision},
        }

    def add(self, origin, path, present_path, facts=()):
        """Add to the manifest an output that is complete and has not its name yet."""
        if self._manifest:
            self._manifest.append(origin, path, present_path, facts)

    def add_images(self, job, origin, report):
        """Add images that are complete and have not their names yet; `report` is a `FileReport`."""
        facts = {"seams": report.seams, "num_clipped": report.num_clipped}
        if report.verdict:
            facts |= {"trained_range": report.verdict.domain_status, "reasons": report.verdict.reasons}
        if report.scores:
            facts |= {"scores": report.scores, "ground_truth": _identify(job.gt)}
        for path, present_path in report.present_paths.items():
            self.add(origin, path, present_path, facts if path == job.output else ())

    def write_scores(self, job, scores):
        """Put the scores of a restored image into the table."""
        self._scores.replace(job.output.name, scores)


def _identify(image):
    """Place and signature of an `ImageFile`, as JSON has them."""
    of_file = [os.path.realpath(image.path), file_signature(image.path)]
    return of_file if image.number is None else [*of_file, image.number]


def _deciding_settings(options):
    """All of a call that decides about the values of an output, for the manifest."""
    values = options.model_dump(mode="json", include={*_DECIDING})
    records = [read_record(model_dir) for model_dir in options.model_dir]
    by_network = {
        "model": [digest_model(model_dir) for model_dir in options.model_dir],
        "p_min": [options.choose_percentiles(record)[0] for record in records],
        "p_max": [options.choose_percentiles(record)[1] for record in records],
    }
    values |= {name: facts if len(facts) > 1 else facts[0] for name, facts in by_network.items()}
    values["spread_factor"] = options.choose_spread_factor(records[-1])
    return {
        **{name: value for name, value in values.items() if value is not None and value is not False},
        **({"precision": options.precision} if options.precision != "auto" else {}),
    }
