"""Options that users set: declared once, checked as a whole.

A class of options carries type, default, range and help text of each field. From it come the flags of a command, its
help page and the checks, so that every wrong flag and value is refused before any work starts. Values read from a
file pass the same checks.
"""

import difflib
import json

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rcan.failures import UsageError

__all__ = ["Settings", "nearest", "option"]

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


class Settings(BaseModel):
    """Base of all that a user can set: checked as a whole, never changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @classmethod
    def checked(cls, values, *, shown=str):
        """Build the settings from JSON values, or report everything that is wrong with them at once.

        Parameters
        ----------
        values : dict
            As `json.load` gives them.
        shown : callable
            From a key to how messages show it, such as ``"--epochs"`` or ``"config.json: epochs"``; from
            ``""`` to what begins a message about several keys.

        Returns
        -------
        settings : instance of this class

        Raises
        ------
        ValueError
            With one line for each wrong value, naming key, value and rule; `UsageError` if one is a flag.
        """
        try:
            return cls._validate(values)
        except ValidationError as failure:
            problems = failure.errors()
        within = {problem["loc"][:-1] for problem in problems}  # a wrong item explains its list
        lines = [cls._describe(problem, shown) for problem in problems if problem["loc"] not in within - {()}]
        raise (UsageError if any(line.startswith("--") for line in lines) else ValueError)("\n".join(lines))

    @classmethod
    def _validate(cls, values):
        return cls.model_validate_json(json.dumps(values))

    @classmethod
    def _describe(cls, problem, shown):
        """Put one of pydantic's findings into words: key, value, rule, way out."""
        rule = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if not problem["loc"]:
            return shown("") + rule
        first, *inner = problem["loc"]
        key = ".".join(map(str, (shown(first), *inner)))
        if problem["type"] == "missing" and inner:
            return f"{key} is missing."
        if problem["type"] == "missing":
            return f"{key} is missing ({cls.model_fields[first].description})."
        if problem["type"] == "extra_forbidden":
            known = ["raw", "gt"] if inner else cls.model_fields
            return f"{key} is not a known key.{nearest(problem['loc'][-1], known)}"
        if problem["type"] in _RULES:
            rule = _RULES[problem["type"]].format(**problem.get("ctx", {}))
        return f"{key} is {json.dumps(problem['input'], default=str)}: {rule}."


def option(default, description, *, letter=None, positional=False, **limits):
    """Declare one setting: a pydantic field that also knows its flag.

    Parameters
    ----------
    default : object
        ``...`` where the user must give a value.
    description : str
        One line for the help page.
    letter : str, optional
        Single letter of the short flag.
    positional : bool
        Whether the command line takes it without a flag.
    **limits
        Ranges, as `pydantic.Field` takes them.
    """
    flag = {"letter": letter, "positional": positional}
    return Field(default, description=description, json_schema_extra=flag, **limits)


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
