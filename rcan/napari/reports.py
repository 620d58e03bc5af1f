"""The widget that checks pairs, finds the limits of a network, and opens the reports about both."""

from pathlib import Path

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QGroupBox

from rcan.napari.parts import JobWidget, PathEdit, make_form

__all__ = ["ReportsWidget", "check_pairs", "find_limits", "find_report"]


class ReportsWidget(JobWidget):
    """Check pairs, find where a network stops helping, and open reports in a browser."""

    def __init__(self, napari_viewer):
        super().__init__(napari_viewer)
        self.raw_folder, self.gt_folder = PathEdit("raw images"), PathEdit("their ground truth")
        self.model = PathEdit("run folder, .keras file or address", takes_address=True)
        self.sharp = PathEdit("optional: sharp images (else phantoms)")
        self.output = PathEdit("folder to write")
        for title, rows in (
            ("Pairs to train on", {"Raw": self.raw_folder, "Ground truth": self.gt_folder}),
            ("Network", {"Network": self.model, "Sharp images": self.sharp}),
        ):
            box = QGroupBox(title)
            box.setLayout(make_form(**rows))
            self.form.addRow(box)
        self.form.addRow("Reports go to", self.output)
        self.add_buttons(
            ("Check pairs", lambda: self.start(self._prepare_check)),
            ("Find limits", lambda: self.start(self._prepare_limits)),
            ("Open report", lambda: self.start(self._prepare_opening)),
        )
        self.body.addStretch()
        tips = (
            "What is wrong with the pairs, before a training (rcan check)",
            "From which noise and blur on the network stops helping; takes a while, and goes on where it was stopped "
            "(rcan limits)",
            "The report of the network's training",
        )
        for button, tip in zip(self.start_buttons, tips, strict=True):
            button.setToolTip(tip)

    def _prepare_check(self):
        raw = self.raw_folder.require("the folder of raw images")
        gt, output = self.gt_folder.require("the folder of ground truth"), self.output.require("a folder for reports")
        return lambda job: check_pairs(job, raw, gt, output)

    def _prepare_limits(self):
        model, output = self.model.require("a run folder"), self.output.require("a folder for reports")
        sharp = self.sharp.path
        return lambda job: find_limits(job, model, sharp, output)

    def _prepare_opening(self):
        model = self.model.require("a run folder")
        return lambda job: (find_report(model), "")

    def on_report(self, line):
        """Show a line that a command prints."""
        if self.stop_button.isEnabled():
            self.state_label.setText(line)

    def on_success(self, result):
        """Open the report."""
        report, finding = result
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(report)))
        return f"{finding} Report: {report}".strip()


def check_pairs(job, raw, gt, output):
    """Check pairs of two folders in a `Job`: path of the report, and what is wrong in a line."""
    output.mkdir(parents=True, exist_ok=True)
    report, finding = output / "check.html", "No problem was found."
    earlier = _time_of(report)
    try:
        job.run_command(["check", "-i", raw, "-g", gt, "--report", report], job.report)
    except ValueError as failure:
        if _time_of(report) == earlier:  # no report was written
            raise
        finding = str(failure).partition(":")[0] + "."  # the report has the rest
    return report, finding


def _time_of(path):
    """When a file was written, in ns; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


def find_limits(job, model, sharp, output):
    """Find the limits of a network in a `Job`, on sharp images or phantoms: path of the report, and nothing more."""
    images = ["-i", sharp] if sharp else []
    job.run_command(["limits", "-m", model, *images, "-o", output / "limits"], job.report)
    return output / "limits" / "report.html", ""


def find_report(model):
    """Path of the report of a run folder."""
    model = Path(model)
    report = (model if model.is_dir() else model.parent) / "report.html"
    if not report.is_file():
        raise FileNotFoundError(f"{report} does not exist: a training writes it at its end.")
    return report
