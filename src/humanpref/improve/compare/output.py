"""Comparisons of methods as tables, JSON and files."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from humanpref.errors import DataError
from humanpref.files import whole
from humanpref.improve.compare.compare import REPORT, ComparedPrompt, CompareReport
from humanpref.improve.compare.images import BASELINE
from humanpref.improve.gains import Gain, signed
from humanpref.tables import add_row, make_table, percent, render, to_json


def compare_table(report: CompareReport) -> str:
    """What each method gains by each scorer, then what it costs."""
    table = make_table(
        gains_title(report), ">method", ">judged by", "gain", "95 %", "p", "better in", "95 %", "pairs", "",
    )  # fmt: skip
    for gain in report.gains:
        add_row(
            table, gain.method, gain.scorer, signed(gain.gain), brackets(gain.ci), p_text(gain.p_holm),
            percent(gain.win_rate), percents(gain.win_rate_ci), f"{gain.pairs:,}", mark(gain),
        )  # fmt: skip
    cost = make_table(None, ">method", "images", "refused", "failed", "unreadable", "cut", "s/image", "cost")
    for one in report.methods:
        add_row(
            cost, one.method, *(f"{count:,}" for count in (one.done, one.refused, one.failed, one.unreadable)),
            f"{one.truncated:,}", seconds(one.seconds_per_image), times(one.cost),
        )  # fmt: skip
    legend = "p: sign-flip test over prompts, corrected for all gains (Holm)."
    if any(gain.selected for gain in report.gains):
        legend += " *: it chose its images by this scorer."
    return f"{render(table)}\n{legend}\n\n{render(cost)}"


def gains_title(report: CompareReport) -> str:
    """What is compared, in a line."""
    images = "" if report.images_per_prompt == 1 else f", {report.images_per_prompt} images each"
    return f"{report.backend}: methods minus {BASELINE}, {report.prompts:,} prompts{images}, seed {report.seed}"


def mark(gain: Gain) -> str:
    """A star where the judge is who chose."""
    return "*" if gain.selected else ""


def brackets(ci: tuple[float, float] | None) -> str:
    """An interval of differences."""
    return "-" if ci is None else f"[{signed(ci[0])}, {signed(ci[1])}]"


def percents(ci: tuple[float, float] | None) -> str:
    """An interval of shares."""
    return "-" if ci is None else f"[{100 * ci[0]:.0f}, {100 * ci[1]:.0f}]"


def p_text(p: float) -> str:
    """A p value; very small ones are not told apart."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float | None) -> str:
    """Seconds, or that they were not measured."""
    return "-" if value is None else f"{value:.2f}"


def times(value: float | None) -> str:
    """A multiple of the baseline's cost."""
    return "-" if value is None else f"{value:.1f} x"


def compare_json(report: CompareReport, *, rows: bool = False) -> str:
    """The report for programs; with `rows` every image and score, too."""
    answer: dict[str, Any] = {
        "out": str(report.out),
        "backend": report.backend,
        "seed": report.seed,
        "prompts": report.prompts,
        "images_per_prompt": report.images_per_prompt,
        "scorers": list(report.scorers),
        "methods": [{**asdict(one), "folder": _relative(one.folder, report.out)} for one in report.methods],
        "gains": [{**asdict(gain), "holds": gain.holds} for gain in report.gains],
        "warnings": list(report.warnings),
        "notes": list(report.notes),
    }
    if rows:
        answer["images"] = [_row(report, row) for row in report.rows]
    return to_json(answer)


def write_report(report: CompareReport) -> Path:
    """Write all that is known to compare.json in `out` -> its path. Raises `DataError`."""
    path = report.out / REPORT
    try:
        with whole(path) as part:
            part.write_text(compare_json(report, rows=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def _row(report: CompareReport, row: ComparedPrompt) -> dict[str, Any]:
    images = {
        method.method: {
            "status": image.status,
            "path": None if image.path is None else _relative(image.path, report.out),
            "scores": dict(zip(report.scorers, image.scores, strict=True)),
            "seconds": image.seconds,
            "truncated": image.truncated,
            "reason": image.reason,
        }
        for method, image in zip(report.methods, row.images, strict=True)
    }
    return {"prompt": row.prompt, "id": row.id, "number": row.number, "seed": row.seed, "images": images}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
