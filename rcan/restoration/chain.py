"""Networks one after the other: what one makes of an image is the image that the next one sees.

An image between two networks is in no file and, where it is large, never in memory as a whole. It is a `Source` whose
parts are computed when they are read, in the unit of the raw image and in the very tiles that the network would use
alone. The next network therefore sees what it would see of a file in float32: its intensity range, and the noise where
its normalisation needs it, are measured on the whole image between, which the network before makes for that once, and
again when the image is restored. Tiles that the memory still holds are not computed twice.
"""

import itertools
import math
import threading
import warnings
from dataclasses import replace

import numpy as np

from rcan.fingerprint.domain import DOMAIN_STATUSES, Verdict, compare_fingerprint
from rcan.intensity import CELL
from rcan.io.cache import SHARE_OF_FREE_MEMORY, Cache
from rcan.io.volume import ALL_AXES, Volume
from rcan.memory import free_memory
from rcan.progress import Progress
from rcan.regions import do_meet, paste, region_shape, scale_region, shrink_region
from rcan.restoration.blocks import restored_blocks
from rcan.restoration.output import FileReport, Output
from rcan.restoration.tiles import cut_volume

__all__ = ["RestoredSource", "judge_chain", "views_of_chain"]

_AS_IT_IS = {"bits": 32, "as_channels": False, "rescale": False, "stretch": False}  # settings of an image between


def views_of_chain(restorers, volume):
    """Show an open image to several networks in a row: a list of what each sees, `NetworkView`s.

    `restorers` are their `FileRestorer`s. A ValueError says which network does not fit the one before.
    """
    views = [restorers[0].view_raw(volume)]
    for before, restorer in itertools.pairwise(restorers):
        source = RestoredSource(before, views[-1])
        between = Volume(source, source.axes, "ZYXC", image=volume.image)
        _check_fit(before, restorer, between)
        _warn_if_large(before, between, views[-1].volume.shape[:-1])
        with Progress(math.prod(source.shape), f"{volume.path.name} by {before.name}", unit="voxel") as source.progress:
            views.append(restorer.view_raw(between))
        source.progress = None
    return views


def judge_chain(restorers, views):
    """Compare what each network sees with its training data: one `Verdict`, None where no training data are known.

    Of several networks the status is the worst, and each reason begins with the name of the network.
    """
    verdicts = []
    for restorer, view in zip(restorers, views, strict=True):
        settings = restorer.settings
        if settings.training_fingerprint:
            found = compare_fingerprint(view.fingerprint(), settings.training_fingerprint, settings.trusted_range)
            if len(restorers) > 1:
                found = found._replace(reasons=[f"{restorer.name}: {reason}" for reason in found.reasons])
            verdicts.append(found)
    verdicts.sort(key=lambda found: DOMAIN_STATUSES.index(found.domain_status), reverse=True)
    reasons = [reason for found in verdicts for reason in found.reasons]
    return Verdict(verdicts[0].domain_status, reasons) if verdicts else None


def _check_fit(before, restorer, between):
    found, needed = between.sizes.get("C", 1), restorer.num_channels[0]
    if needed not in (1, found):
        raise ValueError(
            f"{between.path}: {before.name} makes {found} channel{'s' * (found != 1)} of it, but {restorer.name} reads "
            f"{needed}: name networks with -m of which each reads the channels that the one before makes."
        )
    if len(restorer.tiled.engine.factors) == 3 and "Z" not in between.axes:
        raise ValueError(
            f"{between.path}: {before.name} makes planes of it, but {restorer.name} restores volumes: name networks "
            "with -m that fit each other, or say with --axes which axis is Z."
        )


def _warn_if_large(before, between, shape):
    """Say so where tiles will be computed several times, as the memory does not keep those of one frame."""
    num_bytes = between.dtype.itemsize * math.prod(shape) * math.prod(before.tiled.engine.factors)
    if num_bytes > SHARE_OF_FREE_MEMORY * free_memory():
        warnings.warn(
            f"{between.path}: what {before.name} makes of it, {num_bytes / 1e9:.2g} GB, is more than a quarter of the "
            "free memory, and is computed several times. Two calls with a file between them are quicker.",
            stacklevel=3,
        )


class RestoredSource:
    """The image that a network makes of another one, computed where it is read: a `rcan.io.volume.Source`.

    `restorer` is the `FileRestorer` of the network, `raw` the `NetworkView` that it restores. `progress`, where set,
    counts the values that are read.
    """

    dtype, progress = np.dtype(np.float32), None

    def __init__(self, restorer, raw):
        self._restorer, self._raw = restorer, raw
        self._factors = restorer.tiled.engine.factors
        settings = replace(restorer.settings, **_AS_IT_IS)
        self._output = Output(settings, self._factors, restorer.num_channels, raw)
        layout = self._output.layout()
        self.path, self.axes = raw.volume.path, "".join(axis for axis in ALL_AXES if axis in layout["axes"])
        self.shape = tuple(layout["sizes"][axis] for axis in self.axes)
        self.voxel_size, self.time_step = layout["voxel_size"], layout["time_step"]
        self.channel_names = layout["channel_names"]
        self._spatial = raw.volume.block_axes.replace("C", "")
        self._tiles, self._lock = Cache(), threading.Lock()

    @property
    def edges(self):
        """Where tiles begin to count, a little before so that the cells in which ranges are measured stay whole.

        A part between such edges is made of a tile and those before it alone.
        """
        shape = self._raw.volume.shape[:-1]
        cuts = cut_volume(shape, *self._restorer.tiled.plan(shape), self._restorer.tiled.engine)
        starts = ({cut.write.start // CELL * CELL for cut in axis} | {axis[-1].write.stop} for axis in cuts)
        return {axis: sorted(each) for axis, each in zip(self._spatial, starts, strict=True)}

    def read(self, region):
        """Compute a part of the image, see `rcan.io.volume.Source`; with the values that it has in the whole."""
        sides = dict(zip(self.axes, region, strict=True))
        part = [sides[axis] for axis in self._spatial]
        part = scale_region(shrink_region(part, self._factors), self._factors)
        numbers = [number for number, frame in enumerate(self._raw.frames) if self._is_within(frame, sides)]
        with self._lock:  # one part after the other: all devices compute one
            computed = self._restorer.tiled.with_fitting_tiles(
                self._raw.volume.shape[:-1], lambda *tiles: self._compute(tiles, numbers, part, region)
            )
        if self.progress:
            self.progress.advance(computed.size)
        return computed

    def _is_within(self, frame, sides):
        """Whether a part of the image shows something of a frame."""
        if "C" in frame and "C" in sides:
            num_channels = self._restorer.num_channels[1]
            if not do_meet(slice(num_channels * frame["C"], num_channels * (frame["C"] + 1)), sides["C"]):
                return False
        return all(sides[axis].start <= frame[axis] < sides[axis].stop for axis in frame if axis != "C")

    def _compute(self, tiles, numbers, part, region):
        engine = self._restorer.tiled.engine
        computed = _Part(self.axes, region)
        blocks = restored_blocks(engine, self._raw, tiles, numbers=numbers, part=part, cache=self._tiles)
        self._output.write([computed], blocks, FileReport())
        return computed.values

    def signature(self):
        """Return what changes with the image that is restored, and with the network."""
        return {**self._raw.volume.signature(), "restored_by": self._restorer.name}

    def close(self):
        """Forget tiles that were kept; the image before is not closed."""
        self._tiles = Cache()


class _Part:
    """A part of an image in memory that blocks are written into, as into a `rcan.io.volume.Sink`."""

    def __init__(self, axes, region):
        self._axes, self._region = axes, region
        self.values = np.empty(region_shape(region), np.float32)

    def write(self, frame, region, block):
        """Write what a block (Z, Y, X, C) or (Y, X, C) has in common with the part; axes are in the order of blocks."""
        place = {axis: slice(number, number + 1) for axis, number in frame.items()}
        place |= dict(zip("ZYX"[-len(region) :], region, strict=True))
        place["C"] = slice(frame["C"], frame["C"] + block.shape[-1])
        place = tuple(place[axis] for axis in self._axes)
        paste(self.values, self._region, block.reshape(region_shape(place)), place)
