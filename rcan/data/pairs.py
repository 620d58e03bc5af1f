"""Raw volumes and their ground truth: opened, checked, normalised, split."""

import hashlib
from dataclasses import dataclass

import numpy as np

from rcan.data.measurements import Records
from rcan.data.pair_check import MIN_CORRELATION, check_pair
from rcan.intensity import normalise, percentile_range
from rcan.io.opening import open_volume
from rcan.io.paths import pair_paths
from rcan.io.volume import Volume
from rcan.progress import Progress
from rcan.regions import scale_region, whole_region


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
        larger = scale_region(region, self.upscaling)
        return (
            normalise(self.raw.read(self.raw.frames[frame], region, dtype=None), self.raw_range),
            normalise(self.gt.read(self.gt.frames[frame], larger, dtype=None), self.gt_range),
        )

    @property
    def upscaling(self):
        """Ground-truth voxels for each raw voxel on each spatial axis."""
        sizes = zip(self.raw.shape[:-1], self.gt.shape[:-1], strict=True)
        return tuple(large // small for small, large in sizes)

    def crop(self, region):
        """The same pair, restricted to a region given in voxels of raw."""
        larger = scale_region(region, self.upscaling)
        return Pair(self.raw.crop(region), self.gt.crop(larger), self.raw_range, self.gt_range)


def open_pairs(
    folders,
    pairs,
    *,
    raw_axes=None,
    gt_axes=None,
    ndim=None,
    percentiles=(2, 99.9),
    like=None,
    records=None,
):
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
    records : Records, optional
        Keeps the ranges of pairs that have passed all checks, which then need not be read again.

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
    opened, records = [], records or Records()
    if not paths:
        return opened
    with Progress(len(paths), "Checking pairs", unit="pair") as progress:
        for raw_path, gt_path in paths:
            raw, gt = open_volume(raw_path, axes=raw_axes), open_volume(gt_path, axes=gt_axes)
            ndim = ndim or (3 if "Z" in raw.axes else 2)
            raw, gt = (_as_seen(volume, ndim) for volume in (raw, gt))
            opened.append(Pair(raw, gt, *_measure_ranges(raw, gt, percentiles, records)))
            _check_alike(like or opened[0], opened[-1])
            progress.advance()
    return opened


def _measure_ranges(raw, gt, percentiles, records):
    """Check a pair and find its intensity ranges, or find that both was done before."""
    key = records.key([raw, gt], percentiles=percentiles)
    known = records.get(key, ["raw_range", "gt_range"])
    if known:
        return np.array(known["raw_range"]), np.array(known["gt_range"])
    correlation = check_pair(raw, gt)
    ranges = [percentile_range(volume, percentiles) for volume in (raw, gt)]
    raw.close(), gt.close()  # frees what checking has decoded
    if correlation >= MIN_CORRELATION:  # the others are warned of every time
        records.put(key, {"raw_range": ranges[0].tolist(), "gt_range": ranges[1].tolist()})
    return ranges


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


def hold_out(pairs, share, *, seed, records=None):
    """Set a share of the training data aside for validation.

    Parameters
    ----------
    pairs : list of Pair
    share : float
        Between 0 (nothing) and 0.5. From 5 specimens on whole ones are set aside; of fewer, the end of each pair
        along the longer of Y and X. Pairs of the same ground truth, such as several exposures, are one specimen.
    seed : int
        Chooses the specimens.
    records : Records, optional
        Keeps what tells the specimens apart.

    Returns
    -------
    training, validation : list of Pair
    """
    if share == 0:
        return pairs, []
    keys = [_specimen_of(pair, records or Records()) for pair in pairs]
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


def digest_of(volume, records):
    """A word that differs where volumes differ, as far as a few planes of the first frame tell.

    Parameters
    ----------
    volume : Volume
    records : Records
        Keeps it.

    Returns
    -------
    digest : str
    """
    key = records.key([volume], what="digest")
    known = records.get(key, ["digest"])
    if known:
        return known["digest"]
    digest = hashlib.sha256()
    depth = volume.shape[0] if len(volume.shape) == 4 else 1
    for z in sorted({depth // 4, depth // 2, 3 * depth // 4}):
        region = (slice(z, z + 1), slice(0, volume.shape[-3]), slice(0, volume.shape[-2]))
        digest.update(volume.read(region=region[-len(volume.shape) + 1 :], dtype=None).tobytes())
    volume.close()  # frees what was decoded
    records.put(key, {"digest": digest.hexdigest()[:24]})
    return digest.hexdigest()[:24]


def _specimen_of(pair, records):
    """The same for pairs whose ground truths are equal."""
    return pair.gt.shape, len(pair.gt.frames), pair.gt_range.tobytes(), digest_of(pair.gt, records)


def _split_pair(pair, share):
    spatial = pair.raw.shape[:-1]
    axis = len(spatial) - 2 + int(spatial[-1] >= spatial[-2])
    border = spatial[axis] - max(1, round(share * spatial[axis]))
    if border < 1:
        raise ValueError(
            f"{pair.raw.path} is {spatial}: too small to validate on a part of it. Name validation data, or "
            "set validation_split to 0."
        )
    whole = whole_region(spatial)
    kept, held = (
        pair.crop((*whole[:axis], part, *whole[axis + 1 :]))
        for part in (slice(0, border), slice(border, spatial[axis]))
    )
    return kept, held
