"""How far down and up a network can be trusted: known specimens, degraded step by step.

At each *step*, a number of photons and a factor of blur, specimens are exposed as in `rcan.simulation`, normalised as
`apply` does, restored, and judged against their ground truth beside the classical references. The noise of an exposure
depends on seed, step and number alone, so that a study goes on where it was interrupted.

The blur factors of the ladder are those of the study of Chen et al., Nat. Methods 18, 678 (2021),
doi:10.1038/s41592-021-01155-x, with steps between them.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rcan.assess.limits.specimens import range_of
from rcan.assess.references import Reference, best_references
from rcan.assess.resolution.measures import AGAINST_TRUTH, decorrelation_resolution, fourier_resolution
from rcan.atomic_io import read_json, write_json
from rcan.fingerprint.measure import SIGNAL_PERCENTILES
from rcan.intensity import normalise
from rcan.progress import Progress
from rcan.restoration.engine import upscaling_of
from rcan.restoration.tiled import restore
from rcan.scores import score
from rcan.simulation.camera import expose
from rcan.simulation.optics import blur

__all__ = [
    "Exposure",
    "Microscope",
    "Step",
    "adapt_network",
    "compare_exposure",
    "measure_exposure",
    "measure_steps",
    "noise_seed",
    "open_study",
    "signal_to_noise",
    "take_exposure",
]

_SETTINGS = "settings.json"


class Step(NamedTuple):
    """How far specimens are degraded: photons at signal 1, and width of a point over that in the ground truth."""

    photons: float
    blur: float

    @property
    def name(self):
        """Names files and folders."""
        return f"photons_{self.photons:.10g}_blur_{self.blur:.10g}"


class Microscope(NamedTuple):
    """What all exposures share, in the units of `rcan.simulation.expose`."""

    fwhm: tuple  # of a point in the ground truth, µm, (Z, Y, X)
    background: float
    offset: float
    gain: float
    read_noise: float


def signal_to_noise(image, *, photons, background, read_noise, percentiles=SIGNAL_PERCENTILES):
    """Signal-to-noise ratio of an exposure at its bright end: ``S / sqrt(S + B + r²)``.

    ``S`` is the range of the expected image between two percentiles in photons, ``B`` what is below it (the camera's
    background, and the image's own at the low percentile), ``r`` the read noise: the one definition of this package,
    see `rcan.simulation.expose`.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
        Expected relative signal, blurred but without noise.
    photons, background, read_noise : float
        As `rcan.simulation.expose`.
    percentiles : tuple of float
        Background and signal.

    Returns
    -------
    snr : float
        Mean over the channels.

    Examples
    --------
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
    """Expose a specimen.

    Parameters
    ----------
    specimen : rcan.assess.limits.specimens.Specimen
    step : Step
    microscope : Microscope
    rng : numpy.random.Generator

    Returns
    -------
    picture : ndarray of shape (Z, Y, X, C), uint16
        Grey values.
    image : ndarray of shape (Z, Y, X, C), float32
        Expected relative signal.

    Warns
    -----
    UserWarning
        As `rcan.simulation.expose`.
    """
    fwhm, *camera = microscope
    image = blur(
        specimen.density,
        fwhm=fwhm,
        voxel_size=specimen.voxel_size,
        factor=step.blur,
        source_blur=specimen.source_blur,
    )
    camera = dict(zip(microscope._fields[1:], camera, strict=True))
    return expose(image, photons=step.photons, rng=rng, **camera), image


class Exposure(NamedTuple):
    """One exposure of a specimen, and what is made of it.

    Attributes
    ----------
    snr : float
    raw, restored : ndarray of shape (Z, Y, X, C)
        Background 0 and signal 1.
    name : str
        Of the classical reference of highest PSNR.
    reference : rcan.assess.references.Reference
    """

    snr: float
    raw: np.ndarray
    restored: np.ndarray
    name: str
    reference: Reference


def compare_exposure(restorer, specimen, step, *, microscope, percentiles, rng):
    """Expose a specimen, and restore it by the network and by classical methods.

    Parameters
    ----------
    restorer, specimen, step, microscope, percentiles, rng
        As `measure_exposure`.

    Returns
    -------
    exposure : Exposure
    """
    picture, image = take_exposure(specimen, step, microscope, rng)
    camera = {"background": microscope.background, "read_noise": microscope.read_noise}
    snr = signal_to_noise(image, photons=step.photons, **camera)
    raw = normalise(picture, range_of(picture, percentiles, f"{specimen.name} at {step.photons:g} photons"))
    missing = np.sqrt(step.blur**2 - 1) * np.array(microscope.fwhm)  # from the ground truth to raw
    references = best_references(
        raw,
        specimen.gt,
        voxel_size=specimen.voxel_size,
        fwhm=tuple(missing.tolist()) if missing.any() else None,
    )
    name, best = max(references.items(), key=lambda item: item[1].scores["psnr"])
    restored = restorer(raw)
    if not np.isfinite(restored).all():
        raise ValueError(
            f"{specimen.name} at {step.photons:g} photons and blur {step.blur:g} is restored to NaN or infinite "
            "values: the network is damaged. Name another with -m."
        )
    return Exposure(snr, raw, restored, name, best)


def measure_exposure(restorer, specimen, step, *, microscope, percentiles, rng):
    """Expose, restore and judge one specimen.

    Parameters
    ----------
    restorer : callable
        From a normalised volume `(Z, Y, X, C)` to the restored one.
    specimen : rcan.assess.limits.specimens.Specimen
    step : Step
    microscope : Microscope
    percentiles : tuple of float
        That become 0 and 1 in the raw image: the network's own.
    rng : numpy.random.Generator

    Returns
    -------
    exposure : dict
        ``specimen``, ``snr`` and ``images``: by ``raw``, ``restored`` and ``reference`` (the classical one of highest
        PSNR, with its ``name`` and ``setting``) the ``psnr`` in dB and ``ssim`` after an affine match, and in µm, of
        the first channel, ``lateral`` and ``axial``, how fine its details are, and ``lateral_true`` and
        ``axial_true``, how fine they are right: by image decorrelation analysis and by Fourier ring correlation with
        the ground truth, None where it cannot be measured. Of ``gt`` the first two alone. JSON.
    """
    found = compare_exposure(
        restorer, specimen, step, microscope=microscope, percentiles=percentiles, rng=rng
    )
    best = found.reference
    images = {
        "raw": _judge(found.raw, specimen),
        "restored": _judge(found.restored, specimen),
        "reference": {
            **_judge(best.image, specimen, best.scores),
            "name": found.name,
            "setting": best.setting,
        },
        "gt": decorrelation_resolution(specimen.gt[..., 0], specimen.voxel_size),
    }
    return {"specimen": specimen.name, "snr": found.snr, "images": images}


def _judge(image, specimen, scores=None):
    """Scores and resolution; details that a network makes up are fine, but not right."""
    scores = scores or score(image, specimen.gt)
    one, gt = image[..., 0], specimen.gt[..., 0]
    right = fourier_resolution(one, gt, specimen.voxel_size, threshold=AGAINST_TRUTH)
    return {
        **{name: scores[name] for name in ("psnr", "ssim")},
        **{f"{direction}_true": length for direction, length in right.items()},
        **decorrelation_resolution(one, specimen.voxel_size),
    }


def adapt_network(model, num_channels):
    """A network as a function from a normalised volume to the restored one.

    Parameters
    ----------
    model : keras.Model
        Of two or three dimensions: a two-dimensional one restores plane by plane.
    num_channels : int
        Of the specimens.

    Returns
    -------
    restorer : callable

    Raises
    ------
    ValueError
        If the network enlarges, or reads or writes another number of channels.
    """
    ndim, channels = len(model.input_shape) - 2, (model.input_shape[-1], model.output_shape[-1])
    if channels != (num_channels, num_channels):
        raise ValueError(
            f"the network reads {channels[0]} and writes {channels[1]} channels, the ground truth has {num_channels}: "
            "limits are measured where all three are the same. Name other ground truth with -i."
        )
    if set(upscaling_of(model)) != {1}:
        raise ValueError("the network enlarges its input: limits are measured of networks that do not.")
    if ndim == 3:
        return lambda raw: restore(model, raw)
    return lambda raw: np.stack([restore(model, plane) for plane in raw])


def open_study(folder, settings, *, overwrite=False):
    """Make the folder of a study's steps, or find it again.

    Parameters
    ----------
    folder : Path
    settings : dict
        All that decides about the results of a step. JSON.
    overwrite : bool
        Empty the folder if it is that of a study.

    Raises
    ------
    FileExistsError
        If the folder holds steps of other settings.
    """
    settings = json.loads(json.dumps(settings, default=str))
    path = folder / _SETTINGS
    earlier = read_json(path) if path.is_file() else None
    if earlier is None and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not of this command: name another folder with -o.")
    is_begun = earlier is not None and any(part != path for part in folder.iterdir())
    if is_begun and overwrite:
        shutil.rmtree(folder)
    elif is_begun and earlier != settings:
        changes = [
            f"{key} (was {json.dumps(earlier.get(key))}, is {json.dumps(settings.get(key))})"
            for key in {**settings, **earlier}
            if earlier.get(key) != settings.get(key)
        ]
        raise FileExistsError(
            f"{folder.parent} holds limits of other settings: {', '.join(changes)}. Name another folder with -o, or "
            "replace them with --overwrite."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def measure_steps(
    steps, specimens, restorer_of, *, folder, num_exposures, microscope, percentiles, seed, label="Measuring"
):
    """Measure steps, and keep each that is finished.

    Parameters
    ----------
    steps : list of Step
    specimens : list of rcan.assess.limits.specimens.Specimen
        Exposed in turn.
    restorer_of : callable
        From a step to the restorer of `measure_exposure`.
    folder : Path
        From `open_study`: a step that is there already is not measured again.
    num_exposures : int
        At each step.
    microscope, percentiles
        As `measure_exposure`.
    seed : int
        Of the noise.

    Returns
    -------
    measured : dict of Step to dict
        ``photons``, ``blur``, ``snr`` (mean over the exposures) and ``exposures``, as `measure_exposure` returns them.
    """
    paths = {step: Path(folder) / f"{step.name}.json" for step in steps}
    measured = {step: read_json(path) for step, path in paths.items() if path.is_file()}
    total = len(steps) * num_exposures
    options = {"microscope": microscope, "percentiles": percentiles}
    with Progress(total, label, unit="image", done=len(measured) * num_exposures) as progress:
        for step in (step for step in steps if step not in measured):
            restorer, exposures = restorer_of(step), []
            for number in range(num_exposures):
                rng = np.random.default_rng(noise_seed(seed, number, step))
                specimen = specimens[number % len(specimens)]
                exposures.append(measure_exposure(restorer, specimen, step, rng=rng, **options))
                progress.advance(photons=f"{step.photons:g}", blur=f"{step.blur:g}")
            snr = float(np.mean([exposure["snr"] for exposure in exposures]))
            measured[step] = {**step._asdict(), "snr": snr, "exposures": exposures}
            write_json(paths[step], measured[step])
    return {step: measured[step] for step in steps}
