"""Two images in two colours over each other: where they agree, the picture is white."""

import io

import numpy as np
from scipy import ndimage

from rcan.figures.style import GAP, LINE, MARGIN, Sheet, save_png

__all__ = ["draw_overlays"]

_WIDTH = 2.8  # inches of a panel
_TALLEST = 4.0
_THINNEST = 0.5  # inches along Z
_WHITEST = 99.8  # percentile
_SMOOTHED = 1.0  # voxels: of noisy images the maximum shows noise


def draw_overlays(pairs, *, places=2):
    """Draw pairs of images, raw in magenta and ground truth in green, beside each other: a PNG as bytes.

    `pairs` are (raw, gt) by title, each (Z, Y, X) or (Y, X), of one shape; volumes are shown as maximum projections
    along Z and, below, along Y. Each image is stretched by itself. There is room for `places` pairs, so that pictures
    of one and of two have the same scale.
    """
    shape = next(iter(pairs.values()))[0].shape
    width = min(_WIDTH, _TALLEST * shape[-1] / shape[-2])
    heights = [width * shape[-2] / shape[-1]]
    if len(shape) == 3:
        heights.append(max(_THINNEST, width * shape[0] / shape[-1]))
    pitch = _WIDTH + 2 * GAP
    sheet = Sheet(2 * MARGIN + places * pitch, MARGIN + LINE + sum(heights) + GAP * len(heights) + 1.5 * LINE)
    for number, (title, images) in enumerate(pairs.items()):
        x, y = MARGIN + number * pitch, MARGIN + GAP
        sheet.write(x + width / 2, MARGIN, title, 11, room=_WIDTH, ha="center")
        for axis, height in zip((0, 1), heights, strict=False):
            raw, gt = (_project(image, axis) for image in images)
            panel = sheet.add_panel(x, y, width, height)
            panel.imshow(np.stack([raw, gt, raw], axis=-1), interpolation="nearest", aspect="auto")
            panel.set_ylabel(("XY", "XZ")[axis] if len(shape) == 3 and not number else "", labelpad=2)
            y += height + GAP
    sheet.write_notes(["raw magenta, ground truth green"])
    picture = io.BytesIO()
    save_png(sheet.figure, picture)
    return picture.getvalue()


def _project(image, axis):
    """The maximum along an axis, if there is a Z, from 0 for its median to 1."""
    image = ndimage.gaussian_filter(np.asarray(image, np.float32), _SMOOTHED)
    plane = image.max(axis=axis) if image.ndim == 3 else image
    low, high = np.percentile(plane, (50, _WHITEST))
    return np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
