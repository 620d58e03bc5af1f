"""What a notebook shows of results."""

import html
import re
from pathlib import Path

import pytest

import rcan
from rcan.inline import as_table, in_notebook
from rcan.report.page import Page
from rcan.restoration.summary import RestoreSummary

NASTY = '<b>"a" & b</b>.tif'


def test_a_report_is_shown_as_it_is_in_a_frame_that_may_not_reach_the_notebook(tmp_path):
    page = Page("Training", NASTY)
    page.text(NASTY)
    page.write(tmp_path / "report.html")
    report = rcan.ReportFile(tmp_path / "report.html")
    shown = report._repr_html_()
    (inside,) = re.findall(r'<iframe srcdoc="([^"]*)"', shown)
    assert html.unescape(inside) == (tmp_path / "report.html").read_text("utf-8")
    assert 'sandbox="allow-scripts"' in shown
    assert Path(report) == tmp_path / "report.html"
    assert repr(report) == f"Report: {tmp_path / 'report.html'}"


def test_a_report_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist: name a report\.html"):
        rcan.ReportFile(tmp_path / "report.html")


def test_cells_of_a_table_are_text():
    assert html.escape(NASTY) in as_table([NASTY], [[NASTY]], caption=NASTY)
    assert NASTY not in as_table([NASTY], [[NASTY]], caption=NASTY)


def test_a_summary_shows_scores_their_mean_and_what_failed():
    scores = [{"psnr_raw": 20.0, "psnr_restored": end, "ssim_raw": 0.5, "ssim_restored": 0.75} for end in (25.0, 27.0)]
    summary = RestoreSummary(
        found={Path("a.tif"), Path("b.tif"), Path("c.tif")},
        restored={Path("a.tif"), Path("b.tif")},
        failed={Path("c.tif"): NASTY},
        scores={"a.tif": scores[0], "b.tif": scores[1]},
    )
    shown = summary._repr_html_()
    assert "2 of 3 images restored" in shown
    assert f"<td>c.tif</td><td>{html.escape(NASTY)}</td>" in shown
    assert "<td>mean</td><td>20.00</td><td>26.00</td><td>+6.00</td>" in shown


def test_tests_are_no_notebook():
    assert not in_notebook()
