"""Networks in archives and on the web."""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
import tifffile

import rcan
from rcan.commands.apply import main as apply_main
from rcan.run_folder.models import find_model, load_model, read_record
from rcan.run_folder.places import cache_folder, find_place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("RCAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, tiny_models):
    """A run folder with a network and a record that are not the defaults."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    shutil.copy(tiny_models / "3d.keras", folder / "best.keras")
    (folder / "training.json").write_text(json.dumps({"percentiles": [5, 95], "seed": 7}))
    (folder / "report.html").write_text("a report")
    return folder


def pack(path, run_dir, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in run_dir.iterdir():
            archive.write(file, prefix + file.name)
    return path


@pytest.mark.parametrize("prefix", ["", "mine/", "a/b/"])
def test_a_zipped_run_folder_is_a_run_folder(prefix, run_dir, tmp_path, cache):
    archive = pack(tmp_path / "mine.zip", run_dir, prefix)
    model, record = load_model(archive)
    np.testing.assert_array_equal(model.get_weights()[0], load_model(run_dir)[0].get_weights()[0])
    assert (record.percentiles, record.seed) == ((5, 95), 7)
    assert find_model(archive).is_relative_to(cache / "models")
    assert not list(cache.rglob("report.html"))


def test_apply_restores_with_an_archive_as_with_its_folder(run_dir, tmp_path, write_tiff, stack):
    raw = write_tiff(tmp_path / "raw/a.tif", stack, "ZYX").parent
    archive = pack(tmp_path / "mine.zip", run_dir)
    outputs = []
    for number, model in enumerate((run_dir, archive)):
        assert apply_main(["-m", str(model), "-i", str(raw), "-o", str(tmp_path / f"{number}")]) == 0
        outputs.append(tifffile.imread(tmp_path / f"{number}/a.tif"))
    np.testing.assert_array_equal(*outputs)


def test_an_archive_that_has_changed_is_unpacked_again(run_dir, tmp_path):
    archive = pack(tmp_path / "mine.zip", run_dir)
    first = find_place(archive)
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    (other / "training.json").write_text(json.dumps({"seed": 8}))
    pack(archive, other)
    assert find_place(archive) != first
    assert read_record(archive).seed == 8


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"notes.txt": b"nothing"}, "holds no run folder: neither best.keras nor last.keras is in it"),
        ({"rdf.yaml": b"type: model"}, "holds a bioimage.io package that rcan export has not written"),
        ({"best.keras": bytes(10**8)}, "best.keras would unpack to 0.1 GB"),
        (None, "is a damaged ZIP archive"),
    ],
    ids=["nothing", "foreign package", "bomb", "damaged"],
)
def test_archives_that_hold_no_run_end_in_a_line(members, message, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK no archive")
    if members:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    with pytest.raises(ValueError, match=message):
        find_place(path)


def test_nothing_is_written_outside_the_cache(run_dir, tmp_path, cache):
    archive = pack(tmp_path / "mine.zip", run_dir, "../../evil/")
    assert find_place(archive).is_relative_to(cache)
    assert not list(tmp_path.rglob("evil"))


def test_a_package_of_rcan_export_restores_as_its_run_folder_and_tells_no_paths(run_dir, tmp_path, write_tiff, stack):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    pair = {"raw": "/home/ada/secret/raw.tif", "gt": "/home/ada/secret/gt.tif"}
    (run / "training.json").write_text(json.dumps({"percentiles": [5, 95], "training": [pair]}))
    image = write_tiff(tmp_path / "a.tif", np.tile(stack, (4, 1, 1)), "ZYX")
    details = {"input": image, "author": ("Ada Lovelace",), "license": "MIT"}
    rcan.export_model(run, tmp_path / "p.zip", "bioimageio", **details)
    model, record = load_model(tmp_path / "p.zip")
    np.testing.assert_array_equal(model.get_weights()[0], load_model(run)[0].get_weights()[0])
    assert (record.percentiles, record.training[0].raw) == ((5, 95), "raw.tif")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith((".json", ".yaml", ".md"))]
    assert not any(b"secret" in text for text in texts)


# The web


@contextlib.contextmanager
def served(answers):
    """A server that answers with bytes or JSON by path; yields its address and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            content = answers.get(self.path.partition("?")[0])
            self.send_response(200 if content is not None else 404)
            content = b"" if content is None else content
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_header("Content-Length", str(len(content)))
            self.send_header(
                "Content-Type", "application/json" if content[:1] in (b"{", b"[") else "application/octet-stream"
            )
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_archive_is_downloaded_once_and_its_digest_told(run_dir, tmp_path, capsys, cache):
    content = pack(tmp_path / "mine.zip", run_dir).read_bytes()
    with served({"/mine.zip": content}) as (address, asked):
        for _ in range(2):
            assert read_record(f"{address}/mine.zip").seed == 7
        subprocess.run([sys.executable, "-c", f"import rcan; rcan.load_model('{address}/mine.zip')"], check=True)
    assert asked.count("GET /mine.zip") == 1
    assert f"SHA-256 {hashlib.sha256(content).hexdigest()}" in capsys.readouterr().out
    assert len(list((cache / "downloads").iterdir())) == 1


def test_other_bytes_than_the_digest_names_are_refused(run_dir, tmp_path):
    content = pack(tmp_path / "mine.zip", run_dir).read_bytes()
    right = hashlib.sha256(content).hexdigest()
    with served({"/mine.zip": content}) as (address, _):
        assert read_record(f"{address}/mine.zip#sha256={right}").seed == 7
        with pytest.raises(ValueError, match="does not have the SHA-256 0000"):
            find_place(f"{address}/mine.zip#sha256={'0' * 64}")


def test_apply_takes_an_address(run_dir, tmp_path, write_tiff, stack, capsys):
    write_tiff(tmp_path / "a.tif", stack, "ZYX")
    with served({"/best.keras": (run_dir / "best.keras").read_bytes()}) as (address, _):
        flags = ["-m", f"{address}/best.keras", "-i", tmp_path / "a.tif", "-o", tmp_path / "b.tif"]
        assert apply_main([*map(str, flags)]) == 0
    assert tifffile.imread(tmp_path / "b.tif").shape == stack.shape


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("http://example.org/a.zip", ValueError, "is not encrypted"),
        ("https://example.org/a.tif", ValueError, "names no .zip archive"),
        ("hf://nobody", ValueError, "is no repository of Hugging Face"),
    ],
)
def test_addresses_of_no_network_end_in_a_line(address, error, message):
    with pytest.raises(error, match=message):
        find_place(address)


def test_what_is_not_on_the_server_ends_in_a_line():
    with served({}) as (address, _), pytest.raises(OSError, match=r"a\.zip cannot be downloaded .*404"):
        find_place(f"{address}/a.zip")


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'need pooch: python -m pip install "rcan-microscopy\[hub\]"'):
        find_place("https://example.org/other.zip")


def test_what_is_exported_for_hugging_face_is_loaded_from_a_repository_there(run_dir, tmp_path):
    rcan.export_model(run_dir, tmp_path / "exported", "huggingface")
    files = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    assert sorted(files) == ["README.md", "best.keras", "training.json"]
    siblings = [{"rfilename": name} for name in files]
    info = {"id": "lab/denoiser", "modelId": "lab/denoiser", "sha": "0" * 40, "siblings": siblings, "tags": []}
    answers = {"/api/models/lab/denoiser": info, "/api/models/lab/denoiser/revision/main": info}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in files.items()
    ]
    answers[f"/api/models/lab/denoiser/tree/{'0' * 40}"] = tree
    for revision in ("main", "0" * 40):
        answers |= {f"/lab/denoiser/resolve/{revision}/{name}": content for name, content in files.items()}
    code = "import rcan; _, record = rcan.load_model('hf://lab/denoiser'); print('seed', record.seed)"
    with served(answers) as (address, _):
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(files["best.keras"]).hexdigest()
    assert f"hf://lab/denoiser: SHA-256 {digest}" in done.stdout
    assert done.stdout.endswith("seed 7\n")


def test_the_cache_is_in_the_home_of_the_user_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("RCAN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/rcan"
