"""What an evaluation report says: its tables and sentences, as plain text. HTML, Markdown and LaTeX only dress them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType

from humanpref.evaluation.measures import NAMES, TITLES
from humanpref.evaluation.output import SINGLE_HUMAN, single_person
from humanpref.records import Difference, EvalReport, GroupResult, HumanResult, Measure, ScorerResult
from humanpref.report.cells import NBSP, NONE, Cell, Column, Table, brackets, count, figure, percent, row

ALPHA = 0.05

SET_TITLES: Mapping[str, str] = MappingProxyType(
    {"hpdv2-test": "HPD v2 test", "imagereward-test": "ImageReward test", "pickapic-test": "Pick-a-Pic test"}
)

CUT_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "images": "Images per prompt",
        "prompt_source": "Where the prompt comes from",
        "style": "Style",
        "image_source": "Generator of an image",
    }
)

RULES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "HPD v2’s rule: share of pairs ordered as people do, averaged over prompts; "
        "a pair that people tie counts as right.",
        "pair_accuracy": "All pairs that people do not tie, pooled over prompts; equal scores count one half.",
        "imagereward_accuracy": "Share of pairs that people do not tie, averaged over prompts; equal scores are wrong.",
        "imagereward_pooled": "The ImageReward rule with all pairs pooled, as in ImageReward’s own script.",
        "pickapic_accuracy": "Pick-a-Pic’s rule: people may call a tie, and a scorer does where its probabilities "
        "are closer than its tie threshold; where just one side calls a tie the pair counts one half.",
        "kendall_tau_b": "Kendall’s rank correlation with people, averaged over prompts; 1 the same order, 0 chance.",
        "spearman": "Spearman’s rank correlation with people, averaged over prompts.",
        "top1_recall": "How often the image that the scorer likes best is one that people like best.",
    }
)
"""One sentence for each measure."""


def titles(reports: Sequence[EvalReport]) -> list[str]:
    """A short, distinct name for each data set."""
    names = [SET_TITLES.get(r.test_set or "") or PurePath(r.data).name or r.data or "data" for r in reports]
    return [
        f"{name} ({report.data or i + 1})" if names.count(name) > 1 else name
        for i, (name, report) in enumerate(zip(names, reports, strict=True))
    ]


def headline(report: EvalReport, model: str) -> Measure | None:
    """The figure of a scorer by the rule of the test set."""
    return next((s.measures.get(report.rule) for s in report.scorers if s.model == model), None)


def ordered(report: EvalReport) -> list[ScorerResult]:
    """Scorers by the headline, best first; those without one last."""

    def key(scorer: ScorerResult) -> tuple[float, str]:
        found = scorer.measures.get(report.rule)
        return (1.0 if found is None else -found.value), scorer.model

    return sorted(report.scorers, key=key)


def paper_table(reports: Sequence[EvalReport]) -> Table:
    """Scorers and people by test sets, as in HPS v2's table."""
    names = titles(reports)
    columns, shows_published = [Column("Scorer", words=True)], []
    for i, report in enumerate(reports):
        columns.append(Column(f"{TITLES[report.rule]}, {count(report.prompts, 'prompt')}", group=i))
        known = [*(s.published_accuracy for s in report.scorers), SINGLE_HUMAN.get(report.test_set or "")]
        shows_published.append(any(x is not None for x in known))
        if shows_published[-1]:
            columns.append(Column("published, full test set", group=i))
    models = dict.fromkeys(s.model for report in reports for s in ordered(report))

    def cells(figures: Sequence[Measure | None], published: Sequence[float | None]) -> list[Cell]:
        out: list[Cell] = []
        for ours, theirs, shown in zip(figures, published, shows_published, strict=True):
            out += [figure(ours), (percent(theirs), "")] if shown else [figure(ours)]
        return out

    rows = []
    for model in models:
        own = [next((s for s in report.scorers if s.model == model), None) for report in reports]
        figures = [headline(report, model) for report in reports]
        rows.append(row(model, *cells(figures, [None if s is None else s.published_accuracy for s in own])))
    humans = [report.human for report in reports]
    single = [SINGLE_HUMAN.get(report.test_set or "") for report in reports]
    if any(humans) or any(single):
        rows.append(row("A single person", *cells([single_person(r) for r in reports], single), kind="people"))
    if any(humans):
        best = [None if human is None else human.ceiling_vs_consensus for human in humans]
        rows.append(row("About the best possible", *cells(best, [None] * len(reports)), kind="people"))
    note = "Share of pairs of images ordered as people do, in %, by each test set’s own rule, with its 95 % interval."
    if any(human is not None and human.in_consensus is None for human in humans):
        note += " Where the data gives no consensus of its own, a single person is held against the others."
    groups = tuple(names)
    return Table("summary", "Agreement with people", tuple(columns), tuple(rows), groups, note)


def lead(report: EvalReport, title: str) -> str:
    """The answer in two or three sentences."""
    best = next(iter(ordered(report)), None)
    if best is None or (found := best.measures.get(report.rule)) is None:
        return f"{title}: no scorer has a figure by the {TITLES[report.rule]}."
    value, interval = figure(found)
    many = f", the best of {len(report.scorers)} scorers," if len(report.scorers) > 1 else ""
    text = (
        f"On {title} ({count(report.prompts, 'prompt')}), {best.model}{many} orders {value} % {interval} of the pairs "
    )
    text += f"as people do, by the {TITLES[report.rule]}."
    if (person := single_person(report)) is not None and report.human is not None:
        text += f" A single person reaches {percent(person.value)} %"
        text += f", and the best possible scorer would about {percent(report.human.ceiling_vs_consensus.value)} %."
    level = [d.other if d.model == best.model else d.model for d in report.differences if _is_tie_with(d, best.model)]
    if level:
        text += f" The data cannot tell it from {_listed(level)}."
    return text


def _is_tie_with(difference: Difference, model: str) -> bool:
    return model in {difference.model, difference.other} and difference.p_holm >= ALPHA


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = list(names) if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def facts(report: EvalReport) -> list[tuple[str, str]]:
    """What the data holds."""
    pairs = [
        ("prompts", report.prompts),
        ("instances", report.instances),
        ("images", report.images),
        ("pairs people do not tie", report.pairs),
        ("images missing", report.missing_images),
        ("instances dropped", report.dropped_instances),
    ]
    return [(name, f"{value:,}") for name, value in pairs]


def measures_table(report: EvalReport, key: str) -> Table:
    """All measures of all scorers."""
    scorers = ordered(report)
    present = {name for s in scorers for name, measure in s.measures.items() if measure is not None}
    names = [report.rule, *(name for name in NAMES if name in present and name != report.rule)]
    rows = [row(s.model, *(figure(s.measures.get(name), name) for name in names)) for s in scorers]
    columns = [Column("Scorer", words=True), *(Column(TITLES[name]) for name in names)]
    note = "Shares in %, correlations from −1 to 1, each with its 95 % interval; the first column is the headline."
    return Table(f"{key}-measures", "All measures", tuple(columns), tuple(rows), note=note)


def rules(reports: Sequence[EvalReport]) -> list[tuple[str, str]]:
    """What the measures of these reports mean."""
    present = {name for r in reports for s in r.scorers for name, measure in s.measures.items() if measure is not None}
    return [(TITLES[name], RULES[name]) for name in NAMES if name in present and name in RULES]


def p_words(p: float) -> str:
    """A p value as people write it."""
    return f"p{NBSP}<{NBSP}0.001" if p < 0.001 else f"p{NBSP}={NBSP}{p:.3f}"


def sentence(difference: Difference) -> str:
    """A difference in words, the scorer that is ahead first."""
    d, sign = difference, (1 if difference.difference >= 0 else -1)
    ahead, behind = (d.model, d.other) if sign > 0 else (d.other, d.model)
    low_high = None if d.ci is None else (min(sign * x for x in d.ci), max(sign * x for x in d.ci))
    numbers = f"{brackets(low_high)}, {p_words(d.p_value)}".removeprefix(", ")
    if d.difference == 0:
        return f"{ahead} and {behind} are level: 0.0 points {numbers}"
    return f"{ahead} is ahead of {behind} by {percent(abs(d.difference))} points {numbers}"


def differences_table(report: EvalReport, key: str) -> Table | None:
    """Who is ahead of whom."""
    if not report.differences:
        return None
    place = {s.model: i for i, s in enumerate(ordered(report))}
    found = sorted(report.differences, key=lambda d: sorted((place[d.model], place[d.other])))
    rows = [
        row(sentence(d), p_words(d.p_holm)[2:].removeprefix(f"={NBSP}"), "yes" if d.p_holm < ALPHA else "no")
        for d in found
    ]
    columns = (Column("Comparison", words=True), Column("corrected p"), Column("told apart?", words=True))
    many = f"for {len(rows)} comparisons" if len(rows) > 1 else "(here there is only one comparison)"
    note = (
        "Differences on the same prompts, with 95 % intervals by a paired bootstrap and two-sided p values by flipping "
        f"signs of prompts; corrected by Holm {many}. Two scorers are told apart where the corrected p is below 0.05."
    )
    return Table(f"{key}-differences", "Who is ahead of whom", columns, tuple(rows), note=note)


def group_measure(report: EvalReport, group: GroupResult) -> tuple[str, Measure | None]:
    """The measure a part is shown by: the headline, or all pairs where that is what is known."""
    name = report.rule if report.rule in group.measures else "pair_accuracy"
    return name, group.measures.get(name)


def cuts(report: EvalReport) -> dict[str, list[str]]:
    """{how the data was cut: its parts}."""
    found: dict[str, list[str]] = {}
    for scorer in report.scorers:
        for group in scorer.groups:
            values = found.setdefault(group.by, [])
            if group.value not in values:
                values.append(group.value)
    return found


def part(scorer: ScorerResult, by: str, value: str) -> GroupResult | None:
    """The result of a scorer on one part."""
    return next((g for g in scorer.groups if (g.by, g.value) == (by, value)), None)


def group_tables(report: EvalReport, key: str) -> list[Table]:
    """One table for each way the data was cut: parts by scorers."""
    scorers, tables = ordered(report), []
    for by, values in cuts(report).items():
        title, rows, rule = CUT_TITLES.get(by, by), [], report.rule
        for value in values:
            groups = [part(s, by, value) for s in scorers]
            first = next(g for g in groups if g is not None)
            rule = group_measure(report, first)[0]
            cells = [(NONE, "") if g is None else figure(group_measure(report, g)[1]) for g in groups]
            rows.append(row(value, f"{first.instances:,}", f"{first.pairs:,}", *cells))
        columns = (
            Column(title, words=True),
            Column("instances"),
            Column("pairs"),
            *(Column(s.model) for s in scorers),
        )
        note = f"In %, {TITLES[rule]}." + (
            " Counted are the pairs with an image of that generator." if by == "image_source" else ""
        )
        tables.append(Table(f"{key}-by-{by}", f"By part: {title.lower()}", columns, tuple(rows), note=note))
    return tables


def calibration_table(report: EvalReport, key: str) -> Table | None:
    """The calibration error of each scorer that gives probabilities."""
    found = [(s.model, s.calibration) for s in ordered(report) if s.calibration is not None]
    if not found:
        return None
    rows = tuple(
        row(model, percent(c.ece), f"{sum(b.pairs for b in c.bins):,}", _AGAINST.get(c.against, c.against))
        for model, c in found
    )
    columns = (Column("Scorer", words=True), Column("ECE, points"), Column("pairs"), Column("held against", words=True))
    note = (
        "A scorer that says 80 % should be right eight times in ten. The expected calibration error (ECE) is how far "
        "off it is on average."
    )
    if silent := [s.model for s in ordered(report) if s.calibration is None]:
        note += f" No probabilities from {_listed(silent)}."
    return Table(f"{key}-calibration", "Are the probabilities true?", columns, rows, note=note)


_AGAINST = {"annotators": "the shares of single annotators", "consensus": "the consensus"}


def human_table(human: HumanResult | None, key: str) -> Table | None:
    """How well people agree, each figure with a sentence."""
    if human is None:
        return None
    voters = f"{human.annotators_per_group:.3g}"
    lines = [
        (
            "A person in the consensus",
            human.in_consensus,
            "One person against the consensus that holds their own vote.",
        ),
        ("A person against the others", human.vs_consensus, "One person against the mean of all the others."),
        ("A person against another", human.vs_human, "How often two people order a pair the same way."),
        (
            "Best possible against the consensus",
            human.ceiling_vs_consensus,
            f"About what a perfect scorer would reach against {voters} people who disagree that much, by a model.",
        ),
        (
            "Best possible against one person",
            human.ceiling_vs_human,
            "What a perfect scorer could reach when it has to guess what one person says.",
        ),
    ]
    rows = tuple(row(name, figure(m), text, kind="people") for name, m, text in lines if m is not None)
    columns = (Column("People", words=True), Column("%"), Column("what it is", words=True))
    note = (
        f"From {human.annotations:,} single rankings of {count(human.instances, 'group')} of images, {voters} for each "
        f"on average. The model behind the last two rows says {percent(human.model_vs_consensus)} % of a person "
        "against the others, to which it was not fitted."
    )
    return Table(f"{key}-people", "How well people agree", columns, rows, note=note)


def identity_table(report: EvalReport, key: str) -> Table:
    """What each scorer was, exactly."""
    rows = tuple(
        row(s.model, s.identity or NONE, f"{s.truncated_prompts:,}", f"{s.tie_threshold:.3g}") for s in ordered(report)
    )
    columns = (
        Column("Scorer", words=True),
        Column("weights, precision, preprocessing", words=True),
        Column("prompts cut short"),
        Column("tie threshold"),
    )
    return Table(f"{key}-identity", "What was measured", columns, rows)
