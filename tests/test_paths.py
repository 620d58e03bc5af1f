import pytest

from rcan.io.paths import list_volumes, pair_paths


def make_images(folder, names):
    """Empty files, and folders that say they are Zarr."""
    for name in names:
        is_folder = name.endswith("zarr")
        path = folder / name / "zarr.json" if is_folder else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_a_folder_lists_its_tiff_files_by_name(tmp_path):
    make_images(tmp_path, ["b.tif", "a.TIFF", "c.Tif", ".b.tif.partial-7", ".hidden.tif", "notes.txt", "d.tif.bak"])
    (tmp_path / "folder.tif").mkdir()
    assert [path.name for path in list_volumes(tmp_path)] == ["a.TIFF", "b.tif", "c.Tif"]


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        list_volumes(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"holds no \*\.tif"):
        list_volumes(tmp_path)


def test_files_of_equal_names_are_pairs_in_any_case(tmp_path):
    raw, gt = (
        make_images(tmp_path / "raw", ["a.tif", "B.tif"]),
        make_images(tmp_path / "gt", ["A.TIFF", "b.tif"]),
    )
    assert sorted(pair_paths(raw, gt)) == [(raw / "B.tif", gt / "b.tif"), (raw / "a.tif", gt / "A.TIFF")]


def test_other_names_are_paired_in_sorted_order_with_a_warning(tmp_path):
    raw, gt = (
        make_images(tmp_path / "raw", ["low2.tif", "low1.tif"]),
        make_images(tmp_path / "gt", ["high1.tif", "high2.tif"]),
    )
    with pytest.warns(UserWarning, match=r"low1\.tif with high1\.tif, low2\.tif with high2\.tif"):
        pairs = pair_paths(raw, gt)
    assert pairs == [(raw / "low1.tif", gt / "high1.tif"), (raw / "low2.tif", gt / "high2.tif")]


def test_a_file_without_partner_is_an_error_that_names_it(tmp_path):
    raw, gt = (
        make_images(tmp_path / "raw", ["a.tif", "b.tif", "c.tif"]),
        make_images(tmp_path / "gt", ["a.tif", "c.tif"]),
    )
    with pytest.raises(ValueError, match=r"3 images but .* holds 2.*Without partner: [^,]*b\.tif\. Add"):
        pair_paths(raw, gt)


def test_at_most_ten_files_without_partner_are_listed(tmp_path):
    raw = make_images(tmp_path / "raw", [f"{i:02}.tif" for i in range(15)])
    with pytest.raises(ValueError, match=r"10\.tif and 4 more\."):
        pair_paths(raw, make_images(tmp_path / "gt", ["00.tif"]))


def test_two_files_whose_names_differ_by_case_only_are_not_mixed_up(tmp_path):
    raw, gt = (
        make_images(tmp_path / "raw", ["A.tif", "a.tiff"]),
        make_images(tmp_path / "gt", ["a.tif", "b.tif"]),
    )
    with pytest.warns(UserWarning, match="sorted order"):
        assert len(pair_paths(raw, gt)) == 2


def test_a_folder_lists_images_of_all_formats_by_name(tmp_path):
    make_images(tmp_path, ["d.TIF", "c.ome.zarr", "b.nd2", "a.czi", ".e.zarr", ".f.lif", "notes.txt", "g/h.tif"])
    (tmp_path / "i.czi").mkdir()
    assert [path.name for path in list_volumes(tmp_path)] == ["a.czi", "b.nd2", "c.ome.zarr", "d.TIF"]


@pytest.mark.parametrize(
    "names",
    [("a.ome.tif", "a.tif"), ("a.tif", "a.zarr"), ("a.czi", "A.ome.zarr"), ("a.1.OME.TIFF", "a.1.tif")],
)
def test_images_of_equal_names_are_pairs_whatever_their_format(tmp_path, names):
    folders = [make_images(tmp_path / str(i), [name, "b.tif"]) for i, name in enumerate(names)]
    pairs = pair_paths(*folders)
    assert (folders[0] / names[0], folders[1] / names[1]) in pairs
