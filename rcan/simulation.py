"""Simulated microscopy, in the order of the physics: phantom, optics, photons, camera.

A phantom is the density of fluorophores, background 0 and signal up to 1. The optics blur it, the blurred
density sets the photons expected at each voxel, and the camera counts them with noise. Arrays are
`(Z, Y, X, C)`, lengths are in µm, and all randomness comes from the NumPy generator that is handed in.

Pairs are made of phantoms, as in the blur study of Chen et al. (solid and hollow spheres, blurred two, three
and four times as wide as the sharp image), or of a real volume, which then is the ground truth itself::

    raw, gt = simulate_pair(make_phantom("mixture", (32, 256, 256), voxel_size=voxel_size, rng=rng), ...)
    raw, gt = degrade(density_from_image(image), already=1, ...), image

References: Chen et al., Nat. Methods 18, 678 (2021), doi:10.1038/s41592-021-01155-x
"""

import difflib
import itertools
import math

import numpy as np
from scipy import interpolate, ndimage

from rcan.intensity import normalise, to_dtype

__all__ = [
    "PHANTOMS",
    "blur",
    "degrade",
    "density_from_image",
    "expose",
    "gaussian_widths",
    "make_phantom",
    "simulate_pair",
]

PHANTOMS = ("spheres", "hollow", "filaments", "membranes", "mixture")

_FWHM_OF_SIGMA = math.sqrt(8 * math.log(2))  # 2.3548, of a Gaussian
_GT_SCALE = 20_000  # grey value of signal 1 in the ground truth of a phantom

# Closed bodies: radii and shell thicknesses in µm (none: solid), depth of the waves of the surface
# relative to its radius, and the share of the volume that is filled.
_BODIES = {
    "spheres": {"radii": (0.3, 1.0), "thicknesses": None, "waviness": 0, "share": 0.12},
    "hollow": {"radii": (0.5, 1.2), "thicknesses": (0.15, 0.3), "waviness": 0, "share": 0.12},
    "membranes": {"radii": (1.5, 3.5), "thicknesses": (0.15, 0.25), "waviness": 0.3, "share": 0.12},
}
# Lengths and Gaussian cross-section in µm, how much the direction strays within each µm, share as above.
_FILAMENTS = {"lengths": (5, 20), "sigma": 0.15, "bend": 0.35, "share": 0.1}
_LARGEST_VOXEL = (
    2  # µm: in larger ones nothing of these objects would be seen, and filling them takes for ever
)


def make_phantom(kind, shape, *, voxel_size, rng):
    """Fluorophore density of random objects that fill a volume and may be cut by its border.

    Parameters
    ----------
    kind : {"spheres", "hollow", "filaments", "membranes", "mixture"}
        Solid spheres, hollow spheres, thin curved lines, closed wavy shells, or all of them with half as
        many of each.
    shape : tuple of int
        Voxels along (Z, Y, X).
    voxel_size : tuple of float
        In µm, (Z, Y, X).
    rng : numpy.random.Generator

    Returns
    -------
    density : ndarray of shape (Z, Y, X, 1), float32
        Background 0, signal up to 1: every object has a brightness of its own between 0.5 and 1, and a voxel
        at an edge holds as much of it as it is filled.

    Raises
    ------
    ValueError
        If the kind is unknown, a side of the shape is not above 0, or a voxel not between 0 and 2 µm.

    Examples
    --------
    >>> make_phantom("hollow", (8, 32, 32), voxel_size=(0.3, 0.1, 0.1), rng=np.random.default_rng(0)).shape
    (8, 32, 32, 1)
    """
    if kind not in PHANTOMS:
        nearest = " or ".join(difflib.get_close_matches(str(kind), PHANTOMS, n=2, cutoff=0))
        names = ", ".join(PHANTOMS)
        raise ValueError(f"kind is {kind!r}, it must be one of {names}. Did you mean {nearest}?")
    _require_zyx("shape", shape, unit="voxels")
    _require_zyx("voxel_size", voxel_size, unit="µm")
    if max(voxel_size) > _LARGEST_VOXEL:
        raise ValueError(
            f"voxel_size is {voxel_size}: the objects of a phantom measure about 1 µm, voxels may measure "
            f"{_LARGEST_VOXEL} µm at most. Give it in µm, not in nm."
        )
    kinds, part = (PHANTOMS[:-1], 0.5) if kind == "mixture" else ((kind,), 1)
    density = np.zeros(shape, np.float32)
    for name in kinds:
        draw = _draw_filaments if name == "filaments" else _draw_bodies
        options = _FILAMENTS if name == "filaments" else _BODIES[name]
        draw(density, np.asarray(voxel_size), rng, **options | {"share": part * options["share"]})
    return density[..., np.newaxis]


def _draw_bodies(density, voxel_size, rng, *, radii, thicknesses, waviness, share):
    """Draw balls or shells into `density` until together they fill `share` of it."""
    filled = 0
    while filled < share * density.size:
        radius = rng.uniform(*radii)
        thickness = rng.uniform(*thicknesses) if thicknesses else math.inf
        # centres beyond the border keep bodies as frequent there as in the middle
        centre = rng.uniform(-radius, voxel_size * density.shape + radius)
        filled += _draw_body(
            density,
            voxel_size,
            centre,
            radius_along=_wavy_radius(radius, waviness, rng),
            reach=radius * (1 + waviness),
            thickness=thickness,
            brightness=rng.uniform(0.5, 1),
        )


def _wavy_radius(radius, waviness, rng):
    """Radius of a closed surface in µm, as a function of unit vectors of shape (3, ...)."""
    if waviness == 0:
        return lambda direction: radius
    waves = rng.normal(0, 2.5, (4, 3)).astype(np.float32)  # radians at the poles: a few broad folds
    phases = rng.uniform(0, 2 * np.pi, (4, 1, 1, 1)).astype(np.float32)

    def radius_along(direction):
        folds = np.cos(np.tensordot(waves, direction, axes=1) + phases)  # (4, ...)
        return radius * (1 + waviness * folds.mean(axis=0))

    return radius_along


def _draw_body(density, voxel_size, centre, *, radius_along, reach, thickness, brightness):
    """Draw one ball or shell inside its bounding box; return the voxels it fills."""
    start = np.clip(np.floor((centre - reach) / voxel_size) - 1, 0, density.shape).astype(int)
    stop = np.clip(np.ceil((centre + reach) / voxel_size) + 1, 0, density.shape).astype(int)
    box = tuple(map(slice, start, stop))
    size, middle = np.float32([voxel_size, centre - (start + 0.5) * voxel_size]).reshape(2, 3, 1, 1, 1)
    position = np.indices(stop - start, np.float32) * size - middle  # (3, Z, Y, X), µm from the centre
    distance = np.linalg.norm(position, axis=0)
    direction = position / np.maximum(distance, 1e-6)
    # width of a voxel along the radius, over which the edge is soft
    edge = np.maximum(np.linalg.norm(direction * size, axis=0), voxel_size.min())
    depth = radius_along(direction) - distance  # below the surface
    part = np.clip(depth / edge + 0.5, 0, 1) - np.clip((depth - thickness) / edge + 0.5, 0, 1)
    np.maximum(density[box], brightness * part, out=density[box])
    return part.sum()


def _draw_filaments(density, voxel_size, rng, *, lengths, sigma, bend, share):
    """Draw curved lines of Gaussian cross-section into `density` until together they fill `share` of it."""
    lines, filled = np.zeros_like(density), 0
    cross_section = 2 * np.pi * sigma**2  # µm², of a Gaussian of height 1
    step = voxel_size.min() / 2
    while filled < share * density.size:
        start = rng.uniform(0, voxel_size * density.shape)
        path = _curved_path(start, rng.uniform(*lengths), bend, step, rng)
        fill = cross_section * step / voxel_size.prod()  # voxels filled by one step
        filled += fill * _deposit(lines, path / voxel_size - 0.5, fill * rng.uniform(0.5, 1))
    lines = ndimage.gaussian_filter(lines, sigma / voxel_size, mode="reflect")
    np.maximum(density, np.minimum(lines, 1), out=density)


def _curved_path(start, length, bend, step, rng):
    """Points in µm, (N, 3), `step` apart on a smooth line whose direction does a random walk."""
    num_knots = math.ceil(length) + 1  # 1 µm apart
    headings = rng.normal(size=3)
    headings = headings / np.linalg.norm(headings) + np.cumsum(rng.normal(0, bend, (num_knots, 3)), axis=0)
    knots = start + np.cumsum(headings / np.linalg.norm(headings, axis=1, keepdims=True), axis=0)
    return interpolate.CubicSpline(np.arange(num_knots), knots)(np.arange(0, length, step))


def _deposit(lines, points, weight):
    """Share the weight of each point (in voxels) among its eight neighbours; return how many lie inside."""
    below = np.floor(points).astype(int)
    above = points - below  # (N, 3), 0..1
    for corner in itertools.product((0, 1), repeat=3):
        share = np.prod(np.where(corner, above, 1 - above), axis=1)
        voxel = below + corner
        inside = np.all((voxel >= 0) & (voxel < lines.shape), axis=1)
        np.add.at(lines, tuple(voxel[inside].T), weight * share[inside])
    return np.count_nonzero(np.all((points > -0.5) & (points < np.array(lines.shape) - 0.5), axis=1))


def gaussian_widths(numerical_aperture=1.4, wavelength=0.52, refractive_index=1.515):
    """Full widths at half maximum of the Gaussian nearest to a wide-field microscope's focus.

    The Gaussian and the diffraction-limited focus (scalar Debye integral) agree to second order around the
    centre [1]_. A Gaussian has no haze far out of focus: it stands for optically sectioned or deconvolved
    images.

    Parameters
    ----------
    numerical_aperture : float
        Above 0 and below the refractive index.
    wavelength : float
        Of the emitted light in vacuum, in µm.
    refractive_index : float
        Of the immersion medium; the specimen is taken to match it.

    Returns
    -------
    fwhm : tuple of float
        In µm, (Z, Y, X): the axial width and twice the lateral one.

    Raises
    ------
    ValueError
        If the aperture or the wavelength is out of range.

    References
    ----------
    .. [1] Zhang, Zerubia, Olivo-Marin, Appl. Opt. 46, 1819 (2007), doi:10.1364/AO.46.001819: the
       three-dimensional, nonparaxial wide-field case

    Examples
    --------
    >>> [round(width, 3) for width in gaussian_widths(1.4, 0.52, 1.515)]
    [0.516, 0.19, 0.19]
    """
    if not wavelength > 0:
        raise ValueError(f"wavelength is {wavelength}: it must be above 0, in µm. Green light has 0.52.")
    if not 0 < numerical_aperture < refractive_index:
        raise ValueError(
            f"numerical_aperture is {numerical_aperture}: it must be above 0 and below the refractive index, "
            f"{refractive_index}. Lower it, or set the index of the immersion (water 1.33, oil 1.515)."
        )
    wavenumber = 2 * np.pi * refractive_index / wavelength  # radians per µm in the medium
    cosine = math.sqrt(1 - (numerical_aperture / refractive_index) ** 2)  # of the steepest ray
    # means over the rays of the pupil, weighted by sqrt(cos θ) sin θ dθ
    weight = (1 - cosine**1.5) / 1.5
    mean_cosine = (1 - cosine**2.5) / 2.5 / weight
    mean_square = (1 - cosine**3.5) / 3.5 / weight
    lateral = 1 / (wavenumber * math.sqrt(1 - mean_square))
    axial = 1 / (wavenumber * math.sqrt(2 * (mean_square - mean_cosine**2)))
    return tuple(_FWHM_OF_SIGMA * sigma for sigma in (axial, lateral, lateral))


def blur(density, *, fwhm, voxel_size, factor=1, already=0):
    """Blur with a Gaussian that leaves points `factor` times as wide as the sharp optics would.

    An image that was taken through optics is blurred `already`. Squared widths of Gaussians add up, so
    it lacks ``fwhm * sqrt(factor**2 - already**2)``.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
    fwhm : tuple of float
        Full width at half maximum of a point in the sharp image, in µm, (Z, Y, X); 0 leaves an axis as it is.
    voxel_size : tuple of float
        In µm, (Z, Y, X).
    factor : float
        Width of a point afterwards, in units of `fwhm`; the paper's study has 2, 3 and 4.
    already : float
        Width of a point before, in units of `fwhm`: 0 for a phantom, 1 for a sharp image.

    Returns
    -------
    blurred : ndarray of shape (Z, Y, X, C), float32
        The volume is mirrored at its borders, so that the sum stays the same.

    Raises
    ------
    ValueError
        If the factor is below `already`, a width is below 0, or a voxel size is not above 0.

    Examples
    --------
    >>> point = np.zeros((1, 1, 5, 1))
    >>> point[0, 0, 2] = 1
    >>> blur(point, fwhm=(0, 0, 0.2), voxel_size=(0.3, 0.1, 0.1)).ravel().round(2)
    array([0.03, 0.23, 0.47, 0.23, 0.03], dtype=float32)
    """
    _require_zyx("voxel_size", voxel_size, unit="µm")
    _require_zyx("fwhm", fwhm, unit="µm", or_zero=True)
    if not 0 <= already <= factor:
        raise ValueError(
            f"factor is {factor} but the image is blurred by {already} already: the factor must be at least "
            "that, and neither may be below 0. Blurring cannot sharpen; raise the factor."
        )
    missing = math.sqrt(factor**2 - already**2) / _FWHM_OF_SIGMA
    sigma = missing * np.asarray(fwhm) / np.asarray(voxel_size)  # voxels
    return ndimage.gaussian_filter(np.asarray(density, np.float32), (*sigma, 0), mode="reflect")


def expose(image, *, photons, background=2.0, offset=100, gain=2.0, read_noise=1.6, rng):
    """Take a picture: photons arrive at random, the camera amplifies, adds noise and digitises.

    With the expected signal ``S = photons * image``, the grey values are
    ``offset + gain * (Poisson(S + background) + Normal(0, read_noise))``, rounded. Their mean is
    ``offset + gain * (S + background)``, their variance ``gain**2 * (S + background + read_noise**2) + 1/12``
    (1/12 is the rounding), and the signal-to-noise ratio is ``S / sqrt(S + background + read_noise**2)``.
    The defaults are typical of a scientific CMOS camera.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
        Relative signal, 0 or more.
    photons : float
        Detected photons expected from signal 1, at each voxel.
    background : float
        Detected photons expected at every voxel besides: stray light, dark current.
    offset : float
        Grey value without light.
    gain : float
        Grey values for each detected photon.
    read_noise : float
        In electrons, root mean square.
    rng : numpy.random.Generator

    Returns
    -------
    picture : ndarray of shape (Z, Y, X, C), uint16
        Grey values; what is brighter than 65535 saturates, what falls below 0 becomes 0.

    Raises
    ------
    ValueError
        If photons, background, gain or read noise are below 0.

    Examples
    --------
    >>> expose(np.zeros(3), photons=100, background=0, read_noise=0, rng=np.random.default_rng(0))
    array([100, 100, 100], dtype=uint16)
    """
    levels = {"photons": photons, "background": background, "gain": gain, "read_noise": read_noise}
    for name, value in levels.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: it must be 0 or more. Set it to 0 to go without.")
    electrons = rng.poisson(photons * np.asarray(image, np.float64) + background)
    electrons = electrons + rng.normal(0, read_noise, electrons.shape)
    return to_dtype(offset + gain * electrons, np.uint16)[0]


def density_from_image(image):
    """Take a real, sharp volume for the density of its specimen: background 0, signal about 1.

    Each channel's percentile 2 becomes 0, as does everything below, and its percentile 99.9 becomes 1;
    brighter voxels stay brighter.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C)
        Grey values.

    Returns
    -------
    density : ndarray of shape (Z, Y, X, C), float32

    Raises
    ------
    ValueError
        If both percentiles of a channel are the same grey value.

    Examples
    --------
    >>> density_from_image(np.linspace(0, 1000, 1001).reshape(1, 1, -1, 1))[0, 0, [0, 20, 999], 0]
    array([0., 0., 1.], dtype=float32)
    """
    ranges = np.percentile(image, (2, 99.9), axis=(0, 1, 2)).T  # (C, 2)
    for channel, (low, high) in enumerate(ranges):
        if not high > low:
            raise ValueError(
                f"channel {channel} of the image has {low:g} at percentile 2 and {high:g} at 99.9: they must "
                "differ to tell signal from background. The image is nearly constant; choose another one."
            )
    return np.maximum(normalise(image, ranges), 0)


def degrade(density, *, voxel_size, fwhm, photons, blur_factor=2, already=0, rng, **camera):
    """Raw image of a density: blurred beyond the sharp optics and exposed to few photons.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
        A phantom, or a real volume from `density_from_image` with ``already=1``.
    voxel_size, fwhm : tuple of float
        In µm, (Z, Y, X): of the voxels, and of a point in the sharp image.
    photons : float
        Detected photons expected from density 1.
    blur_factor, already : float
        Width of a point in the raw image and in `density`, in units of `fwhm`; see `blur`.
    rng : numpy.random.Generator
    **camera
        `background`, `offset`, `gain` and `read_noise` of `expose`.

    Returns
    -------
    raw : ndarray of shape (Z, Y, X, C), uint16

    Raises
    ------
    ValueError
        As `blur` and `expose`.

    Examples
    --------
    >>> sharp = density_from_image(np.random.default_rng(0).normal(100, 10, (4, 8, 8, 1)))
    >>> degrade(sharp, voxel_size=(0.3, 0.1, 0.1), fwhm=(0.5, 0.2, 0.2), photons=20, blur_factor=3, already=1,
    ...         rng=np.random.default_rng(0)).dtype
    dtype('uint16')
    """
    blurred = blur(density, fwhm=fwhm, voxel_size=voxel_size, factor=blur_factor, already=already)
    return expose(blurred, photons=photons, rng=rng, **camera)


def simulate_pair(density, *, voxel_size, fwhm, photons, blur_factor=2, rng, **camera):
    """Raw and ground-truth image of the same phantom: blurred and noisy, sharp and free of noise.

    Parameters
    ----------
    density : ndarray of shape (Z, Y, X, C)
        From `make_phantom`.
    voxel_size, fwhm : tuple of float
        In µm, (Z, Y, X): of the voxels, and of a point in the ground truth.
    photons : float
        Detected photons expected from density 1 in the raw image.
    blur_factor : float
        Width of a point in the raw image, in units of `fwhm`: 1 for noise alone, 2, 3 and 4 in the paper's
        study.
    rng : numpy.random.Generator
    **camera
        `background`, `offset`, `gain` and `read_noise` of `expose`.

    Returns
    -------
    raw, gt : ndarray of shape (Z, Y, X, C), uint16

    Raises
    ------
    ValueError
        As `blur` and `expose`.

    Examples
    --------
    >>> rng, voxel_size = np.random.default_rng(0), (0.3, 0.1, 0.1)
    >>> phantom = make_phantom("spheres", (8, 32, 32), voxel_size=voxel_size, rng=rng)
    >>> raw, gt = simulate_pair(phantom, voxel_size=voxel_size, fwhm=gaussian_widths(), photons=20, rng=rng)
    >>> raw.shape, gt.shape
    ((8, 32, 32, 1), (8, 32, 32, 1))
    """
    optics = {"voxel_size": voxel_size, "fwhm": fwhm}
    raw = degrade(density, **optics, photons=photons, blur_factor=blur_factor, rng=rng, **camera)
    gt = to_dtype(_GT_SCALE * blur(density, **optics), np.uint16)[0]
    return raw, gt


def _require_zyx(name, values, *, unit, or_zero=False):
    values = np.asarray(values)
    if values.shape != (3,) or not np.all(values >= 0 if or_zero else values > 0):
        rule = "0 or more" if or_zero else "above 0"
        raise ValueError(f"{name} is {values.tolist()}: give three numbers {rule} for (Z, Y, X), in {unit}.")
