"""What `apply` draws of an image beside it: raw and restored as projections, and turning."""

import math
import warnings
from contextlib import ExitStack

import numpy as np

from rcan.atomic_io import atomic_file, printable_name

__all__ = ["draw_pictures"]


def draw_pictures(job, settings, *, label):
    """Draw the preview and the movie of a restored image; of a time-lapse the first time point.

    Raw and restored share one range of grey values, that of raw at the network's percentiles, unless the output is
    written in another unit. Yields the final and the present path of each picture, which gets its name afterwards. A
    warning says that a single plane cannot turn.
    """
    from rcan.figures.movie import write_movie
    from rcan.figures.projections import draw_projections
    from rcan.io.paths import image_name

    images, voxel_size, notes = _load_images(job, settings, f"{label}, pictures")
    labels = {"voxel_size": voxel_size, "name": printable_name(image_name(job.output)), "notes": notes}
    pictures = [(job.preview, draw_projections)] if job.preview else []
    if job.movie and len(images["raw"]) == 1:
        warnings.warn(f"{job.raw} has one plane: no movie of it, --preview shows it.", stacklevel=2)
    elif job.movie:
        pictures.append((job.movie, write_movie))
    for path, draw in pictures:
        with atomic_file(path) as partial:
            draw(partial, images, **labels)
            yield path, partial


def _load_images(job, settings, label):
    """Raw and restored, (Z, Y, X, 1) of one shape and normalised, their voxel size, and notes for the picture."""
    from rcan.data.despike import despike
    from rcan.figures.loading import load_for_view
    from rcan.io.opening import open_volume
    from rcan.progress import Progress

    with ExitStack() as stack:
        raw = stack.enter_context(open_volume(job.raw, axes=settings.axes))
        raw = despike(raw) if settings.despike else raw
        restored = stack.enter_context(open_volume(job.output))
        channels = settings.channels or range(raw.sizes.get("C", 1))
        ranges = _ranges(job, settings, raw, channels[0])
        first = {"raw": channels[0], "restored": len(channels) if settings.as_channels else 0}
        volumes = {kind: _as_volume(file) for kind, file in (("raw", raw), ("restored", restored))}
        total = sum(math.prod(volume.shape) for volume in volumes.values())
        with Progress(total, label, unit="voxel") as progress:
            views = {
                kind: load_for_view(volume, _frame_of(volume, first[kind]), ranges[kind], progress=progress)
                for kind, volume in volumes.items()
            }
    images = {kind: view.image.reshape(-1, *view.image.shape[-3:]) for kind, view in views.items()}
    images["raw"] = _enlarge(images["raw"], images["restored"].shape)
    notes = [
        f"{what} {number} of {raw.sizes[axis]}"
        for axis, what, number in (("C", "channel", channels[0] + 1), ("T", "time point", 1), ("P", "position", 1))
        if raw.sizes.get(axis, 1) > 1
    ]
    bins = views["restored"].bins
    if max(bins) > 1:
        notes.append(f"means of {' x '.join(map(str, bins))} voxels")
    return images, views["restored"].voxel_size, notes


def _as_volume(file):
    """A file as frames of one channel each."""
    spatial = "ZYX" if "Z" in file.axes else "YX"
    return file.with_block_axes(spatial)


def _frame_of(volume, channel):
    """The first frame that shows a channel."""
    return next(frame for frame in volume.frames if frame.get("C", channel) == channel)


def _ranges(job, settings, raw, channel):
    """Grey values that become 0 and 1 in the files of raw and of restored."""
    from rcan.data.views import open_network_view
    from rcan.io.opening import open_volume
    from rcan.ranges import ConstantImage

    def range_of(file, channel, **normalize):
        """Grey values of black and white for a channel of a file."""
        ndim = 3 if "Z" in file.axes else 2
        options = {"ndim": ndim, "num_channels": 1, "percentiles": settings.percentiles, "channels": (channel,)}
        try:
            return open_network_view(file, **options, allows_gaps=True, **normalize).range_of(0)[0]
        except ConstantImage as failure:  # of a channel that was written as it is
            low = failure.ranges[0, 0]
            return low, low + 1

    training_range = None if settings.training_range is None else settings.training_range[:1]
    of_raw = range_of(
        raw,
        channel,
        normalize=settings.normalize,
        training_range=training_range,
        normalization=settings.normalization,
    )
    if settings.is_normalised:
        return {"raw": of_raw, "restored": (0, 1 if settings.bits == 32 else 2**settings.bits - 1)}
    if settings.rescale:
        with open_volume(job.gt, axes=settings.gt_axes) as gt:
            return {"raw": of_raw, "restored": range_of(gt, 0)}
    return {"raw": of_raw, "restored": of_raw}


def _enlarge(image, shape):
    """Repeat voxels to a shape that may have been binned otherwise."""
    for axis, size in enumerate(shape[:-1]):
        image = image.take(np.arange(size) * image.shape[axis] // size, axis)
    return image
