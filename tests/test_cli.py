import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Literal

import pytest

from rcan.__main__ import main as rcan_main
from rcan.cli import run_command
from rcan.commands.apply import apply
from rcan.commands.apply import main as apply_main
from rcan.commands.simulate import simulate
from rcan.commands.train import main as train_main
from rcan.commands.train import train
from rcan.config import Config, Count
from rcan.failures import UsageError, describe_failure
from rcan.options import Settings, option
from rcan.restoration.options import RestoreOptions


class Options(Settings):
    name: Path = option(..., "what to greet", letter="n")
    count: Count = option(1, "how often", letter="c")
    model_dir: str | None = option(None, "a name with an underscore")
    loud: bool = option(False, "shout")
    shape: tuple[Count, Count, Count] | None = option(None, "three numbers", letter="B")
    kind: Literal["long", "short"] = option("long", "kind of greeting")
    share: float = option(0.5, "share, 50 % by default", ge=0, le=1)


class Signed(Settings):
    low: float = option(0, "a number of any sign")


class Greeting(Settings):
    file: str = option(..., "file", positional=True)
    overrides: dict = option({}, "keys given as flags")


def received(*argv):
    """The options that a command receives from a command line."""
    calls = []

    def command(options: Options):
        """Greet.

        More about it.
        """
        calls.append(options)

    assert run_command(command, argv, prog="greet") == 0
    return calls[0]


def ending(capsys, failure, *argv):
    """Exit status and error lines of a command that fails."""

    def command(options: Options):
        """Greet."""
        raise failure

    status = run_command(command, ["-n", "x", *argv], prog="greet")
    return status, capsys.readouterr().err


def refusal(capsys, *argv):
    """Error lines of a command line that is refused before the call."""

    def command(options: Options):
        """Greet."""
        raise AssertionError("called in spite of a wrong command line")

    assert run_command(command, argv, prog="greet") == 2
    return capsys.readouterr().err


# Flags and their values


@pytest.mark.parametrize(
    ("command", "letters"),
    [
        (
            apply,
            {
                "m": "model_dir",
                "i": "input",
                "o": "output",
                "g": "ground_truth",
                "b": "bpp",
                "B": "block_shape",
                "O": "block_overlap_shape",
                "f": "output_tiff_format",
            },
        ),
        (train, {"c": "config", "o": "output_dir"}),
        (simulate, {}),
    ],
    ids=["apply", "train", "simulate"],
)
def test_the_short_flags_are_the_published_ones(command, letters):
    fields = dict(command.__annotations__["options"].model_fields)
    fields |= Config.model_fields if command is train else {}
    extras = {name: field.json_schema_extra["letter"] for name, field in fields.items()}
    assert {letter: name for name, letter in extras.items() if letter} == letters


def test_the_published_apply_command_line_is_understood():
    calls = []

    def command(options: RestoreOptions):
        """Restore."""
        calls.append(options)

    line = "-m model -i in -o out -g gt -b 16 -B 12,480,480 -O 2,40,40 --p_min 1 --p_max 99.5 --rescale -f ome"
    assert run_command(command, line.split(), prog="apply.py") == 0
    assert calls[0] == RestoreOptions(
        model_dir=Path("model"),
        input=Path("in"),
        output=Path("out"),
        ground_truth=Path("gt"),
        bpp=16,
        block_shape=(12, 480, 480),
        block_overlap_shape=(2, 40, 40),
        p_min=1.0,
        p_max=99.5,
        rescale=True,
        output_tiff_format="ome",
    )


def test_the_published_defaults_of_apply():
    options = RestoreOptions(model_dir=Path("model"), input=Path("in"), output=Path("out"))
    assert (options.bpp, options.output_tiff_format, options.ground_truth) == (32, "imagej", None)
    assert not options.rescale
    assert not options.normalize_output_range_between_zero_and_one


@pytest.mark.parametrize("argv", [["--model_dir", "a-b"], ["--model-dir", "a-b"], ["--model-dir=a-b"]])
def test_hyphens_stand_for_underscores_in_flags_and_stay_in_values(argv):
    assert received("-n", "x", *argv).model_dir == "a-b"


@pytest.mark.parametrize("argv", [["--name=x", "--count=3"], ["-n=x", "-c=3"], ["-nx", "-c3"]])
def test_a_value_may_follow_its_flag_directly(argv):
    assert received(*argv) == Options(name=Path("x"), count=3)


@pytest.mark.parametrize(
    ("argv", "loud"),
    [
        ([], False),
        (["--loud"], True),
        (["--loud", "true"], True),
        (["--loud", "false"], False),
        (["--loud=False"], False),
        (["--loud", "-c", "2"], True),
    ],
)
def test_a_switch_may_be_given_a_value(argv, loud):
    assert received("-n", "x", *argv).loud is loud


@pytest.mark.parametrize("text", ["12,480,480", "[12, 480, 480]"])
def test_several_numbers_are_separated_by_commas_or_written_as_json(text):
    assert received("-n", "x", "-B", text).shape == (12, 480, 480)


@pytest.mark.parametrize(
    "name",
    ["2021_01_02", "a#b", "10", "1e3", "true", "null", "None", "a,b", "[1]", "a b", "µm", "-", "-1", "a=b"],
)
def test_a_path_stays_as_it_is_typed(name):
    assert received("-n", name).name == Path(name)
    assert received(f"--name={name}").name == Path(name)


def test_the_last_of_two_equal_flags_counts():
    assert received("-n", "x", "-n", "y", "--name=z").name == Path("z")


@pytest.mark.parametrize("argv", [["--low", "-1.5"], ["--low=-1.5"], ["--low", "-15e-1"]])
def test_a_negative_number_is_a_value(argv):
    calls = []

    def command(options: Signed):
        """Measure."""
        calls.append(options.low)

    assert run_command(command, argv, prog="measure") == 0
    assert calls == [-1.5]


def test_keys_of_a_second_class_become_flags_and_arrive_as_overrides():
    calls = []

    def command(options: Greeting):
        """Greet."""
        calls.append(options)

    argv = ["a.txt", "--count", "3", "--loud", "--shape", "1,2,3"]
    assert run_command(command, argv, prog="greet", overrides=Options) == 0
    assert calls[0].file == "a.txt"
    assert calls[0].overrides == {"count": 3, "loud": True, "shape": [1, 2, 3]}


# Wrong command lines


def test_an_unknown_flag_names_the_nearest_one(capsys):
    assert refusal(capsys, "-n", "x", "--cuont", "3") == (
        "error: --cuont is not a known flag. Did you mean --count? (greet --help lists all flags.)\n"
    )


@pytest.mark.parametrize("argv", [["--coun", "3"], ["--coun=3"], ["--model-d", "3"]])
def test_the_beginning_of_a_flag_is_not_the_flag(capsys, argv):
    assert "is not a known flag. Did you mean --" in refusal(capsys, "-n", "x", *argv)


def test_a_beginning_that_several_flags_share_names_them_all(capsys):
    argv = ["-m", "m", "-i", "i", "-o", "o", "--p_", "3"]
    assert apply_main(argv) == 2
    assert "Did you mean --p_min or --p_max?" in capsys.readouterr().err


def test_train_does_not_take_epoch_for_epochs(capsys):
    assert train_main(["-c", "missing.json", "--epoch", "3"]) == 2
    assert "--epoch is not a known flag. Did you mean --epochs?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "refused"),
    [
        (["-l"], "-l is not a known flag"),  # a letter that no flag has, though one flag alone begins with it
        (["-m", "3"], "-m is not a known flag"),
        (["--noloud"], "--noloud is not a known flag"),
        (["--nothing"], "--nothing is not a known flag"),
        (["--trace"], "--trace is not a known flag"),
        (["--", "--interactive"], "--interactive is not a known flag"),
        (["-", "run"], "- belongs to no flag"),
        (["upper"], "upper belongs to no flag"),
        (["--model_dir", "--loud"], "--model_dir: expected one argument"),
        (["--model_dir"], "--model_dir: expected one argument"),
    ],
    ids=" ".join,
)
def test_a_command_line_means_nothing_but_its_own_flags(capsys, argv, refused):
    err = refusal(capsys, "-n", "x", *argv)
    assert err.startswith(f"error: {refused}") or err.startswith(f"error: argument {refused}")
    assert len(err.splitlines()) == 1


def test_a_word_without_a_flag_is_refused_with_the_usage(capsys):
    assert refusal(capsys, "-n", "x", "config.json") == (
        "error: config.json belongs to no flag; the usage is greet -n PATH [flags]. (greet --help lists all flags.)\n"
    )


def test_a_flag_without_its_value_is_refused(capsys):
    assert "-n/--name: expected one argument" in refusal(capsys, "-n")


def test_all_missing_flags_are_named_at_once_with_their_meaning(capsys):
    assert apply_main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "error: --model_dir is missing",
        "error: --input is missing",
        "error: --output is missing",
    ]
    assert "run folder of rcan train" in lines[0]


def test_all_wrong_values_are_named_at_once(capsys):
    assert refusal(capsys, "--count", "0", "--kind", "medium", "--share", "2", "-B", "1,b,3").splitlines() == [
        "error: --name is missing (what to greet).",
        "error: --count is 0: must be greater than or equal to 1.",
        'error: --shape.1 is "b": must be a whole number.',
        "error: --kind is \"medium\": must be 'long' or 'short'.",
        "error: --share is 2: must be less than or equal to 1. (greet --help lists all flags.)",
    ]


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("--count", "1.5", "must be a whole number"),
        ("--count", "many", "must be a whole number"),
        ("--count", "true", "must be a whole number"),
        ("--share", "half", "must be a number"),
        ("--share", "NaN", "must be a finite number"),
        ("--share", "-1", "must be greater than or equal to 0"),
        ("--loud", "perhaps", "must be true or false"),
        ("--shape", "1,2.5,3", "must be a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_flag_value_and_rule(capsys, flag, value, rule):
    message = refusal(capsys, "-n", "x", f"{flag}={value}")
    assert message.startswith(f"error: {flag}")
    assert value.split(",")[-2 if "," in value else 0] in message
    assert rule in message


# How commands end


def test_success_is_status_0_and_silent_on_standard_error(capsys):
    received("-n", "x")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (ValueError("a.tif is empty. Copy it again."), 1, "a.tif is empty. Copy it again."),
        (UsageError("--a is wrong."), 2, "--a is wrong. (greet --help lists all flags.)"),
        (KeyboardInterrupt(), 130, "interrupted."),
        (
            FileNotFoundError(2, "No such file or directory", "a.tif"),
            1,
            "a.tif: no such file or directory: check the name (relative paths in a config file start from its own "
            "folder).",
        ),
        (
            OSError(28, "No space left on device", "b.tif"),
            1,
            "b.tif: no space left on device: free some space, or choose another disk.",
        ),
        (MemoryError("3 GiB"), 1, "out of memory: use smaller tiles or patches. (3 GiB)"),
        (KeyError("x"), 1, "unexpected KeyError: 'x' (--debug shows where.)"),
        (RuntimeError("bad\nvery bad"), 1, "unexpected RuntimeError: bad (--debug shows where.)"),
        (ValueError(), 1, "unexpected ValueError (--debug shows where.)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_failure_is_one_line_and_a_status(capsys, failure, status, message):
    assert ending(capsys, failure) == (status, f"error: {message}\n")


def test_a_gpu_without_memory_is_told_like_any_lack_of_memory():
    exhausted = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating\n\tat conv3d")
    assert describe_failure(exhausted).startswith("out of memory: use smaller tiles or patches.")


def test_every_line_of_a_message_is_an_error_line(capsys):
    assert ending(capsys, ValueError("first.\nsecond."))[1] == "error: first.\nerror: second.\n"


def test_sigterm_ends_a_command_with_143_after_cleaning_up(capsys):
    cleaned = []

    def command(options: Settings):
        """Wait."""
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(command, [], prog="wait") == 143
    assert capsys.readouterr().err == "error: terminated.\n"
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) == before


class Switches(Settings):
    place: str = option(..., "a place", positional=True)
    fast: bool = option(False, "a switch")


@pytest.mark.parametrize(
    ("arguments", "fast"),
    [
        ("--fast there", True),
        ("--fast false there", False),
        ("--fast=false there", False),
        ("there --fast", True),
    ],
)
def test_a_switch_does_not_swallow_the_positional_word(arguments, fast):
    seen = []

    def command(options: Switches):
        """Go."""
        seen.append((options.place, options.fast))

    assert run_command(command, arguments.split(), prog="go") == 0
    assert seen == [("there", fast)]


def test_debug_shows_the_traceback_and_the_line(capsys):
    status, err = ending(capsys, KeyError("x"), "--debug")
    assert status == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("error: unexpected KeyError: 'x' (--debug shows where.)\n")


def test_a_warning_for_the_user_is_one_line(capsys):
    def command(options: Options):
        """Greet."""
        warnings.warn("a and b differ.", stacklevel=1)

    assert run_command(command, ["-n", "x"], prog="greet") == 0
    assert capsys.readouterr().err == "warning: a and b differ.\n"


def test_the_same_warning_about_two_files_is_told_twice(capsys):
    def command(options: Options):
        """Greet."""
        for name in "ab":
            warnings.warn(f"{name} is odd.", stacklevel=1)

    run_command(command, ["-n", "x"], prog="greet")
    assert capsys.readouterr().err == "warning: a is odd.\nwarning: b is odd.\n"


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning, RuntimeWarning, ResourceWarning])
def test_a_warning_for_developers_is_not_shown(capsys, category):
    def command(options: Options):
        """Greet."""
        warnings.warn("old", category, stacklevel=1)

    assert run_command(command, ["-n", "x"], prog="greet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "argv", "status"),
    [("train.py", ["--help"], 0), ("train.py", ["-c", "missing.json"], 1), ("apply.py", ["--foo"], 2)],
)
def test_a_script_ends_with_the_status_of_its_command(script, argv, status):
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, folder / script, *argv], capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


# Where the output goes, and in which language


def say_much(options: Options):
    """Greet."""
    for _ in range(20_000):
        print("Hello \u7d30\u80de \udcff", flush=True)
    options.name and Path(options.name).write_text("done")


SAY_MUCH = (
    "import sys; sys.path.insert(0, {folder!r}); from test_cli import *; sys.exit(run_command(say_much, prog='say'))"
)


@pytest.mark.parametrize("reader", ["head", "nobody"])
def test_a_command_ends_its_work_where_nobody_reads_what_it_says(tmp_path, reader):
    code = SAY_MUCH.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, "-n", str(tmp_path / "file")]
    if reader == "nobody":
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
        status, err = done.returncode, done.stderr
    else:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            process.stdout.close()
            err, status = process.stderr.read(), process.wait()
    assert (status, err) == (0, "")
    assert (tmp_path / "file").read_text() == "done"


def test_letters_that_the_terminal_lacks_become_escapes(tmp_path):
    code = SAY_MUCH.format(folder=str(Path(__file__).parent))
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, "-n", str(tmp_path / "file")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Hello \\u7d30\\u80de \\udcff\n")


# Help


def test_the_help_page_names_every_flag_with_its_default(capsys):
    def command(options: Options):
        """Greet.

        More about it.
        """

    assert run_command(command, ["--help"], prog="greet") == 0
    out, err = capsys.readouterr()
    assert err == ""
    page = " ".join(out.split())
    assert page.startswith("usage: greet -n PATH [flags] Greet. options:")
    assert "-n, --name PATH what to greet" in page
    assert "-c, --count N how often (default: 1)" in page
    assert "-B, --shape N,… three numbers --kind" in page
    assert "--kind long|short kind of greeting (default: long)" in page
    assert "--share X share, 50 % by default (default: 0.5)" in page


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_help_page_is_as_wide_as_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert train_main(["--help"]) == 0
    rows = capsys.readouterr().out.partition("options:\n")[2].splitlines()
    assert max(len(row) for row in rows if row.startswith(" " * 24)) <= max(columns, 48)


@pytest.mark.parametrize("main", [train_main, apply_main])
def test_a_help_page_shows_no_python(capsys, main):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert not re.search(r"None|PosixPath|<class|Annotated", page)


def test_the_help_page_of_train_has_every_key_of_the_config_file(capsys):
    assert train_main(["--help"]) == 0
    page = capsys.readouterr().out
    assert [name for name in Config.model_fields if f"--{name}" not in page] == []


def test_rcan_lists_its_commands(capsys):
    assert rcan_main([]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in ("train", "apply", "simulate"))


def test_rcan_refuses_an_unknown_command_with_the_nearest(capsys):
    assert rcan_main(["aply"]) == 2
    assert capsys.readouterr().err == ("error: aply is not a command. Did you mean apply? (rcan --help lists them.)\n")


def test_rcan_hands_the_arguments_to_its_command(capsys):
    assert rcan_main(["train", "--epoch", "3"]) == 2
    assert "(rcan train --help lists all flags.)" in capsys.readouterr().err
