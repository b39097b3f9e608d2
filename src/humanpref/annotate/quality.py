"""How well each annotator ranks, and how far people agree on each group: pure functions of judgements and groups.

Practice never counts; gold and repeats say how good an annotator is; agreement with others comes from tasks alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist, fmean, median
from typing import TypeAlias

import numpy as np

from humanpref import metrics
from humanpref.annotate.records import Judgement, ProjectConfig, ProjectGroup
from humanpref.correlation import rank_correlations
from humanpref.errors import DataError

Groups: TypeAlias = Mapping[str, ProjectGroup]


@dataclass(frozen=True)
class Agreement:
    """How many of so many pairs of images are ordered the same: `right` of `pairs`, over so many `groups`.

    A pair the annotator ties counts one half, one the other side ties is left out (`metrics.pair_agreement`).
    `evidence` is how many *independent* pairs they are worth: the pairs of one ranking hang together, and of n images
    they are worth 9 / (2n + 5) each (the variance of Kendall's tau without association, Kendall 1938, over that of
    independent pairs).
    """

    right: float = 0.0
    pairs: int = 0
    evidence: float = 0.0
    groups: int = 0

    @property
    def value(self) -> float | None:
        """The share in [0, 1], None without pairs."""
        return self.right / self.pairs if self.pairs else None

    def at_most(self, confidence: float) -> float:
        """What the true share is at most, with this one-sided confidence: see `wilson_bound`; 1 without pairs."""
        return 1.0 if self.value is None else wilson_bound(self.value, self.evidence, confidence)


@dataclass(frozen=True)
class Straight:
    """How many of so many rankings of three images or more give them just as they were shown, or in reverse.

    `p_value`: how likely so many or more are by chance, 2 / n! for each ranking of n images, exactly.
    """

    count: int = 0
    rankings: int = 0
    p_value: float = 1.0

    @property
    def share(self) -> float:
        """The share in [0, 1], 0 without rankings."""
        return self.count / self.rankings if self.rankings else 0.0


@dataclass(frozen=True)
class AnnotatorQuality:
    """What one annotator's answers say of them, practice left out.

    `rankings` are all, `tasks` those that go into the aggregate. `median_seconds` and `quick` (how many took less than
    the project's `minimum_seconds`) are of rankings. `gold`: against the known order; `itself`: a repeat against the
    first answer; `others`: against the mean rank of the others who ranked the same, `tau_b` the mean of Kendall's tau-b
    with it, in [-1, 1] (None where it is not defined). `corrections` and `unsafe` are counts of changes and of marks.
    """

    annotator: int
    rankings: int = 0
    tasks: int = 0
    skips: int = 0
    median_seconds: float | None = None
    quick: int = 0
    gold: Agreement = Agreement()
    itself: Agreement = Agreement()
    others: Agreement = Agreement()
    tau_b: float | None = None
    straight: Straight = Straight()
    corrections: int = 0
    unsafe: int = 0

    @property
    def quick_share(self) -> float | None:
        """The share of rankings that took less than `minimum_seconds`, None without rankings."""
        return self.quick / self.rankings if self.rankings else None


@dataclass(frozen=True)
class GroupQuality:
    """How far people agree on one group: `w` is Kendall's W in [0, 1], None for fewer than two rankings or where
    everybody ties everything. `unsafe`: how many people marked an image of it."""

    group: str
    rankings: int
    skips: int
    w: float | None
    unsafe: int


@dataclass(frozen=True, eq=False)
class Panel:
    """The task rankings of one group: `people` ascending, `places` (people, images) as `metrics.midranks` has them."""

    group: ProjectGroup
    people: tuple[int, ...]
    places: metrics.Array


def wilson_bound(share: float, count: float, confidence: float, *, upper: bool = True) -> float:
    """The upper (or lower) end of a one-sided interval of a share in [0, 1] of `count` > 0 independent trials.

    Wilson's score interval (1927), which holds for few trials and shares near 0 and 1.
    """
    z = NormalDist().inv_cdf(confidence)
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    bound = (middle + (half if upper else -half)) / (1 + z * z / count)
    return min(1.0, max(0.0, bound))


def chance_of_at_least(count: int, chances: Iterable[float]) -> float:
    """P(at least `count` of independent events happen), each with its own chance: exact, event by event."""
    fewer = np.zeros(count)  # P(exactly k so far), k < count
    if not count:
        return 1.0
    fewer[0] = 1.0
    for chance in chances:
        fewer[1:] = fewer[1:] * (1 - chance) + fewer[:-1] * chance
        fewer[0] *= 1 - chance
    return float(max(0.0, 1.0 - fewer.sum()))


def kendalls_w(places: metrics.Array) -> float | None:
    """Kendall's coefficient of concordance of places (people, images), with ties averaged and corrected for; in [0, 1].

    W = 12 S / (m^2 (n^3 - n) - m T), T the sum of t^3 - t over sets of t ties (Kendall and Babington Smith 1939;
    Siegel 1956, p. 229). None for fewer than two people or where all tie everything.
    """
    people, images = places.shape
    ties = np.sum((places[:, :, None] == places[:, None, :]).sum(axis=2) ** 2 - 1)  # t of t^2 - 1 each: t^3 - t
    most = people**2 * (images**3 - images) - people * int(ties)
    if people < 2 or most <= 0:
        return None
    sums = places.sum(axis=0)
    return float(min(1.0, 12 * np.sum((sums - sums.mean()) ** 2) / most))


def panels(judgements: Iterable[Judgement], groups: Groups, excluded: Collection[int] = ()) -> list[Panel]:
    """Gather the task rankings of every group that has any, in the order of `groups`, whatever that of the judgements.

    Raises `DataError` where an answer does not fit its group or an annotator ranked a group twice.
    """
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for judgement in judgements:
        ranks = checked_ranks(judgement, groups)
        if judgement.kind != "task" or ranks is None or judgement.annotator in excluded:
            continue
        own = found.setdefault(judgement.group, {})
        if judgement.annotator in own:
            raise DataError(f"group {judgement.group!r}: annotator {judgement.annotator} ranked it more than once")
        own[judgement.annotator] = ranks
    made = []
    for key, group in groups.items():
        if own := found.get(key, {}):
            people = tuple(sorted(own))
            places = metrics.midranks(np.asarray([own[who] for who in people], dtype=np.float64))
            made.append(Panel(group, people, places))
    return made


def checked_ranks(judgement: Judgement, groups: Groups) -> tuple[int, ...] | None:
    """The ranks of a judgement, None for a skip. Raises `DataError` where it does not fit its group."""
    group = groups.get(judgement.group)
    what = f"judgement {judgement.number}"
    if group is None:
        raise DataError(f"{what}: there is no group {judgement.group!r}")
    if judgement.kind == "gold" and group.gold_ranks is None:
        raise DataError(f"{what}: group {judgement.group!r} is shown as gold and has no known order (gold_ranks)")
    ranks, images = judgement.ranks, len(group.images)
    if ranks is not None and len(ranks) != images:
        raise DataError(f"{what}: {len(ranks)} ranks for the {images} images of group {judgement.group!r}")
    if ranks is not None and sorted(judgement.shown) != list(range(images)):
        raise DataError(f"{what}: it does not show each image of group {judgement.group!r} once")
    return ranks


def group_quality(
    judgements: Sequence[Judgement], groups: Groups, *, excluded: Collection[int] = ()
) -> dict[str, GroupQuality]:
    """How far people agree on each task group, also on those that nobody ranked; answers of `excluded` left out."""
    ranked = {panel.group.key: panel for panel in panels(judgements, groups, excluded)}
    kept = [j for j in judgements if j.kind == "task" and j.annotator not in excluded]
    skips, marks = dict.fromkeys(groups, 0), dict.fromkeys(groups, 0)
    for judgement in kept:
        skips[judgement.group] += judgement.ranks is None
        marks[judgement.group] += bool(judgement.unsafe)
    return {
        key: GroupQuality(
            key,
            len(ranked[key].people) if key in ranked else 0,
            skips[key],
            kendalls_w(ranked[key].places) if key in ranked else None,
            marks[key],
        )
        for key, group in groups.items()
        if group.role == "task"
    }


def annotator_quality(
    judgements: Sequence[Judgement], groups: Groups, config: ProjectConfig, *, excluded: Collection[int] = ()
) -> dict[int, AnnotatorQuality]:
    """What each annotator's answers say of them, by number, ascending; those who only practised have none.

    The `excluded` are compared like everybody, and nobody with them. Raises `DataError` as `panels`.
    """
    return Comparison(judgements, groups, config).against(excluded)


@dataclass
class Comparison:
    """Everybody's answers, to be compared again and again as people are taken out; groups untouched by that are not
    gone through anew."""

    judgements: Sequence[Judgement]
    groups: Groups
    config: ProjectConfig
    _panels: list[Panel] = field(init=False)
    _alone: dict[int, AnnotatorQuality] = field(init=False)
    _known: dict[tuple[str, frozenset[int]], list[tuple[int, _Part, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._panels = panels(self.judgements, self.groups)
        own: dict[int, list[Judgement]] = {}
        for judgement in self.judgements:
            if judgement.kind != "practice":
                own.setdefault(judgement.annotator, []).append(judgement)
        self._alone = {who: _alone(who, own[who], self.groups, self.config) for who in sorted(own)}

    def against(self, out: Collection[int]) -> dict[int, AnnotatorQuality]:
        """Everybody's quality, compared with those who are not `out`."""
        parts: dict[int, list[_Part]] = {who: [] for who in self._alone}
        taus: dict[int, list[float]] = {who: [] for who in self._alone}
        for panel in self._panels:
            here = frozenset(panel.people).intersection(out)
            key = (panel.group.key, here)
            if key not in self._known:
                self._known[key] = _with_rest(panel, here)
            for who, part, tau in self._known[key]:
                parts[who].append(part)
                if not math.isnan(tau):
                    taus[who].append(tau)
        return {
            who: replace(alone, others=_agreement(parts[who]), tau_b=fmean(taus[who]) if taus[who] else None)
            for who, alone in self._alone.items()
        }


_Part: TypeAlias = tuple[float, int, int]
"""Of one ranking: pairs right, pairs that count, images."""


def _agreement(parts: Iterable[_Part]) -> Agreement:
    counted = [part for part in parts if part[1]]
    return Agreement(
        sum(right for right, _, _ in counted),
        sum(untied for _, untied, _ in counted),
        math.fsum(untied * 9 / (2 * images + 5) for _, untied, images in counted),
        len(counted),
    )


def _compare(own: Sequence[float] | metrics.Array, reference: Sequence[float] | metrics.Array) -> _Part:
    right, untied, _ = metrics.pair_agreement(-np.asarray(own, dtype=np.float64), reference)
    return right, untied, len(own)


def _with_rest(panel: Panel, out: frozenset[int]) -> list[tuple[int, _Part, float]]:
    """Each one's ranking against the mean rank of those others who are not out -> (annotator, part, tau-b or nan)."""
    kept = np.asarray([who not in out for who in panel.people])
    own = np.where(kept[:, None], panel.places, 0.0)
    rest = own.sum(axis=0) - own  # halves of whole numbers, so equal sums are equal exactly
    _, taus = rank_correlations(panel.places, rest)
    i, j = np.triu_indices(panel.places.shape[1], k=1)  # as `metrics.pair_agreement`, for all people at once
    theirs = np.sign(rest[:, i] - rest[:, j])
    same = np.sign(panel.places[:, i] - panel.places[:, j]) * theirs
    right = ((same + 1) / 2 * (theirs != 0)).sum(axis=1).tolist()
    untied = (theirs != 0).sum(axis=1).tolist()
    images, others = panel.places.shape[1], int(kept.sum())
    return [
        (who, (right[k], untied[k], images), float(taus[k])) for k, who in enumerate(panel.people) if others > kept[k]
    ]


def _alone(who: int, own: Sequence[Judgement], groups: Groups, config: ProjectConfig) -> AnnotatorQuality:
    """What needs nobody else."""
    ranked = [(j, ranks) for j in own if (ranks := checked_ranks(j, groups)) is not None]
    first: dict[str, tuple[int, ...]] = {}
    for judgement, ranks in sorted(ranked, key=lambda one: one[0].number):
        if judgement.kind != "repeat":
            first.setdefault(judgement.group, ranks)
    gold = [_compare(ranks, groups[j.group].gold_ranks or ()) for j, ranks in ranked if j.kind == "gold"]
    itself = [_compare(ranks, first[j.group]) for j, ranks in ranked if j.kind == "repeat" and j.group in first]
    return AnnotatorQuality(
        who,
        rankings=len(ranked),
        tasks=sum(j.kind == "task" for j, _ in ranked),
        skips=len(own) - len(ranked),
        median_seconds=median(j.seconds for j, _ in ranked) if ranked else None,
        quick=sum(j.seconds < config.minimum_seconds for j, _ in ranked),
        gold=_agreement(gold),
        itself=_agreement(itself),
        straight=_straight(ranked),
        corrections=sum(j.corrected for j in own),
        unsafe=sum(len(j.unsafe) for j in own),
    )


def _straight(ranked: Sequence[tuple[Judgement, tuple[int, ...]]]) -> Straight:
    seen = [tuple(ranks[i] for i in j.shown) for j, ranks in ranked if len(ranks) > 2]  # two images: always straight
    steps = [np.sign(np.diff(places)) for places in seen]
    count = sum(abs(int(step.sum())) == len(step) for step in steps)
    return Straight(count, len(seen), chance_of_at_least(count, [2 / math.factorial(len(p)) for p in seen]))
