"""Less or more light: raw volumes as if they had been exposed otherwise.

A camera's pixel that sees a mean of m photons counts them with variance m. Taking each photon with probability q leaves
exactly what an exposure of q times the light would have shown; noise of the readout is added to what is left of it.
More light than was there must come from the ground truth, and only where the raw volume is the ground truth with noise:
registered, and of the same sharpness.

Factors of light are those of the ladder `Light.factors`. The range of grey values and the noise are others at each of
them. They are measured there on some blocks, with the errors that such a measurement has where a network is applied.

References: thinning of Poisson processes: Kingman, Poisson Processes (1993); as augmentation of microscope images:
Krull et al., Front. Comput. Sci. 2, 5 (2020), doi:10.3389/fcomp.2020.00005
"""

import math

import numpy as np

from rcan.data.survey import fingerprint_of
from rcan.fingerprint.measure import measure_fingerprint
from rcan.fingerprint.records import Fingerprint
from rcan.intensity import CELL, average_cells, fit_affine, normalise, scale_noise, stabilise
from rcan.io.array import volume_of_array
from rcan.regions import cut_into_grid

__all__ = ["Light", "brighten", "thin"]

_LADDER = 2**0.5  # from one factor of light to the next, at most
_BLOCK = (16, 64, 64)  # voxels
_MOST_BLOCKS = 8  # that the ranges are measured on
_LEAST_RANGE = 1e-3  # of the range of the volume
_MOST_COUNTS = 2**40  # photons of a voxel: beyond, the noise of single ones is nothing
_TOLERANCE = 0.25  # of the variance: how far raw may differ from ground truth with noise to be made brighter


def thin(block, factor, noise, rng):
    """Make of a raw block what `factor` times the light would have given.

    Parameters
    ----------
    block : ndarray of shape (..., C)
        Raw, in any unit.
    factor : float
        0 to 1.
    noise : ndarray of shape (C, 3)
        Gain, level and floor in that unit: the variance of the noise is ``floor + gain * (x - level)``. The floor is
        taken for noise of the readout, which light does not change.
    rng : numpy.random.Generator

    Returns
    -------
    thinned : ndarray of shape (..., C), float32
        Mean ``level + factor * (x - level)``, variance ``floor + gain * factor * (x - level)``.
    """
    gain, level, floor = np.asarray(noise, np.float64).T
    above = np.asarray(block, np.float64) - level
    unit = np.where(gain > 0, gain, 1)
    photons = np.clip(above / unit, 0, _MOST_COUNTS).astype(np.int64) * (gain > 0)
    thinned = factor * (above - photons * unit) + rng.binomial(photons, factor) * unit
    thinned += rng.normal(0, 1, above.shape) * np.sqrt(floor * (1 - factor**2))
    return (level + thinned).astype(np.float32)


def brighten(block, expected, factor, noise):
    """Make of a raw block what `factor` times the light, 1 or more, would have given, where its mean is known.

    The noise that is there is kept, but weaker: ``level + factor * (expected - level) + sqrt(factor) * (x -
    expected)``. `expected` has the shape and unit of the block; see `thin` for the others.
    """
    level = np.asarray(noise, np.float64)[:, 1]
    brighter = level + factor * (expected - level) + np.sqrt(factor) * (np.asarray(block, np.float64) - expected)
    return brighter.astype(np.float32)


class Light:
    """Exposures of the raw volume of a pair at other light, as the network sees them.

    `photon_range` is the lowest and the highest factor of light. Where raw is not the ground truth with noise, the
    highest is 1 at most, and `is_limited` says so. `fingerprints` are those of raw at the ends and in the middle of the
    range.
    """

    def __init__(self, pair, photon_range, cache):
        self._view = raw = pair.raw
        fingerprint_of(raw, cache)  # its noise is needed
        self._noise = scale_noise(raw.noise, raw.range_of(0))
        facts = {"light": list(photon_range), "range": raw.ranges.tolist(), "noise": raw.noise.tolist(), **raw.scaling}
        key = cache.key([raw.volume, pair.gt.volume], **facts)
        found = cache.get(key, ["line", "factors", "ranges", "noises", "fingerprints"])
        if not found:
            found = self._measure(pair, *photon_range)
            cache.put(key, found)
        self.factors, self._ranges = found["factors"], np.array(found["ranges"])  # (factors, C, 2)
        self._noises = np.array(found["noises"])  # as it is measured at each factor, (factors, C, 3)
        self._line = None if found["line"] is None else np.array(found["line"])
        self.fingerprints = [Fingerprint.checked(values) for values in found["fingerprints"]]
        self.is_limited = self.factors[-1] < photon_range[1]

    def expose(self, raw, gt, rng):
        """Make the network's input at a factor of light that is drawn, from normalised blocks (..., C) of the pair."""
        # Half of them evenly, half towards the ends of the range: what is learned at one factor helps at those on
        # either side of it, and the ends have one side only.
        place = rng.random()
        if rng.random() < 0.5:
            place = math.sin(math.pi / 2 * place) ** 2
        step = int(place * len(self.factors))
        ranges = self._ranges[step]
        normalised = normalise(self._expose(raw, gt, self.factors[step], rng), ranges)
        if not self._view.is_stabilised:
            return normalised
        return stabilise(normalised, scale_noise(self._noises[step], ranges))

    def scaled_noises(self):
        """Noise at each factor of light, (C, 3), in units of the range there."""
        return list(map(scale_noise, self._noises, self._ranges))

    def _expose(self, raw, gt, factor, rng):
        """A normalised block at a factor of light, in the same unit."""
        if factor <= 1:
            return thin(raw, factor, self._noise, rng)
        slope, offset = self._line.T
        return brighten(raw, slope * gt + offset, factor, self._noise)

    def _measure(self, pair, low, high):
        """The line from gt to raw (None where raw must not be made brighter), factors, ranges and noise at each."""
        blocks = _read_blocks(pair)
        self._line = _fit_line(blocks, self._noise) if high > 1 and set(pair.upscaling) == {1} else None
        high = high if self._line is not None else max(low, min(high, 1))
        factors = np.geomspace(low, high, 1 + math.ceil(math.log(high / low) / math.log(_LADDER) - 1e-9))
        level = self._noise[:, 1:2]
        ends = self._view.percentiles_of([raw for raw, _ in blocks])
        ranges, noises, fingerprints = [], [], []
        for step, factor in enumerate(factors):
            rng = np.random.default_rng(step)
            exposed = [self._expose(*block, factor, rng) for block in blocks]
            found = self._view.percentiles_of(exposed)
            fingerprint = _fingerprint_blocks(exposed, self._view.volume.voxel_size)
            noises.append([channel.noise_model() for channel in fingerprint.channels])
            if step in (0, len(factors) // 2, len(factors) - 1):
                fingerprints.append(fingerprint.model_dump(mode="json"))
            # what the light does to the ranges of the blocks, it does to that of the whole
            change = found - (level + factor * (ends - level))
            whole = level + factor * (np.array([0, 1]) - level) + change
            whole[:, 1] = np.maximum(whole[:, 1], whole[:, 0] + _LEAST_RANGE * factor)
            ranges.append(whole.tolist())
        line = None if self._line is None else self._line.tolist()
        return {
            "line": line,
            "factors": factors.tolist(),
            "ranges": ranges,
            "noises": noises,
            "fingerprints": fingerprints,
        }


def _read_blocks(pair):
    """Some matching blocks of raw and gt, normalised, evenly spread over the frames."""
    shape = pair.raw.shape[:-1]
    regions = cut_into_grid(shape, _BLOCK[-len(shape) :])
    places = [(number, region) for number in range(pair.num_frames) for region in regions]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(_MOST_BLOCKS, len(places))).round().astype(int))
    return [pair.read_masked(*places[i])[:2] for i in chosen]


def _fingerprint_blocks(blocks, voxel_size):
    """Fingerprint of an image of which these are parts; those of another shape than the first are left out."""
    alike = [block for block in blocks if block.shape == blocks[0].shape]
    if blocks[0].ndim == 3:
        volume = volume_of_array(np.stack(alike), voxel_size=voxel_size).with_block_axes("YXC")
    else:
        volume = volume_of_array(np.concatenate(alike), voxel_size=voxel_size)
    return measure_fingerprint(volume)


def _fit_line(blocks, noise):
    """Slope and offset (C, 2) that make of gt what raw shows without noise; None where raw shows something else."""
    if blocks[0][0].shape[-1] != blocks[0][1].shape[-1]:
        return None
    line = fit_affine((gt, raw) for raw, gt in blocks)
    slope, offset = line.T
    gain, level, floor = noise.T
    left, expected = [], []
    for raw, gt in blocks:
        mean = slope * gt + offset
        cells = average_cells(raw - mean, CELL)
        num_voxels = math.prod(raw.shape[:-1]) / math.prod(cells.shape[:-1])
        left.append((cells.astype(np.float64) ** 2).mean(axis=tuple(range(raw.ndim - 1))) * num_voxels)
        expected.append((floor + gain * np.maximum(mean - level, 0)).mean(axis=tuple(range(raw.ndim - 1))))
    is_noise = np.mean(left, axis=0) <= (1 + _TOLERANCE) * np.mean(expected, axis=0)
    return line if np.all(is_noise) else None
