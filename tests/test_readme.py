"""The README is short, and says what is true."""

import re

import pytest
from documents import ROOT

from rcan.config import Config, load_config

README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_readme_has_no_long_sentence():
    prose = re.sub(r"^```.*?^```$|^\|.*?$|^#.*?$|<!--.*?-->", "", README, flags=re.MULTILINE | re.DOTALL)
    prose = prose.partition("- Start: ")[0]  # links follow, and the citation
    prose = re.sub(r"\]\([^)]+\)", "]", prose)
    sentences = re.split(r"[.?!:](?:\*\*)?\s+|\n\n", prose)
    assert max(len(sentence.split()) for sentence in sentences) <= 25


@pytest.mark.parametrize("name", ["config.json", "config_gpu.json", "config_large.json"])
def test_shipped_config_is_valid(name):
    assert load_config(ROOT / name).output_dir.parent == ROOT / "runs"


def test_large_config_is_the_network_of_the_paper():
    config = load_config(ROOT / "config_large.json")
    differing = [
        key for key in Config.model_fields if key.startswith(("num_", "channel_", "epochs", "steps", "initial", "loss"))
        and getattr(config, key) != Config.model_fields[key].default
    ]  # fmt: skip
    assert differing == []
