"""One self-contained HTML file, section by section.

Style sheet, script, charts and images are written into the file; its Content-Security-Policy forbids every
connection, and every script but the one that stands beside this module. All text is escaped.
"""

import base64
import hashlib
import html
import json
import math
import re
from datetime import datetime
from numbers import Integral, Number
from pathlib import Path

from rcan import __version__
from rcan.atomic_io import atomic_file
from rcan.report.svg import draw_svg
from rcan.report.viewer import turn_volumes, view_volumes

__all__ = ["Page"]


class Page:
    """A report that grows from top to bottom, with a title and a subtitle.

    >>> page = Page("Training", "sample")
    >>> page.section("Scores")
    >>> page.table(["volume", "PSNR (dB)"], [["a.tif", 23.456]])
    >>> page.write(tmp_path / "report.html")  # doctest: +SKIP
    """

    def __init__(self, title, subtitle=""):
        self._title, self._subtitle = title, subtitle
        self._sections = []  # (title, list of HTML)
        self._num_figures, self._num_tables = 0, 0

    def section(self, title):
        """Start a section, which the navigation lists."""
        self._sections.append((title, []))

    def text(self, *paragraphs, copy=False):
        """Add paragraphs of plain text, framed and with a button that copies them where `copy`; dois become links."""
        inside = "".join(f"<p>{_linked(paragraph)}</p>" for paragraph in paragraphs)
        self._add(f'<div class="copied">{inside}</div>' if copy else inside)

    def table(self, header, rows, *, caption="", bold=()):
        """Add a table of text, numbers and None, with cells in bold by row and column.

        Floats are shown with four digits, NaN and None as a dash. Columns of numbers are aligned to the right.
        """
        numeric = [bool(rows) and all(_stands_right(row[i]) for row in rows) for i in range(len(header))]
        heads = "".join(
            f'<th scope="col"{_number_class(is_number)}>{html.escape(str(name))}</th>'
            for name, is_number in zip(header, numeric, strict=True)
        )
        lines = []
        for number, row in enumerate(rows):
            cells = [
                f"<td{_number_class(is_number)}>{_cell(cell, (number, i) in bold)}</td>"
                for i, (cell, is_number) in enumerate(zip(row, numeric, strict=True))
            ]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        self._num_tables += 1
        label = f' aria-labelledby="t{self._num_tables}"' if caption else ""
        title = f'<p class="caption" id="t{self._num_tables}">{_linked(caption)}</p>' if caption else ""
        self._add(
            f'{title}<div class="wide" tabindex="0"><table{label}><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )

    def figure(self, figure, *, caption="", alt=""):
        """Add a Matplotlib figure. What it draws in black follows the colour of the text, white that of the page.

        `alt` says what the chart shows, for those who cannot see it; the caption where not given.
        """
        self._num_figures += 1
        svg = draw_svg(figure, prefix=f"f{self._num_figures}", alt=alt or caption)
        self._add_figure(f'<div class="wide">{svg}</div>', caption)

    def picture(self, png, *, caption="", alt=""):
        """Add a PNG file, given as bytes."""
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        image = f'<img src="{source}" alt="{html.escape(alt or caption)}" style="--width: 44rem">'
        self._add_figure(f'<div class="wide">{image}</div>', caption)

    def viewer(self, images, *, voxel_size, caption="", error=None):
        """Add volumes to look through: XY, XZ and YZ, with one image left and another right of a divider.

        The images (Z, Y, X, C) or (Y, X, C), by name, have background 0 and signal 1. A part of bounded size is shown,
        that with the most signal, voxel by voxel; the page says which. Of several channels the first is shown. The
        first image begins left of the divider, and right of it ``"restored"``, or the second. The voxel size is that
        of `rcan.figures.projections.draw_projections`. `error` is one more image, 0 or more, in colours with a colour
        bar.
        """
        self._add_widget("viewer", view_volumes(images, voxel_size=voxel_size, error=error), caption)

    def rotation(self, images, *, voxel_size, caption=""):
        """Add maximum projections of volumes from all sides, which turn together when one is dragged.

        `images` (Z, Y, X, C) are given by name, background 0 and signal 1; the first channel is shown.
        """
        self._add_widget("rotation", turn_volumes(images, voxel_size=voxel_size), caption)

    def details(self, title, text):
        """Add preformatted text that is folded up."""
        self._add(
            f'<details><summary>{html.escape(title)}</summary><pre tabindex="0">{html.escape(text)}</pre></details>'
        )

    def write(self, path):
        """Write the page, an HTML file that appears whole or not at all."""
        with atomic_file(path) as partial:
            partial.write_text(self._render(), encoding="utf-8")

    def _add(self, fragment):
        if not self._sections:
            self.section("Overview")
        self._sections[-1][1].append(fragment)

    def _add_figure(self, inside, caption):
        below = f"<figcaption>{_linked(caption)}</figcaption>" if caption else ""
        self._add(f"<figure>{inside}{below}</figure>")

    def _add_widget(self, kind, data, caption):
        """What page.js makes of `data`; a page without scripts says so."""
        inside = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # "</script>" in a name ends nothing
        self._add_figure(
            f'<div class="{kind}"><script type="application/json">{inside}</script>'
            "<noscript>This picture needs JavaScript.</noscript></div>",
            caption,
        )

    def _render(self):
        style, script = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )
        title = html.escape(self._title)
        subtitle = f'<p class="subtitle">{html.escape(self._subtitle)}</p>' if self._subtitle else ""
        links = "".join(
            f'<li><a href="#s{number}">{html.escape(name)}</a></li>'
            for number, (name, _) in enumerate(self._sections, 1)
        )
        sections = "\n".join(
            f'<section id="s{number}"><h2>{html.escape(name)}</h2>{"".join(parts)}</section>'
            for number, (name, parts) in enumerate(self._sections, 1)
        )
        made = f"Written by rcan {__version__} on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
            f"<header><h1>{title}</h1>{subtitle}</header>\n"
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{sections}\n</main>\n'
            f"<footer>{made}</footer>\n<script>{script}</script>\n</body>\n</html>\n"
        )


def _linked(text):
    """Escaped text with links to the papers."""
    doi = r'doi:(10\.\d{4,}/[^\s<>"]*[^\s<>".,;:)])'
    return re.sub(doi, r'<a href="https://doi.org/\1" rel="noreferrer">doi:\1</a>', html.escape(text))


def _is_number(cell):
    return isinstance(cell, Number) and not isinstance(cell, bool)


def _stands_right(cell):
    """Whether a cell is a number, or nothing, or a number that was written out: +1.2, 3 %."""
    return cell is None or _is_number(cell) or bool(re.fullmatch(r"([+−-]?[\d.,]+( %)?)?", cell))


def _number_class(is_number):
    return ' class="number"' if is_number else ""


def _cell(cell, is_bold):
    if cell is None or (_is_number(cell) and math.isnan(cell)):
        text = "–"
    elif _is_number(cell):
        text = f"{cell}" if isinstance(cell, Integral) else f"{cell:.4g}"
    else:
        text = html.escape(str(cell))
    return f"<strong>{text}</strong>" if is_bold else text
