from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_bootstrap_is_seeded_and_resamples_whole_clusters() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(0.7, 0.1, 60)
    mean = lambda v: float(v.mean())  # noqa: E731
    clusters = list(range(60))
    first = metrics.bootstrap_interval(values, clusters, mean, seed=1)
    assert first == metrics.bootstrap_interval(values, clusters, mean, seed=1)
    assert first != metrics.bootstrap_interval(values, clusters, mean, seed=2)
    error = 1.96 * values.std() / math.sqrt(60)
    assert first == pytest.approx((values.mean() - error, values.mean() + error), abs=0.006)
    # each value ten times over, as one cluster, says nothing more than the value once
    low, high = metrics.bootstrap_interval(
        np.repeat(values, 10), [i for i in clusters for _ in range(10)], mean, seed=1
    )
    assert (low, high) == pytest.approx(first, abs=1e-12)
