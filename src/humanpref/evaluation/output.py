"""Evaluation reports as text: tables for people, JSON and CSV for programs. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from humanpref.evaluation.generators import GeneratorReport, GeneratorRow
from humanpref.evaluation.measures import TITLES
from humanpref.records import EvalReport, HumanResult, Measure, ScorerResult
from humanpref.tables import add_row, make_table, render, to_csv, to_json

SINGLE_HUMAN: Mapping[str, float] = {"hpdv2-test": 0.781, "imagereward-test": 0.653}
"""One person, as published in HPS v2's table (arXiv 2306.09341) for the full test sets."""


def evaluation_json(reports: Sequence[EvalReport]) -> str:
    """{"data", "instances", "pairs", "scorers": [...], "human", ...} of one data set; of several {"reports": [...]}.

    A measure x becomes "x" and "x_ci" (95 %); accuracies in [0, 1]; null where the data does not define it.
    """
    found = [report_dict(report) for report in reports]
    return to_json(found[0] if len(found) == 1 else {"reports": found})


def report_dict(report: EvalReport) -> dict[str, Any]:
    """The record as plain values, measures laid flat."""
    whole = asdict(report)
    whole["scorers"] = [
        {
            "model": s.model,
            **_flat(s.measures),
            **{key: value for key, value in asdict(s).items() if key not in {"model", "measures", "groups"}},
            "groups": [
                {"by": g.by, "value": g.value, "instances": g.instances, "pairs": g.pairs, **_flat(g.measures)}
                for g in s.groups
            ],
        }
        for s in report.scorers
    ]
    if report.human is not None:
        plain = {key: value for key, value in vars(report.human).items() if not isinstance(value, Measure)}
        whole["human"] = plain | _flat({k: v for k, v in vars(report.human).items() if k not in plain})
        whole["human"] |= {key: None for key, value in plain.items() if value is None}
    return whole


def _flat(measures: Mapping[str, Measure | None]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, measure in measures.items():
        flat[name] = None if measure is None else measure.value
        flat[f"{name}_ci"] = None if measure is None else measure.ci
    return flat


def evaluation_csv(reports: Sequence[EvalReport]) -> str:
    """One row per data set, scorer, part of the data and measure; `by` and `value` are empty for the whole.

    Differences are rows of the headline measure whose model is "a - b", with a p value.
    """
    names = ("data", "model", "by", "value", "measure", "estimate", "low", "high", "published", "p_value")
    return to_csv(names, (row for report in reports for row in _csv_rows(report)))


def _csv_rows(report: EvalReport) -> Iterator[tuple[object, ...]]:
    for s in report.scorers:
        parts = [("", "", s.measures), *((g.by, g.value, g.measures) for g in s.groups)]
        for by, value, measures in parts:
            for name, m in measures.items():
                if m is not None:
                    published = s.published_accuracy if name == report.rule and not by else None
                    row = (report.data, s.model, by, value, name, m.value, *_ends(m.ci))
                    yield (*row, "" if published is None else published, "")
        if s.calibration is not None:
            yield report.data, s.model, "", "", "expected_calibration_error", s.calibration.ece, "", "", "", ""
    for d in report.differences:
        named = f"{d.model} - {d.other}"
        yield report.data, named, "", "", report.rule, d.difference, *_ends(d.ci), "", d.p_value
    if report.human is not None:
        for name, m in vars(report.human).items():
            if isinstance(m, Measure):
                yield report.data, "human", "", "", name, m.value, *_ends(m.ci), "", ""


def _ends(ci: tuple[float, float] | None) -> tuple[float, float] | tuple[str, str]:
    return ("", "") if ci is None else ci


def evaluation_table(reports: Sequence[EvalReport]) -> str:
    """One data set: scorers by accuracy with people for scale. Several: first the table of scorers by test sets."""
    parts = [_paper_table(reports)] if len(reports) > 1 else []
    for report in reports:
        parts += [_one_table(report), *_difference_lines(report)]
    return "\n\n".join(parts)


def _one_table(report: EvalReport) -> str:
    title = (
        f"{report.data} · {report.instances} instances, {report.pairs} pairs · "
        "% of pairs ordered as people do [95 % interval]"
    )
    columns = dict.fromkeys([report.rule, "pair_accuracy"])
    table = make_table(title, ">", *(TITLES[c] for c in columns), TITLES["kendall_tau_b"], "published (full set)")
    for s in _by_headline(report):
        cells = [_interval(s.measures[c]) for c in columns]
        tau = s.measures["kendall_tau_b"]
        add_row(table, s.model, *cells, "-" if tau is None else f"{tau.value:.3f}", _share(s.published_accuracy))
    if (human := report.human) is not None:
        table.add_section()
        for name, official, pairs in _human_rows(human):
            single = None if official is None else SINGLE_HUMAN.get(report.test_set or "")
            shown = {"accuracy": official, "pair_accuracy": pairs}
            people = ("" if (m := shown.get(c)) is None else _interval(m) for c in columns)
            add_row(table, name, *people, "", _share(single))
    return render(table)


def _human_rows(human: HumanResult) -> list[tuple[str, Measure | None, Measure | None]]:
    rows: list[tuple[str, Measure | None, Measure | None]] = [
        ("a single person, own vote counted", human.in_consensus, None),
        ("a person against the others", None, human.vs_consensus),
        ("a person against another", None, human.vs_human),
        ("about the best possible", None, human.ceiling_vs_consensus),
        ("... against one person", None, human.ceiling_vs_human),
    ]
    return [row for row in rows if row[1] is not None or row[2] is not None]


def _paper_table(reports: Sequence[EvalReport]) -> str:
    table = make_table(
        "% of pairs ordered as people do, by each test set's own rule [95 % interval] (published)",
        ">",
        *(f"{name}\n{TITLES[report.rule]}" for name, report in zip(_short_names(reports), reports, strict=True)),
    )
    for s in _by_headline(reports[0]):
        row = [next(x for x in report.scorers if x.model == s.model) for report in reports]
        figures = [(own.measures[r.rule], own.published_accuracy) for r, own in zip(reports, row, strict=True)]
        add_row(table, s.model, *(_interval(m) + _in_brackets(published) for m, published in figures))
    table.add_section()
    people = [(single_person(report), SINGLE_HUMAN.get(report.test_set or "")) for report in reports]
    add_row(table, "a single person", *(_interval(m) + _in_brackets(published) for m, published in people))
    return render(table)


def _short_names(reports: Sequence[EvalReport]) -> list[str]:
    """The last parts of the data's names that tell them apart."""
    parts = [Path(report.data).parts or ("data",) for report in reports]
    for keep in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-keep:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [report.data for report in reports]


def single_person(report: EvalReport) -> Measure | None:
    """One person against the consensus, with their own vote in it where the data gives one, as in the paper."""
    if report.human is None:
        return None
    return report.human.in_consensus or report.human.vs_consensus


def _in_brackets(published: float | None) -> str:
    return "" if published is None else f" ({_share(published)})"


def _difference_lines(report: EvalReport) -> list[str]:
    lines = []
    for d in report.differences:
        ahead, behind, sign = (d.model, d.other, 1) if d.difference >= 0 else (d.other, d.model, -1)
        low_high = sorted(100 * sign * x for x in d.ci) if d.ci else None
        interval = "" if low_high is None else f" [{low_high[0]:.1f}, {low_high[1]:.1f}]"
        lines.append(
            f"{ahead} is ahead of {behind} by {100 * abs(d.difference):.1f} points{interval}, p = {d.p_value:.2g}"
            + (
                f" ({d.p_holm:.2g} corrected for {len(report.differences)} comparisons)"
                if len(report.differences) > 1
                else ""
            )
        )
    return ["\n".join(lines)] if lines else []


def generators_json(reports: Sequence[tuple[str, GeneratorReport]]) -> str:
    """{"data", "prompts", "generators": [...], "correlations": [...]}; of several data sets {"reports": [...]}."""
    found = [{"data": data, **asdict(report)} for data, report in reports]
    return to_json(found[0] if len(found) == 1 else {"reports": found})


def generators_csv(reports: Sequence[tuple[str, GeneratorReport]]) -> str:
    """One row per data set, generator and metric, `people` being the share of comparisons it wins; then one per metric
    and correlation, without a generator."""
    return to_csv(
        ("data", "generator", "metric", "statistic", "value", "low", "high"),
        (row for data, report in reports for row in _generator_rows(data, report)),
    )


def _generator_rows(data: str, report: GeneratorReport) -> Iterator[tuple[object, ...]]:
    for g in report.generators:
        yield data, g.generator, "people", "strength", g.human, *_ends(g.human_ci)
        for metric, value in g.metrics.items():
            yield data, g.generator, metric, "value", value, "", ""
    for c in report.correlations:
        for name, found, ci in (("spearman", c.spearman, c.spearman_ci), ("kendall", c.kendall, c.kendall_ci)):
            yield data, "", c.metric, name, "" if found is None else found, *_ends(ci)


def generators_table(reports: Sequence[tuple[str, GeneratorReport]]) -> str:
    """Generators by what people think of them beside every metric; then how each metric's order agrees with theirs."""
    parts = []
    for data, report in reports:
        metrics = [c.metric for c in report.correlations]
        title = f"{data} · {report.prompts} prompts · % of comparisons won [95 % interval], and each metric"
        table = make_table(title, ">generator", "images", "people", *metrics)
        for g in sorted(report.generators, key=lambda row: -row.human):
            cells = [f"{g.metrics[m]:.4g}" for m in metrics]
            add_row(table, g.generator, str(g.images), _of_people(g), *cells)
        parts.append(render(table))
        table = make_table(
            "agreement with people's order of the generators", ">metric", "Spearman", "Kendall", ">interval covers"
        )
        for c in report.correlations:
            add_row(
                table,
                c.metric,
                _correlation(c.spearman, c.spearman_ci),
                _correlation(c.kendall, c.kendall_ci),
                c.interval_covers,
            )
        parts.append(render(table))
    return "\n\n".join(parts)


RENDER_EVALUATION: Mapping[str, Callable[[Sequence[EvalReport]], str]] = {
    "table": evaluation_table,
    "json": evaluation_json,
    "csv": evaluation_csv,
}
RENDER_GENERATORS: Mapping[str, Callable[[Sequence[tuple[str, GeneratorReport]]], str]] = {
    "table": generators_table,
    "json": generators_json,
    "csv": generators_csv,
}


def _by_headline(report: EvalReport) -> list[ScorerResult]:
    def key(s: ScorerResult) -> float:
        return -1.0 if (m := s.measures[report.rule]) is None else m.value

    return sorted(report.scorers, key=key, reverse=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    interval = "" if measure.ci is None else f" [{100 * measure.ci[0]:.1f}, {100 * measure.ci[1]:.1f}]"
    return f"{100 * measure.value:.1f}{interval}"


def _of_people(row: GeneratorRow) -> str:
    return f"{100 * row.human:.1f}" if row.human_ci is None else _interval(Measure(row.human, row.human_ci))


def _correlation(value: float | None, ci: tuple[float, float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if ci is None else f" [{ci[0]:.2f}, {ci[1]:.2f}]")
