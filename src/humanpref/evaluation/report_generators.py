"""The tables of a report about generators: what people think of them, and which metric knows it."""

from __future__ import annotations

from collections.abc import Sequence

from humanpref.evaluation.generators import GeneratorReport, GeneratorRow
from humanpref.report.cells import NONE, Cell, Column, Table, brackets, count, minus, percent, plain, row


def generators_table(report: GeneratorReport, key: str) -> Table:
    """Generators as people like them, beside every metric and the place it gives them."""
    metrics = [c.metric for c in report.correlations]
    better = {c.metric: c.higher_is_better for c in report.correlations}
    places = {m: _places([g.metrics[m] * (1 if better[m] else -1) for g in report.generators]) for m in metrics}
    rows = tuple(
        row(
            g.generator,
            f"{g.images:,}",
            (percent(g.human), _interval(g)),
            *((minus(f"{g.metrics[m]:.4g}"), f"({places[m][i]})") for m in metrics),
        )
        for i, g in enumerate(report.generators)
    )
    columns = (
        Column("Generator", words=True),
        Column("images"),
        Column("people, %"),
        *(Column(f"{m} {'↑' if better[m] else '↓'}") for m in metrics),
    )
    note = (
        "People: share of the other generators’ images of the same prompt that its images beat, with 95 % interval. "
        "Metrics on their own scales (↑ higher is better, ↓ lower is better), in brackets the place they give."
    )
    return Table(f"{key}-generators", "Generators, best liked first", columns, rows, note=note)


def correlations_table(report: GeneratorReport, key: str) -> Table:
    """How each metric's order of the generators agrees with people's, best first."""
    found = sorted(report.correlations, key=lambda c: (c.spearman is None, -(c.spearman or 0.0), c.metric))
    rows = tuple(
        row(c.metric, _correlation(c.spearman, c.spearman_ci), _correlation(c.kendall, c.kendall_ci), c.interval_covers)
        for c in found
    )
    columns = (
        Column("Metric", words=True),
        Column("Spearman"),
        Column("Kendall"),
        Column("interval covers", words=True),
    )
    note = f"1 = the same order as people’s, −1 = reversed; {count(report.prompts, 'prompt')}."
    return Table(f"{key}-correlations", "Which metric ranks generators as people do?", columns, rows, note=note)


def _places(values: Sequence[float]) -> list[int]:
    return [1 + sum(other > value for other in values) for value in values]


def _interval(generator: GeneratorRow) -> str:
    ci = generator.human_ci
    return "" if ci is None else brackets(ci)


def _correlation(value: float | None, ci: tuple[float, float] | None) -> Cell:
    if value is None:
        return NONE, ""
    return plain(value), "" if ci is None else brackets(ci, plain)
