from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from humanpref import resampling


def test_the_bootstrap_is_seeded_and_resamples_whole_clusters() -> None:
    generator = np.random.default_rng(0)
    values = np.stack([generator.normal(0.7, 0.1, 60), np.ones(60)], axis=1)[:, None, :]
    first = resampling.interval(resampling.bootstrap(values, seed=1)[:, 0], 60)
    assert first == resampling.interval(resampling.bootstrap(values, seed=1)[:, 0], 60)
    assert first != resampling.interval(resampling.bootstrap(values, seed=2)[:, 0], 60)
    mean, error = values[:, 0, 0].mean(), 1.96 * values[:, 0, 0].std() / math.sqrt(60)
    assert first == pytest.approx((mean - error, mean + error), abs=0.006)
    # each value ten times over, as one cluster, says nothing more than the value once
    ten = resampling.cluster_sums(np.repeat(values, 10, axis=0), [i for i in range(60) for _ in range(10)])
    assert resampling.interval(resampling.bootstrap(ten, seed=1)[:, 0], 60) == pytest.approx(first, abs=1e-12)


def test_the_bootstrap_equals_drawing_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    sums = generator.random((7, 3, 2))
    draws = np.random.default_rng(5).integers(7, size=(resampling.SAMPLES, 7))
    expected = np.stack([sums[draw].sum(axis=0)[:, 0] / sums[draw].sum(axis=0)[:, 1] for draw in draws])
    assert np.allclose(resampling.bootstrap(sums, seed=5), expected, atol=1e-12)
    monkeypatch.setattr(resampling, "_CHUNK", 70)  # drawn in many small pieces it is the same
    assert np.allclose(resampling.bootstrap(sums, seed=5), expected, atol=1e-12)


@pytest.mark.parametrize("prompts", [5, 10, 28, 100])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(prompts: int) -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        rate = np.clip(generator.normal(0.8, 0.1, prompts), 0, 1)  # prompts differ
        right = generator.binomial(36, rate)
        sums = np.stack([right, np.full(prompts, 36)], axis=1)[:, None, :].astype(float)
        low, high = resampling.interval(resampling.bootstrap(sums, seed=trial, samples=500)[:, 0], prompts)
        hits += low <= 0.797 <= high  # the clipping takes 0.3 points
    assert 0.9 <= hits / 300 <= 0.99


def test_there_is_no_interval_of_few_prompts() -> None:
    assert resampling.interval(np.linspace(0, 1, 500), 4) is None
    assert resampling.interval(np.linspace(0, 1, 500), 5) is not None
    assert resampling.interval(np.full(500, np.nan), 50) is None


@pytest.mark.parametrize("degrees", [1, 4, 27, 400])
def test_students_quantile_is_that_of_scipy(degrees: int) -> None:
    assert resampling.student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


def test_ratios_without_a_denominator_are_not_numbers() -> None:
    assert np.isnan(resampling.ratios(np.array([[1.0, 0.0], [0.0, 0.0]]))).all()
    sums = np.array([[[1.0, 1.0]], *[[[0.0, 0.0]]] * 5])
    assert resampling.interval(resampling.bootstrap(sums)[:, 0], 6) == (1.0, 1.0)  # draws without any pair are left out


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=7))
def test_the_sign_flip_test_is_exact_for_few_prompts(values: list[float]) -> None:
    observed = abs(sum(values))
    patterns = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(p >= observed - 1e-9 for p in patterns) / len(patterns)
    assert resampling.sign_flip_p_value(np.array(values)) == pytest.approx(expected)


def test_the_sign_flip_test_agrees_with_the_t_test_on_many_prompts() -> None:
    values = np.random.default_rng(3).normal(0.25, 1.0, 100)
    expected = stats.ttest_1samp(values, 0).pvalue
    found = resampling.sign_flip_p_value(values)
    assert found == pytest.approx(expected, abs=0.01)
    assert found == resampling.sign_flip_p_value(values)
    assert resampling.sign_flip_p_value(np.zeros(5)) == 1.0


def test_every_column_has_the_p_value_it_has_alone() -> None:
    generator = np.random.default_rng(4)
    table = generator.normal([0.0, 0.3, 0.6], 1.0, size=(40, 3))
    few = np.where(np.arange(40) < 8, table[:, 2], 0.0)  # tried exactly, beside columns that are not
    found = resampling.sign_flip_p_values(np.column_stack([table, few]), seed=5)
    assert found == [resampling.sign_flip_p_value(column, seed=5) for column in (*table.T, few)]
    assert found[3] * 2**8 == pytest.approx(round(found[3] * 2**8))


def test_p_values_under_no_difference_are_uniform() -> None:
    generator = np.random.default_rng(1)
    found = [resampling.sign_flip_p_value(generator.normal(size=10), seed=i) for i in range(300)]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.1


def test_holm_by_hand() -> None:
    assert resampling.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert resampling.holm([0.5, 0.9]) == [1.0, 1.0]
    assert resampling.holm([]) == []
