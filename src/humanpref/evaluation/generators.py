"""Which metric ranks text-to-image generators as people do? Judged groups and metric values in, a report out.

HPS v2 (arXiv 2306.09341, section 1) claims that FID, Inception Score and CLIP Score do not: this measures it on any
rankings whose images name their generator (`ImageRef.source`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from humanpref.correlation import rank_correlations
from humanpref.errors import DataError
from humanpref.metrics import Array
from humanpref.resampling import SAMPLES

Interval: TypeAlias = "tuple[float, float]"

MIN_GENERATORS = 3
"""Fewer than this have no ranking worth a correlation: with two it could only be 1 or -1."""

MIN_DRAWS = 100
"""Fewer usable draws than this give no interval."""

MAX_HELD = 4_000_000
"""How many numbers the bootstrap holds of a kind at a time."""


@dataclass(frozen=True)
class JudgedGroup:
    """The human consensus on the images of one prompt: who made each (None: not known) and its rank, 1 = best."""

    prompt: str
    sources: tuple[str | None, ...]
    ranks: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.ranks):
            raise DataError(f"prompt {self.prompt[:60]!r}: {len(self.sources)} sources but {len(self.ranks)} ranks")
        if not all(map(math.isfinite, self.ranks)):
            raise DataError(f"prompt {self.prompt[:60]!r}: ranks must be finite numbers, got {list(self.ranks)}")


@dataclass(frozen=True)
class SetMetric:
    """A metric of a generator's whole set of images, such as FID (lower is better): {generator: value}."""

    name: str
    values: Mapping[str, float]
    higher_is_better: bool


@dataclass(frozen=True)
class GeneratorRow:
    """One generator: how many of its images were judged, its human strength in [0, 1] with its 95 % interval, and
    {metric: value}, each on the metric's own scale. `human` is 0.5 where people have no preference."""

    generator: str
    images: int
    human: float
    human_ci: Interval | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class MetricCorrelation:
    """How a metric's ranking of the generators agrees with the human one: 1 = the same, -1 = reversed, whichever
    direction of the metric is better. None where one side does not tell the generators apart. The 95 % intervals cover
    which prompts people were asked about, and, for "people and metric", the same prompts' images in the metric."""

    metric: str
    spearman: float | None
    spearman_ci: Interval | None
    kendall: float | None
    kendall_ci: Interval | None
    higher_is_better: bool
    interval_covers: Literal["people", "people and metric"]


@dataclass(frozen=True)
class GeneratorReport:
    """The generators, best liked first, and every metric's agreement with that order; how many distinct prompts."""

    generators: tuple[GeneratorRow, ...]
    correlations: tuple[MetricCorrelation, ...]
    prompts: int


def generator_report(
    groups: Sequence[JudgedGroup],
    per_image: Mapping[str, Sequence[Sequence[float]]],
    per_set: Sequence[SetMetric] = (),
    *,
    seed: int = 0,
    samples: int = SAMPLES,
) -> GeneratorReport:
    """Correlate every metric's ranking of the generators with the human one.

    per_image: {metric: scores}, higher is better, `scores[i]` aligned with `groups[i]`. per_set: one value a generator.

    Human strength of a generator: the mean over its images of the share of the *other generators'* images of the group
    that people rank below it, a tie counting one half. Where every group holds one image of every generator this is
    (G - mean rank) / (G - 1), so that it orders them as the mean rank does. Strength by a per-image metric: the mean
    score of the generator's images, as tables of FID, CLIP Score or HPS rank them.

    Intervals: a percentile bootstrap over prompts, seeded. A draw of prompts gives both the human strengths and the
    per-image means. A per-set metric keeps its value in every draw, and its interval covers the people alone: drawing
    images with replacement makes the sets less varied than they are, which biases FID and Inception Score. Draws
    that miss a generator are left out of the correlations (only a generator of very few prompts is ever missed); an
    interval is None where under `MIN_DRAWS` draws are usable.

    Raises `DataError` when images have no source, there are fewer than three generators, a generator is never compared
    with another, or a metric's values do not fit the groups and generators or are not finite.
    """
    names = _generators(groups)
    for metric in per_set:
        _check_set(metric, names)
        if metric.name in per_image or sum(other.name == metric.name for other in per_set) > 1:
            raise DataError(f"{metric.name}: two metrics have this name")
    table = _table(groups, names, per_image)
    fixed = np.asarray([[metric.values[name] for name in names] for metric in per_set]).reshape(-1, len(names))
    better = np.asarray([1.0 if metric.higher_is_better else -1.0 for metric in per_set]).reshape(-1, 1)
    human, means, rho, tau = _draw(table, fixed * better, seed, samples)
    if alone := [name for name, strength in zip(names, human[0], strict=True) if np.isnan(strength)]:
        more = f" (and {len(alone) - 1} more like it)" if len(alone) > 1 else ""
        raise DataError(f"generator {alone[0]!r}{more} is never compared: all images of its prompts are its own")
    correlations = tuple(
        MetricCorrelation(
            metric=name,
            spearman=_number(rho[0, i]),
            spearman_ci=_interval(rho[1:, i]),
            kendall=_number(tau[0, i]),
            kendall_ci=_interval(tau[1:, i]),
            higher_is_better=i < len(per_image) or per_set[i - len(per_image)].higher_is_better,
            interval_covers="people and metric" if i < len(per_image) else "people",
        )
        for i, name in enumerate([*per_image, *(metric.name for metric in per_set)])
    )
    values = [*means[0], *fixed]
    rows = [
        GeneratorRow(
            generator=name,
            images=sum(group.sources.count(name) for group in groups),
            human=float(human[0, g]),
            human_ci=_interval(human[1:, g]),
            metrics={c.metric: float(v[g]) for c, v in zip(correlations, values, strict=True)},
        )
        for g, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (-row.human, row.generator))
    return GeneratorReport(tuple(rows), correlations, len(table))


def _generators(groups: Sequence[JudgedGroup]) -> list[str]:
    sources = [source for group in groups for source in group.sources]
    if unknown := sources.count(None):
        raise DataError(
            f"{unknown} of {len(sources)} images do not say which generator made them; "
            "rankings whose images have a `source` are needed (humanpref's own format and Pick-a-Pic hold it)"
        )
    names = sorted({source for source in sources if source is not None})
    if len(names) < MIN_GENERATORS:
        raise DataError(
            f"a ranking of generators needs at least {MIN_GENERATORS} of them, "
            f"the data have {len(names)} ({', '.join(names) or 'no images'})"
        )
    return names


def _check_set(metric: SetMetric, names: Sequence[str]) -> None:
    if missing := [name for name in names if not math.isfinite(metric.values.get(name, math.nan))]:
        raise DataError(f"{metric.name}: no finite value for generator {missing[0]!r} ({len(missing)} of {len(names)})")
    if extra := sorted(set(metric.values) - set(names)):
        raise DataError(f"{metric.name}: has a value for {extra[0]!r}, which made no image of the data")


def _table(
    groups: Sequence[JudgedGroup], names: Sequence[str], per_image: Mapping[str, Sequence[Sequence[float]]]
) -> Array:
    """Sum what a draw of prompts needs -> (prompts, 3 + metrics, generators).

    Rows: shares of other generators' images beaten, images that have such a share, images, each metric's scores.
    """
    for metric, scores in per_image.items():
        if len(scores) != len(groups):
            raise DataError(f"{metric}: {len(scores)} lists of scores for {len(groups)} groups")
    prompt_place = {prompt: i for i, prompt in enumerate(dict.fromkeys(group.prompt for group in groups))}
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(prompt_place), 3 + len(per_image), len(names)))
    for i, group in enumerate(groups):
        made_by = np.asarray([place[str(source)] for source in group.sources], dtype=np.intp)
        rows = [*_shares(np.asarray(group.ranks, dtype=np.float64), made_by), np.ones(len(made_by))]
        for metric, scores in per_image.items():
            own = np.asarray(scores[i], dtype=np.float64)
            if own.shape != made_by.shape or not np.isfinite(own).all():
                raise DataError(
                    f"{metric}: prompt {group.prompt[:60]!r} needs {len(made_by)} finite scores, got {own.tolist()}"
                )
            rows.append(own)
        for into, values in zip(table[prompt_place[group.prompt]], rows, strict=True):
            np.add.at(into, made_by, values)
    return table


def _shares(ranks: Array, made_by: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Of each image (n,): the share of other generators' images it beats, and 1 (0 and 0 where there are none)."""
    rivals = made_by[:, None] != made_by[None, :]
    beats = (np.sign(ranks[None, :] - ranks[:, None]) + 1.0) / 2.0  # [i, j]: i over j, 0.5 for a tie
    count = rivals.sum(axis=1)
    return (beats * rivals).sum(axis=1) / np.maximum(count, 1), (count > 0).astype(np.float64)


def _draw(table: Array, fixed: Array, seed: int, samples: int) -> tuple[Array, Array, Array, Array]:
    """Bootstrap over prompts; row 0 is the data itself, every prompt once.

    table: see `_table`. fixed: (set metrics, generators), higher is better. -> human strengths (1 + samples,
    generators), per-image means (1 + samples, metrics, generators), rho and tau (1 + samples, all metrics).
    nan where a draw misses a generator.
    """
    prompts, rows, names = table.shape
    # bounds what is held at a time: how often each prompt is drawn, and the sign of every two generators
    chunk = max(1, MAX_HELD // max(prompts, (rows + len(fixed)) * names**2))
    parts = []
    for times in _draws_of_prompts(prompts, seed, samples, chunk):
        sums = (times @ table.reshape(prompts, -1)).reshape(len(times), rows, names)
        human, means = _ratio(sums[:, 0], sums[:, 1]), _ratio(sums[:, 3:], sums[:, 2:3])
        values = np.concatenate([means, np.broadcast_to(fixed, (len(times), *fixed.shape))], axis=1)
        parts.append((human, means, *rank_correlations(_settled(values), _settled(human)[:, None, :])))
    human, means, rho, tau = (np.concatenate(part) for part in zip(*parts, strict=True))
    return human, means, rho, tau


def _draws_of_prompts(prompts: int, seed: int, samples: int, chunk: int) -> Iterator[Array]:
    """Yield how often each prompt is drawn: once each (1, prompts), then up to `chunk` draws (n, prompts) at a time."""
    yield np.ones((1, prompts))
    generator = np.random.default_rng(seed)
    for start in range(0, samples, chunk):
        draws = generator.integers(prompts, size=(min(chunk, samples - start), prompts))
        yield np.stack([np.bincount(draw, minlength=prompts) for draw in draws]).astype(np.float64)


def _ratio(sums: Array, counts: Array) -> Array:
    """Means; nan where nothing was counted."""
    sums, counts = np.broadcast_arrays(sums, counts)
    means: Array = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means


def _settled(values: Array) -> Array:
    """Drop what rounding left beyond 12 digits of the largest (along the last axis), which would order equal means."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return np.asarray(np.round(np.divide(values, largest, out=np.zeros_like(values), where=largest != 0), 12))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _interval(draws: Array) -> Interval | None:
    usable = draws[~np.isnan(draws)]
    return _quantiles(usable) if len(usable) >= MIN_DRAWS else None


def _quantiles(draws: Array) -> Interval:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
