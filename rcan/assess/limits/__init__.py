"""How far down and up a network can be trusted: known specimens, degraded step by step along ladders.

`specimens` are what is exposed, `exposures` what is measured at a step, `ends` where a network stops helping.
"""
