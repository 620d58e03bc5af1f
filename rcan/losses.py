"""Losses and image-quality measures that Keras trains by, on batches of patches and on every backend.

`gt` and `restored` are `(N, Z, Y, X, C)` or `(N, Y, X, C)`, background 0 and signal 1: the data range is 1.
Results are one value for each image of the batch, shape `(N,)`.

References: Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
"""

import math

from rcan.keras_setup import ops
from rcan.scores import SSIM_RADIUS, similarity_of_moments, ssim_window

__all__ = ["LOSSES", "METRICS", "light_weights", "psnr", "ssim", "weighted_loss"]

_CHARBONNIER_WIDTH = 1e-3  # smaller differences count by their square, as in Lai et al., arXiv:1704.03915
_MIDDLE_SIGNAL = 16  # times the noise, of an image of weight 1


def psnr(gt, restored):
    """Peak signal-to-noise ratio in dB, for a data range of 1; at most 120, where images are equal up to rounding.

    >>> import numpy as np
    >>> round(float(psnr(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 0.1))[0]), 3)
    20.0
    """
    error = _mean(ops.square(restored - gt))
    return -10 / math.log(10) * ops.log(ops.maximum(error, 1e-12))


def ssim(gt, restored):
    """Structural similarity with a Gaussian window, for a data range of 1 (Wang et al.): mean over voxels and channels.

    The window (sigma 1.5, 11 voxels wide) shrinks to the largest odd size that fits on an axis thinner than it; only
    voxels whose whole window lies inside count. Where no axis is thinner than 11 it equals
    ``skimage.metrics.structural_similarity`` with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1``.
    """
    moments = ops.stack([gt, restored, gt * gt, restored * restored, gt * restored])
    for axis in range(2, len(moments.shape) - 1):
        moments = _smooth(moments, axis)
    return _mean(similarity_of_moments(*(moments[i] for i in range(5))))


def _smooth(x, axis):
    """Average along one axis with the window, keeping only full windows."""
    weights = ssim_window(x.shape[axis] or 2 * SSIM_RADIUS + 1)
    before, last = (slice(None),) * axis, len(weights) - 1
    shifted = (x[(*before, slice(k, k - last or None))] for k in range(last + 1))
    return sum(float(weight) * part for weight, part in zip(weights, shifted, strict=True))


def _mean(x):
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))


METRICS = {"psnr": psnr, "ssim": ssim}
LOSSES = {
    "mae": lambda gt, restored: _mean(ops.abs(restored - gt)),
    "mse": lambda gt, restored: _mean(ops.square(restored - gt)),
    "charbonnier": lambda gt, restored: _mean(ops.sqrt(ops.square(restored - gt) + _CHARBONNIER_WIDTH**2)),
    "ssim": lambda gt, restored: 1 - ssim(gt, restored),
}


def light_weights(raw):
    """Weights of stabilised images, (N,), by how strong their signal is: its cube root in units of the noise.

    `raw` is (N, ..., 2 C), what `rcan.intensity.stabilise` makes. In a training for a range of light the errors at
    little light are large, and chance decides about most of them: without weights they drown what could be learned
    at much light.

    >>> import numpy as np
    >>> raw = np.stack([np.full((4, 4, 2), 1 - np.log10(signal) / 3) for signal in (2, 16, 128)])
    >>> light_weights(raw).numpy().round(2)
    array([0.5, 1. , 2. ])
    """
    noise = _mean(raw[..., raw.shape[-1] // 2 :])  # 1 - log10(signal) / 3
    return 10 ** (1 - noise) / _MIDDLE_SIGNAL ** (1 / 3)


def weighted_loss(weights):
    """Make a loss function of two batches, `loss(gt, restored)`, from the weight of each of `LOSSES`.

    >>> import numpy as np
    >>> loss = weighted_loss({"mae": 1, "mse": 0.5})
    >>> float(loss(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 2.0))[0])
    4.0
    """
    return lambda gt, restored: sum(weight * LOSSES[name](gt, restored) for name, weight in weights.items())
