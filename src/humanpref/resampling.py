"""How sure is a figure? Seeded bootstrap and sign-flip tests over prompts, for figures that are ratios of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

from humanpref.metrics import Array

SAMPLES = 2000
FLIPS = 10_000
MIN_CLUSTERS = 5
"""With fewer prompts there is no interval."""
MIN_DRAWS = 100
EXACT_UP_TO = 12
"""With at most this many prompts every pattern of signs is tried."""
_CHUNK = 4_000_000  # numbers drawn at a time


def cluster_sums(values: Array, clusters: Sequence[object]) -> Array:
    """Add up the rows of values (n, ...) that belong to the same cluster -> (clusters, ...), by first appearance."""
    places: dict[object, int] = {}
    index = [places.setdefault(cluster, len(places)) for cluster in clusters]
    sums = np.zeros((len(places), *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums


def ratios(sums: Array) -> Array:
    """Numerators over denominators, for sums (..., 2) -> (...); nan where a denominator is 0."""
    top, bottom = sums[..., 0], sums[..., 1]
    return np.asarray(np.divide(top, bottom, out=np.full(top.shape, math.nan), where=bottom != 0))


def bootstrap(sums: Array, *, seed: int = 0, samples: int = SAMPLES) -> Array:
    """Resample clusters with replacement: sums (clusters, m, 2) -> ratios (samples, m).

    The same seed and number of clusters give the same draws, so two calls are paired.
    """
    count = len(sums)
    generator = np.random.default_rng(seed)
    flat = sums.reshape(count, -1)
    found = []
    step = max(1, _CHUNK // count)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        draws = generator.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        weights = np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count)
        found.append((weights @ flat).reshape(rows, *sums.shape[1:]))
    return ratios(np.concatenate(found))


def interval(estimates: Array, clusters: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of bootstrap estimates (samples,) over so many clusters; estimates that are nan are left out.

    Expanded for few clusters (Hesterberg 2015, section 4): the plain one is too short by sqrt((n - 1) / n) and takes
    the normal for Student's distribution. None for fewer than `MIN_CLUSTERS`, or where few draws are usable: an
    interval of them would be far too sure.
    """
    usable = estimates[~np.isnan(estimates)]
    if clusters < MIN_CLUSTERS or len(usable) < MIN_DRAWS:
        return None
    t = student_quantile((1.0 + confidence) / 2.0, clusters - 1)
    tail = NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * t)
    low, high = np.quantile(usable, [tail, 1.0 - tail])
    return float(low), float(high)


@cache
def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile (p > 1/2) of Student's t distribution: its density integrated, then bisected."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def above_zero(x: float) -> float:
        t = (np.arange(4000) + 0.5) * (x / 4000)
        return float(scale * np.sum((1.0 + t * t / degrees) ** (-(degrees + 1) / 2)) * x / 4000)

    low, high = 0.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if above_zero(middle) < p - 0.5 else (low, middle)
    return high


def sign_flip_p_values(differences: Array, *, seed: int = 0) -> list[float]:
    """Two-sided p values that columns of paired differences (clusters, m) come from symmetric distributions around 0.

    Permutation test: the sign of each cluster's difference is flipped; every pattern is tried for a column with at most
    `EXACT_UP_TO` differences that are not 0, else `FLIPS` random ones, which the columns have in common, the observed
    one counted among them.
    """
    exact = (differences != 0).sum(axis=0) <= EXACT_UP_TO
    found = [_exact_p_value(column) if few else 1.0 for column, few in zip(differences.T, exact, strict=True)]
    if exact.all():
        return found
    many = np.flatnonzero(~exact)
    values = differences[:, many]
    observed = np.abs(values.sum(axis=0)) * (1 - 1e-12)
    generator, extreme = np.random.default_rng(seed), np.zeros(len(many), dtype=int)
    step = max(1, _CHUNK // len(values))
    for start in range(0, FLIPS, step):
        signs = generator.integers(2, size=(min(step, FLIPS - start), len(values))) * 2.0 - 1.0
        extreme += (np.abs(signs @ values) >= observed).sum(axis=0)
    for column, times in zip(many, extreme, strict=True):
        found[column] = (int(times) + 1) / (FLIPS + 1)
    return found


def _exact_p_value(differences: Array) -> float:
    values = differences[differences != 0]
    patterns = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    return float(np.mean(np.abs(patterns @ values) >= abs(values.sum()) * (1 - 1e-12)))


def sign_flip_p_value(differences: Array, *, seed: int = 0) -> float:
    """`sign_flip_p_values` of one column (clusters,); clusters without a difference take no part in the draws."""
    return sign_flip_p_values(differences[differences != 0][:, None], seed=seed)[0]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
