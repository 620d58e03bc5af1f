"""A file of Keras, looked at before Keras unpacks it: a small file can promise an array of any size."""

import json
import zipfile

__all__ = ["check_model_file", "count_weights", "most_unpacked"]

_LARGEST_TEXT = 2**25  # bytes of an architecture; that of the paper's network has 0.1 MB
_MOST_TIMES = 20  # bytes of weights for one that is stored: they can hardly be compressed
_SLACK = 2**24  # bytes


def check_model_file(path):
    """Refuse a ``.keras`` file that would unpack to far more than it holds, or that makes more weights than it holds.

    A ValueError says what it promises; other errors say that it is no such file.
    """
    import h5py

    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            is_text = member.filename.endswith(".json")
            most = _LARGEST_TEXT if is_text else most_unpacked(member.compress_size)
            if member.file_size > most:
                raise ValueError(
                    f"{member.filename} would unpack to {member.file_size / 1e9:.3g} GB, {most / 1e9:.2g} GB are "
                    "allowed."
                )
        architecture = json.loads(archive.read("config.json"))
        if isinstance(architecture, dict):
            architecture.pop("compile_config", None)  # an optimizer, whose variables are not those of the network
        with archive.open("model.weights.h5") as stream, h5py.File(stream) as file:
            num_weights = count_weights(file, stored=archive.getinfo("model.weights.h5").file_size)
    num_parameters = _count_parameters(architecture)
    if num_parameters > num_weights:
        raise ValueError(f"its network has {num_parameters:,} parameters, {num_weights:,} are stored.")


def most_unpacked(num_stored):
    """Bytes that a file with weights may have once it is unpacked, by those that are stored."""
    return _MOST_TIMES * num_stored + _SLACK


def count_weights(file, *, stored):
    """Count the numbers in all arrays of an HDF5 file of so many bytes; those that it does not hold are refused."""
    import h5py

    arrays = []
    file.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
    if any(array.external for array in arrays):
        raise ValueError("its weights are in another file.")
    promised = sum(array.nbytes for array in arrays)
    if promised > most_unpacked(stored):
        raise ValueError(f"its weights would take {promised / 1e9:.3g} GB, {stored / 1e9:.2g} GB are stored.")
    return sum(array.size for array in arrays)


def _count_parameters(architecture):
    """Count the parameters of a network without making them."""
    from rcan.keras_setup import keras

    with keras.StatelessScope(initialize_variables=False):
        return keras.saving.deserialize_keras_object(architecture, safe_mode=True).count_params()
