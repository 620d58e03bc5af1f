"""Sections of a volume, and the rings of equal frequency in their Fourier transforms.

Lateral structure is read from XY planes, axial structure from XZ and YZ sections close to the z axis of their
Fourier transforms. All frequencies are in cycles/µm, so that voxels may be longer in z than in y and x.
"""

import math

import numpy as np
from scipy import fft, signal

__all__ = ["DIRECTIONS", "FrequencyRings", "cut_sections"]

DIRECTIONS = ("lateral", "axial")

_LEAST_SIZE = 16  # voxels along each axis of a section: fewer leave too few frequencies that a window resolves
_MOST_PLANES = 16  # XY planes
_MOST_SECTIONS = 32  # XZ sections, and as many YZ sections: those are smaller
_MOST_CANDIDATES = 128  # evenly spaced, to choose those from
_PADDED_SIZE = 256  # zeros up to here give short axes a finely sampled spectrum
_HALF_ANGLE = math.pi / 6  # of the sector around the z axis
# Harris, Proc. IEEE 66, 51 (1978), in Fourier coefficients
_HANN_NOISE_BANDWIDTH = 1.5  # so many neighbours hold one independent value
_HANN_LOBE = 2  # half width of the main lobe: removing the mean takes the frequencies below with it


class FrequencyRings:
    """Which Fourier coefficients of a section belong to which ring of equal frequency.

    Lateral rings lie around frequency 0. Axial rings are pieces of straight lines, of one frequency in z and at
    most 30° from the z axis. The frequencies that a microscope passes fill a body that is shorter in z than in x:
    lines meet its end on the z axis, where arcs around 0 would reach beyond.

    `shape` and `spacing` (µm) are those of a section: (y, x), or (z, y) or (z, x) where the rings are axial.

    Attributes
    ----------
    frequencies : ndarray of shape (rings,)
        In cycles/µm, evenly spaced, above 0 and up to Nyquist.
    counts : ndarray of shape (rings,)
        Number of coefficients in each ring. Of a coefficient and its opposite, which is equal, one counts.
    oversampling : float
        Rings for each frequency that the section resolves; more than 1 where it is padded with zeros.
    first : int
        The first ring that is free of the mean.
    independence : float
        Share of the coefficients that are independent of each other in white noise.
    checkerboard_band : ndarray of bool
        Coefficients of frequencies that half of the pixels, taken like the white squares of a checkerboard, can
        tell from all others: ``abs(row) + abs(column) < 1/2`` in cycles/pixel.
    """

    def __init__(self, shape, spacing, *, axial):
        padded = [fft.next_fast_len(max(size, _PADDED_SIZE), real=True) for size in shape]
        rows = fft.fftfreq(padded[0], spacing[0])[:, None]
        columns = fft.rfftfreq(padded[1], spacing[1])
        along = slice(0, 1) if axial else slice(None)  # the axes that limit the rings
        step, resolved = (
            max(1 / (size * width) for size, width in zip(sizes[along], spacing, strict=False))
            for sizes in (padded, shape)
        )
        self.frequencies = step * np.arange(1, int(0.5 / max(spacing[along]) / step + 1e-6) + 1)
        self.oversampling = resolved / step
        self.first = math.ceil(_HANN_LOBE * self.oversampling) - 1
        self.independence = math.prod(shape) / math.prod(padded) / _HANN_NOISE_BANDWIDTH**2
        self.checkerboard_band = abs(rows) * spacing[0] + columns * spacing[1] < 0.5

        inside = (columns > 0) | (rows >= 0)  # of column 0, the transform holds the opposites as well
        if axial:
            inside &= columns <= abs(rows) * math.tan(_HALF_ANGLE)
        radius = abs(rows) if axial else np.hypot(rows, columns)
        numbers = np.minimum(np.rint(radius / step), len(self.frequencies) + 1)
        self._numbers = np.where(inside, numbers, 0).astype(np.intp).ravel()
        self._padded = padded
        self._window = np.outer(*(signal.windows.hann(size + 2)[1:-1] for size in shape))
        self.counts = self.sum(np.ones(inside.shape))

    def fade(self, section):
        """Set the mean of a section (rows, columns) to 0 and fade it out towards its edges (Hann's window)."""
        section = section.astype(np.float64) - section.min()  # a constant becomes 0, without rounding
        return self._window * (section - np.average(section, weights=self._window))

    def transform(self, section):
        """Fourier transform, finely sampled, of a section from `fade`."""
        return fft.rfft2(section, s=self._padded)

    def sum(self, values):
        """Add up values, one for each coefficient of `transform`, in each ring: (rings,)."""
        return np.bincount(self._numbers, values.ravel(), minlength=len(self.frequencies) + 2)[1:-1]


def cut_sections(images, voxel_size, direction):
    """Cut one or two images of an object, (Z, Y, X) or (Y, X), into the sections that show most of it.

    Yields `FrequencyRings`, whose frequencies are the same for all sections, and a section (rows, columns) of each
    image, faded out at its edges: at most 16 XY planes in direction ``"lateral"``, or 32 XZ and 32 YZ sections in
    ``"axial"``. There are none where a voxel size is unknown, or where an axis of the sections has fewer than 16
    voxels. A ValueError says where the shapes differ.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1 or len(images[0].shape) not in (2, 3):
        raise ValueError(
            f"Images to measure are {' and '.join(map(str, sorted(shapes)))}: they must be of one shape, (Z, Y, X) "
            "or (Y, X). Crop the larger one, and take a single channel and time point of each."
        )
    lengths = dict(zip("zyx", (1, *images[0].shape)[-3:], strict=True))
    sizes = dict(zip("zyx", (None, None, None, *(voxel_size or ()))[-3:], strict=True))
    for across in "z" if direction == "lateral" else "yx":
        axes = [axis for axis in "zyx" if axis != across]
        if any(sizes[axis] is None or lengths[axis] < _LEAST_SIZE for axis in axes):
            continue
        shape, spacing = ([table[axis] for axis in axes] for table in (lengths, sizes))
        rings = FrequencyRings(shape, spacing, axial=direction == "axial")
        stacks = [np.moveaxis(image.reshape(*lengths.values()), "zyx".index(across), 0) for image in images]
        for number in _strongest(stacks, _MOST_PLANES if across == "z" else _MOST_SECTIONS):
            yield rings, [rings.fade(stack[number]) for stack in stacks]


def _strongest(stacks, most):
    """Numbers of the sections with most structure: by covariance, so that independent noise does not count."""
    candidates = np.arange(0, len(stacks[0]), math.ceil(len(stacks[0]) / _MOST_CANDIDATES))
    pairs = ((stacks[0][number], stacks[-1][number]) for number in candidates)
    strength = [np.mean((one - one.mean()) * (other - other.mean())) for one, other in pairs]
    return candidates[np.argsort(strength)[::-1][:most]]
