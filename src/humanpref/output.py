"""Records to text: tables for people, JSON and CSV for programs. Pure: returns strings, prints nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any

from humanpref.records import Comparison, EvalReport, ScoreReport
from humanpref.scorers import ScorerSpec

if TYPE_CHECKING:
    from rich.table import Table


def score_json(report: ScoreReport) -> str:
    """{"model", "prompt", "truncated", "results": [...]} in input order, and "failures", "notes"."""
    return _json(asdict(report))


def score_csv(report: ScoreReport) -> str:
    """One row per scored image, in input order."""
    rows = [(r.image, r.score, r.rank, "" if r.win_probability is None else r.win_probability) for r in report.results]
    return _csv(("image", "score", "rank", "win_probability"), rows)


def score_table(report: ScoreReport) -> str:
    """Best first, with the probability of being preferred to the mean other image."""
    table = _table(f"{report.model} · {report.prompt!r}", "#", ">image", "score", "preferred")
    for r in sorted(report.results, key=lambda result: result.rank):
        _row(table, str(r.rank), r.image, f"{r.score:.4f}", _share(r.win_probability))
    return _render(table)


def comparison_json(comparison: Comparison) -> str:
    """The record as it is."""
    return _json(asdict(comparison))


def comparison_csv(comparison: Comparison) -> str:
    """One row per ordered pair."""
    n = len(comparison.images)
    rows = [
        (comparison.images[i], comparison.images[j], comparison.probabilities[i][j])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return _csv(("image", "other", "probability"), rows)


def comparison_table(comparison: Comparison) -> str:
    """A matrix: the row's image against the column's."""
    n = len(comparison.images)
    table = _table(
        f"{comparison.model} · {comparison.prompt!r} · P(row preferred to column)",
        *("#", ">image", "score"),
        *(str(i + 1) for i in range(n)),
    )
    for i in range(n):
        chances = ("·" if i == j else _share(comparison.probabilities[i][j]) for j in range(n))
        _row(table, str(i + 1), comparison.images[i], f"{comparison.scores[i]:.4f}", *chances)
    return _render(table)


def evaluation_json(report: EvalReport) -> str:
    """{"data", "instances", "pairs", "scorers": [...], "human"}; accuracies in [0, 1]."""
    return _json(asdict(report))


def evaluation_csv(report: EvalReport) -> str:
    """One row per scorer."""
    names = (
        "model",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "pair_accuracy",
        "pair_low",
        "pair_high",
        "published",
    )
    rows = [
        (
            s.model,
            s.accuracy,
            *s.accuracy_ci,
            s.pair_accuracy,
            *s.pair_accuracy_ci,
            "" if s.published_accuracy is None else s.published_accuracy,
        )
        for s in report.scorers
    ]
    return _csv(names, rows)


def evaluation_table(report: EvalReport) -> str:
    """Scorers by accuracy, with intervals and the published figure, and a single human for scale."""
    title = (
        f"{report.data} · {report.instances} instances, {report.pairs} pairs · "
        "% of pairs ordered as people do [95 % interval]"
    )
    table = _table(title, ">", "official rule", "all pairs", "published (full test set)")
    for s in sorted(report.scorers, key=lambda scorer: -scorer.accuracy):
        _row(
            table,
            s.model,
            _interval(s.accuracy, s.accuracy_ci),
            _interval(s.pair_accuracy, s.pair_accuracy_ci),
            "-" if s.published_accuracy is None else f"{100 * s.published_accuracy:.1f}",
        )
    if (human := report.human) is not None:
        table.add_section()
        _row(
            table, "one annotator against the others", "", _interval(human.vs_consensus, human.vs_consensus_ci), "78.1"
        )
        _row(table, "one annotator against another", "", _interval(human.vs_human, human.vs_human_ci), "-")
    return _render(table)


def models_json(specs: Sequence[ScorerSpec]) -> str:
    """The rows of the scorer table."""
    return _json([{**vars(spec), "published": dict(spec.published)} for spec in specs])


def models_csv(specs: Sequence[ScorerSpec]) -> str:
    """One row per scorer."""
    rows = [(s.name, s.summary, s.licence, s.repo or "", s.file or "", s.bytes or "") for s in specs]
    return _csv(("name", "summary", "licence", "repo", "file", "bytes"), rows)


def models_table(specs: Sequence[ScorerSpec]) -> str:
    """Name, what it is, size of its download, published accuracy on the HPD v2 test set."""
    table = _table(None, ">name", ">what it is", "download", "HPD v2 test", ">licence")
    for s in specs:
        published = s.published.get("hpdv2-test")
        size = f"{s.bytes / 1e9:.2f} GB" if s.bytes else "none"
        _row(table, s.name, s.summary, size, "-" if published is None else f"{100 * published:.1f} %", s.licence)
    return _render(table)


RENDER_SCORE: Mapping[str, Callable[[ScoreReport], str]] = {"table": score_table, "json": score_json, "csv": score_csv}
RENDER_COMPARISON: Mapping[str, Callable[[Comparison], str]] = {
    "table": comparison_table,
    "json": comparison_json,
    "csv": comparison_csv,
}
RENDER_EVALUATION: Mapping[str, Callable[[EvalReport], str]] = {
    "table": evaluation_table,
    "json": evaluation_json,
    "csv": evaluation_csv,
}
RENDER_MODELS: Mapping[str, Callable[[Sequence[ScorerSpec]], str]] = {
    "table": models_table,
    "json": models_json,
    "csv": models_csv,
}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def _csv(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def _share(probability: float | None) -> str:
    return "-" if probability is None else f"{100 * probability:.1f} %"


def _interval(value: float, ci: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]"


def _table(title: str | None, *columns: str) -> Table:
    """Make a table; a heading that starts with ">" is text (left-aligned, folded), the others are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        if column.startswith(">"):
            table.add_column(Text(column[1:]), overflow="fold")
        else:
            table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def _row(table: Table, *cells: str) -> None:
    """Add a row as it is: file names may hold square brackets, which rich would take for markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))


def _render(table: Table) -> str:
    import shutil

    from rich.console import Console

    console = Console(file=StringIO(), width=max(60, shutil.get_terminal_size((110, 24)).columns), color_system=None)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
