"""Scores, comparisons and the list of scorers as text: tables for people, JSON and CSV for programs. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from humanpref.records import Comparison, ScoreReport
from humanpref.scorers import ScorerSpec
from humanpref.tables import add_row, make_table, percent, render, to_csv, to_json


def score_json(report: ScoreReport) -> str:
    """{"model", "prompt", "truncated", "results": [...]} in input order, and "failures", "notes"."""
    return to_json(asdict(report))


def score_csv(report: ScoreReport) -> str:
    """One row per scored image, in input order."""
    rows = [(r.image, r.score, r.rank, "" if r.win_probability is None else r.win_probability) for r in report.results]
    return to_csv(("image", "score", "rank", "win_probability"), rows)


def score_table(report: ScoreReport) -> str:
    """Best first, with the probability of being preferred to the mean other image."""
    table = make_table(f"{report.model} · {report.prompt!r}", "#", ">image", "score", "preferred")
    for r in sorted(report.results, key=lambda result: result.rank):
        add_row(table, str(r.rank), r.image, f"{r.score:.4f}", percent(r.win_probability))
    return render(table)


def comparison_json(comparison: Comparison) -> str:
    """The record as it is."""
    return to_json(asdict(comparison))


def comparison_csv(comparison: Comparison) -> str:
    """One row per ordered pair."""
    n = len(comparison.images)
    rows = [
        (comparison.images[i], comparison.images[j], comparison.probabilities[i][j])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return to_csv(("image", "other", "probability"), rows)


def comparison_table(comparison: Comparison) -> str:
    """A matrix: the row's image against the column's."""
    n = len(comparison.images)
    table = make_table(
        f"{comparison.model} · {comparison.prompt!r} · P(row preferred to column)",
        *("#", ">image", "score"),
        *(str(i + 1) for i in range(n)),
    )
    for i in range(n):
        chances = ("·" if i == j else percent(comparison.probabilities[i][j]) for j in range(n))
        add_row(table, str(i + 1), comparison.images[i], f"{comparison.scores[i]:.4f}", *chances)
    return render(table)


def models_json(specs: Sequence[ScorerSpec]) -> str:
    """The rows of the scorer table."""
    rows = []
    for spec in specs:
        companions = [vars(item) for item in spec.companions]
        rows.append({**vars(spec), "published": dict(spec.published), "companions": companions})
    return to_json(rows)


def models_csv(specs: Sequence[ScorerSpec]) -> str:
    """One row per scorer."""
    rows = [(s.name, s.summary, s.licence, s.repo or "", s.file or "", _download_bytes(s) or "") for s in specs]
    return to_csv(("name", "summary", "licence", "repo", "file", "bytes"), rows)


def models_table(specs: Sequence[ScorerSpec]) -> str:
    """Name, what it is, size of its download, published accuracy on the HPD v2 test set."""
    table = make_table(None, ">name", ">what it is", "download", "HPD v2 test", ">licence")
    for s in specs:
        published = s.published.get("hpdv2-test")
        total = _download_bytes(s)
        size = f"{total / 1e9:.2f} GB" if total else "none" if s.ships else "by hand"
        add_row(table, s.name, s.summary, size, "-" if published is None else f"{100 * published:.1f} %", s.licence)
    return render(table)


def _download_bytes(spec: ScorerSpec) -> int:
    """What all the files of a scorer take to download; 0 where nothing can be or need be."""
    return (spec.bytes or 0) + sum(item.bytes or 0 for item in spec.companions)


RENDER_SCORE: Mapping[str, Callable[[ScoreReport], str]] = {"table": score_table, "json": score_json, "csv": score_csv}
RENDER_COMPARISON: Mapping[str, Callable[[Comparison], str]] = {
    "table": comparison_table,
    "json": comparison_json,
    "csv": comparison_csv,
}
RENDER_MODELS: Mapping[str, Callable[[Sequence[ScorerSpec]], str]] = {
    "table": models_table,
    "json": models_json,
    "csv": models_csv,
}
