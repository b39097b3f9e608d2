from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from humanpref import metrics

groups = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n),
        st.lists(st.integers(1, 6), min_size=n, max_size=n),
    )
)


@given(groups)
def test_pair_agreement_equals_brute_force(group: tuple[list[float], list[int]]) -> None:
    scores, ranks = group
    right, untied, inversions = 0.0, 0, 0.0
    for i, j in combinations(range(len(scores)), 2):
        if ranks[i] == ranks[j]:
            continue
        untied += 1
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        credit = 1.0 if scores[better] > scores[worse] else 0.5 if scores[better] == scores[worse] else 0.0
        right += credit
        inversions += 1.0 - credit
    total = math.comb(len(scores), 2)
    assert metrics.pair_agreement(scores, ranks) == (right, untied, total)
    assert metrics.official_accuracy(scores, ranks) == pytest.approx(1 - inversions / total, abs=1e-12)


def test_official_rule_on_an_example_by_hand() -> None:
    # people: A best, B and C tied, D worst; scorer: B > A > D > C.
    # six pairs: AB wrong, AC right, AD right, BC human tie (right), BD right, CD wrong -> 4/6
    assert metrics.official_accuracy([3, 4, 1, 2], [1, 2, 2, 3]) == pytest.approx(4 / 6)
    assert metrics.pair_agreement([3, 4, 1, 2], [1, 2, 2, 3]) == (3.0, 5, 6)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=10), st.floats(0.01, 100))
def test_pairwise_probabilities_are_a_preference(scores: list[float], scale: float) -> None:
    p = metrics.pairwise_probabilities(scores, scale)
    assert np.allclose(p + p.T, 1.0)
    assert np.all(np.diag(p) == 0.5)
    i, j = np.argmax(scores), np.argmin(scores)
    assert p[i, j] >= 0.5


def test_win_probability_is_the_training_formula() -> None:
    # HPS v2: sigmoid(100 * (0.29 - 0.28)) = sigmoid(1)
    first, second = metrics.win_probabilities([0.29, 0.28], 100.0)
    assert first == pytest.approx(1 / (1 + math.exp(-1)))
    assert second == pytest.approx(1 - first)
    # three images: against the mean of the other two
    assert metrics.win_probabilities([1.0, 0.0, -2.0], 1.0)[0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert metrics.win_probabilities([0.3], 100.0) == [None]


@given(st.lists(st.integers(0, 4).map(float), max_size=8))
def test_competition_ranks(scores: list[float]) -> None:
    assert metrics.competition_ranks(scores) == [1 + sum(other > s for other in scores) for s in scores]


def signs(values: list[float], i: int, j: int) -> int:
    return (values[i] > values[j]) - (values[i] < values[j])


@given(groups)
def test_the_imagereward_rule_equals_brute_force(group: tuple[list[float], list[int]]) -> None:
    scores, ranks = group
    right = untied = 0
    for i, j in combinations(range(len(scores)), 2):
        if ranks[i] != ranks[j]:
            untied += 1
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            right += scores[better] > scores[worse]
    assert metrics.strict_agreement(scores, ranks) == (right, untied)


@given(groups, st.floats(0, 1))
def test_the_pickapic_rule_equals_brute_force(group: tuple[list[float], list[int]], threshold: float) -> None:
    scores, ranks = group
    scale, credit = 0.7, 0.0
    for i, j in combinations(range(len(scores)), 2):
        exp = [math.exp(scale * scores[k]) for k in (i, j)]
        first, second = exp[0] / sum(exp), exp[1] / sum(exp)
        if abs(abs(first - second) - threshold) < 1e-9 and scores[i] != scores[j]:
            return  # on the edge itself rounding decides
        said = "tie" if abs(first - second) <= threshold else "first" if first > second else "second"
        meant = "tie" if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
        credit += 1.0 if said == meant else 0.5 if "tie" in {said, meant} else 0.0
    pairs = metrics.pair_table(scores, ranks)
    found = metrics.pickapic_credit(*pairs, logit_scale=scale, threshold=threshold)
    assert found == (pytest.approx(credit), math.comb(len(scores), 2))


def test_the_pickapic_rule_by_hand() -> None:
    # probabilities 0.55 : 0.45 differ by 0.1. People: first, tie, second
    differences = np.full(3, math.log(0.55 / 0.45))
    preferred = np.array([1.0, 0.5, 0.0])
    assert metrics.pickapic_credit(differences, preferred, logit_scale=1.0) == (1.5, 3)  # says first: 1, half, 0
    assert metrics.pickapic_credit(differences, preferred, logit_scale=1.0, threshold=0.11) == (2.0, 3)  # says tie
    assert metrics.pickapic_credit(np.zeros(3), preferred) == (2.0, 3)  # a constant scorer ties everything
    with pytest.raises(ValueError, match="no logit scale"):
        metrics.pickapic_credit(differences, preferred, threshold=0.1)


@given(
    st.lists(st.tuples(st.integers(-6, 6), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=12),
    st.sampled_from([0.1, 1.0]),
)
def test_no_tie_threshold_is_better_than_the_best(pairs: list[tuple[int, float]], scale: float) -> None:
    differences, preferred = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    best = metrics.best_tie_threshold(differences, preferred, scale)
    top = metrics.pickapic_credit(differences, preferred, logit_scale=scale, threshold=best)[0]
    tried = [0.0, *metrics.probability_gap(differences, scale)]
    found = [metrics.pickapic_credit(differences, preferred, logit_scale=scale, threshold=t)[0] for t in tried]
    assert top == pytest.approx(max(found))
    assert best == min(t for t, c in zip(tried, found, strict=True) if c == pytest.approx(top))


@given(groups)
def test_top1_recall_equals_brute_force(group: tuple[list[float], list[int]]) -> None:
    scores, ranks = group
    chosen = [i for i, s in enumerate(scores) if s == max(scores)]
    expected = sum(ranks[i] == min(ranks) for i in chosen) / len(chosen)
    assert metrics.top1_recall(scores, ranks) == pytest.approx(expected)


def test_top1_recall_by_hand() -> None:
    assert metrics.top1_recall([1, 9, 3], [2, 1, 3]) == 1.0
    assert metrics.top1_recall([1, 9, 3], [1, 2, 3]) == 0.0
    assert metrics.top1_recall([9, 9, 3], [1, 2, 3]) == 0.5  # tied scores: drawn by lot
    assert metrics.top1_recall([1, 9, 3], [1, 1, 3]) == 1.0  # people like both best


@given(st.lists(st.integers(1, 9), min_size=2, max_size=7))
def test_midranks_are_those_of_scipy(ranks: list[int]) -> None:
    assert metrics.midranks(np.array(ranks, dtype=float)).tolist() == stats.rankdata(ranks).tolist()


@given(st.integers(2, 5), st.integers(2, 5), st.data())
def test_annotator_agreement_equals_brute_force(people: int, images: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(1, 4), min_size=images, max_size=images)
    ranks = [data.draw(row) for _ in range(people)]
    places = [stats.rankdata(r).tolist() for r in ranks]
    others = [[sum(r[k] for o, r in enumerate(places) if o != who) for k in range(images)] for who in range(people)]
    found = [0, 0, 0, 0]
    for i, j in combinations(range(images), 2):
        for who in range(people):
            product = signs(ranks[who], i, j) * signs(others[who], i, j)
            found[0] += product > 0
            found[1] += product != 0
        for a, b in combinations(range(people), 2):
            product = signs(ranks[a], i, j) * signs(ranks[b], i, j)
            found[2] += product > 0
            found[3] += product != 0
    assert metrics.annotator_agreement(np.array(ranks, dtype=float)) == tuple(found)


def test_reliability_of_even_chances_is_one_half_whichever_image_comes_first() -> None:
    assert metrics.reliability(np.full(4, 0.5), np.array([1.0, 1.0, 1.0, 0.0]))[0] == 0.0


def test_reliability_by_hand() -> None:
    # two bins on [0.5, 1]. 0.6 is right once and wrong once; 0.1 is 0.9 for the other side, which is right
    error, bins = metrics.reliability(np.array([0.6, 0.6, 0.1]), np.array([1.0, 0.0, 0.0]), bins=2)
    assert bins == [(0.5, 0.75, 2, pytest.approx(0.6), 0.5), (0.75, 1.0, 1, pytest.approx(0.9), 1.0)]
    assert error == pytest.approx((2 * 0.1 + 1 * 0.1) / 3)
    assert metrics.reliability(np.array([1.0, 0.0]), np.array([1.0, 0.0]))[0] == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_reliability_does_not_care_which_image_is_called_first(pairs: list[tuple[float, float]]) -> None:
    p, o = (np.array(column) for column in zip(*pairs, strict=True))
    if (np.abs(p - 0.5) < 1e-9).any():
        return  # which way to turn an even chance is arbitrary
    error, bins = metrics.reliability(p, o)
    turned, others = metrics.reliability(1 - p, 1 - o)
    if [b[:3] for b in bins] == [b[:3] for b in others]:  # 1 - p may round over the edge of a bin
        assert error == pytest.approx(turned)
    assert sum(b[2] for b in bins) == len(p)
    assert 0 <= error <= 1
