"""Pairs of volumes to batches of patches.

A patch is a pure function of `(seed, index)`: which volume, where in it, and how it is turned and
flipped. Batches are therefore the same however many threads make them, and a run that is continued goes
on with the very same patches.

Patches without enough signal teach little and are not drawn, by the rule of the published program: a
voxel of the normalised ground truth is signal above `intensity_threshold`, and a patch needs at least
the share `area_ratio_threshold` of such voxels. Instead of drawing until one fits, the share is known
beforehand for every position, from sums over sliding windows; one bit a position is kept.

Only this module and `training` import TensorFlow.
"""

import math
from dataclasses import dataclass

import numpy as np

from rcan.intensity import normalise, percentile_range
from rcan.progress import Progress
from rcan.volume import Volume, check_pair, enlarge_region, open_volume, pair_paths

__all__ = ["Pair", "PatchSampler", "augment", "hold_out", "make_dataset", "open_pairs"]


@dataclass(frozen=True)
class Pair:
    """A raw volume, its ground truth, and the grey values that become 0 and 1 in each.

    Attributes
    ----------
    raw, gt : Volume
    raw_range, gt_range : ndarray of shape (C, 2)
    """

    raw: Volume
    gt: Volume
    raw_range: np.ndarray
    gt_range: np.ndarray

    def read(self, frame, region):
        """Read matching normalised blocks of one frame.

        Parameters
        ----------
        frame : int
            Index into ``raw.frames`` and ``gt.frames``.
        region : tuple of slice
            In voxels of raw; the ground truth's region is a whole multiple of it.

        Returns
        -------
        raw, gt : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
        """
        larger = enlarge_region(region, self.upscaling)
        return (
            normalise(self.raw.read(self.raw.frames[frame], region), self.raw_range),
            normalise(self.gt.read(self.gt.frames[frame], larger), self.gt_range),
        )

    @property
    def upscaling(self):
        """Ground-truth voxels for each raw voxel on each spatial axis."""
        sizes = zip(self.raw.shape[:-1], self.gt.shape[:-1], strict=True)
        return tuple(large // small for small, large in sizes)

    def crop(self, region):
        """The same pair, restricted to a region given in voxels of raw."""
        larger = enlarge_region(region, self.upscaling)
        return Pair(self.raw.crop(region), self.gt.crop(larger), self.raw_range, self.gt_range)


def open_pairs(folders, pairs, *, raw_axes=None, gt_axes=None, ndim=None, percentiles=(2, 99.9), like=None):
    """Open pairs of volumes, check every one of them, and find their intensity ranges.

    Parameters
    ----------
    folders : ImagePair or None
        Folders of raw and gt volumes, matched by file name.
    pairs : list of ImagePair
        Single pairs.
    raw_axes, gt_axes : str, optional
        Axes of the files where their metadata is wrong.
    ndim : {3, 2}, optional
        Whether the network sees volumes or planes; 3 where not given and the first raw file has Z.
    percentiles : tuple of float
        Percentiles that become 0 and 1.
    like : Pair, optional
        A pair whose rank, channels and upscaling these must have; the first where not given.

    Returns
    -------
    pairs : list of Pair

    Raises
    ------
    ValueError, OSError
        If a file is missing or unreadable, or a pair cannot be trained on.
    """
    paths = [(pair.raw, pair.gt) for pair in pairs]
    if folders:
        paths = pair_paths(folders.raw, folders.gt) + paths
    ndim = len(like.raw.shape) - 1 if like else ndim
    opened = []
    if not paths:
        return opened
    with Progress(len(paths), "Checking pairs", unit="pair") as progress:
        for raw_path, gt_path in paths:
            raw, gt = open_volume(raw_path, axes=raw_axes), open_volume(gt_path, axes=gt_axes)
            ndim = ndim or (3 if "Z" in raw.axes else 2)
            raw, gt = (_as_seen(volume, ndim) for volume in (raw, gt))
            check_pair(raw, gt)
            ranges = (percentile_range(volume, percentiles) for volume in (raw, gt))
            opened.append(Pair(raw, gt, *ranges))
            raw.close(), gt.close()  # frees what checking has decoded
            _check_alike(like or opened[0], opened[-1])
            progress.advance()
    return opened


def _as_seen(volume, ndim):
    """The volume in the blocks that a network of this rank sees."""
    if ndim == 3 and "Z" not in volume.axes:
        raise ValueError(
            f"{volume.path} has axes {volume.axes}, without Z, but patch_shape or the other volumes are 3D: "
            "give a patch_shape of two numbers for planes, or name the file's axes with raw_data_format "
            "and gt_data_format."
        )
    return volume.with_block_axes("ZYXC" if ndim == 3 else "YXC")


def _check_alike(first, pair):
    """All pairs need the channels and the upscaling of the first."""
    for name, one, other in (("raw", first.raw, pair.raw), ("gt", first.gt, pair.gt)):
        if one.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"{other.path} has {other.shape[-1]} channels but {one.path} has {one.shape[-1]}: "
                f"all {name} volumes need the same channels. Train one network for each kind."
            )
    if pair.upscaling != first.upscaling:
        raise ValueError(
            f"{pair.gt.path} is {pair.upscaling} times its raw volume but {first.gt.path} is "
            f"{first.upscaling} times: all pairs need the same upscaling. Train one network for each kind."
        )


def hold_out(pairs, share, *, seed):
    """Set a share of the training data aside for validation.

    Parameters
    ----------
    pairs : list of Pair
    share : float
        Between 0 (nothing) and 0.5. From 5 specimens on whole ones are set aside; of fewer, the end of each pair
        along the longer of Y and X. Pairs of the same ground truth, such as several exposures, are one specimen.
    seed : int
        Chooses the specimens.

    Returns
    -------
    training, validation : list of Pair
    """
    if share == 0:
        return pairs, []
    keys = [_specimen_of(pair) for pair in pairs]
    specimens = list(dict.fromkeys(keys))
    if len(specimens) >= 5:
        num_held = max(1, round(share * len(specimens)))
        order = np.random.default_rng(seed).permutation(len(specimens))
        held = {specimens[i] for i in order[:num_held]}
        return (
            [pair for key, pair in zip(keys, pairs, strict=True) if key not in held],
            [pair for key, pair in zip(keys, pairs, strict=True) if key in held],
        )
    split = [_split_pair(pair, share) for pair in pairs]
    return [kept for kept, _ in split], [held for _, held in split]


def _specimen_of(pair):
    """The same for pairs whose ground truths are equal, as far as their ranges and first lines tell."""
    corner = tuple(slice(0, 1) for _ in pair.gt.shape[:-2])
    line = pair.gt.read(region=(*corner, slice(0, pair.gt.shape[-2])))
    return pair.gt.shape, len(pair.gt.frames), pair.gt_range.tobytes(), line.tobytes()


def _split_pair(pair, share):
    spatial = pair.raw.shape[:-1]
    axis = len(spatial) - 2 + int(spatial[-1] >= spatial[-2])
    border = spatial[axis] - max(1, round(share * spatial[axis]))
    if border < 1:
        raise ValueError(
            f"{pair.raw.path} is {spatial}: too small to validate on a part of it. Name validation data, or "
            "set validation_split to 0."
        )
    whole = [slice(0, size) for size in spatial]
    kept, held = (
        pair.crop((*whole[:axis], part, *whole[axis + 1 :]))
        for part in (slice(0, border), slice(border, spatial[axis]))
    )
    return kept, held


class PatchSampler:
    """Draw patches: uniformly from all positions with enough signal, of all pairs and frames.

    Parameters
    ----------
    pairs : list of Pair
    patch_shape : tuple of int
        `(Z, Y, X)` or `(Y, X)` in voxels of raw; fits into every pair.
    seed : int
        With an index it determines a patch.
    augmented : bool
        Turn and flip patches.
    intensity_threshold : float
        Normalised gt above which a voxel is signal; 0 or less accepts every patch.
    area_ratio_threshold : float
        Least share of signal voxels in a patch.

    Attributes
    ----------
    num_positions : int
        Positions with enough signal.

    Raises
    ------
    ValueError
        If no position has enough signal.
    """

    def __init__(
        self, pairs, patch_shape, *, seed, augmented, intensity_threshold=0.25, area_ratio_threshold=0.5
    ):
        self._patch_shape, self._seed, self._augmented = patch_shape, seed, augmented
        self._sites = [(pair, frame) for pair in pairs for frame in range(len(pair.raw.frames))]
        self._positions = []
        with Progress(len(self._sites), "Finding signal", unit="volume") as progress:
            for pair, frame in self._sites:
                self._positions.append(
                    _Positions(pair, frame, patch_shape, intensity_threshold, area_ratio_threshold)
                )
                progress.advance()
        self._ends = np.cumsum([positions.count for positions in self._positions])
        self.num_positions = int(self._ends[-1])
        if not self.num_positions:
            largest = max(positions.largest_share for positions in self._positions)
            raise ValueError(
                f"no patch of {_by(patch_shape)} voxels has enough signal: the largest share of voxels above "
                f"intensity_threshold {intensity_threshold:g} is {largest:.3g}, area_ratio_threshold asks for "
                f"{area_ratio_threshold:g}. Lower area_ratio_threshold below {largest:.3g}, or intensity_threshold."
            )

    def sample(self, index):
        """Return the patch of an index.

        Parameters
        ----------
        index : int

        Returns
        -------
        raw, gt : ndarray of shape (Z, Y, X, C) or (Y, X, C), float32
            Normalised; gt is larger by the pairs' upscaling.
        """
        rng = np.random.default_rng((self._seed, int(index)))
        rank = rng.integers(self.num_positions)
        site = int(np.searchsorted(self._ends, rank, side="right"))
        pair, frame = self._sites[site]
        corner = self._positions[site].locate(rank - (self._ends[site] - self._positions[site].count))
        region = tuple(
            slice(start, start + size) for start, size in zip(corner, self._patch_shape, strict=True)
        )
        raw, gt = pair.read(frame, region)
        if not self._augmented:
            return raw, gt
        square = raw.shape[-3] == raw.shape[-2] and gt.shape[-3] == gt.shape[-2]
        turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
        flips = rng.integers(2, size=2).astype(bool)
        return augment(raw, turns, *flips), augment(gt, turns, *flips)


class _Positions:
    """The patch positions of one frame that have enough signal, one bit each."""

    def __init__(self, pair, frame, patch_shape, intensity_threshold, area_ratio_threshold):
        sizes = pair.raw.shape[:-1]
        self._grid = tuple(size - patch + 1 for size, patch in zip(sizes, patch_shape, strict=True))
        self._bits, self.largest_share = None, 1.0
        self.count = math.prod(self._grid)
        if intensity_threshold <= 0 or area_ratio_threshold <= 0:
            return
        window = tuple(size * factor for size, factor in zip(patch_shape, pair.upscaling, strict=True))
        num_values = math.prod(window) * pair.gt.shape[-1]
        bits, counts, largest = [], [], 0
        for sums in _signal_sums(pair, frame, window, intensity_threshold):
            enough = sums / num_values >= area_ratio_threshold
            largest = max(largest, int(sums.max()))
            bits.append(np.packbits(enough, axis=-1))
            counts.append(np.count_nonzero(enough, axis=-1))
        self._bits, self._ends = np.concatenate(bits), np.cumsum(np.concatenate(counts))  # rows along X
        self.count, self.largest_share = int(self._ends[-1]), largest / num_values

    def locate(self, rank):
        """Corner of the valid position of this rank, in raw voxels."""
        if self._bits is None:
            return tuple(int(start) for start in np.unravel_index(rank, self._grid))
        row = int(np.searchsorted(self._ends, rank, side="right"))
        before = self._ends[row - 1] if row else 0
        x = np.flatnonzero(np.unpackbits(self._bits[row], count=self._grid[-1]))[rank - before]
        return (*(int(start) for start in np.unravel_index(row, self._grid[:-1])), int(x))


def _signal_sums(pair, frame, window, threshold):
    """For each start along Z, signal voxels in the window at each start along Y and X.

    Only as many planes of sums are held as the window is thick.
    """
    volume, (*depth, height, width) = pair.gt, window
    step_y, step_x = pair.upscaling[-2:]

    def plane_sums(region):
        block = volume.read(volume.frames[frame], region)
        signal = np.count_nonzero(normalise(block, pair.gt_range) > threshold, axis=-1)
        return _window_sums(signal.reshape(signal.shape[-2:]), height, width)[::step_y, ::step_x]

    if not depth:
        yield plane_sums(None)
        return
    planes, total = [], 0
    for z in range(volume.shape[0]):
        planes.append(plane_sums((slice(z, z + 1), slice(None), slice(None))))
        total = total + planes[-1]
        first = z + 1 - depth[0]
        if first >= 0:
            if first % pair.upscaling[0] == 0:
                yield total
            total = total - planes.pop(0)


def _window_sums(plane, height, width):
    """Sums over every window of a plane, from its summed-area table."""
    table = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.int32)
    table[1:, 1:] = plane.cumsum(axis=0).cumsum(axis=1)
    rows = table[height:] - table[:-height]
    return rows[:, width:] - rows[:, :-width]


def augment(patch, turns, flip_y, flip_z):
    """Turn a patch by quarter turns in the XY plane, then flip it.

    Parameters
    ----------
    patch : ndarray of shape (Z, Y, X, C) or (Y, X, C)
    turns : int
        Quarter turns, 0 to 3.
    flip_y, flip_z : bool
        Flips along Y and along Z (a plane has no Z to flip).

    Returns
    -------
    patch : ndarray of the same shape, or with Y and X exchanged
    """
    patch = np.rot90(patch, turns, axes=(-3, -2))
    if flip_y:
        patch = np.flip(patch, axis=-3)
    if flip_z and patch.ndim == 4:
        patch = np.flip(patch, axis=0)
    return np.ascontiguousarray(patch)


def make_dataset(sampler, indices, *, batch_size):
    """Stream the patches of consecutive indices as batches.

    Parameters
    ----------
    sampler : PatchSampler
    indices : range
        Indices of the patches; what does not fill a batch is left out.
    batch_size : int

    Returns
    -------
    dataset : tf.data.Dataset
        Of `(raw, gt)`, each `(batch_size, Z, Y, X, C)` float32, in the order of the indices.
    """
    import tensorflow as tf

    shapes = [patch.shape for patch in sampler.sample(0)]

    def read(index):
        patches = tf.numpy_function(sampler.sample, [index], (tf.float32, tf.float32), stateful=False)
        return tuple(tf.ensure_shape(patch, shape) for patch, shape in zip(patches, shapes, strict=True))

    dataset = tf.data.Dataset.range(indices.start, indices.stop)
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def _by(shape):
    return "x".join(map(str, shape))
