import itertools

import numpy as np
import pytest
from engines import Engine
from scipy import ndimage

from rcan.restoration.seams import SeamMeter
from rcan.restoration.tiled import restore_blocks


def score_of(engine, image, *, tile_shape=(12, 24, 24), overlap=(4, 8, 8)):
    meter = SeamMeter()
    cut = {"tile_shape": tile_shape, "overlap": overlap}
    for _ in restore_blocks(engine, image.__getitem__, image.shape[:-1], seams=meter, **cut):
        pass
    return meter.score


@pytest.fixture
def blobs(rng):
    image = ndimage.gaussian_filter(rng.normal(size=(24, 80, 84, 1)), (2, 2, 2, 0))
    return (image / image.std()).astype(np.float32)


@pytest.mark.parametrize("tile_shape", [(12, 24, 24), (24, 30, 40)])
def test_seams_of_a_continuous_volume_score_one(blobs, tile_shape):
    assert score_of(Engine(np.copy), blobs, tile_shape=tile_shape) == pytest.approx(1, abs=0.1)


def test_seams_of_a_continuous_volume_that_is_enlarged_score_one(blobs):
    engine = Engine(lambda tile: ndimage.zoom(tile, (1, 2, 2, 1), order=1), factors=(1, 2, 2))
    assert score_of(engine, blobs) == pytest.approx(1, abs=0.15)


def test_tiles_with_offsets_score_clearly_more(blobs):
    numbers = itertools.count()
    engine = Engine(lambda tile: tile + 3 * (next(numbers) % 2))
    assert score_of(engine, blobs) > 1.5


def test_flat_tiles_with_offsets_score_clearly_more():
    """Nothing happens beside the borders."""
    numbers = itertools.count()
    engine = Engine(lambda tile: np.full_like(tile, next(numbers) % 2))
    assert score_of(engine, np.zeros((24, 80, 84, 1), np.float32)) > 1.5


def test_one_tile_has_no_seams(blobs):
    assert score_of(Engine(np.copy), blobs, tile_shape=(24, 80, 84)) is None
