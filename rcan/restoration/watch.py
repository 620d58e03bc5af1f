"""Watching a folder beside the microscope: each image is restored once it is completely written."""

import sys
import time
from contextlib import suppress

from rcan.atomic_io import file_signature
from rcan.failures import describe_failure
from rcan.restoration.jobs import find_jobs

__all__ = ["watch"]

_LOOK_INTERVAL = 1  # seconds


def watch(options):
    """Yield a job for each image that is in the folder or appears, until interrupted.

    An image counts as completely written when it has not changed for `options.settle` seconds; one that changes later
    comes again.
    """
    print(f"Watching {options.input}, Ctrl-C ends.", flush=True)
    unchanged_since, done, last_problem = {}, {}, None
    while True:
        try:
            jobs, problem = find_jobs(options), None
        except (OSError, ValueError) as failure:  # of the folder: it may be gone for a while
            jobs, problem = [], describe_failure(failure)
        if problem and problem != last_problem:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        last_problem = problem
        for job in jobs:
            with suppress(FileNotFoundError):  # gone again
                signature = file_signature(job.raw.path)
                before, start = unchanged_since.get(job, (None, 0))
                if signature != before:
                    start = time.monotonic()
                    unchanged_since[job] = signature, start
                is_settled = time.monotonic() - start >= options.settle
                if is_settled and done.get(job) != signature:
                    yield job
                    done[job] = signature
        time.sleep(_LOOK_INTERVAL)
