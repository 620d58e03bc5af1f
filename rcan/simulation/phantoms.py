"""Phantoms: random objects that a microscope could see, drawn as density of fluorophores."""

import itertools
import math
import typing

import numpy as np
from scipy import interpolate, ndimage

from rcan.options import nearest
from rcan.simulation.optics import require_zyx
from rcan.simulation.options import PhantomKind

__all__ = ["PHANTOMS", "make_phantom"]

PHANTOMS = typing.get_args(PhantomKind)

# Closed bodies: radii and shell thicknesses in µm (none: solid), depth of the waves of the surface
# relative to its radius, and the share of the volume that is filled.
_BODIES = {
    "spheres": {"radii": (0.3, 1.0), "thicknesses": None, "waviness": 0, "share": 0.12},
    "hollow": {"radii": (0.5, 1.2), "thicknesses": (0.15, 0.3), "waviness": 0, "share": 0.12},
    "membranes": {"radii": (1.5, 3.5), "thicknesses": (0.15, 0.25), "waviness": 0.3, "share": 0.12},
}
# Lengths and Gaussian cross-section in µm, how much the direction strays within each µm, share as above.
_FILAMENTS = {"lengths": (5, 20), "sigma": 0.15, "bend": 0.35, "share": 0.1}
_LARGEST_VOXEL = 2  # µm: in larger ones nothing of these objects is seen, and filling them takes for ever
_SMALLEST_FACE = 1  # µm²: nearly every filament passes by a smaller volume, and filling it takes for ever


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
        In µm, (Z, Y, X), at most 2.
    rng : numpy.random.Generator

    Returns
    -------
    density : ndarray of shape (Z, Y, X, 1), float32
        Background 0, signal up to 1: every object has a brightness of its own between 0.5 and 1, and a voxel
        at an edge holds as much of it as it is filled. A ValueError says what is wrong with kind, shape or voxel size.

    Examples
    --------
    >>> make_phantom("hollow", (8, 32, 32), voxel_size=(0.3, 0.1, 0.1), rng=np.random.default_rng(0)).shape
    (8, 32, 32, 1)
    """
    if kind not in PHANTOMS:
        names = ", ".join(PHANTOMS)
        raise ValueError(f"kind is {kind!r}, it must be one of {names}.{nearest(kind, PHANTOMS)}")
    require_zyx("shape", shape, unit="voxels")
    require_zyx("voxel_size", voxel_size, unit="µm")
    if max(voxel_size) > _LARGEST_VOXEL:
        raise ValueError(
            f"voxel_size is {voxel_size}: the objects of a phantom measure about 1 µm, voxels may measure "
            f"{_LARGEST_VOXEL} µm at most. Give it in µm, not in nm."
        )
    face = np.sort(np.multiply(shape, voxel_size))[1:].prod()  # µm²
    if face < _SMALLEST_FACE:
        raise ValueError(
            f"shape is {tuple(shape)}: its largest face has {face:.2g} µm², it must have {_SMALLEST_FACE} µm² or more, "
            "as the objects of a phantom measure about 1 µm. Give more voxels."
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
        """Radius in a direction, a unit vector."""
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
