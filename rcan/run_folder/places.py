"""Where a network may be: a folder or a file here, a ZIP archive of a run folder, or an address of the web.

What is downloaded or unpacked is kept in a folder of the user, `RCAN_CACHE` or ``~/.cache/rcan``, by its digest.
"""

import functools
import hashlib
import os
import re
import zipfile
from pathlib import Path

from rcan.atomic_io import atomic_folder, file_signature
from rcan.failures import install_command
from rcan.run_folder.layout import MODELS
from rcan.run_folder.model_file import most_unpacked

__all__ = ["cache_folder", "digest_of_file", "find_place"]

_ADDRESS = re.compile(r"(https?|hf):/+(.+)")  # pathlib makes one slash of two
_DIGEST = re.compile(r"#sha256[=:]([0-9a-fA-F]{64})$")
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1)([:/]|$)")
_KEPT = (*MODELS, "training.json", "config.json")  # of a run folder
_HF_FILES = [*_KEPT, "*.zip"]


def cache_folder():
    """Folder for downloads and unpacked archives."""
    return Path(os.environ.get("RCAN_CACHE") or Path.home() / ".cache" / "rcan")


def find_place(named):
    """Find the folder or file on this machine that a network is in.

    Parameters
    ----------
    named : path or str
        A folder or file, which is returned as it is. A ``.zip`` archive of a run folder, or a package of
        `rcan export --format bioimageio`, which is unpacked. An address ``https://…`` of a ``.zip`` or ``.keras`` file
        or ``hf://owner/name`` of a repository of Hugging Face, perhaps ``hf://owner/name@revision``; ``#sha256=…`` at
        its end refuses any other bytes.

    Returns
    -------
    place : Path

    Raises
    ------
    ValueError
        If an archive holds no run folder, or what was downloaded has another digest.
    OSError
        If the place is not there or cannot be reached.
    ImportError
        If the extra ``hub`` is missing.
    """
    text = str(named)
    if address := _ADDRESS.fullmatch(text):
        text, digest = _cut_digest(f"{address[1]}://{address[2]}")
        return _download(text, digest)
    path = Path(text)
    return _unpack(path, *file_signature(path)) if path.suffix.lower() == ".zip" and path.is_file() else path


def _cut_digest(address):
    found = _DIGEST.search(address)
    return (address[: found.start()], found[1].lower()) if found else (address, None)


@functools.cache
def _unpack(path, *_):
    """Folder with the files of a run from a ZIP archive; its size and time tell whether it is still the same."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _choose_members(path, archive)
            target = cache_folder() / "models" / f"{path.stem}-{digest_of_file(path)[:16]}"
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_folder(target) as partial:
                    partial.mkdir()
                    for name, member in members.items():
                        (partial / name).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as failure:
        raise ValueError(f"{path} is a damaged ZIP archive ({failure}): copy it again.") from failure
    return target


def _choose_members(path, archive):
    """The files of a run in an archive, by name: those that lie beside its best or newest model."""
    names = {info.filename: info for info in archive.infolist()}
    models = sorted(
        (name for name in names if name.rpartition("/")[2] in MODELS),
        key=lambda name: (name.count("/"), MODELS.index(name.rpartition("/")[2])),
    )
    if not models:
        package = "a bioimage.io package that rcan export has not written" if "rdf.yaml" in names else "no run folder"
        raise ValueError(f"{path} holds {package}: neither {' nor '.join(MODELS)} is in it. Name another with -m.")
    folder = models[0].rpartition("/")[0]
    members = {name: names[key] for name in _KEPT if (key := f"{folder}/{name}" if folder else name) in names}
    for info in members.values():
        if info.file_size > most_unpacked(info.compress_size):
            raise ValueError(f"{path}: {info.filename} would unpack to {info.file_size / 1e9:.3g} GB. Name another.")
    return members


def digest_of_file(path):
    """SHA-256 of the bytes of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Downloads


@functools.cache
def _download(address, digest):
    """A file or a folder with the files at an address, downloaded once; the digest is told, and checked if given."""
    fetch = _fetch_hub if address.startswith("hf://") else _fetch_web
    path, model = fetch(address, digest)
    found = digest_of_file(model)
    if digest and found != digest:
        raise ValueError(f"{address} has the SHA-256 {found}, not {digest}: it is not what was named.")
    print(
        f"{address}: SHA-256 {found}{'' if digest else ' (#sha256=… at the end of the address insists on it)'}",
        flush=True,
    )
    return find_place(path)


def _fetch_web(address, digest):
    """Download a file, unless it is there from an earlier time: the file, and where the model is, in it."""
    if address.startswith("http://") and not _LOCAL.match(address.removeprefix("http://")):
        raise ValueError(f"{address} is not encrypted: anybody on the way could change the network. Name https://.")
    suffix = Path(address.partition("?")[0]).suffix.lower()
    if suffix not in (".zip", ".keras"):
        raise ValueError(f"{address} names no .zip archive of a run folder and no .keras file.")
    pooch = _import("pooch")
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(address.partition("?")[0]).stem)[:80]
    name = f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:16]}{suffix}"
    folder = cache_folder() / "downloads"
    pooch.get_logger().setLevel("ERROR")
    try:
        path = Path(
            pooch.retrieve(address, known_hash=digest and f"sha256:{digest}", fname=name, path=folder, progressbar=True)
        )
    except ValueError as failure:  # of pooch, where the digest is another one
        raise ValueError(f"{address} does not have the SHA-256 {digest}: it is not what was named.") from failure
    except OSError as failure:
        raise OSError(
            f"{address} cannot be downloaded ({_first_line(failure)}): check address and network."
        ) from failure
    return path, path


def _fetch_hub(address, digest):
    """Download the files of a run from a repository of Hugging Face: their folder, and the model."""
    hub = _import("huggingface_hub")
    name, _, revision = address.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{address} is no repository of Hugging Face: name it hf://owner/name.")
    try:
        folder = Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=_HF_FILES))
    except Exception as failure:  # of several libraries
        raise OSError(f"{address} cannot be downloaded ({_first_line(failure)}): check name and network.") from failure
    models = [folder / name for name in MODELS if (folder / name).is_file()]
    archives = sorted(folder.glob("*.zip"))
    if not models and len(archives) != 1:
        raise FileNotFoundError(
            f"{address} holds neither {' nor '.join(MODELS)}, nor one .zip archive of a run folder."
        )
    return (folder, models[0]) if models else (archives[0], archives[0])


def _first_line(failure):
    return next(iter(str(failure).strip().splitlines()), type(failure).__name__)


def _import(name):
    try:
        return __import__(name)
    except ImportError as failure:
        raise ImportError(f"networks of the web need {name}: {install_command('hub')} brings it.") from failure
