"""A volume seen from all sides, as maximum projections."""

import itertools

import numpy as np

__all__ = ["known_voxel_size", "pixel_of_views", "rotate_projections"]


_SAMPLES = 32  # along the line of sight that are taken at a time


def rotate_projections(volume, voxel_size, *, num_views=36, most=160):
    """Project a volume (Z, Y, X) that turns about its y axis by 360 degrees: (num_views, height, width) in [0, 1].

    View k shows the volume turned by the angle 2 pi k / num_views: a point at the distance r from the axis moves as x
    = r cos(angle + phase) about the middle of the picture. The first view is the XY projection; the view from the
    other side is its mirror image. All have the same frame, of at most `most` pixels along each side, in which every
    view lies whole. Where pixels are larger than voxels, voxels are averaged, which keeps noise from growing as a
    maximum of many would. The voxel size is that of `rcan.figures.projections.draw_projections`.

    >>> point = np.zeros((5, 3, 5))
    >>> point[2, 1, 4] = 1  # two voxels to the right of the axis
    >>> [int(view[1].argmax()) for view in rotate_projections(point, (1, 1, 1), num_views=4)]
    [6, 4, 2, 4]
    """
    voxel_size = known_voxel_size(voxel_size)
    pixel = pixel_of_views(volume.shape, voxel_size, most)
    volume, voxel_size = _resize(np.asarray(volume, np.float32), voxel_size, pixel)
    depth, width = volume.shape[0], volume.shape[2]
    reach = np.hypot(depth * voxel_size[0], width * pixel) / 2
    # Samples along the line of sight: half a pixel apart, so that few structures slip through between two.
    per_plane = 2 * round(np.ceil(voxel_size[0] / pixel))
    columns = _positions(width, pixel, reach)
    samples = _positions((depth - 1) * per_plane + 1, voxel_size[0] / per_plane, reach)

    edges = np.pad(volume, ((1, 1), (0, 0), (1, 1)))  # outside is background
    lines = np.ascontiguousarray(edges.transpose(0, 2, 1)).reshape(-1, volume.shape[1])  # (Z X, Y)
    is_even = num_views % 2 == 0
    views = []
    for turn in np.arange(num_views // 2 if is_even else num_views) / num_views:
        cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
        z = (samples[:, None] * cos - columns * sin) / voxel_size[0] + (edges.shape[0] - 1) / 2
        x = (samples[:, None] * sin + columns * cos) / pixel + (edges.shape[2] - 1) / 2
        views.append(_project(lines, z, x, (edges.shape[0], edges.shape[2])))
    if is_even:
        views += [view[:, ::-1] for view in views]
    return np.clip(np.stack(views), 0, 1)


def known_voxel_size(voxel_size):
    """(z, y, x) in µm: an unknown z or y counts as equal to x; without x all are 1."""
    z, y, x = voxel_size
    return (z or x, y or x, x) if x else (1.0, 1.0, 1.0)


def pixel_of_views(shape, voxel_size, most):
    """Size in µm of the pixels of `rotate_projections`, for a volume of `shape` (Z, Y, X)."""
    depth, height, width = np.multiply(shape, voxel_size)
    # Two pixels less: the frame is widened evenly on both sides, by whole pixels.
    return max(voxel_size[2], np.hypot(depth, width) / (most - 3), height / most)


def _resize(volume, voxel_size, pixel):
    """Bring x and y to `pixel`, and z where its voxels are smaller, with triangular weights; and the new voxel size."""
    sizes = max(pixel, voxel_size[0]), pixel, pixel
    for axis, (old, new) in enumerate(zip(voxel_size, sizes, strict=True)):
        if old != new:
            count = volume.shape[axis]
            nodes = (np.arange(count) - (count - 1) / 2) * old
            kept = max(1, round(np.ceil(count * old / new - 1e-6)))
            places = (np.arange(kept) - (kept - 1) / 2) * new
            weights = np.maximum(0, 1 - np.abs(places[:, None] - nodes) / max(old, new))
            weights /= weights.sum(axis=1, keepdims=True)
            volume = np.moveaxis(np.tensordot(weights.astype(np.float32), volume, (1, axis)), 0, axis)
    return volume, sizes


def _positions(count, step, reach):
    """Positions, even about 0, as far as `reach` on both sides; the `count` in the middle lie on voxels."""
    steps = count - 1 + 2 * max(0, round(np.ceil(reach / step - count / 2 - 1e-6)))
    return (np.arange(steps + 1) - steps / 2) * step


def _project(lines, z, x, shape):
    """Maximum along the first axis of positions `z`, `x` (samples, columns) in `lines` (Z X, Y): (Y, columns)."""
    largest = np.zeros((z.shape[1], lines.shape[1]), np.float32)
    for start in range(0, len(z), _SAMPLES):
        part = slice(start, start + _SAMPLES)
        weights = _interpolation(z[part], x[part], shape)
        if weights.nnz:
            values = (weights @ lines).reshape(-1, *largest.shape)
            np.maximum(largest, values.max(axis=0), out=largest)
    return largest.T


def _interpolation(z, x, shape):
    """Matrix of linear interpolation in (Z X) at positions `z`, `x`; 0 outside."""
    from scipy.sparse import csr_array

    inside = np.flatnonzero((z >= 0) & (z < shape[0] - 1) & (x >= 0) & (x < shape[1] - 1))
    z_part, z_floor = np.modf(z.ravel()[inside])
    x_part, x_floor = np.modf(x.ravel()[inside])
    corners = [
        (np.abs(1 - z_step - z_part) * np.abs(1 - x_step - x_part), (z_floor + z_step) * shape[1] + x_floor + x_step)
        for z_step, x_step in itertools.product((0, 1), repeat=2)
    ]
    weights = np.concatenate([weight for weight, _ in corners]).astype(np.float32)
    sources = np.concatenate([source for _, source in corners]).astype(np.int32)
    return csr_array((weights, (np.tile(inside, 4), sources)), shape=(z.size, shape[0] * shape[1]))
