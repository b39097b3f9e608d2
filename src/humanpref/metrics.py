"""Pure functions on scores, ranks and counts; nothing here reads a file or knows a scorer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BOOTSTRAP_SAMPLES = 2000


def sigmoid(x: npt.ArrayLike) -> Array:
    """1 / (1 + exp(-x)), element by element, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64))))


def win_probabilities(scores: Sequence[float], logit_scale: float) -> list[float | None]:
    """P(image i preferred to the mean other image) for scores (n,): sigmoid(scale * (s_i - mean of the others)).

    HPS v2 is trained so that P(a over b) = sigmoid(scale * (s_a - s_b)) (arXiv 2306.09341 section 4, official
    training loss); with two images this is exactly that. An image that is alone gets None.
    """
    if len(scores) < 2:
        return [None] * len(scores)
    values = np.asarray(scores, dtype=np.float64)
    others = (values.sum() - values) / (len(values) - 1)
    return [float(p) for p in sigmoid(logit_scale * (values - others))]


def pairwise_probabilities(scores: Sequence[float], logit_scale: float) -> Array:
    """P(i preferred to j) for scores (n,) -> (n, n), 0.5 on the diagonal; rows and columns add to 1."""
    values = np.asarray(scores, dtype=np.float64)
    return sigmoid(logit_scale * (values[:, None] - values[None, :]))


def competition_ranks(scores: Sequence[float]) -> list[int]:
    """Rank scores, highest first: 1 = best, equal scores share the better rank (1, 2, 2, 4)."""
    ordered = sorted(scores, reverse=True)
    first = {score: place for place, score in reversed(list(enumerate(ordered, 1)))}
    return [first[score] for score in scores]


def pair_agreement(scores: Sequence[float], ranks: Sequence[float]) -> tuple[float, int, int]:
    """Compare scores (higher = better) with ranks (1 = best) over all pairs -> (right, untied, all).

    `right` counts the pairs that are not tied in the ranks and ordered the same by the scores; a pair the scores tie
    counts one half, which is what breaking the tie at random would give on average.
    """
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    i, j = np.triu_indices(len(s), k=1)
    product = np.sign(s[i] - s[j]) * np.sign(r[j] - r[i])
    untied = r[i] != r[j]
    right = float(np.sum((product[untied] + 1.0) / 2.0))
    return right, int(untied.sum()), len(i)


def official_accuracy(scores: Sequence[float], ranks: Sequence[float]) -> float:
    """HPD v2's rule for one instance: 1 - inversions / C(n, 2); a tie in the human ranks counts as right.

    Official `hpsv2/evaluation.py`, `inversion_score`. Tied scores, which the official code orders arbitrarily,
    count one half.
    """
    right, untied, total = pair_agreement(scores, ranks)
    return (right + total - untied) / total


def ratio_of_sums(values: Array) -> float:
    """Sum of column 0 over sum of column 1, for values (n, 2); nan where column 1 adds to nothing."""
    total = values[:, 1].sum()
    return float(values[:, 0].sum() / total) if total else math.nan


def bootstrap_interval(
    values: Array,
    clusters: Sequence[object],
    statistic: Callable[[Array], float],
    *,
    seed: int = 0,
    samples: int = BOOTSTRAP_SAMPLES,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap over clusters (prompts): resample clusters with replacement -> (low, high).

    values: (n, ...) one row per instance; clusters: (n,), rows of the same cluster are drawn together.
    statistic: from the drawn rows to a number. The same seed gives the same interval.
    """
    members: dict[object, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    groups = [np.asarray(rows) for rows in members.values()]
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(groups), size=(samples, len(groups)))
    estimates = [statistic(values[np.concatenate([groups[g] for g in draw])]) for draw in draws]
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(estimates, [tail, 1.0 - tail])
    return float(low), float(high)
