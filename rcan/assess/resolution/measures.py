"""Resolution in µm, along the planes of a volume and along its z axis, without a ground truth.

All three measures answer one question: up to which frequency is there signal rather than noise? The resolution is
the inverse of that frequency. It depends on optics, noise and sampling together; of the same optics, a darker image
has a worse resolution. It is not the width of a point: a Gaussian blur of full width w passes frequencies beyond
1/w wherever the noise lets them.

Frequencies end at Nyquist, so that no resolution is below two voxels. They are told apart by the inverse of the
extent of the image: along 32 planes, an abrupt end of the signal at a quarter of the sampling frequency is found up
to 15 % too high, along 256 up to 3 %.

What the measures mean for restored images:

- A network removes noise and fills in structure from what it learnt. What it fills in is correlated with itself and
  not with the specimen: `single_image_resolution` of a restored image is meaningless (its voxels have no independent
  noise), and `decorrelation_resolution` says how fine the structure in the image is, not whether it is true.
- `fourier_resolution` of two exposures, restored each for itself, says up to which frequency the restorations
  repeat. The network's expectations are in both, and so are its errors of the same kind: an upper bound.
- `fourier_resolution` of a restored image and its ground truth says up to which frequency the restoration is right.
"""

import math
from typing import NamedTuple

from rcan.assess.resolution.decorrelation import decorrelation_curves
from rcan.assess.resolution.fourier import fourier_curves, single_image_curves

__all__ = ["AGAINST_TRUTH", "Resolution", "decorrelation_resolution", "fourier_resolution", "single_image_resolution"]

# Correlation of an image with one without noise, where two exposures have 1/7: 0.378
AGAINST_TRUTH = math.sqrt(1 / 7)


class Resolution(NamedTuple):
    """Resolution in µm, along planes and along z; None where it cannot be measured.

    That is where a voxel size is unknown, an axis has fewer than 16 voxels, or the image does not show it. Planes have
    no axial resolution.
    """

    lateral: float | None
    axial: float | None

    @classmethod
    def of_curves(cls, curves):
        """The resolutions of curves by direction."""
        return cls(*(curves[direction] and curves[direction].resolution for direction in cls._fields))


def fourier_resolution(one, other, voxel_size, *, threshold=1 / 7):
    """Resolution by Fourier ring correlation of two exposures of the same object, (Z, Y, X) or (Y, X): a `Resolution`.

    The exposures must not be shifted against each other, and their noise must be independent: a fixed pattern of the
    camera, or a filter applied to both, counts as structure. Each may have its own unit. The voxel size is (z, y, x),
    or (y, x), in µm. The resolution ends where the correlation falls to the threshold [1]_: 1/7 for two exposures;
    against an image without noise (a ground truth) `AGAINST_TRUTH` stands for the same signal-to-noise ratio. It is
    two voxels where all frequencies correlate, None where nothing does. A ValueError says where the shapes differ.

    .. [1] Nieuwenhuizen et al., Nat. Methods 10, 557 (2013), doi:10.1038/nmeth.2448

    White noise behind a Gaussian blur of 0.2 µm has ``snr = 100 * exp(-(0.4 * pi * frequency)**2)`` here, which
    is 1/6 at 2.01 cycles/µm, 1 / (0.5 µm).

    >>> import numpy as np
    >>> from scipy import ndimage
    >>> rng = np.random.default_rng(0)
    >>> specimen = ndimage.gaussian_filter(rng.normal(size=(512, 512)), 2, mode="wrap")
    >>> one, other = (specimen + rng.normal(0, 0.1, specimen.shape) for _ in range(2))
    >>> resolution = fourier_resolution(one, other, (0.1, 0.1))
    >>> round(resolution.lateral, 2), resolution.axial
    (0.5, None)
    """
    return Resolution.of_curves(fourier_curves(one, other, voxel_size, threshold=threshold))


def single_image_resolution(image, voxel_size):
    """Resolution by Fourier ring correlation of the checkerboard halves of one exposure (Z, Y, X) or (Y, X).

    The result is that of `fourier_resolution` for two exposures like this one [1]_. It takes for granted that

    - the noise is independent from voxel to voxel: of a picture as the camera took it. Of a smoothed,
      interpolated, deconvolved or restored image, the noise looks like structure, and the result is too fine;
    - laterally, the structure ends below 0.7 of the Nyquist frequency (is coarser than 2.8 voxels); if it fades
      out beyond that, the result is up to a third too coarse.

    References
    ----------
    .. [1] After Koho et al., Nat. Commun. 10, 3103 (2019), doi:10.1038/s41467-019-11024-z
    """
    return Resolution.of_curves(single_image_curves(image, voxel_size))


def decorrelation_resolution(image, voxel_size):
    """Resolution by image decorrelation analysis [1]_ of one image (Z, Y, X) or (Y, X).

    None where it shows noise alone, or structure up to the Nyquist frequency.

    References
    ----------
    .. [1] Descloux, Grussmayer, Radenovic, Nat. Methods 16, 918 (2019), doi:10.1038/s41592-019-0515-7
    """
    return Resolution.of_curves(decorrelation_curves(image, voxel_size))
