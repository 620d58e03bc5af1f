"""Reports: what stands in the file. What it does in a browser: test_report_browser.py."""

import base64
import configparser
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
import pytest

from rcan.figures.rotation import rotate_projections
from rcan.figures.style import new_figure
from rcan.report.page import Page
from rcan.report.viewer import turn_volumes, view_volumes

ROOT = Path(__file__).parents[1]
NASTY = "a<b> & \"c\" 'd' </script><script>alert(1)</script>.tif"


class Document(HTMLParser):
    """Tags with their attributes, and text by the tag around it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self._open = [], {}, []
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.words.setdefault(self._open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return "".join(self.words.get(tag, []))


@pytest.fixture
def written(tmp_path):
    """Write a page that is filled by a function, and read it: `written(lambda page: page.text("x"))`."""

    def write(fill, title="title"):
        page = Page(title)
        fill(page)
        page.write(tmp_path / "report.html")
        return Document(tmp_path / "report.html")

    return write


def chart(label="label"):
    figure = new_figure(3, 2)
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], marker="o", label=label, color="#0072b2", clip_on=True)
    panel.legend()
    return figure


def pixels_of(uri):
    kind, _, encoded = uri.partition(";base64,")
    return iio.imread(base64.b64decode(encoded), extension="." + kind.rpartition("/")[2])


def planes_of(data, number):
    """What page.js reads from a sprite."""
    picture = pixels_of(data["images"][number]["sprite"])
    picture = picture[..., 0] if picture.ndim == 3 else picture
    count, height, width = data["shape"]
    columns = data["columns"]
    return np.stack([picture[k // columns * height :][:height, k % columns * width :][:, :width] for k in range(count)])


# The page


def test_text_of_every_kind_is_escaped(written):
    volume = np.zeros((2, 4, 4, 1))

    def fill(page):
        page.section(NASTY)
        page.text(NASTY)
        page.table([NASTY], [[NASTY]], caption=NASTY)
        page.figure(chart(NASTY), caption=NASTY, alt=NASTY)
        page.viewer({NASTY: volume}, voxel_size=(1, 1, 1), caption=NASTY)
        page.rotation({NASTY: volume}, voxel_size=(1, 1, 1), caption=NASTY)
        page.details(NASTY, NASTY)

    document = written(fill, title=NASTY)
    assert len(document.all("script")) == 3  # the data of two widgets, and page.js
    for tag in ("title", "h1", "h2", "a", "p", "th", "td", "figcaption", "summary", "pre"):
        assert NASTY in document.text(tag), tag
    assert NASTY in [svg.get("aria-label") for svg in document.all("svg")]


def test_names_of_images_come_through_the_script_element_unchanged(written):
    document = written(lambda page: page.viewer({NASTY: np.zeros((2, 4, 4, 1))}, voxel_size=(1, 1, 1)))
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', document.source)[1])
    assert data["images"][0]["name"] == NASTY


def test_nothing_is_loaded_from_anywhere(written):
    def fill(page):
        page.figure(chart())
        page.text("doi:10.1000/xyz")
        page.picture(b"\x89PNG", alt="nothing")
        page.viewer({"a": np.zeros((2, 4, 4, 1))}, voxel_size=(1, 1, 1))

    document = written(fill)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in document.tags}
    for tag, attributes in document.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(name, "#")
            is_link = tag == "a" and target == "https://doi.org/10.1000/xyz"
            assert target.startswith(("#", "data:")) or is_link, (tag, target)
    assert "@import" not in document.source
    assert not re.search(r"url\((?!#)", document.source)


def test_the_policy_forbids_all_but_the_script_of_the_page(written):
    document = written(lambda page: page.text("x"))
    (policy,) = [meta["content"] for meta in document.all("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    script = re.search(r"<script>(.*?)</script>", document.source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules


def test_the_navigation_leads_to_every_section(written):
    def fill(page):
        page.section("One")
        page.section("Two")

    document = written(fill)
    targets = [section["id"] for section in document.all("section")]
    assert [link["href"] for link in document.all("a")] == [f"#{target}" for target in targets]
    assert len(set(targets)) == 2


@pytest.mark.parametrize(
    ("cell", "shown"),
    [(23.456789, "23.46"), (0.00012345, "0.0001234"), (7, "7"), (float("nan"), "–"), (None, "–"),
     (np.float32(23.456789), "23.46"), (np.int64(7), "7"), (float("inf"), "inf"), ("+1.20", "+1.20")],
)  # fmt: skip
def test_a_cell_is_shown_with_four_digits(written, cell, shown):
    document = written(lambda page: page.table(["x"], [[cell]]))
    assert document.text("td") == shown


def test_columns_of_numbers_stand_right_and_columns_with_words_left(written):
    document = written(lambda page: page.table(["a", "b", "c"], [[1.5, "x", "+1.5"], [None, 2, "3 %"]]))
    assert ["number" in cell.get("class", "") for cell in document.all("td")] == [True, False, True] * 2
    assert ["number" in cell.get("class", "") for cell in document.all("th")] == [True, False, True]


def test_bold_cells_stand_out(written):
    document = written(lambda page: page.table(["a", "b"], [[1, 2], [3, 4]], bold=[(1, 0)]))
    assert document.text("strong") == "3"


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    Page("old").write(path)
    before = path.read_bytes()
    monkeypatch.setattr(Page, "_render", lambda page: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Page("new").write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_package_carries_the_files_that_pages_are_made_of():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = {name.strip() for name in setup["options.package_data"]["rcan.report"].split(",")}
    folder = ROOT / "rcan" / "report"
    assert declared == {path.name for path in folder.iterdir() if path.suffix not in (".py", "")}


# Charts


def test_charts_have_ids_of_their_own_and_point_to_them(written):
    document = written(lambda page: (page.figure(chart()), page.figure(chart())))
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', document.source)
    assert used
    assert {a or b for a, b in used} <= set(ids)


def test_charts_take_the_colours_of_the_page(written):
    document = written(lambda page: page.figure(chart("text of the legend")))
    (svg,) = re.findall(r"<svg.*?</svg>", document.source, re.DOTALL)
    assert not re.search("#000000|#ffffff|white|black", svg)
    assert "currentColor" in svg
    assert "#0072b2" in svg
    assert "text of the legend" in re.sub("<[^>]+>", "", svg)  # letters, not outlines
    assert "<metadata" not in svg


def test_charts_leave_the_settings_of_matplotlib_alone(written):
    before = dict(matplotlib.rcParams)
    written(lambda page: page.figure(chart()))
    assert dict(matplotlib.rcParams) == before


# Volumes


def test_a_viewer_holds_every_voxel_of_a_small_volume(rng):
    volume = rng.uniform(-0.2, 1.4, (5, 9, 7, 2)).astype(np.float32)
    data = view_volumes({"a": volume}, voxel_size=(0.3, 0.1, 0.1))
    step = data["whitest"] / 255
    np.testing.assert_allclose(planes_of(data, 0) * step, volume[..., 0].clip(0, data["whitest"]), atol=0.51 * step)
    assert data["voxel"] == (0.3, 0.1, 0.1)
    assert data["notes"] == ["Channel 1 of 2."]


def test_an_error_fills_the_colours_of_its_bar(rng):
    error = rng.uniform(0, 0.02, (5, 9, 7, 1))
    volume = np.zeros(error.shape)
    data = view_volumes({"a": volume}, voxel_size=(1, 1, 1), error=error)
    high = np.percentile(error, 99.9)
    assert data["error"]["high"] == pytest.approx(high)
    np.testing.assert_allclose(planes_of(data, 1) / 255, (error[..., 0] / high).clip(0, 1), atol=0.51 / 255)
    colors = np.frombuffer(bytes.fromhex(data["error"]["colors"]), np.uint8).reshape(256, 3)
    expected = [matplotlib.colormaps["viridis"](k / 255)[:3] for k in range(256)]
    np.testing.assert_allclose(colors / 255, expected, atol=1 / 255)


def test_a_large_volume_is_cut_to_its_busiest_part_within_the_budget(rng):
    volume = rng.uniform(0, 0.3, (40, 300, 300, 1)).astype(np.float32)
    volume[30:, 200:220, 40:60] = 1.2
    data = view_volumes({"a": volume, "b": volume}, voxel_size=(0.3, 0.1, 0.1))
    assert sum(len(image["sprite"]) for image in data["images"]) <= 3_000_000
    assert (planes_of(data, 1) > 200).sum() == 10 * 20 * 20
    (note,) = data["notes"]
    assert " × ".join(map(str, data["shape"])) + " of 40 × 300 × 300 voxels (ZYX)" in note


@pytest.mark.parametrize(("shape", "voxel_size"), [((7, 9, 1), (None, None, None)), ((1, 1, 1, 1), (None, 2, 1))])
def test_images_of_any_rank_and_size_can_be_looked_at(shape, voxel_size):
    data = view_volumes({"a": np.ones(shape)}, voxel_size=voxel_size, error=np.zeros(shape))
    assert (planes_of(data, 0) == 204).all()  # 1 of 1.25
    assert (planes_of(data, 1) == 0).all()


def test_raw_begins_beside_restored():
    volume = np.zeros((2, 4, 4, 1))
    by_name = {name: volume for name in ("raw", "median", "restored", "ground truth")}
    assert view_volumes(by_name, voxel_size=(1, 1, 1))["right"] == 2
    assert view_volumes({"raw": volume, "median": volume}, voxel_size=(1, 1, 1))["right"] == 1
    assert view_volumes({"raw": volume}, voxel_size=(1, 1, 1))["right"] == 0


def test_unknown_voxels_are_said(rng):
    volume = np.zeros((3, 4, 5, 1))
    (note,) = view_volumes({"a": volume}, voxel_size=(None, 0.1, 0.1))["notes"]
    assert "along z is not known" in note


@pytest.mark.parametrize("width", [1, 7.9, 60, 99, 1234])
def test_a_scale_bar_is_round_and_between_a_tenth_and_a_third_of_the_width(width):
    bar = view_volumes({"a": np.zeros((1, 1, 1, 1))}, voxel_size=(width,) * 3)["bar"]
    assert width / 10 < bar <= width / 3
    assert f"{bar:e}"[0] in "125"


def test_a_third_that_is_all_but_round_has_a_scale_bar():
    bar = view_volumes({"a": np.zeros((1, 1, 10, 1))}, voxel_size=(0.3, 0.03, 0.03))["bar"]
    assert bar == pytest.approx(0.1)  # 10 * 0.03 / 3 is 0.09999999999999999


def test_turned_volumes_are_the_projections_of_half_a_turn(rng):
    volume = np.zeros((8, 20, 24, 1))
    volume[2:5, 5:12, 3:20] = 0.8
    data = turn_volumes({"a": volume}, voxel_size=(0.3, 0.1, 0.1))
    count, height, width = data["shape"]
    views = rotate_projections(volume[..., 0], (0.3, 0.1, 0.1), num_views=2 * count, most=220)
    assert (height, width) == views.shape[1:]
    assert np.abs(planes_of(data, 0) / 255 - views[:count]).mean() < 0.01  # lossy
