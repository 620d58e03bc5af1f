"""Reports in a browser: from the disk, in the dark, on a phone, on paper, by mouse, finger and keyboard."""

import re
import shutil

import numpy as np
import pytest
from scipy import ndimage

from rcan.figures.style import new_figure
from rcan.report.page import Page

_SHAPE = 6, 20, 30  # (Z, Y, X)
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium: these tests look at reports in it")
    sync_api = pytest.importorskip("playwright.sync_api")
    with (
        sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=_FLAGS) as chromium,
    ):
        yield chromium


@pytest.fixture(scope="module")
def images():
    """Each plane has a grey value of its own, and so has each row and each column."""
    z, y, x = np.indices(_SHAPE)
    raw = 0.05 * z + 0.01 * y + 0.01 * x
    return {"raw": raw[..., np.newaxis], "restored": raw[..., np.newaxis] + 0.2}


@pytest.fixture(scope="module")
def report(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("report") / "a report & more.html"
    figure = new_figure(8, 3)
    figure.subplots().plot([0, 1], label="line")
    page = Page("A title that is long enough to need two lines on the screen of a phone", "subtitle_" * 12)
    page.section("Table")
    page.text("A paragraph.", "A_word_without_end_" * 10, copy=True)
    page.table([f"column {k}" for k in range(12)], [[f"value {k}" for k in range(12)]], caption="wide")
    page.figure(figure, caption="chart", alt="a line")
    page.section("Volumes")
    error = np.abs(images["restored"] - images["raw"]) + np.linspace(0, 0.2, _SHAPE[2])[:, np.newaxis]
    page.viewer(images, voxel_size=(0.3, 0.1, 0.1), error=error, caption="viewer")
    spot = np.zeros((9, 12, 25, 1))
    spot[4, 6, 22] = 1
    spot = ndimage.gaussian_filter(spot, (1, 1, 1, 0))
    spot /= spot.max()
    page.rotation({"raw": spot, "restored": spot}, voxel_size=(0.2, 0.1, 0.1), caption="rotation")
    page.section("Settings")
    page.details("settings", "folded text")
    page.write(path)
    return path


@pytest.fixture
def open_report(browser, report):
    """Open the report; at the end it must not have complained, nor asked for anything but itself."""
    opened, problems, requests = [], [], []

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 2400}, **options})
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        opened.append(context)
        page.goto(report.as_uri())
        page.wait_for_selector(".viewer[data-ready]", state="attached")
        page.wait_for_selector(".rotation[data-ready]", state="attached")
        return page

    yield open_page
    for context in opened:
        context.close()
    assert problems == []
    assert {url for url in requests if not url.startswith("data:")} == {report.as_uri()}


def colors(page, selector):
    """Pixels of a canvas, as (height, width, 3)."""
    width, values = page.eval_on_selector(
        selector,
        """(canvas) => {
            const { width, height } = canvas, copy = document.createElement("canvas");
            Object.assign(copy, { width, height });
            copy.getContext("2d").drawImage(canvas, 0, 0);
            return [width, Array.from(copy.getContext("2d").getImageData(0, 0, width, height).data)];
        }""",
    )
    return np.reshape(values, (-1, width, 4))[..., :3]


def pixels(page, selector):
    """Grey values of a canvas, as (height, width)."""
    return colors(page, selector)[..., 0]


XY, ZY, XZ = (f".viewer .view:nth-child({k}) canvas" for k in (1, 2, 3))


def gray(values):
    return 255 * np.clip(values, 0, 1)


def test_it_opens_from_the_disk_and_shows_all_its_parts(open_report):
    page = open_report()
    assert page.title().startswith("A title")
    assert page.locator("canvas").count() == 5
    assert page.locator("svg[role=img]").get_attribute("aria-label") == "a line"


def test_a_connection_is_forbidden_even_to_a_script_of_the_page(browser, report):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(report.as_uri())
        outcome = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
        assert outcome == "Failed to fetch"
        blocked = page.evaluate(
            """new Promise((resolve) => {
                document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
                fetch("http://127.0.0.1:9/").catch(() => {});
            })"""
        )
        assert blocked == "connect-src"


def test_the_three_views_show_the_planes_through_the_cross(open_report, images):
    page = open_report()
    raw, restored = (images[name][..., 0] for name in ("raw", "restored"))
    z, y, x = (size // 2 for size in _SHAPE)
    for selector, section in {XY: np.s_[z], ZY: np.s_[:, :, x], XZ: np.s_[:, y]}.items():
        shown = pixels(page, selector)
        left, right = (image[section].T if selector == ZY else image[section] for image in (raw, restored))
        half = left.shape[1] // 2
        np.testing.assert_allclose(shown[:, :half], gray(left)[:, :half], atol=2)
        np.testing.assert_allclose(shown[:, half:], gray(right)[:, half:], atol=2)


def test_proportions_are_those_of_the_voxels_and_the_scale_bar_is_true(open_report):
    page = open_report()
    xy, zy, xz = (page.locator(selector).bounding_box() for selector in (XY, ZY, XZ))
    assert xy["width"] / xy["height"] == pytest.approx(3.0 / 2.0, rel=0.01)
    assert zy["width"] / xy["width"] == pytest.approx(1.8 / 3.0, rel=0.01)
    assert xz["height"] / xy["height"] == pytest.approx(1.8 / 2.0, rel=0.01)
    bar = page.locator(".bar span").bounding_box()
    assert page.locator(".bar").inner_text().strip() == "1 µm"
    assert bar["width"] / xy["width"] == pytest.approx(1 / 3, rel=0.01)


def test_a_slider_goes_through_the_planes_by_the_keyboard(open_report, images):
    page = open_report()
    slider = page.get_by_label(re.compile("^z: plane"))
    slider.focus()
    page.keyboard.press("End")
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(images["raw"][-1, ..., 0])[:, :15], atol=2)
    assert page.get_by_label("z: plane 6 of 6, 1.65 µm").count() == 1
    page.keyboard.press("ArrowLeft")
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(images["raw"][-2, ..., 0])[:, :15], atol=2)


def test_images_are_chosen_left_and_right_and_the_error_has_colours(open_report, images):
    page = open_report()
    page.get_by_label("Left", exact=True).select_option(label="restored")
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(images["restored"][3, ..., 0])[:, :15], atol=2)
    before = pixels(page, XY)[:, 15:]
    page.get_by_label("Right", exact=True).select_option(label="error")
    assert colors(page, XY)[5, 29].tolist() == [
        253,
        231,
        36,
    ]  # the end of viridis: the error is largest there
    assert (pixels(page, XY)[:, 15:] != before).any()
    assert "0.400 and more" in page.locator(".legend").inner_text()


def test_maximum_projections_take_the_place_of_planes(open_report, images):
    page = open_report()
    page.get_by_label("Show", exact=True).select_option(label="maximum projections")
    raw = images["raw"][..., 0]
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(raw.max(axis=0))[:, :15], atol=2)
    np.testing.assert_allclose(pixels(page, ZY)[:, :3], gray(raw.max(axis=2).T)[:, :3], atol=2)
    assert page.get_by_label(re.compile("^z: plane")).is_disabled()


def test_white_and_gamma_change_the_grey_values(open_report, images):
    page = open_report()
    shown = images["raw"][3, ..., 0][:, :15]
    page.get_by_label(re.compile("^White at")).fill("0.5")
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(shown / 0.5), atol=4)
    page.get_by_label(re.compile("^Gamma")).fill("0.5")
    np.testing.assert_allclose(pixels(page, XY)[:, :15], gray(np.sqrt(shown / 0.5)), atol=4)


def test_the_divider_is_dragged(open_report):
    page = open_report()
    box = page.locator(XY).bounding_box()
    y = box["y"] + box["height"] / 2
    before = pixels(page, XY)
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], y, steps=4)
    page.mouse.up()
    divider = page.get_by_role("slider", name="Divider between the left and the right image")
    assert divider.get_attribute("aria-valuenow") == "90"
    changed = (pixels(page, XY) != before).any(axis=0)
    assert changed[15:27].all()
    assert not changed[:15].any()


def test_the_divider_is_moved_by_keys(open_report):
    page = open_report()
    divider = page.get_by_role("slider", name="Divider between the left and the right image")
    divider.focus()
    page.keyboard.press("ArrowLeft")
    assert divider.get_attribute("aria-valuenow") == "49"
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert divider.get_attribute("aria-valuenow") == "0"  # not beyond


def test_a_click_into_a_view_moves_the_cross(open_report, images):
    page = open_report()
    box = page.locator(XY).bounding_box()
    page.mouse.click(box["x"] + (4.5 / 30) * box["width"], box["y"] + (3.5 / 20) * box["height"])
    assert page.get_by_label("x: plane 5 of 30, 0.450 µm").input_value() == "4"
    np.testing.assert_allclose(pixels(page, XZ)[:, :15], gray(images["raw"][:, 3, :15, 0]), atol=2)
    np.testing.assert_allclose(pixels(page, ZY)[:, :3], gray(images["raw"][:3, :, 4, 0].T), atol=2)


TURNED = ".rotation canvas >> nth="


def brightest_column(page, number=0):
    return int(pixels(page, f"{TURNED}{number}").max(axis=0).argmax())


def test_dragging_turns_all_volumes_together(open_report):
    page = open_report()
    box = page.locator(f"{TURNED}0").bounding_box()
    width = pixels(page, f"{TURNED}0").shape[1]
    start = brightest_column(page)
    assert start > width / 2 + 5  # the spot lies to the right of the axis
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 5, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 5 + box["width"], y, steps=10)  # half a turn
    page.mouse.up()
    assert brightest_column(page) == width - 1 - start
    assert brightest_column(page, 1) == width - 1 - start


def test_arrow_keys_turn_and_a_whole_turn_ends_where_it_began(open_report):
    page = open_report()
    stage = page.get_by_role("slider", name=re.compile("^Angle of view"))
    stage.focus()
    before = pixels(page, f"{TURNED}0")
    page.keyboard.press("ArrowRight")
    assert stage.get_attribute("aria-valuenow") == "5"
    assert (pixels(page, f"{TURNED}0") != before).any()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert stage.get_attribute("aria-valuetext") == "355 degrees"
    page.keyboard.press("ArrowRight")
    np.testing.assert_array_equal(pixels(page, f"{TURNED}0"), before)


def test_nothing_moves_until_it_is_asked_to(open_report):
    page = open_report()
    stage = page.get_by_role("slider", name=re.compile("^Angle of view"))
    page.wait_for_timeout(300)
    assert stage.get_attribute("aria-valuenow") == "0"
    page.get_by_role("button", name="Turn slowly").click()
    page.wait_for_selector(".turned:not([aria-valuenow='0'])")
    page.get_by_role("button", name="Stop").click()
    stopped = stage.get_attribute("aria-valuenow")
    page.wait_for_timeout(300)
    assert stage.get_attribute("aria-valuenow") == stopped


def luminance(color):
    """Relative luminance of WCAG 2."""
    parts = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page(open_report, scheme):
    page = open_report(color_scheme=scheme)
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.9) == (scheme == "light")
    for selector, kind in {"p": "color", "figcaption": "color", "nav a": "color", "svg text": "fill", ".note": "color",
                           ".bar": "color", "td": "color"}.items():  # fmt: skip
        color = page.eval_on_selector(selector, f"(node) => getComputedStyle(node).{kind}")
        light, dark = sorted([paper, luminance(color)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, color)  # WCAG 2, level AA


@pytest.mark.parametrize("width", [360, 700, 1400])
def test_the_page_fits_any_window(open_report, width):
    page = open_report(viewport={"width": width, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for selector in (".stage", ".turned", ".controls", "pre", "h1"):
        box = page.locator(selector).first.bounding_box()
        if box:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_a_finger_moves_the_divider(open_report):
    page = open_report(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator(XY).scroll_into_view_if_needed()
    box = page.locator(XY).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 4
    session = page.context.new_cdp_session(page)
    for kind, place in [
        ("touchStart", x),
        ("touchMove", x + 20),
        ("touchMove", x + 0.25 * box["width"]),
        ("touchEnd", None),
    ]:
        points = [] if place is None else [{"x": place, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    divider = page.get_by_role("slider", name="Divider between the left and the right image")
    assert divider.get_attribute("aria-valuenow") == "75"


def test_everything_that_can_be_done_has_a_name_and_is_reached_by_the_keyboard(open_report):
    page = open_report()
    names = page.eval_on_selector_all(
        "input, select, button, summary, [role=slider]",
        """(nodes) => nodes.map((node) => [node.tabIndex,
            node.getAttribute("aria-label") || (node.labels && node.labels[0] || node).textContent.trim()])""",
    )
    assert len(names) == 3 + 5 + 2 + 1 + 2
    assert all(index == 0 and name for index, name in names)


def test_copying_takes_the_words_alone(open_report):
    page = open_report(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"A paragraph.\n\n{'A_word_without_end_' * 10}"


def test_paper_is_white_and_has_what_is_folded_but_no_controls(open_report):
    page = open_report(color_scheme="dark")
    page.evaluate("addEventListener('beforeprint', () => { window.wasOpen = document.querySelector('details').open; })")
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert page.evaluate("window.wasOpen") is True
    assert page.locator("details").get_attribute("open") is None  # folded again
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("nav", ".controls", "button"):
        assert not page.locator(selector).first.is_visible()
    assert "Left raw, right restored. z: plane 4 of 6" in page.locator(".state").inner_text()
