"""Results as a notebook shows them: tables and reports as HTML, and a text that is replaced by the next one."""

import html
import os
import sys
from numbers import Real
from pathlib import Path

__all__ = ["InlineText", "ReportFile", "as_table", "in_notebook"]

_HEIGHT = 640  # pixels of a report


class ReportFile(os.PathLike):
    """A report, an HTML file: a notebook shows it inline; it can be used wherever a path can.

    Parameters
    ----------
    path : path
        A ``report.html`` of a training, an evaluation, a study of limits or a check of data.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> rcan.ReportFile("runs/sample/report.html")  # doctest: +SKIP
    """

    def __init__(self, path):
        self._path = Path(path)
        if not self._path.is_file():
            raise FileNotFoundError(f"{path} does not exist: name a report.html that was written.")

    def __fspath__(self):
        return str(self._path)

    def __repr__(self):
        return f"Report: {self._path}"

    def _repr_html_(self):
        # The page is written into the frame: notebook servers, Colab and editors do not all serve files beside it.
        page = html.escape(self._path.read_text(encoding="utf-8"), quote=True)
        return (
            f"<p>Report: <code>{html.escape(str(self._path))}</code> (a file that any browser opens)</p>"
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width: 100%; height: {_HEIGHT}px; border: 0">'
            "</iframe>"
        )


def as_table(header, rows, *, caption=""):
    """A table of text and numbers as HTML; numbers have at most four digits.

    >>> as_table(["volume", "PSNR (dB)"], [["a<b", 23.456]])
    '<table><thead><tr><th>volume</th><th>PSNR (dB)</th></tr></thead><tbody><tr><td>a&lt;b</td><td>23.46</td></tr></tbody></table>'
    """  # noqa: E501
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{_as_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _as_text(cell):
    return f"{cell:.4g}" if isinstance(cell, Real) else html.escape(str(cell))


def in_notebook():
    """Whether this process is the kernel of a notebook."""
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")


class InlineText:
    """A text below the cell of a notebook, which `show` replaces."""

    def __init__(self):
        self._text, self._handle = "", None

    def show(self, text):
        """Show a text in the place of the earlier one."""
        from IPython.display import display

        self._text = text
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)

    def __repr__(self):
        return self._text

    def _repr_html_(self):
        return f'<pre style="margin: 0">{html.escape(self._text)}</pre>'
