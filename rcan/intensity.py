"""Grey values to numbers near [0, 1] and back.

A network is trained on volumes whose background is 0 and whose signal is 1: a low percentile of each
channel is mapped to 0 and a high one to 1 (nothing is clipped). A *range* is that pair of grey values,
kept for each channel as an array of shape `(C, 2)`; the same range takes a restored volume back to the
unit of its input.
"""

import math

import numpy as np

__all__ = ["denormalise", "fit_affine", "match_affine", "normalise", "percentile_range", "to_dtype"]

_SAMPLE_SIZE = 2**24  # values of a floating-point channel that are ranked exactly: 64 MB
_SLAB_SIZE = 2**21  # values read at a time


def percentile_range(volume, percentiles, *, frames=None, channels=None):
    """Grey values at two percentiles of each channel, over frames of a volume.

    Integers of up to 32 bits are counted, so that the result is exact for any size of volume. Other numbers are
    exact up to 17 million values in a channel; beyond, every n-th value is ranked.

    Parameters
    ----------
    volume : rcan.io.volume.Volume
        Read slab by slab, once; 32-bit integers twice. Frames that show another channel (``"C"`` among the looped
        axes) are channels of their own.
    percentiles : tuple of float
        Low and high percentile, ``0 <= low < high <= 100``.
    frames : list of dict, optional
        Some of ``volume.frames``; all where not given.
    channels : sequence of int, optional
        Some of the channels of a block; all where not given.

    Returns
    -------
    range : ndarray of shape (C, 2), float64
        Grey values that become 0 and 1, for each channel.

    Raises
    ------
    ValueError
        If both percentiles of a channel are the same grey value, or a value is NaN or infinite.
    """
    by_channel = {}
    for frame in volume.frames if frames is None else frames:
        by_channel.setdefault(frame.get("C"), []).append(frame)
    exact = volume.dtype.kind in "iu" and volume.dtype.itemsize <= 4
    rank = _rank_counted if exact else _rank_sampled
    chosen = range(volume.shape[-1]) if channels is None else channels
    ranges = {}  # by channel of the file
    for looped, same in by_channel.items():
        rows = rank(volume, same, percentiles)
        ranges |= {channel if looped is None else looped: rows[channel] for channel in chosen}
    for channel, (low, high) in ranges.items():
        if not high > low:
            raise ValueError(
                f"{volume.path}: percentiles {percentiles[0]:g} and {percentiles[1]:g} of channel {channel} are "
                f"both {low:g}, they must differ to set the intensity range. The image is nearly constant; "
                "leave it out, or choose percentiles further apart (up to 0 and 100)."
            )
    return np.array([*ranges.values()], np.float64)


def _rank_counted(volume, frames, percentiles):
    """Percentiles of each block channel, as `np.percentile` gives them, from counts of the values' digits.

    A value is a number of one or more digits of 16 bits. The values at the ranks are found digit by digit, from
    the highest: each pass over the volume counts the next digit of the values that share what is found already.
    """
    num_values = math.prod(volume.shape[:-1]) * len(frames)
    places = np.asarray(percentiles) / 100 * (num_values - 1)
    ranks = np.stack([np.floor(places), np.ceil(places)]).astype(np.int64)  # of the values below and above
    num_bits = 8 * volume.dtype.itemsize
    bits = min(16, num_bits)
    found = np.zeros((volume.shape[-1], *ranks.shape), np.uint64)  # leading digits of the value at each rank
    left = np.broadcast_to(ranks, found.shape).copy()  # its rank among the values with these digits
    for shift in range(num_bits - bits, -1, -bits):
        counts = [{digits: 0 for digits in row.ravel().tolist()} for row in found]
        for block in _slabs(volume, frames):
            for channel, by_digits in enumerate(counts):
                values = _ordered(block[..., channel]) >> shift
                for digits in by_digits:
                    is_first = shift + bits == num_bits
                    alike = values if is_first else values[values >> bits == digits]
                    by_digits[digits] += np.bincount(alike & (2**bits - 1), minlength=2**bits)
        for index, digits in np.ndenumerate(found):
            cumulated = np.cumsum(counts[index[0]][int(digits)])
            digit = int(np.searchsorted(cumulated, left[index], side="right"))
            left[index] -= cumulated[digit - 1] if digit else 0
            found[index] = (int(digits) << bits) + digit
    below, above = np.moveaxis(found.astype(np.float64) + np.iinfo(volume.dtype).min, 1, 0)  # (C, 2) each
    return list(below + (places - np.floor(places)) * (above - below))


def _ordered(values):
    """Integers of up to 32 bits as non-negative ones in the same order, flat."""
    return values.ravel().astype(np.int64) - np.iinfo(values.dtype).min


def _rank_sampled(volume, frames, percentiles):
    """Percentiles of each block channel from all values, or every n-th of very many."""
    num_values = int(np.prod(volume.shape[:-1])) * len(frames)
    step = -(-num_values // _SAMPLE_SIZE)
    samples, start = [], 0
    for block in _slabs(volume, frames):
        values = block.reshape(-1, volume.shape[-1])
        if not np.isfinite(values).all():
            raise ValueError(
                f"{volume.path} holds NaN or infinite values: all must be finite numbers. Replace them."
            )
        samples.append(values[start::step].copy())  # a view would keep the whole slab
        start = (start - len(values)) % step
    return list(np.percentile(np.concatenate(samples).astype(np.float64), percentiles, axis=0).T)


def _slabs(volume, frames):
    """Blocks of bounded size that together cover the frames, in the file's own type."""
    thickness = max(1, _SLAB_SIZE // int(np.prod(volume.shape[1:])))
    for frame in frames:
        for start in range(0, volume.shape[0], thickness):
            yield volume.read(frame, _slab_region(volume, start, thickness), dtype=None)


def _slab_region(volume, start, thickness):
    stop = min(start + thickness, volume.shape[0])
    return (slice(start, stop),) + (slice(None),) * (len(volume.shape) - 2)


def normalise(block, ranges):
    """Map grey values to background 0 and signal 1; values beyond are not clipped.

    Parameters
    ----------
    block : ndarray of shape (..., C)
    ranges : ndarray of shape (C, 2)
        Grey values that become 0 and 1.

    Returns
    -------
    normalised : ndarray of shape (..., C), float32

    Examples
    --------
    >>> normalise(np.array([[100.0], [150.0]]), np.array([[100, 200]]))
    array([[0. ],
           [0.5]], dtype=float32)
    """
    block = np.asarray(block)
    work = np.float64 if block.dtype.itemsize > 2 and block.dtype != np.float32 else np.float32
    low, high = np.asarray(ranges, work).T
    with np.errstate(over="ignore"):  # what no float32 can hold becomes infinite
        normalised = block.astype(work)
        normalised -= low
        normalised /= high - low
        return normalised.astype(np.float32, copy=False)


def denormalise(block, ranges):
    """Map background 0 and signal 1 back to grey values: the inverse of `normalise`.

    Parameters
    ----------
    block : ndarray of shape (..., C)
    ranges : ndarray of shape (C, 2)
        Grey values of 0 and 1.

    Returns
    -------
    grey : ndarray of shape (..., C), float32

    Examples
    --------
    >>> denormalise(np.array([[0.5]]), np.array([[100, 200]]))
    array([[150.]], dtype=float32)
    """
    low, high = np.asarray(ranges, np.float64).T
    work = np.float32 if np.abs(ranges).max() < 2**20 else np.float64  # the sum keeps a float32's precision
    return (np.asarray(block, work) * (high - low).astype(work) + low.astype(work)).astype(np.float32)


def match_affine(restored, gt):
    """Scale and shift `restored` to lie as close as possible to `gt`.

    Training leaves gain and offset free. Removing both in the least-squares sense lets
    PSNR and SSIM judge structure alone [1]_.

    Parameters
    ----------
    restored, gt : ndarray of shape (..., C)
        Intensities, each in its own unit; every channel is matched by itself.

    Returns
    -------
    matched : ndarray of shape (..., C)
        `restored` in the unit of `gt`; a constant channel becomes the mean of `gt`.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    .. [1] Weigert et al., Nat. Methods 15, 1090 (2018), doi:10.1038/s41592-018-0216-7

    Examples
    --------
    >>> match_affine(np.array([[0.0], [1.0]]), np.array([[10.0], [30.0]]))
    array([[10.],
           [30.]])
    """
    gain, offset = fit_affine([(restored, gt)]).T
    return gain * restored + offset


def fit_affine(frames):
    """Find the gain and the offset that bring restored frames closest to their ground truth.

    Parameters
    ----------
    frames : iterable of (ndarray, ndarray)
        Restored and gt of each frame, `(..., C)`. All frames together are matched by one line for each channel,
        by least squares.

    Returns
    -------
    line : ndarray of shape (C, 2), float64
        Gain and offset of each channel; of a constant channel 0 and the mean of gt.

    Raises
    ------
    ValueError
        If the shapes of a frame differ.

    Examples
    --------
    >>> fit_affine([(np.array([[0.0]]), np.array([[10.0]])), (np.array([[1.0]]), np.array([[30.0]]))])
    array([[20., 10.]])
    """
    count, mean, mean_gt, variance, covariance = 0, 0, 0, 0, 0  # the last two times `count`
    for restored, gt in frames:
        if restored.shape != gt.shape:
            raise ValueError(f"restored is {restored.shape} but gt is {gt.shape}: the shapes must be equal.")
        space = tuple(range(restored.ndim - 1))
        size = restored[..., 0].size
        own_mean, own_mean_gt = (image.mean(axis=space, dtype=np.float64) for image in (restored, gt))
        centred = restored - own_mean
        # sums of squares about the common mean, from those about the means of the parts
        shift, shift_gt, weight = own_mean - mean, own_mean_gt - mean_gt, count * size / (count + size)
        variance = variance + np.sum(centred**2, axis=space) + weight * shift**2
        covariance = covariance + np.sum(centred * (gt - own_mean_gt), axis=space) + weight * shift * shift_gt
        count += size
        mean, mean_gt = mean + shift * size / count, mean_gt + shift_gt * size / count
    gain = np.divide(covariance, variance, out=np.zeros_like(covariance), where=variance > 0)
    return np.stack([gain, mean_gt - gain * mean], axis=-1)


def to_dtype(block, dtype):
    """Round and clip to an integer type, and count what is clipped; floats only change type.

    >>> to_dtype(np.array([-1.0, 1.6, 300.0]), np.uint8)
    (array([  0,   2, 255], dtype=uint8), 2)
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f" or block.dtype == dtype.newbyteorder("="):
        return block.astype(dtype, order="C", copy=False), 0
    limits = np.iinfo(dtype)
    is_exact = block.dtype == np.float32 and dtype.itemsize <= 2  # a float32 holds the limits of these
    rounded = np.rint(block, dtype=np.float32 if is_exact else np.float64)
    num_clipped = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    return np.clip(rounded, limits.min, limits.max).astype(dtype, order="C"), num_clipped
