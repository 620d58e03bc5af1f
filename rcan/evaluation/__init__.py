"""How good a restoration is, and when to believe it.

What judges one image: `scores`, `references` (classical methods at their best), `resolution`, `quantification`.
What judges a network: `study` (on pairs of images: `subjects`, `evaluate`, `nulls`, `calibration`) and `limits` (on
specimens that are degraded step by step).
"""

from rcan.evaluation.quantification import local_error, quantify
from rcan.evaluation.references import best_references
from rcan.evaluation.resolution import (
    decorrelation_resolution,
    fourier_resolution,
    single_image_resolution,
)
from rcan.evaluation.scores import (
    bootstrap_blocks,
    bootstrap_interval,
    score_blocks,
    score_image,
    score_pair,
)

__all__ = [
    "best_references",
    "bootstrap_blocks",
    "bootstrap_interval",
    "decorrelation_resolution",
    "fourier_resolution",
    "local_error",
    "quantify",
    "score_blocks",
    "score_image",
    "score_pair",
    "single_image_resolution",
]
