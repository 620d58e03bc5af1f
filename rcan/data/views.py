"""An image file as a network sees it: blocks of its axes and channels, background 0 and signal 1."""

import numpy as np

from rcan.fingerprint.measure import measure_fingerprint
from rcan.intensity import normalise, percentile_range

__all__ = ["NetworkView", "check_fit", "open_network_view"]


def open_network_view(
    file, *, ndim, num_channels, percentiles, channels=None, normalize="series", training_range=None
):
    """Look at a file as a network does.

    Parameters
    ----------
    file : rcan.io.volume.Volume
    ndim : {2, 3}
        Spatial axes of the network.
    num_channels : int
        Of the network: one-channel networks go over the channels of a file one by one.
    percentiles : tuple of float
        Percentiles that become 0 and 1.
    channels : tuple of int, optional
        Channels of the file to look at; all where not given.
    normalize : {"series", "frame", "training"}
        One range for each channel of the whole file, for each time point (and position), or as in training.
    training_range : ndarray of shape (num_channels, 2), optional
        Grey values that became 0 and 1 in training.

    Returns
    -------
    image : NetworkView

    Raises
    ------
    ValueError
        If the file does not fit the network.
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
    image = NetworkView(volume, chosen, percentiles, training_range if normalize == "training" else None)
    if normalize == "series":
        image.measure()
    return image


def check_fit(raw, other, shape, what="the ground truth", flag="-g"):
    """Check that an image can be held against what a raw image becomes.

    Parameters
    ----------
    raw, other : NetworkView
    shape : tuple of int
        Of a restored block.
    what, flag : str
        In the message: the other image, and where it is named.

    Raises
    ------
    ValueError
        If shape, channels or frames differ.
    """
    frames = [[[*frame.values()] for frame in image.frames] for image in (other, raw)]
    if other.volume.shape != shape or frames[0] != frames[1]:
        raise ValueError(
            f"{other.volume.path} is {len(other.frames)} x {other.volume.shape} but {raw.volume.path} becomes "
            f"{len(raw.frames)} x {shape}: {what} must have the frames, shape and channels of the restored image. "
            f"Crop one of them, or name another with {flag}."
        )


class NetworkView:
    """Normalised blocks of a file.

    Parameters
    ----------
    volume : rcan.io.volume.Volume
        In blocks that fit the network.
    channels : tuple of int
        Of the file, that are looked at.
    percentiles : tuple of float
    training_range : ndarray of shape (C, 2), optional
        Serves every frame. Where not given, and before `measure` is called, each frame has its own range.

    Attributes
    ----------
    frames : list of dict
        Index by looped axis of each frame, channels counted among those that are looked at.
    """

    def __init__(self, volume, channels, percentiles, training_range=None):
        self.volume = volume
        self.channels = channels
        self._percentiles = percentiles
        self._stored = [frame for frame in volume.frames if frame.get("C", channels[0]) in channels]
        self.frames = [dict(frame) for frame in self._stored]
        for frame in self.frames:
            if "C" in frame and len(channels) > 1:
                frame["C"] = channels.index(frame["C"])
            else:
                frame.pop("C", None)
        self._picked = list(channels) if volume.shape[-1] > 1 else [0]  # of a block
        self._ranges = {}  # by number of the frame
        if training_range is not None:
            self._ranges = dict.fromkeys(range(len(self.frames)), np.asarray(training_range))

    def measure(self):
        """Take one range for each channel of the whole file."""
        by_channel = {}
        for number, frame in enumerate(self.frames):
            by_channel.setdefault(frame.get("C"), []).append(number)
        for numbers in by_channel.values():
            self._ranges |= dict.fromkeys(numbers, self._measure(numbers))

    def _measure(self, numbers):
        frames = [self._stored[number] for number in numbers]
        return percentile_range(self.volume, self._percentiles, frames=frames, channels=self._picked)

    def fingerprint(self):
        """What a network is sensitive to in the image, as `rcan.fingerprint.measure_fingerprint`."""
        return measure_fingerprint(self.volume, frames=self._stored, channels=self._picked)

    def range_of(self, number):
        """Grey values of 0 and 1 for each channel of a frame's blocks, (C, 2)."""
        if number not in self._ranges:
            # Planes of one time point are one frame to a microscopist.
            point = {**self.frames[number], "Z": None}
            same = [i for i, frame in enumerate(self.frames) if {**frame, "Z": None} == point]
            self._ranges |= dict.fromkeys(same, self._measure(same))
        return self._ranges[number]

    @property
    def ranges(self):
        """Ranges of the first frame of each channel, as channels of the whole file, (C, 2)."""
        first = {frame.get("C"): number for number, frame in reversed(list(enumerate(self.frames)))}
        channels = [None] if None in first else sorted(first)
        return np.concatenate([self.range_of(first[channel]) for channel in channels])

    def read(self, number, region=None):
        """Read a block of a frame, or a region of it, normalised: (Z, Y, X, C) or (Y, X, C), float32."""
        block = self.volume.read(self._stored[number], region, dtype=None)
        if self._picked != list(range(block.shape[-1])):
            block = block[..., self._picked]
        return normalise(block, self.range_of(number))
