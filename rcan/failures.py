"""Failures that end a command, and how they are told: offender, value, rule and way out."""

import errno

__all__ = ["Terminated", "UsageError", "describe_failure"]

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


def describe_failure(failure):
    """Put an exception into words: one line, or one for each thing that is wrong."""
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
    return f"unexpected {type(failure).__name__}{f': {reason}' if reason else ''} (--debug shows where.)"
