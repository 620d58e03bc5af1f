"""Whether two images show the same place in the same way: the shift between them, how it differs, and flips."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from rcan.intensity import average_cells

__all__ = [
    "Distortion",
    "Orientation",
    "Shift",
    "find_distortion",
    "find_orientation",
    "find_shift",
    "left_unexplained",
]

_FARTHEST = (8, 16, 16)  # voxels that are looked for, at most a quarter of the block
_BRIGHTEST = 99.9  # percentile
_SIGMAS = (0.5, 1.5, 1.5)  # voxels of smoothing, against noise
_LEAST_SHIFT = 0.75  # voxels that are warned of
_LEAST_CORRELATION = 0.3  # at the shift: below it the images may have little in common
_LEFT_BY_SHIFT = 0.985  # of the variance that raw does not share with gt as they are, at most, is left at the shift
_UNEXPLAINED = 0.8  # of the variance that raw does not share with gt, at most, where gt is flipped
_LEAST_OF_BLOCK = 0.4  # correlation of a block whose shift counts
_FEWEST_BLOCKS = 6
_LEAST_SPAN_OF_SCATTER = 4
_LEAST_KEPT = 0.75  # of the blocks must agree
_OUTLIER = 0.5  # voxels


class Shift(NamedTuple):
    """How far raw lies beyond its ground truth."""

    voxels: tuple  # of raw, along (Z, Y, X) or (Y, X)
    correlation: float  # of the two at this shift
    unshifted: float  # correlation of the two as they are
    is_inside: bool  # among the shifts that were looked for: at the end of the search it may be any

    @property
    def is_known(self):
        """Whether the images have enough in common to tell."""
        return self.correlation >= _LEAST_CORRELATION

    @property
    def steps(self):
        """The shift in words: 2.0, 0.0, -3.0."""
        return ", ".join(f"{round(step, 1) + 0.0:.1f}" for step in self.voxels)

    @property
    def is_certain(self):
        """Whether it is a shift, as far as one block tells."""
        is_far = max(map(abs, self.voxels)) >= _LEAST_SHIFT
        is_better = self.is_known and left_unexplained(self.correlation, self.unshifted) <= _LEFT_BY_SHIFT
        return is_far and is_better and self.is_inside

    def __str__(self):
        return f"{self.steps} voxels ({'ZYX'[-len(self.voxels) :]})"


def left_unexplained(correlation, before):
    """Variance that two images do not share at one correlation, in units of that at another one.

    >>> left_unexplained(0.5, 0)
    0.75
    """
    return (1 - correlation**2) / max(1 - before**2, 1e-9)


def find_shift(raw, gt):
    """Find how far one image lies beyond another one, whatever their blur, noise and unit.

    The correlation is computed for all shifts at once, each over the voxels that both images have then (Padfield,
    doi:10.1109/TIP.2011.2181402); its peak is found to a fraction of a voxel with a parabola along each axis.

    Parameters
    ----------
    raw, gt : ndarray of shape (Z, Y, X) or (Y, X)
        The same field of view in the same voxels, of finite values.

    Returns
    -------
    shift : Shift

    Examples
    --------
    >>> gt = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(8, 40, 40)), 2)
    >>> [round(step) for step in find_shift(np.roll(gt, (1, -3), (1, 2)), gt).voxels]
    [0, 1, -3]
    """
    sigmas, farthest = _SIGMAS[-raw.ndim :], _FARTHEST[-raw.ndim :]
    raw, gt = (ndimage.gaussian_filter(_clip(image), sigmas) for image in (raw, gt))
    most = [min(limit, size // 4) for limit, size in zip(farthest, raw.shape, strict=True)]
    correlation = _correlate(raw - raw.mean(), gt - gt.mean(), most)
    peak = np.unravel_index(np.argmax(correlation), correlation.shape)
    steps = [_refine(correlation, peak, axis) for axis in range(raw.ndim)]
    return Shift(
        tuple(round(float(at + step - limit), 2) + 0.0 for at, step, limit in zip(peak, steps, most, strict=True)),
        float(correlation[peak]),
        float(correlation[tuple(most)]),
        all(0 < at < 2 * limit for at, limit in zip(peak, most, strict=True) if limit),
    )


def _clip(image):
    """An image without its brightest values: hot pixels lie at the same place in all images of a camera."""
    return np.minimum(image, np.percentile(image, _BRIGHTEST), dtype=np.float64)


def _correlate(raw, gt, most):
    """Correlation of two images for all shifts up to `most` voxels along each axis; no shift is in the middle."""
    shape = [fft.next_fast_len(size + limit, real=True) for size, limit in zip(raw.shape, most, strict=True)]
    places = np.ix_(*[np.r_[size - limit : size, 0 : limit + 1] for size, limit in zip(shape, most, strict=True)])
    ones, of_raw, of_gt = (fft.rfftn(image, shape) for image in (np.ones(raw.shape), raw, gt))

    def overlap(one, other):
        """Sums of products over the voxels that both have, for each shift."""
        return fft.irfftn(one * np.conj(other), shape)[places]

    number = np.maximum(np.rint(overlap(ones, ones)), 1)
    raw_sum, gt_sum = overlap(of_raw, ones), overlap(ones, of_gt)
    raw_spread = overlap(fft.rfftn(raw**2, shape), ones) - raw_sum**2 / number
    gt_spread = overlap(ones, fft.rfftn(gt**2, shape)) - gt_sum**2 / number
    spread = np.sqrt(np.maximum(raw_spread, 0) * np.maximum(gt_spread, 0))
    product = overlap(of_raw, of_gt) - raw_sum * gt_sum / number
    return np.divide(product, spread, where=spread > 1e-9 * spread.max(), out=np.zeros_like(spread))


def _refine(correlation, peak, axis):
    """How far from a peak the top of the parabola through it and its neighbours lies, -0.5 to 0.5."""
    line = np.moveaxis(correlation, axis, -1)[tuple(np.delete(peak, axis))]
    at = peak[axis]
    if not 0 < at < len(line) - 1:
        return 0.0
    before, top, after = line[at - 1 : at + 2]
    curvature = before - 2 * top + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


class Orientation(NamedTuple):
    """How the second of two images must be turned to show what the first one shows."""

    flipped: str  # axes
    is_transposed: bool  # Y and X exchanged, after the flips
    correlation: float
    as_it_is: float  # correlation without a turn

    @property
    def is_certain(self):
        """Whether it is turned, and not by chance a little more alike when turned."""
        is_turned = bool(self.flipped) or self.is_transposed
        is_alike = self.correlation >= _LEAST_CORRELATION
        return is_turned and is_alike and left_unexplained(self.correlation, self.as_it_is) < _UNEXPLAINED

    def turn(self, gt):
        """Turn the second image, so that it shows what the first one shows."""
        turned = np.flip(gt, ["ZYX"[-gt.ndim :].index(axis) for axis in self.flipped])
        return np.swapaxes(turned, -1, -2) if self.is_transposed else turned

    def __str__(self):
        flips = f"flipped along {' and '.join(self.flipped)}" if self.flipped else ""
        return " and ".join(filter(None, [flips, "with Y and X exchanged" if self.is_transposed else ""]))


def find_orientation(raw, gt, *, with_turns=True):
    """Find by which flips one image is most like another one: the best `Orientation`, which may be none.

    Parameters
    ----------
    raw, gt : ndarray of shape (Z, Y, X) or (Y, X)
        The middle of two images of the same place, in the same voxels.
    with_turns : bool
        Look at flips along Y and X and at quarter turns, too, not only at a reversed Z.

    Examples
    --------
    >>> gt = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(8, 40, 40)), 2)
    >>> print(find_orientation(gt[::-1, :, ::-1], gt))
    flipped along Z and X
    """
    raw, gt = (_halve(image) for image in (raw, gt))
    axes = "ZYX"[-raw.ndim :]
    could_turn = with_turns and raw.shape[-1] == raw.shape[-2]
    flips = ["".join(some) for number in range(raw.ndim + 1) for some in itertools.combinations(axes, number)]
    kinds = itertools.product(flips, (False, True)) if could_turn else ((flip, False) for flip in flips)
    found = {}
    for flipped, is_transposed in kinds:
        if with_turns or flipped in ("", "Z"):
            kind = Orientation(flipped, is_transposed, 0.0, 0.0)
            found[flipped, is_transposed] = find_shift(raw, kind.turn(gt)).correlation
    best = max(found, key=found.get)
    return Orientation(*best, found[best], found["", False])


def _halve(image):
    """An image in voxels twice as large along Y and X, if it is not small."""
    return image if min(image.shape[-2:]) < 32 else average_cells(image[..., np.newaxis], 2)[..., 0]


class Distortion(NamedTuple):
    """How the shift between two images changes from place to place: the straight lines through those of some blocks."""

    matrix: np.ndarray  # change of the shift (first axis) for each voxel along an axis (second), in Z, Y, X or Y, X
    shape: tuple  # of the images
    span: float  # voxels by which the shift differs across the blocks
    scatter: float  # voxels, of the blocks around the lines
    kept: float  # share of the blocks that follow them
    least_span: float  # voxels that count

    @property
    def is_certain(self):
        """Whether the shift differs from place to place."""
        is_clear = self.span >= max(self.least_span, _LEAST_SPAN_OF_SCATTER * self.scatter)
        return is_clear and self.kept >= _LEAST_KEPT

    def __str__(self):
        y, x = self.matrix[-2:, -2:]
        *depth, height, width = self.shape
        turn = (x[0] - y[1]) / 2
        parts = {  # in words, by the voxels that they move the ends of the image against each other
            f"turned by {np.degrees(abs(turn)):.1f} degrees in XY": abs(turn) * max(height, width),
            f"scaled by {1 + y[0]:.3f} along Y and {1 + x[1]:.3f} along X": max(abs(y[0]) * height, abs(x[1]) * width),
        }
        if depth:
            along_z = np.abs(self.matrix[1:, 0]).max() * depth[0]
            tilt = np.abs(self.matrix[0, 1:] * self.shape[1:]).max()
            parts |= {
                f"drifting sideways along Z, by {along_z:.1f} voxels from the first to the last plane": along_z,
                f"tilted, by {tilt:.1f} planes from one side to the other": tilt,
                f"scaled by {1 + self.matrix[0, 0]:.3f} along Z": abs(self.matrix[0, 0]) * depth[0],
            }
        return max(parts, key=parts.get)


def find_distortion(blocks, shape, *, least_span=0.75):
    """Find how the shift between two images changes from place to place: a `Distortion`, or None of too few blocks.

    `blocks` are tuples of the centre, in voxels, and the same region of both images, of this `shape`; a shift that
    differs by less than `least_span` voxels across them is taken for the same. Of blocks with
    little in common the shift is not known. Straight lines are laid through the others, those that are more alike
    count more, and outliers are left out.
    """
    found = [(centre, find_shift(*images)) for centre, *images in blocks]
    found = [each for each in found if each[1].is_inside and each[1].correlation >= _LEAST_OF_BLOCK]
    if len(found) < _FEWEST_BLOCKS:
        return None
    centres, shifts = np.array([centre for centre, _ in found], float), np.array([shift.voxels for _, shift in found])
    correlation = np.array([shift.correlation for _, shift in found])
    weight = correlation / np.sqrt(1.02 - correlation**2)
    terms = np.column_stack([np.ones(len(found)), centres - centres.mean(axis=0)])
    kept = np.ones(len(found), bool)
    for _ in range(3):
        lines = np.linalg.lstsq(terms[kept] * weight[kept, None], shifts[kept] * weight[kept, None], rcond=None)[0]
        rest = np.abs(shifts - terms @ lines).max(axis=1)
        kept = rest <= max(_OUTLIER, 3 * np.median(rest))
    on_lines = terms @ lines
    squares = np.sum((shifts - on_lines)[kept] ** 2, axis=1)
    scatter = np.sqrt(np.average(squares, weights=weight[kept] ** 2))
    span = float(np.ptp(on_lines, axis=0).max())
    return Distortion(lines[1:].T, tuple(shape), span, float(scatter), float(kept.mean()), least_span)
