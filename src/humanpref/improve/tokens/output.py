"""Showing a search for tokens and the named templates: tables, JSON, warnings, a plot (the `report` extra)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from humanpref.errors import DataError, MissingExtraError
from humanpref.improve.gains import Gain
from humanpref.improve.tokens.records import SearchReport
from humanpref.improve.tokens.templates import Template
from humanpref.tables import add_row, make_table, render, to_json

COLOURS = ("#4878a8", "#c0703a")


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


def plot_gains(report: SearchReport, path: str | Path) -> None:
    """Draw every candidate's gain by each scorer, and save it (the ending chooses PNG, SVG or PDF).

    Filled: on the holdout; hollow: on the pairs that chose. Raises `DataError`, `MissingExtraError`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('a plot needs matplotlib: pip install "humanpref[report]"') from None
    shown = [one for one in report.candidates if one.selection or one.holdout]
    scorers = [name for name in (report.scorer, report.check) if name is not None]
    figure = Figure(figsize=(3.2 + 3.4 * len(scorers), 1.5 + 0.34 * len(shown)), layout="constrained")
    for i, (axes, scorer) in enumerate(zip(figure.subplots(1, len(scorers), squeeze=False)[0], scorers, strict=True)):
        axes.axvline(0, color="#888888", linewidth=1)
        for y, one in enumerate(shown):
            chosen, held = (one.check_selection, one.check_holdout) if i else (one.selection, one.holdout)
            for gain, shift, fill in ((held, 0.0, COLOURS[i]), (chosen, 0.22 if held else 0.0, "white")):
                if gain is None:
                    continue
                ends = gain.ci or (gain.gain, gain.gain)
                axes.plot(ends, [y + shift] * 2, color=COLOURS[i], linewidth=2.2 if fill != "white" else 1)
                axes.plot([gain.gain], [y + shift], "o", color=COLOURS[i], markerfacecolor=fill, markersize=6)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        names = [f"{shown_name(one.template)[:44]}{'' if one.left_in else ' *'}" for one in shown]
        axes.set_yticks(range(len(shown)), names if i == 0 else [""] * len(shown), parse_math=False)
        axes.set_xlabel(f"gain in {scorer}", parse_math=False)
        axes.grid(axis="x", color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("* finalist: filled on the holdout, hollow on the pairs that chose it · 95 % intervals", fontsize=9)
    try:
        figure.savefig(Path(path), dpi=150)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not know
        raise DataError(f"{path}: the plot cannot be saved ({str(error).splitlines()[0]})") from None
