"""The pages of the site: links, tables that are tested against the code, and the site that is built of them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from documents import DOCS, PAGES, ROOT, list_anchors, list_blocks, list_links

import rcan
from rcan.__main__ import COMMANDS
from rcan.config import RECIPES, Config
from rcan.options import list_flags
from rcan.run_folder.record import TrainingRecord

# Marks of blocks that have tests of their own, or are run by .ci/run.
MARKS = {"set-up", "tests", "slurm", "dask", "export", "python-example"}
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", (DOCS / "reference/config.md").read_text("utf-8"), re.MULTILINE)


def first_column(page, heading):
    """Words in code in the first column of the table below a heading."""
    text = (DOCS / page).read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


# Links and blocks


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page):
    for target in list_links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in list_anchors(path), target


def test_each_picture_is_on_a_page():
    shown = {(page.parent / target).resolve() for page in PAGES for target in list_links(page)}
    pictures = {path for path in DOCS.iterdir() if path.suffix in (".png", ".svg")}
    assert pictures <= shown


def test_each_block_is_run_or_says_why_not():
    blocks = [block for page in PAGES for block in list_blocks(page)]
    skipped = [block for block in blocks if block.mark.startswith("not run: ")]
    assert all(len(block.mark) > 20 for block in skipped)
    assert len(skipped) <= 10
    own = {block.mark for block in blocks if block.mark and block not in skipped}
    elsewhere = {mark for mark in own if mark.startswith("run by ")}
    assert all((ROOT / mark.removeprefix("run by ")).is_file() for mark in elsewhere)
    assert all(mark in MARKS or mark.startswith("load-") for mark in own - elsewhere)
    assert {block.language for block in blocks} <= {"sh", "python", "json", ""}


# Tables


def test_options_table_lists_every_key_once():
    assert sorted(key for key, _, _ in ROWS) == sorted(Config.model_fields)


@pytest.mark.parametrize(("key", "shown"), [row[:2] for row in ROWS])
def test_options_table_gives_the_default(key, shown):
    default, _, published = shown.partition(", published ")
    for recipe, text in (("default", default), ("published", published or default)):
        expected = json.loads(json.dumps(RECIPES[recipe].get(key, Config.model_fields[key].default)))
        assert (None if text == "none" else json.loads(text.strip("`"))) == expected


def test_the_page_on_python_has_every_public_name():
    names = re.findall(r"^::: rcan\.(\w+)$", (DOCS / "reference/python.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(names) == sorted({*rcan.__all__} - {"__version__"})


def test_the_page_on_files_has_every_key_of_the_record():
    assert sorted(first_column("reference/files.md", "training.json")) == sorted(TrainingRecord.model_fields)


def test_the_page_on_the_data_check_has_every_topic():
    text = (DOCS / "data_check.md").read_text("utf-8")
    from rcan.data.findings import _JUDGES

    assert all(topic in text for topic in _JUDGES)


# What is built


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it; a warning would be an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    folder = tmp_path_factory.mktemp("site")
    (command,) = re.findall(r"^docs:\n\tpython (.+) --site-dir site$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, *command.split(), "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_page_is_built_of_each_file(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_the_notebooks_can_be_downloaded_from_their_page(site):
    page = site / "guides/notebooks.html"
    targets = re.findall(r'href="([^"]+\.ipynb)"', page.read_text("utf-8"))
    written = [(page.parent / target).resolve().read_bytes() for target in targets]
    assert written == [path.read_bytes() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe|link)[^>]*?(?:src|href)=\"?(https?:[^\" >]+)", page.read_text("utf-8")
        )
        assert loaded == []


def test_every_flag_of_every_command_is_on_the_page_of_flags(site):
    text = (site / "reference/flags.html").read_text("utf-8")
    for name in COMMANDS:
        section = text.partition(f'<h2 id="rcan-{name}">')[2].partition("<h2 ")[0]
        main = importlib.import_module(f"rcan.commands.{name}").main
        (options,) = [value for value in main.args[0].__annotations__.values()]
        for flag in list_flags(options):
            assert flag.name == "overrides" or f"<code>{(flag.names or [flag.placeholder])[-1]}</code>" in section


def test_docstrings_are_on_the_page_of_python(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference/python.html").read_text("utf-8"))
    for name in {*rcan.__all__} - {"__version__"}:
        first = getattr(rcan, name).__doc__.split("\n\n")[0]
        assert " ".join(first.split())[:40] in " ".join(text.split()), name


def test_the_search_works_in_a_site_that_is_opened_from_the_disk(site):
    playwright = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as starter:
        page = starter.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.goto((site / "index.html").as_uri())
        page.click("input.md-search__input")
        page.keyboard.type("despike", delay=50)
        page.wait_for_selector(".md-search-result__link")
        found = [link.get_attribute("href") for link in page.locator(".md-search-result__link").all()]
        assert any("trained_range.html" in target and target.endswith("#hot-pixels") for target in found)
