"""How good a restoration is, and when to believe it.

Of one image: `references` (classical methods at their best), `resolution`, `quantification` (are intensities right?),
`intervals` (how sure scores are). Of a network: `subjects` are the pairs of images it is judged on, `volumes` judges
one pair, `nulls` what it makes of images without structure, `uncertainty` and `calibration` the spread of its ensemble.
`network` judges by all of these, `records` are its results, and `options` what a user can choose. `limits` degrades
specimens step by step until the network fails.
"""
