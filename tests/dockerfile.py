"""The Dockerfile, taken apart."""

import re
from typing import NamedTuple

from documents import ROOT

__all__ = ["Instruction", "list_stages"]


class Instruction(NamedTuple):
    """A word such as ``RUN``, and what follows it, with its continued lines joined."""

    word: str
    rest: str


def list_stages():
    """The stages, in their order: lists of instructions, of which the first is FROM."""
    lines = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    stages = []
    for line in filter(str.strip, lines.replace("\\\n", "").splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, rest))
    return stages
