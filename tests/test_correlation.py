from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.correlation import kendall, rank_correlations, spearman

few = st.integers(-3, 3).map(float)  # many ties
any_number = st.floats(-1e6, 1e6)
lists = st.integers(2, 12).flatmap(
    lambda n: st.one_of(
        st.tuples(*[st.lists(few, min_size=n, max_size=n)] * 2),
        st.tuples(*[st.lists(any_number, min_size=n, max_size=n)] * 2),
    )
)


def test_by_hand() -> None:
    # ranks of y: 1 3 2 4; sum d^2 = 0 + 1 + 1 + 0 -> rho = 1 - 6 * 2 / (4 * 15); 5 pairs right, 1 wrong
    assert spearman([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert kendall([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(4 / 6)
    # a tie in x: pairs (1,2) and (1,3) right, (2,3) untied only in y -> tau-b = 2 / sqrt(2 * 3)
    assert kendall([1, 2, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    # average ranks 1, 2.5, 2.5 against 1, 2, 3: covariance 1.5, variances 1.5 and 2
    assert spearman([1, 2, 2], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@given(lists)
def test_equals_scipy(both: tuple[list[float], list[float]]) -> None:
    from scipy import stats

    x, y = both
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert spearman(x, y) is None
        assert kendall(x, y) is None
        return
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y, variant="b").statistic, abs=1e-12)


@given(lists)
def test_symmetry_sign_and_bounds(both: tuple[list[float], list[float]]) -> None:
    x, y = both
    for function in (spearman, kendall):
        value = function(x, y)
        assert function(y, x) == value
        if value is None:
            continue
        assert -1 <= value <= 1
        assert function(x, [-v for v in y]) == -value
        assert function(x, x) == 1
        assert function(x, [-v for v in x]) == -1


def test_a_constant_side_has_no_correlation() -> None:
    for function in (spearman, kendall):
        assert function([1, 1, 1], [1, 2, 3]) is None
        assert function([1, 2, 3], [5, 5, 5]) is None
        assert function([1], [1]) is None
        assert function([], []) is None


def test_what_is_no_list_of_numbers_is_refused() -> None:
    for function in (spearman, kendall):
        with pytest.raises(ValueError, match="one length"):
            function([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="finite"):
            function([1, math.nan], [1, 2])


def test_rows_are_done_at_once_and_broadcast() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (5, 7)).astype(float), generator.normal(size=7)
    rho, tau = rank_correlations(x, y)
    assert rho.tolist() == [spearman(row, y) for row in x]
    assert tau.tolist() == [kendall(row, y) for row in x]
    rho, tau = rank_correlations(np.zeros((2, 3)), np.arange(3.0))
    assert np.isnan(rho).all()
    assert np.isnan(tau).all()
