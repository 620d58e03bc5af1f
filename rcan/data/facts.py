"""What is measured of a training pair to find out whether it is fit to be learned from."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from rcan.data.registration import Distortion, Orientation, Shift, find_distortion, find_orientation, find_shift
from rcan.data.survey import digest_of, fingerprint_of
from rcan.regions import region_at, scale_region

__all__ = ["ImageFacts", "PairFacts", "make_thumbnail", "measure_image", "measure_pair", "measure_shift", "read_middle"]

_BLOCK = (32, 128, 128)  # raw voxels whose shift is measured, at most
_MIDDLE = (32, 256, 256)  # raw voxels by which flips are looked for, at most
_PART = (32, 96, 96)  # raw voxels of a block where the shift is followed across the image, at most
_THINNEST = 8  # planes of such a block
# Voxels by which shifts must differ: in blocks over the whole depth, then in layers, where blur shifts ends along Z.
_LOOKS = ((0.75, False), (1.5, True))
_THUMBNAIL = 16  # means along Y and X that stand for a plane
_FEWEST_OF_MEAN = 4  # voxels along each of them


@dataclass(frozen=True)
class ImageFacts:
    """One image of a pair."""

    path: str
    shape: tuple  # of a block: (Z, Y, X, C) or (Y, X, C)
    num_frames: int
    dtype: str
    voxel_size: tuple  # (z, y, x) in µm, None where it is not known
    ranges: list  # grey values of background and signal of each channel
    snr: float  # the lowest of all channels, as the next ones
    shows_signal: bool
    fineness: float | None  # of the structure, in planes: see `rcan.fingerprint`
    saturated: float  # share of the voxels, the highest of all channels
    digest: str
    thumbnail: np.ndarray = field(repr=False)  # means of some planes, normalised: what tells specimens apart

    def to_json(self):
        """All but the thumbnail."""
        return {name: value for name, value in vars(self).items() if name not in ("thumbnail", "digest")}


@dataclass(frozen=True)
class PairFacts:
    """A pair; what was not looked at is None, or empty."""

    raw: ImageFacts
    gt: ImageFacts
    upscaling: tuple
    shift: Shift
    orientation: Orientation
    distortion: Distortion | None = None
    frame_shifts: tuple = ()  # shifts of the first, a middle and the last frame
    channel_shifts: tuple = ()  # shifts of each channel, where raw and gt have the same ones

    def to_json(self):
        """What was measured, as JSON knows it."""
        return {
            "raw": self.raw.to_json(),
            "gt": self.gt.to_json(),
            "upscaling": self.upscaling,
            "shift": self.shift._asdict(),
            "orientation": self.orientation._asdict(),
            "distortion": self.distortion and {**self.distortion._asdict(), "matrix": self.distortion.matrix.tolist()},
            "frame_shifts": [shift._asdict() for shift in self.frame_shifts],
            "channel_shifts": [shift._asdict() for shift in self.channel_shifts],
        }


def measure_pair(pair, cache, *, is_thorough):
    """Measure a `Pair`: `PairFacts`. A thorough look follows the shift across the image, its frames and channels.

    Some blocks of the files are read; what was measured before is taken from the cache.
    """
    facts = {kind: measure_image(getattr(pair, kind), cache) for kind in ("raw", "gt")}
    key = cache.key([pair.raw.volume, pair.gt.volume], what="register", thorough=is_thorough)
    known = cache.get(key, ["shift", "orientation"])
    if not known:
        known = {
            "shift": [*measure_shift(pair)],
            "orientation": [*find_orientation(*read_middle(pair), with_turns=is_thorough)],
            **(_follow_shift(pair) if is_thorough else {}),
        }
        for volume in (pair.raw.volume, pair.gt.volume):
            volume.close()  # frees what was decoded
        cache.put(key, known)
    distortion = known.get("distortion")
    return PairFacts(
        **facts,
        upscaling=pair.upscaling,
        shift=_as_shift(known["shift"]),
        orientation=Orientation(*known["orientation"]),
        distortion=distortion and Distortion(np.array(distortion[0]), tuple(distortion[1]), *distortion[2:]),
        frame_shifts=tuple(map(_as_shift, known.get("frame_shifts", ()))),
        channel_shifts=tuple(map(_as_shift, known.get("channel_shifts", ()))),
    )


def _as_shift(values):
    voxels, *others = values
    return Shift(tuple(voxels), *others)


def measure_shift(pair, number=0, channels=(0, 0)):
    """Find the `Shift` of a frame and a channel of raw and of gt, in a block with much signal."""
    regions = _candidates(pair.raw.shape[:-1])
    region = max(regions, key=lambda region: _read_gt(pair, region, number, channels[1]).std())
    return find_shift(*_read(pair, region, number, channels))


def _follow_shift(pair):
    """Shifts across the image, of some frames, and of all channels."""
    num_channels, last = pair.raw.shape[-1], pair.num_frames - 1
    numbers = sorted({0, last // 2, last}) if last else []
    found = {"frame_shifts": [[*measure_shift(pair, number)] for number in numbers]}
    if num_channels > 1 and pair.gt.shape[-1] == num_channels:
        found["channel_shifts"] = [[*measure_shift(pair, 0, (channel, channel))] for channel in range(num_channels)]
    for least_span, has_layers in _LOOKS if len(pair.upscaling) == 3 else _LOOKS[:1]:
        shape = pair.raw.shape[:-1]
        regions = _parts(shape, has_layers=has_layers)
        blocks = (([(part.start + part.stop) / 2 for part in region], *_read(pair, region)) for region in regions)
        distortion = find_distortion(blocks, shape, least_span=least_span)
        if distortion and (distortion.is_certain or "distortion" not in found):
            found["distortion"] = [distortion.matrix.tolist(), *distortion[1:]]
        if distortion and distortion.is_certain:
            break
    return found


def measure_image(view, cache):
    """Measure an image, a `NetworkView`: `ImageFacts`. Some blocks are read, or taken from the cache."""
    channels = fingerprint_of(view, cache).channels
    finenesses = [channel.features["lateral"] for channel in channels]
    return ImageFacts(
        path=str(view.volume.path),
        shape=view.shape,
        num_frames=len(view.frames),
        dtype=str(view.volume.dtype),
        voxel_size=tuple(view.volume.voxel_size),
        ranges=view.ranges.tolist(),
        snr=min(channel.snr for channel in channels),
        shows_signal=all(channel.shows_signal for channel in channels),
        fineness=None if None in finenesses else min(finenesses),
        saturated=max(channel.saturated for channel in channels),
        digest=digest_of(view.volume, cache),
        thumbnail=make_thumbnail(view, cache),
    )


def make_thumbnail(view, cache):
    """Means over squares in three planes of the first frame and channel, of mean 0 and standard deviation 1."""
    key = cache.key([view.volume], what="thumbnail")
    known = cache.get(key, ["means"])
    if not known:
        depth, *plane = (1, *view.shape[:-1])[-3:]
        means = []
        for z in (depth // 4, depth // 2, 3 * depth // 4):
            region = region_at((z, 0, 0), (1, *plane))[-len(view.shape) + 1 :]
            image = np.nan_to_num(view.volume.read(region=region)[..., 0].reshape(plane).astype(np.float64))
            for axis, size in enumerate(plane):
                count = max(1, min(_THUMBNAIL, size // _FEWEST_OF_MEAN))
                edges = np.linspace(0, size, count, endpoint=False).astype(int)
                image = np.add.reduceat(image, edges, axis) / np.expand_dims(np.diff([*edges, size]), 1 - axis)
            means.append(image.ravel())
        known = {"means": np.concatenate(means).tolist()}
        view.volume.close()  # frees what was decoded
        cache.put(key, known)
    means = np.array(known["means"])
    return (means - means.mean()) / (means.std() or 1)


# Regions


def read_middle(pair):
    """The middle of the first frame and channel of raw, and the ground truth there in the voxels of raw."""
    shape = pair.raw.shape[:-1]
    size = [min(side, most) for side, most in zip(shape, _MIDDLE[-len(shape) :], strict=True)]
    start = [(length - side) // 2 for length, side in zip(shape, size, strict=True)]
    return _read(pair, region_at(start, size))


def _candidates(shape):
    """Regions of which one with much signal is taken: in the middle, and in the middle of each quarter."""
    size = [min(side, most) for side, most in zip(shape, _BLOCK[-len(shape) :], strict=True)]
    starts = []
    for y, x in ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3)):
        centres = [*(length // 2 for length in shape[:-2]), shape[-2] * y // 4, shape[-1] * x // 4]
        places = zip(centres, size, shape, strict=True)
        starts.append(tuple(min(max(centre - side // 2, 0), length - side) for centre, side, length in places))
    return [region_at(start, size) for start in dict.fromkeys(starts)]  # in a small image they are the same


def _parts(shape, *, has_layers):
    """Regions all over an image, up to three along each axis, which may overlap; along Z where it `has_layers`."""
    *depth, height, width = shape
    thickness = [max(side // 3, _THINNEST) if has_layers else side for side in depth]
    size = [min(side, thick, _PART[0]) for side, thick in zip(depth, thickness, strict=True)]
    size += [min(side, max(side // 2, 32), most) for side, most in zip((height, width), _PART[1:], strict=True)]
    starts = [
        np.unique(np.linspace(0, length - side, 3).round().astype(int)).tolist()
        for length, side in zip(shape, size, strict=True)
    ]
    if depth and not has_layers:
        starts[0] = [(depth[0] - size[0]) // 2]
    return [region_at(start, size) for start in itertools.product(*starts)]


def _read(pair, region, number=0, channels=(0, 0)):
    """A region of raw, and the ground truth there in the voxels of raw, without gaps: (Z, Y, X) or (Y, X)."""
    raw = np.nan_to_num(pair.raw.read(number, region)[..., channels[0]])
    return raw, _read_gt(pair, region, number, channels[1])


def _read_gt(pair, region, number, channel):
    gt = np.nan_to_num(pair.gt.read(number, scale_region(region, pair.upscaling))[..., channel])
    for axis, factor in enumerate(pair.upscaling):
        gt = gt.reshape(*gt.shape[:axis], -1, factor, *gt.shape[axis + 1 :]).mean(axis=axis + 1)
    return gt
