import numpy as np
import pytest
from scipy import ndimage, stats

from rcan.simulation.camera import expose
from rcan.simulation.optics import blur, gaussian_widths
from rcan.simulation.pairs import degrade, density_from_image, simulate_pair
from rcan.simulation.phantoms import PHANTOMS, _deposit, _draw_body, _draw_filaments, make_phantom

SHAPE, VOXEL_SIZE = (24, 96, 96), (0.3, 0.1, 0.1)
FWHM = (0.9, 0.4, 0.3)


def draw_ball(*, radius, thickness=np.inf, voxel_size=(0.2, 0.1, 0.1)):
    density = np.zeros((24, 48, 48), np.float32)
    centre = np.array([2.43, 2.38, 2.41])  # µm, on no voxel's centre
    voxel_size = np.array(voxel_size)
    options = {"radius_along": lambda direction: radius, "reach": radius, "thickness": thickness}
    _draw_body(density, voxel_size, centre, **options, brightness=1)
    return density, tuple((centre / voxel_size).astype(int))


def point(shape=(41, 61, 61)):
    density = np.zeros((*shape, 1), np.float32)
    density[(*(n // 2 for n in shape), 0)] = 1
    return density


def measured_widths(density, voxel_size):
    """FWHM of a Gaussian of the same second moments, in µm."""
    position = np.indices(density.shape[:3])
    mass = density[..., 0] / density.sum()
    mean = (position * mass).sum(axis=(1, 2, 3), keepdims=True)
    variance = ((position - mean) ** 2 * mass).sum(axis=(1, 2, 3))
    return np.sqrt(8 * np.log(2) * variance) * voxel_size


def pictures(rng, *, image=0.3, num_voxels=400_000, **camera):
    return expose(np.full((1, 1, num_voxels, 1), image), rng=rng, **camera).astype(float)


@pytest.mark.parametrize("radius", [0.5, 1, 2])
def test_sphere_has_the_volume_of_a_sphere(radius):
    density, _ = draw_ball(radius=radius)
    volume = density.sum(dtype=float) * 0.2 * 0.1 * 0.1
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * radius**3, rtol=0.03)


def test_shell_thinner_than_a_voxel_has_the_volume_of_a_shell():
    density, _ = draw_ball(radius=1.5, thickness=0.05)
    volume = density.sum(dtype=float) * 0.2 * 0.1 * 0.1
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * (1.5**3 - 1.45**3), rtol=0.03)


def test_hollow_sphere_is_dark_inside():
    density, centre = draw_ball(radius=1.5, thickness=0.3)
    assert density[centre] == 0
    assert density.max() == 1


def test_sphere_is_as_wide_in_µm_along_every_axis():
    density, _ = draw_ball(radius=1.5)
    widths = measured_widths(density[..., np.newaxis], np.array([0.2, 0.1, 0.1]))
    np.testing.assert_allclose(widths, np.sqrt(8 * np.log(2) / 5) * 1.5, rtol=0.01)  # variance of a ball: r²/5


def test_voxel_at_an_edge_is_as_bright_as_it_is_filled():
    density, (z, y, x) = draw_ball(radius=1.5)  # centre 2.43, 2.38, 2.41: ends at 3.93, 3.88 and 3.91 µm
    np.testing.assert_allclose(density[18:21, y, x], [1, 0.65, 0], atol=0.03)  # of 3.8..4.0 µm
    np.testing.assert_allclose(density[z, 37:40, x], [1, 0.8, 0], atol=0.03)  # of 3.8..3.9 µm
    np.testing.assert_allclose(density[z, y, 38:41], [1, 0.1, 0], atol=0.03)  # of 3.9..4.0 µm


def test_point_between_voxels_is_shared_by_nearness():
    lines = np.zeros((3, 3, 3), np.float32)
    _deposit(lines, np.array([[1, 0.25, 1.5]]), 8)
    np.testing.assert_allclose(lines[1, :2, 1:], [[3, 3], [1, 1]])  # y: 3/4 and 1/4, x: halves
    assert lines.sum() == 8


def test_filaments_hold_the_asked_share_of_fluorophores(rng):
    density = np.zeros(SHAPE, np.float32)
    _draw_filaments(density, np.array(VOXEL_SIZE), rng, lengths=(5, 5), sigma=0.15, bend=0.3, share=0.02)
    np.testing.assert_allclose(density.mean(), 0.75 * 0.02, rtol=0.2)  # 0.75 is the mean brightness


def test_filament_is_as_bright_on_its_axis_as_other_objects(rng):
    density = np.zeros((60, 60, 60), np.float32)
    one = {"lengths": (5, 5), "sigma": 0.2, "bend": 0.3, "share": 1e-9}
    _draw_filaments(density, np.array([0.05, 0.05, 0.05]), rng, **one)
    assert 0.5 <= density.max() < 1


@pytest.mark.parametrize("kind", PHANTOMS)
def test_phantom_is_a_density_between_0_and_1(kind, rng):
    density = make_phantom(kind, SHAPE, voxel_size=VOXEL_SIZE, rng=rng)
    assert density.shape == (*SHAPE, 1)
    assert density.dtype == np.float32
    assert density.min() == 0
    assert 0.8 < density.max() <= 1


@pytest.mark.parametrize("kind", PHANTOMS)
def test_phantom_fills_a_meaningful_share(kind, rng):
    density = make_phantom(kind, SHAPE, voxel_size=VOXEL_SIZE, rng=rng)
    assert 0.05 < np.mean(density > 0.25) < 0.4


@pytest.mark.parametrize("kind", PHANTOMS)
def test_phantom_fills_every_part_of_the_volume(kind, rng):
    density = make_phantom(kind, (32, 128, 128), voxel_size=VOXEL_SIZE, rng=rng)
    octants = density.reshape(2, 16, 2, 64, 2, 64).mean(axis=(1, 3, 5))
    assert octants.min() > 0.25 * octants.max()


def test_most_patches_of_a_mixture_pass_as_foreground(rng):
    density = make_phantom("mixture", (32, 256, 256), voxel_size=VOXEL_SIZE, rng=rng)
    _, gt = simulate_pair(density, voxel_size=VOXEL_SIZE, fwhm=gaussian_widths(), photons=20, rng=rng)
    signal = density_from_image(gt) > 0.25  # the published rule's threshold
    shares = signal.reshape(4, 8, 4, 64, 4, 64).mean(axis=(1, 3, 5))
    assert np.mean(shares > 0.1) > 0.8


@pytest.mark.parametrize("kind", PHANTOMS)
def test_phantom_depends_on_the_seed_alone(kind):
    first, again, other = (
        make_phantom(kind, (8, 40, 40), voxel_size=VOXEL_SIZE, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_phantom_of_one_plane_can_be_made(rng):
    density = make_phantom("mixture", (1, 64, 64), voxel_size=VOXEL_SIZE, rng=rng)
    assert density.max() > 0.5


def test_unknown_kind_is_answered_with_the_nearest_name(rng):
    with pytest.raises(ValueError, match=r"kind is 'sphere', .*Did you mean spheres\?"):
        make_phantom("sphere", SHAPE, voxel_size=VOXEL_SIZE, rng=rng)


@pytest.mark.parametrize("voxel_size", [(0, 0.1, 0.1), (0.3, -0.1, 0.1), (0.3, 0.1), 0.1])
def test_voxel_size_must_be_three_lengths(voxel_size, rng):
    with pytest.raises(ValueError, match=r"voxel_size is .* above 0 for .*µm"):
        make_phantom("spheres", SHAPE, voxel_size=voxel_size, rng=rng)
    with pytest.raises(ValueError, match=r"voxel_size is .* above 0 for .*µm"):
        blur(point(), fwhm=FWHM, voxel_size=voxel_size)


def test_voxel_size_in_nm_is_refused(rng):
    with pytest.raises(ValueError, match=r"voxel_size is \(300, 100, 100\).* not in nm"):
        make_phantom("spheres", SHAPE, voxel_size=(300, 100, 100), rng=rng)


@pytest.mark.parametrize("kind", PHANTOMS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (20, 1, 1), (3, 9, 9)])
def test_volume_smaller_than_the_objects_is_refused(kind, shape, rng):
    with pytest.raises(ValueError, match=r"shape is .*: its largest face has 0\.\d+ µm².* 1 µm² or more"):
        make_phantom(kind, shape, voxel_size=(0.1, 0.1, 0.1), rng=rng)


@pytest.mark.parametrize("shape", [(1, 10, 10), (10, 1, 10), (10, 10, 1)])
def test_plane_of_one_square_micrometre_is_large_enough(shape, rng):
    density = make_phantom("spheres", shape, voxel_size=(0.1, 0.1, 0.1), rng=rng)
    assert density.max() > 0


def test_widths_agree_with_the_debye_integral():
    aperture, wavelength, index = 1.2, 0.6, 1.33
    wavenumber, steepest = 2 * np.pi * index / wavelength, np.arcsin(aperture / index)

    def intensity(z, y):
        """On the axis or in the focal plane, in µm (the field on the y axis is a Bessel integral)."""
        angle, weight = np.polynomial.legendre.leggauss(200)
        angle, weight = (angle + 1) / 2 * steepest, weight / 2 * steepest
        azimuth = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
        phase = wavenumber * (z * np.cos(angle) + y * np.sin(angle) * np.cos(azimuth))
        field = np.sum(weight * np.sqrt(np.cos(angle)) * np.sin(angle) * np.exp(1j * phase).mean(axis=0))
        return abs(field) ** 2

    step = 0.01  # µm, far inside the focus: the Gaussian's curvature there gives its sigma
    sigmas = [step / np.sqrt(2 * np.log(intensity(0, 0) / intensity(z, y))) for z, y in [(step, 0), (0, step)]]
    axial, lateral, _ = gaussian_widths(aperture, wavelength, index)
    np.testing.assert_allclose([axial, lateral], np.sqrt(8 * np.log(2)) * np.array(sigmas), rtol=2e-3)


def test_widths_at_low_aperture_are_the_paraxial_ones():
    axial, lateral, _ = gaussian_widths(0.1, 0.5, 1)
    np.testing.assert_allclose(lateral, 2.3548 * 0.225 * 0.5 / 0.1, rtol=0.01)  # sigma √2 / (k NA)
    np.testing.assert_allclose(axial, 2.3548 * 0.780 * 0.5 / 0.1**2, rtol=0.01)  # sigma 2√6 n / (k NA²)


def test_widths_grow_with_wavelength():
    np.testing.assert_allclose(gaussian_widths(wavelength=0.6), 2 * np.array(gaussian_widths(wavelength=0.3)))


def test_widths_shrink_with_aperture():
    widths = np.array([gaussian_widths(aperture) for aperture in (0.3, 0.8, 1.2, 1.4)])
    assert np.all(np.diff(widths, axis=0) < 0)


@pytest.mark.parametrize("aperture", [0, 1.515, 1.6])
def test_aperture_must_lie_below_the_refractive_index(aperture):
    with pytest.raises(ValueError, match=r"numerical_aperture is .* 1.515"):
        gaussian_widths(aperture)


def test_wavelength_must_be_above_0():
    with pytest.raises(ValueError, match="wavelength is 0"):
        gaussian_widths(wavelength=0)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_blurred_point_is_factor_times_the_width(factor):
    blurred = blur(point(), fwhm=FWHM, voxel_size=(0.3, 0.1, 0.1), factor=factor)
    np.testing.assert_allclose(measured_widths(blurred, (0.3, 0.1, 0.1)), factor * np.array(FWHM), rtol=0.01)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_blur_adds_to_what_is_blurred_already(factor):
    sharp = blur(point(), fwhm=FWHM, voxel_size=(0.2, 0.1, 0.1))
    added = blur(sharp, fwhm=FWHM, voxel_size=(0.2, 0.1, 0.1), factor=factor, source_blur=1)
    once = blur(point(), fwhm=FWHM, voxel_size=(0.2, 0.1, 0.1), factor=factor)
    np.testing.assert_allclose(added, once, atol=2e-3 * once.max())


def test_blur_equals_scipy_with_sigmas_in_voxels(rng):
    density = rng.random((9, 20, 21, 2), np.float32)
    expected = [ndimage.gaussian_filter(density[..., c], (1, 2, 3)) for c in range(2)]
    fwhm = 2.354820045 * np.array([0.3, 0.2, 0.3])
    blurred = blur(density, fwhm=fwhm, voxel_size=(0.3, 0.1, 0.1))
    np.testing.assert_allclose(blurred, np.stack(expected, axis=-1), rtol=1e-5)


def test_blur_keeps_the_sum(rng):
    density = make_phantom("mixture", SHAPE, voxel_size=VOXEL_SIZE, rng=rng)
    blurred = blur(density, fwhm=FWHM, voxel_size=VOXEL_SIZE, factor=4)
    np.testing.assert_allclose(blurred.sum(dtype=float), density.sum(dtype=float), rtol=1e-5)


def test_axis_without_width_stays_sharp():
    blurred = blur(point(), fwhm=(0, 0.4, 0.4), voxel_size=VOXEL_SIZE)
    assert np.count_nonzero(blurred.sum(axis=(1, 2, 3))) == 1


@pytest.mark.parametrize(("factor", "source_blur"), [(0.5, 1), (-1, 0), (1, -1), (-2, -3)])
def test_blur_cannot_sharpen(factor, source_blur):
    with pytest.raises(ValueError, match=f"factor is {factor} .*cannot sharpen"):
        blur(point(), fwhm=FWHM, voxel_size=VOXEL_SIZE, factor=factor, source_blur=source_blur)


def test_width_below_0_is_refused():
    with pytest.raises(ValueError, match=r"fwhm is .* 0 or more"):
        blur(point(), fwhm=(0.5, -0.2, 0.2), voxel_size=VOXEL_SIZE)


CAMERAS = [
    {"photons": 20, "background": 0, "offset": 0, "gain": 1, "read_noise": 0},
    {"photons": 20, "background": 5, "offset": 100, "gain": 2, "read_noise": 1.6},
    {"photons": 900, "background": 50, "offset": 300, "gain": 0.45, "read_noise": 3},
    {"photons": 1, "background": 0, "offset": 100, "gain": 0.5, "read_noise": 2},  # where rounding counts
]


@pytest.mark.parametrize("camera", CAMERAS)
def test_camera_has_the_mean_of_the_formula(camera, rng):
    expected = camera["offset"] + camera["gain"] * (0.3 * camera["photons"] + camera["background"])
    np.testing.assert_allclose(pictures(rng, **camera).mean(), expected, rtol=2e-3)


@pytest.mark.parametrize("camera", CAMERAS[1:])
def test_camera_has_the_variance_of_the_formula(camera, rng):
    electrons = 0.3 * camera["photons"] + camera["background"] + camera["read_noise"] ** 2
    expected = camera["gain"] ** 2 * electrons + 1 / 12
    np.testing.assert_allclose(pictures(rng, **camera).var(), expected, rtol=0.01)


def test_dark_camera_without_noise_shows_its_offset(rng):
    assert np.all(pictures(rng, image=0, photons=10, background=0, read_noise=0, offset=37) == 37)


def test_camera_saturates_at_65535(rng):
    with pytest.warns(UserWarning, match=r"100\.00 % of the raw voxels saturate"):
        assert np.all(pictures(rng, image=1, photons=1e6, num_voxels=100) == 65535)


def test_camera_warns_of_the_share_that_saturates(rng):
    image = np.repeat([0.5, 1.5], [3000, 1000]).reshape(1, 1, -1, 1)  # 50000 and 150000 grey values
    message = r"^25\.00 % of the raw voxels saturate at 65535: lower gain, photons or offset\.$"
    with pytest.warns(UserWarning, match=message):
        expose(image, photons=100_000, background=0, offset=0, gain=1, read_noise=0, rng=rng)


def test_one_voxel_that_saturates_is_warned_of(rng):
    image = np.zeros((1, 100, 200, 1))
    image[0, 50, 50] = 1
    with pytest.warns(UserWarning, match=r"^less than 0\.01 % of the raw voxels saturate"):
        expose(image, photons=1e6, rng=rng)


def test_camera_shows_nothing_below_0(rng):
    with pytest.warns(UserWarning, match="fall below 0"):
        assert pictures(rng, image=0, photons=10, offset=0, background=0, read_noise=50).min() == 0


def test_camera_warns_of_the_share_of_noise_below_0(rng):
    message = r" % of the raw voxels fall below 0 and become 0: raise the offset\.$"
    with pytest.warns(UserWarning, match=message) as warned:
        pictures(rng, image=0, photons=0, background=0, offset=50, gain=1, read_noise=50)
    share = stats.norm.cdf(-50.5 / 50)  # what is above -0.5 is rounded to 0
    np.testing.assert_allclose(float(str(warned[0].message).split()[0]) / 100, share, rtol=0.01)


def test_camera_bears_few_voxels_below_0_in_silence(rng):
    deviations = -stats.norm.ppf(0.0005)  # half as many as it bears; a warning would be an error
    camera = {"background": 0, "gain": 1, "read_noise": 50, "offset": 50 * deviations}
    assert pictures(rng, image=0, photons=0, **camera).min() == 0


def test_ground_truth_that_saturates_is_warned_of(rng):
    density = np.full((1, 4, 4, 1), 3.3)  # 66000 grey values at 20000 for signal 1
    with pytest.warns(UserWarning, match=r"100\.00 % of the gt voxels saturate at 65535: scale the density"):
        simulate_pair(density, voxel_size=VOXEL_SIZE, fwhm=FWHM, photons=20, rng=rng)


@pytest.mark.parametrize("name", ["photons", "background", "gain", "read_noise"])
def test_camera_refuses_levels_below_0(name, rng):
    with pytest.raises(ValueError, match=f"{name} is -1: it must be 0 or more"):
        pictures(rng, **{"photons": 10, name: -1})


def test_real_volume_has_background_0_and_signal_1(rng):
    image = rng.normal(500, 100, (8, 64, 64, 2)) * [1, 10]
    density = density_from_image(image)
    assert density.min() == 0
    np.testing.assert_allclose(np.percentile(density, 99.9, axis=(0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(np.mean(density == 0, axis=(0, 1, 2)), 0.02, atol=1e-3)
    assert density.max() > 1


def test_constant_real_volume_is_refused():
    with pytest.raises(ValueError, match=r"channel 0 .* 7 at percentile 2 and 7 at 99\.9"):
        density_from_image(np.full((2, 4, 4, 1), 7))


def test_raw_of_a_real_volume_is_as_wide_as_the_factor_says(rng):
    sharp = blur(point(), fwhm=FWHM, voxel_size=VOXEL_SIZE)
    camera = {"background": 0, "offset": 0, "gain": 1, "read_noise": 0}
    raw = degrade(sharp, voxel_size=VOXEL_SIZE, fwhm=FWHM, photons=1e6, blur_factor=2, source_blur=1, rng=rng, **camera)
    np.testing.assert_allclose(measured_widths(raw.astype(float), VOXEL_SIZE), 2 * np.array(FWHM), rtol=0.01)


def test_pair_is_a_degraded_raw_and_a_sharp_gt(rng):
    density = make_phantom("hollow", SHAPE, voxel_size=VOXEL_SIZE, rng=rng)
    options = {"voxel_size": VOXEL_SIZE, "fwhm": gaussian_widths()}
    raw, gt = simulate_pair(density, **options, photons=50, blur_factor=3, rng=np.random.default_rng(1))
    alone = degrade(density, **options, photons=50, blur_factor=3, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(raw, alone)
    np.testing.assert_allclose(gt / 20_000, blur(density, **options), atol=2.6e-5)
    assert raw.dtype == gt.dtype == np.uint16


def test_camera_options_reach_the_raw_image_alone(rng):
    options = {"voxel_size": VOXEL_SIZE, "fwhm": FWHM, "photons": 0}
    raw, gt = simulate_pair(np.zeros((2, 8, 8, 1)), **options, rng=rng, offset=7, background=0, read_noise=0)
    assert np.all(raw == 7)
    assert np.all(gt == 0)


def test_pair_depends_on_the_seed_alone():
    density, options = point(), {"voxel_size": VOXEL_SIZE, "fwhm": FWHM, "photons": 20}
    first, again, other = (simulate_pair(density, **options, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
