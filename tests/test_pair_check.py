import numpy as np
import pytest
import tifffile

from rcan.data.pair_check import check_pair
from rcan.io.opening import open_volume


@pytest.fixture
def gt(rng):
    """(Z, Y, X), a few bright blobs."""
    return rng.gamma(0.5, 100, (6, 20, 24)).astype(np.float32)


def volume(path, array, axes="ZYX", **options):
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes})
    return open_volume(path, **options)


def test_a_good_pair_passes(tmp_path, rng, gt):
    raw = rng.poisson(gt).astype(np.float32)
    check_pair(volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", gt))


def test_a_finer_ground_truth_passes(tmp_path, rng, gt):
    raw = rng.poisson(gt).astype(np.float32)
    fine = gt.repeat(2, axis=1).repeat(3, axis=2)
    check_pair(volume(tmp_path / "raw.tif", raw), volume(tmp_path / "gt.tif", fine))


def test_a_plane_is_checked_as_a_volume_is(tmp_path, rng, gt):
    raw = volume(tmp_path / "raw.tif", rng.poisson(gt[0]).astype(np.uint16), "YX", block_axes="YX")
    check_pair(raw, volume(tmp_path / "gt.tif", gt[0], "YX", block_axes="YX"))


def test_one_file_is_no_pair(tmp_path, gt):
    (tmp_path / "link.tif").symlink_to(tmp_path / "a.tif")
    first = volume(tmp_path / "a.tif", gt)
    for other in first, open_volume(tmp_path / "link.tif"):
        with pytest.raises(ValueError, match="is both raw and gt"):
            check_pair(first, other)


@pytest.mark.parametrize("shape", [(6, 20, 36), (6, 10, 24), (3, 20, 24)])
def test_gt_must_be_a_whole_multiple_of_raw(tmp_path, gt, shape):
    other = volume(tmp_path / "gt.tif", np.ones(shape, np.float32))
    with pytest.raises(ValueError, match=r"gt\.tif is \(.*raw\.tif is \(6, 20, 24\) \(ZYX\).*whole multiple"):
        check_pair(volume(tmp_path / "raw.tif", gt), other)


def test_numbers_of_frames_must_agree(tmp_path, rng):
    raw = volume(tmp_path / "raw.tif", rng.random((3, 4, 8, 8)), "TZYX")
    with pytest.raises(ValueError, match=r"gt\.tif has 2 T frames .*raw\.tif has 3 T"):
        check_pair(raw, volume(tmp_path / "gt.tif", rng.random((2, 4, 8, 8)), "TZYX"))


def test_frames_of_a_pair_correspond_whatever_the_storage_order(tmp_path, rng):
    image = rng.integers(0, 999, (2, 3, 16, 16)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "ct.ome.tif", image, metadata={"axes": "CTYX"}, ome=True)
    tifffile.imwrite(tmp_path / "tc.ome.tif", image.swapaxes(0, 1), metadata={"axes": "TCYX"}, ome=True)
    one, other = (open_volume(tmp_path / f"{axes}.ome.tif", block_axes="YX") for axes in ("ct", "tc"))
    assert [one.read(frame)[..., 0].tolist() for frame in one.frames] == [
        image[frame["C"], frame["T"]].tolist() for frame in other.frames
    ]


def test_frames_of_swapped_axes_are_no_pair(tmp_path, rng):
    image = rng.integers(0, 999, (3, 2, 16, 16)).astype(np.uint16)
    for axes in ("TZYX", "ZTYX"):
        tifffile.imwrite(tmp_path / f"{axes}.ome.tif", image, metadata={"axes": axes}, ome=True)
    raw, gt = (open_volume(tmp_path / f"{axes}.ome.tif", block_axes="YXC") for axes in ("TZYX", "ZTYX"))
    with pytest.raises(ValueError, match=r"has 2 T x 3 Z frames .* has 3 T x 2 Z"):
        check_pair(raw, gt)
