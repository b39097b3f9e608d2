"""Whom a stated rule would leave out, and why, in words. Nothing here excludes anyone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from humanpref.annotate.quality import AnnotatorQuality, Comparison, Groups, wilson_bound
from humanpref.annotate.records import Judgement, ProjectConfig
from humanpref.errors import DataError

MAJORITY = 3
"""With fewer people than this nobody can say who of them is wrong."""


_Reasons: TypeAlias = tuple[tuple[float, str], ...]
"""By how much an annotator is suspect, and why, in words."""


@dataclass(frozen=True)
class QualityRule:
    """When an annotator is suspect. Everything is judged by bounds at `confidence`, so that too little said, or bad
    luck, is no reason.

    Agreement with the others, and of repeats with first answers, must not be shown to be below the point that lies
    `least` of the way from chance (one half) to the median annotator; agreement with gold not below `least_gold`.
    Rankings as shown or in reverse are suspect as `most_straight` of all and too many for chance (`straight_p`); quick
    ones when they are shown to be more than `most_quick`. Nothing is said on fewer than `minimum_rankings` rankings, or
    `minimum_checks` gold groups or repeats.
    """

    confidence: float = 0.95
    least: float = 0.5
    least_gold: float = 0.65
    most_straight: float = 0.2
    straight_p: float = 0.001
    most_quick: float = 0.5
    minimum_rankings: int = 5
    minimum_checks: int = 3

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise DataError(f"confidence must be above 0.5 and below 1, got {self.confidence}")
        for name in ("least", "least_gold", "most_straight", "straight_p", "most_quick"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("minimum_rankings", "minimum_checks"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}")

    def sentences(self, minimum_seconds: float) -> tuple[str, ...]:
        """Say the rule in words."""
        sure = f"it is {_percent(self.confidence)} sure that"
        return (
            f"Agreement with the others: suspect when {sure} it is below the point {_percent(self.least)} of the way "
            f"from chance (50 %) to the median annotator; from {self.minimum_rankings} rankings on, and among "
            f"{MAJORITY} annotators or more.",
            f"Known orders: suspect when {sure} agreement is below {_percent(self.least_gold)}; from "
            f"{self.minimum_checks} such groups on.",
            f"Repeats: suspect when {sure} agreement with the own first answer is below the point "
            f"{_percent(self.least)} of the way from chance to the median annotator; from {self.minimum_checks} on.",
            f"Order as shown: suspect when {_percent(self.most_straight)} of the rankings or more keep or reverse it "
            f"and that many come about by chance less than once in {1 / max(self.straight_p, 1e-12):,.0f} times; from "
            f"{self.minimum_rankings} on.",
            f"Speed: suspect when {sure} more than {_percent(self.most_quick)} of the rankings took less than "
            f"{minimum_seconds:g} seconds; from {self.minimum_rankings} on.",
            "The worst is set aside first and everybody compared anew without them, until nobody is suspect; then "
            "those who do agree with the rest come back.",
        )


def suspects(
    judgements: Sequence[Judgement],
    groups: Groups,
    config: ProjectConfig,
    rule: QualityRule | None = None,
    *,
    excluded: Collection[int] = (),
) -> dict[int, tuple[str, ...]]:
    """Whom the rule would leave out -> {annotator: the reasons in words}, ascending; `excluded` are out already.

    The worst is taken out, everybody compared anew without them, until nobody is suspect; then those who agree with
    the rest after all come back, the best first. The same answers give the same names. Raises `DataError` as `panels`.
    """
    rule = QualityRule() if rule is None else rule
    comparison = Comparison(judgements, groups, config)
    gone = frozenset(excluded)
    out: dict[int, _Reasons] = {}

    def judged() -> dict[int, _Reasons]:
        found = comparison.against({*gone, *out})
        expected = _expected([q for who, q in found.items() if who not in gone and who not in out], rule)
        return {who: _reasons(q, expected, rule) for who, q in found.items() if who not in gone}

    while found := {who: why for who, why in judged().items() if why and who not in out}:
        worst = max(found, key=lambda who: (max(found[who])[0], -who))
        out[worst] = found[worst]
    while back := [who for who, why in judged().items() if who in out and not why]:
        rates = comparison.against({*gone, *out})
        del out[max(back, key=lambda who: (rates[who].others.value or 0.0, -who))]
    now = judged()
    return {who: tuple(text for _, text in sorted(now[who], reverse=True)) for who in sorted(out)}


@dataclass(frozen=True)
class _Expected:
    """The median annotator's agreement, None where there are too few to speak of one."""

    others: float | None
    itself: float | None


def _expected(kept: Sequence[AnnotatorQuality], rule: QualityRule) -> _Expected:
    others = [q.others.right / q.others.pairs for q in kept if q.others.groups >= rule.minimum_rankings]
    itself = [q.itself.right / q.itself.pairs for q in kept if q.itself.groups >= rule.minimum_checks]
    return _Expected(
        median(others) if len(others) >= MAJORITY else None, median(itself) if len(itself) >= MAJORITY else None
    )


def _reasons(quality: AnnotatorQuality, expected: _Expected, rule: QualityRule) -> _Reasons:
    """Why an annotator is suspect: (by how much, in words)."""

    def halfway(typical: float | None) -> float | None:
        return None if typical is None else 0.5 + rule.least * max(0.0, typical - 0.5)

    found = []
    for what, agreement, floor, minimum in (
        ("the others", quality.others, halfway(expected.others), rule.minimum_rankings),
        ("the known orders", quality.gold, rule.least_gold, rule.minimum_checks),
        ("their own first answers", quality.itself, halfway(expected.itself), rule.minimum_checks),
    ):
        if floor is None or agreement.groups < minimum or agreement.at_most(rule.confidence) >= floor:
            continue
        most = agreement.at_most(rule.confidence)
        does = "ranks against" if most < 0.5 else "hardly agrees with"
        share = _percent(agreement.right / agreement.pairs)
        numbers = f"{share} of {agreement.pairs:,} pairs, at most {_percent(most, up=True)}"
        found.append((floor - most, f"{does} {what}: {numbers}, where {_percent(floor)} are asked for"))
    straight, seconds = quality.straight, quality.quick_share
    if (
        straight.rankings >= rule.minimum_rankings
        and straight.share >= rule.most_straight
        and straight.p_value < rule.straight_p
    ):
        text = f"{straight.count} of {straight.rankings} rankings are as shown or just reversed"
        found.append((straight.share - rule.most_straight, f"{text} ({_chance(straight.p_value)} by chance)"))
    if seconds is not None and quality.rankings >= rule.minimum_rankings:
        least = wilson_bound(seconds, quality.rankings, rule.confidence, upper=False)
        if least > rule.most_quick:
            text = f"{quality.quick} of {quality.rankings} rankings were too quick"
            found.append((least - rule.most_quick, text))
    return tuple(found)


def _percent(share: float, *, up: bool = False) -> str:
    return f"{math.ceil(100 * share - 1e-9) if up else 100 * share:.0f} %"


def _chance(p_value: float) -> str:
    return "less than one in a million" if p_value < 1e-6 else f"{p_value:.1g}"
