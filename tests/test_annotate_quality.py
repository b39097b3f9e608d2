from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from humanpref.annotate.exclusion import QualityRule, suspects
from humanpref.annotate.quality import (
    Straight,
    annotator_quality,
    chance_of_at_least,
    group_quality,
    kendalls_w,
    wilson_bound,
)
from humanpref.annotate.records import ProjectConfig
from humanpref.errors import DataError
from humanpref.metrics import annotator_agreement, midranks
from tests.crowd import World, crowd, group, judgement

CONFIG = ProjectConfig()
ROWS = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.tuples(*[st.integers(1, n)] * n), min_size=2, max_size=6)
)  # rankings with ties


@given(ROWS)
def test_kendalls_w_is_that_of_the_textbook(rows: list[tuple[int, ...]]) -> None:
    """Kendall's W is the mean Spearman correlation of all two people, put on [0, 1]: W = (1 + (m - 1) rho) / m, where
    nobody ties; with ties corrected it is Friedman's chi-square over m (n - 1)."""
    places = midranks(np.asarray(rows, dtype=float))
    people, images = places.shape
    w = kendalls_w(places)
    if (places == places[:, :1]).all():
        assert w is None
        return
    if images > 2:
        assert w == pytest.approx(stats.friedmanchisquare(*places.T).statistic / (people * (images - 1)))
    if all(len(set(row)) == images for row in rows):
        sums = places.sum(axis=0)
        spread = sum((s - people * (images + 1) / 2) ** 2 for s in sums)
        assert w == pytest.approx(12 * spread / (people**2 * (images**3 - images)))
        rho = np.mean([np.corrcoef(places[a], places[b])[0, 1] for a in range(people) for b in range(a)])
        assert w == pytest.approx((1 + (people - 1) * rho) / people)
    assert w is not None
    assert 0 <= w <= 1


def test_kendalls_w_at_its_ends() -> None:
    assert kendalls_w(np.asarray([[1.0, 2, 3]] * 4)) == 1
    assert kendalls_w(np.asarray([[1.5, 1.5, 3]] * 4)) == 1
    assert kendalls_w(np.asarray([[1.0, 2, 3], [3.0, 2, 1]])) == 0
    assert kendalls_w(np.asarray([[1.0, 2, 3]])) is None


@pytest.mark.parametrize("images", [2, 4, 7])
def test_the_pairs_of_a_random_ranking_are_worth_their_evidence(images: int) -> None:
    """The variance of agreement with a fixed order, over all rankings or many, is that of so many independent pairs."""
    random = np.random.default_rng(0)
    every = list(permutations(range(images))) if images < 7 else [random.permutation(images) for _ in range(20_000)]
    shares = [np.mean([o[i] < o[j] for i in range(images) for j in range(i + 1, images)]) for o in every]
    groups = {"g": group("g", images)}
    ranks = tuple(range(1, images + 1))
    found = annotator_quality([judgement(1, "g", 1, ranks), judgement(2, "g", 2, ranks)], groups, CONFIG)
    assert 0.25 / found[1].others.evidence == pytest.approx(np.var(shares), rel=0.03)


@given(count=st.integers(0, 6), sizes=st.lists(st.integers(2, 5), max_size=5))
def test_the_chance_of_straight_lines_is_exact(count: int, sizes: list[int]) -> None:
    chances = [2 / math.factorial(n) for n in sizes]
    total = 0.0
    for events in product([True, False], repeat=len(chances)):
        if sum(events) >= count:
            total += math.prod(c if e else 1 - c for c, e in zip(chances, events, strict=True))
    assert chance_of_at_least(count, chances) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("share", "count"), [(0.0, 5), (0.3, 10), (0.5, 40), (1.0, 7)])
def test_the_bound_is_wilsons(share: float, count: int) -> None:
    ends = stats.binomtest(round(share * count), count).proportion_ci(0.9, method="wilson")  # 5 % on each side
    assert wilson_bound(share, count, 0.95) == pytest.approx(ends.high)
    assert wilson_bound(share, count, 0.95, upper=False) == pytest.approx(ends.low, abs=1e-12)


def test_by_hand() -> None:
    groups = {
        "a": group("a", 3),
        "b": group("b", 3),
        "k": group("k", 3, role="gold", gold_ranks=(1, 2, 2)),
        "p": group("p", 3, role="practice", gold_ranks=(1, 2, 3)),
    }
    judgements = [
        judgement(1, "a", 1, (1, 2, 3), seconds=1.0, shown=(2, 1, 0)),  # straight: the reverse of what was shown
        judgement(2, "a", 2, (1, 3, 2), seconds=4.0),
        judgement(3, "a", 3, (1, 2, 3), corrected=2),
        judgement(4, "b", 1, (1, 1, 2), seconds=5.0, unsafe=(0, 2)),
        judgement(5, "b", 2, (3, 2, 1)),
        judgement(6, "k", 1, (2, 1, 3), kind="gold", seconds=9.0),
        judgement(7, "a", 1, (2, 1, 3), kind="repeat", seconds=2.0, shown=(2, 0, 1)),
        judgement(8, "b", 1, None, kind="repeat", shown=(0, 1, 2)),
        judgement(9, "p", 1, (3, 2, 1), kind="practice", seconds=0.1),
        judgement(10, "p", 4, (3, 2, 1), kind="practice"),
    ]
    found = annotator_quality(judgements, groups, CONFIG)
    assert list(found) == [1, 2, 3]  # one only practised
    one = found[1]
    assert (one.rankings, one.tasks, one.skips, one.corrections, one.unsafe) == (4, 2, 1, 0, 2)
    assert (one.median_seconds, one.quick, one.quick_share) == (3.5, 2, 0.5)
    assert (one.gold.right, one.gold.pairs, one.gold.groups) == (1, 2, 1)  # of the two pairs that gold does not tie
    assert (one.itself.right, one.itself.pairs) == (2, 3)
    # on a against (1, 2.5, 2.5): 2 of 2; on b against 3, 2, 1: the own tie one half, the others wrong
    assert (one.others.right, one.others.pairs, one.others.groups) == (2.5, 5, 2)
    assert one.tau_b == pytest.approx(
        (stats.kendalltau([1, 2, 3], [1, 2.5, 2.5])[0] + stats.kendalltau([1, 1, 2], [3, 2, 1])[0]) / 2
    )
    assert one.straight == Straight(
        2, 4, pytest.approx(1 - (2 / 3) ** 4 - 4 * (1 / 3) * (2 / 3) ** 3)
    )  # the repeat too
    assert (found[3].corrections, found[3].gold.value, found[3].itself.value) == (2, None, None)
    # without the second there is one to compare with on a, nobody on b; the second is compared all the same
    without = annotator_quality(judgements, groups, CONFIG, excluded=[2])
    assert (without[1].others.right, without[1].others.pairs) == (3, 3)
    assert (without[2].others.right, without[2].others.pairs) == (2.0 + 0.0, 3 + 2)
    by_group = group_quality(judgements, groups)
    assert list(by_group) == ["a", "b"]
    assert (by_group["a"].rankings, by_group["b"].rankings, by_group["b"].unsafe) == (3, 2, 1)
    assert by_group["a"].w == kendalls_w(np.asarray([[1.0, 2, 3], [1, 3, 2], [1, 2, 3]]))
    assert group_quality(judgements, groups, excluded=[1, 2])["b"].rankings == 0


def test_agreement_with_the_others_is_that_of_the_metrics() -> None:
    world = World(crowd(6), count=10, per_group=5)
    found = annotator_quality(world.judgements, world.groups, CONFIG)
    rows = [[j.ranks for j in world.judgements if j.group == key] for key in world.groups]
    counted = np.sum([annotator_agreement(np.asarray(r, dtype=float)) for r in rows], axis=0)
    assert sum(q.others.right for q in found.values()) == counted[0]
    assert sum(q.others.pairs for q in found.values()) == counted[1]


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_neither_the_order_of_images_nor_of_answers_nor_the_numbers_matter(random: Any) -> None:
    world = World(crowd(5, careless=1, reversed_=1), count=12, per_group=6, gold=4, repeats=4, seed=3)
    rule = QualityRule(minimum_rankings=3, confidence=0.6)
    before = annotator_quality(world.judgements, world.groups, CONFIG)
    flagged = suspects(world.judgements, world.groups, CONFIG, rule)
    assert flagged
    groups, turned = {}, {}
    for key, own in world.groups.items():
        order = list(range(world.images))
        random.shuffle(order)
        known = own.gold_ranks and tuple(own.gold_ranks[i] for i in order)
        groups[key] = replace(own, images=tuple(own.images[i] for i in order), gold_ranks=known)
        turned[key] = order
    judgements = [
        replace(
            j,
            ranks=j.ranks and tuple(j.ranks[i] for i in turned[j.group]),
            shown=tuple(turned[j.group].index(i) for i in j.shown),
        )
        for j in world.judgements
    ]
    random.shuffle(judgements)
    after = annotator_quality(judgements, groups, CONFIG)
    assert after.keys() == before.keys()
    for who, own_quality in before.items():
        assert replace(after[who], tau_b=0.0) == replace(own_quality, tau_b=0.0)
        assert after[who].tau_b == pytest.approx(own_quality.tau_b)
    assert suspects(judgements, groups, CONFIG, rule) == flagged


def flags(seeds: int, honest: int, careless: int, reversed_: int, **options: Any) -> tuple[float, float, float]:
    """-> (share of the careless found, share of the reversed found, share of the honest flagged)."""
    found = np.zeros(3)
    for seed in range(seeds):
        world = World(crowd(honest, careless, reversed_, seed), seed=seed, **options)
        out = np.asarray(list(suspects(world.judgements, world.groups, CONFIG)))
        last = honest + careless
        found += [((out > honest) & (out <= last)).sum(), (out > last).sum(), (out <= honest).sum()]
    careless_found, reversed_found, wrong = found / seeds / np.maximum(1, [careless, reversed_, honest])
    return careless_found, reversed_found, wrong


def test_the_bad_are_found_and_the_honest_left_alone() -> None:
    careless, adversary, wrong = flags(10, 12, 3, 1, count=50)
    assert careless >= 0.9
    assert adversary == 1
    assert wrong <= 0.01


def test_nobody_is_flagged_where_all_are_honest_or_little_is_known() -> None:
    assert flags(8, 12, 0, 0, count=60)[2] == 0
    assert flags(8, 12, 3, 0, count=3)[2] == 0  # two rankings each
    assert flags(8, 12, 3, 0, count=3)[0] == 0


def test_half_are_careless() -> None:
    careless, _, wrong = flags(4, 10, 10, 0, count=60)
    assert careless >= 0.8
    assert wrong <= 0.02


def test_many_run_against_the_rest() -> None:
    _, against, wrong = flags(5, 12, 0, 6, count=50)
    assert against == 1
    assert wrong <= 0.02


def test_one_person_a_group_is_judged_by_the_known_orders() -> None:
    careless, against, wrong = flags(8, 10, 2, 1, count=60, per_group=1, gold=30)
    assert careless >= 0.8
    assert against == 1
    assert wrong <= 0.02


def test_contamination_does_not_stay() -> None:
    """Bad company makes honest people look bad at first: whoever agrees with those who are left is not flagged."""
    world = World(crowd(8, careless=5, reversed_=4, seed=2), count=80, per_group=10, seed=2)
    everybody = annotator_quality(world.judgements, world.groups, CONFIG)
    out = suspects(world.judgements, world.groups, CONFIG)
    rest = annotator_quality(world.judgements, world.groups, CONFIG, excluded=out)
    assert set(out) == set(range(9, 18))
    for who in range(1, 9):
        assert rest[who].others.value > everybody[who].others.value + 0.05


def test_who_looked_bad_by_bad_company_comes_back() -> None:
    """Here the first person is set aside on the way, before most of those in reverse are, and agrees with the rest
    once they are gone."""
    world = World(crowd(8, reversed_=6, seed=21), count=40, per_group=5, seed=21)
    assert set(suspects(world.judgements, world.groups, CONFIG)) == set(range(9, 15))


def test_why_in_words() -> None:
    world = World(crowd(8, careless=1, reversed_=1), count=60, gold=10, repeats=10)
    said = [
        replace(j, ranks=tuple(j.shown.index(i) + 1 for i in range(4)), seconds=1.0) if j.annotator == 9 else j
        for j in world.judgements
    ]
    out = suspects(said, world.groups, CONFIG)
    assert list(out) == [9, 10]
    text = " ".join(out[9])
    assert "rankings are as shown or just reversed (less than one in a million by chance)" in text
    assert "rankings were too quick" in text
    assert "hardly agrees with the others: " in text
    assert "ranks against the others: " in " ".join(out[10])
    assert "ranks against the known orders: " in " ".join(out[10])
    # whoever is out already is neither compared with nor named
    assert list(suspects(said, world.groups, CONFIG, excluded=[9])) == [10]
    assert suspects(said, world.groups, CONFIG, excluded=range(1, 11)) == {}


def test_a_tied_or_straight_answer_now_and_then_is_no_reason() -> None:
    world = World(crowd(6), count=40, per_group=6)
    mine = [j for j in world.judgements if j.annotator == 1]
    straight = {j.number for j in mine[:6]}  # 6 of 40, where 2 / 4! of 40 come by chance
    said = [
        replace(j, ranks=tuple(j.shown.index(i) + 1 for i in range(4))) if j.number in straight else j
        for j in world.judgements
    ]
    assert annotator_quality(said, world.groups, CONFIG)[1].straight.count >= 6
    assert suspects(said, world.groups, CONFIG) == {}


def test_two_people_cannot_tell_who_is_wrong() -> None:
    world = World(crowd(1, reversed_=1), count=60)
    assert annotator_quality(world.judgements, world.groups, CONFIG)[1].others.value < 0.4
    assert suspects(world.judgements, world.groups, CONFIG) == {}


def test_the_rule_says_what_it_does() -> None:
    text = " ".join(QualityRule(confidence=0.9, least_gold=0.7, most_quick=0.3).sentences(4.5))
    for part in (
        "90 % sure",
        "below 70 %",
        "more than 30 % of the rankings took less than 4.5 seconds",
        "once in 1,000 times",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("values", "words"),
    [({"confidence": 0.4}, "confidence"), ({"least": 1.2}, "least"), ({"minimum_checks": 0}, "minimum_checks")],
)
def test_rules_that_make_no_sense(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        QualityRule(**values)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (judgement(1, "x", 1, (1, 2, 3)), "judgement 1: there is no group 'x'"),
        (judgement(2, "g", 1, (1, 2)), "2 ranks for the 3 images"),
        (judgement(3, "g", 1, (1, 2, 3), shown=(0, 1, 1)), "does not show each image"),
        (judgement(4, "g", 1, (1, 2, 3), kind="gold"), "no known order"),
    ],
)
def test_answers_that_do_not_fit(bad: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        annotator_quality([bad], {"g": group("g", 3)}, CONFIG)
