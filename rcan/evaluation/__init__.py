"""How good a restoration is, and when to believe it."""

from rcan.evaluation.scores import format_scores, score_pair

__all__ = ["format_scores", "score_pair"]
