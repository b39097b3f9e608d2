"""How sure is a row of a benchmark, is a difference real, and how many prompts does it take? Pure functions on scores.

Scores are arrays by prompt, on any scale; with several images of a prompt, their mean. Every interval is 95 % unless
said otherwise, by a seeded bootstrap over prompts (`humanpref.resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np

from humanpref.correlation import rank_correlations
from humanpref.metrics import Array
from humanpref.resampling import SAMPLES, bootstrap, holm, interval, sign_flip_p_values

CHUNK = 80
"""The official benchmark's standard deviation is that of the means of chunks of 80 prompts (evaluation.py)."""

_PAIRS = 256

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its interval (None for fewer than 5 prompts), and the standard deviation over chunks of
    80 prompts (None where there are not two whole ones)."""

    mean: float
    ci: Interval | None
    chunk_std: float | None
    prompts: int


@dataclass(frozen=True)
class Paired:
    """Generator `first` minus generator `second` on the same prompts.

    `win_rate` is the share of prompts on which the first has the higher score, ties half, in [0, 1]; `effect_size` is
    Cohen's d of paired samples (mean of the differences over their standard deviation; None where they do not vary);
    `p_value` is two-sided, by flipping signs of prompts, `p_holm` the same corrected for the comparisons made (Holm);
    `prompts_needed` is how many prompts such a difference takes to be found with 80 % power at the 5 % level.
    """

    first: str
    second: str
    prompts: int
    difference: float
    ci: Interval | None
    p_value: float
    p_holm: float
    win_rate: float
    win_rate_ci: Interval | None
    effect_size: float | None
    prompts_needed: int | None


@dataclass(frozen=True)
class RankInterval:
    """A generator's place (1 = best) and the first and last place it may have, all generators' intervals holding at
    once with 95 % confidence."""

    rank: int
    first: int
    last: int


@dataclass(frozen=True)
class Stability:
    """What is left of a benchmark with fewer prompts, over random subsets of `prompts` of them.

    `spread` is the standard deviation of a generator's mean over subsets (the mean over generators); `kendall` the mean
    tau-b of the generators' order with that on all prompts; `pairs_kept` the share of pairs of generators that are in
    the same order, in [0, 1]; `same_best` how often the best generator is the same.
    """

    prompts: int
    spread: float
    kendall: float
    pairs_kept: float
    same_best: float


@dataclass(frozen=True)
class Components:
    """Where scores vary: `prompts` and `seeds` are standard deviations between prompts and between images of a prompt.
    A mean over n prompts with k images each has the standard error sqrt(prompts^2 / n + seeds^2 / (n k))."""

    prompts: float
    seeds: float


def chunk_std(scores: Array, chunk: int = CHUNK) -> float | None:
    """Standard deviation (of the population, as np.std) of the means of whole chunks, as the official code prints it.

    scores: (prompts,). None where there are not two whole chunks; prompts beyond the last whole one are left out.
    """
    whole = len(scores) // chunk
    if whole < 2:
        return None
    return float(np.std(scores[: whole * chunk].reshape(whole, chunk).mean(axis=1)))


def stratified_estimate(strata: Sequence[Array], *, seed: int = 0, samples: int = SAMPLES) -> Estimate:
    """Mean over the prompts of all styles, each style's prompts being drawn among themselves.

    That is how a suite is made: so many prompts of every style. The chunks are of all prompts in order. Raises
    `ValueError` where there is no score.
    """
    together = np.concatenate(strata) if strata else np.zeros(0)
    if not len(together):
        raise ValueError("a mean needs at least one score")
    draws = np.zeros(samples)
    for place, own in enumerate(strata):
        if len(own):
            sums = np.stack([own, np.ones_like(own)], axis=-1)[:, None, :]
            draws += bootstrap(sums, seed=seed + place, samples=samples)[:, 0] * len(own)
    ci = interval(draws / len(together), len(together))
    return Estimate(float(together.mean()), ci, chunk_std(together), len(together))


def _paired(gaps: Sequence[Array], names: Sequence[tuple[str, str]], seed: int, samples: int) -> list[Paired]:
    """Judge differences (prompts,) of several pairs by the same draws of prompts and patterns of signs."""
    table = np.stack(gaps, axis=1)  # (prompts, pairs)
    prompts, count = table.shape
    wins = (np.sign(table) + 1.0) / 2.0
    values = np.concatenate([table, wins], axis=1)
    draws = bootstrap(np.stack([values, np.ones_like(values)], axis=-1), seed=seed, samples=samples)
    found = []
    for k, p in enumerate(sign_flip_p_values(table, seed=seed)):
        difference = float(table[:, k].mean())
        spread = float(np.std(table[:, k], ddof=1)) if prompts > 1 else 0.0
        found.append(
            Paired(
                *names[k],
                prompts=prompts,
                difference=difference,
                ci=interval(draws[:, k], prompts),
                p_value=p,
                p_holm=p,
                win_rate=float(wins[:, k].mean()),
                win_rate_ci=interval(draws[:, count + k], prompts),
                effect_size=difference / spread if spread > 0 else None,
                prompts_needed=prompts_needed(difference, spread),
            )
        )
    return found


def all_pairs(scores: Mapping[str, Array], *, seed: int = 0, samples: int = SAMPLES) -> list[Paired]:
    """Compare every two generators, {generator: (prompts,)}, p values corrected for all of the comparisons (Holm)."""
    names = list(combinations(scores, 2))
    found: list[Paired] = []
    for start in range(0, len(names), _PAIRS):  # bounds what the draws hold
        own = names[start : start + _PAIRS]
        found += _paired([scores[a] - scores[b] for a, b in own], own, seed, samples)
    adjusted = holm([one.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def prompts_needed(difference: float, spread: float, *, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many prompts it takes to tell two generators apart by a two-sided paired test.

    difference: the mean difference of a prompt's scores; spread: its standard deviation over prompts, on the same
    scale. The normal approximation with Guenther's correction for Student's distribution (1981), exact to about one
    prompt. None where there is no difference to find. Raises `ValueError` for a power or level that is no probability.
    """
    if not (0 < level < 1 and level < power < 1):
        raise ValueError(f"a power in (level, 1) and a level in (0, 1) are needed, got {power} and {level}")
    if difference == 0 or not math.isfinite(difference):
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf(1 - level / 2)
    effect = abs(difference) / spread if spread > 0 else math.inf
    needed = ((quantile + normal.inv_cdf(power)) / effect) ** 2 + quantile**2 / 2
    return max(2, math.ceil(needed)) if math.isfinite(needed) else None


def rank_intervals(
    scores: Array, *, confidence: float = 0.95, seed: int = 0, samples: int = SAMPLES
) -> list[RankInterval]:
    """Between which places is each generator, with joint confidence? scores: (generators, prompts), paired.

    Simultaneous confidence intervals for all differences of two means (largest studentised deviation of the bootstrap)
    say which generators are surely better and which surely worse; the places between are possible (Mogstad, Romano,
    Shaikh and Wilhelm 2024, "Inference for ranks"). Generators with equal means share a place.
    """
    count, prompts = scores.shape
    means = scores.mean(axis=1)
    better = np.zeros((count, count), dtype=bool)  # [i, j]: j is surely better than i
    if count > 1 and prompts > 1:
        i, j = np.triu_indices(count, k=1)
        sums = np.stack([scores.T, np.ones_like(scores.T)], axis=-1)  # (prompts, generators, 2)
        draws = bootstrap(sums, seed=seed, samples=samples) - means  # deviations
        spread = np.std(draws[:, i] - draws[:, j], axis=0)
        usable = spread > 0
        deviation = np.abs(draws[:, i] - draws[:, j])[:, usable] / spread[usable]
        critical = float(np.quantile(deviation.max(axis=1), confidence)) if usable.any() else 0.0
        gap = means[j] - means[i]
        sure = np.abs(gap) > critical * spread
        better[i, j], better[j, i] = sure & (gap > 0), sure & (gap < 0)
    places = [1 + int((means > mean).sum()) for mean in means]
    return [
        RankInterval(places[g], min(places[g], 1 + int(better[g].sum())), count - int(better[:, g].sum()))
        for g in range(count)
    ]


def stability(scores: Array, sizes: Sequence[int], *, draws: int = 200, seed: int = 0) -> list[Stability]:
    """Draw subsets of the prompts, without replacement, and see how far the generators' means and order hold.

    scores: (generators, prompts). Raises `ValueError` for a size that is not between 1 and the number of prompts.
    """
    count, prompts = scores.shape
    if bad := [size for size in sizes if not 1 <= size <= prompts]:
        raise ValueError(f"a subset has between 1 and {prompts} prompts, got {bad[0]}")
    full = scores.mean(axis=1)
    i, j = np.triu_indices(count, k=1)
    order = np.sign(full[i] - full[j])
    found = []
    for size in sizes:
        generator = np.random.default_rng([seed, size])
        chosen = np.argsort(generator.random((draws, prompts)), axis=1)[:, :size]
        means = np.stack([scores[:, own].mean(axis=1) for own in chosen])  # (draws, generators)
        _, tau = rank_correlations(means, np.broadcast_to(full, means.shape))
        kept = np.sign(means[:, i] - means[:, j]) == order
        found.append(
            Stability(
                prompts=size,
                spread=float(means.std(axis=0).mean()),
                kendall=float(np.nanmean(tau)) if not np.isnan(tau).all() else math.nan,
                pairs_kept=float(kept.mean()) if kept.size else math.nan,
                same_best=float((means.argmax(axis=1) == full.argmax()).mean()),
            )
        )
    return found


def components(groups: Sequence[Array]) -> Components | None:
    """Split the variance of scores into that between prompts and that between images of a prompt.

    groups: the scores of each prompt's images. One-way analysis of variance with random effects, for groups of unequal
    size too (Searle 1971); a negative estimate is 0. None where no prompt has two images or there is one prompt.
    """
    counts = np.asarray([len(own) for own in groups], dtype=np.float64)
    total, k = counts.sum(), len(groups)
    if k < 2 or total <= k:
        return None
    means = np.asarray([own.mean() for own in groups])
    within = sum(float(((own - own.mean()) ** 2).sum()) for own in groups) / (total - k)
    grand = float((counts * means).sum() / total)
    between = float((counts * (means - grand) ** 2).sum()) / (k - 1)
    size = (total - (counts**2).sum() / total) / (k - 1)
    return Components(math.sqrt(max(0.0, (between - within) / size)), math.sqrt(within))
