"""How far annotation is, how well people do it, whom to look at, which sources are liked: one HTML page of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import humanpref
from humanpref.annotate.aggregate import SourceReport, source_strengths
from humanpref.annotate.exclusion import QualityRule, suspects
from humanpref.annotate.quality import (
    Agreement,
    AnnotatorQuality,
    GroupQuality,
    Groups,
    annotator_quality,
    group_quality,
    wilson_bound,
)
from humanpref.annotate.records import Annotator, Judgement, ProjectConfig
from humanpref.errors import DataError
from humanpref.report.cells import NONE, Cell, Column, Table, brackets, count, percent, plain, row
from humanpref.report.write import check_report, environment, write_whole

REVERSE = (
    "Whom the rule names still counts: a person decides, on the administrator’s page. Leaving somebody out deletes "
    "nothing. It is a mark on the annotator, taken back on the same page, and without it all they said counts again; "
    "it can be taken back for one export too, which then takes everybody in."
)
LOWEST = 10
"""How many of the groups on which people agree least are listed."""


@dataclass(frozen=True)
class AnnotationReport:
    """All that the page shows. `suspect` are reasons by annotator, those excluded by a person not among them;
    `cleared` are excluded people whom the rule alone would keep."""

    config: ProjectConfig
    rule: QualityRule
    people: tuple[Annotator, ...]
    quality: Mapping[int, AnnotatorQuality]
    groups: Mapping[str, GroupQuality]
    prompts: Mapping[str, str]
    suspect: Mapping[int, tuple[str, ...]]
    cleared: frozenset[int]
    sources: SourceReport
    last: str | None


def make_report(
    judgements: Sequence[Judgement],
    groups: Groups,
    annotators: Iterable[Annotator],
    config: ProjectConfig,
    *,
    rule: QualityRule | None = None,
    seed: int = 0,
) -> AnnotationReport:
    """Work out the report; what excluded people said counts in nothing but their own rows.

    Raises `DataError` where answers, groups and annotators do not fit together.
    """
    rule = QualityRule() if rule is None else rule
    people = tuple(sorted(annotators, key=lambda one: one.number))
    if strangers := {j.annotator for j in judgements} - {one.number for one in people}:
        raise DataError(f"there is no annotator {min(strangers)}, who gave answers")
    excluded = {one.number for one in people if one.excluded is not None}
    named = suspects(judgements, groups, config, rule) if excluded else {}
    last = max((j.submitted_at for j in judgements), default=None)
    return AnnotationReport(
        config=config,
        rule=rule,
        people=people,
        quality=annotator_quality(judgements, groups, config, excluded=excluded),
        groups=group_quality(judgements, groups, excluded=excluded),
        prompts={key: group.prompt for key, group in groups.items()},
        suspect=suspects(judgements, groups, config, rule, excluded=excluded),
        cleared=frozenset(excluded - named.keys()),
        sources=source_strengths(judgements, groups, excluded=excluded, seed=seed),
        last=None if last is None else f"{last:%Y-%m-%d %H:%M %Z}".strip(),
    )


def check_path(path: str | Path) -> None:
    """Say before the work is done whether a page can be written there: `DataError` or `MissingExtraError` if not."""
    if Path(path).suffix.lower() != ".html":
        raise DataError(f"{path}: this report is an HTML page; give the file the ending .html")
    check_report(path)


def write_report(report: AnnotationReport, path: str | Path, *, names: bool = False) -> None:
    """Write the page; it appears when it is complete, and the same report gives the same bytes.

    names: show people's names beside their handles; such a page is for the administrator alone. Raises as
    `check_path`, and `DataError` for a path that cannot be written.
    """
    path = Path(path)
    check_path(path)
    write_whole(path, _html(report, names))


def _html(report: AnnotationReport, names: bool) -> str:
    from humanpref.annotate import report_plots as plots

    called = {one.number: f"{one.handle} ({one.name})" if names else one.handle for one in report.people}
    agreed, liked = [g.w for g in report.groups.values() if g.w is not None], report.sources.sources
    return (
        environment("humanpref.annotate")
        .get_template("report.html.j2")
        .render(
            title=report.config.title,
            lead=_lead(report),
            facts=_facts(report),
            progress=_progress(report),
            people=_people_table(report, called),
            agreement=_agreement_table(report, called),
            watch=_watch(report, called),
            concordance=plots.concordance(agreed) if agreed else None,
            lowest=_lowest_table(report),
            sources=_sources_table(report.sources) if liked else None,
            forest=[plots.strengths(liked, width) for width in (plots.WIDE, plots.NARROW) if liked],
            left_out=_left_out(report.sources),
            rules=report.rule.sentences(report.config.minimum_seconds),
            reverse=REVERSE,
            method=_method(report, names),
        )
    )


def _wanted(report: AnnotationReport) -> tuple[int, int, int]:
    """Rankings there are, those asked for, and groups that have all of theirs; more than asked count as asked."""
    asked = report.config.rankings_per_group
    have = [min(g.rankings, asked) for g in report.groups.values()]
    return sum(have), asked * len(have), sum(n == asked for n in have)


def _lead(report: AnnotationReport) -> str:
    have, wanted, done = _wanted(report)
    share = f"{percent(have / wanted)} %" if wanted else "nothing"
    watch = len(report.suspect)
    people = "nobody needs a look" if not watch else f"{count(watch, 'annotator')} to look at"
    return f"{share} of the rankings are in: {done:,} of {count(len(report.groups), 'group')} complete; {people}."


def _facts(report: AnnotationReport) -> list[tuple[str, str]]:
    have, wanted, _ = _wanted(report)
    agreed = [g.w for g in report.groups.values() if g.w is not None]
    rated = [q.others.value for q in report.quality.values() if q.others.value is not None]
    return [
        ("rankings", f"{have:,} of {wanted:,}"),
        ("annotators with answers", f"{len(report.quality):,} of {len(report.people):,}"),
        ("excluded", f"{sum(one.excluded is not None for one in report.people):,}"),
        ("skips", f"{sum(g.skips for g in report.groups.values()):,}"),
        ("groups marked unsafe", f"{sum(g.unsafe > 0 for g in report.groups.values()):,}"),
        ("Kendall’s W, mean", plain(fmean(agreed)) if agreed else NONE),
        ("agreement, mean, %", percent(fmean(rated) if rated else None)),
    ]


def _progress(report: AnnotationReport) -> Table:
    found = Counter(min(g.rankings, report.config.rankings_per_group) for g in report.groups.values())
    columns = (Column("Rankings", words=True), Column("Groups"))
    rows = tuple(row(f"{n} of {report.config.rankings_per_group}", f"{found[n]:,}") for n in sorted(found))
    return Table("progress", "How many rankings the groups have", columns, rows)


def _with_answers(report: AnnotationReport) -> list[AnnotatorQuality]:
    """Who ranked most comes first."""
    return sorted(report.quality.values(), key=lambda q: (-q.rankings, q.annotator))


def _people_table(report: AnnotationReport, called: Mapping[int, str]) -> Table:
    titles = ("Rankings", "Skips", "Median seconds", "Too quick, %", "Corrections", "Marked unsafe")
    columns = (Column("Annotator", words=True), *map(Column, titles))
    rows = [
        row(
            called[q.annotator],
            f"{q.rankings:,}",
            f"{q.skips:,}",
            NONE if q.median_seconds is None else f"{q.median_seconds:.1f}",
            percent(q.quick_share),
            f"{q.corrections:,}",
            f"{q.unsafe:,}",
        )
        for q in _with_answers(report)
    ]
    rows += [row(called[o.number], "0", "0", *[NONE] * 4) for o in report.people if o.number not in report.quality]
    note = f"Practice is not counted. Too quick: less than {report.config.minimum_seconds:g} seconds."
    return Table("people", "Who ranked how much", columns, tuple(rows), note=note)


def _agreement_table(report: AnnotationReport, called: Mapping[int, str]) -> Table:
    titles = ("Others, %", "Kendall’s τ with others", "Known orders, %", "Own first answer, %", "As shown, %")
    columns = (Column("Annotator", words=True), *map(Column, titles))
    ordered = sorted(_with_answers(report), key=lambda q: (q.others.value is None, q.others.value or 0.0, q.annotator))
    rows = tuple(
        row(
            called[q.annotator],
            _share(q.others),
            NONE if q.tau_b is None else plain(q.tau_b),
            _share(q.gold),
            _share(q.itself),
            percent(q.straight.share) if q.straight.rankings else NONE,
        )
        for q in ordered
    )
    note = (
        "Share of pairs of images put in the same order, with 95 % intervals: as the mean rank of the others who "
        "ranked the group (excluded annotators are compared, and nobody with them), as the known order, and as the "
        "first time when a group was shown again. 50 % is chance; well below it somebody ranks the other way round. "
        "As shown: rankings of three images or more that keep the order on the screen or reverse it."
    )
    return Table("agreement", "Agreement, lowest first", columns, rows, note=note)


def _share(agreement: Agreement) -> Cell:
    if agreement.value is None:
        return NONE, ""
    low, high = (wilson_bound(agreement.value, agreement.evidence, 0.975, upper=up) for up in (False, True))
    return percent(agreement.value), brackets((low, high))


def _watch(report: AnnotationReport, called: Mapping[int, str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Who, whether they count, and why: those the rule names, then those who are left out."""
    rows = [(called[who], "still counts", why) for who, why in report.suspect.items()]
    for one in report.people:
        if one.excluded is not None:
            also = ("the rule alone would keep them",) if one.number in report.cleared else ()
            rows.append((called[one.number], "left out", (one.excluded or "no reason given", *also)))
    return rows


def _lowest_table(report: AnnotationReport) -> Table | None:
    found = sorted((g.w, key) for key, g in report.groups.items() if g.w is not None)[:LOWEST]
    columns = (Column("Prompt", words=True), Column("Kendall’s W"), Column("Rankings"))
    rows = tuple(row(report.prompts[key], plain(w), f"{report.groups[key].rankings:,}") for w, key in found)
    return Table("lowest", "Where people agree least", columns, rows) if rows else None


def _sources_table(sources: SourceReport) -> Table:
    columns = (Column("Source", words=True), Column("Rank"), Column("Strength"), Column("Wins, %"), Column("Pairs"))
    rows = tuple(
        row(
            s.source,
            f"{s.rank}",
            (plain(s.strength), brackets(s.ci, plain)),
            (percent(s.win_share), brackets(s.win_ci)),
            f"{s.pairs:,}",
        )
        for s in sources.sources
    )
    return Table("sources", "Sources", columns, rows)


def _left_out(sources: SourceReport) -> str:
    found = []
    if sources.unnamed:
        found.append(f"{count(sources.unnamed, 'pair')} with an image of no known source")
    if sources.same:
        found.append(f"{count(sources.same, 'pair')} of one source")
    return f"Not counted: {', '.join(found)}." if found else ""


def _method(report: AnnotationReport, names: bool) -> str:
    when = f"Last answer {report.last}. " if report.last else ""
    who = "This page names people: keep it to yourself. " if names else ""
    return f"{who}{when}Intervals are 95 %. humanpref {humanpref.__version__}."
