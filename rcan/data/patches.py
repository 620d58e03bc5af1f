"""Patches by index, and batches of them."""

import numpy as np

from rcan.data.foreground import ForegroundIndex
from rcan.data.light import Light
from rcan.data.measurements import MeasurementCache
from rcan.progress import Progress
from rcan.regions import region_at


class NoSignal(ValueError):
    """No patch has enough signal; `largest_share` is the largest share of signal voxels that any has."""

    def __init__(self, message, largest_share):
        super().__init__(message)
        self.largest_share = largest_share


class PatchSampler:
    """Draw patches uniformly from all positions with enough signal, of all pairs and frames.

    `patch_shape`, (Z, Y, X) or (Y, X) in voxels of raw, fits into every pair. A voxel is signal where the normalised
    gt is above `intensity_threshold` (0 or less accepts every patch); a patch needs at least the share
    `area_ratio_threshold` of such voxels, and a `NoSignal` says that none has it. With a `photon_range` each patch has
    the light of the raw volume times a factor, drawn from the lowest to the highest, as `rcan.data.light` makes
    it. `own_augment` is what `rcan.training.fit.train` calls `augment`. What keeps a patch from being read while it is
    streamed is kept as `failure`. `num_raw_channels` are those of the raw image, the first ones of a network's input.
    """

    def __init__(
        self,
        pairs,
        patch_shape,
        *,
        seed,
        augmented,
        intensity_threshold=0.25,
        area_ratio_threshold=0.5,
        photon_range=None,
        own_augment=None,
        cache=None,
    ):
        self.patch_shape, self._seed, self._augmented = patch_shape, seed, augmented
        self._own_augment = own_augment
        self.failure = None
        self.num_raw_channels = pairs[0].raw.shape[-1]
        self._frames = [(pair, number) for pair in pairs for number in range(pair.num_frames)]
        self._indices, cache = [], cache or MeasurementCache()
        with Progress(len(self._frames), "Finding signal", unit="volume") as progress:
            for pair, number in self._frames:
                thresholds = intensity_threshold, area_ratio_threshold
                self._indices.append(ForegroundIndex(pair, number, patch_shape, *thresholds, cache))
                progress.advance()
        self._lights = {}
        if photon_range:
            with Progress(len(pairs), "Measuring noise", unit="volume") as progress:
                for pair in pairs:
                    self._lights[id(pair)] = Light(pair, photon_range, cache)
                    progress.advance()
        self._ends = np.cumsum([index.count for index in self._indices])
        self.num_positions = int(self._ends[-1])
        if not self.num_positions:
            largest = max(index.largest_share for index in self._indices)
            raise NoSignal(
                f"no patch of {_by(patch_shape)} voxels has enough signal: the largest share of voxels above "
                f"intensity_threshold {intensity_threshold:g} is {largest:.3g}, area_ratio_threshold asks for "
                f"{area_ratio_threshold:g}. Lower area_ratio_threshold below {largest:.3g}, or intensity_threshold.",
                largest,
            )

    def count_positions(self, pair):
        """Positions with enough signal in all frames of one of the pairs."""
        indices = zip(self._frames, self._indices, strict=True)
        return sum(index.count for (other, _), index in indices if other is pair)

    def sample(self, index):
        """Raw, as the network's input, and gt of the patch of an index, (Z, Y, X, C) or (Y, X, C), float32.

        Voxels that are missing in either are background in raw and NaN in gt.
        """
        rng = np.random.default_rng((self._seed, int(index)))
        rank = rng.integers(self.num_positions)
        place = int(np.searchsorted(self._ends, rank, side="right"))
        pair, number = self._frames[place]
        before = self._ends[place] - self._indices[place].count
        corner = self._indices[place].locate(rank - before)
        raw, gt, missing = pair.read_masked(number, region_at(corner, self.patch_shape))
        raw = self._lights[id(pair)].expose(raw, gt, rng) if self._lights else pair.raw.as_input(number, raw)
        if missing is not None:
            gt = np.where(missing, np.float32(np.nan), gt)
        if self._augmented:
            square = raw.shape[-3] == raw.shape[-2] and gt.shape[-3] == gt.shape[-2]
            turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
            flips = rng.integers(2, size=2).astype(bool)
            raw, gt = augment(raw, turns, *flips), augment(gt, turns, *flips)
        return self._augment_further(raw, gt, rng) if self._own_augment else (raw, gt)

    def _augment_further(self, raw, gt, rng):
        """Do the caller's own augmentation; a ValueError if it does not return what it must."""
        augmented = self._own_augment(raw, gt, rng)
        if not isinstance(augmented, (tuple, list)) or len(augmented) != 2:
            raise ValueError(
                f"augment returned a {type(augmented).__name__}: augment(raw, gt, rng) must return raw and gt."
            )
        augmented = [np.asarray(patch, np.float32) for patch in augmented]
        if [patch.shape for patch in augmented] != [raw.shape, gt.shape]:
            shapes = " and ".join(str(patch.shape) for patch in augmented)
            raise ValueError(
                f"augment returned shapes {shapes}: it must return raw and gt as {raw.shape} and {gt.shape}."
            )
        if not np.isfinite(augmented[0]).all():
            raise ValueError("augment returned a raw patch with NaN or infinite values: all must be finite.")
        return tuple(augmented)


def augment(patch, turns, flip_y, flip_z):
    """Turn a patch by quarter turns in the XY plane, 0 to 3, then flip it along Y and Z (a plane has no Z to flip)."""
    patch = np.rot90(patch, turns, axes=(-3, -2))
    if flip_y:
        patch = np.flip(patch, axis=-3)
    if flip_z and patch.ndim == 4:
        patch = np.flip(patch, axis=0)
    return np.ascontiguousarray(patch)


def make_dataset(sampler, indices, *, batch_size):
    """Stream the patches of these indices as batches, in their order; what does not fill a batch is left out.

    A `tf.data.Dataset` of `(raw, gt)`, each `(batch_size, Z, Y, X, C)` float32. Where a patch cannot be read,
    iterating ends in an error of TensorFlow's; what was wrong is kept as `sampler.failure`.
    """
    from rcan.keras_setup import tf

    def sample(index):
        """Sample a patch, and keep what failed."""
        try:
            return sampler.sample(index)
        except Exception as failure:
            sampler.failure = failure
            raise

    shapes = [patch.shape for patch in sampler.sample(0)]

    def read(index):
        """A patch as tensors of known shape."""
        patches = tf.numpy_function(sample, [index], (tf.float32, tf.float32), stateful=False)
        return tuple(tf.ensure_shape(patch, shape) for patch, shape in zip(patches, shapes, strict=True))

    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def _by(shape):
    return "x".join(map(str, shape))
