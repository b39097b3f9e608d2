"""The distribution of image sources, as in the paper of HPD v2. Needs matplotlib (the `report` extra)."""

from __future__ import annotations

from pathlib import Path

from humanpref.data.stats import DataStats
from humanpref.report.plots import new_figure, save


def plot_sources(stats: DataStats, path: str | Path) -> None:
    """Draw images per source as bars, most first, and save them (the ending of `path` chooses PNG, SVG or PDF).

    Raises `DataError`, `MissingExtraError`.
    """
    names, counts = list(stats.sources), list(stats.sources.values())
    figure = new_figure(8, 1.2 + 0.36 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, counts, color="#4878a8")
    total = sum(counts)
    axes.bar_label(bars, [f"{count:,} ({100 * count / total:.1f} %)" for count in counts], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(counts))
    axes.set_xlabel("images")
    axes.set_title(f"Image sources, {stats.images:,} images of {stats.prompts:,} prompts")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
