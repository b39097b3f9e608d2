"""Rankings become training examples: which judgements count, pairs or whole groups, soft labels; kept compactly."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from humanpref.errors import DataError, TrainingError
from humanpref.evaluation.instances import gather
from humanpref.records import Ranking
from humanpref.training.config import TrainConfig


@dataclass(frozen=True)
class Example:
    """Images of one prompt with one judgement.

    `ranks`: 1 = best, ties allowed. `preferred`: P(image i preferred to image j) for every i < j, in the order of
    `itertools.combinations`.
    """

    prompt: str
    images: tuple[Path, ...]
    ranks: tuple[int, ...]
    preferred: tuple[float, ...]


@dataclass(frozen=True)
class Counts:
    """What the training data holds, and what was left out of it."""

    rankings: int
    examples: int
    pairs: int
    tied_pairs: int
    prompts: int
    images: int
    missing_images: int = 0
    dropped_rankings: int = 0
    bad_rows: int = 0


class ExampleTable(Sequence[Example]):
    """Examples in flat arrays: a million pairs take about 100 MB, and forked workers share them."""

    def __init__(self) -> None:
        self.prompts: dict[str, int] = {}
        self.images: dict[str, int] = {}
        self._prompt_list: list[str] = []
        self._image_list: list[str] = []
        self._prompt, self._end = array("l"), array("q", [0])
        self._image, self._rank = array("l"), array("l")
        self._preferred, self._pair_end = array("d"), array("q", [0])

    def __len__(self) -> int:
        return len(self._prompt)

    def add(self, prompt: str, images: Sequence[Path], ranks: Sequence[int], preferred: Sequence[float]) -> None:
        """Append one example."""
        self._prompt.append(_intern(prompt, self.prompts, self._prompt_list))
        for image, rank in zip(images, ranks, strict=True):
            self._image.append(_intern(str(image), self.images, self._image_list))
            self._rank.append(rank)
        self._preferred.extend(preferred)
        self._end.append(len(self._image))
        self._pair_end.append(len(self._preferred))

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        begin, end = self._end[index], self._end[index + 1]
        return Example(
            self._prompt_list[self._prompt[index]],
            tuple(Path(self._image_list[i]) for i in self._image[begin:end]),
            tuple(self._rank[begin:end]),
            tuple(self._preferred[self._pair_end[index] : self._pair_end[index + 1]]),
        )

    @property
    def pairs(self) -> int:
        """How many labelled pairs there are in all."""
        return len(self._preferred)

    @property
    def tied_pairs(self) -> int:
        """How many of them are ties."""
        return sum(p == 0.5 for p in self._preferred)

    def groups(self) -> list[array[int]]:
        """Indices of the examples that share images, directly or by way of others: HPD v2's six pairs of four images,
        or ten people's rankings of the same nine. In the order of their first examples."""
        parent = list(range(len(self._image_list)))

        def root(image: int) -> int:
            while parent[image] != image:
                parent[image] = parent[parent[image]]
                image = parent[image]
            return image

        for example in range(len(self)):
            begin, end = self._end[example], self._end[example + 1]
            first = root(self._image[begin])
            for image in self._image[begin + 1 : end]:
                parent[root(image)] = first
        found: dict[int, array[int]] = {}
        for example in range(len(self)):
            found.setdefault(root(self._image[self._end[example]]), array("l")).append(example)
        return list(found.values())

    def fingerprint(self) -> str:
        """SHA-256 of prompts, image names and labels, in order: other data, another fingerprint."""
        digest = hashlib.sha256()
        for text in (*self._prompt_list, "\0", *self._image_list):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        for numbers in (self._prompt, self._end, self._image, self._rank, self._preferred):
            digest.update(numbers.tobytes())
        return digest.hexdigest()


def make_examples(rankings: Iterable[Ranking], config: TrainConfig) -> tuple[ExampleTable, Counts]:
    """Turn rankings into examples as `config.unit`, `labels` and `bad_images` say -> (examples, counts).

    Where a group has single annotators' rankings, its consensus is not counted again. Images that are not on disk are
    an error, or with bad_images="skip" left out, and with them rankings that have fewer than two left.
    Raises `TrainingError` for data without rankings, of which every pair is tied, or whose images are missing.
    """
    kept = list(rankings)
    total = len(kept)
    kept, missing = _on_disk(kept, config.bad_images)
    dropped = total - len(kept)
    table = ExampleTable()
    for ranking, preferred in _labelled(_judgements(kept), config.labels):
        paths = [image.path for image in ranking.images]
        if config.unit != "pairs" or len(paths) == 2:
            table.add(ranking.prompt, paths, ranking.ranks, preferred)
        else:
            for (i, j), p in zip(combinations(range(len(paths)), 2), preferred, strict=True):
                table.add(ranking.prompt, (paths[i], paths[j]), (ranking.ranks[i], ranking.ranks[j]), (p,))
    if not len(table):
        raise TrainingError("the training data holds no rankings" + (" whose images are on disk" if total else ""))
    if table.tied_pairs == table.pairs:
        raise TrainingError(
            f"all {table.pairs} pairs of the training data are ties: there is nothing to learn from them"
        )
    counts = Counts(
        total, len(table), table.pairs, table.tied_pairs, len(table.prompts), len(table.images), missing, dropped
    )
    return table, counts


@dataclass(frozen=True)
class Overlap:
    """What of the validation data is also in the training data."""

    prompts: int
    of_prompts: int
    images: int
    of_images: int

    def __str__(self) -> str:
        return (
            f"{self.prompts} of {self.of_prompts} validation prompts and {self.images} of {self.of_images} validation "
            "images are also in the training data: the validation accuracy flatters"
        )


def overlap(table: ExampleTable, validation: Iterable[Ranking]) -> Overlap | None:
    """Count prompts and image files that training and validation share; None where there are none."""
    rankings = list(validation)
    prompts = {r.prompt for r in rankings}
    images = {str(image.path) for r in rankings for image in r.images}
    found = Overlap(
        sum(p in table.prompts for p in prompts), len(prompts), sum(i in table.images for i in images), len(images)
    )
    return found if found.prompts or found.images else None


def collecting(bad: list[DataError], policy: str) -> Callable[[DataError], None] | None:
    """What to do with a bad row of the data: None to stop, or a function that gathers the errors."""
    return bad.append if policy == "skip" else None


def _intern(text: str, index: dict[str, int], values: list[str]) -> int:
    if text not in index:
        index[text] = len(values)
        values.append(text)
    return index[text]


def _on_disk(rankings: list[Ranking], policy: str) -> tuple[list[Ranking], int]:
    """Leave out images that are not files, or refuse them -> (rankings, how many images are missing)."""
    images = {image.path for ranking in rankings for image in ranking.images}
    gone = {path for path in images if not _is_file(path)}
    if not gone:
        return rankings, 0
    if policy == "stop":
        first = min(map(str, gone))
        raise TrainingError(
            f"{len(gone)} of {len(images)} images of the training data are not on disk (first: {first}); say where "
            "they are with --images, or leave them out with bad_images=skip"
        )
    kept = []
    for ranking in rankings:
        keep = [i for i, image in enumerate(ranking.images) if image.path not in gone]
        if len(keep) == len(ranking.images):
            kept.append(ranking)
        elif len(keep) >= 2:
            images_left, ranks_left = tuple(ranking.images[i] for i in keep), tuple(ranking.ranks[i] for i in keep)
            kept.append(replace(ranking, images=images_left, ranks=ranks_left))
    return kept, len(gone)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _group(ranking: Ranking) -> tuple[str | None, str, tuple[str, ...]]:
    return ranking.id, ranking.prompt, tuple(sorted(str(image.path) for image in ranking.images))


def _judgements(rankings: list[Ranking]) -> list[Ranking]:
    """Drop the consensus of groups whose single annotators are there."""
    judged = {_group(r) for r in rankings if r.annotator is not None}
    if not judged:
        return rankings
    return [r for r in rankings if r.annotator is not None or _group(r) not in judged]


def _labelled(rankings: list[Ranking], labels: str) -> Iterable[tuple[Ranking, list[float]]]:
    """Each ranking with P(first preferred) of its pairs: its own word, or the share of the group's annotators."""
    if labels == "each":
        for ranking in rankings:
            yield ranking, [pair.first_preferred for pair in ranking.pairs()]
        return
    lone: list[Ranking] = []
    together: dict[object, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        if ranking.annotator is None:
            lone.append(ranking)
        else:
            together[_group(ranking)].append(ranking)
    for ranking in lone:
        yield ranking, [pair.first_preferred for pair in ranking.pairs()]
    for instance in gather(r for members in together.values() for r in members) if together else ():
        votes = [[pair.first_preferred for pair in a.pairs()] for a in instance.annotations]
        yield instance.consensus, [sum(column) / len(column) for column in zip(*votes, strict=True)]
