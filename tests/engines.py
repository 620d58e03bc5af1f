"""Networks and engines whose results are known, for tests of restoring."""

import math

import keras
import numpy as np
from keras import layers

from rcan.model import PixelShuffle
from rcan.restoration.file import FileRestorer
from rcan.restoration.settings import RestoreSettings
from rcan.restoration.tiled import TiledRestorer


def identity(ndim=3, channels=1):
    inputs = keras.Input((None,) * ndim + (channels,))
    return keras.Model(inputs, layers.Rescaling(1.0)(inputs))


def convolution(kernel):
    """A model of one convolution, with zeros beyond the border."""
    conv = {2: layers.Conv2D, 3: layers.Conv3D}[kernel.ndim]
    inputs = keras.Input((None,) * kernel.ndim + (1,))
    model = keras.Model(inputs, conv(1, kernel.shape, padding="same", use_bias=False)(inputs))
    model.set_weights([kernel[..., np.newaxis, np.newaxis]])
    return model


def nearest_neighbour(factors):
    """A model that repeats voxels: channels repeated, then shuffled into space."""
    inputs = keras.Input((None,) * len(factors) + (1,))
    repeated = layers.Concatenate()([inputs] * math.prod(factors))
    return keras.Model(inputs, PixelShuffle(factors)(repeated))


class Engine:
    """A function of a tile as an engine."""

    def __init__(self, function, *, factors=(1, 1, 1), num_channels=(1, 1), num_devices=1):
        self.function, self.factors, self.grid = function, factors, (1,) * len(factors)
        self.num_channels, self.num_devices = num_channels, num_devices

    def __call__(self, tile):
        return self.function(tile)


def put_together(shape, blocks):
    restored = np.full(shape, np.nan, np.float32)
    for region, block in blocks:
        restored[region] = block
    return restored


def make_restorer(engine, *, max_voxels=2**22, tile_shape=None, overlap=None, **settings):
    tiled = TiledRestorer(engine, max_voxels=max_voxels, tile_shape=tile_shape, overlap=overlap)
    return FileRestorer(tiled, RestoreSettings(**settings))
