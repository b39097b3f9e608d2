"""How well do scorers agree with people? Rankings and scorers in, an `EvalReport` out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np

from humanpref import metrics, resampling
from humanpref.errors import DataError, ImageError, ScoreError, UnknownNameError
from humanpref.evaluation import measures
from humanpref.evaluation.human import human_agreement
from humanpref.evaluation.instances import Instance, gather, missing_images, repeated, without_missing
from humanpref.evaluation.parts import cut, image_source_parts
from humanpref.records import (
    Calibration,
    CalibrationBin,
    Difference,
    EvalReport,
    GroupResult,
    Measure,
    Ranking,
    ScorerResult,
)
from humanpref.scorers import Scorer, ScorerSpec
from humanpref.scorers.base import usable

TieThreshold: TypeAlias = "float | Literal['best']"


@dataclass(frozen=True)
class TestSet:
    """One set of human judgements, ready to be scored: see `prepare`."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    data: str
    name: str | None
    instances: tuple[Instance, ...]
    missing_images: int = 0
    dropped_instances: int = 0

    @property
    def images(self) -> int:
        """How many scores one scorer has to give."""
        return sum(len(i.consensus.images) for i in self.instances)


@dataclass(frozen=True)
class Scores:
    """What one scorer gave one test set: an array of scores per instance, and what is needed to read them."""

    spec: ScorerSpec
    logit_scale: float | None
    identity: str
    values: tuple[metrics.Array, ...]
    truncated_prompts: int


def prepare(
    rankings: Iterable[Ranking], *, data: str = "", test_set: str | None = None, allow_missing: bool = False
) -> TestSet:
    """Gather rankings into instances and check that their images are on disk.

    data: what it is called in reports. test_set: the published set it is, or is a part of (`measures.HEADLINE`).
    allow_missing: leave out images that are not on disk, and count them. Raises `DataError` when images are missing
    otherwise, when nothing is left, or for rankings that contradict each other (see `gather`).
    """
    if test_set not in measures.HEADLINE:
        known = ", ".join(name for name in measures.HEADLINE if name)
        raise UnknownNameError(f"no test set is called {test_set!r}; choose from: {known}")
    instances = gather(rankings)
    if not any(_untied(instance) for instance in instances):
        raise DataError("every pair of the data is tied in the consensus: there is nothing to agree with")
    if not allow_missing:
        if missing := missing_images(instances):
            listed = ", ".join(str(image) for image in missing[:3])
            raise DataError(
                f"{len(missing)} images are not on disk ({listed}{', ...' if len(missing) > 3 else ''}); "
                "say where they are with --image-root, fetch them, or leave them out with --allow-missing"
            )
        return TestSet(data, test_set, tuple(instances))
    kept, gone, dropped = without_missing(instances)
    if not kept:
        raise DataError(
            f"no instance has two images on disk ({len(gone)} are missing, first: {gone[0]}); "
            "say where with --image-root"
        )
    if not any(_untied(instance) for instance in kept):
        raise DataError("every pair that is left without the missing images is tied in the consensus")
    return TestSet(data, test_set, tuple(kept), len(gone), dropped)


def check_threshold(tie_threshold: TieThreshold) -> None:
    """Raise `DataError` unless it is "best" or a difference of two probabilities."""
    if tie_threshold != "best" and not 0 <= tie_threshold <= 1:
        raise DataError(f"the tie threshold is a difference of probabilities, in [0, 1] or 'best', got {tie_threshold}")


def _untied(instance: Instance) -> int:
    ranks = instance.consensus.ranks
    return metrics.strict_agreement([0.0] * len(ranks), ranks)[1]


def evaluate_scorers(
    rankings: Iterable[Ranking],
    scorers: Iterable[Scorer],
    *,
    data: str = "",
    test_set: str | None = None,
    tie_threshold: TieThreshold = 0.0,
    allow_missing: bool = False,
    seed: int = 0,
    on_image: Callable[[], None] | None = None,
) -> EvalReport:
    """Compare scorers with the human consensus, with each other, and people with each other.

    Every measure of `measures.NAMES` is computed, over all of the data and over its parts; intervals are 95 %, by a
    bootstrap over prompts with the given seed. tie_threshold: of the Pick-a-Pic rule, or "best" for each scorer's best
    one on this very data. `on_image` is called once per image and scorer. Raises `DataError` for bad data or an image
    that cannot be read (none is skipped), `ScoreError` for scores that are no numbers or two scorers of one name.
    """
    check_threshold(tie_threshold)
    prepared = prepare(rankings, data=data, test_set=test_set, allow_missing=allow_missing)
    scores = [row[0] for row in score_all([prepared], scorers, on_image=on_image)]
    return judge(prepared, scores, tie_threshold=tie_threshold, seed=seed)


def score_all(
    test_sets: Sequence[TestSet], scorers: Iterable[Scorer], *, on_image: Callable[[], None] | None = None
) -> list[list[Scores]]:
    """Let every scorer score every test set -> a list per scorer, aligned with `test_sets`.

    A generator of scorers keeps one in memory at a time.
    """
    # map lets go of each scorer before it asks for the next
    rows = list(map(lambda scorer: [_score(t, scorer, on_image) for t in test_sets], scorers))  # noqa: C417
    for name, count in Counter(row[0].spec.name for row in rows if row).items():
        if count > 1:
            raise ScoreError(f"two scorers are called {name}: their scores may be on different scales; name each once")
    return rows


def _score(test_set: TestSet, scorer: Scorer, on_image: Callable[[], None] | None) -> Scores:
    consensus = [i.consensus for i in test_set.instances]
    images = [image for ranking in consensus for image in ranking.images]
    prompts = [ranking.prompt for ranking in consensus for _ in ranking.images]
    scores: list[float] = []
    for image, outcome in zip(images, scorer.score_each(images, prompts), strict=True):
        if isinstance(outcome, ImageError):
            raise DataError(f"an image of the data cannot be scored: {outcome}")
        scores.append(usable(outcome, image, scorer.spec))
        if on_image is not None:
            on_image()
    ends = np.cumsum([len(ranking.images) for ranking in consensus])[:-1]
    return Scores(
        spec=scorer.spec,
        logit_scale=scorer.logit_scale,
        identity=scorer.identity,
        values=tuple(np.split(np.asarray(scores, dtype=np.float64), ends)),
        truncated_prompts=sum(scorer.truncated(prompt) for prompt in dict.fromkeys(prompts)),
    )


def judge(
    test_set: TestSet, scores: Sequence[Scores], *, tie_threshold: TieThreshold = 0.0, seed: int = 0
) -> EvalReport:
    """Compute the whole report of one test set from the scores. Pure: nothing is read or scored."""
    instances = test_set.instances
    check_threshold(tie_threshold)
    pairs = sum(_untied(i) for i in instances)
    rule = measures.HEADLINE[test_set.name]
    judged = [_judge_scorer(test_set, own, tie_threshold, seed) for own in scores]
    return EvalReport(
        data=test_set.data,
        test_set=test_set.name,
        rule=rule,
        instances=len(instances),
        prompts=len({i.consensus.prompt for i in instances}),
        images=len({image for i in instances for image in i.consensus.images}),
        pairs=pairs,
        missing_images=test_set.missing_images,
        dropped_instances=test_set.dropped_instances,
        seed=seed,
        scorers=tuple(result for result, _ in judged),
        differences=_differences(
            [(own.spec.name, sums) for own, (_, sums) in zip(scores, judged, strict=True)], rule, seed
        ),
        human=human_agreement(instances, seed=seed),
        notes=_notes(test_set, scores, tie_threshold),
    )


def _judge_scorer(
    test_set: TestSet, own: Scores, tie_threshold: TieThreshold, seed: int
) -> tuple[ScorerResult, metrics.Array]:
    """Return the result of one scorer, and the sums per prompt (prompts, measures, 2) that differences are made of."""
    instances, scale = test_set.instances, own.logit_scale
    tables = [metrics.pair_table(s, i.consensus.ranks, i.label) for s, i in zip(own.values, instances, strict=True)]
    differences, preferred = (np.concatenate(column) for column in zip(*tables, strict=True))
    threshold = 0.0 if tie_threshold == "best" else tie_threshold
    if tie_threshold == "best" and scale is not None:
        threshold = metrics.best_tie_threshold(differences, preferred, scale)
    rows = np.stack(
        [
            measures.parts(s, i.consensus.ranks, i.label, logit_scale=scale, threshold=threshold)
            for s, i in zip(own.values, instances, strict=True)
        ]
    )
    prompts = [i.consensus.prompt for i in instances]
    sums = resampling.cluster_sums(rows, prompts)
    groups = []
    for by, value, members in cut(instances):
        inside = resampling.cluster_sums(rows[members], [prompts[m] for m in members])
        pairs = int(rows[members, measures.NAMES.index("pair_accuracy"), 1].sum())
        groups.append(GroupResult(by, value, len(members), pairs, _measured(inside, measures.NAMES, seed)))
    for value, members, counts in image_source_parts(instances, own.values):
        inside = resampling.cluster_sums(counts[:, None, :], [prompts[m] for m in members])
        found = _measured(inside, ("pair_accuracy",), seed)
        groups.append(GroupResult("image_source", value, len(members), int(counts[:, 1].sum()), found))
    return (
        ScorerResult(
            model=own.spec.name,
            measures=_measured(sums, measures.NAMES, seed),
            published_accuracy=own.spec.published.get(test_set.name) if test_set.name else None,
            truncated_prompts=own.truncated_prompts,
            tie_threshold=threshold,
            calibration=_calibration(instances, differences, preferred, scale),
            groups=tuple(groups),
            identity=own.identity,
        ),
        sums,
    )


def _measured(sums: metrics.Array, names: Sequence[str], seed: int) -> dict[str, Measure | None]:
    values, draws = resampling.ratios(sums.sum(axis=0)), resampling.bootstrap(sums, seed=seed)
    return {
        name: None if math.isnan(value) else Measure(float(value), resampling.interval(draws[:, k], len(sums)))
        for k, (name, value) in enumerate(zip(names, values, strict=True))
    }


def _calibration(
    instances: Sequence[Instance], differences: metrics.Array, preferred: metrics.Array, scale: float | None
) -> Calibration | None:
    """Hold the predicted probabilities against the shares of annotators where all groups have two or more of them,
    else against the consensus."""
    if scale is None:
        return None
    by_people = all(len(i.annotations) >= 2 for i in instances)
    observed = np.concatenate([_win_shares(i) for i in instances]) if by_people else preferred
    error, rows = metrics.reliability(metrics.sigmoid(scale * differences), observed)
    return Calibration(error, "annotators" if by_people else "consensus", tuple(CalibrationBin(*row) for row in rows))


def _win_shares(instance: Instance) -> metrics.Array:
    """The share of annotators who prefer the first image of each pair, ties half -> (pairs,)."""
    votes = [[pair.first_preferred for pair in annotation.pairs()] for annotation in instance.annotations]
    return np.asarray(np.mean(votes, axis=0))


def _differences(named: Sequence[tuple[str, metrics.Array]], rule: str, seed: int) -> tuple[Difference, ...]:
    k = measures.NAMES.index(rule)
    rows = []
    for (one, mine), (other, theirs) in combinations(named, 2):
        if not np.array_equal(mine[:, k, 1], theirs[:, k, 1]) or not mine[:, k, 1].any():
            continue  # not measured on the same pairs: a scorer without probabilities under a tie threshold
        gap = np.stack([mine[:, k, 0] - theirs[:, k, 0], mine[:, k, 1]], axis=-1)
        ci = resampling.interval(resampling.bootstrap(gap[:, None, :], seed=seed)[:, 0], len(gap))
        p = resampling.sign_flip_p_value(gap[:, 0], seed=seed)
        rows.append((one, other, float(resampling.ratios(gap.sum(axis=0))), ci, p))
    adjusted = resampling.holm([row[4] for row in rows])
    return tuple(Difference(*row, p_holm) for row, p_holm in zip(rows, adjusted, strict=True))


def _notes(test_set: TestSet, scores: Sequence[Scores], tie_threshold: TieThreshold) -> tuple[str, ...]:
    notes = []
    instances = test_set.instances
    prompts = len({i.consensus.prompt for i in instances})
    if test_set.missing_images:
        notes.append(
            f"{test_set.missing_images} images are not on disk and were left out, "
            f"and with them {test_set.dropped_instances} instances that had fewer than two left"
        )
    if test_set.name and prompts != measures.FULL_SIZE[test_set.name]:
        notes.append(
            f"published figures are of all of {test_set.name} ({measures.FULL_SIZE[test_set.name]} prompts), "
            f"not of these {prompts}"
        )
    judged_by_several = sum(len(i.annotations) >= 2 for i in instances)
    if 0 < judged_by_several < len(instances):
        notes.append(
            f"the rows of people are of the {judged_by_several} of {len(instances)} instances with several of them"
        )
    if again := repeated(instances):
        notes.append(f"{again} instances are judgements of the same images under another id, and count by themselves")
    if prompts < resampling.MIN_CLUSTERS:
        notes.append(f"{prompts} prompts are too few for intervals")
    if tie_threshold == "best":
        notes.append("the tie threshold was chosen on this very data, which flatters, also in its interval")
    blind = [own.spec.name for own in scores if own.logit_scale is None]
    if blind and tie_threshold not in {0.0, "best"}:
        notes.append(f"no Pick-a-Pic figure for {', '.join(blind)}: a tie threshold needs probabilities")
    for own in scores:
        if test_set.name is not None and own.spec.trained_on == test_set.name:
            notes.append(f"{own.spec.name} was trained on a part of {test_set.name}: its figures here flatter it")
        if own.truncated_prompts:
            notes.append(f"{own.spec.name} read only the beginning of {own.truncated_prompts} long prompts")
    return tuple(notes)
