"""Options that users set: declared once, checked together, described for the command line.

A class of options carries type, default, range and help text of each field. The flags of a command, its help page and
the checks all come from that class. Values read from a file pass the same checks.
"""

import difflib
import json
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Flag", "Settings", "list_flags", "nearest", "option"]

_LONGEST_VALUE = 200  # letters of a wrong value that a message shows
_RULES = {  # in a user's words, by the type of pydantic's finding
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list, [...]",
    "model_type": "must be an object with raw and gt",
    "path_type": "must be text",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length} values",
    "tuple_type": "must be a list, [...]",
}
_PLACEHOLDERS = {"boolean": "true|false", "integer": "N", "number": "X", "path": "PATH", "string": "TEXT"}


class Settings(BaseModel):
    """Base of all that a user can set: checked as a whole, never changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def checked(cls, values, *, label=str):
        """Build the settings from a dictionary of plain values: numbers, text, paths, lists, tuples, dictionaries.

        Numbers and arrays may be NumPy's. A ValueError has one line for each wrong value, with key, value and rule.
        `label` turns a key into what the line says of it, such as ``"config.json: epochs"``, and ``""`` into the
        beginning of a line about several keys.
        """
        try:
            return cls._validate(values)
        except ValidationError as failure:
            problems = failure.errors()
        explained = {problem["loc"][:-1] for problem in problems} - {()}  # lists with a wrong item
        lines = [cls._describe(problem, label) for problem in problems if problem["loc"] not in explained]
        raise ValueError("\n".join(lines))

    @classmethod
    def _validate(cls, values):
        text = json.dumps(values, default=_plain, ensure_ascii=False)
        try:
            return cls.model_validate_json(text.encode())
        except UnicodeEncodeError:  # of the name of a file that is no Unicode: pydantic's JSON knows no such names
            return cls.model_validate(json.loads(text), strict=False)

    @classmethod
    def _describe(cls, problem, label):
        """Put one of pydantic's findings into words."""
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if not problem["loc"]:
            return label("") + rule
        first, *inner = problem["loc"]
        key = ".".join(map(str, (label(first), *inner)))
        if problem["type"] == "missing" and inner and isinstance(inner[-1], int):
            return f"{key.rpartition('.')[0]} has too few values: number {inner[-1] + 1} is missing."
        if problem["type"] == "missing":
            meaning = None if inner else cls.model_fields[first].description
            return f"{key} is missing{f' ({meaning})' if meaning else ''}."
        if problem["type"] == "extra_forbidden":
            known = ["raw", "gt"] if inner else cls.model_fields
            return f"{key} is not a known key.{nearest(problem['loc'][-1], known)}"
        if problem["type"] in _RULES:
            rule = _RULES[problem["type"]].format(**problem.get("ctx", {}))
        value = json.dumps(problem["input"], default=str)
        shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
        return f"{key} is {shown}: {rule}."


def _plain(value):
    """Numbers and arrays of NumPy as those of Python; what else JSON does not know, as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def option(default, description, *, letter=None, positional=False, **limits):
    """Declare an option of a `Settings` class; the default ``...`` stands for a value that the user must give.

    On the command line it has a flag of its name and perhaps one of a single letter, or no flag at all (positional).
    `limits` are those of `pydantic.Field`.
    """
    flag = {"letter": letter, "positional": positional}
    return Field(default, description=description, json_schema_extra=flag, **limits)


class Flag(NamedTuple):
    """An option as a user types it."""

    name: str
    names: list  # on the command line, such as ["-o", "--output_dir"]; none where a word alone is the value
    placeholder: str  # of the value in the help page, such as "N", "X,…" and "OUTPUT"
    description: str  # with the default value
    is_required: bool
    kind: str  # JSON type of the value, or of each value of a list
    is_list: bool

    def read(self, text):
        """Turn what a user has typed into what `Settings.checked` takes."""
        if self.is_list and not text.startswith(("[", "{")):
            return [_read_value(part, self.kind) for part in text.split(",")]
        return _read_value(text, "array" if self.is_list else self.kind)


def _read_value(text, kind):
    if kind == "string":
        return text
    try:
        return json.loads(text.lower() if kind == "boolean" else text)
    except json.JSONDecodeError:
        return text


def list_flags(model):
    """Flags of all options of a `Settings` class; those that it inherits come last."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    fields = sorted(schema["properties"].items(), key=lambda item: item[0] not in model.__annotations__)
    return [_make_flag(name, field, name in required) for name, field in fields]


def _make_flag(name, schema, is_required):
    value = next(part for part in schema.get("anyOf", [schema]) if part.get("type") != "null")
    is_list = value.get("type") == "array"
    if is_list:
        value = value["prefixItems"][0] if "prefixItems" in value else value["items"]
    kind = value.get("type", "object")
    placeholder = _PLACEHOLDERS.get(value.get("format", kind), "JSON")
    if "enum" in value:
        placeholder = "|".join(map(str, value["enum"]))
    if is_list and placeholder != "JSON":
        placeholder += ",…"
    description, default = schema["description"], schema.get("default")
    if default not in (None, []) and default is not False:
        shown = ",".join(map(str, default)) if isinstance(default, list) else default
        description += f" (default: {'true' if shown is True else shown})"
    names = [f"-{schema['letter']}"] * bool(schema["letter"]) + [f"--{name}"]
    return Flag(
        name,
        names=[] if schema["positional"] else names,
        placeholder=name.upper() if schema["positional"] else placeholder,
        description=description,
        is_required=is_required,
        kind=kind,
        is_list=is_list,
    )


def nearest(word, known):
    """Suggest what `word` may have been meant as: a sentence, or nothing.

    Examples
    --------
    >>> nearest("epoch", ["epochs", "seed"])
    ' Did you mean epochs?'
    """
    word, known = str(word), list(known)
    close = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {' or '.join(close)}?" if close else ""
