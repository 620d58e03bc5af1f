"""A folder to upload to Hugging Face, from which ``-m hf://owner/name`` restores, and the card of a network alone."""

import shlex

from rcan.atomic_io import atomic_file, atomic_folder
from rcan.export.card import write_card
from rcan.export.card_facts import gather_facts
from rcan.export.run_files import CARD, copy_run_files

__all__ = ["write_card_file", "write_hub_folder"]


def write_card_file(options, model, record):
    """Write the card of a network as `ExportOptions` say; returns a description."""
    facts = gather_facts(options, model, record)
    with atomic_file(options.output) as partial:
        write_card(partial, facts)
    return "\n".join([f"{options.output}: the card of {facts.name}", *_describe_gaps(facts)])


def write_hub_folder(options, model, record):
    """Write a folder with a network, the record of its training, its settings and its card; returns a description."""
    facts = gather_facts(options, model, record)
    with atomic_folder(options.output) as partial:
        partial.mkdir()
        names = [*copy_run_files(partial, options.model_dir, model, record), CARD]
        write_card(partial / CARD, facts)
    return "\n".join(
        [
            f"{options.output}: {facts.name}; {', '.join(names)}",
            *_describe_gaps(facts),
            f"Upload: hf upload OWNER/NAME {shlex.quote(str(options.output))}",
            "Restore: rcan apply -m hf://OWNER/NAME -i raw/ -o restored/",
        ]
    )


def _describe_gaps(facts):
    """What a card does not know, and where it would come from, in a line, if there is such."""
    gaps = {
        "training (the files beside a run's network)": facts.is_recorded,
        "scores (rcan evaluate)": facts.evaluation,
        "limits (rcan limits)": facts.limits,
        "licence (--license)": facts.license,
        "authors (--author)": facts.authors,
    }
    missing = [gap for gap, known in gaps.items() if not known]
    return [f"Not known, and said so in the card: {', '.join(missing)}."] if missing else []
