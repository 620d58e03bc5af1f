"""Pairs of a raw and a sharp image: in memory, and as files."""

import numpy as np

from rcan.atomic_io import file_signature, read_json, write_json
from rcan.fingerprint.measure import SIGNAL_PERCENTILES
from rcan.intensity import normalise
from rcan.io.opening import create_volume, open_volume
from rcan.progress import Progress
from rcan.simulation.camera import digitise, each_warning_once, expose
from rcan.simulation.optics import blur
from rcan.simulation.options import DEFAULT_VOXEL_SIZE, SimulateOptions
from rcan.simulation.phantoms import make_phantom

__all__ = ["degrade", "density_from_image", "phantom_pair", "simulate_folder", "simulate_pair", "simulate_pairs"]

_RECORD = "simulation.json"  # how the pairs beside it are made
_GT_SCALE = 20_000  # grey value of signal 1 in the ground truth of a phantom


def density_from_image(image):
    """Take a real, sharp volume for the density of its specimen: background 0, signal about 1, float32.

    Percentile 2 of each channel becomes 0, as does everything below, and percentile 99.9 becomes 1; brighter voxels
    stay brighter. A ValueError says where both are the same grey value.

    >>> density_from_image(np.linspace(0, 1000, 1001).reshape(1, 1, -1, 1))[0, 0, [0, 20, 999], 0]
    array([0., 0., 1.], dtype=float32)
    """
    ranges = np.percentile(image, SIGNAL_PERCENTILES, axis=(0, 1, 2)).T  # (C, 2)
    for channel, (low, high) in enumerate(ranges):
        if not high > low:
            raise ValueError(
                f"channel {channel} of the image has {low:g} at percentile 2 and {high:g} at 99.9: they must "
                "differ to tell signal from background. The image is nearly constant; choose another one."
            )
    return np.maximum(normalise(image, ranges), 0)


def degrade(density, *, voxel_size, fwhm, photons, blur_factor=2, source_blur=0, rng, **camera):
    """Raw image (Z, Y, X, C), uint16, of a density: blurred beyond the sharp optics and exposed to few photons.

    `density` is a phantom, or a real volume from `density_from_image` with ``source_blur=1``. The other arguments are
    those of `rcan.simulation.optics.blur` and `rcan.simulation.camera.expose`.

    >>> sharp = density_from_image(np.random.default_rng(0).normal(100, 10, (4, 8, 8, 1)))
    >>> degrade(sharp, voxel_size=(0.3, 0.1, 0.1), fwhm=(0.5, 0.2, 0.2), photons=20, blur_factor=3, source_blur=1,
    ...         rng=np.random.default_rng(0)).dtype
    dtype('uint16')
    """
    blurred = blur(density, fwhm=fwhm, voxel_size=voxel_size, factor=blur_factor, source_blur=source_blur)
    return expose(blurred, photons=photons, rng=rng, **camera)


def simulate_pair(density, *, voxel_size, fwhm, photons, blur_factor=2, rng, **camera):
    """Raw and ground-truth image (Z, Y, X, C), uint16, of the same phantom: blurred and noisy, sharp without noise.

    Signal 1 has grey value 20000 in the ground truth. The other arguments are those of `degrade`: a blur factor of 1
    is for noise alone, the study of the paper has 2, 3 and 4.

    >>> from rcan.simulation.optics import gaussian_widths
    >>> rng, voxel_size = np.random.default_rng(0), (0.3, 0.1, 0.1)
    >>> phantom = make_phantom("spheres", (8, 32, 32), voxel_size=voxel_size, rng=rng)
    >>> raw, gt = simulate_pair(phantom, voxel_size=voxel_size, fwhm=gaussian_widths(), photons=20, rng=rng)
    >>> raw.shape, gt.shape
    ((8, 32, 32, 1), (8, 32, 32, 1))
    """
    optics = {"voxel_size": voxel_size, "fwhm": fwhm}
    raw = degrade(density, **optics, photons=photons, blur_factor=blur_factor, rng=rng, **camera)
    gt = _GT_SCALE * blur(density, **optics)
    return raw, digitise(gt, name="gt", way_out="scale the density to signal 1")


def phantom_pair(options, number):
    """The pair of this number of phantoms that `SimulateOptions` ask for, as `simulate_folder` writes it; see above."""
    rng = np.random.default_rng((options.seed, number))
    voxel_size = _choose_voxel_size(options, None)
    density = make_phantom(options.kind, options.shape, voxel_size=voxel_size, rng=rng)
    optics = {"voxel_size": voxel_size, "fwhm": options.choose_widths()}
    return simulate_pair(density, **optics, blur_factor=options.blur, rng=rng, **_choose_camera(options))


def _choose_camera(options):
    return options.model_dump(include={"photons", "background", "offset", "gain", "read_noise"})


# Files


def simulate_pairs(output, **options):
    """Write pairs of raw and ground-truth volumes by simulating specimen, optics and camera, as `rcan simulate` does.

    Parameters
    ----------
    output : path
        Folder that gets the folders ``raw`` and ``gt``.
    **options
        The flags of the command without dashes, such as ``pairs=4, photons=50``; see
        `rcan.simulation.options.SimulateOptions`.

    Returns
    -------
    paths : list of (Path, Path)
        Raw and ground truth of each pair.

    Raises
    ------
    ValueError, OSError
        If an option is wrong, the source cannot be used, or the folders hold files that no call with the same options
        has written.

    Examples
    --------
    >>> simulate_pairs("sample", pairs=2, shape=(24, 96, 96))  # doctest: +SKIP
    """
    return simulate_folder(SimulateOptions.checked({"output": output, **options}))


def simulate_folder(options):
    """Write the pairs that `SimulateOptions` ask for, but those that an interrupted call has written; their paths."""
    source = open_volume(options.source, axes=options.axes) if options.source else None
    optics = {"voxel_size": _choose_voxel_size(options, source), "fwhm": options.choose_widths()}
    folders = {kind: options.output / kind for kind in ("raw", "gt")}
    how = _describe(options)
    is_begun = _is_begun(options.output / _RECORD, how, folders.values())
    if source:
        gt, density = _read_source(source)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    if not is_begun:
        write_json(options.output / _RECORD, how)
    written = []  # by this call or one before
    with each_warning_once(), Progress(options.pairs, "Simulating", unit="pair") as progress:
        for number in range(options.pairs):
            name = f"{source.path.stem if source else options.kind}_{number:03d}.tif"
            paths = folders["raw"] / name, folders["gt"] / name
            written.append(paths)
            if all(path.exists() for path in paths):
                progress.advance()
                continue
            if source:
                exposure = {"rng": np.random.default_rng((options.seed, number)), **_choose_camera(options)}
                raw = degrade(density, **optics, blur_factor=options.blur, source_blur=1, **exposure)
            else:
                raw, gt = phantom_pair(options, number)
            for path, block in zip(paths, (raw, gt), strict=True):
                _write(path, block, optics["voxel_size"], options.compress)
            progress.advance()
    print(f"{options.pairs} pair{'s' * (options.pairs != 1)} in {folders['raw']} and {folders['gt']}")
    if source:
        print(
            "Pairs of one source share its ground truth and differ in noise only: validate and test on another "
            "volume, or on another part of this one."
        )
    return written


def _describe(options):
    """All that decides about the pairs, as JSON."""
    how = options.model_dump(mode="json", exclude={"output"})
    return {**how, "source_state": file_signature(options.source)} if options.source else how


def _is_begun(record, how, folders):
    """Whether a call that was the same has begun to fill the folders; files that were made otherwise are refused."""
    held = [folder for folder in folders if folder.exists() and any(folder.iterdir())]
    is_same = record.is_file() and read_json(record) == how
    if held and not is_same:
        raise FileExistsError(
            f"{held[0]} already holds files, not made by the same call: name another folder, or empty it."
        )
    return is_same


def _choose_voxel_size(options, source):
    """What the user says, else what the source says; the size of phantoms is no guess for a source."""
    if options.voxel_size or not source:
        return options.voxel_size or DEFAULT_VOXEL_SIZE
    if None in source.voxel_size:
        raise ValueError(f"{source.path} does not give its voxel size: name it in µm with --voxel_size Z,Y,X.")
    return source.voxel_size


def _read_source(source):
    """A real volume as ground truth, and as the density of a specimen."""
    if len(source.frames) > 1:
        raise ValueError(
            f"{source.path} has {len(source.frames)} time points: a source is one volume. Save one of them."
        )
    gt = source.read(dtype=None)
    if not np.isfinite(gt).all():
        raise ValueError(f"{source.path} holds NaN or infinite values: all must be finite numbers. Replace them.")
    try:
        density = density_from_image(gt)
    except ValueError as failure:
        raise ValueError(f"{source.path}: {failure}") from None
    return (gt if gt.dtype in (np.uint8, np.uint16) else gt.astype(np.float32)), density


def _write(path, block, voxel_size, compressed):
    file = create_volume(
        path,
        axes="ZYX" if block.shape[-1] == 1 else "CZYX",
        sizes=dict(zip("ZYXC", block.shape, strict=True)),
        dtype=block.dtype,
        voxel_size=voxel_size,
        compressed=compressed,
    )
    file.display_range = (float(block.min()), float(np.percentile(block, 99.9)))
    with file:
        file.write({}, None, block)
