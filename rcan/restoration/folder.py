"""Restoring all images of one call: which are there already, and what comes of the others."""

import functools
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

from rcan.atomic_io import file_signature, other_writers, remove_stale_partials
from rcan.failures import UsageError, describe_failure
from rcan.figures.movie import check_movie_kind
from rcan.io.paths import is_folder_of_images
from rcan.restoration.jobs import find_jobs
from rcan.restoration.manifest import Manifest
from rcan.restoration.options import RestoreOptions, describe_uncertainty
from rcan.restoration.pictures import draw_pictures
from rcan.restoration.score_table import ScoreTable
from rcan.restoration.watch import watch
from rcan.run_folder.models import digest_model, find_model, read_record
from rcan.scores import format_scores

__all__ = ["FolderRestoration", "RestoreSummary", "restore_folder", "restore_images"]

# Options that decide about the values of an output.
_DECIDING = (
    "compare", "bpp", "block_shape", "block_overlap_shape", "normalize", "p_min", "p_max", "rescale",
    "normalize_output_range_between_zero_and_one", "attention", "ensemble", "axes", "gt_axes", "channels",
)  # fmt: skip


@dataclass
class RestoreSummary:
    """What came of the images of a call.

    Attributes
    ----------
    restored, skipped : set of Path
        Raw images: restored by this call, and found restored already.
    failed : dict of Path to str
        Reason by raw image.
    scores : dict of str to dict
        As `rcan.scores.compare`, by name of the output; where a ground truth was given.
    """

    restored: set = field(default_factory=set)
    skipped: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)

    @property
    def num_images(self):
        """Images that the call has looked at."""
        return len(self.restored | self.skipped | self.failed.keys())

    def check(self):
        """Raise a ValueError if an image was not restored."""
        if self.failed:
            raise ValueError(f"{len(self.failed)} of {self.num_images} images were not restored, see above.")


def restore_folder(model_dir, input, output, **options):
    """Restore an image, or a folder of images, with a trained network, as `apply.py` does.

    A folder that was restored in part is completed.

    Parameters
    ----------
    model_dir : path
        Run folder of a training, or a ``.keras`` file.
    input, output : path
        Image, folder or pattern to restore; image or folder to write.
    **options
        The flags of `apply.py` without dashes, such as ``ensemble=8``; see `RestoreOptions`.

    Returns
    -------
    summary : RestoreSummary
        One image that cannot be restored does not stop the others of a folder.

    Raises
    ------
    ValueError, OSError
        If an option is wrong, the network cannot be loaded, or a file that this call has not made would be replaced.

    Examples
    --------
    >>> restore_folder("runs/sample", "raw", "restored", ensemble=8)  # doctest: +SKIP
    """
    values = {"model_dir": model_dir, "input": input, "output": output, **options}
    return restore_images(RestoreOptions.checked(values))


def restore_images(options):
    """Restore all that `RestoreOptions` name; returns a `RestoreSummary`."""
    jobs = find_jobs(options, may_be_empty=options.watch)
    work = FolderRestoration(options)
    if options.watch:
        restore_watched(work)
    else:
        work.restore(work.select(jobs))
    return work.summarise()


def restore_watched(work):
    """Restore what appears in the folder of a `FolderRestoration`, until interrupted."""
    with work.loaded_restorer([]) as restorer, work.summarised_when_interrupted():
        watch(work.options, lambda job: work.restore_new(job, restorer))


class FolderRestoration:
    """The images of one call, one after the other: `select` those that are not there yet, `restore`, `summarise`.

    A single image is treated as a folder of one, but has no manifest, and an error ends the call.
    """

    def __init__(self, options):
        if options.movie:
            check_movie_kind(options.movie)
        self.options = options
        self._is_folder = is_folder_of_images(options.input) and not options.series
        self._folder = options.output if self._is_folder else options.output.absolute().parent
        self._manifest = Manifest(self._folder) if self._is_folder else None
        self._score_table = ScoreTable(
            self._folder / "scores.csv", must_be_one=options.ground_truth is not None
        )
        self._settings = _deciding_settings(options) if self._is_folder else {}
        self._training_files = set()
        self._seen = set()  # raw images
        self.summary = RestoreSummary()

    # Before anything is computed

    def select(self, jobs):
        """Images to restore; refuses to replace what another job has made."""
        self._seen |= {job.raw for job in jobs}
        self._check_formats(jobs)
        if self.options.overwrite:
            return jobs
        todo, conflicts = [], []
        for job in jobs:
            statuses = {path: self._status(job, path) for path in job.outputs}
            conflicts += [
                (job, path) for path, status in statuses.items() if status in ("foreign", "other settings")
            ]
            if set(statuses.values()) == {"done"} and self._find_scores(job):
                self._skip(job)
            else:
                todo.append(job)
        if conflicts:
            raise FileExistsError(self._describe_conflicts(conflicts))
        return todo

    def _check_formats(self, jobs):
        for path in (job.output for job in jobs if not job.format.startswith("zarr")):
            if self.options.scheduler:
                raise UsageError(
                    f"{path}: --scheduler writes OME-Zarr, a TIFF file has one writer. Choose --format zarr (for "
                    "one image a name *.zarr with -o), or leave --scheduler out."
                )

    def _describe_conflicts(self, conflicts):
        job, path = conflicts[0]
        more = f" and {len(conflicts) - 1} more" * (len(conflicts) > 1)
        difference = self._manifest.difference(path, self._settings_of(job)) if self._manifest else ""
        reason = f", made with {difference}," if difference else ""
        return f"{path}{more}{reason} would be replaced: name another place with -o, or replace with --overwrite."

    def _status(self, job, path):
        if self._manifest:
            return self._manifest.status(job.raw, path, self._settings_of(job))
        return "foreign" if os.path.lexists(path) else "absent"

    def _find_scores(self, job):
        """Whether a restored image needs no scores, or has been scored against this ground truth."""
        if not job.gt:
            return True
        entry = self._manifest.entry(job.output)
        if entry.get("ground_truth") != _identify(job.gt):
            return False
        self.summary.scores[job.output.name] = entry["scores"]
        return True

    def _settings_of(self, job):
        """Settings of the call, and what else decides about the values of this image's outputs."""
        settings = {**self._settings, "format": job.format}
        if job.gt and (self.options.compare or self.options.rescale):
            settings["ground_truth"] = _identify(job.gt)
        return settings

    def _skip(self, job):
        """Count an image that is there; with --strict not one that is outside the trained range."""
        entry = self._manifest.entry(job.output) if self.options.strict else {}
        if entry.get("trained_range") == "outside":
            self._note_failure(
                job,
                FileExistsError(
                    f"{job.output} was restored without --strict, but is unlike the training data "
                    f"({'; '.join(entry['reasons'])}). Remove it, or leave --strict out."
                ),
            )
        else:
            self.summary.skipped.add(job.raw)

    # Restoring

    @contextmanager
    def loaded_restorer(self, jobs):
        """Load the network; refuse to replace its training data, and say what is not known of it."""
        with _open_restorer(self.options) as restorer:
            record = read_record(self.options.model_dir)
            self._training_files = record.real_paths()
            for job in jobs:
                self._check_training_files(job)
            if self.options.uncertainty:
                print(describe_uncertainty(self.options, record), flush=True)
            if not record.training_fingerprint:
                print(
                    f"{self.options.model_dir} does not tell what the network was trained on: whether images are like "
                    "that is unknown.",
                    flush=True,
                )
            yield restorer

    def _check_training_files(self, job):
        for path in job.outputs:
            if os.path.realpath(path) in self._training_files:
                raise ValueError(f"{path} is training data of this network: name another place with -o.")

    @contextmanager
    def summarised_when_interrupted(self):
        """Say after Ctrl-C what was done."""
        try:
            yield
        except KeyboardInterrupt:
            self.summarise()
            raise

    def restore(self, jobs):
        """Load the network and restore images, if there are any."""
        if jobs:
            with self.loaded_restorer(jobs) as restorer, self.summarised_when_interrupted():
                self._restore_all(jobs, restorer)

    def restore_new(self, job, restorer):
        """Restore an image that has appeared; the folder that is written to may be gone for a while."""
        try:
            self._restore_all([job], restorer)
        except ConnectionError:
            raise
        except OSError as failure:
            self._note_failure(job, failure)

    def _restore_all(self, jobs, restorer):
        """Restore images; one that fails does not stop the others."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(self._folder)
        for number, job in enumerate(jobs, 1):
            label = f"[{number}/{len(jobs)}] {job.raw.name}" if len(jobs) > 1 else job.raw.name
            try:
                self.summary.failed.pop(job.raw, None)
                self._restore_one(job, restorer, label)
            except (ConnectionError, UsageError):  # the cluster is gone, or a flag is wrong, for all
                raise
            except Exception as failure:
                if not self._is_folder:
                    raise
                self._note_failure(job, failure)

    def _restore_one(self, job, restorer, label):
        """Restore an image and draw its pictures, where that was not done before."""
        others = {path: other_writers(path.absolute()) for path in job.outputs}
        if not self.select([job]):  # after the look at other writers: one that ends in between is seen here
            return
        self._check_training_files(job)
        for path, partials in others.items():
            if partials:
                raise FileExistsError(
                    f"{path} is being written by another call ({partials[0].name}): wait for it, or remove that file "
                    "if nobody writes it any more."
                )
        on_complete = self._keep_in_manifest(job)
        is_restored = all(self._status(job, path) == "done" for path in job.images)
        if not self.options.overwrite and is_restored and self._find_scores(job):
            self._skip(job)
        else:
            self._restore_images(job, restorer, label, on_complete)
            self.summary.restored.add(job.raw)
        if job.pictures and job.raw not in self.summary.failed:
            draw_pictures(job, restorer.settings, label=label, on_complete=on_complete)

    def _keep_in_manifest(self, job):
        """What is called for each output of a job once it is complete, before it gets its name."""
        if not self._manifest:
            return None
        settings, signature = self._settings_of(job), file_signature(job.raw)
        return lambda path, present: self._manifest.append(job.raw, signature, path, present, settings)

    def _restore_images(self, job, restorer, label, on_complete):
        with restorer.open(job.raw, job.gt) as task:
            if task.verdict:
                self._tell_verdict(job, task.verdict)
            report = task.restore(
                job.output,
                spread_path=job.spread,
                file_format=job.format,
                label=label,
                on_complete=on_complete,
            )
        if report.seams is not None:
            tile = "x".join(map(str, report.tile_shape))
            print(
                f"{job.output.name}: tiles of {tile}, steps at their borders {report.seams:.2f} of those beside"
            )
        facts = {"seams": report.seams, "num_clipped": report.num_clipped}
        if report.verdict:
            facts |= {"trained_range": report.verdict.domain_status, "reasons": report.verdict.reasons}
        if report.scores:
            self.summary.scores[job.output.name] = report.scores
            facts |= {"scores": report.scores, "ground_truth": _identify(job.gt)}
        if self._manifest:
            self._manifest.extend(job.output, facts)
        self._score_table.replace(job.output.name, report.scores)

    def _tell_verdict(self, job, verdict):
        """Say whether the image is like the training data; with --strict refuse one that is not."""
        print(f"{job.raw.name}: {verdict}", flush=True)
        if self.options.strict and verdict.domain_status == "outside":
            raise ValueError(
                f"{job.raw} is unlike the training data, and --strict leaves it alone ({verdict}). Train on such "
                "images, or leave --strict out."
            )

    def _note_failure(self, job, failure):
        self.summary.failed[job.raw] = describe_failure(failure)
        print(f"error: {self.summary.failed[job.raw]}", file=sys.stderr, flush=True)

    def summarise(self):
        """Say what was done; returns a `RestoreSummary`."""
        summary = self.summary
        if summary.scores:
            print(f"\nAfter an affine match to the ground truth:\n{format_scores(summary.scores)}")
        skipped = summary.skipped - summary.restored
        before = f", {len(skipped)} of them before" * bool(skipped)
        num_done = len((summary.restored | skipped) - summary.failed.keys())
        num_images = len(self._seen | summary.failed.keys())
        print(f"{num_done} of {num_images} restored{before}: {self.options.output}", flush=True)
        for path, reason in summary.failed.items():
            print(f"not restored: {path.name}: {reason}", flush=True)
        return summary


@contextmanager
def _open_restorer(options):
    """Load the network here, or on the workers of a cluster; what computes is imported when it is needed."""
    if not options.scheduler:
        from rcan.restoration.setup import load_restorer

        yield load_restorer(options)
        return
    from rcan.restoration.dask_cluster import Cluster
    from rcan.restoration.dask_worker import work

    for_workers = options.model_copy(update={"model_dir": options.model_dir.absolute()})
    signature = tuple(file_signature(find_model(options.model_dir)))
    task = functools.partial(work, for_workers, signature)
    with Cluster(options.scheduler, task, on_cpu=options.devices == "cpu") as cluster:
        yield cluster.make_restorer()


def _identify(path):
    """Place and signature of a file, as JSON has them."""
    return [os.path.realpath(path), file_signature(path)]


def _deciding_settings(options):
    """All of a call that decides about the values of an output, for the manifest."""
    values = options.model_dump(mode="json", include={*_DECIDING})
    record = read_record(options.model_dir)
    values["p_min"], values["p_max"] = options.choose_percentiles(record)
    values["spread_factor"] = options.choose_spread_factor(record)
    return {
        "model": digest_model(options.model_dir),
        **{name: value for name, value in values.items() if value is not None and value is not False},
    }
