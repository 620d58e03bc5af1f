"""From a command line to one checked call.

A command is a function of its options, and the options are a class whose fields carry type, default,
range and help text, each once. From that class come the flags, the help page and the checks, so that
every wrong flag and value is refused before any work starts. Values read from a file pass the same
checks.

Whatever goes wrong ends in a line on standard error and an exit status: 1, or 2 for wrong usage, 130 after
Ctrl-C, 143 after SIGTERM. `--debug` shows the traceback besides.
"""

import argparse
import json
import os
import signal
import sys
import threading
import traceback
import types
import typing
import warnings
from contextlib import contextmanager
from pathlib import Path

from rcan.failures import Terminated, UsageError, describe_failure
from rcan.options import nearest

__all__ = ["run_command"]


def run_command(call, argv=None, *, prog, overrides=None):
    """Check a command line, make the call, and turn every failure into a line and an exit status.

    Parameters
    ----------
    call : callable
        The command: its one parameter is annotated with a `Settings` class, its docstring begins with
        the sentence of the help page.
    argv : list of str, optional
        Arguments after the command's name; those of the process where not given.
    prog : str
        Name of the command in the help page.
    overrides : type, optional
        A second `Settings` class whose keys are flags too. What is given of them reaches the call as the
        dictionary `options.overrides`.

    Returns
    -------
    status : int
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _plain_warnings(), _sigterm_as_exception():
            call(_parse(call, [arg for arg in argv if arg != "--debug"], prog, overrides))
        return 0
    except (Exception, KeyboardInterrupt) as failure:
        if "--debug" in argv:
            traceback.print_exc()
        is_usage = isinstance(failure, UsageError)
        message = describe_failure(failure) + (f" ({prog} --help lists all flags.)" if is_usage else "")
        for line in message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        if isinstance(failure, KeyboardInterrupt) and _is_computing():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(
                _status_of(failure)
            )  # a tile that is being computed cannot be stopped, and nobody waits for it
        return _status_of(failure)


def _status_of(failure):
    kinds = {Terminated: 143, KeyboardInterrupt: 130, UsageError: 2}
    return next((status for kind, status in kinds.items() if isinstance(failure, kind)), 1)


def _is_computing():
    """Whether threads of this process still compute tiles; without importing what computes them."""
    tiled = sys.modules.get("rcan.restoration.tiled")
    return tiled is not None and tiled.is_computing()


@contextmanager
def _sigterm_as_exception():
    """Let SIGTERM end the command as Ctrl-C does: files that are not whole are removed on the way."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        yield
        return

    def terminate(*_):
        raise Terminated("terminated.")

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def _plain_warnings():
    """Show warnings meant for users as one line each; libraries' warnings for developers are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # some are UserWarnings besides
        warnings.filterwarnings("ignore", module="keras|tensorflow")
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        yield


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{message}.")


def _parse(call, argv, prog, overrides):
    """Turn arguments into the checked options of the call."""
    model = typing.get_type_hints(call)["options"]
    required = [_synopsis(name, field) for name, field in model.model_fields.items() if field.is_required()]
    usage = [prog, *required, "[flags]"]
    parser = _Parser(
        prog=prog,
        usage=" ".join(usage),
        description=call.__doc__.split("\n\n")[0],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown = {name: field for name, field in model.model_fields.items() if name != "overrides"}
    _add_flags(parser, shown)
    if overrides:
        _add_flags(parser.add_argument_group("keys of the config file"), overrides.model_fields)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = [_with_underscores(arg) for arg in argv]
    if any(field.json_schema_extra["positional"] for field in shown.values()):
        args = _with_values(args, {f"--{name}" for name, field in shown.items() if field.annotation is bool})
    given, unknown = parser.parse_known_args(args)
    if unknown:
        known = [f"--{name}" for name in (*shown, *(overrides.model_fields if overrides else ()))]
        if not unknown[0].startswith("-"):
            raise UsageError(f"{unknown[0]} belongs to no flag; the usage is {' '.join(usage)}.")
        raise UsageError(f"{unknown[0]} is not a known flag.{nearest(unknown[0].split('=')[0], known)}")
    empty = [name for name, text in vars(given).items() if not text]
    if empty:
        raise UsageError(f"--{empty[0]} is empty: give it a value, or leave it out.")
    fields = {**(overrides.model_fields if overrides else {}), **shown}
    values = {name: _to_json(fields[name].annotation, text) for name, text in vars(given).items()}
    if overrides:
        values["overrides"] = {name: values.pop(name) for name in [*values] if name not in shown}
    return model.checked(values, shown=lambda name: name and f"--{name}")


def _with_underscores(arg):
    """`--model-dir=a-b` means `--model_dir=a-b`."""
    name, equals, value = arg.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if arg.startswith("--") else arg


def _with_values(args, switches):
    """`--compress OUT` means `--compress=true OUT`: a switch takes no other word than true or false."""
    following = [*args, ""][1:]
    return [
        f"{arg}=true" if arg in switches and after.lower() not in ("true", "false") else arg
        for arg, after in zip(args, following, strict=True)
    ]


def _add_flags(parser, fields):
    for name, field in fields.items():
        extra = field.json_schema_extra
        flags = [f"-{extra['letter']}"] * bool(extra["letter"]) + [f"--{name}"]
        metavar = name if extra["positional"] else _metavar(field.annotation)
        text = field.description.replace("%", "%%")
        if not (field.is_required() or field.default in (None, []) or field.default is False):
            text += f" (default: {_shown(field.default)})"
        if extra["positional"]:
            parser.add_argument(name, metavar=name.upper(), help=text)
        elif field.annotation is bool:
            parser.add_argument(*flags, nargs="?", const="true", metavar="true|false", help=text)
        else:
            parser.add_argument(*flags, metavar=metavar, help=text)


def _synopsis(name, field):
    letter = field.json_schema_extra["letter"]
    return (
        name.upper() if field.json_schema_extra["positional"] else f"-{letter} {_metavar(field.annotation)}"
    )


def _shown(default):
    if isinstance(default, (tuple, list)):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else default


def _kinds(annotation):
    """All plain types and literal values that occur in an annotation."""
    parts = typing.get_args(annotation)
    return {kind for part in parts for kind in _kinds(part)} if parts else {annotation}


def _metavar(annotation):
    kinds = _kinds(annotation) - {types.NoneType, ...}
    if Path in kinds:
        return "PATH"
    if not any(isinstance(kind, type) for kind in kinds):
        return "|".join(str(kind) for kind in sorted(kinds)) + ",…" * _is_sequence(annotation)
    kind = {int: "N", float: "X", str: "TEXT"}.get(min(kinds, key=str), "JSON")
    return f"{kind},…" if _is_sequence(annotation) and kind != "JSON" else kind


def _is_sequence(annotation):
    return typing.get_origin(annotation) in (tuple, list) or any(
        _is_sequence(part) for part in typing.get_args(annotation)
    )


def _to_json(annotation, text):
    """Read the text of a flag as the JSON value that its type expects; text stays text."""
    kinds = _kinds(annotation)
    if _is_sequence(annotation) and not text.startswith("["):
        return [_to_json(next(iter(kinds & {int, float, str} or {str})), part) for part in text.split(",")]
    if not _is_sequence(annotation) and any(kind in (str, Path) or isinstance(kind, str) for kind in kinds):
        return text
    try:
        return json.loads(text.lower() if bool in kinds else text)
    except json.JSONDecodeError:
        return text
