"""The curve of the best of k as a table, JSON and files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from humanpref.errors import DataError
from humanpref.files import whole
from humanpref.improve.best_of.curve import BestOfReport
from humanpref.improve.compare.output import brackets, seconds
from humanpref.improve.gains import signed
from humanpref.tables import add_row, make_table, render, to_json

REPORT = "best-of.json"
ALL_UP_TO = 8
"""So many rows of a table are shown in full."""


def best_of_table(report: BestOfReport) -> str:
    """The curve, one row a k (powers of two and the last where there are many)."""
    title = (
        f"{report.source}: expected best of k, chosen by {report.scorers[0]}; {report.prompts:,} prompts, "
        f"{report.images:,} images"
    )
    columns = [heading for name in report.scorers for heading in (name, "gain", "95 %")]
    table = make_table(title, "k", *columns, "prompts", "s/prompt")
    last = report.points[-1].k
    for point in report.points:
        if last > ALL_UP_TO and point.k & (point.k - 1) and point.k != last:
            continue
        cells = [
            cell
            for worth in point.worth
            for cell in (
                f"{worth.mean:.4f}",
                "" if point.k == 1 else signed(worth.gain),
                "" if point.k == 1 else brackets(worth.ci),
            )
        ]
        add_row(table, f"{point.k}", *cells, f"{point.prompts:,}", seconds(point.seconds))
    return render(table)


def best_of_json(report: BestOfReport) -> str:
    """The report for programs."""
    return to_json({**asdict(report), "folder": str(report.folder)})


def write_best_of(report: BestOfReport, out: Path) -> Path:
    """Write the report to best-of.json in `out` -> its path. Raises `DataError`."""
    path = out / REPORT
    try:
        out.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(best_of_json(report) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
