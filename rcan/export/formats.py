"""From a run folder to a file that other programs open."""

import importlib
import os

from rcan.atomic_io import atomic_file, atomic_folder, list_versions
from rcan.export.options import ExportOptions
from rcan.export.run_files import is_hub_folder
from rcan.failures import install_command

__all__ = ["export_model", "export_network"]

_NEEDED = {"bioimageio": ("bioimageio.core", "onnx", "onnxruntime"), "onnx": ("onnx",)}  # libraries
_DETAILS = ("input", "author", "license")  # that a bioimage.io package needs


def export_model(model_dir, output, format=None, **options):
    """Export a trained network for other programs, or write its model card, as `rcan export` does.

    Parameters
    ----------
    model_dir : path
        Run folder of a training, a ``.keras`` file, or a model of the published program.
    output : path
        File to write; for Hugging Face a folder; of a SavedModel a folder, or a ZIP archive of it.
    format : {"bioimageio", "huggingface", "onnx", "savedmodel", "keras"}, optional
        Not given with ``card=True``, which writes the card alone.
    **options
        The flags of `rcan export` without dashes, such as ``input="raw.tif"``; see `ExportOptions`.

    Returns
    -------
    description : str
        What was written: of a network names, axes and units of input and output, and what opens the file.

    Raises
    ------
    ValueError, OSError
        If an option is wrong, the network, the image or results cannot be read, or a file would be replaced.
    ImportError
        If libraries of the extra ``export`` are missing.

    Examples
    --------
    >>> export_model("runs/sample", "sample.onnx", "onnx", input="raw.tif")  # doctest: +SKIP
    >>> export_model("runs/sample", "README.md", card=True, license="CC-BY-4.0")  # doctest: +SKIP
    """
    values = {"model_dir": model_dir, "output": output, **options} | ({"format": format} if format else {})
    return export_network(ExportOptions.checked(values))


def export_network(options):
    """Export what `ExportOptions` name; returns the description, see `export_model`."""
    _check_details(options)
    _check_place(options)
    _check_libraries(options.kind)
    from rcan.export.image import measure_image
    from rcan.export.tensors import describe_ends
    from rcan.export.wrapping import build_exported
    from rcan.run_folder.models import load_model

    model, record = load_model(options.model_dir)
    if options.kind in ("card", "huggingface"):
        from rcan.export.hub import write_card_file, write_hub_folder

        write = write_card_file if options.card else write_hub_folder
        return write(options, model, record)
    image = None
    if options.input:
        image = measure_image(options.input, model, record, axes=options.axes, channels=options.channels)
    if options.format == "bioimageio":
        from rcan.export.bioimageio import write_package

        with atomic_file(options.output) as partial:
            return write_package(partial, options, model, record, image)
    exported = build_exported(model, ranges=image and image.ranges, stabilisation=image and image.stabilisation)
    what = _WRITERS[options.format](exported, options.output)
    heading = f"{options.output}: {model.count_params():,} parameters, {what}"
    return "\n".join([heading, *describe_ends(exported, record, image)])


def _check_details(options):
    """Refuse a bioimage.io package without what it needs."""
    missing = [f"--{name}" for name in _DETAILS if not getattr(options, name)]
    if options.format == "bioimageio" and missing:
        raise ValueError(
            f"--format bioimageio needs {' and '.join(missing)}: a package has a test image (-i raw.tif), authors "
            "(--author 'Ada Lovelace, Grace Hopper') and a licence (--license CC-BY-4.0)."
        )


def _check_place(options):
    """Refuse to replace a file without being asked to, and any folder but that of an earlier export."""
    path = options.output
    if not os.path.lexists(path):
        return
    if path.suffix and path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, {options.kind} is written as a file: choose another name.")
    if not path.suffix:
        what, is_earlier_export = _FOLDERS[options.kind]
        if not (path.is_dir() and is_earlier_export(path)):
            raise FileExistsError(f"{path} exists and is no {what}, which alone is replaced: choose another name.")
    if not options.overwrite:
        raise FileExistsError(f"{path} exists: name another file, or replace it with --overwrite.")


def _is_saved_model(folder):
    return (folder / "saved_model.pb").is_file()


_FOLDERS = {  # formats that are folders
    "savedmodel": ("SavedModel", _is_saved_model),
    "huggingface": ("earlier export for Hugging Face", is_hub_folder),
}


def _check_libraries(kind):
    for name in _NEEDED.get(kind, ()):
        try:
            importlib.import_module(name)
        except ImportError as failure:
            raise ImportError(f"--format {kind} needs {name}: {install_command('export')} brings it.") from failure


# Writers: each writes the network to a path, and returns what opens it.


def _write_onnx(exported, path):
    from rcan.export.onnx_graph import OPSET, to_onnx

    with atomic_file(path) as partial:
        partial.write_bytes(to_onnx(exported))
    return f"ONNX opset {OPSET}"


def _write_saved_model(exported, path):
    from rcan.export.saved_model import SIGNATURE, TENSORFLOW_VERSION, write_saved_model, zip_saved_model

    if path.suffix:
        with atomic_file(path) as partial:
            zip_saved_model(exported, partial)
    else:
        with atomic_folder(path) as partial:
            write_saved_model(exported, partial)
    return f"SavedModel for TensorFlow {TENSORFLOW_VERSION} and newer, tag serve, signature {SIGNATURE}"


def _write_keras(exported, path):
    from rcan.export.tensors import has_stock_layers
    from rcan.run_folder.models import save_model

    save_model(exported, path)
    loading = "keras.saving.load_model" + ("" if has_stock_layers(exported) else " after import rcan.model")
    return f"Keras {list_versions('keras')['keras']}, which {loading} opens on each backend"


_WRITERS = {"onnx": _write_onnx, "savedmodel": _write_saved_model, "keras": _write_keras}
