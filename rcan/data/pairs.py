"""Raw volumes and their ground truth: opened, surveyed, and split into training and validation data."""

import math
import os
from dataclasses import dataclass

import numpy as np

from rcan.atomic_io import printable_name
from rcan.data.measurements import MeasurementCache
from rcan.data.pair_check import find_upscaling
from rcan.data.survey import digest_of, fingerprint_of, survey_pair
from rcan.data.views import NetworkView
from rcan.io.opening import open_volume
from rcan.io.paths import pair_paths
from rcan.progress import Progress
from rcan.regions import region_at, scale_region, whole_region
from rcan.scores import enlarge

_FEWEST_SPECIMENS = 5  # of which whole ones are set aside for validation
_MOST_COUNTED = 2**24  # voxels that are looked at to choose a part with signal
_LEAST_SIGNAL = 0.1  # of the share of signal of the others: with less a part is empty


@dataclass(frozen=True)
class Pair:
    """A raw image and its ground truth, as a network sees them."""

    raw: NetworkView
    gt: NetworkView

    @property
    def num_frames(self):
        """Frames of either image."""
        return len(self.raw.frames)

    @property
    def upscaling(self):
        """Ground-truth voxels for each raw voxel on each spatial axis."""
        return find_upscaling(self.raw.shape, self.gt.shape)

    def read(self, number, region=None):
        """Read matching blocks of a frame, normalised, (Z, Y, X, C) or (Y, X, C); the region is in voxels of raw."""
        region = region or whole_region(self.raw.shape[:-1])
        return self.raw.read(number, region), self.gt.read(number, scale_region(region, self.upscaling))

    def read_masked(self, number, region=None):
        """Read the same without gaps, and which voxels of gt are missing there or in raw, (..., 1); None where none is.

        Missing voxels are background.
        """
        raw, gt = self.read(number, region)
        gaps = [np.isnan(image).any(axis=-1, keepdims=True) for image in (raw, gt)]
        if not any(gap.any() for gap in gaps):
            return raw, gt, None
        missing = enlarge(gaps[0], gt.shape) | gaps[1]
        return *(np.where(np.isnan(image), np.float32(0), image) for image in (raw, gt)), missing

    def crop(self, region):
        """The same pair, restricted to a region given in voxels of raw."""
        return Pair(self.raw.crop(region), self.gt.crop(scale_region(region, self.upscaling)))


def list_pairs(folders, pairs):
    """List paths of raw and ground truth: of `folders`, an `ImagePair` or None, by file name, and of single `pairs`."""
    paths = [(pair.raw, pair.gt) for pair in pairs]
    return pair_paths(folders.raw, folders.gt) + paths if folders else paths


def open_pairs(folders, pairs, *, like=None, cache=None, **options):
    """Open pairs of volumes, check every one of them, and find their intensity ranges: a list of `Pair`.

    `folders` and `pairs` are those of `list_pairs`. All pairs must be like the pair `like`, or the first. The options
    and errors are those of `open_pair`.
    """
    paths, opened, cache = list_pairs(folders, pairs), [], cache or MeasurementCache()
    if not paths:
        return opened
    with Progress(len(paths), "Checking pairs", unit="pair") as progress:
        for raw_path, gt_path in paths:
            first = like or (opened[0] if opened else None)
            opened.append(open_pair(raw_path, gt_path, like=first, cache=cache, **options))
            progress.advance()
    return opened


def open_pair(
    raw_path,
    gt_path,
    *,
    raw_axes=None,
    gt_axes=None,
    ndim=None,
    percentiles=(2, 99.9),
    normalization="percentiles",
    noise_range=None,
    like=None,
    cache=None,
):
    """Open a pair of volumes, check it, and find its intensity ranges: a `Pair`.

    The axes are named where the metadata of the files is wrong. A network of `ndim` 3 sees volumes, of 2 planes; it is
    that of the pair `like`, or 3 where not given and the raw file has Z. `percentiles`, `normalization` and
    `noise_range` are those of the network, see `rcan.data.views.NetworkView`.
    The pair must have rank, channels and upscaling of the pair `like`. A ValueError or OSError says that a file is
    missing or unreadable, or that the pair cannot be trained on.
    """
    cache = cache or MeasurementCache()
    raw, gt = open_volume(raw_path, axes=raw_axes), open_volume(gt_path, axes=gt_axes)
    ndim = len(like.raw.shape) - 1 if like else ndim or (3 if "Z" in raw.axes else 2)
    volumes = [_in_blocks(volume, ndim) for volume in (raw, gt)]
    is_stabilised = normalization == "anscombe"
    ranges = survey_pair(*volumes, percentiles, cache, smoothed=is_stabilised)
    raw = NetworkView(
        volumes[0],
        percentiles,
        fixed_range=ranges[0],
        normalization=normalization,
        noise_range=noise_range,
        allows_gaps=True,
    )
    if is_stabilised:
        fingerprint_of(raw, cache)  # its noise is needed
    pair = Pair(raw, NetworkView(volumes[1], fixed_range=ranges[1], allows_gaps=True))
    if like:
        _check_alike(like, pair)
    return pair


def _in_blocks(volume, ndim):
    """The volume in the blocks of a network of this rank."""
    if ndim == 3 and "Z" not in volume.axes:
        raise ValueError(
            f"{volume.path} has axes {volume.axes}, without Z, but patch_shape or the other volumes are 3D: "
            "give a patch_shape of two numbers for planes, or name the file's axes with raw_data_format "
            "and gt_data_format."
        )
    return volume.with_block_axes("ZYXC" if ndim == 3 else "YXC")


def _check_alike(first, pair):
    """Check that a pair has the channels and the upscaling of the first one."""
    for name, one, other in (("raw", first.raw, pair.raw), ("gt", first.gt, pair.gt)):
        if one.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"{other.volume.path} has {other.shape[-1]} channels but {one.volume.path} has {one.shape[-1]}: "
                f"all {name} volumes need the same channels. Train one network for each kind."
            )
    if pair.upscaling != first.upscaling:
        raise ValueError(
            f"{pair.gt.volume.path} is {pair.upscaling} times its raw volume but {first.gt.volume.path} is "
            f"{first.upscaling} times: all pairs need the same upscaling. Train one network for each kind."
        )


def hold_out(pairs, share, *, seed, threshold=0.25, recorded=(), cache=None):
    """Set a share of the training data, 0 to 0.5, aside for validation: lists of pairs to train on and to validate on.

    Of five specimens or more, whole ones are set aside, which the seed chooses; of fewer, an end of each pair along Y
    or X: the one whose share of signal, normalised gt above the `threshold`, is most like that of the rest. A
    ValueError says that the ends are empty where the rest is not. Pairs of the same ground truth, such as several
    exposures, are one specimen. A run that goes on cuts volumes where it did before: `recorded` are the `PairRecord`s
    that it was validated on.
    """
    if share == 0:
        return pairs, []
    cache = cache or MeasurementCache()
    keys = [_specimen_of(pair, cache) for pair in pairs]
    specimens = list(dict.fromkeys(keys))
    if len(specimens) < _FEWEST_SPECIMENS:
        parts = [_split_as_before(pair, recorded) or _split_pair(pair, share, threshold, cache) for pair in pairs]
        kept, held = zip(*parts, strict=True)
        return [*kept], [*held]
    num_held = max(1, round(share * len(specimens)))
    order = np.random.default_rng(seed).permutation(len(specimens))
    held = {specimens[i] for i in order[:num_held]}
    return (
        [pair for key, pair in zip(keys, pairs, strict=True) if key not in held],
        [pair for key, pair in zip(keys, pairs, strict=True) if key in held],
    )


def _specimen_of(pair, cache):
    """The same for pairs whose ground truths are equal."""
    gt = pair.gt
    return gt.shape, len(gt.frames), gt.ranges.tobytes(), digest_of(gt.volume, cache)


def _split_pair(pair, share, threshold, cache):
    """Cut a pair in two across Y or X: the end whose signal is most like that of the rest is the second part."""
    spatial = pair.raw.shape[:-1]
    axes = sorted((len(spatial) - 2, len(spatial) - 1), key=lambda axis: (-spatial[axis], -axis))
    sizes = {axis: max(1, round(share * spatial[axis])) for axis in axes}
    ends = [(axis, at_start) for axis in axes if sizes[axis] < spatial[axis] for at_start in (False, True)]
    if not ends:
        raise ValueError(
            f"{pair.raw.volume.path} is {spatial}: too small to validate on a part of it. Name validation data, or "
            "set validation_split to 0."
        )
    profiles, shares = _signal_profiles(pair, threshold, cache), {}
    for axis, at_start in ends:
        profile = profiles[axis - len(spatial)][:: 1 if at_start else -1]
        shares[axis, at_start] = float(np.mean(profile[: sizes[axis]])), float(np.mean(profile[sizes[axis] :]))
    axis, at_start = min(ends, key=lambda end: abs(shares[end][0] - shares[end][1]))
    inside, outside = shares[axis, at_start]
    if inside < _LEAST_SIGNAL * outside:
        raise ValueError(
            f"{pair.gt.volume.path} has signal (above intensity_threshold {threshold:g}) in {_percent(outside)} of its "
            f"voxels, but in {_percent(inside)} of what can be set aside to validate on, the ends along Y and X. Name "
            "validation data, or set validation_split to 0."
        )
    start = 0 if at_start else spatial[axis] - sizes[axis]
    print(
        f"Validating on {'YX'[axis - len(spatial)]} {start} to {start + sizes[axis]} of "
        f"{printable_name(pair.raw.volume.path)}: signal in {_percent(inside)} of its voxels, in "
        f"{_percent(outside)} of the others.",
        flush=True,
    )
    return _cut_off(pair, axis, slice(start, start + sizes[axis]))


def _split_as_before(pair, recorded):
    """Cut a pair in two where an earlier run did; None where it did not, or the volume has another size."""
    spatial = pair.raw.shape[:-1]
    path = os.path.realpath(pair.raw.volume.path)
    for held in recorded:
        shape = held.raw_shape[:-1]
        start = held.raw_start or tuple(map(int.__sub__, spatial, shape))  # the end, where it was not recorded
        cut = [axis for axis, size in enumerate(shape) if size != spatial[axis]]
        if os.path.realpath(held.raw) == path and len(shape) == len(spatial) and len(cut) == 1:
            return _cut_off(pair, cut[0], slice(start[cut[0]], start[cut[0]] + shape[cut[0]]))
    return None


def _cut_off(pair, axis, held):
    """Cut an end of an axis off a pair: the rest, and the end."""
    kept, end = (list(whole_region(pair.raw.shape[:-1])) for _ in range(2))
    kept[axis] = slice(held.stop, kept[axis].stop) if held.start == 0 else slice(0, held.start)
    end[axis] = held
    return pair.crop(tuple(kept)), pair.crop(tuple(end))


def _percent(share):
    return f"{100 * share:.2g} %"


def _signal_profiles(pair, threshold, cache):
    """Shares of signal voxels of gt in the rows along Y, and in the columns along X, in some planes of some frames.

    In raw voxels.
    """
    key = cache.key([pair.gt.volume], what="signal profiles", threshold=threshold, range=pair.gt.ranges.tolist())
    known = cache.get(key, ["rows", "columns"])
    if known:
        return known["rows"], known["columns"]
    depth, *plane = (1, *pair.gt.shape[:-1])[-3:]
    places = [(number, z) for number in range(pair.num_frames) for z in range(depth)]
    most = max(1, _MOST_COUNTED // math.prod(plane))
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    counts = [np.zeros(size) for size in plane]
    for number, z in (places[i] for i in chosen):
        region = region_at((z, 0, 0), (1, *plane))[-len(pair.gt.shape) + 1 :]
        signal = (pair.gt.read(number, region) > threshold).mean(axis=-1).reshape(plane)
        counts = [count + signal.mean(axis=1 - axis) / len(chosen) for axis, count in enumerate(counts)]
    pair.gt.volume.close()  # frees what was decoded
    rows, columns = (
        count.reshape(-1, factor).mean(axis=1).tolist()
        for count, factor in zip(counts, pair.upscaling[-2:], strict=True)
    )
    cache.put(key, {"rows": rows, "columns": columns})
    return rows, columns
