"""Where in a frame patches have enough signal."""

import math

import numpy as np

from rcan.intensity import normalise

_MOST_SUMS = 2**22  # of a band of rows that are held at a time, 16 MB


class Positions:
    """The patch positions of one frame that have enough signal, one bit each.

    Parameters
    ----------
    pair : Pair
    frame : int
    patch_shape : tuple of int
        In voxels of raw.
    intensity_threshold, area_ratio_threshold : float
        As in `PatchSampler`.
    records : Records
        Keeps the bits.

    Attributes
    ----------
    count : int
        Positions with enough signal.
    largest_share : float
        Largest share of signal voxels of any position.
    """

    def __init__(self, pair, frame, patch_shape, intensity_threshold, area_ratio_threshold, records):
        sizes = pair.raw.shape[:-1]
        self._grid = tuple(size - patch + 1 for size, patch in zip(sizes, patch_shape, strict=True))
        self._records, self._key = records, None
        self.count, self.largest_share = math.prod(self._grid), 1.0
        if intensity_threshold <= 0 or area_ratio_threshold <= 0:
            return
        self._key = records.key(
            [pair.raw, pair.gt],
            gt_range=pair.gt_range.tolist(),
            frame=frame,
            patch_shape=list(patch_shape),
            thresholds=[intensity_threshold, area_ratio_threshold],
        )
        known = records.get(self._key, ["count", "largest_share"])
        if not (known and records.has_arrays(self._key, ("bits", "ends"))):
            known = self._measure(pair, frame, patch_shape, intensity_threshold, area_ratio_threshold)
            records.put(self._key, known)
        self.count, self.largest_share = known["count"], known["largest_share"]

    def _measure(self, pair, frame, patch_shape, intensity_threshold, area_ratio_threshold):
        """Keep the bits of every row along X, and how many are set up to its end."""
        window = tuple(size * factor for size, factor in zip(patch_shape, pair.upscaling, strict=True))
        num_values = math.prod(window) * pair.gt.shape[-1]
        *rows, width = self._grid
        rows = (1, *rows)[-2:]  # (Z, Y)
        counts, largest = np.zeros(rows, np.int64), 0
        with self._records.new_array(self._key, "bits", (*rows, -(-width // 8)), np.uint8) as bits:
            for z, y, sums in _signal_sums(pair, frame, window, intensity_threshold):
                enough = sums / num_values >= area_ratio_threshold
                largest = max(largest, int(sums.max()))
                bits[z, y] = np.packbits(enough, axis=-1)
                counts[z, y] = np.count_nonzero(enough, axis=-1)
        with self._records.new_array(self._key, "ends", (counts.size,), np.int64) as ends:
            ends[:] = np.cumsum(counts)
        pair.gt.close()  # frees what was decoded
        return {"count": int(counts.sum()), "largest_share": largest / num_values}

    def locate(self, rank):
        """Corner of the valid position of this rank, in raw voxels."""
        if self._key is None:
            return tuple(int(start) for start in np.unravel_index(rank, self._grid))
        ends = self._records.array(self._key, "ends")
        row = int(np.searchsorted(ends, rank, side="right"))
        before = ends[row - 1] if row else 0
        bits = self._records.array(self._key, "bits")
        z, y = np.unravel_index(row, bits.shape[:2])
        x = np.flatnonzero(np.unpackbits(bits[z, y], count=self._grid[-1]))[rank - before]
        return tuple(int(start) for start in (z, y, x)[-len(self._grid) :])


def _signal_sums(pair, frame, window, threshold):
    """Signal voxels in the windows at a start along Z, a band of starts along Y, and all starts along X.

    Only as many planes of a band are held as the window is thick.

    Yields
    ------
    z : int
    y : slice
        In voxels of raw.
    sums : ndarray of shape (y, x), int32
    """
    volume = pair.gt
    depth, height, width = (1, *window)[-3:]
    step_z, step_y, step_x = (1, *pair.upscaling)[-3:]
    num_planes, num_rows, num_columns = (1, *volume.shape[:-1])[-3:]
    num_starts = (num_rows - height) // step_y + 1
    band = max(1, _MOST_SUMS // (depth * num_columns))
    for first in range(0, num_starts, band):
        last = min(first + band, num_starts)
        rows = slice(first * step_y, (last - 1) * step_y + height)

        def plane_sums(z, rows=rows):
            region = (slice(z, z + 1), rows, slice(0, num_columns))
            block = volume.read(volume.frames[frame], region[-len(window) :], dtype=None)
            signal = np.count_nonzero(normalise(block, pair.gt_range) > threshold, axis=-1)
            return _window_sums(signal.reshape(-1, num_columns), height, width)[::step_y, ::step_x]

        planes, total = [], 0
        for z in range(num_planes):
            planes.append(plane_sums(z))
            total = total + planes[-1]
            start = z + 1 - depth
            if start >= 0:
                if start % step_z == 0:
                    yield start // step_z, slice(first, last), total
                total = total - planes.pop(0)


def _window_sums(plane, height, width):
    """Sums over every window of a plane, from its summed-area table."""
    table = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.int32)
    table[1:, 1:] = plane.cumsum(axis=0).cumsum(axis=1)
    rows = table[height:] - table[:-height]
    return rows[:, width:] - rows[:, :-width]
