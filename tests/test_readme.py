"""What the README says about options is what the code does."""

import json
import re
from pathlib import Path

import pytest

from rcan.config import Config, load_config

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_options_table_lists_every_key_once():
    assert sorted(key for key, _, _ in ROWS) == sorted(Config.model_fields)


@pytest.mark.parametrize(("key", "shown"), [row[:2] for row in ROWS])
def test_options_table_gives_the_default(key, shown):
    default = json.loads(json.dumps(Config.model_fields[key].default))
    assert (None if shown == "none" else json.loads(shown.strip("`"))) == default


@pytest.mark.parametrize("name", ["config.json", "config_large.json"])
def test_shipped_config_is_valid(name):
    assert load_config(ROOT / name).output_dir.parent == ROOT / "runs"


def test_large_config_is_the_network_of_the_paper():
    config = load_config(ROOT / "config_large.json")
    differing = [
        key for key in Config.model_fields if key.startswith(("num_", "channel_", "epochs", "steps", "initial", "loss"))
        and getattr(config, key) != Config.model_fields[key].default
    ]  # fmt: skip
    assert differing == []
