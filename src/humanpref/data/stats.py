"""What is in a data set: how many prompts, images and pairs, from where, judged by whom, agreeing how far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from humanpref.metrics import annotator_agreement
from humanpref.records import Ranking

UNKNOWN = "unknown"
"""The source of images whose generator the data does not name."""


@dataclass(frozen=True)
class DataStats:
    """Counts of one data set.

    `instances` are distinct groups (a prompt and its images), `pairs` the pairs of images in them, `judged_pairs` those
    pairs times the people who ranked them (the consensus, where no single person's ranking is given), `ties` the share
    of them that are tied. `images_per_group`: {images: groups}; `sources`: {generator: images}. Agreement is in [0, 1],
    over pairs that neither side ties: `between_annotators` of one with another, `with_others` of one with the mean rank
    of the other annotators of the group; None where nobody can be compared.
    """

    data: str
    format: str
    prompts: int
    instances: int
    images: int
    pairs: int
    rankings: int
    annotators: int
    judged_pairs: int
    ties: float
    images_per_group: dict[int, int]
    sources: dict[str, int]
    between_annotators: float | None
    with_others: float | None


@dataclass
class _Judged:
    """Pairs and tied pairs that were judged."""

    pairs: int = 0
    tied: int = 0

    def add(self, ranking: Ranking) -> None:
        size = len(ranking.ranks)
        self.pairs += size * (size - 1) // 2
        self.tied += sum(n * (n - 1) // 2 for n in Counter(ranking.ranks).values())


@dataclass
class _Group:
    size: int
    consensus: _Judged = field(default_factory=_Judged)
    annotations: list[np.ndarray] = field(default_factory=list)  # ranks, in the order of the images' names


def data_stats(
    rankings: Iterable[Ranking],
    *,
    data: str = "",
    format: str = "",  # noqa: A002 - the name it has everywhere
    on_ranking: Callable[[], None] | None = None,
) -> DataStats:
    """Count what is in a stream of rankings. Memory: one entry per group and per image."""
    groups: dict[tuple[str, frozenset[Path]], _Group] = {}
    sources: dict[Path, str] = {}
    annotators: set[str] = set()
    people = _Judged()
    count = 0
    for ranking in rankings:
        count += 1
        paths = [image.path for image in ranking.images]
        sources.update((image.path, image.source or UNKNOWN) for image in ranking.images)
        group = groups.setdefault((ranking.prompt, frozenset(paths)), _Group(len(paths)))
        if ranking.annotator is None:
            group.consensus.add(ranking)
        else:
            annotators.add(ranking.annotator)
            people.add(ranking)
            order = sorted(range(len(paths)), key=lambda i: paths[i])
            group.annotations.append(np.asarray(ranking.ranks, dtype=np.float64)[order])
        if on_ranking is not None:
            on_ranking()
    between, others = _agreement(groups.values())
    alone = [g.consensus for g in groups.values() if not g.annotations]
    pairs = people.pairs + sum(judged.pairs for judged in alone)
    tied = people.tied + sum(judged.tied for judged in alone)
    return DataStats(
        data=data,
        format=format,
        prompts=len({prompt for prompt, _ in groups}),
        instances=len(groups),
        images=len(sources),
        pairs=sum(g.size * (g.size - 1) // 2 for g in groups.values()),
        rankings=count,
        annotators=len(annotators),
        judged_pairs=pairs,
        ties=tied / pairs if pairs else 0.0,
        images_per_group=dict(sorted(Counter(g.size for g in groups.values()).items())),
        sources=dict(Counter(sources.values()).most_common()),
        between_annotators=between,
        with_others=others,
    )


def _agreement(groups: Iterable[_Group]) -> tuple[float | None, float | None]:
    several = (g.annotations for g in groups if len(g.annotations) >= 2)
    parts = [annotator_agreement(np.asarray(ranks)) for ranks in several]
    with_others, others, between, untied = np.sum(parts, axis=0) if parts else (0.0, 0, 0.0, 0)
    return (float(between / untied) if untied else None), (float(with_others / others) if others else None)
