"""What all tests share."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def stack(rng):
    """(Z, Y, X), photon counts."""
    return rng.poisson(100, (6, 40, 50)).astype(np.uint16)


@pytest.fixture
def data_dir():
    """Real microscopy files, see its README.md."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: this test needs its real microscopy files")
    return folder


@pytest.fixture(scope="session")
def write_tiff():
    """Write an array as ImageJ TIFF with the axes that are named: `write_tiff(path, array, "ZYX")`."""

    def write(path, array, axes, **metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
        imagej = {"imagej": True} if array.dtype in (np.uint8, np.uint16, np.float32) else {}
        tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes, **metadata}, **imagej)
        return path

    return write


@pytest.fixture(scope="session")
def noisy_pair():
    """Smooth random blobs in grey values, and the same with noise: `raw, gt = noisy_pair(shape, seed)`."""

    def make(shape, seed):
        rng = np.random.default_rng(seed)
        gt = ndimage.gaussian_filter(rng.normal(size=shape), 2, axes=(-2, -1))
        gt = 1000 + 400 * gt / gt.std()
        raw = 0.1 * gt + rng.normal(0, 12, shape) + 200
        return raw.clip(0, 65535).astype(np.uint16), gt.clip(0, 65535).astype(np.uint16)

    return make


@pytest.fixture(scope="session")
def tiny_config(write_tiff, noisy_pair):
    """Values of a config that trains in seconds, and its data: `tiny_config(folder, axes="ZYX", epochs=1)`."""
    sizes = {"Z": 8, "C": 2, "Y": 24, "X": 28, "T": 2}

    def make(folder, *, axes="ZYX", num_pairs=2, **values):
        for number in range(num_pairs):
            raw, gt = noisy_pair([sizes[axis] for axis in axes], number)
            write_tiff(folder / "raw" / f"{number}.tif", raw, axes)
            write_tiff(folder / "gt" / f"{number}.tif", gt, axes)
        return {
            "training_data_dir": {"raw": str(folder / "raw"), "gt": str(folder / "gt")},
            "output_dir": str(folder / "run"),
            "patch_shape": [8, 16, 16],
            "num_channels": 8,
            "num_residual_groups": 1,
            "num_residual_blocks": 1,
            "epochs": 1,
            "steps_per_epoch": 2,
            "intensity_threshold": 0,
            "initial_learning_rate": 0.001,
            "recipe": "published",  # the default one has tests of its own
            "precision": "float32",  # on any machine; bfloat16 has tests of its own
            **values,
        }

    return make


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Untrained models on disk, by name: `tiny_models / "3d.keras"`, `2d.keras` and `two_channels.keras` (3D)."""
    from rcan.model import build_rcan

    folder = tmp_path_factory.mktemp("models")
    size = {"num_channels": 8, "num_residual_blocks": 1, "num_residual_groups": 1}
    build_rcan(**size).save(folder / "3d.keras")
    build_rcan(ndim=2, **size).save(folder / "2d.keras")
    build_rcan(num_input_channels=2, num_output_channels=2, **size).save(folder / "two_channels.keras")
    return folder


@pytest.fixture
def make_pair(tmp_path, write_tiff):
    """A pair of files with normalised intensities: `make_pair(raw, gt, axes="ZYX", block_axes="ZYXC")`.

    `raw_range` and `gt_range` are the intensity range of each channel, if they are not.
    """
    from rcan.data.pairs import Pair
    from rcan.data.views import NetworkView
    from rcan.io.opening import open_volume

    numbers = itertools.count()

    def make(raw, gt, *, axes="ZYX", block_axes="ZYXC", raw_range=(0, 1), gt_range=(0, 1)):
        number, views = next(numbers), []
        for kind, image, limits in (("raw", raw, raw_range), ("gt", gt, gt_range)):
            path = write_tiff(tmp_path / f"{number}_{kind}.tif", image.astype(np.float32), axes)
            volume = open_volume(path, block_axes=block_axes)
            views.append(NetworkView(volume, fixed_range=[limits] * volume.shape[-1]))
        return Pair(*views)

    return make
