"""Files of the repository that are neither code nor pages: YAML, and the Dockerfile taken apart."""

import re
from typing import NamedTuple

import yaml
from documents import ROOT

__all__ = ["PYTHONS", "Instruction", "list_stages", "load_yaml"]

PYTHONS = re.search(r"Python (3\.\d+) to (3\.\d+)", (ROOT / "README.md").read_text("utf-8")).groups()


def load_yaml(name):
    """A file as Python's own types."""
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


class Instruction(NamedTuple):
    """A line of the Dockerfile: a word such as ``RUN``, and what follows, with continued lines joined."""

    word: str
    rest: str


def list_stages():
    """The stages of the Dockerfile, in their order: lists of instructions, of which the first is FROM."""
    lines = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    stages = []
    for line in filter(str.strip, lines.replace("\\\n", "").splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, rest))
    return stages
