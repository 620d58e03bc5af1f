from pathlib import Path

from rcan.restoration.summary import RestoreSummary


def lines_of(failed, capsys):
    RestoreSummary(failed=failed).print(Path("out"))
    return capsys.readouterr().out.splitlines()[1:]


def test_images_that_fail_for_the_same_reason_are_listed_together(capsys):
    failed = {Path(f"raw/{name}.tif"): f"raw/{name}.tif has axes YX, without Z." for name in "abcde"}
    assert lines_of(failed, capsys) == [
        "not restored: 5 images (a.tif, b.tif, c.tif and 2 more): has axes YX, without Z."
    ]


def test_an_image_that_fails_alone_has_a_line_with_its_path(capsys):
    failed = {
        Path("raw/a.tif"): "raw/a.tif is empty.",
        Path("raw/b.tif"): "raw/b.tif: no such file or directory.",
        Path("raw/c.tif"): "raw/c.tif: no such file or directory.",
    }
    assert lines_of(failed, capsys) == [
        "not restored: a.tif: raw/a.tif is empty.",
        "not restored: 2 images (b.tif, c.tif): no such file or directory.",
    ]
