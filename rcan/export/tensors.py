"""What is said of an exported network: names, axes and units of its input and output, and what they are worth."""

from rcan.run_folder.architecture import grid_of, upscaling_of

__all__ = ["axes_of", "describe_ends", "format_range", "has_stock_layers"]


def axes_of(model):
    """Names of the spatial axes of a network, ``"zyx"`` or ``"yx"``."""
    return "zyx"[-(len(model.input_shape) - 2) :]


def has_stock_layers(model):
    """Whether Keras alone can load a model: an upscaling one needs the layer `PixelShuffle` of this package."""
    return not any(layer.__class__.__module__.startswith("rcan.") for layer in model.layers)


def describe_ends(exported, record, image=None):
    """Say what an exported network reads and writes, in a line each, and of which image its constants are.

    `exported` is what `rcan.export.wrapping.build_exported` has made, `image` the `rcan.export.image.ImageFacts` that
    it was made with.
    """
    axes = axes_of(exported)
    shape = f"float32, (batch, {', '.join(axes)}, channel)"
    grid, factors = grid_of(exported), upscaling_of(exported)
    sizes = f"{', '.join(axes)} are multiples of {_listed(grid)}" if max(grid) > 1 else "any size"
    larger = f", {_listed(factors)} times as large along {', '.join(axes)}" if max(factors) > 1 else ""
    read, written = (f"{count} channel{'s' * (count != 1)}" for count in _channels(exported))
    unit, reason = _describe_unit(record, image)
    return [
        f"input raw: {shape}, {read}, {unit}; {sizes}",
        f"output restored: {shape}, {written}, {'grey values' if image else 'background 0 and signal 1'}{larger}",
        reason,
    ]


def format_range(image):
    """Grey values of 0 and 1, of each channel."""
    return "; ".join(f"{low:.6g} and {high:.6g}" for low, high in image.ranges)


def _channels(model):
    return model.input_shape[-1], model.output_shape[-1]


def _listed(numbers):
    return ", ".join(map(str, numbers))


def _describe_unit(record, image):
    """Unit of the input, and where its numbers come from."""
    is_stabilised = record.normalization == "anscombe"
    if image:
        noise = ", and the noise," if is_stabilised else ""
        reason = (
            f"Background and signal, {format_range(image)}{noise} are those of {image.name}, as rcan apply measures "
            "them: right for images that were taken with the same settings."
        )
        return "grey values", reason
    percentiles = "percentiles {:g} and {:g}".format(*record.percentiles)
    if is_stabilised:
        return "stabilised", (
            "Stabilised: first the channels of the image, then their noise, as rcan.view_image makes them; "
            f"{percentiles} are 0 and 1. With -i IMAGE the exported network reads and writes grey values."
        )
    return "background 0 and signal 1", (
        f"0 and 1 are {percentiles} of each channel of an image. With -i IMAGE the exported network reads and writes "
        "grey values."
    )
