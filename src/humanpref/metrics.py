"""Pure functions on scores, ranks and counts; nothing here reads a file or knows a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values: TypeAlias = "Sequence[float] | Array"


def sigmoid(x: npt.ArrayLike) -> Array:
    """1 / (1 + exp(-x)), element by element, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64))))


def win_probabilities(scores: Sequence[float], logit_scale: float | None) -> list[float | None]:
    """P(image i preferred to the mean other image) for scores (n,): sigmoid(scale * (s_i - mean of the others)).

    HPS v2 is trained so that P(a over b) = sigmoid(scale * (s_a - s_b)) (arXiv 2306.09341 section 4, official
    training loss); with two images this is exactly that. An image that is alone gets None,
    and so do all where the scorer says no probability (`logit_scale` None).
    """
    if len(scores) < 2 or logit_scale is None:
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


def pair_agreement(scores: Values, ranks: Values) -> tuple[float, int, int]:
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


def official_accuracy(scores: Values, ranks: Values) -> float:
    """HPD v2's rule for one instance: 1 - inversions / C(n, 2); a tie in the human ranks counts as right.

    Official `hpsv2/evaluation.py`, `inversion_score`. Tied scores, which the official code orders arbitrarily,
    count one half.
    """
    right, untied, total = pair_agreement(scores, ranks)
    return (right + total - untied) / total


def strict_agreement(scores: Values, ranks: Values) -> tuple[int, int]:
    """ImageReward's rule for one instance -> (right, untied): human ties are skipped, tied scores are wrong."""
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    i, j = np.triu_indices(len(s), k=1)
    product = np.sign(s[i] - s[j]) * np.sign(r[j] - r[i])
    return int((product > 0).sum()), int((r[i] != r[j]).sum())


def pair_table(scores: Values, ranks: Values, label: float | None = None) -> tuple[Array, Array]:
    """All pairs of one instance -> (score differences, P(first preferred) as 1, 0, or 0.5 for a tie), each (pairs,).

    `label`: P(first preferred) of an instance that is one pair, where it is known more finely than by the ranks.
    """
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    i, j = np.triu_indices(len(s), k=1)
    preferred = np.asarray([label]) if label is not None else (np.sign(r[j] - r[i]) + 1.0) / 2.0
    return s[i] - s[j], preferred


def pickapic_credit(
    differences: Array, preferred: Array, *, logit_scale: float | None = None, threshold: float = 0.0
) -> tuple[float, int]:
    """Pick-a-Pic's rule for pairs (see `pair_table`) -> (credit, pairs), human ties included.

    The scorer calls a pair a tie where its two probabilities (softmax over the pair) differ by at most `threshold`. A
    pair counts 1 where people and scorer say the same of the three (first, second, tie), one half where just one of
    them says tie, else 0 (PickScore, arXiv 2305.01569 section 3). Raises `ValueError` for a threshold above 0 without a
    logit scale: such scores are no probabilities.
    """
    if threshold and logit_scale is None:
        raise ValueError("a tie threshold needs probabilities, and these scores have no logit scale")
    said = np.sign(differences)
    if logit_scale is not None:
        said = np.where(probability_gap(differences, logit_scale) <= threshold, 0.0, said)
    return float(np.sum(1.0 - np.abs(said - np.sign(preferred - 0.5)) / 2.0)), len(said)


def probability_gap(differences: Array, logit_scale: float) -> Array:
    """By how much the probabilities of the two images of a pair differ, in [0, 1]: |2 sigmoid(scale * d) - 1|."""
    return np.abs(np.tanh(0.5 * logit_scale * differences))


def best_tie_threshold(differences: Array, preferred: Array, logit_scale: float) -> float:
    """The tie threshold in [0, 1] with the highest `pickapic_credit` on these pairs, the smallest of the best.

    PickScore's authors choose it on the validation set; chosen on the test set itself it flatters.
    """
    gaps = probability_gap(differences, logit_scale)
    order = np.argsort(gaps, kind="stable")
    meant = np.sign(preferred - 0.5)[order]
    as_tie = 1.0 - np.abs(meant) / 2.0
    as_said = 1.0 - np.abs(np.sign(differences)[order] - meant) / 2.0
    gain = np.cumsum(as_tie - as_said)  # of calling the first k pairs ties
    last = np.append(gaps[order][1:] != gaps[order][:-1], True)  # pairs of one gap are ties together
    none = 0.0 if gaps.min() > 0 else gain[last][0]
    best = int(np.argmax(np.where(last, gain, -np.inf)))
    return float(gaps[order][best]) if gain[best] > none else 0.0


def top1_recall(scores: Values, ranks: Values) -> float:
    """Is the image with the highest score one that people rank best? 1 or 0; among tied scores, the share that is."""
    s, r = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    return float(np.mean(r[s == s.max()] == r.min()))


def midranks(ranks: Array) -> Array:
    """Ranks (..., images) as places from 1 on, ties sharing the mean of theirs: (1, 1, 9) -> (1.5, 1.5, 3).

    So that nobody's opinion weighs more for being written with gaps. A full order stays as it is.
    """
    better = ranks[..., :, None] > ranks[..., None, :]
    equal = ranks[..., :, None] == ranks[..., None, :]
    return np.asarray(better.sum(axis=-1) + (equal.sum(axis=-1) + 1) / 2.0)


def annotator_agreement(ranks: Array) -> tuple[float, int, float, int]:
    """How far people agree on one instance: ranks (annotators >= 2, images), 1 = best.

    Returns (right, untied) of each annotator against the mean rank (`midranks`) of the others, then (right, untied) of
    every two annotators; pairs of images that either side ties are left out.
    """
    i, j = np.triu_indices(ranks.shape[1], k=1)
    signs = np.sign(ranks[:, i] - ranks[:, j])  # (annotators, pairs)
    places = midranks(ranks)
    rest = places.sum(axis=0) - places  # halves of whole numbers, so equal sums are equal exactly
    with_rest = signs * np.sign(rest[:, i] - rest[:, j])
    a, b = np.triu_indices(len(ranks), k=1)
    with_one = signs[a] * signs[b]
    return (
        float((with_rest > 0).sum()),
        int((with_rest != 0).sum()),
        float((with_one > 0).sum()),
        int((with_one != 0).sum()),
    )


def reliability(
    predicted: Array, observed: Array, bins: int = 10
) -> tuple[float, list[tuple[float, float, int, float, float]]]:
    """Expected calibration error, and the bins behind it, of predicted probabilities (n,) and outcomes (n,) in [0, 1].

    Each pair is turned so that its prediction is at least one half, then sorted into `bins` of equal width on
    [0.5, 1]; -> (error, [(low, high, pairs, mean predicted, mean observed)]), empty bins left out. The error is the
    mean of |predicted - observed| over bins, weighted by pairs (Naeini et al. 2015).
    """
    turned = predicted < 0.5
    p = np.where(turned, 1.0 - predicted, predicted)
    o = np.where(turned, 1.0 - observed, observed)
    o = np.where(predicted == 0.5, 0.5, o)  # either image may be called the likelier one, so half of both
    place = np.minimum(((p - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = []
    for b in range(bins):
        if (inside := place == b).any():
            low, high = 0.5 + b / (2 * bins), 0.5 + (b + 1) / (2 * bins)
            rows.append((low, high, int(inside.sum()), float(p[inside].mean()), float(o[inside].mean())))
    error = sum(count * abs(mean - seen) for _, _, count, mean, seen in rows) / len(p)
    return float(error), rows
