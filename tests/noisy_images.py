"""Images whose scores are known from other libraries, for tests of scores."""

import numpy as np
from scipy import ndimage

SSIM = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def make_images(rng, shape):
    """Ground truth with structure, background 0 and signal 1, and a noisy image of it with another gain."""
    gt = ndimage.gaussian_filter(rng.normal(size=shape), [*(1.5 for _ in shape[:-1]), 0])
    gt = (gt - gt.min()) / np.ptp(gt)
    return (0.8 * gt + 0.05 + rng.normal(0, 0.05, shape)).astype(np.float32), gt.astype(np.float32)


def fit(image, gt):
    """Each channel of an image on the straight line of least squares through the ground truth."""
    channels = [
        np.polyval(np.polyfit(one.ravel(), true.ravel(), 1), one)
        for one, true in zip(*(np.moveaxis(x.astype(float), -1, 0) for x in (image, gt)), strict=True)
    ]
    return np.stack(channels, axis=-1)
