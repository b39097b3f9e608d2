"""Showing a search for tokens and the named templates: tables, JSON, warnings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict

from humanpref.improve.gains import Gain
from humanpref.improve.tokens.records import SearchReport
from humanpref.improve.tokens.templates import Template
from humanpref.tables import add_row, make_table, render, to_json


def search_table(report: SearchReport) -> str:
    """The finalists' gains on the holdout, and where the others were left."""
    title = (
        f"{report.backend}: mean gain over the prompt alone, same prompts and seeds [95 % interval over prompts] · "
        f"{report.spent:,} of {report.budget:,} images, {report.baseline_images:,} of them without tokens"
    )
    checks = () if report.check is None else (report.check,)
    headings = [f"{name}, holdout" for name in (report.scorer, *checks)]
    table = make_table(title, ">tokens", headings[0], "p (Holm)", *headings[1:], "when chosen", "images", ">result")
    for one in report.candidates:
        result = one.verdict if one.left_in is None else f"left in round {one.left_in}"
        p = "-" if one.holdout is None else f"{one.holdout.p_holm:.2g}"
        shown = [gain_text(one.holdout), p, *([gain_text(one.check_holdout)] if checks else [])]
        add_row(table, shown_name(one.template), *shown, gain_text(one.selection), f"{one.images:,}", result)
    specs = [shlex.quote(one.spec) for one in report.candidates if one.verdict == "holds" and one.spec is not None]
    heading = ["", "As methods (humanpref improve compare --method ...):"] if specs else []
    return "\n".join([render(table), *heading, *(f"  {spec}" for spec in specs)])


def search_json(report: SearchReport) -> str:
    """The whole report."""
    return to_json(asdict(report))


def warnings(report: SearchReport) -> tuple[str, ...]:
    """What a reader must not overlook, a line each."""
    found = [
        f"{one.template.name!r} raises {report.scorer} by {gain_text(one.holdout)}, but {report.check} by "
        f"{gain_text(one.check_holdout)}: {report.scorer} may be fooled (reward hacking); look at the pictures"
        for one in report.suspects
    ]
    if any(one.verdict == "unknown" for one in report.candidates):
        found.append(
            f"too few prompts in the holdout to say of {report.schedule.finalists} finalists that a gain holds; at "
            f"least {report.needed_prompts} are needed there"
        )
    if report.check is None and any(one.verdict == "holds" for one in report.candidates):
        found.append("one scorer alone cannot tell a better picture from one that fools it; add --check-model")
    return tuple(found)


def templates_table(templates: Iterable[Template]) -> str:
    """The named templates."""
    table = make_table(None, ">name", ">the model reads", ">negative prompt", ">source")
    for one in templates:
        add_row(table, one.name, one.around("PROMPT"), one.negative or "-", one.source)
    return render(table)


def templates_json(templates: Iterable[Template]) -> str:
    """The named templates; each is a row of a vocabulary."""
    return to_json([asdict(one) for one in templates])


def gain_text(gain: Gain | None) -> str:
    """A gain with its interval, "-" where there is none."""
    if gain is None:
        return "-"
    value, *ends = (f"{round(x, 3) + 0.0:+.3f}" for x in (gain.gain, *(gain.ci or ())))  # + 0.0: no "-0.000"
    return f"{value} [{', '.join(ends)}]" if ends else value


def shown_name(template: Template) -> str:
    """A name that says where its text stands: a negative prompt is marked."""
    return f"{template.name} (negative)" if template.negative.strip() == template.name else template.name
