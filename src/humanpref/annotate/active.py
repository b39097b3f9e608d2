"""Which group to ask about next, so that the order of the sources is known soonest. Knows wins, no database.

Bradley-Terry over sources as in `aggregate`: from what is known so far each two sources have an expected difference d
of strength with a standard error e. A comparison of them tells p (1 - p) about d, p being the probability that the
first wins. A group is worth the sum of p (1 - p) e^2 over its pairs of different sources: by how much, relative to
itself, the variance of their differences is expected to fall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from humanpref.annotate.aggregate import PRIOR, Numbers, bradley_terry
from humanpref.metrics import Array, sigmoid


def pair_values(wins: Array) -> Array:
    """What one more comparison of each two sources is worth, (n, n), symmetric, 0 on the diagonal.

    `wins[i, j]` is how often source i was preferred to source j so far, ties one half each.
    """
    strengths = bradley_terry(wins)
    gaps = strengths[:, None] - strengths[None, :]
    spread = sigmoid(gaps) * sigmoid(-gaps)
    curve = (wins + wins.T) * spread
    information = np.diag(curve.sum(axis=1) + 2 * PRIOR) - curve
    covariance = np.linalg.inv(information)
    own = np.diag(covariance)
    variance = np.maximum(own[:, None] + own[None, :] - 2 * covariance, 1e-12)
    values = spread * variance
    np.fill_diagonal(values, 0.0)
    return np.asarray(values)


def group_values(values: Array, groups: Sequence[Numbers]) -> Array:
    """What a ranking of each group is worth, (groups,): the sum of `pair_values` over its pairs.

    A group is given by the numbers of its images' sources, -1 where there is none.
    """
    worth = []
    for sources in groups:
        known = sources[sources >= 0]
        worth.append(values[np.ix_(known, known)].sum() / 2)
    return np.asarray(worth)


def count_wins(ranks: Sequence[int], sources: Numbers, wins: Array) -> None:
    """Add one ranking (1 = best) of images of these sources (-1: none) to `wins`, in place."""
    places = np.asarray(ranks)
    for i, j in zip(*np.triu_indices(len(places), k=1), strict=True):
        a, b = sources[i], sources[j]
        if a >= 0 and b >= 0 and a != b:
            won = (np.sign(places[j] - places[i]) + 1) / 2
            wins[a, b] += won
            wins[b, a] += 1 - won
