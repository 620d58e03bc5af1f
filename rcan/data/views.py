"""An image file as a network sees it: blocks of its axes and channels, background 0 and signal 1."""

import numpy as np

from rcan.fingerprint.measure import measure_fingerprint
from rcan.intensity import CELL, average_cells, normalise, scale_noise, stabilise
from rcan.io.array import volume_of_array
from rcan.ranges import ConstantImage, percentile_range

__all__ = ["NetworkView", "open_network_view", "view_image"]


def open_network_view(
    file,
    *,
    ndim,
    num_channels,
    channels=None,
    normalize="series",
    training_range=None,
    **options,
):
    """Show a file in the blocks that fit a network of `ndim` spatial axes and `num_channels` input channels.

    `channels` are those of the file to look at, all where not given; a network of one channel goes over them one by
    one. `normalize` takes one intensity range for each channel of the whole file (``"series"``), for each time point
    and position (``"frame"``), or the `training_range` (``"training"``), an array (num_channels, 2). The other
    `options`, `percentiles` among them, are those of `NetworkView`. A ValueError says that the file does not fit.
    """
    found = file.sizes.get("C", 1)
    if ndim == 3 and "Z" not in file.axes:
        raise ValueError(
            f"{file.path} has axes {file.axes}, without Z, but the network restores volumes: use a 2D network, "
            "or say with --axes which axis is Z (--axes ZYX takes one plane as a volume)."
        )
    if channels and max(channels) >= found:
        raise ValueError(
            f"{file.path} has {found} channel{'s' * (found != 1)}, counted from 0, but --channels is "
            f"{','.join(map(str, channels))}: name channels that are there."
        )
    chosen = tuple(channels or range(found))
    if len(chosen) != num_channels and num_channels != 1:
        raise ValueError(
            f"{file.path} has {len(chosen)} channel{'s' * (len(chosen) != 1)} ({file.axes}) but the network has "
            f"{num_channels}: use a network of as many channels, choose some with --channels, or name the axes with "
            "--axes if they are not as they should be."
        )
    spatial = "ZYX" if ndim == 3 else "YX"
    volume = file.with_block_axes(spatial if num_channels == 1 and found > 1 else spatial + "C")
    fixed_range = training_range if normalize == "training" else None
    view = NetworkView(volume, channels=chosen, fixed_range=fixed_range, **options)
    if normalize == "series":
        view.measure_series()
    return view


def view_image(image, *, percentiles, normalization="percentiles", noise_range=None, name="image"):
    """Show an image in memory as a network sees it, with its own intensity range: a `NetworkView` of one frame.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X, C) or (Y, X, C)
        Grey values.
    percentiles, normalization, noise_range
        Those of the network: ``view_image(image, **record.scaling)``.
    name : str
        What messages call the image.

    Returns
    -------
    view : NetworkView
        ``view.read_input(0)`` is the network's input, ``view.ranges`` the grey values of 0 and 1 in what it returns.

    Raises
    ------
    ValueError
        If the image is nearly constant, or holds NaN or infinite values.
    """
    volume = volume_of_array(image, name=name)
    view = NetworkView(volume, percentiles, normalization=normalization, noise_range=noise_range)
    view.measure_series()
    return view


class NetworkView:
    """An image file as a network sees it: normalised blocks of some of its channels.

    The volume is in blocks that fit the network. Each frame has its own intensity range by the percentiles, all have
    that of the file after `measure_series`, or a `fixed_range`, (C, 2). `frames` has the index by looped axis of each
    frame, channels counted among those that the network sees.

    With the `normalization` ``"anscombe"`` ranges are taken from smoothed voxels, and the network's input is
    stabilised by the noise of the file, as `rcan.intensity.stabilise` does. With ``"percentiles"``, as published, it
    is what `read` gives. The `noise`, a (gain, level, floor) in grey values for each of `channels`, is measured where
    not given; `noise_range`, (2, C, 3) in units of the range, is what the network has learned from, see there.

    A channel of one grey value has no range, and a voxel that is NaN is missing. Both are refused, or, with
    `allows_gaps`, left as they are and shown to the network as background. Frames in which all channels have one value
    are blank; they are refused only where all of a file are.
    """

    def __init__(
        self,
        volume,
        percentiles=None,
        *,
        channels=None,
        fixed_range=None,
        normalization="percentiles",
        noise=None,
        noise_range=None,
        allows_gaps=False,
    ):
        self.volume, self._percentiles = volume, percentiles
        self.normalization, self._noise, self._fingerprint = normalization, noise, None
        self._noise_range, self._allows_gaps, self._frames_with_gaps = noise_range, allows_gaps, set()
        self.channels = tuple(range(volume.sizes.get("C", 1)) if channels is None else channels)
        self._file_frames = [frame for frame in volume.frames if frame.get("C", self.channels[0]) in self.channels]
        self.frames = [dict(frame) for frame in self._file_frames]
        for frame in self.frames:
            if "C" in frame and len(self.channels) > 1:
                frame["C"] = self.channels.index(frame["C"])
            else:
                frame.pop("C", None)
        self._block_channels = list(self.channels) if volume.shape[-1] > 1 else [0]
        self._ranges = {}  # by number of the frame
        if fixed_range is not None:
            self._ranges = dict.fromkeys(range(len(self.frames)), np.asarray(fixed_range))

    @property
    def is_stabilised(self):
        """Whether the noise of the network's input is made the same everywhere."""
        return self.normalization == "anscombe"

    @property
    def scaling(self):
        """Percentiles, normalization and range of noise."""
        return {
            "percentiles": self._percentiles,
            "normalization": self.normalization,
            "noise_range": self._noise_range,
        }

    @property
    def shape(self):
        """Shape of a block, (Z, Y, X, C) or (Y, X, C)."""
        return (*self.volume.shape[:-1], len(self._block_channels))

    def measure_series(self):
        """Take one intensity range for each channel of the whole file, instead of one for each frame."""
        by_channel = {}
        for number, frame in enumerate(self.frames):
            by_channel.setdefault(frame.get("C"), []).append(number)
        for numbers in by_channel.values():
            self._measure_range(numbers)

    def _measure_range(self, numbers):
        """Measure the one range of some frames."""
        frames = [self._file_frames[number] for number in numbers]
        options = {"channels": self._block_channels, "smoothed": self.is_stabilised}
        options |= {"skips_missing": self._allows_gaps}
        try:
            found = percentile_range(self.volume, self._percentiles, frames=frames, **options)
        except ConstantImage as failure:
            self._ranges |= dict.fromkeys(numbers, failure.ranges)
            are_all_blank = len(self._ranges) == len(self.frames) and all(map(self.is_blank, self._ranges))
            if not self._allows_gaps or are_all_blank:
                raise
        else:
            self._ranges |= dict.fromkeys(numbers, found)

    def percentiles_of(self, blocks):
        """Values at the percentiles in some blocks (..., C), taken as the ranges of the file are: (C, 2)."""
        means = [average_cells(block, CELL if self.is_stabilised else 1) for block in blocks]
        values = np.concatenate([mean.reshape(-1, mean.shape[-1]) for mean in means])
        return np.percentile(values, self._percentiles, axis=0).T

    def fingerprint(self):
        """Measure what a network is sensitive to, as `rcan.fingerprint.measure.measure_fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = measure_fingerprint(
                self.volume, frames=self._file_frames, channels=self._block_channels
            )
        return self._fingerprint

    def keep_fingerprint(self, fingerprint):
        """Take a fingerprint that was measured before."""
        self._fingerprint = fingerprint

    @property
    def noise(self):
        """Gain, level and floor of the noise of each of `channels`, (C, 3) in grey values."""
        if self._noise is None:
            by_channel = {channel.number: channel.noise_model() for channel in self.fingerprint().channels}
            self._noise = np.array([by_channel[channel] for channel in self.channels])
        return self._noise

    def scaled_noise(self, number):
        """Noise of a frame, (C, 3), in units of its range."""
        looped = self.frames[number].get("C")
        return scale_noise(self.noise if looped is None else self.noise[[looped]], self.range_of(number))

    def keep_noise_range(self, noise_range):
        """Show the network no other noise than it has learned from."""
        self._noise_range = noise_range

    def measured_range(self, number):
        """Grey values of 0 and 1 for each channel of a frame's blocks, (C, 2); both the same where it is constant."""
        if number not in self._ranges:
            # Planes of one time point are one frame to a microscopist.
            point = {**self.frames[number], "Z": None}
            self._measure_range([i for i, frame in enumerate(self.frames) if {**frame, "Z": None} == point])
        return self._ranges[number]

    def is_blank(self, number):
        """Whether all channels of a frame are constant."""
        low, high = self.measured_range(number).T
        return not np.any(high > low)

    def range_of(self, number):
        """Grey values of 0 and 1 for each channel of a frame's blocks, (C, 2), 1 apart where it is constant."""
        low, high = self.measured_range(number).T
        return np.stack([low, np.where(high > low, high, low + 1)], axis=-1)

    @property
    def ranges(self):
        """Ranges of the first frame of each channel that is not blank, as channels of the whole file, (C, 2)."""
        numbers = sorted(range(len(self.frames)), key=lambda number: number in self._ranges and self.is_blank(number))
        first = {self.frames[number].get("C"): number for number in reversed(numbers)}
        channels = [None] if None in first else sorted(first)
        return np.concatenate([self.range_of(first[channel]) for channel in channels])

    def read(self, number, region=None):
        """Read a block of a frame, or a region of it, normalised: (Z, Y, X, C) or (Y, X, C), float32."""
        block = self.volume.read(self._file_frames[number], region, dtype=None)
        if self._block_channels != list(range(block.shape[-1])):
            block = block[..., self._block_channels]
        normalised = normalise(block, self.range_of(number))
        if self._allows_gaps and block.dtype.kind == "f" and np.isnan(normalised).any():
            self._frames_with_gaps.add(number)
        return normalised

    def missing(self, number, region):
        """Which voxels of a region of a frame are missing; None where none was in what has been read of the frame."""
        return np.isnan(self.read(number, region)) if number in self._frames_with_gaps else None

    def read_input(self, number, region=None):
        """Read the same as the network's input."""
        return self.as_input(number, self.read(number, region))

    def as_input(self, number, normalised):
        """Make the network's input of a normalised block of a frame."""
        if number in self._frames_with_gaps:
            normalised = np.where(np.isnan(normalised), np.float32(0), normalised)
        if not self.is_stabilised:
            return normalised
        return stabilise(normalised, self.scaled_noise(number), self._noise_range)

    def crop(self, region):
        """A view of a region, with the intensity ranges of the whole."""
        noise = self.noise if self.is_stabilised else None
        options = {"channels": self.channels, "noise": noise, "allows_gaps": self._allows_gaps}
        cropped = NetworkView(self.volume.crop(region), **options, **self.scaling)
        cropped._ranges = {number: self.range_of(number) for number in range(len(self.frames))}
        return cropped
