"""The notebooks, each run once in a kernel of its own, with less data and shorter trainings."""

import base64
import os
import re
from pathlib import Path

import numpy as np
import pytest

import rcan

nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = {  # in the place of the cell that is tagged `parameters`
    "1_train_and_restore": "PAIRS, SHAPE = 2, (12, 64, 64)\nEPOCHS, STEPS, CHANNELS = 2, 40, 8",
    "2_your_own_data": (
        'SOURCE, FOLDER, OUTPUT = "sample", "my_data", "my_results"\nEPOCHS, STEPS, CHANNELS = 1, 4, 8\n'
        'PATCH, SAMPLE = [8, 16, 16], {"pairs": 2, "shape": (8, 48, 48)}'
    ),
    "3_judge_a_network": (
        "PAIRS, SHAPE = 2, (8, 48, 48)\nEPOCHS, STEPS, CHANNELS = 1, 20, 8\nPHOTONS, BLURS, VOLUMES = (20,), (2,), 3"
    ),
    "4_for_method_developers": "PAIRS, SHAPE = 2, (8, 48, 48)\nEPOCHS, STEPS, CHANNELS = 1, 4, 8",
}


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request, tmp_path_factory):
    """A notebook, and the same executed; an error in a cell fails every test of it."""
    written = nbformat.read(request.param, as_version=4)
    notebook = nbformat.read(request.param, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SHORT[request.param.stem]
    folder = tmp_path_factory.mktemp(request.param.stem)
    run_notebook(notebook, folder)
    return request.param.stem, written, notebook, folder


def run_notebook(notebook, folder):
    """Run all cells in a folder, with the package of this checkout."""
    paths = [str(Path(rcan.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()


def outputs_of(notebook, kind):
    """All outputs of one MIME type."""
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def text_of(notebook):
    """All that was printed."""
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS} == SHORT.keys()


def test_notebook_is_kept_without_outputs_and_says_how_long_it_takes(executed):
    _, written, *_ = executed
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in written.cells)
    assert "**Time:**" in written.cells[0].source
    assert all(len(line) <= 120 for cell in written.cells for line in cell.source.splitlines())


def test_notebook_runs_without_an_error_and_shows_pictures(executed):
    _, _, notebook, _ = executed
    kinds = {output["output_type"] for cell in notebook.cells for output in cell.get("outputs", ())}
    assert "error" not in kinds
    assert "SystemExit" not in text_of(notebook)
    pictures = [base64.b64decode(picture) for picture in outputs_of(notebook, "image/png")]
    assert pictures
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_progress_of_a_notebook_is_few_lines(executed):
    _, _, notebook, _ = executed
    texts = outputs_of(notebook, "text/plain")
    assert any(re.search(r"Training: 100% \d+/\d+", text) for text in texts)
    assert all(len(text.splitlines()) < 60 for text in texts if "%" in text)
    assert not re.search(r"^Epoch 1/", text_of(notebook), re.MULTILINE)  # it is in the text that is replaced


def test_what_a_notebook_claims_is_so(executed):
    name, _, notebook, folder = executed
    CLAIMS[name](notebook, folder)


def check_first(notebook, folder):
    """Restored is closer to the ground truth than raw, in the table; the report is inline; errors are told."""
    tables = [table for table in outputs_of(notebook, "text/html") if table.startswith("<p>2 of 2 images restored")]
    cells = re.findall(r"<td>(.*?)</td>", tables[0])
    raw, restored = (float(cells[cells.index("mean") + column]) for column in (1, 2))
    assert restored > raw
    assert any("<iframe srcdoc=" in page for page in outputs_of(notebook, "text/html"))
    assert "no_such_folder" in text_of(notebook)
    assert len(list((folder / "restored").glob("mixture_*.tif"))) == 2


def check_second(notebook, folder):
    """The machine and the findings are shown, and all images of the sample are restored."""
    assert re.search(r"rcan .*Python .*TensorFlow", text_of(notebook))
    assert re.search("^GPU: ", text_of(notebook), re.MULTILINE)
    assert any("<th>finding</th>" in table for table in outputs_of(notebook, "text/html"))
    assert len(list((folder / "my_results" / "restored").glob("mixture_*.tif"))) == 2


def check_third(notebook, folder):
    """Scores, limits and the report are inline."""
    shown = "".join(outputs_of(notebook, "text/html"))
    assert "<th>method</th>" in shown
    assert "<th>limit</th>" in shown
    assert "srcdoc=" in shown
    assert "restored is" in text_of(notebook)
    assert (folder / "limits" / "report.html").is_file()


def check_fourth(notebook, folder):
    """Own functions are recorded, a wrong loss is refused, and JAX computes the same network."""
    text = text_of(notebook)
    assert "{'loss': '__main__.edge_loss', 'augment': '__main__.drop_planes'}" in text
    assert "{'network': '__main__.build_plain'}" in text
    assert "write it with keras.ops, not with NumPy" in text
    (difference,) = re.findall(r"jax: the largest difference to TensorFlow is (\S+),", text)
    assert float(difference) < 1e-4
    assert re.search(r"^torch( is not installed|: the largest difference)", text, re.MULTILINE)


CLAIMS = dict(zip(SHORT, (check_first, check_second, check_third, check_fourth), strict=True))


def test_many_lines_of_progress_leave_the_last_ones(tmp_path):
    code = """
from rcan.progress import Progress
with Progress(200, "Training", unit="step") as progress:
    for number in range(200):
        progress.advance(1, loss="0.5")
        progress.say(f"Epoch {number}")
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    run_notebook(notebook, tmp_path)
    (output,) = notebook.cells[0].outputs
    *said, last = output["data"]["text/plain"].splitlines()
    assert said == [f"Epoch {number}" for number in range(195, 200)]
    assert re.match(r"Training: 100% 200/200 \[.*loss=0\.5\]", last)
    assert np.all([line in output["data"]["text/html"] for line in said])
