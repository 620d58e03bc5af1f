"""What all tests share."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def data_dir():
    """Real microscopy files, see its README.md."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: this test needs its real microscopy files")
    return folder
