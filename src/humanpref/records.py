"""The plain records that flow between the stages. Frozen, with no behaviour beyond their own consistency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from humanpref.errors import DataError


@dataclass(frozen=True)
class ImageRef:
    """An image by its place on disk, with the generator that made it where that is known."""

    path: Path
    source: str | None = None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt and the probability that `first` is preferred: 1, 0, or 0.5 for a tie."""

    prompt: str
    first: ImageRef
    second: ImageRef
    first_preferred: float

    def swap(self) -> Pair:
        """Return the same judgement with the images exchanged."""
        return Pair(self.prompt, self.second, self.first, 1.0 - self.first_preferred)


@dataclass(frozen=True)
class Ranking:
    """One judgement of a group of images of one prompt, by one annotator or (`annotator` None) the consensus.

    `ranks[i]` belongs to `images[i]`; 1 = best; equal numbers are ties. `first_preferred` is the soft label of a pair:
    the probability that `images[0]` is preferred, where it is none of 1, 0 and 0.5 (which the ranks say already); its
    ranks are those of the likelier order. `id` is the instance's name in its dataset. Raises `DataError` when images
    and ranks differ in length, there are fewer than two, a rank is below 1, or the soft label does not fit.
    """

    prompt: str
    images: tuple[ImageRef, ...]
    ranks: tuple[int, ...]
    annotator: str | None = None
    id: str | None = None
    first_preferred: float | None = None

    @classmethod
    def of_pair(
        cls,
        prompt: str,
        first: ImageRef,
        second: ImageRef,
        first_preferred: float,
        *,
        annotator: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name
    ) -> Ranking:
        """Make the ranking of two images from the probability in [0, 1] that the first is preferred (0.5 = tie)."""
        if not 0 <= first_preferred <= 1:  # NaN fails too
            raise DataError(f"ranking of {prompt[:60]!r}: a preference must be in [0, 1], got {first_preferred}")
        ranks = (1, 1) if first_preferred == 0.5 else (1, 2) if first_preferred > 0.5 else (2, 1)
        soft = None if first_preferred in {0.0, 0.5, 1.0} else float(first_preferred)
        return cls(prompt, (first, second), ranks, annotator, id, soft)

    def __post_init__(self) -> None:
        what = f"ranking of {self.prompt[:60]!r}"
        if len(self.images) != len(self.ranks):
            raise DataError(f"{what}: {len(self.images)} images but {len(self.ranks)} ranks")
        if len(self.images) < 2:
            raise DataError(f"{what}: needs at least two images, has {len(self.images)}")
        if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in self.ranks):
            raise DataError(f"{what}: ranks must be whole numbers from 1 (best), got {list(self.ranks)}")
        if (soft := self.first_preferred) is not None and not (
            len(self.ranks) == 2 and 0 < soft < 1 and (soft - 0.5) * (self.ranks[1] - self.ranks[0]) > 0
        ):
            raise DataError(f"{what}: a soft label of {soft} does not fit ranks {list(self.ranks)}")

    def pairs(self) -> Iterator[Pair]:
        """Yield every unordered pair of the group once, ties included (n * (n - 1) / 2 pairs)."""
        for i, j in combinations(range(len(self.images)), 2):
            a, b = self.ranks[i], self.ranks[j]
            preferred = 0.5 if a == b else float(a < b)
            if self.first_preferred is not None:
                preferred = self.first_preferred
            yield Pair(self.prompt, self.images[i], self.images[j], preferred)


@dataclass(frozen=True)
class ScoredImage:
    """One image of a call: its score on the scorer's published scale, its rank (1 = best, ties share a rank)
    and the probability that it is preferred to the mean other image of the call (None when it is alone)."""

    image: str
    score: float
    rank: int
    win_probability: float | None


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be scored, and why."""

    image: str
    error: str


@dataclass(frozen=True)
class ScoreReport:
    """What `score` found: `results` in input order, `failures` apart; `truncated` when the prompt was cut."""

    model: str
    prompt: str
    truncated: bool
    results: tuple[ScoredImage, ...]
    failures: tuple[FailedImage, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Head-to-head probabilities: `probabilities[i][j]` = P(images[i] preferred to images[j]), 0.5 on the diagonal."""

    model: str
    prompt: str
    truncated: bool
    images: tuple[str, ...]
    scores: tuple[float, ...]
    probabilities: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScorerResult:
    """How one scorer agrees with the human consensus; accuracies and intervals (95 %) in [0, 1]."""

    model: str
    accuracy: float
    accuracy_ci: tuple[float, float]
    pair_accuracy: float
    pair_accuracy_ci: tuple[float, float]
    published_accuracy: float | None = None
    truncated_prompts: int = 0


@dataclass(frozen=True)
class HumanResult:
    """How well people agree, from the raw annotations: one annotator against the consensus of the others,
    and annotator against annotator. Accuracies and intervals (95 %) in [0, 1]; `annotations` is how many were used."""

    annotations: int
    vs_consensus: float
    vs_consensus_ci: tuple[float, float]
    vs_human: float
    vs_human_ci: tuple[float, float]


@dataclass(frozen=True)
class EvalReport:
    """The comparison of scorers on one set of human rankings. `pairs` counts those not tied in the consensus."""

    data: str
    instances: int
    pairs: int
    scorers: tuple[ScorerResult, ...]
    human: HumanResult | None
