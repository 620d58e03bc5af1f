"""The report of `rcan check`."""

import numpy as np

from rcan.atomic_io import printable_name
from rcan.data.facts import read_middle
from rcan.figures.overlay import draw_overlays
from rcan.report.page import Page

__all__ = ["write_check_report"]

_MOST_PICTURES = 8


def write_check_report(path, check):
    """Write the report, an HTML file, of a `rcan.studies.data_check.DataCheck`, with pictures of the worst pairs."""
    number = sum(map(len, check.pairs.values()))
    page = Page("Training data", f"{number} {'pair' if number == 1 else 'pairs'}, {len(check.problems)} problems")
    page.section("Findings")
    rows = [[finding.level, finding.topic, finding.text] for finding in check.findings]
    page.table(
        ["", "topic", "finding"], rows, bold={(row, 0) for row, cells in enumerate(rows) if cells[0] == "problem"}
    )
    page.section("Pairs")
    for name in check.pairs:
        if table := check.table(name):
            page.table(*table, caption=name)
    page.section("Pictures")
    page.text(
        "Raw in magenta and ground truth in green, the middle of each image, as maximum projections. Where both show "
        "the same, the picture is white. Pairs with the largest shifts come first."
    )
    pairs = [pair for name in check.pairs for pair in zip(check.opened[name], check.pairs[name], strict=True)]
    for pair, facts in sorted(pairs, key=lambda pair: -_badness(pair[1]))[:_MOST_PICTURES]:
        page.picture(_draw(pair, facts), caption=f"{printable_name(facts.raw.path)}: {_describe(facts)}.")
    page.write(path)


def _badness(facts):
    """How far a pair is from fitting, to sort by."""
    return 100 * facts.orientation.is_certain + (max(map(abs, facts.shift.voxels)) if facts.shift.is_certain else 0)


def _describe(facts):
    if facts.orientation.is_certain:
        return f"the ground truth is {facts.orientation}"
    return f"raw lies {facts.shift} beyond its ground truth, correlation {facts.shift.correlation:.2f}"


def _draw(pair, facts):
    raw, gt = read_middle(pair)
    pictures = {"as they are": (raw, gt)}
    if facts.orientation.is_certain:
        pictures["turned back"] = raw, facts.orientation.turn(gt)
    elif facts.shift.is_certain:
        steps = np.rint(facts.shift.voxels).astype(int)
        pictures["shifted back"] = np.roll(raw, -steps, tuple(range(raw.ndim))), gt
    return draw_overlays({title: images for title, images in pictures.items() if images[1].shape == raw.shape})
