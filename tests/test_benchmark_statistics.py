"""The statistics of a benchmark against scipy, brute force, and simulations whose truth is known."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from humanpref.benchmark.statistics import (
    Paired,
    all_pairs,
    chunk_std,
    components,
    prompts_needed,
    rank_intervals,
    stability,
    stratified_estimate,
)


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    return all_pairs({"first": first, "second": second}, samples=200)[0]


numbers = st.integers(-50, 50).map(lambda n: n / 4)


def arrays(low: int, high: int):
    return st.lists(numbers, min_size=low, max_size=high).map(np.asarray)


def test_the_official_mean_and_standard_deviation() -> None:
    scores = np.random.default_rng(0).normal(27, 2, 800)
    means = [np.mean(scores[i : i + 80]) for i in range(0, 800, 80)]  # as hpsv2/evaluation.py
    found = stratified_estimate([scores])
    assert found.mean == pytest.approx(np.mean(means))
    assert found.chunk_std == pytest.approx(np.std(means))
    assert chunk_std(scores[:159]) is None
    assert chunk_std(scores[:240]) == chunk_std(scores[:300])


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    for n in (8, 60):
        found = [
            stratified_estimate([rng.exponential(1.0, n) if n > 10 else rng.normal(1.0, 1.0, n)], samples=500).ci
            for _ in range(300)
        ]
        share = np.mean([low <= 1.0 <= high for low, high in found])
        assert 0.91 <= share <= 0.985, (n, share)


def test_strata_are_drawn_among_themselves() -> None:
    rng = np.random.default_rng(2)
    strata = [rng.normal(mean, 1.0, 100) for mean in (0.0, 50.0)]  # far apart: a plain bootstrap would be far too wide
    found, plain = stratified_estimate(strata), stratified_estimate([np.concatenate(strata)])
    assert found.mean == plain.mean
    wide, narrow = plain.ci[1] - plain.ci[0], found.ci[1] - found.ci[0]
    assert narrow == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.15)
    assert wide > 10 * narrow


@given(arrays(2, 9), st.data())
def test_paired_against_brute_force_and_scipy(first: np.ndarray, data: st.DataObject) -> None:
    second = data.draw(arrays(len(first), len(first)))
    found = paired(first, second)
    gaps = first - second
    assert found.difference == pytest.approx(gaps.mean())
    assert found.win_rate == np.mean(
        [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(first, second, strict=True)]
    )
    exact = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p_value == pytest.approx(exact.pvalue)
    if found.effect_size is not None:
        assert found.effect_size == pytest.approx(gaps.mean() / np.std(gaps, ddof=1))
        t = stats.ttest_rel(first, second).statistic
        assert found.effect_size * math.sqrt(len(gaps)) == pytest.approx(t)
    swapped = paired(second, first)
    assert swapped.difference == -found.difference
    assert swapped.win_rate == pytest.approx(1 - found.win_rate)
    assert swapped.p_value == found.p_value


def test_no_difference_is_found_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    p = [paired(*rng.normal(size=(2, 40))).p_value for _ in range(200)]
    assert 0.01 <= np.mean(np.asarray(p) < 0.05) <= 0.1
    same = np.arange(10.0)
    none = paired(same, same)
    assert (none.p_value, none.win_rate, none.effect_size, none.prompts_needed) == (1.0, 0.5, None, None)


def test_holm_as_in_scipy_style_brute_force() -> None:
    rng = np.random.default_rng(4)
    scores = {f"g{i}": rng.normal(i / 4, 1, 60) for i in range(5)}
    found = all_pairs(scores, samples=200)
    assert [(one.first, one.second) for one in found] == list(combinations(scores, 2))
    for one in found:  # the draws of a pair do not depend on the others
        (alone,) = all_pairs({name: scores[name] for name in (one.first, one.second)}, samples=200)
        assert (alone.ci, alone.p_value, alone.win_rate_ci) == (
            pytest.approx(one.ci),
            one.p_value,
            pytest.approx(one.win_rate_ci),
        )
        t = stats.ttest_rel(scores[one.first], scores[one.second]).pvalue
        assert one.p_value == pytest.approx(t, abs=0.02)
    ordered = sorted(found, key=lambda one: one.p_value)
    running = 0.0
    for place, one in enumerate(ordered):
        running = max(running, min(1.0, (len(found) - place) * one.p_value))
        assert one.p_holm == pytest.approx(running)


@given(st.floats(0.05, 3), st.floats(0.1, 4), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from([0.01, 0.05]))
def test_power_against_the_noncentral_t(difference: float, spread: float, power: float, level: float) -> None:
    def reached(n: int) -> float:
        critical, shift = stats.t.ppf(1 - level / 2, n - 1), abs(difference) / spread * math.sqrt(n)
        return 1 - stats.nct.cdf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)

    n = prompts_needed(difference, spread, power=power, level=level)
    if n > 8:
        assert reached(n + 1) >= power - 0.002
        assert reached(n - 2) <= power + 0.002
    assert prompts_needed(2 * difference, spread) <= prompts_needed(difference, spread)


def test_power_where_there_is_nothing_to_find() -> None:
    assert prompts_needed(0.0, 1.0) is None
    assert prompts_needed(1.0, 0.0) == 2
    with pytest.raises(ValueError, match="power"):
        prompts_needed(1.0, 1.0, power=1.0)


def test_rank_intervals_hold_the_true_ranks() -> None:
    rng = np.random.default_rng(5)
    truth = np.asarray([3.0, 2.9, 2.0, 1.0, 1.0])  # the last two are the same: both may be 4th or 5th
    hits, narrow = 0, []
    for _ in range(200):
        shared = rng.normal(size=60)
        found = rank_intervals(truth[:, None] + shared + rng.normal(size=(5, 60)), samples=300)
        hits += (
            all(r.first <= place <= r.last for r, place in zip(found, (1, 2, 3, 4, 4), strict=True))
            and found[3].last == 5
        )
        narrow.append(found[2].first == found[2].last == 3)
        assert all(r.first <= r.rank <= r.last for r in found)
    assert hits / 200 >= 0.92
    assert np.mean(narrow) > 0.9


def test_ranks_of_one_and_of_equal_generators() -> None:
    assert [(r.rank, r.first, r.last) for r in rank_intervals(np.ones((1, 9)))] == [(1, 1, 1)]
    assert [(r.rank, r.first, r.last) for r in rank_intervals(np.ones((3, 9)))] == [(1, 1, 3)] * 3
    apart = rank_intervals(np.asarray([[2.0] * 9, [1.0] * 9]))
    assert [(r.rank, r.first, r.last) for r in apart] == [(1, 1, 1), (2, 2, 2)]


def test_stability_against_the_formula() -> None:
    rng = np.random.default_rng(6)
    scores = np.asarray([0.0, 0.2, 0.9])[:, None] + rng.normal(size=(3, 400))
    small, large, whole = stability(scores, [20, 200, 400], draws=2000)
    for found in (small, large):
        n = found.prompts  # without replacement: the finite-population correction
        expected = scores.std(axis=1, ddof=1).mean() * math.sqrt((1 - n / 400) / n)
        assert found.spread == pytest.approx(expected, rel=0.08)
    assert whole.spread == pytest.approx(0, abs=1e-12)
    assert (whole.kendall, whole.pairs_kept, whole.same_best) == (1.0, 1.0, 1.0)
    assert small.pairs_kept < large.pairs_kept
    assert small.kendall == pytest.approx(2 * small.pairs_kept - 1, abs=1e-9)  # without ties
    with pytest.raises(ValueError, match="between 1 and 400"):
        stability(scores, [401])


def test_variance_between_prompts_and_seeds() -> None:
    rng = np.random.default_rng(7)
    groups = [rng.normal(rng.normal(0, 2.0), 0.5, size=k) for k in rng.integers(1, 5, 3000)]
    found = components(groups)
    assert found.prompts == pytest.approx(2.0, rel=0.05)
    assert found.seeds == pytest.approx(0.5, rel=0.05)
    equal = [rng.normal(m, 1.0, size=3) for m in range(5)]
    f = stats.f_oneway(*equal).statistic
    ours = components(equal)
    assert 1 + 3 * (ours.prompts / ours.seeds) ** 2 == pytest.approx(f)
    assert components([np.ones(1)] * 4) is None
    assert components([np.ones(3)]) is None
