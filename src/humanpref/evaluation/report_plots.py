"""The plots of an evaluation report (`humanpref.report.plots`). Need matplotlib (the `report` extra)."""

from __future__ import annotations

from collections.abc import Sequence

from humanpref.evaluation.generators import GeneratorReport
from humanpref.evaluation.output import SINGLE_HUMAN, single_person
from humanpref.evaluation.report_tables import cuts, group_measure, ordered, part
from humanpref.records import Calibration, EvalReport, ScorerResult
from humanpref.report import plots as kit
from humanpref.report.cells import brackets, percent
from humanpref.report.plots import ACCENT, INK, MARKERS, MUTED, PAPER, PEOPLE, RULE, SERIES, WIDE, Plot


@kit.default_style()
def forest(report: EvalReport, title: str, width: int = WIDE) -> Plot:
    """The headline of every scorer and of people, with intervals and the published figures."""
    names, measures, published, colours = [], [], [], []
    for scorer in ordered(report):
        names.append(scorer.model)
        measures.append(scorer.measures.get(report.rule))
        published.append(scorer.published_accuracy)
        colours.append(ACCENT)
    lines = []
    single, alone = single_person(report), SINGLE_HUMAN.get(report.test_set or "")
    if single is not None or alone is not None:
        names.append("A single person")
        measures.append(single)
        published.append(alone)
        colours.append(PEOPLE)
        lines += [single.value] if single is not None else []
    if report.human is not None:
        ceiling = report.human.ceiling_vs_consensus
        names.append("Best possible")
        measures.append(ceiling)
        published.append(None)
        colours.append(PEOPLE)
        lines.append(ceiling.value)
    known = [m for m in measures if m is not None]
    low, high = _limits([x for m in known for x in m.ci or (m.value,)] + [x for x in published if x is not None])
    above = width < 500  # on a phone names stand above their rows
    pitch, left = (42, 14) if above else (30, 214)
    axes = kit.page_axes(width, 40 + pitch * len(names), left=left, right=14 if above else 150, top=8, bottom=32)
    axes.set_xlim(low, high)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    kit.draw_grid(axes)
    for line in lines:
        axes.axvline(100 * line, color=PEOPLE, linewidth=1, linestyle=(0, (4, 3)))
    for y, (name, measure, theirs, colour) in enumerate(zip(names, measures, published, colours, strict=True)):
        value = "no figure" if measure is None else f"{percent(measure.value)} {brackets(measure.ci)}"
        if above:
            kit.write_text(axes, 0, y - 0.22, kit.shorten(name, 30), INK, inside=True, weight=700)
            kit.write_text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            kit.write_text(axes, -12 / (width - 364), y, kit.shorten(name, 27), INK, inside=True, ha="right")
            kit.write_text(axes, 1 + 12 / (width - 364), y, value, MUTED, inside=True)
        level = y + 0.18 if above else y
        if theirs is not None:
            axes.plot([100 * theirs], [level], "D", color=PAPER, markeredgecolor=INK, markersize=7, markeredgewidth=1.3)
        if measure is not None:
            axes.plot(
                [100 * x for x in measure.ci or (measure.value,) * 2],
                [level] * 2,
                color=colour,
                linewidth=2.4,
                solid_capstyle="round",
            )
            axes.plot([100 * measure.value], [level], "o", color=colour, markeredgecolor=PAPER, markersize=8)
    kit.style_ticks(axes, "x")
    told = [
        f"{n}: "
        + ("no figure" if m is None else f"{percent(m.value)} %")
        + ("" if p is None else f", published {percent(p)} %")
        for n, m, p in zip(names, measures, published, strict=True)
    ]
    alt = f"Agreement with people on {title}, in per cent. {'; '.join(told)}."
    return Plot(kit.to_svg(axes, f"forest {title} {width}"), alt)


@kit.default_style()
def reliability(scorer: ScorerResult, calibration: Calibration, key: str) -> Plot:
    """Predicted against observed preference, over a histogram of how many pairs were predicted so."""
    width, height = 300, 300
    figure = kit.page_figure(width, height)
    axes = figure.add_axes((44 / width, 104 / height, (width - 58) / width, (height - 114) / height))
    counts = figure.add_axes((44 / width, 42 / height, (width - 58) / width, 50 / height))
    bins = calibration.bins
    floor = min([50.0, *(100 * b.observed for b in bins)])
    floor = 50.0 if floor >= 48 else max(0.0, 10 * (floor // 10))
    for one in (axes, counts):
        kit.hide_frame(one)
        one.set_xlim(49, 101)
    axes.set_ylim(floor - 2, 102)
    kit.draw_grid(axes, "both")
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    points = [(100 * b.predicted, 100 * b.observed) for b in bins]
    axes.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.6)
    for (x, y), b in zip(points, bins, strict=True):
        axes.plot([x], [y], "o", color=ACCENT, markeredgecolor=PAPER, markersize=6 if b.pairs >= 20 else 4)
    kit.write_text(axes, 0.03, 0.93, f"ECE {percent(calibration.ece)} points", INK, inside=True, flat=True, weight=700)
    axes.set_yticks(range(int(floor), 101, 10))
    kit.style_ticks(axes, "y")
    axes.set_xticks([])
    middle = [50 * (b.low + b.high) for b in bins]
    most = max(b.pairs for b in bins)
    widths = [100 * (b.high - b.low) * 0.86 for b in bins]
    counts.bar(middle, [b.pairs for b in bins], width=widths, color=MUTED, linewidth=0)
    counts.set_ylim(0, 1.05 * most)
    counts.set_yticks([most])
    counts.set_yticklabels([f"{most:,}"])
    for label in counts.get_yticklabels():
        label.set(color=MUTED, fontsize=11)
    counts.set_xticks(range(50, 101, 10))
    kit.style_ticks(counts, "x")
    counts.axhline(0, color=RULE, linewidth=1)
    kit.write_text(counts, 0.5, -0.58, "predicted, %", MUTED, inside=True, flat=True, ha="center")
    told = "; ".join(
        f"predicted {percent(b.predicted)} %, observed {percent(b.observed)} % ({b.pairs} pairs)" for b in bins
    )
    ece = f"expected calibration error {percent(calibration.ece)} points"
    return Plot(kit.to_svg(axes, f"reliability {key}"), f"Calibration of {scorer.model}, {ece}. {told}.", scorer.model)


@kit.default_style()
def groups(report: EvalReport, scorers: Sequence[ScorerResult], by: str, key: str) -> Plot:
    """Agreement on each part of the data: one row a part, one mark a scorer."""
    values, width = cuts(report)[by], 300
    found = [[part(s, by, value) for s in scorers] for value in values]
    measures = [[None if g is None else group_measure(report, g)[1] for g in line] for line in found]
    low, high = _limits([x for line in measures for m in line if m is not None for x in m.ci or (m.value,)])
    pitch = 32 + 11 * len(scorers)
    axes = kit.page_axes(width, 36 + pitch * len(values), left=12, right=14, top=4, bottom=30)
    axes.set_xlim(low, high)
    axes.set_ylim(len(values) * pitch, 0)
    kit.draw_grid(axes)
    for i, (value, line) in enumerate(zip(values, measures, strict=True)):
        pairs = next(g.pairs for g in found[i] if g is not None)
        kit.write_text(axes, 0, i * pitch + 12, kit.shorten(value, 26), INK, inside=True)
        kit.write_text(axes, 1, i * pitch + 12, f"{pairs:,} pairs", MUTED, inside=True, ha="right")
        for k, m in enumerate(line):
            if m is not None:
                y, colour = i * pitch + 29 + 11 * k, SERIES[k]
                axes.plot(
                    [100 * x for x in m.ci or (m.value,) * 2],
                    [y, y],
                    color=colour,
                    linewidth=1.8,
                    solid_capstyle="round",
                )
                axes.plot(
                    [100 * m.value],
                    [y],
                    MARKERS[k],
                    color=colour,
                    markeredgecolor=PAPER,
                    markeredgewidth=0.6,
                    markersize=7,
                )
    kit.style_ticks(axes, "x")
    told = [
        f"{value}: " + ", ".join(f"{s.model} {percent(m.value)}" for s, m in zip(scorers, line, strict=True) if m)
        for value, line in zip(values, measures, strict=True)
    ]
    return Plot(kit.to_svg(axes, f"groups {key} {by}"), f"Agreement by part, in per cent. {'; '.join(told)}.")


@kit.default_style()
def correlations(report: GeneratorReport, title: str, width: int = WIDE) -> Plot:
    """Spearman's correlation of every metric with people, with intervals."""
    found = sorted(report.correlations, key=lambda c: (c.spearman is None, -(c.spearman or 0.0), c.metric))
    above = width < 500
    pitch, left = (42, 14) if above else (30, 214)
    axes = kit.page_axes(width, 40 + pitch * len(found), left=left, right=14 if above else 150, top=8, bottom=32)
    axes.set_xlim(-1.04, 1.04)
    axes.set_ylim(len(found) - 0.5, -0.5)
    kit.draw_grid(axes)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, c in enumerate(found):
        value = "not defined" if c.spearman is None else f"{c.spearman:.2f}".replace("-", "−")
        if c.spearman_ci is not None:
            value += " [{:.2f}, {:.2f}]".format(*c.spearman_ci).replace("-", "−")
        if above:
            kit.write_text(axes, 0, y - 0.22, kit.shorten(c.metric, 30), INK, inside=True, weight=700)
            kit.write_text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            kit.write_text(axes, -12 / (width - 364), y, kit.shorten(c.metric, 27), INK, inside=True, ha="right")
            kit.write_text(axes, 1 + 12 / (width - 364), y, value, MUTED, inside=True)
        level = y + 0.18 if above else y
        if c.spearman_ci is not None:
            axes.plot(c.spearman_ci, [level] * 2, color=ACCENT, linewidth=2.4, solid_capstyle="round")
        if c.spearman is not None:
            axes.plot([c.spearman], [level], "o", color=ACCENT, markeredgecolor=PAPER, markersize=8)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xticklabels(["−1", "−0.5", "0", "0.5", "1"])
    kit.style_ticks(axes, "x")
    told = "; ".join(f"{c.metric}: " + ("not defined" if c.spearman is None else f"{c.spearman:.2f}") for c in found)
    return Plot(
        kit.to_svg(axes, f"correlations {title} {width}"), f"Spearman correlation with people on {title}. {told}."
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis in per cent, with some air, on multiples of five, within 0 and 100."""
    low, high = 100 * min(values, default=0.0), 100 * max(values, default=1.0)
    low, high = max(0.0, 5 * ((low - 1) // 5)), min(100.0, -5 * ((-high - 1) // 5))
    air = 0.02 * (high - low)
    return low - air, high + air
