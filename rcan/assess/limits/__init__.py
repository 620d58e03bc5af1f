"""How far down and up a network can be trusted: known specimens, degraded step by step along ladders.

`specimens` are the ground truth, `exposures` degrade and restore them and measure the result, `steps` does so along the
ladders and keeps what is finished, `networks` trains one for each step, and `ends` finds where a network stops helping.
`tables` lists all results, and `records` are their types.
"""
