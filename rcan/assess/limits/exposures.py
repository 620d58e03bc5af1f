"""One exposure of a specimen: degraded, restored, and measured.

Specimens are exposed as in `rcan.simulation`, normalised as `apply` does, restored, and compared with their ground
truth beside the best classical method. The noise of an exposure depends on seed, step and number alone, so that a study
goes on where it was interrupted.
"""

from typing import NamedTuple

import numpy as np

from rcan.assess.limits.records import MeasuredExposure, MeasuredImage
from rcan.assess.references import Reference, best_references
from rcan.assess.resolution.measures import AGAINST_TRUTH, decorrelation_resolution, fourier_resolution
from rcan.data.views import view_image
from rcan.fingerprint.measure import SIGNAL_PERCENTILES
from rcan.scores import score
from rcan.simulation.camera import expose
from rcan.simulation.optics import blur

__all__ = ["Exposure", "compare_exposure", "measure_exposure", "noise_seed", "signal_to_noise", "take_exposure"]


def signal_to_noise(image, *, photons, background, read_noise, percentiles=SIGNAL_PERCENTILES):
    """Signal-to-noise ratio of an exposure at its bright end, mean over the channels: ``S / sqrt(S + B + r²)``.

    ``S`` is the range of the expected image between two percentiles in photons, ``B`` what is below it (the camera's
    background, and the image's own at the low percentile), ``r`` the read noise: the one definition of this package,
    see `rcan.simulation.camera.expose`. `image` (Z, Y, X, C) is the expected relative signal, blurred but without
    noise.

    >>> image = np.linspace(0, 1, 100_001).reshape(1, 1, -1, 1)
    >>> snr = signal_to_noise(image, photons=96, background=0, read_noise=2, percentiles=(0, 100))
    >>> round(snr, 3)  # 96 / sqrt(96 + 4)
    9.6
    """
    low, high = np.percentile(image, percentiles, axis=(0, 1, 2))
    return float(np.mean(photons * (high - low) / np.sqrt(photons * high + background + read_noise**2)))


def noise_seed(seed, number, step):
    """Seed of the noise of one exposure: that of a step does not depend on the others of its ladder."""
    return seed, number, *(round(1e6 * degree) for degree in step)


def take_exposure(specimen, step, microscope, rng):
    """Expose a specimen: grey values (Z, Y, X, C), uint16, and the relative signal that was expected."""
    image = blur(
        specimen.density,
        fwhm=microscope.fwhm,
        voxel_size=specimen.voxel_size,
        factor=step.blur,
        source_blur=specimen.source_blur,
    )
    return expose(image, photons=step.photons, rng=rng, **microscope.camera), image


class Exposure(NamedTuple):
    """An exposure of a specimen, restored by the network and by the best classical method."""

    snr: float
    raw: np.ndarray  # (Z, Y, X, C), background 0 and signal 1
    restored: np.ndarray
    method: str  # the classical one of highest PSNR
    reference: Reference


def compare_exposure(restorer, specimen, step, *, microscope, scaling, rng):
    """Expose a specimen, and restore it by the network and by classical methods: an `Exposure`."""
    picture, image = take_exposure(specimen, step, microscope, rng)
    camera = {"background": microscope.background, "read_noise": microscope.read_noise}
    snr = signal_to_noise(image, photons=step.photons, **camera)
    view = view_image(picture, name=f"{specimen.name} at {step.photons:g} photons", **scaling)
    raw = view.read(0)
    missing = np.sqrt(step.blur**2 - 1) * np.array(microscope.fwhm)  # from the ground truth to raw
    references = best_references(
        raw, specimen.gt, voxel_size=specimen.voxel_size, fwhm=tuple(missing.tolist()) if missing.any() else None
    )
    method, best = max(references.items(), key=lambda item: item[1].scores["psnr"])
    restored = restorer(view.read_input(0))
    if not np.isfinite(restored).all():
        raise ValueError(
            f"{specimen.name} at {step.photons:g} photons and blur {step.blur:g} is restored to NaN or infinite "
            "values: the network is damaged. Name another with -m."
        )
    return Exposure(snr, raw, restored, method, best)


def measure_exposure(restorer, specimen, step, *, microscope, scaling, rng):
    """Expose, restore and judge one specimen: a `MeasuredExposure`, with the resolution of the first channel.

    `restorer` is a function from the network's input (Z, Y, X, C) to the restored volume; `scaling` says how grey
    values become that input, as of a `TrainingRecord`.
    """
    found = compare_exposure(restorer, specimen, step, microscope=microscope, scaling=scaling, rng=rng)
    best = found.reference
    truth = decorrelation_resolution(specimen.gt[..., 0], specimen.voxel_size)
    images = {
        "raw": MeasuredImage(**_measure(found.raw, specimen)),
        "restored": MeasuredImage(**_measure(found.restored, specimen)),
        "reference": MeasuredImage(
            **_measure(best.image, specimen, best.scores), name=found.method, setting=best.setting
        ),
        "gt": MeasuredImage(**truth._asdict()),
    }
    return MeasuredExposure(specimen=specimen.name, snr=found.snr, images=images)


def _measure(image, specimen, scores=None):
    """Scores and resolution; details that a network makes up are fine, but not right."""
    scores = scores or score(image, specimen.gt)
    first, gt = image[..., 0], specimen.gt[..., 0]
    right = fourier_resolution(first, gt, specimen.voxel_size, threshold=AGAINST_TRUTH)
    return {
        **{name: scores[name] for name in ("psnr", "ssim")},
        **{f"{direction}_true": length for direction, length in right._asdict().items()},
        **decorrelation_resolution(first, specimen.voxel_size)._asdict(),
    }
