"""The documentation inside a package of bioimage.io: the card of its network, and what holds for this package alone."""

from rcan.export.card import describe_card
from rcan.export.tensors import axes_of, describe_ends, format_range
from rcan.run_folder.architecture import grid_of

__all__ = ["write_documentation"]


def write_documentation(path, facts, exported, image):
    """Write the card of `CardFacts`, and what users need to know of the package: what it reads, its range, its blocks.

    `exported` is the model of the package, `image` the `ImageFacts` that it is made for.
    """
    read, written, reason = describe_ends(exported, facts.record, image)
    sections = [
        ("Input and output of the package", f"- {read}\n- {written}\n\n{reason}"),
        ("Intensities of the package", _describe_processing(image)),
        ("Blocks", _describe_blocks(exported)),
        ("Test of the package", _TEST),
    ]
    path.write_text(describe_card(facts, place="PACKAGE.zip", sections=sections), encoding="utf-8")


_TEST = (
    "The test input is a tile of a real image, the test output what `rcan apply` makes of it in 32-bit floating "
    "point. That says that the package computes the same, not that the network is right for your images."
)


def _describe_processing(image):
    noise = (
        " Inside the weights the noise of the image is made the same everywhere (generalised Anscombe transform), with "
        f"the noise that {image.name} has: of images with much more or less light the result is worse."
    )
    return (
        "Preprocessing and postprocessing (`scale_linear`) take the grey values "
        f"{format_range(image)} of each channel to 0 and 1, and back. `rcan apply` measures them in each image "
        "anew; the specification has no step that goes back to the grey values of an image, so they are fixed here. "
        "For images with another offset or another brightness change both, or export again with such an image."
        f"{noise if image.stabilisation is not None else ''}"
    )


def _describe_blocks(exported):
    axes, grid = axes_of(exported), grid_of(exported)
    sizes = ", ".join(f"{axis} {step}" for axis, step in zip(axes, grid, strict=True))
    return (
        f"Sizes of a block are multiples of {sizes}. What lies near the edge of a block is thrown away (halo), so "
        "large blocks take less time. The network's attention averages over a block: the result depends a little on "
        "how an image is cut: by 0.01 to 0.05 % of the intensity range (root mean square) in networks that were tested."
    )
