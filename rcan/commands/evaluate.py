"""`rcan evaluate`: how good a network is on images whose ground truth is known."""

import functools

from rcan.assess.options import EvaluateOptions
from rcan.cli import run_command

__all__ = ["main"]


def evaluate(options: EvaluateOptions):
    """Judge a trained network on raw images and their ground truth, and write a report.

    Raw and restored images and the best classical filters are scored against the ground truth; resolution, linearity,
    what the network makes of images without structure, and the spread of its ensemble are measured besides.
    """
    from rcan.studies.evaluation import run_evaluation

    run_evaluation(options)


main = functools.partial(run_command, evaluate, prog="rcan evaluate")
