"""What GitHub runs and asks; `make lint` checks the form of these files."""

import re
import subprocess
import sys

import pytest
from documents import ROOT
from repository import PYTHONS, load_yaml

WORKFLOWS = {path.stem: load_yaml(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
STEPS = [
    (name, step)
    for name, workflow in WORKFLOWS.items()
    for job in workflow["jobs"].values()
    for step in job.get("steps", ())
]
SCRIPTS = [
    pytest.param(step["run"], id=f"{name}-{step['run'].splitlines()[0]}") for name, step in STEPS if "run" in step
]
FORMS = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def script_of(name, word):
    """The one script of a workflow that has a word."""
    (script,) = [step["run"] for owner, step in STEPS if owner == name and word in step.get("run", "")]
    return script


def run(script, folder, **variables):
    """Run a script as GitHub does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {"PATH": f"{folder}:/usr/bin:/bin", **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_valid(script):
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_unless_a_job_says_more(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert "concurrency" in WORKFLOWS[name]
    assert all("timeout-minutes" in job for job in WORKFLOWS[name]["jobs"].values() if "steps" in job)


@pytest.mark.parametrize("action", sorted({step["uses"] for _, step in STEPS if "uses" in step}))
def test_an_action_has_a_version(action):
    assert re.fullmatch(r"[\w./-]+@((release/)?v\d+|[0-9a-f]{40})", action)


def test_the_tests_run_as_anywhere_with_the_oldest_and_the_newest_python():
    (job,) = WORKFLOWS["ci"]["jobs"].values()
    assert job["steps"][-1] == {"run": "rcan/.ci/run"}
    assert [step["with"]["path"] for step in job["steps"] if "checkout" in step.get("uses", "")] == ["rcan", "shared"]
    assert job["strategy"]["matrix"]["python"] == list(PYTHONS)


def test_the_tests_have_the_packages_that_root_would_install():
    (line,) = re.findall(r"apt-get install .*--no-install-recommends (xvfb .*) >", (ROOT / ".ci/run").read_text())
    assert set(line.split()) <= set(script_of("ci", "apt-get").split())


@pytest.mark.parametrize(("data", "status"), [("", 1), ("lab/data", 0)])
def test_without_test_data_the_tests_end_in_one_line(tmp_path, data, status):
    done = run(script_of("ci", "$DATA"), tmp_path, DATA=data)
    assert done.returncode == status
    assert len(done.stdout.splitlines()) == status
    assert "TEST_DATA_REPOSITORY is not set" in done.stdout or data


@pytest.mark.parametrize(("tag", "status"), [("v1.2.3", 0), ("v1.2.4", 1), ("1.2.3", 1)])
def test_only_a_tag_that_is_the_version_is_published(tmp_path, tag, status):
    (tmp_path / "rcan.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github/release_notes.py").write_text((ROOT / ".github/release_notes.py").read_text())
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3\n\n- News.\n\n## 1.2.2\n")
    (tmp_path / "python").symlink_to(sys.executable)
    done = run(script_of("publish", 'GITHUB_REF_NAME" !='), tmp_path, GITHUB_REF_NAME=tag)
    assert done.returncode == status
    notes = tmp_path / "release/notes.md"
    assert (notes.read_text() if notes.exists() else "") == ("" if status else "- News.\n")


def test_nothing_is_published_before_the_tests_pass():
    jobs = WORKFLOWS["publish"]["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/ci.yml"
    assert "tests" in jobs["publish"]["needs"]
    assert jobs["release"]["needs"] == "publish"


def test_the_site_is_built_as_by_hand():
    assert script_of("docs", "make") == "make docs"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_who_asks_for_help_is_asked_for_what_helps(form):
    text = form.read_text("utf-8")
    wanted = {"bug": ["rcan doctor", "--debug"], "restoration": ["rcan doctor", "report.html", "inside, edge, outside"]}
    assert all(words in text for words in wanted.get(form.stem, ["want to do"]))
