"""Rank correlations, for the few values of a table: pure functions, vectorised over tables."""

from __future__ import annotations

import numpy as np

from humanpref.metrics import Array, Values


def spearman(x: Values, y: Values) -> float | None:
    """Spearman's rho of two aligned lists (n,), in [-1, 1]: the Pearson correlation of their ranks, ties averaged.

    None when one side is constant (or n < 2): there is no order to agree with. Raises `ValueError` for lists of
    different lengths or values that are no numbers. Like `kendall`, it compares all pairs: n up to some thousands.
    """
    rho, _ = rank_correlations(*_aligned(x, y))
    return _number(rho)


def kendall(x: Values, y: Values) -> float | None:
    """Kendall's tau-b of two aligned lists (n,), in [-1, 1]; ties of either side count as neither right nor wrong.

    tau-b = (concordant - discordant) / sqrt((pairs untied in x) * (pairs untied in y)). None and errors as `spearman`.
    """
    _, tau = rank_correlations(*_aligned(x, y))
    return _number(tau)


def rank_correlations(x: Array, y: Array) -> tuple[Array, Array]:
    """Spearman's rho and Kendall's tau-b along the last axis of x and y (..., n) -> two arrays (...).

    The other axes broadcast. nan where either side is constant. Needs (..., n, n) of memory.
    """
    order_x, order_y = _signs(x), _signs(y)
    # the sum of a row of signs is twice the centred average rank, a whole number, so that both are exact at 1 and -1
    rank_x, rank_y = order_x.sum(axis=-1), order_y.sum(axis=-1)
    rho = _normalised((rank_x * rank_y).sum(-1), (rank_x**2).sum(-1), (rank_y**2).sum(-1))
    both = (-2, -1)
    tau = _normalised((order_x * order_y).sum(both), (order_x**2).sum(both), (order_y**2).sum(both))
    return rho, tau


def _signs(values: Array) -> Array:
    """Which of each two is greater: (..., n) -> (..., n, n) of -1, 0, 1."""
    return np.sign(values[..., :, None] - values[..., None, :])


def _normalised(product: Array, square_x: Array, square_y: Array) -> Array:
    length = np.sqrt(square_x * square_y)
    result: Array = np.divide(product, length, out=np.full(np.shape(product), np.nan), where=length > 0)
    return result


def _aligned(x: Values, y: Values) -> tuple[Array, Array]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"two lists of one length are needed, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("every value must be a finite number")
    return a, b


def _number(value: Array) -> float | None:
    return None if np.isnan(value) else float(value)
