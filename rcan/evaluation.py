"""How good a restoration is: scores against the ground truth, and the picture to look at.

All scores are taken after the least-squares affine match of `rcan.intensity.match_affine`, of raw and of
restored volumes alike, against a ground truth whose percentiles are 0 and 1 (so that the data range is 1).
"""

import numpy as np

from rcan.checkpoint import whole_file
from rcan.intensity import match_affine
from rcan.metrics import compare, enlarge, mean_scores
from rcan.restoration import restore

__all__ = ["format_scores", "save_projections", "score_pair"]


def score_pair(model, pair, *, tile_shape):
    """Restore a pair's raw volume and score raw and restored against the ground truth.

    Parameters
    ----------
    model : keras.Model
    pair : rcan.patches.Pair
    tile_shape : tuple of int

    Returns
    -------
    scores : dict
        ``psnr_raw``, ``psnr_restored`` in dB, ``ssim_raw``, ``ssim_restored``: means over the frames.
    images : dict of str to ndarray of shape (Z, Y, X, C) or (Y, X, C)
        The last frame's ``raw``, ``restored`` and ``ground truth``, matched, background 0 and signal 1.
    """
    whole = tuple(slice(0, size) for size in pair.raw.shape[:-1])
    frames = []
    for frame in range(len(pair.raw.frames)):
        raw, gt = pair.read(frame, whole)
        restored = restore(model, raw, tile_shape=tile_shape)
        frames.append(compare(raw, restored, gt))
    images = {"raw": enlarge(raw, gt.shape), "restored": restored}
    images = {name: match_affine(image, gt) for name, image in images.items() if image.shape == gt.shape}
    return mean_scores(frames), {**images, "ground truth": gt}


def format_scores(rows):
    """Lay out scores as a table for the terminal, with the mean and the gain where there are several.

    Parameters
    ----------
    rows : dict of str to dict
        Scores by the name of the volume.

    Returns
    -------
    table : str

    Examples
    --------
    >>> print(format_scores({"a.tif": dict(psnr_raw=20, psnr_restored=25, ssim_raw=0.5, ssim_restored=0.75)}))
           PSNR (dB): raw  restored    gain   SSIM: raw  restored
    a.tif           20.00     25.00   +5.00       0.500     0.750
    """
    if len(rows) > 1:
        rows = {**rows, "mean": mean_scores(list(rows.values()))}
    width = max(map(len, rows))
    lines = [f"{'':{width}}  PSNR (dB): raw  restored    gain   SSIM: raw  restored"]
    for name, row in rows.items():
        lines.append(
            f"{name:{width}}  {row['psnr_raw']:14.2f}{row['psnr_restored']:10.2f}"
            f"{row['psnr_restored'] - row['psnr_raw']:+8.2f}{row['ssim_raw']:12.3f}{row['ssim_restored']:10.3f}"
        )
    return "\n".join(lines)


def save_projections(path, images, *, voxel_size=(None, None, None)):
    """Draw volumes side by side: maximum projections along Z (XY) and along Y (XZ), as PNG.

    Parameters
    ----------
    path : path
    images : dict of str to ndarray of shape (Z, Y, X, C) or (Y, X, C)
        By title; background 0 and signal 1. The first channel is drawn.
    voxel_size : tuple of (float or None)
        (z, y, x) in µm, for the proportions and the scale bar.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = {title: image[..., 0] for title, image in images.items()}
    columns = {title: image if image.ndim == 3 else image[np.newaxis] for title, image in columns.items()}
    depth, height, width = next(iter(columns.values())).shape
    z, y, x = voxel_size
    stretch = z / x if z and x else 1.0
    rows = ("XY", "XZ") if depth > 1 else ("XY",)
    ratios = [height * (y / x if y and x else 1.0), depth * stretch][: len(rows)]
    tall = min(sum(ratios) / width, 3)  # of a volume much deeper than wide, narrow panels are drawn
    figure = Figure(figsize=(3.2 * len(columns), 3.2 * tall + 0.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=ratios)
    for column, (title, image) in enumerate(columns.items()):
        axes[0, column].set_title(title)
        for row, (name, axis) in enumerate(zip(rows, (0, 1), strict=False)):
            panel = axes[row, column]
            panel.imshow(
                image.max(axis=axis),
                cmap="gray",
                vmin=0,
                vmax=1,
                aspect=ratios[row] / image.max(axis).shape[0],
            )
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(f"{name} projection")
    if x:
        _draw_scale_bar(axes[0, 0], width, height, x)
    with whole_file(path) as partial:
        figure.savefig(partial)


def _draw_scale_bar(panel, width, height, voxel):
    """A bar of a round length, about a fifth of the width."""
    target = width * voxel / 5
    step = 10 ** np.floor(np.log10(target))
    length = max(part * step for part in (1, 2, 5) if part * step <= target)
    left, below = 0.05 * width, 0.94 * height
    panel.plot([left, left + length / voxel], [below, below], color="white", linewidth=2.5)
    panel.text(left, below - 0.03 * height, f"{length:g} µm", color="white", fontsize=8, va="bottom")
