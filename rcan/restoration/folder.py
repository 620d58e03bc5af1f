"""Restoring all images of a call, one after the other."""

import functools
import os
import sys
from contextlib import contextmanager
from dataclasses import replace

from rcan.atomic_io import file_signature, other_writers, remove_stale_partials
from rcan.failures import UsageError, describe_failure
from rcan.figures.movie import check_movie_kind
from rcan.io.cache import limit_cache
from rcan.restoration.jobs import find_jobs
from rcan.restoration.options import RestoreOptions, describe_uncertainty
from rcan.restoration.output_folder import OutputFolder
from rcan.restoration.pictures import draw_pictures
from rcan.restoration.settings import CACHE_BYTES
from rcan.restoration.summary import RestoreSummary
from rcan.restoration.watch import watch
from rcan.run_folder.models import find_model, read_record

__all__ = ["FolderRestoration", "restore_folder", "restore_images", "restore_watched"]


def restore_folder(model_dir, input, output, **options):
    """Restore an image, or a folder of images, with a trained network, as `rcan apply` does.

    A folder that was restored in part is completed.

    Parameters
    ----------
    model_dir : path or list of paths
        Run folder of a training, or a ``.keras`` file; several networks restore one after the other.
    input, output : path
        Image, folder or pattern to restore; image or folder to write.
    **options
        The flags of `rcan apply` without dashes, such as ``ensemble=8``; see `RestoreOptions`.

    Returns
    -------
    summary : RestoreSummary
        One image that cannot be restored does not stop the others of a folder: ``summary.failed`` has the reasons, and
        ``summary.check()`` raises an exception if there is one.

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
    jobs = find_jobs(options)
    work = FolderRestoration(options)
    if options.watch:
        restore_watched(work)
    else:
        work.restore(work.select(jobs))
    return work.summarise()


def restore_watched(work):
    """Restore what appears in the folder of a `FolderRestoration`, until interrupted."""
    with work.loaded_restorer([]) as restorer, work.summarised_when_interrupted():
        for job in watch(work.options):
            work.restore_new(job, restorer)


class FolderRestoration:
    """The images of one call, one after the other: `select` those that are not there yet, `restore`, `summarise`.

    A single image is treated as a folder of one, but an error ends the call.
    """

    def __init__(self, options):
        if options.movie:
            check_movie_kind(options.movie)
        self.options = options
        self._folder = OutputFolder(options)
        self._training_files = set()
        self._summary = RestoreSummary()

    def select(self, jobs):
        """Images to restore; refuses to replace what another call has made."""
        self._summary.found |= {job.raw.key for job in jobs}
        for path in (job.output for job in jobs if not job.format.startswith("zarr")):
            if self.options.scheduler:
                raise UsageError(
                    f"{path}: --scheduler writes OME-Zarr, a TIFF file has one writer. Choose --format zarr (for "
                    "one image a name *.zarr with -o), or leave --scheduler out."
                )
        if self.options.overwrite:
            return jobs
        todo, done = self._folder.sort(jobs)
        for job in done:
            self._skip(job)
        return todo

    def _skip(self, job):
        """Count an image that is there; with --strict not one that is outside the trained range."""
        entry = self._folder.entry(job)
        if job.gt:
            self._summary.scores[job.output.name] = entry["scores"]
        if self.options.strict and entry.get("trained_range") == "outside":
            failure = FileExistsError(
                f"{job.output} was restored without --strict, but is unlike the training data "
                f"({'; '.join(entry['reasons'])}). Remove it, or leave --strict out."
            )
            self._note_failure(job, failure)
        else:
            self._summary.skipped.add(job.raw.key)

    @contextmanager
    def loaded_restorer(self, jobs):
        """Load the network; refuse to replace its training data, and say what is not known of it."""
        options = self.options
        goes_on = options.precision == "auto" and not options.overwrite and self._folder.is_in_float32()
        if goes_on:
            options = options.model_copy(update={"precision": "float32"})
        with _open_restorer(options) as restorer:
            records = {model_dir: read_record(model_dir) for model_dir in self.options.model_dir}
            self._training_files = set().union(*(record.real_paths() for record in records.values()))
            for job in jobs:
                self._check_training_files(job)
            precision = restorer.settings.precision
            print(precision._replace(reason="as the images that are there") if goes_on else precision, flush=True)
            if self.options.uncertainty:
                print(describe_uncertainty(self.options, records[self.options.model_dir[-1]]), flush=True)
            for model_dir in [name for name, record in records.items() if not record.training_fingerprint]:
                print(
                    f"{model_dir} does not tell what the network was trained on: whether images are like that is "
                    "unknown.",
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
        self._folder.path.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(self._folder.path)
        for number, job in enumerate(jobs, 1):
            label = f"[{number}/{len(jobs)}] {job.raw.name}" if len(jobs) > 1 else job.raw.name
            try:
                self._summary.failed.pop(job.raw.key, None)
                self._restore_one(job, restorer, label)
            except (ConnectionError, UsageError):  # the cluster is gone, or a flag is wrong, for all
                raise
            except Exception as failure:
                if not self._folder.is_of_folder:
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
        origin = self._folder.describe_origin(job, restorer.settings.precision.name)
        if not self.options.overwrite and self._folder.has_images(job):
            self._skip(job)
        else:
            self._restore_images(job, restorer, label, origin)
            self._summary.restore(job.raw)
        if job.pictures and job.raw.key not in self._summary.failed:
            for path, present_path in draw_pictures(job, restorer.chain[0].settings, label=label):
                self._folder.add(origin, path, present_path)

    def _restore_images(self, job, restorer, label, origin):
        with restorer.open(job.raw, job.gt) as task:
            if task.verdict:
                self._check_verdict(job, task.verdict)
            options = {"spread_path": job.spread, "file_format": job.format, "label": label}
            with task.restore(job.output, **options) as report:
                self._folder.add_images(job, origin, report)
        if report.seams is not None:
            tile = "x".join(map(str, report.tile_shape))
            print(f"{job.output.name}: tiles of {tile}, steps at their borders {report.seams:.2f} of those beside")
        if report.num_spikes is not None:
            print(f"{job.raw.name}: spikes replaced by the voxels around them: {report.num_spikes}")
        if report.scores:
            self._summary.scores[job.output.name] = report.scores
        self._folder.write_scores(job, report.scores)

    def _check_verdict(self, job, verdict):
        """Say whether the image is like the training data; with --strict refuse one that is not."""
        print(f"{job.raw.name}: {verdict}", flush=True)
        if self.options.strict and verdict.domain_status == "outside":
            raise ValueError(
                f"{job.raw} is unlike the training data, and --strict leaves it alone ({verdict}). Train on such "
                "images, or leave --strict out."
            )

    def _note_failure(self, job, failure):
        reason, name = describe_failure(failure), str(job.raw)
        if name not in reason:
            reason = reason.replace(str(job.raw.path), name, 1)
        self._summary.failed[job.raw.key] = reason
        print(f"error: {reason}", file=sys.stderr, flush=True)

    def summarise(self):
        """Print what was done; returns the `RestoreSummary`."""
        self._summary.print(self.options.output)
        return self._summary


@contextmanager
def _open_restorer(options):
    """Load the network here, or on the workers of a cluster; what computes is imported when it is needed."""
    limit_cache(CACHE_BYTES)
    if not options.scheduler:
        from rcan.restoration.setup import load_restorer

        yield load_restorer(options)
        return
    from rcan.restoration.dask_cluster import Cluster
    from rcan.restoration.dask_worker import choose_precision, work

    (model_dir,) = options.model_dir
    for_workers = options.model_copy(update={"model_dir": (find_model(model_dir).absolute(),)})
    signature = tuple(file_signature(find_model(model_dir)))
    with Cluster(options.scheduler, on_cpu=options.devices == "cpu") as cluster:
        choices = cluster.ask_all(functools.partial(choose_precision, for_workers))
        chosen = min(choices, key=lambda choice: choice.name != "float32")  # what all machines compute fast
        for_workers = for_workers.model_copy(update={"precision": chosen.name})
        restorer = cluster.make_restorer(functools.partial(work, for_workers, signature))
        yield replace(restorer, settings=replace(restorer.settings, precision=chosen))
