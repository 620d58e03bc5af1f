"""`rcan export`: write a trained network for other programs and people."""

import functools
import sys

from rcan.cli import run_command
from rcan.export.options import ExportOptions

__all__ = ["main"]


def export(options: ExportOptions):
    """Write a trained network for bioimage.io, Hugging Face, ONNX or TensorFlow without Keras, or its model card.

    With an image (-i) the exported network reads and writes grey values, with the intensity range and the noise of this
    image. Names, axes and units of input and output are printed.

    A model card (--card) says what the network was trained on, for which images, its scores and limits, and its
    licence. It takes them from the run folder and from what `rcan evaluate` and `rcan limits` have found.
    """
    from rcan.export.formats import export_network

    print(export_network(_ask(options)))


def _ask(options):
    """Ask for authors and licence of a bioimage.io package that no flag gives, where somebody sits at a terminal."""
    if options.format != "bioimageio" or not sys.stdin.isatty():
        return options
    answers = {}
    if not options.author:
        answers["author"] = tuple(name.strip() for name in input("Authors, with commas: ").split(",") if name.strip())
    if not options.license:
        answers["license"] = input("Licence (such as CC-BY-4.0): ").strip()
    return options.model_copy(update=answers)


main = functools.partial(run_command, export, prog="rcan export")
