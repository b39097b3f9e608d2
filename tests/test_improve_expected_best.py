"""The expected best of k from one pool, against every subset there is."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.errors import ScoreError
from humanpref.improve.best_of.expected import expected_best

numbers = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6))  # the first are often equal
pools = st.integers(1, 7).flatmap(
    lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
)


def by_hand(scores: list[float], values: list[float], k: int) -> float:
    """Over all subsets: the mean value of those of the highest score."""
    found = []
    for subset in combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        found.append(np.mean([values[i] for i in subset if scores[i] == best]))
    return float(np.mean(found))


@given(pools)
def test_it_is_the_mean_over_all_subsets(pool: tuple[list[float], list[float]]) -> None:
    scores, values = pool
    scale = 1 + max(map(abs, scores + values))
    own = expected_best(np.asarray(scores))
    other = expected_best(np.asarray(scores), np.asarray(values))
    for k in range(1, len(scores) + 1):
        maxima = [max(subset) for subset in combinations(scores, k)]
        assert own[k - 1] == pytest.approx(np.mean(maxima), abs=1e-9 * scale)
        assert other[k - 1] == pytest.approx(by_hand(scores, values, k), abs=1e-9 * scale)


@given(st.lists(numbers, min_size=1, max_size=30))
def test_from_the_mean_to_the_maximum_and_never_down(scores: list[float]) -> None:
    found = expected_best(np.asarray(scores))
    scale = 1 + max(map(abs, scores))
    assert found[0] == pytest.approx(np.mean(scores), abs=1e-9 * scale)
    assert found[-1] == max(scores)
    assert (np.diff(found) >= -1e-9 * scale).all()


@given(pools)
def test_the_order_of_the_pool_does_not_matter(pool: tuple[list[float], list[float]]) -> None:
    scores, values = map(np.asarray, pool)
    order = np.random.default_rng(len(scores)).permutation(len(scores))
    scale = 1 + np.abs(values).max()
    assert expected_best(scores, values) == pytest.approx(expected_best(scores[order], values[order]), abs=1e-9 * scale)


def test_equals_are_chosen_as_the_method_does_over_all_orders() -> None:
    """The method keeps the first of equals: over all orders of drawing, that is any of them alike."""
    scores, values = np.array([1.0, 2.0, 2.0, 0.0]), np.array([5.0, 7.0, 1.0, 3.0])
    for k in range(1, 5):
        kept = []
        for order in permutations(range(4)):
            drawn = list(order[:k])
            kept.append(values[max(drawn, key=lambda i: scores[i])])  # max keeps the first
        assert expected_best(scores, values)[k - 1] == pytest.approx(np.mean(kept))


def test_large_pools_keep_their_digits() -> None:
    scores = np.arange(1.0, 2001.0)
    found = expected_best(scores)
    for k in (1, 2, 3, 500, 1999, 2000):
        assert found[k - 1] == pytest.approx(k * 2001 / (k + 1), rel=1e-10)  # the mean maximum of k of 1 ... n
    exact = sum(s * comb(s - 1, 39) for s in range(1, 2001)) / comb(2000, 40)
    assert found[39] == pytest.approx(exact, rel=1e-10)


def test_pools_that_are_none() -> None:
    for scores, values in (([], []), ([1.0], [1.0, 2.0]), ([float("nan"), 1.0], [0.0, 1.0]), ([1.0], [float("inf")])):
        with pytest.raises(ScoreError):
            expected_best(np.asarray(scores), np.asarray(values))
