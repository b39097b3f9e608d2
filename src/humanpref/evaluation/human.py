"""How well do people agree with each other, and how well could a scorer agree with them? (docs/human_ceiling.md)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from humanpref import metrics, resampling
from humanpref.evaluation.instances import Instance
from humanpref.records import HumanResult, Measure

GROUPS = 1000
"""How many groups are simulated: the figures are then good to a fraction of a point."""

MAX_ANNOTATORS = 30


def human_agreement(instances: Sequence[Instance], *, seed: int = 0) -> HumanResult | None:
    """How people agree, where single annotations are given (None otherwise); intervals by a bootstrap over prompts.

    Only instances with two annotators or more count. The intervals of the ceilings are those of the agreement between
    two people, put through the model (`PeopleModel`); they do not cover how far the model itself is wrong.
    """
    rated = [i for i in instances if len(i.annotations) >= 2]
    rows = [[metrics.annotator_agreement(i.annotator_ranks()), _in_consensus(i)] for i in rated]
    if not rows:
        return None
    parts = np.asarray([[others[:2], others[2:], own] for others, own in rows], dtype=np.float64)  # (n, 3, 2)
    sums = resampling.cluster_sums(parts, [i.consensus.prompt for i in rated])
    values = resampling.ratios(sums.sum(axis=0))
    if np.isnan(values[:2]).any():
        return None  # nobody said anything but "tied"
    draws = resampling.bootstrap(sums, seed=seed)
    others, between, own = (
        None if math.isnan(v) else Measure(float(v), resampling.interval(draws[:, k], len(sums)))
        for k, v in enumerate(values)
    )
    assert others is not None
    assert between is not None
    annotators = float(np.mean([len(i.annotations) for i in rated]))
    images = round(float(np.mean([len(i.consensus.images) for i in rated])))
    model = fit_people(between.value, images, min(round(annotators), MAX_ANNOTATORS))
    ends = [fit_people(x, images, model.annotators) for x in between.ci or ()]

    def ceiling(of: Callable[[PeopleModel], float]) -> Measure:
        low_high = (of(ends[0]), of(ends[1])) if ends else None
        return Measure(of(model), low_high)

    return HumanResult(
        instances=len(rated),
        annotations=sum(len(i.annotations) for i in rated),
        annotators_per_group=annotators,
        vs_consensus=others,
        vs_human=between,
        in_consensus=own,
        ceiling_vs_human=ceiling(lambda m: m.oracle_vs_human),
        ceiling_vs_consensus=ceiling(lambda m: m.oracle_vs_consensus),
        model_vs_consensus=model.vs_others,
    )


@dataclass(frozen=True)
class PeopleModel:
    """Simulated people whose agreement is known; all shares of pairs, in [0, 1].

    The images of a group have a true appeal, normal with the deviation `spread`, and each person ranks them by appeal
    plus noise of their own (standard Gumbel: the Plackett-Luce model). `vs_human` and `vs_others` are as in
    `HumanResult`; the oracle ranks by the true appeal.
    """

    spread: float
    images: int
    annotators: int
    vs_human: float
    vs_others: float
    oracle_vs_human: float
    oracle_vs_consensus: float


def simulate_people(spread: float, images: int, annotators: int, *, groups: int = GROUPS, seed: int = 0) -> PeopleModel:
    """Simulate groups of images ranked by `annotators` (>= 2) people each, and count how far they agree."""
    generator = np.random.default_rng(seed)  # the same draws for every spread, so that agreement rises with it smoothly
    appeal = generator.normal(size=(groups, 1, images))
    noise = generator.gumbel(size=(groups, annotators, images))
    ranks = np.argsort(
        np.argsort(-(spread * appeal + noise), axis=-1), axis=-1
    )  # (groups, annotators, images), 0 = best
    i, j = np.triu_indices(images, k=1)
    signs = np.sign(ranks[..., i] - ranks[..., j])  # (groups, annotators, pairs), never 0
    total = ranks.sum(axis=1, keepdims=True)
    others = np.sign((total - ranks)[..., i] - (total - ranks)[..., j])
    consensus = np.sign(total[..., i] - total[..., j])
    truth = np.sign(appeal[..., j] - appeal[..., i])
    sums = signs.sum(axis=1)
    pairs_of_people = annotators * (annotators - 1)
    agreement = float(((sums**2 - annotators).mean() / pairs_of_people + 1.0) / 2.0)
    return PeopleModel(
        spread=spread,
        images=images,
        annotators=annotators,
        vs_human=agreement,
        vs_others=float((signs * others > 0).sum() / (others != 0).sum()),
        oracle_vs_human=float((signs * truth > 0).mean()),
        oracle_vs_consensus=float(((truth * consensus) > 0).mean() + (consensus == 0).mean() / 2.0),
    )


@cache
def fit_people(agreement: float, images: int, annotators: int) -> PeopleModel:
    """The simulated people of whom two agree on this share of pairs, by bisection over the spread of appeal.

    Agreement at or below one half means that there is nothing to know, and everything is about one half.
    """
    low, high = -10.0, 10.0  # powers of two
    for _ in range(20):
        middle = (low + high) / 2.0
        below = simulate_people(2.0**middle, images, annotators).vs_human < agreement
        low, high = (middle, high) if below else (low, middle)
    return simulate_people(2.0**low, images, annotators)


def _in_consensus(instance: Instance) -> tuple[float, float]:
    """Each annotator by the official rule against the given consensus, which holds their own vote."""
    if not instance.given:
        return 0.0, 0.0
    ranks = instance.consensus.ranks
    own = [metrics.official_accuracy([-float(r) for r in a.ranks], ranks) for a in instance.annotations]
    return float(np.sum(own)), float(len(own))
