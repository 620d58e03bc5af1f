"""What is written of a restored image: its unit and type, its channels and metadata."""

import warnings
from dataclasses import dataclass, field

import numpy as np

from rcan.fingerprint.domain import Verdict
from rcan.intensity import denormalise, to_dtype
from rcan.io.opening import create_volume
from rcan.regions import region_shape, relative_region, scale_region, shrink_region
from rcan.scores import enlarge

__all__ = ["FileReport", "Output"]

_DTYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}
_FEWEST_STEPS = 100  # whole grey values between background and signal below which integers lose detail


@dataclass
class FileReport:
    """What came of restoring a file."""

    scores: dict | None = None  # as `rcan.scores.compare`, mean over the frames; None without ground truth
    seams: float | None = None  # as `rcan.restoration.seams.SeamMeter.score`
    num_clipped: int = 0  # values outside the range of their type
    num_values: int = 0  # that were written
    num_missing: int = 0  # of them, because they are missing in raw
    num_spikes: int | None = None  # voxels that were replaced in raw; None where spikes are left
    num_blank: int = 0  # frames of one grey value, which are written as they are
    tile_shape: tuple = ()
    overlap: tuple = ()
    verdict: Verdict | None = None  # None where the training data are not known
    files: tuple = ()  # the `rcan.io.volume.Sink` of the restored image, and that of its uncertainty
    present_paths: dict = field(default_factory=dict)  # of complete files, by the path that they get


class Output:
    """The files that are made of one image: their unit and type, their channels and metadata.

    `settings` are `RestoreSettings`, `factors` the network's upscaling, `num_channels` those that it reads and
    restores, `raw` and `gt` `NetworkView`s, `verdict` is kept in the metadata. Where `raw` is what other networks have
    made, `shown` is the image before them, which is written as raw.
    """

    def __init__(self, settings, factors, num_channels, raw, gt=None, verdict=None, *, shown=None):
        self._settings, self._factors, self._num_channels = settings, factors, num_channels
        self._raw, self._gt, self._verdict, self._shown = raw, gt, verdict, shown or raw

    def warn_of_lost_steps(self, output_path):
        """A float32 cannot hold small differences of large grey values, an integer none below 1."""
        if self._settings.is_normalised:
            return
        low, high = self._raw.ranges.T
        if self._settings.bits < 32:
            if np.any(high - low < _FEWEST_STEPS):
                warnings.warn(
                    f"{output_path}: from background to signal are only {np.min(high - low):.3g} grey values, which -b "
                    f"{self._settings.bits} rounds to whole ones. `--bpp 32` keeps what lies between.",
                    stacklevel=3,
                )
            return
        largest = np.abs(self._raw.ranges).max()
        step = np.spacing(np.float32(largest))
        if np.any(step > (high - low) / 1000):
            warnings.warn(
                f"{output_path}: grey values near {largest:g} are stored in steps of {step:g} as 32-bit numbers. "
                "--normalize_output_range_between_zero_and_one or --compare keep what lies between.",
                stacklevel=3,
            )

    def _counts(self):
        """Channels of raw, and of restored or ground truth, in the whole file."""
        looped = len(self._raw.channels) if "C" not in self._raw.volume.block_axes else 1
        return len(self._shown.channels), looped * self._num_channels[1]

    def layout(self, *, is_spread=False):
        """Axes, sizes and other metadata of the restored image, or of its uncertainty, for `create_volume`."""
        volume = self._raw.volume
        num_raw, num_channels = self._counts()
        names = volume.channel_names and [volume.channel_names[channel] for channel in self._raw.channels]
        if self._settings.as_channels and not is_spread:
            kinds = {"raw": num_raw, "restored": num_channels, "ground truth": num_channels if self._gt else 0}
            names = [
                f"{kind} {names[i] if names and len(names) == count else i + 1}" if count > 1 else kind
                for kind, count in kinds.items()
                for i in range(count)
            ]
            num_channels = len(names)
        axes = volume.axes.replace("C", "") + "C" * (num_channels > 1)
        spatial = volume.block_axes.replace("C", "")
        factor = dict.fromkeys("ZYX", 1) | dict(zip(spatial, self._factors, strict=True))
        sizes = {axis: volume.sizes[axis] * factor.get(axis, 1) for axis in axes if axis != "C"}
        return {
            "axes": axes,
            "sizes": {**sizes, "C": num_channels},
            "voxel_size": tuple(
                size and size / factor[axis] for axis, size in zip("ZYX", volume.voxel_size, strict=True)
            ),
            "channel_names": names if names and len(names) == num_channels else None,
            "time_step": volume.time_step,
        }

    def create(self, output_path, file_format, *, is_spread=False, create=create_volume):
        """Prepare the file of the restored image, or of its uncertainty, with the metadata of raw.

        Something else than `create_volume` may make the `rcan.io.volume.Sink`.
        """
        dtype = np.float32 if is_spread else _DTYPES[self._settings.bits]
        layout = self.layout(is_spread=is_spread)
        file = create(output_path, dtype=dtype, file_format=file_format, **layout)
        num_channels = layout["sizes"]["C"]
        display_range = self._unit("restored", 0)
        if not self._settings.is_normalised:
            display_range = (self._gt if self._settings.rescale else self._raw).ranges
        if is_spread:
            display_range = np.stack([0 * display_range[:, 0], np.ptp(display_range, axis=1)], axis=-1)
        file.display_range = display_range[np.arange(num_channels) % len(display_range)]
        if self._verdict:
            file.notes = {"trained_range": self._verdict.domain_status, "reasons": self._verdict.reasons}
        file.notes = {**file.notes, "precision": self._settings.precision.name}
        if is_spread:
            file.notes |= {"spread_factor": f"{self._settings.spread_factor:.6g}"}
        return file

    def _unit(self, kind, number, limits=None):
        """Output values of 0 and 1, for each channel of a frame's block of one kind, (C, 2)."""
        num_channels = self._num_channels[0 if kind == "raw" else 1]
        top = 1 if self._settings.bits == 32 else 2**self._settings.bits - 1
        if limits:
            low, high = limits[kind, self._raw.frames[number].get("C")]  # become 0 and `top`
            span = np.where(high > low, high - low, 1)
            return top * np.stack([-low, 1 - low], axis=-1) / span[:, np.newaxis]
        if self._settings.is_normalised:
            return np.array([[0, top]] * num_channels)
        ranges = (self._gt if self._settings.rescale else self._raw).range_of(number)
        return ranges[np.minimum(np.arange(num_channels), len(ranges) - 1)]

    def write(self, files, blocks, report, limits=None):
        """Write restored blocks in the output's unit and type, with raw and ground truth where asked for."""
        num_raw, num_restored = self._counts()
        last = self._num_channels[1]
        for number, region, block in blocks:
            frame = self._raw.frames[number]
            first = frame.get("C", 0) * last
            parts = {"restored": (first + num_raw * self._settings.as_channels, block[..., :last])}
            if self._settings.as_channels:
                parts["raw"] = (frame.get("C", 0), self._read_shown(number, region))
            if self._settings.as_channels and self._gt:
                parts["ground truth"] = (first + num_raw + num_restored, self._gt.read(number, region))
            missing = self._missing(number, region, block.shape)
            for kind, (channel, values) in parts.items():
                values = denormalise(values, self._unit(kind, number, limits))
                place = {**frame, "C": channel}
                self._put(files[0], place, region, values, report, _DTYPES[self._settings.bits], missing)
            if self._settings.with_spread:
                span = self._settings.spread_factor * np.diff(self._unit("restored", number, limits), axis=-1)
                values = block[..., last:] * span[:, 0].astype(np.float32)
                self._put(files[1], {**frame, "C": first}, region, values, report, np.float32, missing)

    def _read_shown(self, number, region):
        """The image before all networks, its voxels repeated, in a region of the output."""
        sizes = zip(self._raw.volume.shape[:-1], self._factors, self._shown.volume.shape[:-1], strict=True)
        factors = [size * factor // before for size, factor, before in sizes]
        smaller = shrink_region(region, factors)
        covered = scale_region(smaller, factors)
        enlarged = enlarge(self._shown.read(number, smaller), (*region_shape(covered), 1))
        return enlarged[relative_region(region, covered)]

    def _missing(self, number, region, shape):
        """Which voxels of a restored block (..., 1) are missing in raw; None where none is."""
        missing = self._raw.missing(number, shrink_region(region, self._factors))
        if missing is None or not missing.any():
            return None
        return enlarge(missing.any(axis=-1, keepdims=True), shape)

    def _put(self, file, frame, region, values, report, dtype, missing):
        if missing is not None:
            values = np.where(missing, np.float32(0), values)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self._raw.volume.path} is restored to NaN or infinite values: the image holds such or extreme "
                "values, or the network is damaged. Look at the image's brightest voxels, or name another network "
                "with -m."
            )
        values, num_clipped = to_dtype(values, dtype)
        if missing is not None:
            values[np.broadcast_to(missing, values.shape)] = np.nan if np.dtype(dtype).kind == "f" else 0
            report.num_missing += int(missing.sum()) * values.shape[-1]
        file.write(frame, region, values)
        report.num_clipped += num_clipped
        report.num_values += values.size
