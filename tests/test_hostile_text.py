"""Text from files, such as names of channels, never changes a terminal or a page."""

import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import tifffile

from rcan.__main__ import main
from rcan.cli import _PlainStream
from rcan.failures import as_one_line
from rcan.io.opening import open_volume
from rcan.progress import Progress

HOSTILE = "red\x1b[31m\x9b2J\r\n</script><script>alert(1)</script>\u202e"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def write(path, image, *, channel=HOSTILE):
    """Write an ImageJ file of two channels whose names are hostile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [channel, f"2 {channel}"] * image.shape[0]
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": "ZCYX", "Labels": labels})
    return path


@pytest.fixture
def config(tmp_path, tiny_config):
    """Values of a configuration whose volumes have channels with hostile names."""
    values = tiny_config(tmp_path, axes="ZCYX", metrics=["psnr"])
    for path in [*tmp_path.glob("raw/*.tif"), *tmp_path.glob("gt/*.tif")]:
        write(path, tifffile.imread(path))
    return values


def test_a_channel_name_reaches_neither_the_terminal_nor_a_page(config, tmp_path, capfd):
    """Trained, restored, evaluated and studied, with all that is printed and every page that is written."""
    (tmp_path / "config.json").write_text(json.dumps({**config, "test_data_dir": config["training_data_dir"]}))
    run, raw, gt = tmp_path / "run", tmp_path / "raw", tmp_path / "gt"
    assert main(["train", "-c", str(tmp_path / "config.json")]) == 0
    pair = ["-m", str(run), "-i", str(raw), "-g", str(gt)]
    assert main(["apply", *pair, "-o", str(tmp_path / "restored"), "--compare"]) == 0
    assert main(["evaluate", *pair, "-o", str(tmp_path / "evaluated")]) == 0
    printed = "".join(capfd.readouterr())
    assert not CONTROL.search(printed)
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) == 2
    for page in pages:
        assert not CONTROL.search(page.read_text()), page
        assert "<script>alert" not in page.read_text(), page


def test_a_channel_name_is_kept_but_for_what_cannot_be_shown(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((3, 2, 8, 8), np.uint16) + np.arange(8, dtype=np.uint16))
    first, second = open_volume(path).channel_names
    assert first.startswith(r"red\x1b[31m\x9b2J")
    assert second == f"2 {first}"


def test_a_file_whose_name_has_control_characters_is_refused_and_the_others_are_restored(
    tmp_path, tiny_models, noisy_pair, write_tiff, capsys
):
    write_tiff(tmp_path / "raw/a.tif", noisy_pair((8, 24, 28), 0)[0], "ZYX")
    shutil.copy(tmp_path / "raw/a.tif", tmp_path / "raw/b\x1b[31m\nerror: no.tif")
    images = ["-i", str(tmp_path / "raw"), "-o", str(tmp_path / "out")]
    assert main(["apply", "-m", str(tiny_models / "3d.keras"), *images]) == 1
    printed = capsys.readouterr()
    first, last = printed.err.splitlines()
    assert first.endswith(r"b\x1b[31m\nerror: no.tif has control characters in its name: rename it.")
    assert last == "error: 1 of 2 images were not restored, see above."
    assert not CONTROL.search(printed.out)
    assert (tmp_path / "out/a.tif").is_file()


def test_an_error_is_printed_without_control_characters(capsys):
    assert main(["apply", "-m", "a", "-i", "c\x1bcd", "-o", "e.tif"]) == 1
    err = capsys.readouterr().err
    assert r"c\x1bcd does not exist" in err
    assert not CONTROL.search(err)


def test_a_bar_of_progress_still_moves_the_cursor():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    earlier, sys.stderr = sys.stderr, _PlainStream(terminal)
    try:
        with Progress(2, "Restoring", unit="voxel") as progress:
            progress.advance(1)
    finally:
        sys.stderr = earlier
    assert "\rRestoring:" in terminal.getvalue()
    assert "\\r" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, µm, 細胞", "plain, µm, 細胞"),
        ("a\nb", r"a\nb"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
    ],
)
def test_control_characters_are_spelled_out(text, shown):
    assert as_one_line(text) == shown
