"""Whether the tiles of a restored volume can be seen."""

import math

import numpy as np

__all__ = ["SeamMeter"]

_EVERY = 2  # voxels of a face that are looked at, along each axis


class SeamMeter:
    """Compares intensity steps across the borders of tiles with the steps right beside them.

    `steps` has sum and number of the absolute steps across borders, and beside them, (2, 2).
    """

    def __init__(self):
        self._faces = {}  # the last two planes of a block along an axis, until its neighbour comes
        self.steps = np.zeros((2, 2))

    def add(self, index, block, ramps):
        """Measure one finished block `(z, y, x, C)`, as a `Blender` hands it out.

        `index` is that of the tile, `ramps` the voxels over which one tile fades into the next, along each axis.
        """
        for axis, ramp in enumerate(ramps):
            every = [slice(None, None, _EVERY)] * (block.ndim - 1)
            every[axis] = slice(None)
            planes = np.moveaxis(block[tuple(every)], axis, 0)
            before = self._faces.pop((axis, *index), None)
            if before is not None and len(planes) > ramp + 2:
                steps = np.abs(np.diff(np.concatenate([before, planes[: ramp + 3]]), axis=0))
                across = slice(1, ramp + 2)  # from the last voxel of one tile alone to the first of the other
                self.steps[0] += steps[across].sum(dtype=np.float64), steps[across].size
                for beside in (steps[0], steps[ramp + 2 :]):
                    self.steps[1] += beside.sum(dtype=np.float64), beside.size
            if len(planes) > 1:
                following = (axis, *index[:axis], index[axis] + 1, *index[axis + 1 :])
                self._faces[following] = planes[-2:].copy()

    @property
    def score(self):
        """Mean step across borders over the mean step beside them; None where there is no border."""
        if not self.steps[0, 1]:
            return None
        across, beside = (total / count for total, count in self.steps)
        if beside == 0:
            return 1.0 if across == 0 else math.inf
        return float(across / beside)
