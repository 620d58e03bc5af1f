import keras
import numpy as np
import pytest
from engines import identity
from keras import layers

from rcan.model import build_rcan
from rcan.restoration.attention import with_local_attention
from rcan.restoration.tiled import restore


def gated(ndim):
    """A network that multiplies its input by its mean."""
    pool = {2: layers.GlobalAveragePooling2D, 3: layers.GlobalAveragePooling3D}[ndim]
    inputs = keras.Input((None,) * ndim + (2,))
    return keras.Model(inputs, layers.Multiply()([inputs, pool(keepdims=True)(inputs)]))


def moving_average(image, window):
    """Mean over a window around each voxel, moved inside where it would reach beyond the border."""
    for axis, length in enumerate(window):
        size = image.shape[axis]
        length = min(length, size)
        starts = np.clip(np.arange(size) - length // 2, 0, size - length)
        means = [image.take(range(start, start + length), axis).mean(axis) for start in starts]
        image = np.stack(means, axis)
    return image


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((8, 16, 16), (8, 16, 16)),
        ((5, 11, 16), (8, 16, 16)),
        ((1, 1, 1), (8, 16, 16)),
        ((16, 13), (16, 16)),
        ((15, 5, 17), (17, 15, 19)),
    ],
)
def test_local_attention_is_global_on_a_tile_no_larger_than_the_window(rng, shape, window):
    model = build_rcan(ndim=len(shape), num_channels=8, num_residual_groups=2, num_residual_blocks=1)
    model.set_weights([rng.normal(0, 0.2, weights.shape) for weights in model.get_weights()])
    local = with_local_attention(model, window)
    tile = rng.uniform(size=(1, *shape, 1)).astype(np.float32)
    expected = model.predict_on_batch(tile)
    np.testing.assert_allclose(local.predict_on_batch(tile), expected, atol=1e-5 * np.abs(expected).max())


def draw_trend(rng, shape):
    """Two channels of noise that is brighter at one side: (*shape, 2)."""
    trend = np.linspace(1, 4, shape[-1])[:, np.newaxis]
    return (trend + rng.uniform(0, 1, (*shape, 2))).astype(np.float32)


def test_local_attention_averages_over_a_moving_window(rng):
    """One network for all shapes: TensorFlow traces the second anew, with sizes that are unknown."""
    window = 5, 7, 9  # so small that the average is computed at every voxel
    model = with_local_attention(gated(3), window)
    for shape in [(12, 33, 34), (4, 30, 9), (5, 7, 9), (20, 8, 21), (12, 33, 34)]:
        tile = draw_trend(rng, shape)
        found = model.predict_on_batch(tile[np.newaxis])[0] / tile
        np.testing.assert_allclose(found, moving_average(tile, window), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((12, 60, 50), (16, 32, 32)),
        ((40, 40, 41), (8, 24, 24)),
        ((100, 90), (64, 64)),
        ((33, 65), (32, 32)),
    ],
)
def test_average_over_a_large_window_is_interpolated(rng, shape, window):
    """It is off by a tenth of what separates it from the average over the tile, at most."""
    tile = draw_trend(rng, shape)
    local = with_local_attention(gated(len(shape)), window)
    found = local.predict_on_batch(tile[np.newaxis])[0] / tile
    expected = moving_average(tile, window)
    everywhere = tile.mean(axis=tuple(range(len(shape))))
    error, difference = (np.sqrt(np.mean((other - expected) ** 2)) for other in (found, everywhere))
    assert error < 0.1 * difference


def test_restored_voxel_far_from_the_borders_of_tiles_does_not_depend_on_them(rng):
    raw = (np.linspace(1, 4, 200)[:, np.newaxis] + rng.uniform(size=(4, 8, 200, 2))).astype(np.float32)
    spreads = {}
    for name, model in {"global": gated(3), "local": with_local_attention(gated(3), (4, 8, 16))}.items():
        restored = [restore(model, raw, tile_shape=(4, 8, tile), overlap=(0, 0, 32)) for tile in (64, 104)]
        inside = [volume[:, :, 20:-20] / raw[:, :, 20:-20] for volume in restored]
        spreads[name] = np.abs(inside[0] - inside[1]).max()
    assert spreads["local"] < 0.1 * spreads["global"]


def test_network_without_attention_cannot_have_local_one():
    with pytest.raises(ValueError, match="no channel attention that could be local"):
        with_local_attention(identity(), (8, 16, 16))
