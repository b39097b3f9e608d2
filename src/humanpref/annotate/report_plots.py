"""The plots of the annotation report, drawn as those of the evaluation reports."""

from __future__ import annotations

from collections.abc import Sequence

from humanpref.annotate.aggregate import SourceStrength
from humanpref.report import plots as kit
from humanpref.report.cells import brackets, count, plain
from humanpref.report.plots import ACCENT, INK, MUTED, NARROW, PAPER, WIDE, Plot

__all__ = ["NARROW", "WIDE", "concordance", "strengths"]

BINS = 10


@kit.default_style()
def strengths(sources: Sequence[SourceStrength], width: int = WIDE) -> Plot:
    """How much each source is liked, with its interval."""
    above = width < 500  # on a phone names stand above their rows
    pitch, left = (42, 14) if above else (30, 214)
    axes = kit.page_axes(width, 40 + pitch * len(sources), left=left, right=14 if above else 150, top=8, bottom=32)
    ends = [abs(x) for s in sources for x in (s.strength, *(s.ci or ()))]
    most = 1.06 * max([0.5, *ends])
    axes.set_xlim(-most, most)
    axes.set_ylim(max(1, len(sources)) - 0.5, -0.5)
    kit.draw_grid(axes)
    axes.axvline(0, color=MUTED, linewidth=1)
    for y, s in enumerate(sources):
        value = f"{plain(s.strength)} {brackets(s.ci, plain)}".strip()
        if above:
            kit.write_text(axes, 0, y - 0.22, kit.shorten(s.source, 24), INK, inside=True, weight=700)
            kit.write_text(axes, 1, y - 0.22, value, MUTED, inside=True, ha="right")
        else:
            kit.write_text(axes, -12 / (width - 364), y, kit.shorten(s.source, 24), INK, inside=True, ha="right")
            kit.write_text(axes, 1 + 12 / (width - 364), y, value, MUTED, inside=True)
        level = y + 0.18 if above else y
        if s.ci is not None:
            axes.plot(s.ci, [level] * 2, color=ACCENT, linewidth=2.4, solid_capstyle="round")
        axes.plot([s.strength], [level], "o", color=ACCENT, markeredgecolor=PAPER, markersize=8)
    kit.style_ticks(axes, "x")
    told = "; ".join(f"{s.source}: {plain(s.strength)} {brackets(s.ci, plain)}".strip() for s in sources)
    return Plot(kit.to_svg(axes, f"strengths {width}"), f"Strength of the sources, by Bradley and Terry. {told}.")


@kit.default_style()
def concordance(values: Sequence[float], width: int = NARROW) -> Plot:
    """How many groups have which Kendall's W, values in [0, 1]."""
    counts = [0] * BINS
    for value in values:
        counts[min(int(value * BINS), BINS - 1)] += 1
    axes = kit.page_axes(width, 190, left=44, right=14, top=10, bottom=46)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(0, 1.05 * max(counts))
    axes.bar([(i + 0.5) / BINS for i in range(BINS)], counts, width=0.86 / BINS, color=ACCENT, linewidth=0)
    axes.set_yticks([0, max(counts)])
    axes.set_yticklabels(["0", f"{max(counts):,}"])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xticklabels(["0", "0.25", "0.5", "0.75", "1"])
    for which in ("x", "y"):
        kit.style_ticks(axes, which)
    kit.write_text(axes, 0.5, -0.27, "Kendall’s W", MUTED, inside=True, flat=True, ha="center")
    told = "; ".join(f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}: {count(n, 'group')}" for i, n in enumerate(counts) if n)
    return Plot(kit.to_svg(axes, f"concordance {width}"), f"How many groups have which Kendall’s W. {told}.")
