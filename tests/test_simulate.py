import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from rcan.commands.simulate import main
from rcan.io.opening import open_volume
from rcan.simulation import pairs as pairs_module
from rcan.simulation.optics import gaussian_widths

ROOT = Path(__file__).parents[1]
SMALL = ["--shape", "6,24,24", "--pairs", "2"]


def read_all(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.tif"))}


def simulate(folder, *flags):
    assert main([str(folder), *flags]) == 0
    return read_all(folder)


def test_same_seed_writes_the_same_files(tmp_path):
    one, other = (simulate(tmp_path / name, *SMALL, "--seed", "5") for name in ("one", "other"))
    assert one == other
    assert list(one) == [
        "gt/mixture_000.tif",
        "gt/mixture_001.tif",
        "raw/mixture_000.tif",
        "raw/mixture_001.tif",
    ]


def test_another_seed_writes_other_files(tmp_path):
    one, other = (simulate(tmp_path / seed, *SMALL, "--seed", seed) for seed in "56")
    assert not set(one.values()) & set(other.values())


def test_pairs_of_one_run_differ(tmp_path):
    assert len(set(simulate(tmp_path / "run", *SMALL).values())) == 4


@pytest.mark.parametrize(
    ("flags", "voxel_size"), [((), (0.3, 0.1, 0.1)), (("--voxel_size", "0.5,0.2,0.25"), (0.5, 0.2, 0.25))]
)
def test_files_have_the_voxel_size_and_the_shape(tmp_path, flags, voxel_size):
    simulate(tmp_path / "run", *SMALL, *flags)
    for path in (tmp_path / "run").rglob("*.tif"):
        volume = open_volume(path)
        np.testing.assert_allclose(volume.voxel_size, voxel_size, rtol=1e-5)
        assert (volume.axes, volume.shape, volume.dtype) == ("ZYX", (6, 24, 24, 1), np.uint16)


def test_compressed_files_hold_the_same_values(tmp_path):
    simulate(tmp_path / "plain", *SMALL)
    simulate(tmp_path / "small", *SMALL, "--compress")
    for path in (tmp_path / "plain").rglob("*.tif"):
        twin = tmp_path / "small" / path.relative_to(tmp_path / "plain")
        np.testing.assert_array_equal(tifffile.imread(twin), tifffile.imread(path))
        assert twin.stat().st_size < path.stat().st_size


def test_more_photons_give_a_better_signal(tmp_path):
    correlations = []
    for photons in ("5", "500"):
        simulate(tmp_path / photons, "--shape", "8,48,48", "--pairs", "1", "--photons", photons)
        raw, gt = (tifffile.imread(tmp_path / photons / kind / "mixture_000.tif") for kind in ("raw", "gt"))
        correlations.append(np.corrcoef(raw.ravel(), gt.ravel())[0, 1])
    assert correlations[1] > correlations[0] + 0.1


def test_warning_comes_once_for_all_pairs(tmp_path, capsys):
    simulate(tmp_path / "run", *SMALL, "--gain", "1e6", "--read_noise", "0")
    assert re.fullmatch(
        r"warning: [\d.]+ % of the raw voxels saturate at 65535: lower gain, photons or offset\.\n",
        capsys.readouterr().err,
    )


def test_saturation_and_noise_below_0_are_both_warned_of(tmp_path, capsys):
    simulate(tmp_path / "run", *SMALL, "--gain", "1e6")
    saturated, negative = sorted(capsys.readouterr().err.splitlines(), key=lambda line: "below 0" in line)
    assert "saturate at 65535" in saturated
    assert "fall below 0" in negative


def test_phantoms_of_the_default_camera_are_made_without_warning(tmp_path, capsys):
    simulate(tmp_path / "run", *SMALL)
    assert capsys.readouterr().err == ""


def test_help_page_gives_the_default_widths(capsys):
    assert main(["--help"]) == 0
    widths = ",".join(f"{width:.2f}" for width in gaussian_widths(1.4, 0.52, 1.515))
    assert f"(default: {widths}, from --numerical_aperture," in " ".join(capsys.readouterr().out.split())


# Real volumes


@pytest.mark.parametrize("name", ["cell_uint8.tif", "spots_zcyx.tif"])
def test_gt_of_a_real_source_is_the_source(tmp_path, data_dir, name):
    path = data_dir / "volumes" / name
    simulate(tmp_path / "run", "--source", str(path), "--pairs", "2")
    source = open_volume(path)
    for number in range(2):
        raw, gt = (open_volume(tmp_path / "run" / kind / f"{path.stem}_{number:03d}.tif") for kind in ("raw", "gt"))
        np.testing.assert_array_equal(gt.read(dtype=None), source.read(dtype=None))
        assert gt.dtype == source.dtype
        np.testing.assert_allclose(gt.voxel_size, source.voxel_size, rtol=1e-4)
        assert (raw.shape, raw.dtype) == (gt.shape, np.uint16)


def test_source_without_voxel_size_is_refused_unless_it_is_given(tmp_path, data_dir, capsys):
    source = str(data_dir / "volumes" / "six_planes.tif")
    if None not in open_volume(source).voxel_size:
        source = str(data_dir / "volumes" / "nuclei.tif")
    assert main([str(tmp_path / "run"), "--source", source, "--pairs", "1"]) == 1
    assert "name it in µm with --voxel_size Z,Y,X" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), "--source", source, "--pairs", "1", "--voxel_size", "0.3,0.26,0.26"]) == 0


def test_raw_of_a_real_source_is_the_source_blurred_and_noisy(tmp_path, data_dir):
    path = data_dir / "volumes" / "cell_uint8.tif"
    simulate(tmp_path / "run", "--source", str(path), "--pairs", "1", "--photons", "100")
    raw, gt = (tifffile.imread(tmp_path / "run" / kind / "cell_uint8_000.tif").astype(float) for kind in ("raw", "gt"))
    assert 0.5 < np.corrcoef(raw.ravel(), gt.ravel())[0, 1] < 0.99


def test_pairs_of_one_source_are_said_to_differ_in_noise_only(tmp_path, data_dir, capsys):
    source = str(data_dir / "volumes" / "cell_uint8.tif")
    simulate(tmp_path / "run", "--source", source, "--pairs", "2")
    closing = capsys.readouterr().out.splitlines()[-1]
    assert "differ in noise only" in closing
    assert "validate and test on another volume" in closing


def test_pairs_of_phantoms_are_not_said_to_share_a_ground_truth(tmp_path, capsys):
    simulate(tmp_path / "run", *SMALL)
    assert "noise only" not in capsys.readouterr().out


# What is in the way


@pytest.mark.parametrize(
    ("flags", "offender", "way_out"),
    [
        ("--source a.tif --shape 8,32,32", "--shape", "--source takes the place of a phantom"),
        ("--source a.tif --kind mixture", "--kind", "--source takes the place of a phantom"),
        ("--fwhm 0.5,0.2,0.2 --numerical_aperture 1.4", "--numerical_aperture", "and so does --fwhm"),
        ("--fwhm 0.5,0.2,0.2 --wavelength 0.6", "--wavelength", "and so does --fwhm"),
        ("--fwhm 0.5,0.2,0.2 --refractive_index 1.33", "--refractive_index", "and so does --fwhm"),
        ("--axes ZYX", "--axes", "name it with --source"),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(tmp_path, capsys, flags, offender, way_out):
    assert main([str(tmp_path / "run"), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {offender} ")
    assert way_out in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    ["--fwhm 0.5,0.2,0.2", "--numerical_aperture 1.2 --wavelength 0.6 --refractive_index 1.33"],
)
def test_either_way_to_say_the_sharpness_is_accepted(tmp_path, flags):
    assert simulate(tmp_path / "run", *SMALL, *flags.split())


def test_axes_of_a_source_are_accepted(tmp_path, data_dir):
    source = data_dir / "volumes" / "cell_uint8.tif"
    simulate(tmp_path / "run", "--source", str(source), "--axes", "ZYX", "--pairs", "1")
    assert len(read_all(tmp_path / "run")) == 2


def test_shape_too_small_for_phantoms_is_refused_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "run"), "--shape", "1,1,1"]) == 1
    assert re.fullmatch(r"error: shape is \(1, 1, 1\): .* Give more voxels\.\n", capsys.readouterr().err)


def test_folder_with_pairs_is_refused_and_left_as_it_is(tmp_path, capsys):
    before = simulate(tmp_path / "run", *SMALL)
    assert main([str(tmp_path / "run"), *SMALL, "--seed", "9"]) == 1
    assert "already holds files" in capsys.readouterr().err
    assert read_all(tmp_path / "run") == before


@pytest.mark.parametrize("lost", [["gt/spheres_001.tif"], ["raw/spheres_001.tif", "gt/spheres_001.tif"]])
def test_an_interrupted_call_is_completed_by_the_same_one_with_the_same_bytes(tmp_path, lost, monkeypatch):
    flags = ["--shape", "6,24,24", "--kind", "spheres", "--pairs", "3"]
    before = simulate(tmp_path / "run", *flags)
    for name in lost:
        (tmp_path / "run" / name).unlink()
    made = []
    monkeypatch.setattr("rcan.simulation.pairs._write", _counted(pairs_module._write, made))
    assert simulate(tmp_path / "run", *flags) == before
    assert {path.stem for path in made} == {"spheres_001"}


def test_a_source_that_has_changed_is_not_gone_on_with(tmp_path, write_tiff, stack, capsys):
    source = write_tiff(tmp_path / "sharp.tif", stack, "ZYX", spacing=0.3)
    flags = ["--source", str(source), "--voxel_size", "0.3,0.1,0.1", "--pairs", "1"]
    assert main([str(tmp_path / "run"), *flags]) == 0
    write_tiff(source, stack[:, ::-1], "ZYX", spacing=0.3)
    assert main([str(tmp_path / "run"), *flags]) == 1
    assert "not made by the same call" in capsys.readouterr().err


def _counted(write, made):
    """A function that writes, and notes where."""

    def wrapped(path, *rest):
        made.append(path)
        write(path, *rest)

    return wrapped


# What is shipped


@pytest.mark.parametrize(("part", "pairs", "seed", "number"), [("train", 8, 0, 3), ("test", 2, 1, 1)])
def test_shipped_sample_is_what_its_command_makes(tmp_path, part, pairs, seed, number, monkeypatch):
    """Of the last bits of floating-point numbers machines may differ, and so a voxel may."""
    made = []
    monkeypatch.setattr("rcan.simulation.pairs.make_phantom", _only(number, made))
    flags = [
        "--pairs",
        str(pairs),
        "--shape",
        "24,96,96",
        "--photons",
        "20",
        "--blur",
        "2",
        "--seed",
        str(seed),
    ]
    simulate(tmp_path / "run", *flags, "--compress")
    assert len(made) == pairs
    name = f"mixture_{number:03d}.tif"
    raw, gt = (tifffile.imread(tmp_path / "run" / kind / name).astype(int) for kind in ("raw", "gt"))
    shipped_raw, shipped_gt = (
        tifffile.imread(ROOT / "sample" / part / kind / name).astype(int) for kind in ("raw", "gt")
    )
    assert np.abs(gt - shipped_gt).max() <= 1
    assert np.mean(raw == shipped_raw) >= 0.999


def _only(number, made):
    """`make_phantom` that draws one pair's phantom only: every pair has random numbers of its own."""
    from rcan.simulation.phantoms import make_phantom

    def make(kind, shape, **options):
        made.append(kind)
        if len(made) == number + 1:
            return make_phantom(kind, shape, **options)
        return np.zeros((*shape, 1), np.float32)

    return make
