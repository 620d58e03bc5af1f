"""The trained network of a run folder, and what is known about it."""

import hashlib
import zipfile
from pathlib import Path

from rcan.atomic_io import atomic_file, read_json, write_json
from rcan.run_folder.layout import MODELS

__all__ = ["digest_model", "find_model", "load_model", "note_about", "read_about", "save_model"]

_NOTES = ("spread", "trusted_range")  # what is found out about a network after its training


def save_model(model, path):
    """Save a Keras model; the file at `path` is the old or the new one, never half of it.

    Parameters
    ----------
    model : keras.Model
    path : path
        Ends in ``.keras``.
    """
    with atomic_file(path) as partial:
        model.save(partial)


def find_model(model_dir):
    """Find the model file that `model_dir` means.

    Parameters
    ----------
    model_dir : path
        A run folder (its best model is taken, the newest where there is no best), or a ``.keras`` file.

    Returns
    -------
    path : Path

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    model_dir = Path(model_dir)
    if model_dir.suffix == ".keras" and model_dir.is_file():
        return model_dir
    for name in MODELS:
        if (model_dir / name).is_file():
            return model_dir / name
    reason = "is not a .keras file" if model_dir.exists() else "does not exist"
    if model_dir.is_dir():
        reason = f"has neither {' nor '.join(MODELS)}"
    if any(model_dir.glob("*.hdf5")):
        reason += ", but .hdf5 files, which this version does not read"
    raise FileNotFoundError(
        f"{model_dir} {reason}: -m takes the folder that train.py wrote, or a .keras file."
    )


def load_model(model_dir):
    """Load a trained network and what is known about it.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    model : keras.Model
        Ready to be called; not compiled.
    about : dict
        Contents of the `training.json` beside the model, empty where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If a file cannot be read as what it should be.
    """
    import rcan.model  # noqa: F401  registers PixelShuffle
    from rcan.keras_setup import keras

    path = find_model(model_dir)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as failure:
        reason = str(failure).strip().splitlines()[0] if zipfile.is_zipfile(path) else "no zip archive."
        raise ValueError(
            f"{path} is damaged, or no Keras model that can be loaded. Copy it again, or name another with -m. "
            f"({reason})"
        ) from failure
    return model, read_about(path)


def read_about(model_dir):
    """Read what is known about a trained network, without loading it.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    about : dict
        Contents of the `training.json` beside the model, empty where there is none. What `note_about` has added for
        another network than that of now is left out.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If it is not JSON.
    """
    path = find_model(model_dir).with_name("training.json")
    about = read_json(path) if path.is_file() else {}
    if all(key not in about for key in _NOTES):
        return about
    digest = digest_model(model_dir)
    return {key: fact for key, fact in about.items() if key not in _NOTES or fact["model"] == digest}


def note_about(model_dir, key, facts):
    """Add to a network's `training.json` what was found out about it later.

    Parameters
    ----------
    model_dir : path
        A run folder, or a ``.keras`` file beside its `training.json`.
    key : {"spread", "trusted_range"}
    facts : dict
        JSON. Kept with the digest of the network, as a training that goes on makes another network.

    Raises
    ------
    FileNotFoundError
        If there is no `training.json`.
    OSError
        If it cannot be written.
    """
    path = find_model(model_dir).with_name("training.json")
    about = read_json(path)
    write_json(path, {**about, key: {**facts, "model": digest_model(model_dir)}})


def digest_model(model_dir):
    """A word that differs where networks differ.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file.

    Returns
    -------
    digest : str
        16 hexadecimal digits.
    """
    return hashlib.sha256(find_model(model_dir).read_bytes()).hexdigest()[:16]
