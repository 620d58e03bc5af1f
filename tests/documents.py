"""README.md and the pages of the site, taken apart: blocks of code, links, headings."""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCS", "PAGES", "ROOT", "Block", "block_of", "list_anchors", "list_blocks", "list_links"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of code: its page, the mark in the comment before it, if any, its language and lines."""

    page: Path
    mark: str
    language: str
    code: str


def list_blocks(page):
    """All blocks of code of a page, in their order."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [Block(page, match["mark"] or "", match["language"], match["code"]) for match in found]


def block_of(mark):
    """The lines of the one block that has a mark."""
    (block,) = [block for page in PAGES for block in list_blocks(page) if block.mark == mark]
    return block.code


def _prose(page):
    """The text of a page without blocks of code."""
    return _BLOCK.sub("", page.read_text("utf-8"))


def list_links(page):
    """Targets of the links and pictures of a page that do not lead to another server."""
    targets = _LINK.findall(_prose(page))
    return [target for target in targets if not re.match(r"\w+:", target)]


def list_anchors(page):
    """What a link to a part of a page can name: its headings, as GitHub and Python-Markdown spell them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    if page == DOCS / "reference" / "flags.md":
        from rcan.__main__ import COMMANDS

        headings += [f"rcan {name}" for name in COMMANDS]  # written by docs/hooks.py
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}
