"""One order from many: the consensus on each group by several rules, and the strengths of the images' sources.

Only task rankings count (`quality.panels`). Scores are higher for better images, whatever the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from humanpref import metrics, resampling
from humanpref.annotate.quality import Groups, Panel, panels
from humanpref.annotate.records import Judgement
from humanpref.errors import MissingExtraError, UnknownNameError

PRIOR = 0.1
"""Strengths have a normal prior of variance 1 / (2 * PRIOR), as `choix` has it (penalty PRIOR * sum of squares): so an
image that always wins has a finite strength."""

MOST_WEIGHT = 3.0
"""How many times the ordinary annotator the best one weighs at most."""

ROUNDS, STEPS = 30, 24
POLISH = 4
"""Newton steps after `choix`, whose own last digits depend on the order of the images."""

Numbers: TypeAlias = npt.NDArray[np.int64]
Scored: TypeAlias = "tuple[metrics.Array, metrics.Array | None]"
"""Scores (images,) and their standard errors."""


@dataclass(frozen=True)
class Consensus:
    """The common order of one group's images, by `method` (one of `METHODS`), from so many `rankings`.

    `scores` are in the order of the group's images, the higher the better; `errors` their standard errors, None where
    one ranking alone cannot tell. `ranks` are competition ranks: 1 = best, equal scores share the better (1, 2, 2, 4).
    """

    group: str
    method: str
    scores: tuple[float, ...]
    errors: tuple[float, ...] | None
    ranks: tuple[int, ...]
    rankings: int


@dataclass(frozen=True)
class SourceStrength:
    """How much a source (generator) is liked: `strength` is of the Bradley-Terry model, P(a over b) = sigmoid of the
    difference, its mean over sources 0. `win_share` is the share of its `pairs` with other sources that it wins, in
    [0, 1], a tie counting one half. Errors and 95 % intervals are by a bootstrap over groups; None for too few."""

    source: str
    rank: int
    strength: float
    error: float | None
    ci: tuple[float, float] | None
    win_share: float
    win_ci: tuple[float, float] | None
    pairs: int


@dataclass(frozen=True)
class SourceReport:
    """The sources, best first, from `pairs` of images in so many `groups`. `unnamed` pairs have an image without a
    source and `same` two of one source: they say nothing here."""

    sources: tuple[SourceStrength, ...]
    groups: int
    pairs: int
    unnamed: int
    same: int


def consensus(
    judgements: Sequence[Judgement], groups: Groups, method: str = "mean_rank", *, excluded: Collection[int] = ()
) -> dict[str, Consensus]:
    """The consensus on every group that can have one, by key, in the order of `groups`.

    "mean_rank": HPD v2's rule, the order of the mean rank (ties at their mean place); "borda": how many images each
    beats on average, which is the same order and another scale; "plackett_luce" (needs the `annotate` extra): see
    `plackett_luce`; "weighted": the mean rank with annotators weighted by `annotator_weights`, and none for a group
    that only people of weight 0 ranked. Raises `UnknownNameError`, `MissingExtraError`, and `DataError` as `panels`.
    """
    if method not in METHODS:
        raise UnknownNameError(f"{method!r} is no way to aggregate; choose from: {', '.join(METHODS)}")
    made = panels(judgements, groups, excluded)
    weights = _weights(made) if method == "weighted" else dict.fromkeys((a for p in made for a in p.people), 1.0)
    found = {}
    for panel in made:
        own = np.asarray([weights[who] for who in panel.people])
        if own.any():
            scores, errors = METHODS[method](panel.places, own)
            found[panel.group.key] = Consensus(
                panel.group.key,
                method,
                tuple(map(float, scores)),
                None if errors is None else tuple(map(float, errors)),
                tuple(metrics.competition_ranks([float(s) for s in scores])),
                int(np.count_nonzero(own)),
            )
    return found


def _mean_rank(places: metrics.Array, weights: metrics.Array) -> Scored:
    """Minus the (weighted) mean place, and the standard error of that mean over annotators."""
    total = weights.sum()
    means = weights @ places / total  # for weights of 1 a sum of halves over a count: equal sums, equal means
    effective = total**2 / np.sum(weights**2)
    if effective < 1 + 1e-9:
        return -means, None
    variance = weights**2 @ (places - means) ** 2 / total**2 * effective / (effective - 1)
    return -means, np.sqrt(variance)


def _borda(places: metrics.Array, weights: metrics.Array) -> Scored:
    scores, errors = _mean_rank(places, weights)
    return places.shape[1] + scores, errors


def _plackett_luce(places: metrics.Array, _: metrics.Array) -> Scored:
    return plackett_luce(places)


def plackett_luce(places: metrics.Array) -> Scored:
    """Strengths (images,) of the Plackett-Luce model from places (annotators, images), by `choix`; their mean is 0.

    Of two images it is Bradley-Terry. An image is chosen first among itself and all that are ranked below it; of ties
    each is chosen among those below the tie, and the tie itself says nothing. The penalty `PRIOR` makes the optimum
    exist and unique. Errors are from the observed information at the optimum, prior included: a group has so few
    annotators, often one, that a bootstrap over them has nothing to draw from. Raises `MissingExtraError`.
    """
    choix = _choix()
    images = places.shape[1]
    choices = [
        (int(first), tuple(map(int, np.flatnonzero(own > own[first]))))
        for own in places
        for first in np.argsort(own, kind="stable")
        if own[first] < own.max()
    ]
    strengths = np.asarray(choix.opt_top1(images, choices, alpha=PRIOR, tol=1e-3))
    for _ in range(POLISH):
        slope, information = _slope_and_information(strengths, choices)
        strengths = strengths + np.linalg.solve(information, slope)
    covariance = np.linalg.inv(_slope_and_information(strengths, choices)[1])
    centre = np.eye(images) - 1 / images
    errors = np.sqrt(np.diag(centre @ covariance @ centre))
    return np.round(strengths - strengths.mean(), 9) + 0.0, errors  # what only rounding tells apart is equal


def _slope_and_information(
    strengths: metrics.Array, choices: Sequence[tuple[int, tuple[int, ...]]]
) -> tuple[metrics.Array, metrics.Array]:
    """The slope (images,) of the penalised log-likelihood and its curvature (images, images), positive definite."""
    slope, information = -2 * PRIOR * strengths, 2 * PRIOR * np.eye(len(strengths))
    for first, rest in choices:
        among = [first, *rest]
        chance = np.exp(strengths[among] - strengths[among].max())
        chance /= chance.sum()
        slope[first] += 1
        slope[among] -= chance
        information[np.ix_(among, among)] += np.diag(chance) - np.outer(chance, chance)
    return slope, information


METHODS: Mapping[str, Callable[[metrics.Array, metrics.Array], Scored]] = MappingProxyType(
    {"mean_rank": _mean_rank, "borda": _borda, "plackett_luce": _plackett_luce, "weighted": _mean_rank}
)
"""The ways to aggregate: (places, weights) to scores and errors."""


def annotator_weights(
    judgements: Sequence[Judgement], groups: Groups, *, excluded: Collection[int] = ()
) -> dict[int, float]:
    """How much each annotator should weigh, from 0 to `MOST_WEIGHT`; 1 is the ordinary one, by number, ascending.

    Annotator a is taken to put image i before j with probability sigmoid(w_a * d), d being by how much the others'
    weighted mean rank favours i: w is the inverse of a's temperature. All d (given w), then all w (given d, most
    likely, with a normal prior as wide as the ordinary w around it) are set in turn until they stay. One who ranks in
    reverse gets 0; one of whom little is known stays near 1. Raises `DataError` as `panels`.
    """
    return _weights(panels(judgements, groups, excluded))


def _weights(made: Sequence[Panel]) -> dict[int, float]:
    people = sorted({who for panel in made for who in panel.people})
    index = {who: i for i, who in enumerate(people)}
    rows = [np.asarray([index[who] for who in panel.people]) for panel in made]
    weights = np.ones(len(people))
    said, who, worth = _said(made, rows)
    for _ in range(ROUNDS):
        gaps = _gaps(made, rows, weights)
        everybody = _likeliest(gaps, said, worth, np.zeros(len(who), dtype=int), None, 1)[0]
        if everybody <= 0:  # nobody agrees with anybody: there is nothing to weigh by
            return dict.fromkeys(people, 1.0)
        new = _likeliest(gaps, said, worth, who, everybody, len(people)) / everybody
        done = float(np.max(np.abs(new - weights))) < 1e-4
        weights = new
        if done:
            break
    return {one: float(weights[i]) for one, i in index.items()}


def _said(made: Sequence[Panel], rows: Sequence[Numbers]) -> tuple[metrics.Array, Numbers, metrics.Array]:
    """Every pair of every ranking: what was said of it (1, 0, or 1/2 for a tie), by whom, and what it is worth."""
    said, who, worth = [np.zeros(0)], [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for panel, own in zip(made, rows, strict=True):
        i, j = np.triu_indices(panel.places.shape[1], k=1)
        values = (np.sign(panel.places[:, j] - panel.places[:, i]) + 1) / 2
        said.append(values.ravel())
        who.append(np.repeat(own, len(i)))
        worth.append(np.full(values.size, 9 / (2 * panel.places.shape[1] + 5)))  # see `quality.Agreement`
    return np.concatenate(said), np.concatenate(who), np.concatenate(worth)


def _gaps(made: Sequence[Panel], rows: Sequence[Numbers], weights: metrics.Array) -> metrics.Array:
    """By how much the others' weighted mean rank favours the first image of each pair, aligned with `_said`."""
    found = [np.zeros(0)]
    for panel, own in zip(made, rows, strict=True):
        mine = weights[own][:, None] * panel.places
        total = weights[own].sum() - weights[own][:, None]
        rest = np.divide(mine.sum(axis=0) - mine, total, out=np.zeros_like(mine), where=total > 1e-9)
        i, j = np.triu_indices(panel.places.shape[1], k=1)
        found.append((rest[:, j] - rest[:, i]).ravel())
    return np.concatenate(found)


def _likeliest(
    gaps: metrics.Array,
    said: metrics.Array,
    worth: metrics.Array,
    who: Numbers,
    centre: float | None,
    people: int,
) -> metrics.Array:
    """The likeliest w of each (people,), by bisection of the slope, which falls everywhere; `centre` is the prior's.

    Without a prior in [0, 8]; with one in [0, MOST_WEIGHT * centre].
    """
    low, high = np.zeros(people), np.full(people, 8.0 if centre is None else MOST_WEIGHT * centre)
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = np.bincount(who, worth * gaps * (said - metrics.sigmoid(middle[who] * gaps)), people)
        if centre is not None:
            slope -= (middle - centre) / centre**2
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    return np.where(high < 1e-6, 0.0, (low + high) / 2)


def source_strengths(
    judgements: Sequence[Judgement],
    groups: Groups,
    *,
    excluded: Collection[int] = (),
    seed: int = 0,
    samples: int = 500,
) -> SourceReport:
    """Which source is liked best, over all pairs of different sources in all task rankings.

    Bradley-Terry by penalised likelihood (`PRIOR`); groups, not pairs, are drawn anew for the intervals, since the
    pairs of a group hang together. Raises `DataError` as `panels`.
    """
    made = panels(judgements, groups, excluded)
    names = sorted({image.source for panel in made for image in panel.group.images if image.source is not None})
    wins, unnamed, same = np.zeros((len(made), len(names), len(names))), 0, 0
    for k, panel in enumerate(made):
        left_out = _count_wins(panel, names, wins[k])
        unnamed, same = unnamed + left_out[0], same + left_out[1]
    return SourceReport(_strengths(wins, names, seed, samples), len(made), round(wins.sum()), unnamed, same)


def _count_wins(panel: Panel, names: Sequence[str], wins: metrics.Array) -> tuple[int, int]:
    """Add the panel's pairs to wins (source, loser) -> how many have no source, and how many one source."""
    own = [image.source for image in panel.group.images]
    unnamed = same = 0
    for i, j in zip(*np.triu_indices(len(own), k=1), strict=True):
        first, second = own[i], own[j]
        if first is None or second is None:
            unnamed += len(panel.people)
        elif first == second:
            same += len(panel.people)
        else:
            a, b = names.index(first), names.index(second)
            won = float(np.sum((np.sign(panel.places[:, j] - panel.places[:, i]) + 1) / 2))
            wins[a, b] += won
            wins[b, a] += len(panel.people) - won
    return unnamed, same


def _strengths(wins: metrics.Array, names: Sequence[str], seed: int, samples: int) -> tuple[SourceStrength, ...]:
    if not names:
        return ()
    count, total = len(names), wins.sum(axis=0)
    strengths = bradley_terry(total)
    played = total.sum(axis=1) + total.sum(axis=0)
    # per group: wins and pairs of each source, then every cell of the table over 1, which gives its mean over groups
    shares = np.stack([wins.sum(axis=2), wins.sum(axis=2) + wins.sum(axis=1)], axis=-1)
    cells = np.stack([wins.reshape(len(wins), -1), np.ones((len(wins), count**2))], axis=-1)
    draws = resampling.bootstrap(np.concatenate([shares, cells], axis=1), seed=seed, samples=samples)
    drawn = bradley_terry(draws[:, count:].reshape(-1, count, count) * len(wins))
    enough = len(wins) >= resampling.MIN_CLUSTERS
    ranks = metrics.competition_ranks([float(s) for s in strengths])
    found = [
        SourceStrength(
            name,
            ranks[i],
            float(strengths[i]),
            float(drawn[:, i].std(ddof=1)) if enough else None,
            resampling.interval(drawn[:, i], len(wins)),
            float(total[i].sum() / played[i]) if played[i] else 0.5,
            resampling.interval(draws[:, i], len(wins)),
            round(played[i]),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda s: (s.rank, s.source)))


def bradley_terry(wins: metrics.Array) -> metrics.Array:
    """Strengths (..., n) from wins (..., n, n), wins[i, j] = how often i beats j (halves for ties); their mean is 0.

    Newton's method on the log-likelihood less `PRIOR` times the sum of squares, which is strictly concave; steps are at
    most 1 in any strength. Tables are solved side by side.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    strengths = np.zeros(wins.shape[:-1])
    eye = np.eye(wins.shape[-1])
    for _ in range(100):
        chance = metrics.sigmoid(strengths[..., :, None] - strengths[..., None, :])
        slope = (wins - games * chance).sum(axis=-1) - 2 * PRIOR * strengths
        curve = games * chance * (1 - chance)
        matrix = eye * (curve.sum(axis=-1) + 2 * PRIOR)[..., None] - curve
        step = np.linalg.solve(matrix, slope[..., None])[..., 0]
        step /= np.maximum(1.0, np.abs(step).max(axis=-1, keepdims=True))
        strengths = strengths + step
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return np.asarray(strengths - strengths.mean(axis=-1, keepdims=True))


def _choix() -> Any:
    try:
        import choix
    except ImportError:
        raise MissingExtraError('Plackett-Luce needs choix: pip install "humanpref[annotate]"') from None
    return choix
