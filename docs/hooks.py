"""What the pages of the site take from the code while it is built: flags of all commands, homes of public names.

`<!-- flags -->` becomes the flags of each command, `<!-- keys -->` the keys of a config file, and `::: rcan.NAME` the
docstring of a public name, wherever it is defined. The notebooks become files of the site.
"""

import importlib
import re
import typing
from pathlib import Path

from mkdocs.structure.files import File

import rcan
from rcan.__main__ import COMMANDS
from rcan.config import Config
from rcan.options import list_flags

__all__ = ["describe_commands", "describe_keys", "on_files", "on_page_markdown"]

_PUBLIC_NAME = re.compile(r"^::: rcan\.(\w+)$", re.MULTILINE)
_LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def on_files(files, config):
    """Add the notebooks, which lie beside the folder of the pages; MkDocs calls this with the files of the site."""
    for path in sorted(Path(config.docs_dir).parent.glob("notebooks/*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    """Fill in what comes from the code; MkDocs calls this for each page."""
    markdown = markdown.replace("](../../notebooks/", "](../notebooks/")
    for mark, describe in (("<!-- flags -->", describe_commands), ("<!-- keys -->", describe_keys)):
        if mark in markdown:
            markdown = markdown.replace(mark, describe())
    return _PUBLIC_NAME.sub(lambda match: _docstring_of(match[1]), markdown)


def describe_commands():
    """Markdown with a section for each command: its purpose, usage and flags."""
    return "\n\n".join(_describe_command(name) for name in COMMANDS)


def describe_keys():
    """Markdown table of all keys of a config file, with type, range, default and short meaning."""
    return _table(Config)


def _describe_command(name):
    main = importlib.import_module(f"rcan.commands.{name}").main
    (call,) = main.args
    options = typing.get_type_hints(call)["options"]
    flags = _visible(options)
    required = [" ".join([*flag.names[:1], flag.placeholder]) for flag in flags if flag.is_required]
    parts = [f"## rcan {name}", _purpose(call), f"`{' '.join(['rcan', name, *required])} [flags]`"]
    if flags:
        parts.append(_table(options))
    if main.keywords.get("overrides"):
        parts.append("Each [key of a config file](#keys-of-a-config-file) is a flag, too.")
    return "\n\n".join(parts)


def _purpose(call):
    """The docstring of a command, each paragraph in a line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in call.__doc__.split("\n\n"))


def _visible(options):
    return [flag for flag in list_flags(options) if flag.name != "overrides"]


def _table(options):
    schema = options.model_json_schema()["properties"]
    rows = [_row(flag, schema[flag.name]) for flag in _visible(options)]
    return "\n".join(["| flag | value | meaning |", "|---|---|---|", *rows])


def _row(flag, schema):
    names = ", ".join(f"`{name}`" for name in flag.names) or f"`{flag.placeholder}`"
    value = f"`{flag.placeholder}`" if flag.names else ""
    if limits := _limits(schema):
        value += f" ({limits})"
    meaning = re.sub(r"([|*])", r"\\\1", flag.description) + " (required)" * flag.is_required
    return f"| {names} | {value} | {meaning} |"


def _limits(schema):
    """The range of a value, or of each value of a list, in signs: "≥ 0, ≤ 1"."""
    value = next((part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"), schema)
    if value.get("type") == "array":
        value = (value.get("prefixItems") or [value.get("items", {})])[0]
    return ", ".join(text.format(f"{value[key]:g}") for key, text in _LIMITS.items() if key in value)


def _docstring_of(name):
    return f"::: {rcan._PUBLIC[name]}.{name}\n    options:\n      heading: rcan.{name}\n      toc_label: {name}"
