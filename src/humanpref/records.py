"""The plain records that flow between the stages. Frozen, with no behaviour beyond their own consistency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    ranks are those of the likelier order. `id` is the instance's name in its dataset; `prompt_source` is where the
    prompt comes from (COCO Captions, DiffusionDB ...) and `style` what it asks for (anime, photo ...), where known.
    Raises `DataError` when images and ranks differ in length, there are fewer than two, a rank is
    below 1, or the soft label does not fit.
    """

    prompt: str
    images: tuple[ImageRef, ...]
    ranks: tuple[int, ...]
    annotator: str | None = None
    id: str | None = None
    first_preferred: float | None = None
    prompt_source: str | None = None
    style: str | None = None

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
        prompt_source: str | None = None,
        style: str | None = None,
    ) -> Ranking:
        """Make the ranking of two images from the probability in [0, 1] that the first is preferred (0.5 = tie)."""
        if not 0 <= first_preferred <= 1:  # NaN fails too
            raise DataError(f"ranking of {prompt[:60]!r}: a preference must be in [0, 1], got {first_preferred}")
        ranks = (1, 1) if first_preferred == 0.5 else (1, 2) if first_preferred > 0.5 else (2, 1)
        soft = None if first_preferred in {0.0, 0.5, 1.0} else float(first_preferred)
        return cls(prompt, (first, second), ranks, annotator, id, soft, prompt_source, style)

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
class Group:
    """The images of one prompt, to be ranked at once, as `humanpref generate` makes them; fields as in `Ranking`."""

    prompt: str
    images: tuple[ImageRef, ...]
    id: str | None = None
    prompt_source: str | None = None
    style: str | None = None


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
class Measure:
    """A figure and its 95 % interval, by a bootstrap over prompts; None where there are too few of them for one."""

    value: float
    ci: tuple[float, float] | None


@dataclass(frozen=True)
class GroupResult:
    """One part of the data: `by` says how it was cut (images, prompt_source, style, image_source), `value` which part.
    `measures` as in `ScorerResult`; by `image_source` it is the pairs with an image of that generator,
    and only what is counted by pairs is known."""

    by: str
    value: str
    instances: int
    pairs: int
    measures: Mapping[str, Measure | None]


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs whose likelier image is predicted to win with a probability in [low, high): how many, what was predicted
    on average, and the share of people who did prefer it."""

    low: float
    high: float
    pairs: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Are the probabilities true? `ece` is the expected calibration error: the mean of |predicted - observed| over the
    bins, weighted by their pairs. `against` is "annotators" (shares of their votes) or "consensus"."""

    ece: float
    against: str
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class ScorerResult:
    """How one scorer agrees with people. `measures` holds each of `humanpref.evaluation.measures.NAMES`, None where
    the data does not define it; accuracies in [0, 1], correlations in [-1, 1]. `calibration` is None for a scorer that
    gives no probabilities. `tie_threshold` is that of the Pick-a-Pic rule. `identity` names weights, precision and
    preprocessing."""

    model: str
    measures: Mapping[str, Measure | None]
    published_accuracy: float | None = None
    truncated_prompts: int = 0
    tie_threshold: float = 0.0
    calibration: Calibration | None = None
    groups: tuple[GroupResult, ...] = ()
    identity: str = ""

    def __getitem__(self, name: str) -> Measure:
        """Return a measure that is known. Raises `KeyError` otherwise."""
        if (found := self.measures[name]) is None:
            raise KeyError(f"{name} is not defined on this data")
        return found


@dataclass(frozen=True)
class Difference:
    """Scorer `model` minus scorer `other` by the headline rule, on the same prompts: the interval is of the paired
    bootstrap, `p_value` two-sided by flipping signs of prompts, `p_holm` the same corrected for the number of
    comparisons in the report (Holm)."""

    model: str
    other: str
    difference: float
    ci: tuple[float, float] | None
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class HumanResult:
    """How well people agree, from the raw annotations (docs/human_ceiling.md). All in [0, 1].

    `instances` of the data have two annotators or more, and only they count here; `annotations` is how many rankings
    that is. `vs_consensus`: one annotator against the mean rank of the *other* annotators. `vs_human`: one annotator
    against another. `in_consensus`: one annotator, by the official HPD v2 rule, against the consensus that holds their
    own vote ("single human" in the paper's table), None where the data gives no consensus of its own.
    `ceiling_vs_human` and `ceiling_vs_consensus`: about what the best possible scorer would reach against one
    annotator, and against the consensus of all of a group, by a model of how people disagree; `model_vs_consensus` is
    what the same model says of `vs_consensus`, which it was not fitted to.
    """

    instances: int
    annotations: int
    annotators_per_group: float
    vs_consensus: Measure
    vs_human: Measure
    in_consensus: Measure | None
    ceiling_vs_human: Measure
    ceiling_vs_consensus: Measure
    model_vs_consensus: float


@dataclass(frozen=True)
class EvalReport:
    """The comparison of scorers on one set of human rankings.

    `test_set` is a published one ("hpdv2-test" ...) or None; `rule` the measure that is its headline. `pairs` counts
    those not tied in the consensus. `missing_images` were not on disk and left out on request, with them
    `dropped_instances` that had fewer than two images left. `notes` are for people.
    """

    data: str
    test_set: str | None
    rule: str
    instances: int
    prompts: int
    images: int
    pairs: int
    missing_images: int
    dropped_instances: int
    seed: int
    scorers: tuple[ScorerResult, ...]
    differences: tuple[Difference, ...]
    human: HumanResult | None
    notes: tuple[str, ...] = ()
