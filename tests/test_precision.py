"""What networks are computed in: chosen by the hardware and the network, the same to the end, and recorded."""

import json
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from ml_dtypes import bfloat16

from rcan import hardware, precision
from rcan.commands.apply import main as apply_main
from rcan.commands.evaluate import main as evaluate_main
from rcan.commands.limits import main as limits_main
from rcan.config import Config
from rcan.hardware import Support, find_bfloat16
from rcan.model import build_rcan
from rcan.precision import choose_for_network, choose_precision, with_precision
from rcan.restoration import engine
from rcan.restoration.engine import voxels_within_memory
from rcan.run_folder.record import PrecisionCheck
from rcan.training import devices as training_devices
from rcan.training.bfloat16 import compare_with_bfloat16
from rcan.training.fit import train

CPU_INFO = "processor\t: 0\nvendor_id\t: X\nflags\t\t: fpu avx2 {}\nbugs\t\t: amx_bf16\n\nprocessor\t: 1\n"


@pytest.fixture
def bfloat16_is(monkeypatch):
    """Pretend that the hardware has bfloat16, or has not: `bfloat16_is(True)`."""

    def pretend(is_fast):
        reason = "the processor has it" if is_fast else "the processor lacks it"
        monkeypatch.setattr(precision, "find_bfloat16", lambda **_: Support(is_fast, reason))
        monkeypatch.setattr(precision, "_time_convolutions", {"float32": 1.0}.get)  # others are not timed

    return pretend


@pytest.fixture
def small_network():
    keras.utils.set_random_seed(0)
    return build_rcan(num_channels=8, num_residual_groups=1, num_residual_blocks=1)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Hardware


@pytest.mark.parametrize(("flag", "is_fast"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)])
def test_the_flags_of_the_processor_tell(tmp_path, flag, is_fast):
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flag))
    support = hardware._ask_cpu(tmp_path / "cpuinfo")
    assert support.is_fast == is_fast
    assert "bf16" in support.reason


def test_a_system_that_lists_no_instructions_has_no_bfloat16(tmp_path):
    assert not hardware._ask_cpu(tmp_path / "absent").is_fast


def test_without_the_library_that_computes_in_it_the_instructions_are_of_no_use(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format("avx512_bf16"))
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    support = hardware._ask_cpu(tmp_path / "cpuinfo")
    assert not support.is_fast
    assert "TF_ENABLE_ONEDNN_OPTS" in support.reason


@pytest.mark.parametrize(
    ("capabilities", "num_gpus", "is_fast"),
    [("8.0", 1, True), ("9.0\\n8.6", 2, True), ("9.0\\n7.5", 2, False), ("9.0\\n7.5", 1, True), ("", 1, False)],
)
def test_the_weakest_of_the_gpus_that_compute_decides(tmp_path, monkeypatch, capabilities, num_gpus, is_fast):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{capabilities}\\n'\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_bfloat16(on_gpu=True, num_gpus=num_gpus).is_fast == is_fast


@pytest.mark.parametrize(("num_used", "name"), [(1, "mixed_bfloat16"), (2, "float32")])
def test_a_training_asks_the_gpus_it_uses(monkeypatch, num_used, name):
    names = [f"/device:GPU:{number}" for number in range(2)]
    strategy = SimpleNamespace(num_replicas_in_sync=num_used)
    monkeypatch.setattr(training_devices.tf.config, "list_logical_devices", lambda kind: names)
    monkeypatch.setattr(hardware, "query_gpus", lambda field: [9.0, 7.5])
    assert training_devices.choose_common_precision("auto", strategy).name == name


# The choice


@pytest.mark.parametrize(("is_fast", "name"), [(True, "mixed_bfloat16"), (False, "float32")])
def test_auto_is_what_the_hardware_has(bfloat16_is, is_fast, name):
    bfloat16_is(is_fast)
    chosen = choose_precision("auto", on_gpu=False)
    assert chosen.name == name
    assert (
        str(chosen) == f"Computing in {name.removeprefix('mixed_')}: the processor {'has' if is_fast else 'lacks'} it."
    )


def test_jax_computes_in_float32_on_a_processor(bfloat16_is, monkeypatch):
    bfloat16_is(True)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert choose_precision("auto", on_gpu=False).name == "float32"
    assert choose_precision("auto", on_gpu=True).name == "mixed_bfloat16"


@pytest.mark.parametrize(("name", "seconds"), [("mixed_bfloat16", 7.04), ("mixed_float16", 3.0)])
def test_a_slow_choice_is_warned_of_with_the_factor_that_was_measured(bfloat16_is, monkeypatch, name, seconds):
    bfloat16_is(False)
    monkeypatch.setattr(precision, "_time_convolutions", {"float32": 2.0, name: 2 * seconds}.get)
    with pytest.warns(UserWarning, match=f"precision {name} takes {seconds:.2g} times as long here as float32"):
        assert choose_precision(name, on_gpu=False).name == name


@pytest.mark.filterwarnings("error")
def test_a_choice_that_is_as_fast_is_not_warned_of(bfloat16_is, monkeypatch):
    bfloat16_is(False)
    monkeypatch.setattr(precision, "_time_convolutions", {"float32": 2.0, "mixed_bfloat16": 2.1}.get)
    assert choose_precision("mixed_bfloat16", on_gpu=False) == ("mixed_bfloat16", "as asked for")


def test_the_trial_times_both_precisions():
    assert precision._time_convolutions("float32") > 0
    assert precision._time_convolutions("mixed_bfloat16") > 0


@pytest.mark.parametrize(
    ("difference", "name", "reason"),
    [
        (0.049, "mixed_bfloat16", "the processor has it"),
        (0.051, "float32", "in bfloat16 the output of this network differs by 5.1 % of its error"),
        (None, "float32", "no training.json says that bfloat16 is as good for this network"),
    ],
)
def test_a_network_that_changes_in_bfloat16_is_computed_in_float32(bfloat16_is, difference, name, reason):
    bfloat16_is(True)
    check = difference and PrecisionCheck(difference=difference, num_voxels=1)
    assert choose_for_network("auto", check, on_gpu=False) == (name, reason)
    assert choose_for_network("mixed_bfloat16", check, on_gpu=False).name == "mixed_bfloat16"


# Networks


def test_the_first_and_the_last_layer_stay_float32(small_network):
    lower = with_precision(small_network, "mixed_bfloat16")
    computed = [layer.compute_dtype for layer in lower.layers]
    weighted = [number for number, layer in enumerate(lower.layers) if layer.weights]
    first, last = weighted[0], weighted[-1]
    assert set(computed[: first + 1] + computed[last:]) == {"float32"}
    assert set(computed[first + 1 : last]) == {"bfloat16"}
    assert {layer.variable_dtype for layer in lower.layers} == {"float32"}


def test_the_output_hardly_changes(small_network, rng):
    raw = rng.random((1, 8, 24, 24, 1), np.float32)
    expected = small_network.predict_on_batch(raw)
    found = with_precision(small_network, "mixed_bfloat16").predict_on_batch(raw)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.02 * np.ptp(expected)


def test_a_network_that_was_saved_in_another_precision_is_computed_in_float32(small_network, rng):
    raw = rng.random((1, 8, 24, 24, 1), np.float32)
    lower = with_precision(small_network, "mixed_bfloat16")
    again = with_precision(lower, "float32")
    np.testing.assert_array_equal(again.predict_on_batch(raw), small_network.predict_on_batch(raw))
    assert with_precision(small_network, "float32") is small_network


def test_a_network_of_networks_is_refused(small_network):
    inputs = keras.Input((None, None, None, 1))
    nested = keras.Model(inputs, layers.Conv3D(1, 1)(small_network(layers.Conv3D(1, 1)(inputs))))
    with pytest.raises(ValueError, match="holds other networks cannot be computed in mixed_bfloat16: choose float32"):
        with_precision(nested, "mixed_bfloat16")


def test_a_tile_in_bfloat16_may_be_twice_as_large(small_network, monkeypatch):
    monkeypatch.setattr(engine, "free_memory", lambda: 2**28)
    one, other = (
        voxels_within_memory(with_precision(small_network, name), ("cpu:0",)) for name in ("float32", "mixed_bfloat16")
    )
    assert other == 2 * one


class Patches:
    """A sampler of patches of known intensities, whose truth is brighter by 0.1."""

    def sample(self, index):
        raw = np.random.default_rng(index).random((4, 8, 8, 1), np.float32)
        return raw, raw + 0.1


def test_the_difference_is_that_of_rounding_over_the_error():
    inputs = keras.Input((None, None, None, 1))
    x = inputs
    for _ in range(3):  # of which the middle one rounds
        x = layers.Conv3D(1, 1, kernel_initializer="ones")(x)
    found = compare_with_bfloat16(keras.Model(inputs, x), Patches())
    raw = np.stack([Patches().sample(index)[0] for index in range(4)])
    rounding = np.sqrt(np.mean((raw.astype(bfloat16).astype(np.float32) - raw) ** 2))
    assert found.difference == pytest.approx(rounding / 0.1, rel=1e-3)
    assert found.num_voxels == raw.size


# Trainings


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_config):
    """A run folder of a training in bfloat16, whatever the hardware, and its values."""
    folder = tmp_path_factory.mktemp("trained")
    values = tiny_config(folder, epochs=2, steps_per_epoch=6, initial_learning_rate=0.01, precision="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "find_bfloat16", lambda **_: Support(True, "the processor has it"))
        train(Config.checked(values))
    return values


def test_a_training_says_and_records_what_it_chose(trained, tmp_path, bfloat16_is, capsys):
    bfloat16_is(True)
    run_dir = train(Config.checked({**trained, "output_dir": str(tmp_path / "run"), "epochs": 1}))
    assert "Computing in bfloat16: the processor has it." in capsys.readouterr().out
    for name in ("config.json", "training.json"):
        assert json.loads((run_dir / name).read_text())["precision"] == "mixed_bfloat16"


def test_a_network_that_was_trained_in_bfloat16_is_saved_in_float32(trained):
    model = keras.saving.load_model(f"{trained['output_dir']}/best.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_the_check_at_the_end_of_a_training_is_kept_with_its_network(trained):
    check = json.loads(Path(trained["output_dir"], "training.json").read_text())["bfloat16_check"]
    assert 0 < check["difference"] < 0.05
    assert len(check["model"]) == 16


def test_the_same_seed_gives_the_same_bits_after_an_interruption(trained, tmp_path, bfloat16_is):
    bfloat16_is(True)
    values = {**trained, "output_dir": str(tmp_path / "run")}
    train(Config.checked({**values, "epochs": 1}))
    train(Config.checked(values), resume=True)
    one, other = (
        keras.saving.load_model(f"{run_dir}/last.keras").get_weights()
        for run_dir in (trained["output_dir"], tmp_path / "run")
    )
    for before, after in zip(one, other, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_run_goes_on_in_what_it_began_with(trained, tmp_path, bfloat16_is, capsys):
    shutil.copytree(trained["output_dir"], tmp_path / "run")
    bfloat16_is(False)
    values = {**trained, "output_dir": str(tmp_path / "run"), "epochs": 3}
    train(Config.checked(values), resume=True)
    assert "Computing in bfloat16: as the run began." in capsys.readouterr().out


def test_a_run_may_go_on_in_another_precision_which_is_recorded(trained, tmp_path, bfloat16_is):
    bfloat16_is(True)
    shutil.copytree(trained["output_dir"], tmp_path / "run")
    values = {**trained, "output_dir": str(tmp_path / "run"), "epochs": 3, "precision": "float32"}
    run_dir = train(Config.checked(values), resume=True)
    for name in ("config.json", "training.json"):
        assert json.loads((run_dir / name).read_text())["precision"] == "float32"


# Images


@pytest.fixture
def restore(trained, tmp_path, capsys):
    """Restore the folder of raw images: `out, err = restore("-o", "out", …, status=0)`."""

    def restore(*flags, status=0):
        arguments = ["-m", trained["output_dir"], "-i", trained["training_data_dir"]["raw"], "-o", tmp_path / "out"]
        assert apply_main([*map(str, arguments), *flags]) == status
        return capsys.readouterr()

    return restore


def test_the_precision_is_said_and_recorded(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    assert "Computing in bfloat16: the processor has it." in restore()[0]
    entries = lines_of(tmp_path / "out/manifest.jsonl")
    assert [entry["settings"]["precision"] for entry in entries] == ["mixed_bfloat16"] * 2
    with tifffile.TiffFile(tmp_path / "out/0.tif") as tiff:
        assert "rcan.precision = mixed_bfloat16" in tiff.imagej_metadata["Info"]


def test_images_in_bfloat16_are_those_in_float32_within_rounding(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    restore()
    restore("-o", str(tmp_path / "other"), "--precision", "float32")
    one, other = (tifffile.imread(tmp_path / name / "0.tif") for name in ("out", "other"))
    assert 0 < np.abs(one - other).max() < 0.02 * np.ptp(other)


def test_a_folder_in_float32_is_completed_in_float32(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    restore("--precision", "float32")
    expected = (tmp_path / "out/1.tif").read_bytes()
    (tmp_path / "out/1.tif").unlink()
    assert "Computing in float32: as the images that are there." in restore()[0]
    assert (tmp_path / "out/1.tif").read_bytes() == expected


def test_a_folder_of_an_earlier_version_is_in_float32(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    restore("--precision", "float32")
    manifest = tmp_path / "out/manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(', "precision": "float32"', ""))
    assert "2 of 2 restored, 2 of them before" in restore()[0]
    assert "2 of 2 restored, 2 of them before" in restore("--precision", "float32")[0]


def test_images_of_another_precision_are_not_replaced(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    restore()
    assert (
        "0.tif and 1 more, made with precision mixed_bfloat16, would" in restore("--precision", "float32", status=1)[1]
    )
    assert "Computing in bfloat16: the processor has it." in restore("--overwrite")[0]


def test_an_interrupted_folder_ends_in_the_same_bytes(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    restore()
    expected = (tmp_path / "out/1.tif").read_bytes()
    (tmp_path / "out/1.tif").unlink()
    restore()
    assert (tmp_path / "out/1.tif").read_bytes() == expected


def test_local_attention_and_ensembles_are_computed_in_bfloat16(restore, bfloat16_is, tmp_path):
    bfloat16_is(True)
    for name, flags in (("out", []), ("other", ["--precision", "float32"])):
        restore("-o", str(tmp_path / name), "--attention", "local", "--ensemble", "8", "--uncertainty", *flags)
    for name in ("0.tif", "0_uncertainty.tif"):
        one, other = (tifffile.imread(tmp_path / folder / name) for folder in ("out", "other"))
        assert 0 < np.abs(one - other).max() < 0.05 * np.ptp(other)


def test_a_cluster_computes_in_what_all_its_machines_have(restore, bfloat16_is, monkeypatch, tmp_path):
    pytest.importorskip("distributed", reason="--scheduler needs Dask")
    pytest.importorskip("zarr", reason="--scheduler writes OME-Zarr")
    from rcan.restoration import dask_cluster

    choices = [hardware.ChosenPrecision("mixed_bfloat16", "a"), hardware.ChosenPrecision("float32", "b")]
    monkeypatch.setattr(dask_cluster.Cluster, "ask_all", lambda *_: choices)
    assert "Computing in float32: b." in restore("--scheduler", "local", "--format", "zarr")[0]
    entries = lines_of(tmp_path / "out/manifest.jsonl")
    assert [entry["settings"]["precision"] for entry in entries] == ["float32"] * 2


# Studies


def test_an_evaluation_states_its_precision(trained, bfloat16_is, tmp_path, capsys):
    bfloat16_is(True)
    folders = trained["training_data_dir"]
    flags = ["-i", folders["raw"], "-g", folders["gt"], "-o", tmp_path / "out", "--calibrate", "false"]
    assert evaluate_main(["-m", trained["output_dir"], *map(str, flags)]) == 0
    assert "Computing in bfloat16: the processor has it." in capsys.readouterr().out
    assert json.loads((tmp_path / "out/scores.json").read_text())["model"]["precision"] == "mixed_bfloat16"
    assert "computed in bfloat16" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_limits_go_on_in_the_precision_that_they_began_with(trained, bfloat16_is, tmp_path, capsys):
    bfloat16_is(True)
    ladders = ["--photon_ladder", "5,50", "--blur_ladder", "1,2", "--volumes", "3", "--shape", "6,24,24"]
    flags = ["-m", trained["output_dir"], "-o", str(tmp_path / "out"), *ladders]
    assert limits_main(flags) == 0
    assert json.loads((tmp_path / "out/limits.json").read_text())["settings"]["precision"] == "mixed_bfloat16"
    assert "computed in bfloat16" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    bfloat16_is(False)
    assert limits_main(flags) == 0
    assert "Computing in bfloat16: as the study began." in capsys.readouterr().out
    assert limits_main([*flags, "--precision", "float32"]) == 1
    assert 'precision (was "mixed_bfloat16", is "float32")' in capsys.readouterr().err
