"""How good a restoration is: scores against the ground truth.

All scores are taken after the least-squares affine match of `rcan.intensity.match_affine`, of raw and of
restored volumes alike, against a ground truth whose percentiles are 0 and 1 (so that the data range is 1).
"""

from rcan.intensity import match_affine
from rcan.metrics import compare, enlarge, mean_scores
from rcan.restoration import restore

__all__ = ["format_scores", "score_pair"]


def score_pair(model, pair, *, tile_shape=None):
    """Restore a pair's raw volume and score raw and restored against the ground truth.

    Parameters
    ----------
    model : keras.Model
    pair : rcan.patches.Pair
    tile_shape : tuple of int, optional
        As `rcan.restoration.restore`.

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
