"""Evaluation reports as files: one HTML page with plots that needs nothing else, Markdown, or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import humanpref
from humanpref.errors import DataError
from humanpref.evaluation import report_tables as tables
from humanpref.evaluation.generators import GeneratorReport
from humanpref.evaluation.report_generators import correlations_table, generators_table
from humanpref.evaluation.report_plots import correlations, forest, groups, reliability
from humanpref.records import EvalReport
from humanpref.report.cells import Table
from humanpref.report.plots import GLYPHS, NARROW, WIDE, Plot
from humanpref.report.text import latex_document, markdown, markdown_table
from humanpref.report.write import check_report, environment, write_whole

_TITLE = "How well do these scorers agree with people?"


@dataclass(frozen=True)
class Section:
    """One data set of the report."""

    key: str
    title: str
    data: str
    lead: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    measures: Table
    differences: Table | None
    groups: Sequence[Table]
    calibration: Table | None
    people: Table | None
    identity: Table


def write_report(
    reports: Sequence[EvalReport], path: str | Path, generators: Sequence[tuple[str, GeneratorReport]] = ()
) -> None:
    """Write a report of one or several test sets; the ending of `path` chooses HTML, Markdown or LaTeX.

    generators: for each data set by its name, which metric ranks its generators as people do. The file appears when it
    is complete; the same reports give the same bytes. Raises as `check_report`, and `DataError` for a path that cannot
    be written.
    """
    path = Path(path)
    check_report(path)
    if not reports:
        raise DataError(f"{path}: there is nothing to report on")
    render = {".html": _html, ".md": _markdown, ".tex": _latex}[path.suffix.lower()]
    content = render(reports, generators)
    write_whole(path, content)


def _sections(reports: Sequence[EvalReport]) -> list[Section]:
    found = []
    for i, (report, title) in enumerate(zip(reports, tables.titles(reports), strict=True)):
        key = f"set{i + 1}"
        found.append(
            Section(
                key=key,
                title=title,
                data=report.data,
                lead=tables.lead(report, title),
                facts=tables.facts(report),
                notes=report.notes,
                measures=tables.measures_table(report, key),
                differences=tables.differences_table(report, key),
                groups=tables.group_tables(report, key),
                calibration=tables.calibration_table(report, key),
                people=tables.human_table(report.human, key),
                identity=tables.identity_table(report, key),
            )
        )
    return found


def _generator_tables(generators: Sequence[tuple[str, GeneratorReport]]) -> list[tuple[str, Table, Table]]:
    return [
        (data, correlations_table(report, f"gen{i + 1}"), generators_table(report, f"gen{i + 1}"))
        for i, (data, report) in enumerate(generators)
    ]


def _method(reports: Sequence[EvalReport]) -> str:
    seeds = sorted({report.seed for report in reports})
    return (
        "Intervals are 95 %, by a bootstrap over prompts. "
        f"Seed {', '.join(map(str, seeds))}; humanpref {humanpref.__version__}."
    )


def _html(reports: Sequence[EvalReport], generators: Sequence[tuple[str, GeneratorReport]]) -> str:
    sections = _sections(reports)
    return (
        environment("humanpref.evaluation")
        .get_template("evaluation.html.j2")
        .render(
            title=_TITLE,
            summary=tables.paper_table(reports),
            sections=sections,
            plots={s.key: _plots(report, s) for s, report in zip(sections, reports, strict=True)},
            generators=[
                (data, correlation, table, [correlations(report, data or str(i), w) for w in (WIDE, NARROW)])
                for i, ((data, correlation, table), (_, report)) in enumerate(
                    zip(_generator_tables(generators), generators, strict=True)
                )
            ],
            rules=tables.rules(reports),
            glyphs=GLYPHS,
            method=_method(reports),
        )
    )


def _plots(report: EvalReport, section: Section) -> dict[str, object]:
    scorers = tables.ordered(report)
    drawn = [s for s in scorers if s.groups][: len(GLYPHS)]
    by_part: list[tuple[str, Plot]] = [
        (tables.CUT_TITLES.get(by, by), groups(report, drawn, by, section.key)) for by in tables.cuts(report)
    ]
    return {
        "forest": [forest(report, section.title, width) for width in (WIDE, NARROW)],
        "reliability": [
            reliability(s, s.calibration, f"{section.key} {i}")
            for i, s in enumerate(scorers)
            if s.calibration is not None and s.calibration.bins
        ],
        "groups": by_part,
        "drawn": [s.model for s in drawn],
        "left_out": len(scorers) - len(drawn),
    }


def _markdown(reports: Sequence[EvalReport], generators: Sequence[tuple[str, GeneratorReport]]) -> str:
    blocks = [f"# {_TITLE}", markdown_table(tables.paper_table(reports))]
    for s in _sections(reports):
        blocks += [f"## {markdown(s.title)}", f"Data: {markdown(s.data)}", markdown(s.lead)]
        blocks.append(", ".join(f"{name}: {value}" for name, value in s.facts))
        if s.notes:
            blocks.append("\n".join(f"- {markdown(note)}" for note in s.notes))
        found = [s.measures, s.differences, *s.groups, s.calibration, s.people, s.identity]
        for table in found:
            if table is not None:
                blocks += [f"### {markdown(table.caption)}", markdown_table(table)]
    for data, correlation, table in _generator_tables(generators):
        blocks.append(f"## Generators: {markdown(data)}")
        for one in (correlation, table):
            blocks += [f"### {markdown(one.caption)}", markdown_table(one)]
    if rules := tables.rules(reports):
        blocks += ["## What the measures mean", "\n".join(f"- **{markdown(n)}**: {markdown(t)}" for n, t in rules)]
    return "\n\n".join([*blocks, markdown(_method(reports))]) + "\n"


def _latex(reports: Sequence[EvalReport], generators: Sequence[tuple[str, GeneratorReport]]) -> str:
    found = [tables.paper_table(reports)]
    for _, correlation, table in _generator_tables(generators):
        found += [correlation, table]
    return latex_document(found, _method(reports))
