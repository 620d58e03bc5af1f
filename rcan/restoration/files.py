"""From an image file to a restored one: frames, intensities, channels and metadata.

A file is looped over in the blocks that the network sees: time points always, channels where the network
has one input channel, planes where it is two-dimensional. One intensity range for each channel serves the
whole series, so that nothing flickers.
"""

import math
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from rcan.files import naming, reserve
from rcan.intensity import denormalise, fit_affine, normalise, percentile_range, to_dtype
from rcan.metrics import compare, enlarge, mean_scores
from rcan.progress import Progress
from rcan.restoration.tiles import restore_slabs, upscaling_of
from rcan.volume import Volume, create_volume, open_volume

__all__ = ["FileRestorer"]

_DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}


class _Image(NamedTuple):
    """An opened file and the intensity range of each of its channels."""

    volume: Volume
    ranges: np.ndarray

    def range_of(self, frame):
        """Range of each channel in the blocks of a frame, (C, 2)."""
        return self.ranges[frame["C"], np.newaxis] if "C" in frame else self.ranges

    def read(self, frame, region=None):
        return normalise(self.volume.read(frame, region, dtype=None), self.range_of(frame))


@dataclass(frozen=True)
class FileRestorer:
    """A trained network and the settings to restore image files with.

    Attributes
    ----------
    model : keras.Model
        Maps `(N, Z, Y, X, C)` to a whole multiple of that size, or the same without Z.
    tile_shape : tuple of int
        Spatial shape of a tile; cut down to the volume.
    overlap : tuple of int or None
        Voxels that neighbouring tiles share; an eighth of the tile where not given.
    percentiles : tuple of float
        Percentiles that become 0 and 1.
    axes, gt_axes : str or None
        Axes of the input and of the ground truth, where their metadata is wrong.
    bits : {32, 16, 8}
        Of an output value: float32, uint16 or uint8.
    as_channels : bool
        Write raw, restored and ground truth as channels, normalised.
    rescale : bool
        Match the result to the ground truth, and write it in its unit.
    stretch : bool
        Stretch each channel to [0, 1].
    file_format : {"imagej", "ome"}
    """

    model: keras.Model
    tile_shape: tuple
    overlap: tuple | None = None
    percentiles: tuple = (2, 99.9)
    axes: str | None = None
    gt_axes: str | None = None
    bits: int = 32
    as_channels: bool = False
    rescale: bool = False
    stretch: bool = False
    file_format: str = "imagej"

    def restore(self, raw_path, output_path, *, gt_path=None, label="Restoring"):
        """Restore one file; the output appears when it is whole.

        Parameters
        ----------
        raw_path, output_path : path
        gt_path : path, optional
            Ground truth to score against.
        label : str
            Shown with the progress.

        Returns
        -------
        scores : dict or None
            As `rcan.metrics.compare`, mean over the frames; None without ground truth.

        Raises
        ------
        ValueError, OSError
            If a file cannot be read or written, or does not fit the network.
        """
        with open_volume(raw_path, axes=self.axes) as raw_file:
            raw = self._see(raw_file, self.model.input_shape[-1])
            if gt_path is None:
                return self._restore(raw, None, output_path, label)
            with open_volume(gt_path, axes=self.gt_axes) as gt_file:
                gt = self._see(gt_file, self.model.output_shape[-1])
                self._check_fit(raw.volume, gt.volume)
                return self._restore(raw, gt, output_path, label)

    def _restore(self, raw, gt, output_path, label):
        self._warn_of_lost_steps(raw, output_path)
        num_voxels = len(raw.volume.frames) * math.prod(raw.volume.shape[:-1])
        with (
            self._create(raw, gt, output_path) as file,
            Progress(num_voxels, label, unit="voxel") as progress,
        ):
            slabs = self._restored_slabs(raw, progress)
            if not (gt or self.stretch):
                self._write(file, slabs, raw, gt)
                return None
            shape = (len(raw.volume.frames), *self._restored_shape(raw.volume))
            with _scratch(Path(output_path).absolute().parent, shape) as restored:
                for number, region, slab in slabs:
                    restored[number][region] = slab
                scores, limits = self._examine(restored, raw, gt)
                whole = tuple(slice(0, size) for size in shape[1:-1])
                frames = ((number, whole, np.array(block)) for number, block in enumerate(restored))
                self._write(file, frames, raw, gt, limits if self.stretch else None)
        return mean_scores(scores) if scores else None

    def _warn_of_lost_steps(self, raw, output_path):
        """Small differences of large grey values are more than a float32 can hold."""
        if self.bits < 32 or self.as_channels or self.stretch:
            return
        low, high = raw.ranges.T
        largest = np.abs(raw.ranges).max()
        step = np.spacing(np.float32(largest))
        if np.any(step > (high - low) / 1000):
            warnings.warn(
                f"{output_path}: grey values near {largest:g} are stored in steps of {step:g} as 32-bit numbers. "
                "--normalize_output_range_between_zero_and_one or --compare keep what lies between.",
                stacklevel=3,
            )

    def _see(self, file, num_channels):
        """The file in blocks that fit the network, with its intensity ranges."""
        ndim = len(self.model.input_shape) - 2
        found = file.sizes.get("C", 1)
        if ndim == 3 and "Z" not in file.axes:
            raise ValueError(
                f"{file.path} has axes {file.axes}, without Z, but the network restores volumes: use a 2D network, "
                "or say with --axes which axis is Z (--axes ZYX takes one plane as a volume)."
            )
        if found != num_channels and num_channels != 1:
            raise ValueError(
                f"{file.path} has {found} channel{'s' * (found != 1)} ({file.axes}) but the network has "
                f"{num_channels}: use a network of as many channels, or name the axes with --axes if they are not "
                "as they should be."
            )
        spatial = "ZYX" if ndim == 3 else "YX"
        seen = file.with_block_axes(spatial + "C" if found == num_channels else spatial)
        return _Image(seen, percentile_range(seen, self.percentiles))

    def _check_fit(self, raw, gt):
        expected = self._restored_shape(raw)
        frames = [[[*frame.values()] for frame in volume.frames] for volume in (gt, raw)]
        if gt.shape != expected or frames[0] != frames[1]:
            raise ValueError(
                f"{gt.path} is {len(gt.frames)} x {gt.shape} but {raw.path} becomes {len(raw.frames)} x {expected}: "
                "the ground truth must have the frames, shape and channels of the restored image. Crop one of them, "
                "or name its ground truth with -g."
            )

    def _restored_shape(self, volume):
        factors = upscaling_of(self.model)
        return (*map(int.__mul__, volume.shape[:-1], factors), self.model.output_shape[-1])

    def _num_channels(self, raw):
        """Channels of raw, and of restored or ground truth, in the whole file."""
        looped = raw.volume.sizes.get("C", 1) if "C" not in raw.volume.block_axes else 1
        return len(raw.ranges), looped * self.model.output_shape[-1]

    def _create(self, raw, gt, output_path):
        volume = raw.volume
        num_raw, num_restored = self._num_channels(raw)
        names, num_channels = volume.channel_names, num_restored
        if self.as_channels:
            kinds = {"raw": num_raw, "restored": num_restored, "ground truth": num_restored if gt else 0}
            names = [
                f"{kind} {i + 1}" if count > 1 else kind
                for kind, count in kinds.items()
                for i in range(count)
            ]
            num_channels = len(names)
        axes = volume.axes.replace("C", "") + "C" * (num_channels > 1)
        factors = upscaling_of(self.model)
        spatial = volume.block_axes.replace("C", "")
        factor = dict.fromkeys("ZYX", 1) | dict(zip(spatial, factors, strict=True))
        sizes = {axis: volume.sizes[axis] * factor.get(axis, 1) for axis in axes if axis != "C"}
        file = create_volume(
            output_path,
            axes=axes,
            sizes={**sizes, "C": num_channels},
            dtype=_DTYPES[self.bits],
            voxel_size=tuple(
                size and size / factor[axis] for axis, size in zip("ZYX", volume.voxel_size, strict=True)
            ),
            channel_names=names if names and len(names) == num_channels else None,
            time_step=volume.time_step,
            file_format=self.file_format,
        )
        shown = self._unit("restored", {}, raw, gt)
        file.display_range = (shown[:, 0].min(), shown[:, 1].max())
        return file

    def _unit(self, kind, frame, raw, gt, limits=None):
        """Output values of 0 and 1, for each channel of a frame's block of one kind, (C, 2)."""
        num_channels = (self.model.input_shape if kind == "raw" else self.model.output_shape)[-1]
        top = 1 if self.bits == 32 else 2**self.bits - 1
        if limits:
            low, high = limits[kind, frame.get("C")]  # become 0 and `top`
            span = np.where(high > low, high - low, 1)
            return top * np.stack([-low, 1 - low], axis=-1) / span[:, np.newaxis]
        if self.as_channels or self.stretch:
            return np.array([[0, top]] * num_channels)
        ranges = (gt if self.rescale else raw).range_of(frame)
        return ranges[np.minimum(np.arange(num_channels), len(ranges) - 1)]

    def _restored_slabs(self, raw, progress):
        """Number of the frame, region and restored block, normalised."""
        for number, frame in enumerate(raw.volume.frames):
            slabs = restore_slabs(
                self.model,
                lambda region, frame=frame: raw.read(frame, region),
                raw.volume.shape,
                tile_shape=self.tile_shape,
                overlap=self.overlap,
                progress=progress,
            )
            for region, slab in slabs:
                if not np.isfinite(slab).all():
                    raise ValueError(
                        f"{raw.volume.path} is restored to NaN or infinite values: the image holds extreme values, or "
                        "the network is damaged. Look at the image's brightest voxels, or name another network with -m."
                    )
                yield number, region, slab

    def _examine(self, restored, raw, gt):
        """Score the restored frames and find the limits of each channel; match to the ground truth in place."""
        if self.rescale:
            self._match(restored, raw, gt)
        scores, limits = [], {}
        for number, frame in enumerate(raw.volume.frames):
            images = {"raw": raw.read(frame), "restored": np.array(restored[number])}
            if gt:
                images["ground truth"] = gt.read(gt.volume.frames[number])
                scores.append(compare(*images.values()))
            for kind, image in images.items():
                space, key = tuple(range(image.ndim - 1)), (kind, frame.get("C"))
                low, high = limits.get(key, (np.inf, -np.inf))
                limits[key] = np.minimum(low, image.min(axis=space)), np.maximum(high, image.max(axis=space))
        return scores, limits

    def _match(self, restored, raw, gt):
        """Bring all frames to the ground truth by one line for each channel, so that a time course stays one."""
        by_channel = {}
        for number, frame in enumerate(raw.volume.frames):
            by_channel.setdefault(frame.get("C"), []).append(number)
        for numbers in by_channel.values():
            line = fit_affine((restored[i], gt.read(gt.volume.frames[i])) for i in numbers)
            for i in numbers:
                restored[i] = line[:, 0] * restored[i] + line[:, 1]

    def _write(self, file, slabs, raw, gt, limits=None):
        """Write restored blocks in the output's unit and type, with raw and ground truth where asked for."""
        num_raw, num_restored = self._num_channels(raw)
        factors, num_clipped, num_values = upscaling_of(self.model), 0, 0
        for number, region, slab in slabs:
            frame = raw.volume.frames[number]
            first = frame.get("C", 0) * slab.shape[-1]
            blocks = {"restored": (first + num_raw * self.as_channels, slab)}
            if self.as_channels:
                smaller = tuple(
                    slice(part.start // f, part.stop // f) for part, f in zip(region, factors, strict=True)
                )
                blocks["raw"] = (frame.get("C", 0), enlarge(raw.read(frame, smaller), slab.shape))
            if self.as_channels and gt:
                block = gt.read(gt.volume.frames[number], region)
                blocks["ground truth"] = (first + num_raw + num_restored, block)
            for kind, (channel, block) in blocks.items():
                values = denormalise(block, self._unit(kind, frame, raw, gt, limits))
                values, clipped = to_dtype(values, _DTYPES[self.bits])
                file.write({**frame, "C": channel}, region, values)
                num_clipped += clipped
                num_values += values.size
        if num_clipped:
            share = 100 * num_clipped / num_values
            warnings.warn(
                f"{file.path}: {num_clipped} values ({share:.2g} %) lay outside 0 to {2**self.bits - 1} and were "
                "clipped. `--bpp 32` keeps them.",
                stacklevel=2,
            )


@contextmanager
def _scratch(folder, shape):
    """An array of float32 on disk that is gone afterwards."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with naming(folder):
            reserve(file, 0, 4 * math.prod(shape))
        array = np.memmap(file, np.float32, "w+", shape=shape)
        yield array
        del array
