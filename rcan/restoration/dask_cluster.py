"""Restoring one file with all machines of a Dask cluster.

The main process opens the file, finds its intensity ranges, settles its tiles and makes the output. What it hands
out are *parts*: a box of the output whose sides are borders of chunks, and the frames that share these chunks, so
that no chunk is written by two. The worker that gets a part reads, restores and writes it, and returns counts.
Tiles that reach into two boxes are computed for both, always as tiles of the whole volume: the result is that of
one machine. Dask gives the part of a worker that dies to another, which writes the same chunks again.

A scheduler imports what its tasks name. Tasks therefore name `rcan.restoration.dask_worker.work`, whose module loads
no Keras, and hold nothing but plain values, arrays and writers.
"""

import dataclasses
import itertools
import logging
import math
import os
import queue
import signal
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from rcan.atomic_io import partial_path
from rcan.failures import describe_failure, install_command
from rcan.io.images import ImageFile
from rcan.regions import count_voxels
from rcan.restoration.dask_parts import group_frames, split_volume
from rcan.restoration.tiled import TileTooLarge
from rcan.restoration.tiles import cut_volume

__all__ = ["Cluster"]

PATIENCE = 600  # seconds without any worker until the job is given up
_LOOK_INTERVAL = 2  # seconds
_GONE = "{}: the Dask scheduler is gone, or has dropped this work. Start it again, with workers, and repeat this."
_GRACE = 2  # seconds for a block that is being written when a job ends early
_CORES_PER_PROCESS = 4  # one network uses that many well
_SIGN = ".in-work"  # in the folder of an output that is being written; without it nobody writes there


class Cluster:
    """Workers that restore parts of files; a context manager.

    `address` is that of a scheduler, or ``"local"`` for processes of this machine, which end with the `with` block
    and leave GPUs alone if `on_cpu`. What they call must be importable by name without Keras. An ImportError says that
    Dask is not installed, a ConnectionError that no scheduler answers.
    """

    def __init__(self, address, *, on_cpu=False):
        self._distributed = _import_distributed()
        self._address, self._on_cpu = address, on_cpu
        self._num_processes = 1  # processes that share the memory of a machine

    def __enter__(self):
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what users need to know is said here
        with ExitStack() as stack:
            address = self._address
            if address == "local":
                with _without_interrupts():
                    address = stack.enter_context(self._start_here()).scheduler_address
            try:
                client = self._distributed.Client(address, set_as_default=False)
            except (OSError, ValueError, self._distributed.TimeoutError) as failure:
                raise ConnectionError(
                    f"{self._address}: no Dask scheduler answers there ({failure}). Name the address that the "
                    "scheduler has printed with --scheduler, or `local`."
                ) from failure
            self._client = stack.enter_context(client)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def _start_here(self):
        """Processes of this machine: one for some cores each, or one for all GPUs, which it uses at once."""
        from dask.system import CPU_COUNT

        has_gpus = not self._on_cpu and _has_gpus()
        number = 1 if has_gpus else max(2, CPU_COUNT // _CORES_PER_PROCESS)
        return self._distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            host="127.0.0.1",
            memory_limit=None,  # a tile is chosen to fit; Dask would end the process instead
            dashboard_address=None,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs="CRITICAL",
            env={
                "TF_NUM_INTRAOP_THREADS": str(max(1, CPU_COUNT // number)),
                "PYTHONWARNINGS": "ignore",  # the main process has said it
            },
        )

    def _start_workers(self):
        """Wait for a worker; an adaptive cluster starts them once there is work."""
        self._wait_for(self._submit(os.getpid))

    def ask_all(self, question):
        """Call a function of no arguments on each worker there is: a list of what ``("done", answer)`` has given."""
        self._start_workers()
        try:
            answers = self._client.run(question)
        except Exception as failure:
            raise self._cannot_begin(self._address, failure) from failure
        return [self._unpack(answer, self._address) for answer in answers.values()]

    def make_restorer(self, work):
        """Let a worker load the network: a `FileRestorer` without an engine, whose parts this cluster restores.

        The workers run ``work(num_processes, request)``, which returns what `rcan.restoration.dask_worker.perform`
        does.
        """
        self._work = work
        self._start_workers()
        hosts = Counter(address.rpartition(":")[0] for address in self._workers())
        self._num_processes = max(hosts.values(), default=1)
        restorer = self._value_of(self._wait_for(self._submit(self._work, self._num_processes)))
        return dataclasses.replace(restorer, cluster=self)

    def restore(self, restorer, raw, files, report, progress, seams, *, noise_of_spikes=None):
        """Restore a file that is open into outputs that are; returns when all parts are written.

        `report` tells how tiles are cut and counts the values of all parts, `seams` adds up what all parts have
        measured, `progress` is of all raw voxels; `noise_of_spikes` as in `FileRestorer.restore_part`. A ValueError
        says that a part cannot be restored, a MemoryError that a worker has too little memory for a tile, a
        ConnectionError that the scheduler is gone, or all workers are for `PATIENCE` seconds.
        """
        shape, engine = raw.volume.shape[:-1], restorer.tiled.engine
        factors = engine.factors
        chunk_shape = files[0].chunk_shape
        cuts = cut_volume(shape, report.tile_shape, report.overlap, engine)
        groups = group_frames(raw.frames, chunk_shape[0])
        parts = split_volume(
            cuts,
            steps=list(map(math.lcm, chunk_shape[-len(shape) :], factors)),
            num_repeats=len(groups),
            num_workers=max(1, len(self._workers())),
        )
        fixed = {
            "raw_file": ImageFile(raw.volume.path.absolute(), raw.volume.image),
            "writers": [file.writer for file in files],
            "signs": [str(partial_path(file.path.absolute()) / _SIGN) for file in files],
            "tile_shape": report.tile_shape,
            "overlap": report.overlap,
            "noise": raw.noise if raw.is_stabilised else None,
            "noise_of_spikes": noise_of_spikes,
        }
        requests = (
            {**fixed, "ranges": {number: raw.measured_range(number) for number in numbers}, "part": part}
            for numbers in groups
            for part in parts
        )
        with closing(self._perform_all(requests, fixed["signs"])) as results:
            for request, (num_clipped, num_values, num_missing, steps) in results:
                report.num_clipped += num_clipped
                report.num_values += num_values
                report.num_missing += num_missing
                seams.steps += steps
                num_written = count_voxels(request["part"])
                progress.advance(len(request["ranges"]) * num_written // math.prod(factors))

    def _perform_all(self, requests, signs):
        """Requests and their results as they come."""
        finished, underway = queue.SimpleQueue(), {}
        for sign in signs:
            Path(sign).touch()
        try:
            while True:
                most = 2 * max(1, len(self._workers()))  # one in work and one waiting, each
                for request in itertools.islice(requests, max(0, most - len(underway))):
                    underway[self._submit(self._work, self._num_processes, request, finished=finished)] = request
                if not underway:
                    return
                future = self._next(finished)
                request = underway.pop(future)
                yield request, self._value_of(future, str(request["raw_file"].path))
        finally:
            for sign in signs:
                Path(sign).unlink(missing_ok=True)
            if underway:
                self._let_go(underway, finished)

    def _let_go(self, underway, finished):
        """Give blocks that are being written a moment, and forget the rest: a tile in work cannot be stopped."""
        end = time.monotonic() + _GRACE
        with suppress(queue.Empty):
            while underway:
                underway.pop(finished.get(timeout=max(0, end - time.monotonic())))
        with suppress(OSError, RuntimeError, self._distributed.TimeoutError):  # whoever is gone has let go
            self._client.cancel([*underway], force=True)

    def _submit(self, *task, finished=None):
        future = self._client.submit(*task, pure=False)
        if finished:
            future.add_done_callback(finished.put)
        return future

    def _wait_for(self, future):
        finished = queue.SimpleQueue()
        future.add_done_callback(finished.put)
        return self._next(finished)

    def _next(self, finished):
        """The next task that has ended; without workers only for a while."""
        alone_since = time.monotonic()
        while True:
            with suppress(queue.Empty):
                return finished.get(timeout=_LOOK_INTERVAL)
            if self._workers():
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > PATIENCE:
                raise ConnectionError(
                    f"{self._address}: there has been no worker for {PATIENCE} s. Start workers, or leave --scheduler "
                    "out to restore on this machine."
                )

    def _workers(self):
        """Addresses of the workers there are."""
        try:
            return [*self._client.nthreads()]
        except Exception as failure:
            raise ConnectionError(_GONE.format(self._address)) from failure

    def _value_of(self, future, path=None):
        """What a task that has ended returned, or why there is nothing."""
        name = path or self._address
        try:
            kind, value = future.result(timeout=PATIENCE)
        except self._distributed.KilledWorker as failure:
            raise ValueError(
                f"{name}: {failure.allowed_failures + 1} workers have died one after the other at the same part. They "
                "may have too little memory: smaller tiles (--block_shape) need less, and their logs tell more."
            ) from failure
        except (OSError, CancelledError, self._distributed.TimeoutError) as failure:
            raise ConnectionError(_GONE.format(self._address)) from failure
        except Exception as failure:
            raise self._cannot_begin(name, failure) from failure
        return self._unpack((kind, value), name)

    @staticmethod
    def _cannot_begin(name, failure):
        return ValueError(
            f"{name}: a worker cannot begin ({describe_failure(failure)}). Scheduler and workers need the same Python "
            "packages as this process."
        )

    @staticmethod
    def _unpack(answer, name):
        """What a worker has answered, or the exception that it tells of."""
        kind, value = answer
        if kind == "done":
            return value
        raise (TileTooLarge if kind == "memory" else ValueError)(value if name in value else f"{name}: {value}")


def _import_distributed():
    try:
        import distributed
    except ImportError as failure:
        raise ImportError(f"--scheduler needs Dask: {install_command('dask')}") from failure
    return distributed


@contextmanager
def _without_interrupts():
    """Let processes that start here ignore Ctrl-C, which reaches them as well: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():  # where Python changes no handlers
        yield
        return
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _has_gpus():
    try:
        return "GPU" in subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        return False
