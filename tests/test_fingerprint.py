"""Fingerprints of images, and whether a network has seen such images."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from rcan.fingerprint.domain import DOMAIN_STATUSES, compare_fingerprint, summarise_fingerprints
from rcan.fingerprint.measure import measure_fingerprint
from rcan.fingerprint.noise import estimate_noise
from rcan.fingerprint.records import Fingerprint, TrustedRange
from rcan.io.opening import open_volume
from rcan.run_folder.record import TrainingRecord
from rcan.simulation.camera import expose
from rcan.simulation.optics import gaussian_widths
from rcan.simulation.pairs import degrade, density_from_image
from rcan.simulation.phantoms import make_phantom

VOXEL_SIZE = (0.3, 0.1, 0.1)
CAMERAS = {
    "sCMOS": {"gain": 2.0, "offset": 100, "read_noise": 1.6, "background": 2.0},
    "CCD": {"gain": 0.5, "offset": 200, "read_noise": 6.0, "background": 10.0},
    "photon counter": {"gain": 1.0, "offset": 0, "read_noise": 0, "background": 1.0},
    "high gain": {"gain": 20.0, "offset": 500, "read_noise": 1.0, "background": 0.5},
}


class Image:
    """An array as a volume, which counts the voxels that are read."""

    path = "image"

    def __init__(self, data, *, voxel_size=VOXEL_SIZE, frames=({},)):
        self.data, self.voxel_size, self.frames = data, voxel_size, list(frames)
        self.shape = data.shape[-4:]
        self.num_read, self.frames_read = 0, set()

    def read(self, frame, region, dtype):
        block = np.array(self.data[region] if not frame else self.data[(*frame.values(), *region)])
        self.num_read += block.size
        self.frames_read.add(tuple(frame.values()))
        return block


@pytest.fixture(scope="module")
def phantom():
    """Blurred phantom, background 0 and signal 1."""
    density = make_phantom("mixture", (24, 96, 96), voxel_size=VOXEL_SIZE, rng=np.random.default_rng(0))
    return ndimage.gaussian_filter(density, (1.5, 1.6, 1.6, 0))


def simulate(seed, *, kind="mixture", photons=20, blur_factor=2, shape=(16, 64, 64), scale=1.0):
    rng = np.random.default_rng(seed)
    voxel_size = tuple(scale * size for size in VOXEL_SIZE)
    density = make_phantom(kind, shape, voxel_size=voxel_size, rng=rng)
    optics = {"voxel_size": voxel_size, "fwhm": gaussian_widths(), "blur_factor": blur_factor}
    return degrade(density, photons=photons, rng=rng, **optics)


def measure(seed, **options):
    return measure_fingerprint(Image(simulate(seed, **options)))


@pytest.fixture(scope="module")
def seen():
    """Range of a training with six volumes."""
    return summarise_fingerprints([measure(seed) for seed in range(6)])


def true_noise(signal, photons, *, gain, offset, read_noise, background):
    """Grey value and standard deviation of the noise, as `expose` states them."""
    electrons = photons * signal + background
    return offset + gain * electrons, np.sqrt(gain**2 * (electrons + read_noise**2) + 1 / 12)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
@pytest.mark.parametrize("photons", [10, 50, 500])
def test_the_noise_of_an_unknown_camera_is_found(phantom, camera, photons, rng):
    noise = estimate_noise(expose(phantom, photons=photons, rng=rng, **camera)[..., 0])
    level, sigma = true_noise(np.percentile(phantom, 99.9), photons, **camera)
    assert math.sqrt(noise.variance(level)) == pytest.approx(sigma, rel=0.05)
    level, sigma = true_noise(np.percentile(phantom, 20), photons, **camera)
    assert math.sqrt(noise.variance(level)) == pytest.approx(sigma, rel=0.12)


def test_the_gain_of_a_camera_is_found(phantom, rng):
    noise = estimate_noise(expose(phantom, photons=200, gain=3.0, rng=rng)[..., 0])
    assert noise.gain == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("photons", [20, 200])
def test_the_noise_of_a_degraded_real_volume_is_found(data_dir, photons, rng):
    real = open_volume(data_dir / "volumes" / "nuclei.tif")
    density = density_from_image(real.read(region=(slice(18, 42), slice(64, 192), slice(64, 192))))
    blurred = ndimage.gaussian_filter(density, (1, 1.5, 1.5, 0))
    noise = estimate_noise(expose(blurred, photons=photons, rng=rng)[..., 0])
    level, sigma = true_noise(np.percentile(blurred, 99.9), photons, **CAMERAS["sCMOS"])
    assert math.sqrt(noise.variance(level)) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("photons", [5, 20, 100])
def test_the_signal_to_noise_ratio_is_that_of_the_exposure(phantom, photons, rng):
    raw = expose(phantom, photons=photons, rng=rng)
    low, high = np.percentile(phantom, (2, 99.9))
    _, sigma = true_noise(high, photons, **CAMERAS["sCMOS"])
    expected = (high - low) * photons * 2.0 / sigma
    assert measure_fingerprint(Image(raw)).channels[0].snr == pytest.approx(expected, rel=0.1)


def test_pure_noise_has_no_signal(rng):
    raw = rng.normal(100, 5, (16, 64, 64, 1)).astype(np.float32)
    (channel,) = measure_fingerprint(Image(raw)).channels
    assert channel.snr < 0.6  # the range of the noise itself is five times its standard deviation
    assert channel.noise.signal == pytest.approx(5, rel=0.05)


def test_a_volume_without_noise_has_none(phantom):
    smooth = ndimage.gaussian_filter(phantom[..., 0], 2)
    noise = estimate_noise(smooth)
    assert math.sqrt(noise.variance(smooth.max())) < 0.01 * np.ptp(smooth)


def test_whole_numbers_are_noisy_by_rounding(phantom):
    grey = np.rint(2000 * ndimage.gaussian_filter(phantom[..., 0], 3)).astype(np.uint16)
    assert estimate_noise(grey).variance(0) >= 1 / 12


def test_a_constant_image_is_no_reason_to_fail():
    (channel,) = measure_fingerprint(Image(np.full((8, 32, 32, 1), 7, np.uint8))).channels
    assert channel.snr == 0
    assert channel.features["lateral"] is None


def test_noise_is_found_in_few_grey_levels(rng):
    ramp = np.linspace(0, 6, 64) + np.zeros((16, 64, 64))
    noise = estimate_noise(np.rint(ramp + rng.normal(0, 0.8, ramp.shape)).clip(0, 7).astype(np.uint8))
    assert math.sqrt(noise.variance(3)) == pytest.approx(math.sqrt(0.8**2 + 1 / 12), rel=0.1)


def test_saturated_voxels_hide_no_noise(phantom, rng):
    raw = expose(phantom, photons=500, rng=rng)[..., 0]
    level = np.percentile(raw, 98)
    clipped = np.minimum(raw, np.uint16(level))
    expected = math.sqrt(2.0 * (level - 100) + (2.0 * 1.6) ** 2)
    assert math.sqrt(estimate_noise(clipped).variance(level)) == pytest.approx(expected, rel=0.1)
    (channel,) = measure_fingerprint(Image(clipped[..., np.newaxis])).channels
    assert channel.saturated == pytest.approx(np.mean(clipped == clipped.max()), rel=0.2)


def test_hot_voxels_do_not_count(rng):
    image = rng.normal(100, 5, (16, 64, 64))
    image[rng.random(image.shape) < 0.003] = 5000
    assert math.sqrt(estimate_noise(image).variance(100)) == pytest.approx(5, rel=0.08)


def test_planes_and_small_images_have_noise_too(rng):
    assert math.sqrt(estimate_noise(rng.normal(100, 5, (128, 128))).variance(100)) == pytest.approx(5, rel=0.05)
    for shape in [(1, 16, 16), (2, 5, 4), (1, 1, 1), (7, 2, 90)]:
        estimate_noise(rng.normal(100, 5, shape))
        measure_fingerprint(Image(rng.normal(100, 5, (*shape, 1))))


def test_a_few_voxels_tell_how_strong_noise_is_but_not_how_it_grows(rng):
    """All are of one bin of intensity: no line can be laid through it."""
    noise = estimate_noise(rng.normal(100, 5, (4, 8, 8)))
    assert noise.gain == 0
    assert math.sqrt(noise.floor) == pytest.approx(5, rel=0.4)


def test_gain_and_offset_change_no_feature():
    raw = simulate(0).astype(np.float32)
    features = [measure_fingerprint(Image(image)).channels[0].features for image in (raw, 3 * raw + 700)]
    assert features[0] == pytest.approx(features[1], abs=0.01)


@pytest.mark.parametrize("period", [8, 16])
def test_a_wave_is_at_its_frequency(period):
    wave = 100 + 10 * np.cos(2 * np.pi * np.arange(64) / period) + np.zeros((16, 64, 64))
    (channel,) = measure_fingerprint(Image(wave[..., np.newaxis])).channels
    spectrum = channel.spectrum["lateral"]
    highest = int(np.argmax(spectrum.power))
    assert spectrum.cycles_per_voxel[highest] == pytest.approx(1 / period)
    assert spectrum.cycles_per_um[highest] == pytest.approx(1 / (period * 0.1))


def test_blur_leaves_less_fine_structure_as_its_transfer_function_says(rng):
    """White structure that a Gaussian has blurred, without noise: power exp(-(2 pi sigma f)^2)."""
    white = rng.normal(size=(16, 128, 128))
    blurred = ndimage.gaussian_filter(white, 2.0, mode="wrap")
    (channel,) = measure_fingerprint(Image(100 + blurred[..., np.newaxis])).channels
    power = [np.mean(np.exp(-((2 * np.pi * 2.0 * np.array(f) / 32) ** 2))) for f in ((1, 2), (4, 5, 6))]
    assert channel.features["lateral"] == pytest.approx(math.log(power[1] / power[0]), abs=0.4)


def test_the_noise_is_no_part_of_the_spectrum():
    """Where the optics pass nothing, nothing is left."""
    (channel,) = measure(0).channels
    power = channel.spectrum["lateral"].power
    assert power[1] > 0.5
    assert np.abs(power[8:]).max() < 0.002


def test_a_fingerprint_is_small_json_and_always_the_same():
    raw = simulate(0)
    found = [measure_fingerprint(Image(raw)) for _ in range(2)]
    text = json.dumps(found[0].model_dump(mode="json"), allow_nan=False)
    assert found[0] == found[1] == Fingerprint.checked(json.loads(text))
    assert len(text) < 4000


def test_little_is_read_of_a_large_volume():
    raw = Image(np.broadcast_to(simulate(0)[:, :, :1], (16, 64, 2000, 1))[np.zeros(200, int)][:, 0])
    raw.shape = raw.data.shape  # (200, 64, 2000, 1)
    measure_fingerprint(raw)
    assert raw.num_read <= 48 * 16 * 64 * 64


def test_first_middle_and_last_time_points_are_read():
    frames = [{"T": number} for number in range(7)]
    raw = Image(np.stack([simulate(0, shape=(8, 32, 32))] * 7), frames=frames)
    measure_fingerprint(raw)
    assert raw.frames_read == {(0,), (3,), (6,)}


def test_every_channel_has_a_fingerprint_of_its_own():
    bright, dim = simulate(0, photons=50), simulate(0, photons=5)
    snrs = [one.snr for one in measure_fingerprint(Image(np.concatenate([bright, dim], -1))).channels]
    assert snrs[0] > 2 * snrs[1]


def test_channels_that_are_looped_over_are_told_apart():
    stack = np.stack([simulate(0, photons=50), simulate(0, photons=5)])
    frames = [{"C": 0}, {"C": 1}]
    snrs = [one.snr for one in measure_fingerprint(Image(stack, frames=frames)).channels]
    assert snrs[0] > 2 * snrs[1]


@pytest.mark.parametrize("gain", [2.0**100, 2.0**-100])
def test_numbers_of_any_size_are_measured(gain):
    raw = simulate(0).astype(np.float64)
    (usual,), (scaled,) = (measure_fingerprint(Image(image)).channels for image in (raw, gain * raw))
    assert scaled.features == pytest.approx(usual.features, rel=1e-4)
    assert scaled.range == pytest.approx(tuple(gain * level for level in usual.range), rel=1e-4)


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="image holds infinite values"):
        measure_fingerprint(Image(np.full((8, 32, 32, 1), np.inf, np.float32)))


def test_missing_voxels_hardly_change_what_is_measured():
    """A corner is missing, as outside of the field of view of a stitched image, or single voxels everywhere."""
    raw = simulate(0).astype(np.float32)
    corner, single = raw.copy(), raw.copy()
    corner[:, : raw.shape[1] // 3, : raw.shape[2] // 3] = np.nan
    single[::4, ::16, ::16] = np.nan
    (usual,) = measure_fingerprint(Image(raw)).channels
    for image in (corner, single):
        (found,) = measure_fingerprint(Image(image)).channels
        assert found.snr == pytest.approx(usual.snr, rel=0.1)
        assert found.noise.gain == pytest.approx(usual.noise.gain, rel=0.1)


def test_an_image_without_any_voxel_has_a_fingerprint():
    (found,) = measure_fingerprint(Image(np.full((8, 32, 32, 1), np.nan, np.float32))).channels
    assert found.noise.gain == 0


def test_images_of_the_same_simulation_are_not_outside(seen):
    words = [compare_fingerprint(measure(seed), seen).domain_status for seed in range(100, 120)]
    assert words.count("outside") == 0
    assert words.count("inside") >= 15


@pytest.mark.parametrize(("photons", "side"), [(5, "SNR 1"), (100, "SNR 8")])
def test_another_signal_to_noise_ratio_is_outside(seen, photons, side):
    verdict = compare_fingerprint(measure(100, photons=photons), seen)
    assert verdict.domain_status == "outside"
    assert verdict.reasons[0].startswith(side)
    assert str(verdict).startswith(f"outside: {side}")
    assert ", trained on 3" in verdict.reasons[0]


@pytest.mark.parametrize("draw", ["normal", "poisson"])
def test_pure_noise_is_said_to_show_no_signal(seen, rng, draw):
    raw = rng.normal(100, 5, (16, 64, 64, 1)) if draw == "normal" else rng.poisson(100, (16, 64, 64, 1))
    verdict = compare_fingerprint(measure_fingerprint(Image(raw.astype(np.uint16))), seen)
    assert verdict.domain_status == "outside"
    assert verdict.reasons[0].startswith("no signal was found above the noise, SNR 0.")


def test_a_training_on_images_without_signal_takes_such_images_for_its_own(rng):
    noise = [measure_fingerprint(Image(rng.poisson(100, (16, 64, 64, 1)).astype(np.uint16))) for _ in range(4)]
    verdict = compare_fingerprint(noise[3], summarise_fingerprints(noise[:3]))
    assert verdict.domain_status != "outside"
    assert verdict.reasons[0].startswith("no signal was found above the noise")


@pytest.mark.parametrize("photons", [2, 20])
def test_weak_signal_is_found(photons):
    assert all(measure(seed, photons=photons).channels[0].shows_signal for seed in range(100, 105))


@pytest.mark.parametrize(
    "change", [{"blur_factor": 4}, {"kind": "spheres"}, {"scale": 2.0}], ids=["blur", "structure", "voxels"]
)
def test_another_blur_or_structure_is_not_inside(seen, change):
    assert "inside" not in [
        compare_fingerprint(measure(seed, **change), seen).domain_status for seed in range(100, 104)
    ]


@pytest.mark.parametrize(("size", "word"), [(0.105, "inside"), (0.13, "edge"), (0.2, "outside"), (0.05, "outside")])
def test_the_voxel_size_is_compared(seen, size, word):
    verdict = compare_fingerprint(measure(3).model_copy(update={"voxel_size": (0.3, size, size)}), seen)
    assert verdict.domain_status == word
    if word != "inside":
        assert verdict.reasons == [f"voxels of {size:g} µm along y and x, trained on 0.1"]


def test_an_unknown_voxel_size_is_mentioned_only(seen):
    verdict = compare_fingerprint(measure(3).model_copy(update={"voxel_size": (None,) * 3}), seen)
    assert verdict.domain_status == "inside"
    assert verdict.reasons[-1] == "voxel size unknown, not compared"


def test_what_was_trained_on_unknown_voxels_says_nothing_of_them(seen):
    unknown = seen.model_copy(update={"voxel_size": (None,) * 3})
    assert "voxel" not in str(compare_fingerprint(measure(3), unknown))


@pytest.mark.parametrize(("low", "word"), [(2.0, "inside"), (None, "inside"), (6.0, "outside")])
def test_below_the_trusted_range_is_outside(seen, low, word):
    verdict = compare_fingerprint(measure(3), seen, TrustedRange(snr=(low, None), blur=(None, 3.0)))
    assert verdict.domain_status == word
    if word == "outside":
        assert verdict.reasons[0].endswith("the network is to be trusted from 6")


def test_nothing_is_inside_where_the_network_was_never_better(seen):
    never = TrustedRange(snr=(9.0, 1.0), gains=False, tested={"snr": (1.0, 9.0)})
    verdict = compare_fingerprint(measure(3), seen, never)
    assert verdict.domain_status == "outside"
    assert verdict.reasons[0].endswith("the network was no better than classical methods from 1 to 9")


def test_above_the_trusted_range_is_outside(seen):
    verdict = compare_fingerprint(measure(3), seen, TrustedRange(snr=(None, 2.0)))
    assert (verdict.domain_status, verdict.reasons[0][-36:]) == (
        "outside",
        "the network is to be trusted up to 2",
    )


def test_saturation_is_on_the_edge(seen):
    fingerprint = measure(3)
    channel = fingerprint.channels[0].model_copy(update={"saturated": 0.02})
    verdict = compare_fingerprint(fingerprint.model_copy(update={"channels": (channel,)}), seen)
    assert verdict == ("edge", ["2 % of the voxels are saturated, in training 0 % at most"])


def test_a_network_of_one_channel_judges_all_channels(seen):
    both = np.concatenate([simulate(3), simulate(3, photons=5)], -1)
    verdict = compare_fingerprint(measure_fingerprint(Image(both)), seen)
    assert verdict.domain_status == "outside"
    assert verdict.reasons[0].startswith("channel 1: SNR 1")


def test_one_training_volume_gives_a_wide_range():
    one, many = (summarise_fingerprints([measure(seed) for seed in range(number)]) for number in (1, 4))
    sharper = measure(100, blur_factor=3)
    words = [DOMAIN_STATUSES.index(compare_fingerprint(sharper, seen).domain_status) for seen in (one, many)]
    assert words[0] <= words[1]


def test_a_range_of_another_version_is_unknown(seen):
    values = seen.model_dump(mode="json")
    for key in ("training_fingerprint", "seen"):  # the second is what earlier versions wrote
        assert TrainingRecord.read({key: values}, "training.json").training_fingerprint == seen
        other = {key: {**values, "version": 0}}
        assert TrainingRecord.read(other, "training.json").training_fingerprint is None
    assert TrainingRecord().training_fingerprint is None
