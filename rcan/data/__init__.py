"""Pairs of volumes to batches of patches.

A patch is a pure function of `(seed, index)`: which volume, where in it, and how it is turned and
flipped. Batches are therefore the same however many threads make them, and a run that is continued goes
on with the very same patches.

Patches without enough signal teach little and are not drawn, by the rule of the published program: a
voxel of the normalised ground truth is signal above `intensity_threshold`, and a patch needs at least
the share `area_ratio_threshold` of such voxels. Instead of drawing until one fits, the share is known
beforehand for every position, from sums over sliding windows; one bit a position is kept.

Nothing here grows with the number or the size of the volumes: patches are read from the files, and what has
been measured of a volume (its intensity range, the positions with enough signal) lies on disk in a
`MeasurementCache`, for this run and the next ones.

Only this room and `training` import TensorFlow.
"""
