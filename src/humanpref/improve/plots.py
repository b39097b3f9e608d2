"""What methods gain, as plots: for a page as SVG in its colours, or as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from humanpref.improve.best_of.curve import BestOfReport
from humanpref.improve.compare.compare import CompareReport, scores_of
from humanpref.improve.gains import Gain, signed
from humanpref.improve.tokens.output import shown_name
from humanpref.improve.tokens.records import SearchReport
from humanpref.report import plots as kit
from humanpref.report.plots import (
    ACCENT,
    INK,
    MUTED,
    NARROW,
    PAPER,
    PEOPLE,
    RULE,
    WIDE,
    Plot,
    new_figure,
    save,
)  # fmt: skip

__all__ = ["NARROW", "WIDE", "differences", "gains", "plot_best_of", "plot_gains"]

LIGHT = {
    INK: "#1c1f24", MUTED: "#5a616c", RULE: "#dfe2e7", PAPER: "#ffffff", ACCENT: "#1f5f9e", PEOPLE: "#a2511a",
}  # fmt: skip
"""The colours of a PNG, which has a white ground."""

TOKEN_COLOURS = ("#4878a8", "#c0703a")
"""Of the two scorers of a search for tokens."""

BINS = 24


@kit.default_style()
def gains(report: CompareReport, scorer: str, width: int = WIDE) -> Plot:
    """The gain of every method by one scorer, with intervals; hollow where the scorer chose the method's images."""
    own = [gain for gain in report.gains if gain.scorer == scorer]
    above = width < 500  # on a phone names stand above their rows
    pitch, left, right = (42, 14, 14) if above else (34, 264, 196)
    axes = kit.page_axes(width, 40 + pitch * len(own), left=left, right=right, top=8, bottom=32)
    ends = [0.0, *(end for gain in own for end in gain.ci or (gain.gain, gain.gain))]
    air = 0.06 * ((max(ends) - min(ends)) or 1.0)
    axes.set_xlim(min(ends) - air, max(ends) + air)
    axes.set_ylim(len(own) - 0.5, -0.5)
    kit.draw_grid(axes)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, gain in enumerate(own):
        value = _value(gain)
        if above:
            kit.write_text(axes, 0, y - 0.22, kit.shorten(gain.method, 24), INK, inside=True, weight=700)
            kit.write_text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            kit.write_text(
                axes, -14 / (width - left - right), y, kit.shorten(gain.method, 34), INK, inside=True, ha="right"
            )
            kit.write_text(axes, 1 + 14 / (width - left - right), y, value, MUTED, inside=True)
        level = y + 0.18 if above else y
        if gain.ci is not None:
            axes.plot(gain.ci, [level] * 2, color=ACCENT, linewidth=2.4, solid_capstyle="round")
        hollow = (
            {"color": PAPER, "markeredgecolor": ACCENT}
            if gain.selected
            else {"color": ACCENT, "markeredgecolor": PAPER}
        )
        axes.plot([gain.gain], [level], "o", markersize=8, markeredgewidth=1.6, **hollow)
    kit.style_ticks(axes, "x")
    _minus(axes)
    told = "; ".join(f"{gain.method}: {_value(gain)}" for gain in own)
    return Plot(kit.to_svg(axes, f"gains {scorer} {width}"), f"Gains over the baseline by {scorer}. {told}.", scorer)


@kit.default_style()
def differences(report: CompareReport, method: int, scorer: int, width: int = NARROW) -> Plot:
    """How the paired differences of a method by a scorer are distributed; the line is the mean."""
    found = scores_of(report.rows, method, scorer) - scores_of(report.rows, 0, scorer)
    found = found[~np.isnan(found)]
    name, by = report.methods[method].method, report.scorers[scorer]
    axes = kit.page_axes(width, 170, left=34, right=14, top=10, bottom=44)
    most = float(np.abs(found).max()) or 1.0
    bins = min(BINS, 2 * max(3, round(len(found) ** 0.5))) + 1  # odd: images that are the same are in the middle
    counts, edges = np.histogram(found, bins=bins, range=(-most, most))
    axes.set_xlim(-1.04 * most, 1.04 * most)
    axes.set_ylim(0, 1.08 * max(counts))
    middle, size = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    axes.bar(middle, counts, width=0.88 * size, color=[ACCENT if x > size / 2 else MUTED for x in middle], linewidth=0)
    axes.axvline(0, color=RULE, linewidth=1)
    axes.axvline(float(found.mean()), color=INK, linewidth=1.6)
    axes.set_yticks([0, int(max(counts))])
    for which in ("x", "y"):
        kit.style_ticks(axes, which)
    axes.locator_params(axis="x", nbins=5)
    _minus(axes)
    kit.write_text(axes, 0.5, -0.3, f"difference by {kit.shorten(by, 24)}", MUTED, inside=True, flat=True, ha="center")
    better = 100 * float(np.mean(found > 0))
    alt = (
        f"Paired differences of {name} by {by}: mean {signed(float(found.mean()))}, above 0 in {better:.0f} % of pairs."
    )
    return Plot(kit.to_svg(axes, f"differences {method} {scorer} {width}"), alt, f"{name}, by {by}")


@kit.default_style()
def plot_best_of(report: BestOfReport, path: Path) -> None:
    """Write the curve of the best of k as a PNG: gain over one image by k, a panel a scorer. Raises `DataError`."""
    count = len(report.scorers)
    figure = new_figure(4.4 * count + 0.4, 3.6, facecolor=LIGHT[PAPER])
    panels: Sequence[Any] = figure.subplots(1, count, squeeze=False)[0]
    ks = [point.k for point in report.points]
    for s, (name, axes) in enumerate(zip(report.scorers, panels, strict=True)):
        worth = [point.worth[s] for point in report.points]
        colour = LIGHT[ACCENT] if s == 0 else LIGHT[PEOPLE]
        known = [(k, *one.ci) for k, one in zip(ks, worth, strict=True) if one.ci is not None]
        if known:
            x, low, high = zip((1, 0.0, 0.0), *known, strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(ks, [one.gain for one in worth], color=colour, linewidth=2, marker="o", markersize=3.5)
        axes.axhline(0, color=LIGHT[MUTED], linewidth=0.8)
        axes.set_xscale("log", base=2)
        ticks = [k for k in ks if not k & (k - 1)]
        axes.set_xticks(ticks, [f"{k}" for k in ticks])
        axes.minorticks_off()
        role = "chooses" if s == 0 else "looks at what was chosen"
        axes.set_title(f"{name} ({role})", fontsize=10, color=LIGHT[INK], loc="left", parse_math=False)
        axes.set_xlabel("images drawn for each prompt, k", fontsize=9, color=LIGHT[MUTED])
        axes.set_ylabel("gain over one image, 95 %" if s == 0 else "", fontsize=9, color=LIGHT[MUTED])
        axes.tick_params(labelsize=9, labelcolor=LIGHT[MUTED], length=0)
        axes.grid(color=LIGHT[RULE], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    save(figure, path, dpi=144, metadata={"Software": None})


def plot_gains(report: SearchReport, path: str | Path) -> None:
    """Draw every candidate's gain by each scorer, and save it (the ending chooses PNG, SVG or PDF).

    Filled: on the holdout; hollow: on the pairs that chose. Raises `DataError`, `MissingExtraError`.
    """
    shown = [one for one in report.candidates if one.selection or one.holdout]
    scorers = [name for name in (report.scorer, report.check) if name is not None]
    figure = new_figure(3.2 + 3.4 * len(scorers), 1.5 + 0.34 * len(shown))
    for i, (axes, scorer) in enumerate(zip(figure.subplots(1, len(scorers), squeeze=False)[0], scorers, strict=True)):
        axes.axvline(0, color="#888888", linewidth=1)
        for y, one in enumerate(shown):
            chosen, held = (one.check_selection, one.check_holdout) if i else (one.selection, one.holdout)
            for gain, shift, fill in ((held, 0.0, TOKEN_COLOURS[i]), (chosen, 0.22 if held else 0.0, "white")):
                if gain is None:
                    continue
                ends = gain.ci or (gain.gain, gain.gain)
                axes.plot(ends, [y + shift] * 2, color=TOKEN_COLOURS[i], linewidth=2.2 if fill != "white" else 1)
                axes.plot([gain.gain], [y + shift], "o", color=TOKEN_COLOURS[i], markerfacecolor=fill, markersize=6)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        names = [f"{shown_name(one.template)[:44]}{'' if one.left_in else ' *'}" for one in shown]
        axes.set_yticks(range(len(shown)), names if i == 0 else [""] * len(shown), parse_math=False)
        axes.set_xlabel(f"gain in {scorer}", parse_math=False)
        axes.grid(axis="x", color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("* finalist: filled on the holdout, hollow on the pairs that chose it · 95 % intervals", fontsize=9)
    save(figure, path)


def _value(gain: Gain) -> str:
    low, high = ("", "") if gain.ci is None else (signed(gain.ci[0]), signed(gain.ci[1]))
    return (signed(gain.gain) + (f" [{low}, {high}]" if low else "")).replace("-", "−")


def _minus(axes: Any) -> None:
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}".replace("-", "−"))
