"""What training writes down of its data, and what applying makes of it."""

import json

import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from scipy import ndimage

from rcan.atomic_io import write_json
from rcan.commands.apply import main
from rcan.config import Config
from rcan.data import views
from rcan.fingerprint.domain import summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.fingerprint.records import TrustedRange
from rcan.io.opening import open_volume
from rcan.run_folder.models import add_to_record, read_record
from rcan.run_folder.record import TrainingRecord
from rcan.simulation.camera import expose
from rcan.training.fit import train


def blobs(seed, shape=(8, 32, 32)):
    """Smooth random structure from 0 to about 1."""
    density = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (1, 2, 2)[-len(shape) :])
    return np.clip(density / density.std() / 3, 0, None)


def picture(seed, *, photons=40, shape=(8, 32, 32)):
    return expose(blobs(seed, shape), photons=photons, rng=np.random.default_rng(seed))


@pytest.fixture
def images(tmp_path, write_tiff):
    """A folder with an image as those of the training, and one that is too dim."""
    for name, photons in (("alike", 40), ("dim", 4)):
        write_tiff(tmp_path / "raw" / f"{name}.tif", picture(50, photons=photons), "ZYX")
    return tmp_path / "raw"


@pytest.fixture
def network(tmp_path, write_tiff):
    """A run folder of a network that changes nothing, with the range of eight volumes."""
    files = [write_tiff(tmp_path / "seen" / f"{seed}.tif", picture(seed), "ZYX") for seed in range(8)]
    return save_network(tmp_path / "run", summarise_fingerprints([measure_fingerprint(open_volume(f)) for f in files]))


def save_network(folder, fingerprint=None, *, ndim=3):
    folder.mkdir(parents=True, exist_ok=True)
    inputs = keras.Input((None,) * ndim + (1,))
    keras.Model(inputs, layers.Rescaling(1.0)(inputs)).save(folder / "best.keras")
    record = TrainingRecord(training_fingerprint=fingerprint)
    write_json(folder / "training.json", record.as_json())
    return folder


@pytest.fixture
def apply(capfd):
    """Run the command; return the lines it printed, errors last."""

    def apply(*flags, status=0):
        assert main([str(flag) for flag in flags]) == status
        out, err = capfd.readouterr()
        return out.splitlines(), [line for line in err.splitlines() if line.startswith("error")]

    return apply


def test_training_writes_down_the_range_of_its_raw_volumes(tmp_path, tiny_config):
    config = Config.checked(tiny_config(tmp_path, num_pairs=3, validation_split=0))
    trained = read_record(train(config)).training_fingerprint
    files = [open_volume(path) for path in sorted((tmp_path / "raw").iterdir())]
    snrs = [measure_fingerprint(file).channels[0].features["snr"] for file in files]
    assert trained.num_volumes == 3
    assert trained.channels[0].features["snr"].range == (min(snrs), max(snrs))


def test_validation_volumes_are_in_the_range(tmp_path, tiny_config):
    config = Config.checked(tiny_config(tmp_path, num_pairs=2))  # the end of each is held out
    assert json.loads((train(config) / "training.json").read_text())["training_fingerprint"]["num_volumes"] == 4


def test_a_second_training_measures_nothing_again(tmp_path, tiny_config, monkeypatch):
    config = Config.checked(tiny_config(tmp_path))
    first = json.loads((train(config) / "training.json").read_text())["training_fingerprint"]
    monkeypatch.setattr(views, "measure_fingerprint", None)
    assert json.loads((train(config, overwrite=True) / "training.json").read_text())["training_fingerprint"] == first


def test_a_run_of_an_earlier_version_goes_on_and_gets_its_range(tmp_path, tiny_config):
    values = tiny_config(tmp_path)
    about_path = train(Config.checked(values)) / "training.json"
    about = json.loads(about_path.read_text())
    fingerprint = about.pop("training_fingerprint")
    about_path.write_text(json.dumps(about))
    train(Config.checked({**values, "epochs": 2}), resume=True)
    found = json.loads(about_path.read_text())
    del found["bfloat16_check"], about["bfloat16_check"]  # of the network, which has changed
    assert found == {**about, "training_fingerprint": fingerprint}


def test_applying_says_what_the_network_has_seen(network, images, apply, tmp_path):
    lines, _ = apply("-m", network, "-i", images, "-o", tmp_path / "out")
    (alike,) = (line for line in lines if line.startswith("alike.tif: "))
    (dim,) = (line for line in lines if line.startswith("dim.tif: "))
    assert alike.startswith("alike.tif: inside: SNR ")
    assert dim.startswith("dim.tif: outside: SNR 1")
    entries = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    words = {
        entry["output"]: (entry["trained_range"], entry["reasons"][0]) for entry in entries if "trained_range" in entry
    }
    assert words["alike.tif"][0] == "inside"
    assert words["dim.tif"][0] == "outside"
    assert words["dim.tif"][1] in dim


def test_strict_leaves_alone_what_is_outside(network, images, apply, tmp_path):
    lines, errors = apply("-m", network, "-i", images, "-o", tmp_path / "out", "--strict", status=1)
    assert any(line.startswith("not restored: dim.tif: ") for line in lines)
    assert errors[0].startswith(
        f"error: {images / 'dim.tif'} is unlike the training data, and --strict leaves it alone"
    )
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["alike.tif"]


def test_strict_tells_of_what_was_restored_without_it(network, images, apply, tmp_path):
    apply("-m", network, "-i", images, "-o", tmp_path / "out")
    lines, errors = apply("-m", network, "-i", images, "-o", tmp_path / "out", "--strict", status=1)
    assert "1 of 2 restored, 1 of them before" in "\n".join(lines)
    assert errors[0].startswith(f"error: {tmp_path / 'out' / 'dim.tif'} was restored without --strict, but is unlike")


def test_strict_leaves_a_single_image_alone(network, images, apply, tmp_path):
    apply("-m", network, "-i", images / "dim.tif", "-o", tmp_path / "out.tif", "--strict", status=1)
    assert not (tmp_path / "out.tif").exists()


def test_below_the_trusted_range_is_outside(network, images, apply, tmp_path):
    add_to_record(network, "trusted_range", TrustedRange(snr=(30.0, None)))
    lines, _ = apply("-m", network, "-i", images / "alike.tif", "-o", tmp_path / "out.tif")
    assert any("alike.tif: outside: SNR" in line and "to be trusted from 30" in line for line in lines)


def test_the_verdict_is_in_the_info_of_an_imagej_file(network, images, apply, tmp_path):
    apply("-m", network, "-i", images / "dim.tif", "-o", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        info = tiff.imagej_metadata["Info"].splitlines()
    assert info[0] == "rcan.trained_range = outside"
    assert info[1].startswith("rcan.reasons = SNR 1")


def test_the_verdict_is_in_the_description_of_an_ome_file(network, images, apply, tmp_path):
    import ome_types

    apply("-m", network, "-i", images / "dim.tif", "-o", tmp_path / "out.ome.tif")
    description = ome_types.from_tiff(tmp_path / "out.ome.tif").images[0].description
    assert description.startswith("rcan.trained_range = outside\nrcan.reasons = SNR 1")


@pytest.mark.parametrize("kind", ["zarr", "zarr-0.4"])
def test_the_verdict_is_in_the_attributes_of_a_zarr_image(network, images, apply, tmp_path, kind):
    zarr = pytest.importorskip("zarr")
    apply("-m", network, "-i", images / "dim.tif", "-o", tmp_path / "out.zarr", "--format", kind)
    notes = zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["rcan"]
    assert notes["trained_range"] == "outside"
    assert notes["reasons"][0].startswith("SNR 1")


def test_an_unknown_range_is_said_once(images, apply, tmp_path):
    network = save_network(tmp_path / "run")
    lines, _ = apply("-m", network, "-i", images, "-o", tmp_path / "out")
    assert sum("does not tell what the network was trained on" in line for line in lines) == 1
    assert not any("side: " in line for line in lines)  # of inside, outside


def test_strict_needs_a_known_range(images, apply, tmp_path):
    network = save_network(tmp_path / "run")
    _, errors = apply("-m", network, "-i", images, "-o", tmp_path / "out", "--strict", status=1)
    assert errors[0].startswith("error: --strict needs the run folder of a training by this version")


def test_time_points_and_channels_are_judged(network, apply, write_tiff, tmp_path):
    both = np.stack([np.stack([picture(50), picture(51, photons=4)], 1)] * 2)  # TZCYX
    path = write_tiff(tmp_path / "raw.tif", both, "TZCYX")
    lines, _ = apply("-m", network, "-i", path, "-o", tmp_path / "out.tif")
    assert any(line.startswith("raw.tif: outside: channel 1: SNR") for line in lines)


def test_channels_have_their_number_in_the_file(network, apply, write_tiff, tmp_path):
    path = write_tiff(tmp_path / "raw.tif", np.stack([picture(5), picture(50), picture(51, photons=4)], 1), "ZCYX")
    lines, _ = apply("-m", network, "-i", path, "-o", tmp_path / "out.tif", "--channels", "2,1")
    assert any(line.startswith("raw.tif: outside: channel 2: SNR") for line in lines)


def test_planes_are_judged_by_a_network_of_planes(apply, write_tiff, tmp_path):
    files = [write_tiff(tmp_path / "seen" / f"{seed}.tif", picture(seed, shape=(64, 64)), "YX") for seed in range(8)]
    trained = summarise_fingerprints([measure_fingerprint(open_volume(f, block_axes="YXC")) for f in files])
    network = save_network(tmp_path / "run", trained, ndim=2)
    stack = np.stack([picture(seed, photons=2, shape=(64, 64)) for seed in range(50, 54)])
    path = write_tiff(tmp_path / "raw.tif", stack, "ZYX")
    lines, _ = apply("-m", network, "-i", path, "-o", tmp_path / "out.tif")
    assert any(line.startswith("raw.tif: outside: SNR") for line in lines)
