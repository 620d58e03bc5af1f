"""scores.csv: the scores of all images of a folder, by name of the output."""

import csv

from rcan.atomic_io import write_table

__all__ = ["SCORE_COLUMNS", "ScoreTable"]

SCORE_COLUMNS = ["file", "psnr_raw", "psnr_restored", "ssim_raw", "ssim_restored"]


class ScoreTable:
    """Keeps the rows of earlier calls, so that scoring one more image loses none.

    Where a file of that name is no table of scores, it is an error if one is needed (`must_be_one`).
    """

    def __init__(self, path, *, must_be_one):
        self._path = path
        self._rows = _read(path, must_be_one)

    def replace(self, name, scores):
        """Write the scores of an output, or without any remove outdated ones."""
        outdated = self._rows.pop(name, None)
        if scores:
            self._rows[name] = scores
        if not (scores or outdated):
            return
        rows = [{"file": name, **row} for name, row in self._rows.items()]
        write_table(self._path, rows, SCORE_COLUMNS)


def _read(path, must_be_one):
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        if reader.fieldnames != SCORE_COLUMNS or any(None in row for row in rows):
            if not must_be_one:
                return {}
            raise FileExistsError(f"{path} is not a table of scores: move it, or name another place with -o.")
        return {row.pop("file"): row for row in rows}
