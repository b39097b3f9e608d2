"""How well do scorers agree with people? Rankings and scorers in, an `EvalReport` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from humanpref import metrics
from humanpref.errors import DataError, ImageError, ScoreError
from humanpref.records import EvalReport, HumanResult, ImageRef, Ranking, ScorerResult
from humanpref.scorers import Scorer

PUBLISHED_SET = "hpdv2-test"


@dataclass(frozen=True)
class Instance:
    """One group of images of one prompt: the consensus, and the single annotators' rankings of it."""

    consensus: Ranking
    annotations: tuple[Ranking, ...]


def group(rankings: Sequence[Ranking]) -> list[Instance]:
    """Gather rankings of the same prompt and images into instances. Raises `DataError` where no consensus is given."""
    found: dict[tuple[str, tuple[ImageRef, ...]], list[Ranking]] = {}
    for ranking in rankings:
        found.setdefault((ranking.prompt, ranking.images), []).append(ranking)
    instances = []
    for (prompt, _), members in found.items():
        consensus = [r for r in members if r.annotator is None]
        if len(consensus) != 1:
            raise DataError(
                f"prompt {prompt[:60]!r}: expected one consensus ranking of its images, found {len(consensus)}"
            )
        instances.append(Instance(consensus[0], tuple(r for r in members if r.annotator is not None)))
    return instances


def evaluate_scorers(
    rankings: Sequence[Ranking],
    scorers: Iterable[Scorer],
    *,
    data: str = "",
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> EvalReport:
    """Compare scorers with the human consensus, and people with each other.

    `accuracy` follows HPD v2's official rule (mean over instances), `pair_accuracy` pools all pairs that are not tied
    in the consensus. Intervals are 95 %, by a bootstrap over prompts with the given seed. `on_image` is called once
    per image and scorer. Raises `DataError` when images are missing or unreadable: none is skipped.
    """
    instances = group(rankings)
    _check_images(instances)
    # map lets go of each scorer before it asks for the next, so that a generator keeps one in memory at a time
    results = tuple(map(lambda scorer: _evaluate_one(instances, scorer, seed, on_image), scorers))  # noqa: C417
    pairs = sum(metrics.pair_agreement([0.0] * len(i.consensus.ranks), i.consensus.ranks)[1] for i in instances)
    return EvalReport(data, len(instances), pairs, results, human_agreement(instances, seed=seed))


def _check_images(instances: Sequence[Instance]) -> None:
    missing = sorted({str(image) for i in instances for image in i.consensus.images if not image.path.is_file()})
    if missing:
        raise DataError(
            f"{len(missing)} images are not on disk (first: {missing[0]}); "
            "say where they are with --image-root, or fetch them"
        )


def _evaluate_one(
    instances: Sequence[Instance], scorer: Scorer, seed: int, on_image: Callable[[], None] | None
) -> ScorerResult:
    images = [image for i in instances for image in i.consensus.images]
    prompts = [i.consensus.prompt for i in instances for _ in i.consensus.images]
    scores: list[float] = []
    for image, outcome in zip(images, scorer.score_each(images, prompts), strict=True):
        if isinstance(outcome, ImageError):
            raise DataError(f"an image of the data cannot be scored: {outcome}")
        if not np.isfinite(outcome):
            raise ScoreError(f"{image}: {scorer.spec.name} returned {outcome}; its weights may be damaged")
        scores.append(outcome)
        if on_image is not None:
            on_image()
    official, counts = [], []
    place = 0
    for instance in instances:
        ranks = instance.consensus.ranks
        own = scores[place : place + len(ranks)]
        place += len(ranks)
        official.append(metrics.official_accuracy(own, ranks))
        right, untied, _ = metrics.pair_agreement(own, ranks)
        counts.append((right, untied))
    clusters = [i.consensus.prompt for i in instances]
    values, pooled = np.asarray(official), np.asarray(counts, dtype=np.float64)
    if not pooled[:, 1].sum():
        raise DataError("every pair of the data is tied in the consensus: there is nothing to agree with")
    return ScorerResult(
        model=scorer.spec.name,
        accuracy=float(values.mean()),
        accuracy_ci=metrics.bootstrap_interval(values, clusters, lambda v: float(v.mean()), seed=seed),
        pair_accuracy=metrics.ratio_of_sums(pooled),
        pair_accuracy_ci=metrics.bootstrap_interval(pooled, clusters, metrics.ratio_of_sums, seed=seed),
        published_accuracy=scorer.spec.published.get(PUBLISHED_SET),
        truncated_prompts=sum(scorer.truncated(prompt) for prompt in dict.fromkeys(clusters)),
    )


def human_agreement(instances: Sequence[Instance], *, seed: int = 0) -> HumanResult | None:
    """How people agree, where single annotations are given (None otherwise).

    vs_consensus: each annotator against the mean rank of the *other* annotators of the instance; pairs either side
    ties are left out. vs_human: each annotator against each other one; ties of either are left out.
    """
    rated = [i for i in instances if len(i.annotations) >= 2]
    if not rated:
        return None
    rows = []
    for instance in rated:
        ranks = np.asarray([a.ranks for a in instance.annotations], dtype=np.float64)
        others = (ranks.sum(axis=0) - ranks) / (len(ranks) - 1)
        consensus = np.sum([_right_untied(own, rest) for own, rest in zip(ranks, others, strict=True)], axis=0)
        human = np.sum([_right_untied(ranks[a], ranks[b]) for a, b in combinations(range(len(ranks)), 2)], axis=0)
        rows.append([*consensus, *human])
    values = np.asarray(rows, dtype=np.float64)
    clusters = [i.consensus.prompt for i in rated]
    against, between = values[:, :2], values[:, 2:]
    if not against[:, 1].sum() or not between[:, 1].sum():
        return None  # nobody said anything but "tied"
    return HumanResult(
        annotations=sum(len(i.annotations) for i in rated),
        vs_consensus=metrics.ratio_of_sums(against),
        vs_consensus_ci=metrics.bootstrap_interval(against, clusters, metrics.ratio_of_sums, seed=seed),
        vs_human=metrics.ratio_of_sums(between),
        vs_human_ci=metrics.bootstrap_interval(between, clusters, metrics.ratio_of_sums, seed=seed),
    )


def _right_untied(ranks: metrics.Array, reference: metrics.Array) -> tuple[float, int]:
    """Pairs ordered alike, of those neither side ties."""
    i, j = np.triu_indices(len(ranks), k=1)
    product = np.sign(ranks[i] - ranks[j]) * np.sign(reference[i] - reference[j])
    return float((product > 0).sum()), int((product != 0).sum())
