"""How good a restoration is, and when to believe it.

What judges one image: `scores`, `references` (classical methods at their best), `resolution`, `quantification`.
What judges a network: `study` (on pairs of images: `subjects`, `evaluate`, `nulls`, `calibration`) and `limits` (on
specimens that are degraded step by step).
"""
