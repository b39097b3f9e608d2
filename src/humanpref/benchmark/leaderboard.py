"""Results to leaderboards, one per scorer: rows with intervals and places, beside the published ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from humanpref.benchmark.published import PUBLISHED, PublishedRow
from humanpref.benchmark.published import STYLES as PUBLISHED_STYLES
from humanpref.benchmark.results import Result, ScorerInfo, SuiteInfo
from humanpref.benchmark.statistics import (
    Components,
    Estimate,
    Paired,
    RankInterval,
    Stability,
    all_pairs,
    components,
    rank_intervals,
    stability,
    stratified_estimate,
)
from humanpref.errors import DataError
from humanpref.metrics import Array
from humanpref.ranking import unread_note
from humanpref.scorers import SPECS

PUBLISHED_PROMPTS = 800
SIZES = (25, 50, 100, 200, 400, 800, 1600, 3200)


@dataclass(frozen=True)
class BoardRow:
    """A generator: its estimate in every style (in the board's order; None: no image) and over all prompts."""

    result: Result
    styles: tuple[Estimate | None, ...]
    overall: Estimate
    rank: RankInterval


@dataclass(frozen=True)
class Board:
    """One scorer's view of the generators, best first. `published` are other people's figures, kept apart."""

    label: str
    scorer: ScorerInfo
    suite: SuiteInfo
    rows: tuple[BoardRow, ...]
    published: tuple[PublishedRow, ...]
    notes: tuple[str, ...]
    common: int

    @property
    def styles(self) -> tuple[str, ...]:
        """The suite's styles, in order."""
        return tuple(self.suite.styles)


def leaderboards(
    results: Sequence[Result], *, allow_incomplete: bool = False, published: bool = True, seed: int = 0
) -> list[Board]:
    """Make a leaderboard of each scorer; scores of different scorers, weights or resizes never meet.

    Places (`rank_intervals`) and comparisons are on the prompts that all of a board's generators have (`common`).
    Raises `DataError` for incomplete results unless allowed, results of different suites, or no results.
    """
    check_results(results, allow_incomplete=allow_incomplete)
    boards = []
    for label, own in _by_scorer(results):
        table, _ = common_scores(own)
        ranks = rank_intervals(table, seed=seed) if table.size else [RankInterval(1, 1, len(own))] * len(own)
        rows = [_row(result, rank, seed) for result, rank in zip(own, ranks, strict=True)]
        rows.sort(key=lambda row: (-row.overall.mean, row.result.generator))
        known = _published(own[0]) if published else ()
        notes = _notes(own, known, table.shape[1])
        boards.append(Board(label, own[0].scorer, own[0].suite, tuple(rows), known, notes, table.shape[1]))
    return boards


def check_results(results: Sequence[Result], *, allow_incomplete: bool) -> None:
    """Raise `DataError`, with the reason, where results cannot stand in one table."""
    if not results:
        raise DataError("no results to show; humanpref benchmark run makes them")
    first = results[0]
    for result in results:
        if result.suite.revision != first.suite.revision:
            raise DataError(
                f"{result.path or result.generator} is of the suite {result.suite.name} {result.suite.revision}, "
                f"{first.path or first.generator} of {first.suite.name} {first.suite.revision}: their prompts differ; "
                "show them apart, or run one again"
            )
        if not result.images:
            raise DataError(f"{result.path or result.generator}: has no scored image")
        if not result.complete and not allow_incomplete:
            raise DataError(
                f"{result.path or result.generator}: is incomplete ({result.shortcomings}); mend it and run again, "
                "or show it as it is with --allow-incomplete"
            )


def common_scores(results: Sequence[Result]) -> tuple[Array, list[tuple[str, int]]]:
    """Scores (generators, prompts) on the prompts that all results have, in the suite's order, and these prompts."""
    shared = [place for place in results[0].by_prompt if all(place in result.by_prompt for result in results)]
    table = np.asarray([[result.by_prompt[place] for place in shared] for result in results])
    return table.reshape(len(results), len(shared)) * results[0].scorer.factor, shared


def compare_results(
    results: Sequence[Result], *, allow_incomplete: bool = False, seed: int = 0
) -> list[tuple[str, list[Paired]]]:
    """Compare every two generators of each scorer on their common prompts -> (scorer, comparisons), Holm-corrected
    within a scorer. Raises as `leaderboards`, and `DataError` where a scorer has one generator only."""
    check_results(results, allow_incomplete=allow_incomplete)
    found = []
    for label, own in _by_scorer(results):
        if len(own) < 2:
            raise DataError(f"{label}: has scored only {own[0].generator}; a comparison needs two generators")
        table, _ = common_scores(own)
        if not table.size:
            raise DataError(f"{label}: the generators have no prompt in common")
        scores = {result.generator: row for result, row in zip(own, table, strict=True)}
        found.append((label, all_pairs(scores, seed=seed)))
    return found


def study_stability(
    results: Sequence[Result], *, allow_incomplete: bool = False, draws: int = 200, seed: int = 0
) -> list[tuple[str, list[Stability], Components | None]]:
    """What fewer prompts would have said, of each scorer; and, with several images of a prompt, how far seeds matter
    (standard deviations between prompts and seeds, the root of the mean variance over generators)."""
    check_results(results, allow_incomplete=allow_incomplete)
    found = []
    for label, own in _by_scorer(results):
        table, shared = common_scores(own)
        sizes = [size for size in SIZES if size < len(shared)]
        parts = [part for result in own if (part := components(_groups(result))) is not None]
        mean = None
        if parts:
            mean = Components(
                *(float(np.sqrt(np.mean([getattr(p, n) ** 2 for p in parts]))) for n in ("prompts", "seeds"))
            )
        found.append((label, stability(table, sizes, draws=draws, seed=seed), mean))
    return found


def _groups(result: Result) -> list[Array]:
    groups: dict[tuple[str, int], list[float]] = {}
    for image in result.images:
        groups.setdefault((image.style, image.index), []).append(image.score * result.scorer.factor)
    return [np.asarray(group) for group in groups.values()]


def _by_scorer(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result.scorer.comparable, []).append(result)
    labels = [own[0].scorer.label for own in groups.values()]
    return [
        (label if labels.count(label) == 1 else f"{label} · {own[0].scorer.weights[:8] or 'other weights'}", own)
        for label, own in zip(labels, groups.values(), strict=True)
    ]


def _row(result: Result, rank: RankInterval, seed: int) -> BoardRow:
    strata = [result.scores(style) for style in result.suite.styles]
    styles = tuple(stratified_estimate([own], seed=seed) if len(own) else None for own in strata)
    return BoardRow(result, styles, stratified_estimate(strata, seed=seed), rank)


def _published(result: Result) -> tuple[PublishedRow, ...]:
    """The published rows of the same scorer on the same suite, where there are any."""
    if dict(result.suite.styles) != dict.fromkeys(PUBLISHED_STYLES, PUBLISHED_PROMPTS):
        return ()
    return PUBLISHED.get(result.scorer.name, ())


def _notes(own: Sequence[Result], known: Sequence[PublishedRow], common: int) -> tuple[str, ...]:
    notes = []
    scorer = own[0].scorer
    spec = SPECS.get(scorer.name)
    if known and spec is not None and spec.sha256 and scorer.weights != spec.sha256:
        notes.append(f"{scorer.name} was run with other weights than the published ones: compare with care")
    if len(formats := sorted({result.scorer.precision for result in own})) > 1:
        notes.append(f"rows were computed in different precisions: {', '.join(formats)}")
    if spec is not None and not spec.reads_prompt:
        notes.append(unread_note(scorer.name))
    if incomplete := [result for result in own if not result.complete]:
        notes.append(
            f"incomplete: {', '.join(f'{r.generator} ({r.shortcomings})' for r in incomplete)}; places are by the "
            f"{common:,} prompts that all generators have"
        )
    return tuple(notes)
