"""The documentation inside a package, in Markdown."""

from rcan.atomic_io import read_json
from rcan.export.tensors import axes_of, describe_ends, format_range
from rcan.report.methods import CITATIONS, describe_training
from rcan.run_folder.architecture import grid_of, upscaling_of
from rcan.run_folder.models import find_model

__all__ = ["describe_network", "write_documentation"]


def describe_network(exported):
    """What a network is for, in a sentence."""
    noun = {"zyx": "volumes", "yx": "images"}[axes_of(exported)]
    larger = "" if max(upscaling_of(exported)) == 1 else ", and enlarges them"
    return (
        f"Restores fluorescence microscopy {noun} (removes noise and blur{larger}) like those that it was trained on: "
        "a residual channel attention network (RCAN)."
    )


def write_documentation(path, name, description, model_dir, exported, record, image):
    """Write what users of a package need to know: what it reads, where it is right, how to call it and whom to cite."""
    read, written, reason = describe_ends(exported, record, image)
    parts = [
        f"# {name}\n\n{description}",
        f"## Input and output\n\n- {read}\n- {written}\n\n{reason}",
        _describe_processing(image),
        "## Training\n\n" + _describe_training(model_dir, record, exported),
        "## Validation\n\n" + _VALIDATION,
        "## Blocks\n\n" + _describe_blocks(exported),
        "## Citation\n\n" + "\n\n".join(CITATIONS),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_VALIDATION = (
    "The test input is a tile of a real image, the test output what `apply.py` of rcan makes of it in 32-bit floating "
    "point. That says that the package computes the same, not that the network is right for your images. Compare "
    "restored images with good ones of the same specimens: `rcan evaluate -m RUN_FOLDER -i raw/ -g gt/ -o report/` "
    "scores them beside the best classical filters, and measures how much structure the network invents. Where an "
    "image is unlike its training images, it does: keep the raw data, and do not use it for other specimens, optics or "
    "light levels than those of the training."
)


def _describe_processing(image):
    noise = (
        " Inside the weights the noise of the image is made the same everywhere (generalised Anscombe transform), with "
        f"the noise that {image.name} has: of images with much more or less light the result is worse."
    )
    return (
        "## Intensities\n\nPreprocessing and postprocessing (`scale_linear`) take the grey values "
        f"{format_range(image)} of each channel to 0 and 1, and back. `apply.py` of rcan measures them in each image "
        "anew; the specification has no step that goes back to the grey values of an image, so they are fixed here. "
        "For images with another offset or another brightness change both, or export again with such an image."
        f"{noise if image.stabilisation is not None else ''}"
    )


def _describe_training(model_dir, record, exported):
    """A methods paragraph, where the run folder tells of it."""
    config = find_model(model_dir).with_name("config.json")
    if not record.training or not config.is_file():
        return "How the network was trained is not recorded beside it."
    return describe_training(record, read_json(config), num_parameters=exported.count_params())


def _describe_blocks(exported):
    axes, grid = axes_of(exported), grid_of(exported)
    sizes = ", ".join(f"{axis} {step}" for axis, step in zip(axes, grid, strict=True))
    return (
        f"Sizes of a block are multiples of {sizes}. What lies near the edge of a block is thrown away (halo), so "
        "large blocks take less time. The network's attention averages over a block: the result depends a little on "
        "how an image is cut: by 0.01 to 0.05 % of the intensity range (root mean square) in networks that were tested."
    )
