"""Volumes beside each other that turn about their vertical axis, as GIF or MP4."""

import numpy as np
from PIL import Image

from rcan.failures import install_command
from rcan.figures.rotation import known_voxel_size, pixel_of_views, rotate_projections
from rcan.figures.style import GAP, LINE, MARGIN, Sheet, render

__all__ = ["check_movie_kind", "write_movie"]

_SECONDS = 4  # of a turn
_FRAMES = {".gif": 40, ".mp4": 96}  # of a turn; a GIF is large, and counts time in steps of 10 ms
_PANEL = 400  # pixels, largest width and height of a panel
_DPI = 150  # of a sheet
_LEAST_WIDTH = 760  # pixels, for the line at the foot
_QUALITY = "18"  # constant rate factor of H.264, at which differences can hardly be seen


def check_movie_kind(kind):
    """Raise an ImportError if films of a kind, ``gif`` or ``mp4``, cannot be written, before anything takes long."""
    if kind != "mp4":
        return
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as failure:
        raise ImportError(f"MP4 needs imageio-ffmpeg: {install_command('movie')}, or choose --movie gif.") from failure


def write_movie(path, images, *, voxel_size=(None, None, None), name=None, notes=()):
    """Write a film of maximum projections of volumes that turn beside each other, once in four seconds.

    The last frame leads into the first: a GIF goes on for ever, a player repeats an MP4. The suffix of the path tells
    which. Images (Z, Y, X, C), voxel size, name and notes are those of `rcan.figures.projections.draw_projections`.
    """
    num_views = _FRAMES[path.suffix]
    shape = next(iter(images.values())).shape
    channel = [f"channel 1 of {shape[-1]}"] * (shape[-1] > 1)
    turning = [
        rotate_projections(image[..., 0], voxel_size, num_views=num_views, most=_PANEL) for image in images.values()
    ]
    enlarged = max(1, _PANEL // max(turning[0].shape[1:]))
    pixel = pixel_of_views(shape[:-1], known_voxel_size(voxel_size), _PANEL) / enlarged
    height, width = (enlarged * side for side in turning[0].shape[1:])
    still, corners = _draw_still(
        [*images], (height, width), pixel if voxel_size[-1] else None, name, [*channel, *notes]
    )

    frames = np.repeat(still[np.newaxis], num_views, axis=0)
    for views, (top, left) in zip(turning, corners, strict=True):
        grey = np.rint(255 * views).astype(np.uint8).repeat(enlarged, axis=1).repeat(enlarged, axis=2)
        frames[:, top : top + height, left : left + width] = grey
    _WRITERS[path.suffix](path, frames)


def _draw_still(titles, size, pixel, name, notes):
    """Draw what does not move: (height, width), uint8, both even, as MP4 demands; and top and left of each panel."""
    height, width = size
    gap = round(2 * GAP * _DPI)
    stacked = width > 2 * height
    columns, rows = (1, len(titles)) if stacked else (len(titles), 1)
    top = round((MARGIN + GAP if name else GAP) * _DPI)
    heading = round((LINE + GAP) * _DPI)
    across = columns * (width + gap) - gap
    page_width = max(across + round(2 * MARGIN * _DPI), _LEAST_WIDTH)
    page_height = top + rows * (heading + height) + round((GAP + 1.5 * LINE) * _DPI)
    sheet = Sheet((page_width + page_width % 2) / _DPI, (page_height + page_height % 2) / _DPI, dark=True)
    left = (page_width - across) // 2
    if name:
        sheet.write_heading(name)
    corners = []
    for number, title in enumerate(titles):
        column, row = (0, number) if stacked else (number, 0)
        x, y = left + column * (width + gap), top + row * (heading + height)
        corners.append((y + heading, x))
        sheet.write((x + width / 2) / _DPI, y / _DPI + LINE, title, 11, room=width / _DPI, ha="center")
    sheet.write_notes(["maximum projections", *notes])
    if pixel:
        sheet.draw_scale_bar(MARGIN, most=min(1, width / 2 / _DPI), scale=1 / (pixel * _DPI))
    still = render(sheet.figure)[..., 0]
    return still[: still.shape[0] // 2 * 2, : still.shape[1] // 2 * 2], corners


def _write_gif(path, frames):
    first, *others = map(Image.fromarray, frames)
    # Optimized, frames would get palettes of their own, which Pillow does not always read back.
    settings = {"duration": 1000 * _SECONDS / len(frames), "loop": 0, "optimize": False}
    first.save(path, save_all=True, append_images=others, **settings)


def _write_mp4(path, frames):
    import imageio_ffmpeg

    size = frames.shape[:0:-1]
    writer = imageio_ffmpeg.write_frames(
        path,
        size,
        pix_fmt_in="gray",
        pix_fmt_out="yuv420p",  # what all players and slides show
        fps=len(frames) / _SECONDS,
        quality=None,
        macro_block_size=2,
        output_params=["-crf", _QUALITY, "-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


_WRITERS = {".gif": _write_gif, ".mp4": _write_mp4}
