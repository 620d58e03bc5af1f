from pathlib import Path

import numpy as np
import pytest

from rcan.config import Config
from rcan.failures import UsageError
from rcan.options import Settings, list_flags, nearest, option


class Options(Settings):
    """Options of a Python caller."""

    source: Path = option(..., "what to restore", letter="i")
    shape: tuple[int, int] | None = option(None, "two numbers")
    share: float = option(0.5, "share", ge=0, le=1)
    fast: bool = option(False, "be quick")


def test_python_values_are_checked_as_those_of_a_file():
    options = Options.checked({"source": Path("a.tif"), "shape": (3, 4), "share": 1, "fast": True})
    assert options == Options(source=Path("a.tif"), shape=(3, 4), share=1.0, fast=True)
    assert options == Options.checked({"source": "a.tif", "shape": [3, 4], "share": 1.0, "fast": True})


def test_a_tuple_of_too_few_values_says_which_is_missing():
    with pytest.raises(ValueError, match=r"^shape has too few values: number 2 is missing\.$"):
        Options.checked({"source": "a.tif", "shape": [3]})


def test_names_that_are_no_unicode_are_taken_as_they_are():
    name = b"\xff.tif".decode(errors="surrogateescape")
    options = Options.checked({"source": name, "shape": [3, 4], "fast": True})
    assert (options.source, options.shape, options.fast) == (Path(name), (3, 4), True)
    assert Options.checked({"source": "\N{PAGE FACING UP}.tif"}).source == Path("\N{PAGE FACING UP}.tif")


def test_paths_and_tuples_within_values_are_taken_too():
    pairs = ({"raw": Path("a.tif"), "gt": "b.tif"},)
    (pair,) = Config.checked({"training_image_pairs": pairs}).training_image_pairs
    assert (pair.raw, pair.gt) == (Path("a.tif"), Path("b.tif"))


def test_numbers_of_numpy_are_numbers():
    values = {"shape": np.array([3, 4]), "share": np.float32(0.25), "fast": np.True_}
    options = Options.checked({"source": "a.tif", **values})
    assert options == Options(source=Path("a.tif"), shape=(3, 4), share=0.25, fast=True)
    with pytest.raises(ValueError, match=r"shape.1 is 4.5: must be a whole number"):
        Options.checked({"source": "a.tif", "shape": np.array([3, 4.5])})


def test_everything_that_is_wrong_is_named_by_its_keyword():
    with pytest.raises(ValueError, match="share") as refused:
        Options.checked({"share": 2, "shape": (3, 4.5), "fats": True})
    assert not isinstance(refused.value, UsageError)
    assert str(refused.value).splitlines() == [
        "source is missing (what to restore).",
        "shape.1 is 4.5: must be a whole number.",
        "share is 2: must be less than or equal to 1.",
        "fats is not a known key. Did you mean fast?",
    ]


@pytest.mark.parametrize(
    ("value", "rule"),
    [("0.5", "a number"), (None, "a number"), (float("nan"), "a finite number"), (Path("a"), "a number")],
)
def test_a_value_of_another_type_is_not_converted(value, rule):
    with pytest.raises(ValueError, match=f"share is .*: must be {rule}"):
        Options.checked({"source": "a.tif", "share": value})


def test_a_flag_knows_its_names_and_what_stands_for_its_value():
    flags = {flag.name: flag for flag in list_flags(Options)}
    assert flags["source"].names == ["-i", "--source"]
    assert {name: flag.placeholder for name, flag in flags.items()} == {
        "source": "PATH",
        "shape": "N,…",
        "share": "X",
        "fast": "true|false",
    }


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("epoch", " Did you mean epochs?"), ("sede", " Did you mean seed?"), ("xyz", ""), (7, "")],
)
def test_the_nearest_word_is_suggested_or_nothing(word, sentence):
    assert nearest(word, ["epochs", "seed"]) == sentence
