"""Measure the fingerprint of an image from some of its blocks."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft, ndimage, special

from rcan.fingerprint.noise import estimate_noise, saturated_level, smooth
from rcan.fingerprint.records import ChannelFingerprint, Fingerprint, NoiseLevels, Spectrum
from rcan.regions import region_at

__all__ = ["SIGNAL_PERCENTILES", "measure_fingerprint"]

SIGNAL_PERCENTILES = (2, 99.9)  # background and signal of an image
_BLOCKS = ((16, 64, 64), (16, 32, 32))  # voxels, at least; smaller ones where there would be few
_FEWEST_BLOCKS = 8
_MOST_BLOCKS = 48  # of an image: about a second
_MOST_FRAMES = {3: 3, 2: 9}  # volumes, or planes, of an image
_WINDOW = (16, 32)  # voxels of a window of the spectrum along z, and along y and x
_COARSE = (0, 0.08)  # cycles per voxel: blur weakens the fine structure more than the coarse one
_FINE = (0.11, 0.19)
_LEAST_POWER = 0.03  # of the power of the noise: weaker structure cannot be told from none
_SMALLEST_SIDE = 8  # of a window along y and x
_NUM_LEVELS = 2**12  # of the histogram that percentiles are taken from
_NUM_BINS = 20  # of the histogram that is kept
_LEAST_SNR = 0.01
_LEAST_BRIGHT = 0.01  # of the range
_ORIENTATION_SIGMAS = (1.5, 3.0)  # voxels, of the gradient and of the mean of its products


def measure_fingerprint(volume, *, frames=None, channels=None):
    """Measure what a network is sensitive to in an image.

    Parameters
    ----------
    volume : rcan.io.volume.Volume
        In the blocks that the network sees. At most 48 blocks of about 16 x 64 x 64 voxels are read, evenly spread
        over at most three frames (nine where they are planes): the first, the last and some between.
    frames : list of dict, optional
        Some of ``volume.frames``; all where not given. Frames that show another channel (``"C"`` among the looped
        axes) are channels of their own.
    channels : sequence of int, optional
        Some of the channels of a block; all where not given.

    Returns
    -------
    fingerprint : rcan.fingerprint.records.Fingerprint

    Raises
    ------
    ValueError
        If a value is infinite. Blocks with missing voxels (NaN) are left out; where all have some, their medians take
        the place of these.
    """
    by_channel = {}
    for frame in volume.frames if frames is None else frames:
        by_channel.setdefault(frame.get("C"), []).append(frame)
    chosen = range(volume.shape[-1]) if channels is None else channels
    measured = {}
    for looped, same in by_channel.items():
        blocks = _read_blocks(volume, same)
        for channel in chosen:
            number = channel if looped is None else looped
            of_channel = [block[..., channel] for block in blocks]
            measured[number] = _measure_channel(of_channel, number, volume.voxel_size)
    return Fingerprint(
        voxel_size=tuple(volume.voxel_size), ndim=len(volume.shape) - 1, channels=tuple(measured.values())
    )


def _read_blocks(volume, frames):
    """Blocks of (Z, Y, X, C), evenly spread; planes have a Z of 1."""
    spatial = volume.shape[:-1]
    most = _MOST_FRAMES[len(spatial)]
    numbers = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    for sides in _BLOCKS:
        counts = [max(1, size // side) for size, side in zip(spatial, sides[-len(spatial) :], strict=True)]
        shape = [size // count for size, count in zip(spatial, counts, strict=True)]
        if math.prod(counts) * len(numbers) >= _FEWEST_BLOCKS:
            break
    while math.prod(counts) * len(numbers) > _MOST_BLOCKS and max(counts) > 1:
        counts[int(np.argmax(counts))] -= 1
    starts = [
        np.linspace(0, size - side, count).astype(int).tolist() if count > 1 else [(size - side) // 2]
        for size, side, count in zip(spatial, shape, counts, strict=True)
    ]
    blocks = []
    for number, start in itertools.product(numbers, itertools.product(*starts)):
        block = volume.read(frames[number], region_at(start, shape), dtype=None)
        if np.isinf(block).any():
            raise ValueError(f"{volume.path} holds infinite values: all must be finite numbers. Replace them.")
        blocks.append(block if block.ndim == 4 else block[np.newaxis])
    whole = [block for block in blocks if not np.isnan(block).any()]
    return whole or [_fill(block) for block in blocks]


def _fill(block):
    """Put the median of each channel in the place of voxels that are missing, 0 where all are."""
    missing = np.isnan(block)
    present = [channel[~np.isnan(channel)] for channel in np.moveaxis(block, -1, 0)]
    medians = [np.median(values) if values.size else 0 for values in present]
    return np.where(missing, np.array(medians, block.dtype), block)


def _measure_channel(blocks, number, voxel_size):
    """Fingerprint of one channel; `blocks` are (Z, Y, X)."""
    unit = _unit_of(blocks)
    blocks = [block / unit for block in blocks] if unit != 1 else blocks
    noise, highest = estimate_noise(blocks), saturated_level(blocks)
    levels, sums = _sum_up(blocks)
    whole = {key: values.sum(axis=0) for key, values in sums.items()}
    white = smooth(blocks[0])[1]
    found = _describe(levels, whole, noise, white)
    # delete-one jackknife: how far the numbers would be off with other content of the same kind
    scatter = [
        _describe(levels, {key: whole[key] - values[i] for key, values in sums.items()}, noise, white)
        for i in range(len(blocks) if len(blocks) > 1 else 0)
    ]
    errors = {}
    for name, value in found.features.items():
        values = [one.features[name] for one in scatter]
        values = [one for one in values if value is not None and one is not None]
        errors[name] = math.sqrt((len(values) - 1) * np.var(values)) if len(values) > 1 else None
    low, high = found.range
    window = [2 * max(len(sums[direction][0]) - 1, 0) or 1 for direction in ("axial", "lateral")]
    return ChannelFingerprint(
        noise=NoiseLevels(
            gain=unit * noise.gain,
            background=unit * math.sqrt(noise.variance(low)),
            signal=unit * math.sqrt(noise.variance(high)),
        ),
        window=tuple(window),
        saturated=float(np.mean([np.mean(block >= highest) for block in blocks])),
        snr=found.snr,
        range=(unit * low, unit * high),
        histogram=tuple(_share_of_bins(levels, whole["counts"], low, high)),
        spectrum=_make_spectra(found.power, window, voxel_size),
        features=found.features,
        errors=errors,
        number=number,
    )


def _make_spectra(power, window, voxel_size):
    """Axial and lateral spectrum with their frequencies."""
    z, y, x = voxel_size
    sizes = {"axial": z, "lateral": math.sqrt(y * x) if y and x else None}
    spectra = {}
    for (direction, size), side in zip(sizes.items(), window, strict=True):
        relative = _relative(power[direction])
        cycles = [number / side for number in range(side // 2 + 1)]
        spectra[direction] = relative and Spectrum(
            cycles_per_voxel=tuple(cycles),
            cycles_per_um=tuple(float(f"{each / size:.4g}") for each in cycles) if size else None,
            power=tuple(relative),
        )
    return spectra


def _unit_of(blocks):
    """A power of two: very large or small numbers are measured in it, as their squares do not fit a float32."""
    largest = max(np.abs(block).max() for block in blocks)
    is_common = blocks[0].dtype.kind != "f" or largest == 0 or 2**-20 < largest < 2**32
    return 1.0 if is_common else 2.0 ** np.floor(np.log2(float(largest)))


def _sum_up(blocks):
    """Levels of a histogram, and of each block what adds up: counts of intensities, power, orientation."""
    smoothed = [smooth(block)[0] for block in blocks]
    low, high = min(block.min() for block in smoothed), max(block.max() for block in smoothed)
    edges = np.linspace(low, high if high > low else low + 1, _NUM_LEVELS + 1, dtype=np.float64)
    lateral, axial = zip(*map(_power, blocks), strict=True)
    sums = {
        "counts": [np.histogram(block, edges)[0] for block in smoothed],
        "mean": [block.mean(dtype=np.float64) for block in blocks],
        "number": [1] * len(blocks),
        "lateral": lateral,
        "axial": axial,
        "orientation": [_orientation(block) for block in blocks],
    }
    return (edges[:-1] + edges[1:]) / 2, {key: np.array(values) for key, values in sums.items()}


def _hann(size):
    """Hann's window, periodic; of one sample, 1."""
    return (0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, size + 1)))[:-1] if size > 1 else np.ones(1)


def _power(block):
    """Power of a block, lateral and axial, in windows that overlap by half; white noise has its own variance in it.

    The lateral power is the mean over rings of equal frequency where the axial one is low, and the axial power that
    where the lateral one is low, but not 0: a gradient of the background would lie there.
    """
    depth = 2 ** int(math.log2(min(block.shape[0], _WINDOW[0])))
    depth = depth if depth >= 4 else 1
    side = 2 ** int(math.log2(min(*block.shape[1:], _WINDOW[1])))
    if side < _SMALLEST_SIDE:
        return np.zeros(1), np.zeros(1)
    shape = (depth, side, side)
    taper = np.ones(shape, np.float32)
    for axis, size in enumerate(shape):
        taper = taper * _hann(size).reshape([-1 if i == axis else 1 for i in range(3)])
    windows = sliding_window_view(np.asarray(block, np.float32), shape)
    windows = windows[tuple(slice(None, None, max(1, size // 2)) for size in shape)].reshape(-1, *shape)
    windows = (windows - windows.mean(axis=(1, 2, 3), keepdims=True)) * taper.astype(np.float32)
    power = np.mean(np.abs(fft.fftn(windows, axes=(1, 2, 3))) ** 2, axis=0, dtype=np.float64) / np.sum(taper**2)
    along = np.abs(np.rint(fft.fftfreq(depth) * depth)).astype(int)
    across = np.abs(fft.fftfreq(side) * side)
    ring = np.rint(np.hypot(across[:, np.newaxis], across)).astype(int)
    lateral = ndimage.mean(power[along <= 1].mean(axis=0), ring, np.arange(side // 2 + 1))
    axial = ndimage.mean(power[:, (ring >= 1) & (ring <= 3)].mean(axis=1), along, np.arange(depth // 2 + 1))
    return lateral, axial


def _orientation(block):
    """How much the gradient in a plane keeps to one direction, and its energy: both add up.

    Of the structure tensor's eigenvalues it is the difference, and their sum.
    """
    block = np.asarray(block, np.float32)
    sigma, reach = _ORIENTATION_SIGMAS
    along = [min(sigma, size / 8) if size > 1 else 0 for size in block.shape]
    y, x = (ndimage.gaussian_filter(block, along, order=order) for order in ((0, 1, 0), (0, 0, 1)))
    around = [reach * (size > 1) for size in block.shape]
    yy, xx, yx = (ndimage.gaussian_filter(product, around) for product in (y * y, x * x, y * x))
    return np.sqrt((yy - xx) ** 2 + 4 * yx**2).sum(dtype=np.float64), (yy + xx).sum(dtype=np.float64)


class _Numbers(NamedTuple):
    """What follows from the sums over blocks."""

    snr: float
    range: tuple
    power: dict
    features: dict


def _describe(levels, sums, noise, white):
    """Numbers of an image, from the sums over its blocks."""
    low, high = _noise_free_range(levels, sums["counts"], noise, white)
    snr = (high - low) / math.sqrt(noise.variance(high))
    of_noise = noise.variance(sums["mean"] / sums["number"])
    power = {direction: sums[direction] / sums["number"] - of_noise for direction in ("lateral", "axial")}
    aligned, energy = sums["orientation"].tolist()
    features = {
        "snr": math.log(max(snr, _LEAST_SNR)),
        "lateral": _fineness(power["lateral"], of_noise, first=1),
        "axial": _fineness(power["axial"], of_noise),
        "brightness": _brightness(levels, sums["counts"], low, high),
        "orientation": aligned / energy if energy > 0 else None,
    }
    return _Numbers(float(snr), (float(low), float(high)), power, features)


def _percentiles(levels, counts, percentiles):
    cumulated = np.cumsum(counts)
    return levels[np.searchsorted(cumulated, np.asarray(percentiles) / 100 * cumulated[-1])]


def _noise_free_range(levels, counts, noise, white):
    """Background and signal without noise, from the counts of smoothed intensities that hold the share `white` of it.

    Noise widens a distribution: distances from the median are taken to add up with those of a Gaussian as squares do.
    That is exact where there is nothing but noise, and changes little where there is little.
    """
    low, middle, high = _percentiles(levels, counts, (SIGNAL_PERCENTILES[0], 50, SIGNAL_PERCENTILES[1]))
    ends = []
    for percentile, end in zip(SIGNAL_PERCENTILES, (low, high), strict=True):
        widened = special.ndtri(percentile / 100) ** 2 * white * noise.variance(middle)
        ends.append(math.sqrt(max((end - middle) ** 2 - widened, 0)))
    return middle - ends[0], middle + ends[1]


def _share_of_bins(levels, counts, low, high):
    """Shares of the smoothed voxels in equal bins from background to signal; the outer ones hold what is beyond."""
    place = np.clip((levels - low) / (high - low) * _NUM_BINS, 0, _NUM_BINS - 1) if high > low else 0 * levels
    shares = np.bincount(place.astype(int), counts, minlength=_NUM_BINS) / counts.sum()
    return shares.round(4).tolist()


def _brightness(levels, counts, low, high):
    """How bright the median is for the bright tenth: the shape of the histogram, whatever gain and offset."""
    if not high > low:
        return None
    middle, bright = np.maximum(_percentiles(levels, counts, (50, 90)) - low, _LEAST_BRIGHT * (high - low))
    return math.log(middle / bright)


def _fineness(power, noise, *, first=0):
    """Logarithm of the power of fine structure in units of that of coarse structure, `first` frequencies left out."""
    window = 2 * (len(power) - 1)
    frequencies = np.arange(len(power)) / max(window, 1)
    bands = [
        power[first:][(low <= frequencies[first:]) & (frequencies[first:] <= high)] for low, high in (_COARSE, _FINE)
    ]
    if not all(band.size for band in bands):
        return None
    coarse, fine = (band.mean() for band in bands)
    least = _LEAST_POWER * noise
    return math.log(max(fine, least) / coarse) if coarse > least else None


def _relative(power):
    """Power as a share of all, rounded: some figures are enough."""
    total = power[1:].sum() if len(power) > 1 else 0
    return [float(f"{value:.3g}") for value in power / total] if total > 0 else None
