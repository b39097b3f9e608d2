"""Paired gains of candidates over a baseline, all on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from humanpref.improve.search_records import Gain
from humanpref.resampling import bootstrap, cluster_sums, holm, interval, sign_flip_p_value

Pair: TypeAlias = "tuple[str, int]"
"""A prompt's id and the number of its image."""

Scores: TypeAlias = "Mapping[Pair, float]"


def paired_gain(scores: Scores, baseline: Scores, pairs: Sequence[Pair], *, seed: int = 0) -> Gain:
    """Return the mean difference over `pairs`, at least one, its interval and p value over prompts (clusters)."""
    differences = np.array([[scores[pair] - baseline[pair], 1.0] for pair in pairs])
    sums = cluster_sums(differences, [prompt for prompt, _ in pairs])[:, None, :]  # (prompts, 1, 2)
    estimates = bootstrap(sums, seed=seed)[:, 0]
    return Gain(
        float(differences[:, 0].mean()),
        interval(estimates, len(sums)),
        sign_flip_p_value(sums[:, 0, 0], seed=seed),
        len(pairs),
        len(sums),
    )


def adjusted(gains: Sequence[Gain]) -> list[Gain]:
    """Return the gains with p values adjusted for their number (Holm)."""
    return [replace(gain, p_value=p) for gain, p in zip(gains, holm([one.p_value for one in gains]), strict=True)]


def common_pairs(wanted: Sequence[Pair], found: Sequence[Scores]) -> list[Pair]:
    """Return the pairs that all have, in the order of `wanted`: no one is compared on easier ones than another."""
    return [pair for pair in wanted if all(pair in scores for scores in found)]
