"""The network: a residual channel attention network for volumes and images.

Deep stacks of small residual blocks, each of which learns how much every feature channel matters
(channel attention), with short and long skip connections around them, so that most of the network
works on what the raw image lacks instead of on carrying the image through.

Conventions: arrays are `(N, Z, Y, X, C)` or, for the 2D network, `(N, Y, X, C)`, float32, background 0
and signal 1. All convolutions have kernel size 3, 'same' padding, stride 1 and a bias unless said.
With `downsampling` the first one has a stride, and all between it and the last one work on a coarser grid
of features: fewer operations for each voxel, and a wider view.
Spatial dimensions are `None`: one trained model takes tiles of any size.

References: Chen et al., Nat. Methods 18, 678 (2021), doi:10.1038/s41592-021-01155-x;
Zhang et al., ECCV (2018), arXiv:1807.02758; Hu et al., CVPR (2018), arXiv:1709.01507;
for the upscaling head Shi et al., CVPR (2016), arXiv:1609.05158; for features on a coarser grid
Dong et al., ECCV (2016), arXiv:1608.00367.
"""

import itertools
import math

from rcan.keras_setup import keras, layers, ops

__all__ = ["PixelShuffle", "build_rcan"]


def build_rcan(
    *,
    ndim=3,
    num_input_channels=1,
    num_output_channels=1,
    num_channels=32,
    num_residual_blocks=3,
    num_residual_groups=5,
    channel_reduction=8,
    residual_scaling=1.0,
    downsampling=None,
    upscaling=None,
):
    """Build the residual channel attention network of Chen et al. (2021).

    Parameters
    ----------
    ndim : {3, 2}
        3 for volumes `(Z, Y, X, C)`, 2 for images `(Y, X, C)`.
    num_input_channels, num_output_channels : int
        Channels of the raw and of the restored image.
    num_channels : int
        Feature channels of every convolution but the last.
    num_residual_blocks, num_residual_groups : int
        Attention blocks in a group, and groups. A single group has no closing
        convolution and no short skip of its own.
    channel_reduction : int
        The attention's bottleneck has ``num_channels // channel_reduction`` channels (at least 1).
    residual_scaling : float
        Weight of a block's residual branch.
    downsampling : tuple of int, optional
        Input voxels for one voxel of the feature maps on each spatial axis; ``None`` is one, as published. The input's
        sizes are multiples of it: of another size, the output is larger by the missing voxels at its ends.
    upscaling : tuple of int, optional
        Output voxels for one input voxel on each spatial axis; ``None`` keeps the size.

    Returns
    -------
    model : keras.Model
        Input `(N, Z, Y, X, num_input_channels)` and output
        `(N, Z, Y, X, num_output_channels)`, both with background 0 and signal 1.

    Examples
    --------
    >>> build_rcan().count_params()
    1002621
    """
    conv = _numbered({3: layers.Conv3D, 2: layers.Conv2D}[ndim])
    transposed_conv = _numbered({3: layers.Conv3DTranspose, 2: layers.Conv2DTranspose}[ndim])
    pool = _numbered({3: layers.GlobalAveragePooling3D, 2: layers.GlobalAveragePooling2D}[ndim])
    shuffle, rescale = _numbered(PixelShuffle), _numbered(layers.Rescaling)
    add, multiply = _numbered(layers.Add), _numbered(layers.Multiply)

    def conv3(x, channels, **options):
        """Convolve with kernels of 3 voxels a side."""
        return conv(channels, 3, padding="same", **options)(x)

    def channel_attention(x):
        """Weight every feature channel by how much it matters, judged by its mean over the whole image.

        With `x` of shape (N, Z, Y, X, C), r the channel reduction, `W1` of shape (C // r, C), `W2` of shape
        (C, C // r), and one weight `s` for each image and channel::

            s = sigmoid(W2 relu(W1 mean_zyx(x) + b1) + b2)      (N, 1, 1, 1, C), between 0 and 1
            y_c = s_c x_c                                       (N, Z, Y, X, C)
        """
        s = pool(keepdims=True)(x)  # (N, 1, 1, 1, C)
        s = conv(max(1, num_channels // channel_reduction), 1, activation="relu")(s)  # (N, 1, 1, 1, C // r)
        s = conv(num_channels, 1, activation="sigmoid")(s)  # (N, 1, 1, 1, C)
        return multiply()([x, s])

    def residual_channel_attention_block(x):
        """Add to `x` what two convolutions and the attention make of it."""
        y = conv3(x, num_channels, activation="relu")
        y = channel_attention(conv3(y, num_channels))
        if residual_scaling != 1:
            y = rescale(residual_scaling)(y)
        return add()([x, y])

    def residual_group(x):
        """Add to `x` what some blocks and a convolution make of it."""
        y = x
        for _ in range(num_residual_blocks):
            y = residual_channel_attention_block(y)
        if num_residual_groups == 1:
            return y
        return add()([x, conv3(y, num_channels)])  # short skip connection

    def residual_in_residual(x):
        """Add to `x` what all groups and a convolution make of it."""
        y = x
        for _ in range(num_residual_groups):
            y = residual_group(y)
        return add()([x, conv3(y, num_channels)])  # long skip connection

    def resample(x, kind, channels):
        """Go from the grid of the image to that of the features, or back, as the `kind` of convolution does."""
        return kind(channels, _kernel_of(downsampling), strides=downsampling, padding="same")(x)

    downsampling = downsampling or (1,) * ndim
    is_coarse = max(downsampling) > 1
    stages = _upscaling_stages(upscaling or (1,) * ndim)
    inputs = keras.Input((None,) * ndim + (num_input_channels,), name="raw")
    x = rescale(2, offset=-1)(inputs)  # [0, 1] -> [-1, 1]
    x = residual_in_residual(resample(x, conv, num_channels))
    if is_coarse:
        x = resample(x, transposed_conv, num_channels if stages else num_output_channels)
    for factors in stages:
        x = shuffle(factors)(conv3(x, num_channels * math.prod(factors)))
    if stages or not is_coarse:
        x = conv3(x, num_output_channels)
    x = rescale(0.5, offset=0.5)(x)  # [-1, 1] -> [0, 1]
    return keras.Model(inputs, x, name="rcan")


def _numbered(kind):
    """Let a layer class name its layers by numbers from 1, in every network.

    By themselves Keras and TensorFlow number all layers of a process, and sums of gradients are taken in the
    order of names: the same training would end in other last bits the second time.
    """
    numbers = itertools.count(1)
    return lambda *args, **options: kind(*args, name=f"{kind.__name__.lower()}_{next(numbers):03}", **options)


def _kernel_of(downsampling):
    """Size of the kernel for a stride: 3 for one, else twice the stride, so that no voxel has more weights."""
    return tuple(2 * factor if factor > 1 else 3 for factor in downsampling)


def _upscaling_stages(factors):
    """Factors of each upscaling: doublings where every axis grows by the same power of two, else one stage."""
    factor = factors[0]
    if factor > 1 and set(factors) == {factor} and factor & (factor - 1) == 0:
        return [(2,) * len(factors)] * (factor.bit_length() - 1)
    return [tuple(factors)] if max(factors) > 1 else []


@keras.saving.register_keras_serializable(package="rcan")
class PixelShuffle(layers.Layer):
    """Enlarge an image by whole `factors`, (z, y, x) or (y, x): channels become neighbouring voxels (Shi et al.).

    `(N, Z, Y, X, C * z * y * x)` becomes `(N, Z * z, Y * y, X * x, C)`; ``z * y * x`` neighbouring channels, in C
    order, fill one block of voxels.
    """

    def __init__(self, factors, **kwargs):
        super().__init__(**kwargs)
        self.factors = tuple(int(factor) for factor in factors)

    def call(self, x):
        """Enlarge `x`."""
        rank = len(self.factors)
        shape = ops.shape(x)
        channels = x.shape[-1] // math.prod(self.factors)
        x = ops.reshape(x, (*shape[:-1], channels, *self.factors))
        # (N, Z, Y, X, C, z, y, x) -> (N, Z, z, Y, y, X, x, C)
        interleaved = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
        x = ops.transpose(x, (0, *interleaved, 1 + rank))
        spatial = [size * factor for size, factor in zip(shape[1:-1], self.factors, strict=True)]
        return ops.reshape(x, (shape[0], *spatial, channels))

    def compute_output_shape(self, input_shape):
        """Return the shape of the enlarged image; unknown sizes stay unknown."""
        spatial = [size and size * factor for size, factor in zip(input_shape[1:-1], self.factors, strict=True)]
        return (input_shape[0], *spatial, input_shape[-1] // math.prod(self.factors))

    def get_config(self):
        """Return the arguments of this layer."""
        return {**super().get_config(), "factors": self.factors}
