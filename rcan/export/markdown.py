"""Markdown: tables, text of others, and the YAML at the head of a model card."""

import json
import math
import re

from rcan.failures import as_one_line

__all__ = ["as_text", "front_matter", "table"]

_SPECIAL = re.compile(
    r"""([\\`*<\[|~]
    |(?<![^\W_])_|_(?![^\W_])  # at the edge of a word; inside one it is no sign of Markdown
    |&(?=\#?\w+;)  # a name of a character
    |^>|^[-+\#](?=[-\#\s]|$)|((?<=^\d)|(?<=^\d\d))[.)](?=\s|$)  # of a quotation, a list, a line or a heading
    |\#$)""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9.+-]*")  # text that YAML needs no quotes for
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}  # of YAML, which are no text


def as_text(text):
    r"""Show text of others, such as the name of a file, as it is: in one line, and none of it as Markdown or HTML.

    >>> as_text("a*b|c")
    'a\\*b\\|c'
    """
    return _SPECIAL.sub(r"\\\1", _as_line(text).strip())


def _as_line(text):
    """A line of characters that a file can hold: bytes in names that are no Unicode become escapes."""
    return as_one_line(str(text).encode(errors="backslashreplace").decode())


def table(header, rows):
    """A table with a row of titles; cells that are None stay empty.

    >>> print(table(["a", "b"], [["x", 1.5]]))
    | a | b |
    |---|---|
    | x | 1.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    shown = [["" if cell is None else as_text(cell) for cell in line] for line in lines]
    shown = [f"| {' | '.join(cells)} |" for cells in shown]
    shown[1] = f"|{'---|' * len(header)}"
    return "\n".join(shown)


def front_matter(values):
    """The head of a model card: a dictionary of text, finite numbers, lists and dictionaries as YAML.

    >>> print(front_matter({"license": "mit", "tags": ["a b"], "model-index": [{"name": "x", "results": [{"v": 1}]}]}))
    ---
    license: mit
    tags:
    - "a b"
    model-index:
    - name: x
      results:
      - v: 1
    ---
    """
    return "\n".join(["---", *_lines_of(values), "---"])


def _lines_of(value):
    """Lines of YAML of a dictionary or list that holds something."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list)):
                indent = "  " * isinstance(item, dict)
                yield f"{key}:"
                yield from (f"{indent}{line}" for line in _lines_of(item))
            else:
                yield f"{key}: {_scalar(item)}"
        return
    for item in value:
        first, *others = _lines_of(item) if isinstance(item, (dict, list)) else [_scalar(item)]
        yield f"- {first}"
        yield from (f"  {line}" for line in others)


def _scalar(value):
    if isinstance(value, str):
        text = _as_line(value)
        is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
        return text if is_plain else json.dumps(text, ensure_ascii=False)
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.10f}".rstrip("0") + "0" * value.is_integer()  # never 1e-05, which YAML takes for text
    return json.dumps(value)
