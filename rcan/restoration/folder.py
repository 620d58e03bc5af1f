"""One call of `apply`: which of its images are there already, and what came of the others."""

import contextlib
import csv
import functools
import os
import sys
import time

from rcan.atomic_io import atomic_file, file_signature, other_writers, remove_stale_partials
from rcan.failures import UsageError, describe_failure
from rcan.restoration.jobs import find_jobs, is_folder_of_images
from rcan.restoration.manifest import Manifest
from rcan.restoration.pictures import draw_pictures

__all__ = ["Run", "choose_percentiles", "choose_spread_factor"]

_SCORE_COLUMNS = ["file", "psnr_raw", "psnr_restored", "ssim_raw", "ssim_restored"]
_LOOK_INTERVAL = 1  # seconds
# Flags that decide about the values of an output.
_SETTINGS = (
    "compare", "bpp", "block_shape", "block_overlap_shape", "normalize", "p_min", "p_max", "rescale",
    "normalize_output_range_between_zero_and_one", "attention", "ensemble", "axes", "gt_axes", "channels",
)  # fmt: skip


def choose_percentiles(options, record):
    """Percentiles that become 0 and 1: as the flags say, else as trained.

    Parameters
    ----------
    options : ApplyOptions
    record : rcan.run_folder.record.TrainingRecord

    Returns
    -------
    low, high : float
        2 and 99.9 where the training is not known.
    """
    low, high = record.percentiles
    return low if options.p_min is None else options.p_min, high if options.p_max is None else options.p_max


def choose_spread_factor(options, record):
    """What the spread of the ensemble is multiplied by, so that it holds the truth as often as it should.

    Parameters
    ----------
    options : ApplyOptions
    record : rcan.run_folder.record.TrainingRecord

    Returns
    -------
    factor : float or None
        As `rcan evaluate` has found it for an ensemble of this size; None without one, or without uncertainty.
    """
    spread = record.spread
    is_known = options.uncertainty and spread and spread.ensemble == options.ensemble
    return spread.factor if is_known else None


class Run:
    """The images of one call, one after the other.

    Parameters
    ----------
    options : ApplyOptions

    Attributes
    ----------
    restorer : rcan.restoration.FileRestorer
        To be set before `do` and `watch`.
    num_images : int
        That the call is about, as far as known.
    failed : dict of Path to str
        Reason by image.
    """

    def __init__(self, options):
        self._options, self.restorer = options, None
        self._is_folder = is_folder_of_images(options.input) and not options.series
        self._folder = options.output if self._is_folder else options.output.absolute().parent
        self._manifest = Manifest(self._folder) if self._is_folder else None
        self._scores_path = self._folder / "scores.csv"
        self._rows = _read_scores(self._scores_path, must_be_one=options.ground_truth is not None)
        self._settings = _settings(options) if self._is_folder else {}
        self._learned_from = set()
        self._scores, self.failed = {}, {}
        self._seen, self._restored, self._skipped = set(), set(), set()

    @property
    def num_images(self):
        """Images that the call is about, as far as known."""
        return len(self._seen | self.failed.keys())

    def protect(self, record, jobs):
        """Refuse to replace what the network has learned from, whatever else a user allows."""
        self._learned_from = record.real_paths()
        for job in jobs:
            self._check_protected(job)

    def _check_protected(self, job):
        for path in job.outputs:
            if os.path.realpath(path) in self._learned_from:
                raise ValueError(f"{path} is training data of this network: name another place with -o.")

    def select(self, jobs):
        """Images to restore; refuses to replace what this job has not made."""
        self._seen |= {job.raw for job in jobs}
        for path in (job.output for job in jobs if not job.format.startswith("zarr")):
            if self._options.scheduler:
                raise UsageError(
                    f"{path}: --scheduler writes OME-Zarr, a TIFF file has one writer. Choose --format zarr (for "
                    "one image a name *.zarr with -o), or leave --scheduler out."
                )
        if self._options.overwrite:
            return jobs
        todo, conflicts = [], []
        for job in jobs:
            found = {path: self._status(job, path) for path in job.outputs}
            conflicts += [
                (job, path) for path, what in found.items() if what in ("foreign", "other settings")
            ]
            if set(found.values()) == {"done"} and self._know_scores(job):
                self._skip(job)
            else:
                todo.append(job)
        if conflicts:
            job, path = conflicts[0]
            more = f" and {len(conflicts) - 1} more" * (len(conflicts) > 1)
            how = self._manifest.difference(path, self._settings_of(job)) if self._manifest else ""
            reason = f", made with {how}," if how else ""
            raise FileExistsError(
                f"{path}{more}{reason} would be replaced: name another place with -o, or replace with --overwrite."
            )
        return todo

    def _skip(self, job):
        """Count an image that is there; with --strict not one that is outside the trained range."""
        facts = self._manifest.facts(job.output) if self._options.strict else {}
        if facts.get("trained_range") == "outside":
            self._fail(
                job,
                FileExistsError(
                    f"{job.output} was restored without --strict, but is unlike the training data "
                    f"({'; '.join(facts['reasons'])}). Remove it, or leave --strict out."
                ),
            )
        else:
            self._skipped.add(job.raw)

    def _is_restored(self, job):
        """Whether the images are there, with the scores that are asked for."""
        return all(self._status(job, path) == "done" for path in job.images) and self._know_scores(job)

    def _status(self, job, path):
        if self._manifest:
            return self._manifest.status(job.raw, path, self._settings_of(job))
        return "foreign" if os.path.lexists(path) else "absent"

    def _know_scores(self, job):
        """Whether an image that is there needs no scores, or has them against this ground truth."""
        if not job.gt:
            return True
        facts = self._manifest.facts(job.output)
        if facts.get("ground_truth") != _identity(job.gt):
            return False
        self._scores[job.output.name] = facts["scores"]
        return True

    def _settings_of(self, job):
        """Settings of the call, and what else decides about the values of this image's outputs."""
        settings = {**self._settings, "format": job.format}
        if job.gt and (self._options.compare or self._options.rescale):
            settings["ground_truth"] = _identity(job.gt)
        return settings

    def do(self, jobs):
        """Restore images; one that fails does not stop the others."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(self._folder)
        for number, job in enumerate(jobs, 1):
            label = f"[{number}/{len(jobs)}] {job.raw.name}" if len(jobs) > 1 else job.raw.name
            try:
                self.failed.pop(job.raw, None)
                self._restore(job, label)
            except (ConnectionError, UsageError):  # the cluster is gone, or a flag is wrong, for all
                raise
            except Exception as failure:
                if not self._is_folder:
                    raise
                self._fail(job, failure)

    def _restore(self, job, label):
        """Restore an image and draw its pictures, where it was not done before."""
        others = {path: other_writers(path.absolute()) for path in job.outputs}
        if not self.select([job]):  # after the look at who writes: one that ends in between is seen here
            return
        self._check_protected(job)
        for path, partials in others.items():
            if partials:
                raise FileExistsError(
                    f"{path} is being written by another call ({partials[0].name}): wait for it, or remove that file "
                    "if nobody writes it any more."
                )
        note = None
        if self._manifest:
            settings, before = self._settings_of(job), file_signature(job.raw)

            def note(path, present):
                self._manifest.note(job.raw, before, path, present, settings)

        self.restorer.file_format = job.format
        is_restored = not self._options.overwrite and self._is_restored(job)
        if is_restored:
            self._skip(job)
        else:
            self._restore_images(job, label, note)
            self._restored.add(job.raw)
        if job.pictures and job.raw not in self.failed:
            draw_pictures(job, self.restorer, label=label, when_whole=note)

    def _restore_images(self, job, label, note):
        report = self.restorer.restore(
            job.raw,
            job.output,
            gt_path=job.gt,
            spread_path=job.spread,
            label=label,
            when_judged=functools.partial(self._hear, job),
            when_whole=note,
        )
        if report.seams is not None:
            tile = "x".join(map(str, report.tile_shape))
            print(
                f"{job.output.name}: tiles of {tile}, steps at their borders {report.seams:.2f} of those beside"
            )
        facts = {"seams": report.seams, "num_clipped": report.num_clipped}
        if report.verdict:
            facts |= {"trained_range": report.verdict.domain_status, "reasons": report.verdict.reasons}
        outdated = self._rows.pop(job.output.name, None)
        if report.scores:
            self._scores[job.output.name] = self._rows[job.output.name] = report.scores
            facts |= {"scores": report.scores, "ground_truth": _identity(job.gt)}
        if self._manifest:
            self._manifest.add(job.output, facts)
        if report.scores or outdated:
            _write_scores(self._scores_path, self._rows)

    def _hear(self, job, verdict):
        """Say whether the network has seen such images, and leave others alone where that is asked for."""
        print(f"{job.raw.name}: {verdict}", flush=True)
        if self._options.strict and verdict.domain_status == "outside":
            raise ValueError(
                f"{job.raw} is unlike the training data, and --strict leaves it alone ({verdict}). Train on such "
                "images, or leave --strict out."
            )

    def watch(self):
        """Restore what is in the folder and what comes, until interrupted."""
        print(f"Watching {self._options.input}, Ctrl-C ends.", flush=True)
        since, settled, told = {}, {}, None
        while True:
            try:
                jobs, problem = find_jobs(self._options, may_be_empty=True), None
            except (OSError, ValueError) as failure:  # of the folder: it may be gone for a while
                jobs, problem = [], describe_failure(failure)
            if problem and problem != told:
                print(f"error: {problem}", file=sys.stderr, flush=True)
            told = problem
            for job in jobs:
                with contextlib.suppress(FileNotFoundError):  # gone again
                    state = file_signature(job.raw)
                    before, start = since.get(job, (None, 0))
                    if state != before:
                        start = time.monotonic()
                        since[job] = state, start
                    is_settled = time.monotonic() - start >= self._options.settle
                    if is_settled and settled.get(job) != state:
                        self._do_watched(job)
                        settled[job] = state
            time.sleep(_LOOK_INTERVAL)

    def _do_watched(self, job):
        try:
            self.do([job])
        except ConnectionError:
            raise
        except OSError as failure:  # of the folder that is written to: it may be gone for a while
            self._fail(job, failure)

    def _fail(self, job, failure):
        self.failed[job.raw] = describe_failure(failure)
        print(f"error: {self.failed[job.raw]}", file=sys.stderr, flush=True)

    def conclude(self):
        """Say what was done."""
        if self._scores:
            from rcan.scores import format_scores

            print(f"\nAfter an affine match to the ground truth:\n{format_scores(self._scores)}")
        skipped = self._skipped - self._restored
        before = f", {len(skipped)} of them before" * bool(skipped)
        num_done = len((self._restored | skipped) - self.failed.keys())
        print(f"{num_done} of {self.num_images} restored{before}: {self._options.output}", flush=True)
        for path, reason in self.failed.items():
            print(f"not restored: {path.name}: {reason}", flush=True)


def _identity(path):
    """Place and state of a file, as JSON has them."""
    return [os.path.realpath(path), file_signature(path)]


def _settings(options):
    """All of a call that decides about the values of an output, for the manifest."""
    from rcan.run_folder.models import digest_model, read_record

    values = options.model_dump(mode="json", include={*_SETTINGS})
    record = read_record(options.model_dir)
    values["p_min"], values["p_max"] = choose_percentiles(options, record)
    values["spread_factor"] = choose_spread_factor(options, record)
    return {
        "model": digest_model(options.model_dir),
        **{name: value for name, value in values.items() if value is not None and value is not False},
    }


def _read_scores(path, *, must_be_one):
    """Rows of an earlier call by name of the output, so that scoring one more image keeps them."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        if reader.fieldnames != _SCORE_COLUMNS or any(None in row for row in rows):
            if not must_be_one:
                return {}
            raise FileExistsError(f"{path} is not a table of scores: move it, or name another place with -o.")
        return {row.pop("file"): row for row in rows}


def _write_scores(path, rows):
    """Write the scores of all images that are known, by name of the output."""
    with atomic_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _SCORE_COLUMNS)
        writer.writeheader()
        writer.writerows({"file": name, **row} for name, row in rows.items())
