"""`simulate`: pairs of raw and ground-truth volumes from phantoms or from real volumes."""

import functools
from pathlib import Path

from pydantic import model_validator

from rcan.cli import run_command
from rcan.config import Axes, Count
from rcan.options import Settings, option
from rcan.progress import Progress
from rcan.simulation.settings import (
    APERTURE,
    BACKGROUND,
    GAIN,
    OFFSET,
    READ_NOISE,
    REFRACTIVE_INDEX,
    WAVELENGTH,
    Micrometres,
    PhantomKind,
    Width,
    check_sharpness,
    choose_widths,
    each_warning_once,
)

__all__ = ["main"]


class SimulateOptions(Settings):
    """Flags of the command."""

    output: Path = option(..., "folder to write raw/ and gt/ to", positional=True)
    pairs: Count = option(8, "pairs to make")
    kind: PhantomKind = option("mixture", "kind of phantom")
    shape: tuple[Count, Count, Count] = option((32, 128, 128), "voxels of a phantom, Z,Y,X")
    voxel_size: tuple[Micrometres, Micrometres, Micrometres] | None = option(
        None, "size of a voxel, µm, Z,Y,X (default: 0.3,0.1,0.1, or the source's)"
    )
    source: Path | None = option(
        None,
        "real volume to degrade instead of a phantom; it is the ground truth itself, once for each pair. It is "
        "taken to be as sharp as --fwhm says, by default as with an oil objective of aperture 1.4 at 520 nm",
    )
    axes: Axes | None = option(None, "axes of the source, where its metadata is wrong")
    photons: float = option(20, "detected photons at a voxel of full signal in the raw volume", gt=0)
    blur: float = option(2, "width of a point in the raw volume over that in the ground truth", ge=1)
    fwhm: tuple[Width, Width, Width] | None = option(
        None,
        "width of a point in the ground truth, be it a phantom's or the --source: full width at half maximum, µm, "
        "Z,Y,X (default: 0.52,0.19,0.19, from --numerical_aperture, --wavelength and --refractive_index)",
    )
    numerical_aperture: float = APERTURE
    wavelength: float = WAVELENGTH
    refractive_index: float = REFRACTIVE_INDEX
    background: float = BACKGROUND
    offset: float = OFFSET
    gain: float = GAIN
    read_noise: float = READ_NOISE
    compress: bool = option(False, "deflate the files")
    seed: int = option(0, "the same seed gives the same volumes", ge=0)

    @model_validator(mode="after")
    def _check_together(self):
        given = [name for name in type(self).model_fields if name in self.model_fields_set]
        for name in given:
            if self.source and name in ("kind", "shape"):
                raise ValueError(
                    f"--{name} is of phantoms, but --source takes the place of a phantom: leave one of them out."
                )
        if self.axes and not self.source:
            raise ValueError("--axes is of a source: name it with --source, or leave --axes out.")
        check_sharpness(self)
        return self


def simulate(options: SimulateOptions):
    """Make pairs of raw and ground-truth volumes by simulating specimen, optics and camera.

    The raw volume is blurred, and noisy as by a camera that catches few photons. The ground truth is sharp
    and free of noise, or, with --source, that real volume itself.
    """
    import numpy as np

    from rcan.io.opening import create_volume, open_volume
    from rcan.simulation.microscope import degrade, simulate_pair
    from rcan.simulation.phantoms import make_phantom

    source = open_volume(options.source, axes=options.axes) if options.source else None
    optics = {"voxel_size": _voxel_size(options, source)}
    optics["fwhm"] = choose_widths(options)
    camera = options.model_dump(include={"photons", "background", "offset", "gain", "read_noise"})
    folders = {kind: options.output / kind for kind in ("raw", "gt")}
    existing = [folder for folder in folders.values() if folder.exists() and any(folder.iterdir())]
    if existing:
        raise FileExistsError(f"{existing[0]} already holds files: name another folder, or empty it.")
    if source:
        gt, density = _read_source(source)
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)

    def write(kind, name, volume, block):
        file = create_volume(
            folders[kind] / name,
            axes="ZYX" if block.shape[-1] == 1 else "CZYX",
            sizes=dict(zip("ZYXC", block.shape, strict=True)),
            dtype=block.dtype,
            voxel_size=volume["voxel_size"],
            compressed=options.compress,
        )
        file.display_range = (float(block.min()), float(np.percentile(block, 99.9)))
        with file:
            file.write({}, None, block)

    with each_warning_once(), Progress(options.pairs, "Simulating", unit="pair") as progress:
        for number in range(options.pairs):
            rng = np.random.default_rng((options.seed, number))
            if source:
                raw = degrade(density, **optics, blur_factor=options.blur, already=1, rng=rng, **camera)
            else:
                density = make_phantom(options.kind, options.shape, voxel_size=optics["voxel_size"], rng=rng)
                raw, gt = simulate_pair(density, **optics, blur_factor=options.blur, rng=rng, **camera)
            name = f"{source.path.stem if source else options.kind}_{number:03d}.tif"
            for kind, block in (("raw", raw), ("gt", gt)):
                write(kind, name, optics, block)
            progress.advance()
    print(f"{options.pairs} pair{'s' * (options.pairs != 1)} in {folders['raw']} and {folders['gt']}")
    if source:
        print(
            "Pairs of one source share its ground truth and differ in noise only: validate and test on another "
            "volume, or on another part of this one."
        )


def _voxel_size(options, source):
    """What the user says, else what the source says; the phantoms' default stands in for neither."""
    if options.voxel_size or not source:
        return options.voxel_size or (0.3, 0.1, 0.1)
    if None in source.voxel_size:
        raise ValueError(
            f"{source.path} does not give its voxel size: name it in µm with --voxel_size Z,Y,X."
        )
    return source.voxel_size


def _read_source(source):
    """A real volume as ground truth, and as the density of a specimen."""
    import numpy as np

    from rcan.simulation.microscope import density_from_image

    if len(source.frames) > 1:
        raise ValueError(
            f"{source.path} has {len(source.frames)} time points: a source is one volume. Save one of them."
        )
    gt = source.read(dtype=None)
    if not np.isfinite(gt).all():
        raise ValueError(
            f"{source.path} holds NaN or infinite values: all must be finite numbers. Replace them."
        )
    try:
        density = density_from_image(gt)
    except ValueError as failure:
        raise ValueError(f"{source.path}: {failure}") from None
    return (gt if gt.dtype in (np.uint8, np.uint16) else gt.astype(np.float32)), density


main = functools.partial(run_command, simulate, prog="rcan simulate")
