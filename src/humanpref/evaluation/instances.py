"""Rankings gathered into instances: one group of images of one prompt, its consensus and its annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from humanpref import metrics
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking


@dataclass(frozen=True)
class Instance:
    """One group of images of one prompt: the consensus, and the single annotators' rankings of it.

    All have the images in the same order. `given` tells that the data brought the consensus; else it is the order of
    the annotators' mean ranks, HPD v2's rule.
    """

    consensus: Ranking
    annotations: tuple[Ranking, ...]
    given: bool

    @property
    def label(self) -> float | None:
        """P(first image preferred) of a pair, where it is known more finely than by the ranks."""
        return self.consensus.first_preferred

    def annotator_ranks(self) -> metrics.Array:
        """The single annotators' ranks, (annotators, images)."""
        return np.asarray([a.ranks for a in self.annotations], dtype=np.float64)


def gather(rankings: Iterable[Ranking]) -> list[Instance]:
    """Gather rankings of the same prompt and images (and id, where there is one) into instances.

    Raises `DataError` when there are no rankings, an annotator ranked a group twice, or a group has two consensuses.
    """
    found: dict[tuple[str | None, str, tuple[str, ...]], list[Ranking]] = {}
    for ranking in rankings:
        paths = tuple(sorted(str(image.path) for image in ranking.images))
        found.setdefault((ranking.id, ranking.prompt, paths), []).append(ranking)
    if not found:
        raise DataError("the data holds no rankings")
    return [_instance(members) for members in found.values()]


def _instance(members: Sequence[Ranking]) -> Instance:
    images = tuple(_with_source(image, members) for image in members[0].images)
    members = [_in_order_of(images, member) for member in members]
    first = members[0]
    consensus = [r for r in members if r.annotator is None]
    annotations = tuple(r for r in members if r.annotator is not None)
    twice = [name for name, count in Counter(r.annotator for r in annotations).items() if count > 1]
    if twice:
        raise DataError(f"prompt {first.prompt[:60]!r}: annotator {twice[0]!r} ranked the same images more than once")
    if len(consensus) > 1:
        raise DataError(
            f"prompt {first.prompt[:60]!r}: {len(consensus)} rankings of the same images without an annotator; "
            "give each its annotator, or an id if they are separate judgements"
        )
    if consensus:
        return Instance(consensus[0], annotations, given=True)
    return Instance(mean_rank_consensus(annotations), annotations, given=False)


def mean_rank_consensus(annotations: Sequence[Ranking]) -> Ranking:
    """The order of the mean rank over annotators (HPD v2's rule; `metrics.midranks`); equal means are ties.

    A single annotator's ranking stays as it is. For pairs the share of annotators who prefer the first is kept.
    """
    if len(annotations) == 1:
        return replace(annotations[0], annotator=None)
    first = annotations[0]
    if len(first.images) == 2:
        share = float(np.mean([next(a.pairs()).first_preferred for a in annotations]))
        return Ranking.of_pair(
            first.prompt, *first.images, share, id=first.id, prompt_source=first.prompt_source, style=first.style
        )
    places = metrics.midranks(np.asarray([a.ranks for a in annotations], dtype=np.float64))
    total = places.sum(axis=0)  # of halves, so equal means are equal exactly
    ranks = tuple(metrics.competition_ranks([-float(t) for t in total]))
    return replace(first, ranks=ranks, annotator=None)


def without_missing(instances: Sequence[Instance]) -> tuple[list[Instance], list[ImageRef], int]:
    """Leave out images that are not on disk -> (instances, the missing images, instances with fewer than two left).

    The ranks of what is left keep their order.
    """
    missing = missing_images(instances)
    if not missing:
        return list(instances), [], 0
    gone = set(missing)
    kept = []
    for instance in instances:
        keep = [i for i, image in enumerate(instance.consensus.images) if image not in gone]
        if len(keep) == len(instance.consensus.images):
            kept.append(instance)
        elif len(keep) >= 2:
            annotations = tuple(_only(a, keep) for a in instance.annotations)
            kept.append(Instance(_only(instance.consensus, keep), annotations, instance.given))
    return kept, missing, len(instances) - len(kept)


def missing_images(instances: Iterable[Instance]) -> list[ImageRef]:
    """The images that are not on disk, each once, in the order of the data."""
    seen = dict.fromkeys(image for i in instances for image in i.consensus.images)
    return [image for image in seen if not _is_file(image.path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def repeated(instances: Sequence[Instance]) -> int:
    """How many instances have the prompt and images of another one: judged again, under another id."""
    groups = Counter((i.consensus.prompt, frozenset(i.consensus.images)) for i in instances)
    return sum(count - 1 for count in groups.values())


def _with_source(image: ImageRef, members: Sequence[Ranking]) -> ImageRef:
    """The image with its generator, which not every ranking of it may tell."""
    sources = {other.source for ranking in members for other in ranking.images if other.path == image.path} - {None}
    if len(sources) > 1:
        raise DataError(f"{image}: is said to be by {' and by '.join(sorted(map(str, sources)))}")
    return ImageRef(image.path, next(iter(sources), None))


def _in_order_of(images: tuple[ImageRef, ...], ranking: Ranking) -> Ranking:
    if ranking.images == images:
        return ranking
    left = list(range(len(images)))
    order = [left.pop(next(n for n, k in enumerate(left) if ranking.images[k].path == i.path)) for i in images]
    soft = ranking.first_preferred
    return replace(
        ranking,
        images=images,
        ranks=tuple(ranking.ranks[k] for k in order),
        first_preferred=soft if soft is None or order == [0, 1] else 1 - soft,
    )


def _only(ranking: Ranking, keep: Sequence[int]) -> Ranking:
    return replace(ranking, images=tuple(ranking.images[k] for k in keep), ranks=tuple(ranking.ranks[k] for k in keep))
