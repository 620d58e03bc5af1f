"""Failures that end a command, and how they are told: offender, value, rule and way out.

Names of files, channels and units, and what libraries say of a damaged file, are text that somebody else wrote. It is
shown without the characters by which a text could move the cursor of a terminal, change its colours or its title, or
pretend to be a line of ours.
"""

import errno
import re

__all__ = ["DISTRIBUTION", "Terminated", "UsageError", "as_one_line", "describe_failure", "install_command"]

DISTRIBUTION = "rcan-microscopy"  # what pip calls this package

# Control characters of ASCII and Latin-1, line ends of Unicode, and those that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_WAYS_OUT = {
    errno.EACCES: "choose a place where you may read and write",
    errno.ENOENT: "check the name (relative paths in a config file start from its own folder)",
    errno.ENOSPC: "free some space, or choose another disk",
    errno.ENOTDIR: "a part of the path is a file, name another folder",
    errno.EROFS: "choose a place where you may write",
}


class UsageError(ValueError):
    """The command line itself is wrong: exit status 2."""


class Terminated(KeyboardInterrupt):
    """A queue or an operator has sent SIGTERM: exit status 143."""


def as_one_line(text):
    r"""Spell out the control characters and line ends of a text.

    >>> as_one_line("red \x1b[31m\n")
    'red \\x1b[31m\\n'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], str(text))


def install_command(extra):
    """The command that installs an optional part, for an error where it is missing.

    >>> print(install_command("zarr"))
    python -m pip install "rcan-microscopy[zarr]"
    """
    return f'python -m pip install "{DISTRIBUTION}[{extra}]"'


def describe_failure(failure, *, where="--debug shows where"):
    """Put an exception into words: one line, or one for each thing that is wrong.

    `where` says how to find the place of one that nobody has thought of.
    """
    if isinstance(failure, KeyboardInterrupt):
        return str(failure) or "interrupted."
    if isinstance(failure, OSError) and failure.strerror and failure.filename:
        reason = f"{failure.strerror[0].lower()}{failure.strerror[1:]}"
        way_out = _WAYS_OUT.get(failure.errno)
        return f"{failure.filename}: {reason}{f': {way_out}' if way_out else ''}."
    if isinstance(failure, (OSError, ValueError, ImportError)) and str(failure):
        return str(failure)
    reason = next(iter(str(failure).splitlines()), "")
    if isinstance(failure, MemoryError) or type(failure).__name__ == "ResourceExhaustedError":  # TensorFlow's
        return f"out of memory: use smaller tiles or patches. ({reason})"
    return f"unexpected {type(failure).__name__}{f': {reason}' if reason else ''} ({where}.)"
