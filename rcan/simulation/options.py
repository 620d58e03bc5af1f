"""What a user can choose about simulated images: the flags of `rcan simulate`, some of which `rcan limits` shares."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rcan.config import Axes, Count
from rcan.options import Settings, option

__all__ = ["DEFAULT_VOXEL_SIZE", "MicroscopeOptions", "PhantomKind", "Positive", "SimulateOptions", "Width"]

DEFAULT_VOXEL_SIZE = (0.3, 0.1, 0.1)  # µm, (Z, Y, X), of phantoms
Positive = Annotated[float, Field(gt=0)]
PhantomKind = Literal["spheres", "hollow", "filaments", "membranes", "mixture"]
Width = Annotated[float, Field(ge=0)]
_OPTICS = ("numerical_aperture", "wavelength", "refractive_index")


class MicroscopeOptions(Settings):
    """Optics and camera."""

    fwhm: tuple[Width, Width, Width] | None = option(
        None,
        "width of a point in the ground truth: full width at half maximum, µm, Z,Y,X (default: 0.52,0.19,0.19, from "
        "--numerical_aperture, --wavelength and --refractive_index)",
    )
    numerical_aperture: float = option(1.4, "numerical aperture of the objective", gt=0)
    wavelength: float = option(0.52, "wavelength of the emitted light in vacuum, µm", gt=0)
    refractive_index: float = option(1.515, "refractive index of the immersion medium: water 1.33, oil 1.515", gt=0)
    background: float = option(
        2, "detected photons that every voxel has besides its signal: stray light, dark current", ge=0
    )
    offset: float = option(100, "grey value without light", ge=0)
    gain: float = option(2, "grey values for each detected photon", gt=0)
    read_noise: float = option(1.6, "noise of the camera's readout, electrons, root mean square", ge=0)

    @model_validator(mode="after")
    def _check_sharpness(self):
        for name in _OPTICS:
            if self.fwhm and name in self.model_fields_set:
                raise ValueError(
                    f"--{name} says how sharp the ground truth is, and so does --fwhm: leave one of them out."
                )
        if self.fwhm is None and self.numerical_aperture >= self.refractive_index:
            raise ValueError(
                f"--numerical_aperture is {self.numerical_aperture:g}: it must be below --refractive_index, "
                f"{self.refractive_index:g}."
            )
        return self

    def choose_widths(self):
        """Full widths at half maximum of a point in the ground truth, µm, (Z, Y, X): `fwhm`, else by the optics."""
        from rcan.simulation.optics import gaussian_widths  # SciPy would delay the help page

        return self.fwhm or gaussian_widths(*(getattr(self, name) for name in _OPTICS))


class SimulateOptions(MicroscopeOptions):
    """Which pairs of images to simulate."""

    output: Path = option(..., "folder to write raw/ and gt/ to", positional=True)
    pairs: Count = option(8, "pairs to make")
    kind: PhantomKind = option("mixture", "kind of phantom")
    shape: tuple[Count, Count, Count] = option((32, 128, 128), "voxels of a phantom, Z,Y,X")
    voxel_size: tuple[Positive, Positive, Positive] | None = option(
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
    compress: bool = option(False, "deflate the files")
    seed: int = option(0, "the same seed gives the same volumes", ge=0)

    @model_validator(mode="after")
    def _check_together(self):
        for name in ("kind", "shape"):
            if self.source and name in self.model_fields_set:
                raise ValueError(
                    f"--{name} is of phantoms, but --source takes the place of a phantom: leave one of them out."
                )
        if self.axes and not self.source:
            raise ValueError("--axes is of a source: name it with --source, or leave --axes out.")
        return self
