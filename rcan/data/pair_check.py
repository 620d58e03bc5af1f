"""Checks that two images belong together: their frames and shapes."""

import os


def check_pair(raw, gt):
    """Check that two volumes can be a training pair by their frames and shapes; their values are not read.

    A ValueError if both are one file, have different frames, or gt is no whole multiple of raw along each axis.
    """
    if os.path.samefile(raw.path, gt.path):
        raise ValueError(f"{raw.path} is both raw and gt of a pair: nothing can be learned. Name two files.")
    if not have_equal_frames(raw, gt):
        counts = [
            " x ".join(f"{last + 1} {axis}" for axis, last in volume.frames[-1].items()) or "1" for volume in (gt, raw)
        ]
        raise ValueError(
            f"{gt.path} has {counts[0]} frames (time points, or axes outside {gt.block_axes}) but "
            f"{raw.path} has {counts[1]}: they must agree. Crop one, or name the axes with raw_data_format and "
            "gt_data_format if two are swapped."
        )
    if not find_upscaling(raw.shape, gt.shape):
        axes = raw.block_axes.replace("C", "")
        raise ValueError(
            f"{gt.path} is {gt.shape[:-1]} but {raw.path} is {raw.shape[:-1]} ({axes}): gt must measure "
            "a whole multiple of raw along each axis. Crop one of them, or name its axes with raw_data_format or "
            "gt_data_format if two are swapped."
        )


def check_fit(raw, other, factors, num_channels, what="the ground truth", flag="-g"):
    """Check that an image can be compared with what a network makes of a raw image, both `NetworkView`s.

    The network enlarges by `factors` and has `num_channels` output channels; `what` is the other image, which `flag`
    names. A ValueError if shape, channels or frames differ.
    """
    shape = (*map(int.__mul__, raw.volume.shape[:-1], factors), num_channels)
    if other.volume.shape != shape or not have_equal_frames(raw, other):
        raise ValueError(
            f"{other.volume.path} is {len(other.frames)} x {other.volume.shape} but {raw.volume.path} becomes "
            f"{len(raw.frames)} x {shape}: {what} must have the frames, shape and channels of the restored image. "
            f"Crop one of them, or name another with {flag}."
        )


def have_equal_frames(one, other):
    """Whether the frames of two images correspond, whatever their axes are called."""
    frames = [[[*frame.values()] for frame in image.frames] for image in (one, other)]
    return frames[0] == frames[1]


def find_upscaling(raw_shape, gt_shape):
    """Ground-truth voxels for each raw voxel along each spatial axis of two blocks; None if they are not whole numbers.

    >>> find_upscaling((8, 20, 20, 1), (8, 40, 40, 2))
    (1, 2, 2)
    """
    sizes = [*zip(raw_shape[:-1], gt_shape[:-1], strict=False)]
    if len(raw_shape) != len(gt_shape) or any(large < small or large % small for small, large in sizes):
        return None
    return tuple(large // small for small, large in sizes)
