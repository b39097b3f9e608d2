"""The plots of an evaluation report, as SVG for a page: colours are the page's CSS variables, so that they follow its
light or dark mode, and text is text. The same data gives the same bytes. Needs matplotlib (the `report` extra)."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

from humanpref.errors import MissingExtraError
from humanpref.evaluation.generators import GeneratorReport
from humanpref.evaluation.output import SINGLE_HUMAN, single_person
from humanpref.evaluation.report_cells import brackets, percent
from humanpref.evaluation.report_tables import cuts, group_measure, ordered, part
from humanpref.records import Calibration, EvalReport, ScorerResult

# Stand-ins, exchanged for CSS variables once matplotlib has drawn
_INKS = {
    "#010101": "var(--ink)",
    "#010102": "var(--muted)",
    "#010103": "var(--rule)",
    "#010104": "var(--paper)",
    "#010105": "var(--accent)",
    "#010106": "var(--people)",
    **{f"#01020{i}": f"var(--c{i})" for i in range(6)},
}
INK, MUTED, RULE, PAPER, ACCENT, PEOPLE, *SERIES = _INKS
MARKERS = ("o", "D", "s", "^", "v", "P")
GLYPHS = ("●", "◆", "■", "▲", "▼", "✚")
"""The same shapes, for legends in text."""

WIDE, NARROW = 920, 350


@contextmanager
def _default_style() -> Iterator[None]:
    """Draw as matplotlib ships, whatever the user's own style is."""
    try:
        from matplotlib import style
    except ImportError:
        raise MissingExtraError('an HTML report needs matplotlib: pip install "humanpref[report]"') from None
    with style.context("default"):
        yield


@dataclass(frozen=True)
class Plot:
    """A picture, what it shows for those who cannot see it, and its caption."""

    svg: str
    alt: str
    caption: str = ""


@_default_style()
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
    axes = _axes(width, 40 + pitch * len(names), left=left, right=14 if above else 150, top=8, bottom=32)
    axes.set_xlim(low, high)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    _grid(axes)
    for line in lines:
        axes.axvline(100 * line, color=PEOPLE, linewidth=1, linestyle=(0, (4, 3)))
    for y, (name, measure, theirs, colour) in enumerate(zip(names, measures, published, colours, strict=True)):
        value = "no figure" if measure is None else f"{percent(measure.value)} {brackets(measure.ci)}"
        if above:
            _text(axes, 0, y - 0.22, _short(name, 30), INK, inside=True, weight=700)
            _text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            _text(axes, -12 / (width - 364), y, _short(name, 27), INK, inside=True, ha="right")
            _text(axes, 1 + 12 / (width - 364), y, value, MUTED, inside=True)
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
    _ticks(axes, "x")
    told = [
        f"{n}: "
        + ("no figure" if m is None else f"{percent(m.value)} %")
        + ("" if p is None else f", published {percent(p)} %")
        for n, m, p in zip(names, measures, published, strict=True)
    ]
    alt = f"Agreement with people on {title}, in per cent. {'; '.join(told)}."
    return Plot(_svg(axes, f"forest {title} {width}"), alt)


@_default_style()
def reliability(scorer: ScorerResult, calibration: Calibration, key: str) -> Plot:
    """Predicted against observed preference, over a histogram of how many pairs were predicted so."""
    width, height = 300, 300
    figure = _figure(width, height)
    axes = figure.add_axes((44 / width, 104 / height, (width - 58) / width, (height - 114) / height))
    counts = figure.add_axes((44 / width, 42 / height, (width - 58) / width, 50 / height))
    bins = calibration.bins
    floor = min([50.0, *(100 * b.observed for b in bins)])
    floor = 50.0 if floor >= 48 else max(0.0, 10 * (floor // 10))
    for one in (axes, counts):
        _bare(one)
        one.set_xlim(49, 101)
    axes.set_ylim(floor - 2, 102)
    _grid(axes, "both")
    axes.plot([50, 100], [50, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    points = [(100 * b.predicted, 100 * b.observed) for b in bins]
    axes.plot(*zip(*points, strict=True), color=ACCENT, linewidth=1.6)
    for (x, y), b in zip(points, bins, strict=True):
        axes.plot([x], [y], "o", color=ACCENT, markeredgecolor=PAPER, markersize=6 if b.pairs >= 20 else 4)
    _text(axes, 0.03, 0.93, f"ECE {percent(calibration.ece)} points", INK, inside=True, flat=True, weight=700)
    axes.set_yticks(range(int(floor), 101, 10))
    _ticks(axes, "y")
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
    _ticks(counts, "x")
    counts.axhline(0, color=RULE, linewidth=1)
    _text(counts, 0.5, -0.58, "predicted, %", MUTED, inside=True, flat=True, ha="center")
    told = "; ".join(
        f"predicted {percent(b.predicted)} %, observed {percent(b.observed)} % ({b.pairs} pairs)" for b in bins
    )
    ece = f"expected calibration error {percent(calibration.ece)} points"
    return Plot(_svg(axes, f"reliability {key}"), f"Calibration of {scorer.model}, {ece}. {told}.", scorer.model)


@_default_style()
def groups(report: EvalReport, scorers: Sequence[ScorerResult], by: str, key: str) -> Plot:
    """Agreement on each part of the data: one row a part, one mark a scorer."""
    values, width = cuts(report)[by], 300
    found = [[part(s, by, value) for s in scorers] for value in values]
    measures = [[None if g is None else group_measure(report, g)[1] for g in line] for line in found]
    low, high = _limits([x for line in measures for m in line if m is not None for x in m.ci or (m.value,)])
    pitch = 32 + 11 * len(scorers)
    axes = _axes(width, 36 + pitch * len(values), left=12, right=14, top=4, bottom=30)
    axes.set_xlim(low, high)
    axes.set_ylim(len(values) * pitch, 0)
    _grid(axes)
    for i, (value, line) in enumerate(zip(values, measures, strict=True)):
        pairs = next(g.pairs for g in found[i] if g is not None)
        _text(axes, 0, i * pitch + 12, _short(value, 26), INK, inside=True)
        _text(axes, 1, i * pitch + 12, f"{pairs:,} pairs", MUTED, inside=True, ha="right")
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
    _ticks(axes, "x")
    told = [
        f"{value}: " + ", ".join(f"{s.model} {percent(m.value)}" for s, m in zip(scorers, line, strict=True) if m)
        for value, line in zip(values, measures, strict=True)
    ]
    return Plot(_svg(axes, f"groups {key} {by}"), f"Agreement by part, in per cent. {'; '.join(told)}.")


@_default_style()
def correlations(report: GeneratorReport, title: str, width: int = WIDE) -> Plot:
    """Spearman's correlation of every metric with people, with intervals."""
    found = sorted(report.correlations, key=lambda c: (c.spearman is None, -(c.spearman or 0.0), c.metric))
    above = width < 500
    pitch, left = (42, 14) if above else (30, 214)
    axes = _axes(width, 40 + pitch * len(found), left=left, right=14 if above else 150, top=8, bottom=32)
    axes.set_xlim(-1.04, 1.04)
    axes.set_ylim(len(found) - 0.5, -0.5)
    _grid(axes)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, c in enumerate(found):
        value = "not defined" if c.spearman is None else f"{c.spearman:.2f}".replace("-", "−")
        if c.spearman_ci is not None:
            value += " [{:.2f}, {:.2f}]".format(*c.spearman_ci).replace("-", "−")
        if above:
            _text(axes, 0, y - 0.22, _short(c.metric, 30), INK, inside=True, weight=700)
            _text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            _text(axes, -12 / (width - 364), y, _short(c.metric, 27), INK, inside=True, ha="right")
            _text(axes, 1 + 12 / (width - 364), y, value, MUTED, inside=True)
        level = y + 0.18 if above else y
        if c.spearman_ci is not None:
            axes.plot(c.spearman_ci, [level] * 2, color=ACCENT, linewidth=2.4, solid_capstyle="round")
        if c.spearman is not None:
            axes.plot([c.spearman], [level], "o", color=ACCENT, markeredgecolor=PAPER, markersize=8)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xticklabels(["−1", "−0.5", "0", "0.5", "1"])
    _ticks(axes, "x")
    told = "; ".join(f"{c.metric}: " + ("not defined" if c.spearman is None else f"{c.spearman:.2f}") for c in found)
    return Plot(_svg(axes, f"correlations {title} {width}"), f"Spearman correlation with people on {title}. {told}.")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis in per cent, with some air, on multiples of five, within 0 and 100."""
    low, high = 100 * min(values, default=0.0), 100 * max(values, default=1.0)
    low, high = max(0.0, 5 * ((low - 1) // 5)), min(100.0, -5 * ((-high - 1) // 5))
    air = 0.02 * (high - low)
    return low - air, high + air


def _short(text: str, most: int) -> str:
    text = " ".join(_printable(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _printable(text: str) -> str:
    """XML has no control characters."""
    return "".join(c if c.isprintable() or c == " " else " " for c in text)


def _figure(width: int, height: int) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)  # one user unit of the SVG is one pixel


def _axes(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> Any:
    """Axes with margins in pixels."""
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = _figure(width, height).add_axes(place)
    _bare(axes)
    axes.set_yticks([])
    return axes


def _bare(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6)


def _grid(axes: Any, which: str = "x") -> None:
    axes.grid(axis=which, color=RULE, linewidth=1)
    axes.set_axisbelow(True)


def _ticks(axes: Any, which: str) -> None:
    labels = axes.get_xticklabels() if which == "x" else axes.get_yticklabels()
    for label in labels:
        label.set(color=MUTED, fontsize=11)


def _text(
    axes: Any,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    inside: bool,
    flat: bool = False,
    weight: int = 400,
    ha: str = "left",
) -> None:
    """Write text as it is, no formulas. inside: x (and, if flat, y) is a share of the axes, else in data units."""
    transform = axes.transAxes if flat else axes.get_yaxis_transform() if inside else axes.transData
    axes.text(
        x, y, text, color=colour, ha=ha, va="center", fontsize=12, fontweight=weight, transform=transform,
        parse_math=False,
    )  # fmt: skip


def _svg(axes: Any, name: str) -> str:
    """Save the figure as an SVG element to be put into a page, with ids that no other plot of the page has."""
    import matplotlib as mpl

    key = "p" + hashlib.sha256(name.encode()).hexdigest()[:8]
    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "humanpref"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser has the glyphs that matplotlib's own font lacks
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        axes.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag.group(), key), svg)  # never in the text between tags
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    width, height = axes.figure.get_size_inches() * 72
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return re.sub(r"^<svg[^>]*>", f'<svg {size} aria-hidden="true" focusable="false">', svg, count=1).strip()


def _page_tag(tag: str, key: str) -> str:
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag).replace("xlink:href=", "href=")
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", tag)
    for ink, variable in _INKS.items():
        tag = tag.replace(ink, variable)
    return re.sub(r"font-family: [^;\"]*;? ?", "", tag)  # that of the page
