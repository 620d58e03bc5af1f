"""The card of a network, in Markdown, with the fields of Hugging Face's model cards at its head.

What it says comes from the run folder and from the results of studies. What is not known is said to be so.
"""

import math

from rcan.export import card_training, card_trust
from rcan.export.markdown import as_text, front_matter
from rcan.failures import DISTRIBUTION, install_command
from rcan.report.methods import CITATIONS
from rcan.report.text import count, format_sizes

__all__ = ["HUB_PLACE", "describe_card", "write_card"]

HUB_PLACE = "hf://OWNER/NAME"
_TAGS = ("microscopy", "fluorescence-microscopy", "biology", "image-restoration", "denoising", "deconvolution", "rcan")
_METRICS = {"psnr": ("psnr", "PSNR (dB)"), "ssim": ("ssim", "SSIM"), "nrmse": ("nrmse", "NRMSE")}
_MOST_NAMED = 3  # images of an evaluation
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gpl-2.0 gpl-3.0 isc
    lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa ofl-1.1 osl-3.0 postgresql unlicense wtfpl zlib
"""  # identifiers of SPDX, in small letters, that Hugging Face knows


def write_card(path, facts):
    """Write the card of `CardFacts`, as it belongs beside the files of a network on the Hub."""
    path.write_text(f"{front_matter(_fields(facts))}\n\n{describe_card(facts)}", encoding="utf-8")


def describe_card(facts, *, place=HUB_PLACE, sections=()):
    """The text of a card without its head.

    `place` is what users name the network by; `sections`, titles and texts, come after that on how to use it.
    """
    parts = [
        ("How to use it", _describe_use(facts, place)),
        *sections,
        ("What it was trained on", card_training.describe_data(facts)),
        ("Grey values", card_training.describe_grey_values(facts)),
        ("Trained range", card_training.describe_range(facts)),
        ("Training", card_training.describe_settings(facts)),
        ("Validation", card_trust.describe_validation(facts)),
        ("Limits", card_trust.describe_limits(facts)),
        ("What it should not be used for", card_trust.describe_misuse(facts)),
        ("Licence", _describe_license(facts.license)),
        ("Authors", _describe_authors(facts.authors)),
        ("Citation", "\n\n".join(CITATIONS)),
    ]
    heading = f"# {as_text(facts.name)}\n\n{as_text(facts.description)}\n\n{_describe_network(facts)}"
    return "\n\n".join([heading, *(f"## {title}\n\n{text}" for title, text in parts)]) + "\n"


# The head


def _fields(facts):
    """Fields of Hugging Face; those that are not known are left out."""
    fields = {
        **_license_fields(facts.license),
        "library_name": "keras",
        "pipeline_tag": "image-to-image",
        "tags": [*_TAGS, f"{len(facts.axes)}d"],
    }
    if facts.evaluation:
        fields["model-index"] = [{"name": facts.name, "results": [_list_scores(facts.evaluation)]}]
    return fields


def _license_fields(name):
    if not name:
        return {}
    known = name.lower().removesuffix("-only").removesuffix("-or-later")
    return {"license": known} if known in _LICENSES.split() else {"license": "other", "license_name": name.lower()}


def _list_scores(evaluation):
    """Mean scores of the restored images, in the schema of a model index."""
    names = [*evaluation.volumes]
    shown = ", ".join(names[:_MOST_NAMED]) + ", …" * (len(names) > _MOST_NAMED)
    means = evaluation.total.methods["restored"]
    return {
        "task": {"type": "image-to-image", "name": "Image restoration"},
        "dataset": {"type": "image-pairs", "name": f"{count(len(names), 'image pair')}: {shown}"},
        "metrics": [
            {"type": kind, "value": round(means[measure].mean, 4), "name": title}
            for measure, (kind, title) in _METRICS.items()
            if measure in means and math.isfinite(means[measure].mean)
        ],
    }


# The text


def _describe_network(facts):
    read, written = (count(number, "channel") for number in facts.channels)
    axes = facts.axes.upper()
    larger = f", {format_sizes(facts.upscaling)} times as large ({axes})" if max(facts.upscaling) > 1 else ""
    shape = f"{facts.noun}s ({axes}) of any size and {read}" if facts.channels[0] > 1 else f"{facts.noun}s ({axes})"
    each = "; of an image with several channels it restores each by itself" if facts.channels == (1, 1) else ""
    return f"It reads {shape} and writes {written}{larger}{each}. It has {facts.num_parameters:,} parameters."


def _describe_use(facts, place):
    shape = f"({', '.join(facts.axes.upper())}, C)"
    if place == HUB_PLACE:
        installed = f"and its extra `hub` (`{install_command('hub')}`), "
        replaced = "`OWNER/NAME` by the name of this repository, or name a folder that you have copied these files to"
    else:
        installed, replaced = "", f"`{place}` by the path of this package"
    digest = (
        f" The file of the network has the SHA-256 `{facts.digest}`: with `#sha256={facts.digest}` at its end, an "
        "address is refused if it leads to any other."
    )
    is_addressed = place == HUB_PLACE and facts.file_name.endswith(".keras")
    return f"""With the Python package `{DISTRIBUTION}` {installed}on a command line:

```sh
rcan apply -m {place} -i raw/ -o restored/
```

or in Python:

```python
import rcan

rcan.restore_folder("{place}", "raw", "restored")  # a folder of images

model, record = rcan.load_model("{place}")  # or an array
raw = rcan.open_volume("raw.tif").read(dtype=None)  # {shape}, grey values
view = rcan.view_image(raw, **record.scaling)
restored = rcan.denormalise(rcan.restore(model, view.read_input(0)), view.ranges)
```

Replace {replaced}. The restored image has the grey values of the raw one.{digest * is_addressed}"""


def _describe_license(name):
    if name:
        return f"{as_text(name)}, as named by those who published this network."
    return (
        "No licence is given. Without one nobody may copy, change or pass on this network, unless its authors allow "
        "it: ask them first."
    )


def _describe_authors(authors):
    return ", ".join(map(as_text, authors)) if authors else "Not named."
