"""Where in a frame patches have enough signal."""

import math

import numpy as np

from rcan.regions import region_at

_MOST_VOXELS = 2**23  # of a plane of ground truth that are counted at a time
_MOST_BITS = 2**27  # of the planes that a patch is thick, that are held: 16 MB


class ForegroundIndex:
    """Positions of patches in a frame with enough signal, one bit each, see `PatchSampler`.

    `count` is their number, `largest_share` the largest share of signal voxels of any position.
    """

    def __init__(self, pair, number, patch_shape, intensity_threshold, area_ratio_threshold, cache):
        sizes = pair.raw.shape[:-1]
        self._grid = tuple(size - patch + 1 for size, patch in zip(sizes, patch_shape, strict=True))
        self._cache, self._key = cache, None
        self.count, self.largest_share = math.prod(self._grid), 1.0
        if intensity_threshold <= 0 or area_ratio_threshold <= 0:
            return
        self._key = cache.key(
            [pair.raw.volume, pair.gt.volume],
            gt_range=pair.gt.ranges.tolist(),
            frame=number,
            patch_shape=list(patch_shape),
            thresholds=[intensity_threshold, area_ratio_threshold],
        )
        known = cache.get(self._key, ["count", "largest_share"])
        if not (known and cache.has_arrays(self._key, ("bits", "ends"))):
            known = self._measure(pair, number, patch_shape, intensity_threshold, area_ratio_threshold)
            cache.put(self._key, known)
        self.count, self.largest_share = known["count"], known["largest_share"]

    def _measure(self, pair, number, patch_shape, intensity_threshold, area_ratio_threshold):
        """Keep the bits of every row along X, and how many are set up to its end."""
        window = tuple(size * factor for size, factor in zip(patch_shape, pair.upscaling, strict=True))
        num_values = math.prod(window) * pair.gt.shape[-1]
        *rows, width = self._grid
        rows = (1, *rows)[-2:]  # (Z, Y)
        counts, largest = np.zeros(rows, np.int64), 0
        with self._cache.new_array(self._key, "bits", (*rows, -(-width // 8)), np.uint8) as bits:
            for z, y, sums in _signal_sums(pair, number, window, intensity_threshold):
                enough = sums / num_values >= area_ratio_threshold
                largest = max(largest, int(sums.max()))
                bits[z, y] = np.packbits(enough, axis=-1)
                counts[z, y] = np.count_nonzero(enough, axis=-1)
        with self._cache.new_array(self._key, "ends", (counts.size,), np.int64) as ends:
            ends[:] = np.cumsum(counts)
        pair.gt.volume.close()  # frees what was decoded
        return {"count": int(counts.sum()), "largest_share": largest / num_values}

    def locate(self, rank):
        """Corner of the position of this rank among those with enough signal, in raw voxels."""
        if self._key is None:
            return tuple(int(start) for start in np.unravel_index(rank, self._grid))
        ends = self._cache.array(self._key, "ends")
        row = int(np.searchsorted(ends, rank, side="right"))
        before = ends[row - 1] if row else 0
        bits = self._cache.array(self._key, "bits")
        z, y = np.unravel_index(row, bits.shape[:2])
        x = np.flatnonzero(np.unpackbits(bits[z, y], count=self._grid[-1]))[rank - before]
        return tuple(int(start) for start in (z, y, x)[-len(self._grid) :])


def _signal_sums(pair, number, window, threshold):
    """Yield z, a band of y, and how many voxels are signal in the windows that start there, (y, x); in voxels of raw.

    A plane is read once, unless it has more voxels than a band may have. As many planes as the window is thick are
    held, one bit for each value.
    """
    depth, height, width = (1, *window)[-3:]
    step_z, step_y, step_x = (1, *pair.upscaling)[-3:]
    num_planes, num_rows, num_columns = (1, *pair.gt.shape[:-1])[-3:]
    num_starts = (num_rows - height) // step_y + 1
    most_rows = min(_MOST_VOXELS, _MOST_BITS // (depth * pair.gt.shape[-1])) // num_columns
    band = max(1, (most_rows - height) // step_y + 1)
    for first in range(0, num_starts, band):
        last = min(first + band, num_starts)
        size = (last - first - 1) * step_y + height, num_columns
        held = []  # planes that a window covers
        counts = np.zeros(size, np.int32)  # signal values of each place in them
        for z in range(num_planes):
            region = region_at((z, first * step_y, 0), (1, *size))[-len(window) :]
            signal = (pair.gt.read(number, region) > threshold).reshape(*size, -1)
            counts += np.count_nonzero(signal, axis=-1)
            held.append(np.packbits(signal, axis=None))
            start = z + 1 - depth
            if start >= 0:
                if start % step_z == 0:
                    sums = _window_sums(counts, height, width)[::step_y, ::step_x]
                    yield start // step_z, slice(first, last), sums
                oldest = np.unpackbits(held.pop(0), count=signal.size).reshape(signal.shape)
                counts -= np.count_nonzero(oldest, axis=-1)


def _window_sums(plane, height, width):
    """Sums over every window of a plane, from its summed-area table."""
    table = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.int32)
    np.cumsum(plane, axis=0, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table, axis=1, dtype=np.int32, out=table)
    rows = table[height:] - table[:-height]
    return rows[:, width:] - rows[:, :-width]
