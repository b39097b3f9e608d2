"""What a scorer's scores of one group of images are worth against a human ranking of it: a table of named measures.

Every measure is a ratio of sums over instances, so that one bootstrap over prompts serves them all: for one instance
each function gives (numerator, denominator), (0, 0) where the instance says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from humanpref import correlation, metrics
from humanpref.metrics import Values

Part: TypeAlias = "tuple[float, float]"


def _accuracy(scores: Values, ranks: Values) -> Part:
    return metrics.official_accuracy(scores, ranks), 1.0


def _pair_accuracy(scores: Values, ranks: Values) -> Part:
    right, untied, _ = metrics.pair_agreement(scores, ranks)
    return right, float(untied)


def _imagereward(scores: Values, ranks: Values) -> Part:
    right, untied = metrics.strict_agreement(scores, ranks)
    return (right / untied, 1.0) if untied else (0.0, 0.0)


def _imagereward_pooled(scores: Values, ranks: Values) -> Part:
    right, untied = metrics.strict_agreement(scores, ranks)
    return float(right), float(untied)


def _kendall(scores: Values, ranks: Values) -> Part:
    return _correlation(correlation.kendall(scores, -np.asarray(ranks)), ranks)


def _spearman(scores: Values, ranks: Values) -> Part:
    return _correlation(correlation.spearman(scores, -np.asarray(ranks)), ranks)


def _correlation(value: float | None, ranks: Values) -> Part:
    """Nothing to agree with where people tie everything; 0 where the scorer does, or silence would pay."""
    if value is None:
        return (0.0, 0.0) if len(set(ranks)) == 1 else (0.0, 1.0)
    return value, 1.0


def _top1(scores: Values, ranks: Values) -> Part:
    return metrics.top1_recall(scores, ranks), 1.0


MEASURES: Mapping[str, Callable[[Values, Values], Part]] = MappingProxyType(
    {
        "accuracy": _accuracy,  # HPD v2's official rule
        "pair_accuracy": _pair_accuracy,  # all pairs that people do not tie, pooled
        "imagereward_accuracy": _imagereward,  # as HPS v2's evaluation script prints it: mean over prompts
        "imagereward_pooled": _imagereward_pooled,  # as ImageReward's own test script: all pairs pooled
        "kendall_tau_b": _kendall,
        "spearman": _spearman,
        "top1_recall": _top1,
    }
)
"""Measures of scores against ranks. `pickapic_accuracy`, which also needs probabilities, is added by `parts`."""

NAMES = (*MEASURES, "pickapic_accuracy")

HEADLINE: Mapping[str | None, str] = MappingProxyType(
    {
        "hpdv2-test": "accuracy",
        "imagereward-test": "imagereward_accuracy",
        "pickapic-test": "pickapic_accuracy",
        None: "accuracy",
    }
)
"""The rule by which each published test set is reported."""

FULL_SIZE: Mapping[str, int] = MappingProxyType({"hpdv2-test": 400, "imagereward-test": 466, "pickapic-test": 500})
"""How many prompts each published test set has; Pick-a-Pic's has 500 pairs, each of its own prompt."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "official rule",
        "pair_accuracy": "all pairs",
        "imagereward_accuracy": "ImageReward rule",
        "imagereward_pooled": "ImageReward rule, pooled",
        "pickapic_accuracy": "Pick-a-Pic rule",
        "kendall_tau_b": "Kendall's tau-b",
        "spearman": "Spearman's rho",
        "top1_recall": "best image found",
    }
)


def parts(
    scores: Values,
    ranks: Values,
    label: float | None = None,
    *,
    logit_scale: float | None = None,
    threshold: float = 0.0,
) -> metrics.Array:
    """Measure one instance -> (len(NAMES), 2), the numerator and denominator of each measure.

    label: the probability that the first of two images is preferred, where it is known more finely than by the ranks.
    logit_scale, threshold: see `metrics.pickapic_credit`; a scorer without probabilities (None) has no
    `pickapic_accuracy` where the threshold is above 0.
    """
    rows: list[Part] = [measure(scores, ranks) for measure in MEASURES.values()]
    if threshold and logit_scale is None:
        rows.append((0.0, 0.0))
    else:
        pairs = metrics.pair_table(scores, ranks, label)
        rows.append(metrics.pickapic_credit(*pairs, logit_scale=logit_scale, threshold=threshold))
    return np.asarray(rows, dtype=np.float64)
