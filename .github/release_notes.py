"""Print what CHANGELOG.md says of one version: python .github/release_notes.py 0.1.0"""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def release_notes(version):
    """The section of a version, without its heading; a ValueError if there is none."""
    _, *parts = re.split(r"^## (.+)\n", CHANGELOG.read_text("utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if version not in sections:
        raise ValueError(f"CHANGELOG.md has no section {version}: it has {', '.join(sections)}.")
    return sections[version].strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name one version: python .github/release_notes.py 0.1.0")
    try:
        print(release_notes(sys.argv[1]))
    except ValueError as failure:
        sys.exit(f"error: {failure}")
