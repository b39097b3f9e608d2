"""Do scorers order generators as people do? Rankings and results in, a report and the paper's scatter plot out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from humanpref.benchmark.leaderboard import Board
from humanpref.errors import DataError
from humanpref.evaluation.generators import MIN_GENERATORS, GeneratorReport, JudgedGroup, SetMetric, generator_report
from humanpref.evaluation.instances import gather
from humanpref.records import Ranking
from humanpref.report.plots import new_figure, save

COLUMNS = 3


def agreement(
    rankings: Sequence[Ranking], boards: Sequence[Board], *, seed: int = 0
) -> tuple[GeneratorReport, list[str]]:
    """Correlate each leaderboard's order of the generators with people's -> (report, notes).

    Generators are matched by name with the `source` of the rankings' images; images of others, and of no known source,
    are left out of the rankings, and counted in the notes. A generator's human strength is the share of the others'
    images of the same prompt that its own are ranked above; the intervals cover which prompts people were asked about.
    The prompts of the benchmark need not be those that people judged. Raises `DataError` where fewer than three
    generators are in both.
    """
    values = [{row.result.generator: row.overall.mean for row in board.rows} for board in boards]
    shared = {name for name in values[0] if all(name in own for own in values)}
    groups, left_out, images = [], 0, 0
    for instance in gather(rankings):
        consensus = instance.consensus
        kept = [i for i, image in enumerate(consensus.images) if image.source in shared]
        images += len(consensus.images)
        left_out += len(consensus.images) - len(kept)
        if len(kept) > 1:
            sources = tuple(consensus.images[i].source for i in kept)
            groups.append(JudgedGroup(consensus.prompt, sources, tuple(float(consensus.ranks[i]) for i in kept)))
    judged = {source for group in groups for source in group.sources if source is not None}
    if len(judged) < MIN_GENERATORS:
        known, both = (", ".join(sorted(names)) or "none" for names in (shared, judged))
        raise DataError(
            f"at least {MIN_GENERATORS} generators must be in both the rankings (as `source` of images) and the "
            f"results (by every scorer: {known}); in both: {both}"
        )
    metrics = [
        SetMetric(board.label, {name: own[name] for name in judged}, higher_is_better=True)
        for board, own in zip(boards, values, strict=True)
    ]
    notes = []
    if left_out:
        notes.append(
            f"{left_out} of {images} ranked images are of generators without results by every scorer: left out"
        )
    if alone := sorted(shared - judged):
        notes.append(f"nobody ranked images of {', '.join(alone)}: left out")
    return generator_report(groups, {}, metrics, seed=seed), notes


def scatter_plot(report: GeneratorReport, path: str | Path) -> None:
    """Draw every metric against human preference, a point per generator with its interval (as figure 1 of the HPS v2
    paper compares benchmarks with people), and save it; the ending of `path` chooses PNG, SVG or PDF.

    Raises `MissingExtraError`, and `DataError` where it cannot be saved.
    """
    found = report.correlations
    columns = min(COLUMNS, len(found))
    lines = math.ceil(len(found) / columns)
    figure = new_figure(4.6 * columns, 4.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, correlation in zip(panels, found, strict=False):
        for row in report.generators:
            x, y = 100 * row.human, row.metrics[correlation.metric]
            low, high = row.human_ci or (row.human, row.human)
            error = [[max(0.0, x - 100 * low)], [max(0.0, 100 * high - x)]]
            axes.errorbar([x], [y], xerr=error, fmt="o", color="#1f5f9e", ecolor="#9db8d4", markersize=5)
            axes.annotate(_printable(row.generator), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        interval = correlation.spearman_ci
        value = "–" if correlation.spearman is None else f"{correlation.spearman:.2f}"
        bracket = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
        axes.set_title(f"{_printable(correlation.metric)}\nSpearman {value}{bracket}", fontsize=10)
        axes.set_xlabel("people: images of others beaten, %")
        axes.set_ylabel(_printable(correlation.metric) + ("" if correlation.higher_is_better else " (lower is better)"))
        axes.margins(0.14)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(found) :]:
        axes.remove()
    save(figure, path)


def _printable(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
