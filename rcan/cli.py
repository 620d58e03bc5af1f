"""From a command line to one checked call.

A command is a function of its options, a `Settings` class. fire takes the command line apart, the class checks the
values, and only then does the command start. Whatever goes wrong ends in lines on standard error and an exit status:
1, or 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM. `--debug` shows the traceback, too.
"""

import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import traceback
import typing
import warnings
from contextlib import contextmanager

import fire
from fire.decorators import SetParseFn

from rcan.failures import Terminated, UsageError, as_one_line, describe_failure
from rcan.options import list_flags, nearest

__all__ = ["plain_warnings", "run_command"]

_FLAG = re.compile(r"(--[^=]*|-[A-Za-z])(.*)", re.DOTALL)  # and its value; as for fire, - and -1 are values
_CURSOR = re.compile(r"[\r\n]*(\x1b\[A)*")  # what moves a bar of progress
_MARGIN = 24  # columns left of the descriptions in a help page


def run_command(call, argv=None, *, prog, overrides=None):
    """Check a command line, make the call, and turn every failure into lines; return the exit status.

    The one parameter of the call, `options`, is annotated with a `Settings` class; its docstring begins with the
    sentence of the help page. The keys of a second class, `overrides`, are flags, too: those that are given reach the
    call, unchecked, as the dictionary `options.overrides`.
    """
    argv = sys.argv[1:] if argv is None else argv
    model = typing.get_type_hints(call)["options"]
    flags = [flag for flag in list_flags(model) if flag.name != "overrides"]
    keys = list_flags(overrides) if overrides else []
    required = [" ".join([*flag.names[:1], flag.placeholder]) for flag in flags if flag.is_required]
    usage = " ".join([prog, *required, "[flags]"])
    with _plain_streams():
        if {"-h", "--help"} & {*argv}:
            print(_help_page(usage, call.__doc__.split("\n\n")[0], flags, keys), flush=True)
            return 0
        try:
            with plain_warnings(), _sigterm_as_exception():
                values = _read_values(argv, [*flags, *keys], usage)
                if keys:
                    values["overrides"] = {key.name: values.pop(key.name) for key in keys if key.name in values}
                call(_check_values(model, values, flags))
            return 0
        except (Exception, KeyboardInterrupt) as failure:
            return _report(failure, prog, with_traceback="--debug" in argv)


# From arguments to options


def _read_values(argv, flags, usage):
    """Values of the options by name, as typed."""
    positional = [flag.name for flag in flags if not flag.names]
    texts = {}

    @SetParseFn(str)  # by itself fire reads 2021_01_02 as a number
    def collect(*words, **named):
        """Keep the texts of flags and of arguments without one."""
        if len(words) > len(positional):
            raise UsageError(f"{words[len(positional)]} belongs to no flag; the usage is {usage}.")
        texts.update(named, **dict(zip(positional, words, strict=False)))

    arguments = _spell_out([arg for arg in argv if arg not in ("--debug", "--")], flags)
    fire.Fire(collect, [*arguments, "--", "--separator", "\0"])  # fire's usual separator, "-", may be a path
    for name, text in texts.items():
        if not text:
            raise UsageError(f"--{name} is empty: give it a value, or leave it out.")
    return {flag.name: flag.read(texts[flag.name]) for flag in flags if flag.name in texts}


def _spell_out(argv, flags):
    """Write flags as `--name`, `--name=value` and `--switch=true`; refuse unknown ones and those without a value.

    By itself fire takes `-e` for `--epochs`, `--nothing` for `--thing=false`, and a missing value for true.
    """
    known = {typed: flag for flag in flags for typed in flag.names}
    takes_words = any(not flag.names for flag in flags)
    arguments = []
    for argument, following in zip(argv, [*argv, "--"][1:], strict=True):
        match = _FLAG.fullmatch(argument)
        if not match:
            arguments.append(argument)
            continue
        typed, value = match[1][:2] + match[1][2:].replace("-", "_"), match[2]
        if typed not in known:
            raise UsageError(f"{argument.split('=')[0]} is not a known flag.{nearest(typed, known)}")
        flag = known[typed]
        is_switch = flag.kind == "boolean"
        if not value:
            has_value = not _FLAG.fullmatch(following)
            if is_switch and takes_words:  # in `--compress OUT` the word is no value
                has_value = following.lower() in ("true", "false")
            if not has_value and not is_switch:
                raise UsageError(f"argument {'/'.join(flag.names)}: expected one argument.")
            value = "" if has_value else "=true"
        elif not value.startswith("="):  # -b16
            value = f"={value}"
        arguments.append(f"--{flag.name}{value}")
    return arguments


def _check_values(model, values, flags):
    labels = {flag.name: flag.names[-1] if flag.names else flag.placeholder for flag in flags}
    try:
        return model.checked(values, label=lambda name: labels.get(name, ""))
    except ValueError as failure:
        raise UsageError(str(failure)) from None


# Help


def _help_page(usage, purpose, flags, keys):
    page = [f"usage: {usage}", "", purpose, "", "options:", _row("-h, --help", "show this help page")]
    page += [*map(_flag_row, flags), _row("--debug", "show the traceback of an error")]
    if keys:
        page += ["", "keys of the config file:", *map(_flag_row, keys)]
    return "\n".join(page)


def _flag_row(flag):
    value = f"[{flag.placeholder}]" if flag.kind == "boolean" else flag.placeholder
    return _row(f"{', '.join(flag.names)} {value}".strip(), flag.description)


def _row(heading, description):
    """Lines of a help page: the description stands right of the heading, or below one that is too long."""
    indent, width = " " * _MARGIN, max(2 * _MARGIN, shutil.get_terminal_size().columns - 2)
    text = textwrap.fill(description, width, initial_indent=indent, subsequent_indent=indent)
    heading = f"  {heading}"
    return f"{heading}\n{text}" if len(heading) > _MARGIN - 2 else heading.ljust(_MARGIN) + text[_MARGIN:]


# The end of a command


def _report(failure, prog, *, with_traceback):
    """Print what has ended the command; return its exit status."""
    if with_traceback:
        traceback.print_exc()
    hint = f" ({prog} --help lists all flags.)" if isinstance(failure, UsageError) else ""
    for line in (describe_failure(failure) + hint).splitlines():
        print(f"error: {line}", file=sys.stderr)
    statuses = {Terminated: 143, KeyboardInterrupt: 130, UsageError: 2}
    status = next((status for kind, status in statuses.items() if isinstance(failure, kind)), 1)
    if isinstance(failure, KeyboardInterrupt) and _is_computing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a tile that is being computed cannot be stopped, and nobody waits for it
    return status


def _is_computing():
    """Whether threads of this process still compute tiles; without importing what computes them."""
    tiled = sys.modules.get("rcan.restoration.tiled")
    return tiled is not None and tiled.is_computing()


@contextmanager
def _sigterm_as_exception():
    """Let SIGTERM end the command as Ctrl-C does: incomplete files are removed on the way."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        yield
        return

    def terminate(*_):
        """Handle SIGTERM."""
        raise Terminated("terminated.")

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def plain_warnings(show=lambda line: print(f"warning: {line}", file=sys.stderr)):
    """Let ``show(line)`` have warnings for users as one line each, and none that libraries have for developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # some are UserWarnings, too
        warnings.filterwarnings("ignore", module="keras|tensorflow")
        warnings.showwarning = lambda message, *_, **__: show(as_one_line(message))
        yield


class _PlainStream:
    """A stream of text without control characters but for line ends and tabs; bars of progress write to it, too.

    What its encoding lacks becomes escapes. Where nobody reads any more, as after ``| head``, the work goes on unseen.
    """

    def __init__(self, stream):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (Python has None for a closed stream)
        self._encoding = getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write a text; a return of the cursor, by itself or at the beginning, and a step up are those of a bar."""
        if not _CURSOR.fullmatch(text):
            start = "\r" * text.startswith("\r")
            lines = text.removeprefix("\r").split("\n")
            text = start + "\n".join("\t".join(map(as_one_line, line.split("\t"))) for line in lines)
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        with self._ignore_lost_reader():
            return self._stream.write(text)

    def flush(self):
        """Hand on what was written."""
        with self._ignore_lost_reader():
            self._stream.flush()

    @contextmanager
    def _ignore_lost_reader(self):
        """Write to nowhere once the reader is gone; what is flushed at the end of the process goes there, too."""
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def _plain_streams():
    """Let nothing that is printed change the terminal."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_PlainStream, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
