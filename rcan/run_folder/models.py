"""The trained network of a run folder, and the record of its training."""

import zipfile

from rcan.atomic_io import atomic_file, read_json, write_json
from rcan.run_folder.architecture import check_architecture
from rcan.run_folder.layout import MODELS
from rcan.run_folder.model_file import check_model_file
from rcan.run_folder.places import digest_of_file, find_place
from rcan.run_folder.published import PUBLISHED_SUFFIXES, choose_published, load_published
from rcan.run_folder.record import TrainingRecord

__all__ = ["add_to_record", "digest_model", "find_model", "has_record", "load_model", "read_record", "save_model"]

_ADDED = ("bfloat16_check", "spread", "trusted_range")  # keys that are found out after the training


def save_model(model, path):
    """Save a Keras model as ``.keras``; the file at `path` is the old or the new one, never half of it."""
    with atomic_file(path) as partial:
        model.save(partial)


def find_model(model_dir):
    """Find the model file of a run folder (its best model, else the newest), or take a file itself.

    The folder may be in a ZIP archive or on the web, see `rcan.run_folder.places.find_place`. Of a folder of the
    published program it is the ``.hdf5`` file with the lowest loss in its name. A FileNotFoundError if there is none.
    """
    model_dir = find_place(model_dir)
    if model_dir.suffix in (".keras", *PUBLISHED_SUFFIXES) and model_dir.is_file():
        return model_dir
    for name in MODELS:
        if (model_dir / name).is_file():
            return model_dir / name
    if model_dir.is_dir() and (published := choose_published(model_dir)):
        return published
    reason = "is not a .keras or .hdf5 file" if model_dir.exists() else "does not exist"
    if model_dir.is_dir():
        reason = f"has neither {' nor '.join(MODELS)}, nor an .hdf5 file"
    raise FileNotFoundError(
        f"{model_dir} {reason}: -m takes the folder that rcan train wrote, or that of the published program, or a "
        ".keras or .hdf5 file."
    )


def load_model(model_dir):
    """Load a trained network and the record of its training.

    Parameters
    ----------
    model_dir : path
        A run folder or a ``.keras`` file; a folder of the published program or one of its ``.hdf5`` files; a ZIP
        archive of a run folder, a package of `rcan export`, or an address, ``https://…`` or ``hf://owner/name``.

    Returns
    -------
    model : keras.Model
        Ready to be called; not compiled.
    record : TrainingRecord
        The `training.json` beside the model, the defaults where there is none.

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
    is_published = path.suffix in PUBLISHED_SUFFIXES
    try:
        if is_published:
            model = load_published(path)
        else:
            check_model_file(path)
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as failure:
        reason = next(iter(str(failure).strip().splitlines()), type(failure).__name__)
        reason = reason if is_published or zipfile.is_zipfile(path) else "no zip archive."
        raise ValueError(
            f"{path} is damaged, or no Keras model that can be loaded. Copy it again, or name another with -m. "
            f"({reason})"
        ) from failure
    try:
        check_architecture(model)
    except ValueError as failure:
        raise ValueError(f"{path} is no network that can restore images: {failure}") from failure
    return model, read_record(path)


def read_record(model_dir):
    """Read the `training.json` beside a model, without loading the model; the defaults where there is none.

    What a study has found out about another network than the present one is left out.
    """
    path = find_model(model_dir).with_name("training.json")
    if not path.is_file():
        return TrainingRecord()
    record = TrainingRecord.load(path)
    added = [name for name in _ADDED if getattr(record, name)]
    digest = digest_model(model_dir) if added else None
    outdated = [name for name in added if getattr(record, name).model != digest]
    return record.model_copy(update=dict.fromkeys(outdated))


def has_record(model_dir):
    """Whether a `training.json` lies beside the model."""
    return find_model(model_dir).with_name("training.json").is_file()


def add_to_record(model_dir, name, facts):
    """Add to the `training.json` beside a model what was found out after its training, with the digest of the model.

    `name` is ``"bfloat16_check"`` with `facts` a PrecisionCheck, ``"spread"`` with a SpreadRecord, or
    ``"trusted_range"`` with a TrustedRange. An OSError if there is no such file, or it cannot be written.
    """
    path = find_model(model_dir).with_name("training.json")
    facts = facts.model_copy(update={"model": digest_model(model_dir)})
    write_json(path, {**read_json(path), name: facts.model_dump(mode="json")})


def digest_model(model_dir):
    """Digest of the file of a model, 16 hexadecimal digits: the same as long as the network is."""
    return digest_of_file(find_model(model_dir))[:16]
