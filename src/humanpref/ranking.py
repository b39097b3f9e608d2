"""Judging a handful of images for one prompt: `score`, `rank`, `compare`, with probabilities a person can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from humanpref import metrics
from humanpref.errors import ImageError, ScoreError
from humanpref.images import ImageSource, describe
from humanpref.records import Comparison, FailedImage, ScoredImage, ScoreReport
from humanpref.scorers import DEFAULT_SCORER, Scorer, ScorerSpec, load_scorer
from humanpref.scorers.base import as_images, usable

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[], None]


def score(
    images: Sequence[ImageSource | Tensor],
    prompt: str,
    model: str | Scorer = DEFAULT_SCORER,
    *,
    on_image: Progress | None = None,
) -> ScoreReport:
    """Score images for one prompt -> `ScoreReport`, results in input order.

    An image that cannot be read is listed under `failures`; the others are scored all the same. `on_image` is called
    after each image. To score again and again, pass a scorer from `load_scorer`; a name is loaded anew each time.
    Raises `ScoreError` when there are no images or the scorer returns something that is no number.
    """
    images = as_images(images)
    if not images:
        raise ScoreError("no images to score")
    if not isinstance(prompt, str):
        raise ScoreError(f"the prompt must be one text, got {type(prompt).__name__}")
    scorer = load_scorer(model) if isinstance(model, str) else model
    good: list[tuple[str, float]] = []
    failures = []
    for image, outcome in zip(images, scorer.score_each(images, prompt), strict=True):
        name = describe(image)
        if isinstance(outcome, ImageError):
            failures.append(FailedImage(name, str(outcome)))
        else:
            good.append((name, usable(outcome, name, scorer.spec)))
        if on_image is not None:
            on_image()
    scores = [value for _, value in good]
    ranks = metrics.competition_ranks(scores)
    chances = metrics.win_probabilities(scores, scorer.logit_scale)
    cut = scorer.truncated(prompt)
    return ScoreReport(
        model=scorer.spec.name,
        prompt=prompt,
        truncated=cut,
        results=tuple(ScoredImage(*item, r, p) for item, r, p in zip(good, ranks, chances, strict=True)),
        failures=tuple(failures),
        notes=prompt_notes(scorer, prompt, cut),
    )


def rank(
    images: Sequence[ImageSource | Tensor],
    prompt: str,
    model: str | Scorer = DEFAULT_SCORER,
    *,
    on_image: Progress | None = None,
) -> ScoreReport:
    """Score images for one prompt and put the best first; otherwise as `score`."""
    report = score(images, prompt, model, on_image=on_image)
    return replace(report, results=tuple(sorted(report.results, key=lambda result: result.rank)))


def compare(
    images: Sequence[ImageSource | Tensor],
    prompt: str,
    model: str | Scorer = DEFAULT_SCORER,
    *,
    on_image: Progress | None = None,
) -> Comparison:
    """Put images of one prompt head to head -> `Comparison`: P(i preferred to j) for every two of them.

    Raises `ImageError` naming the images that cannot be read, or `ScoreError` for fewer than two images and for a
    scorer that gives no probabilities.
    """
    images = as_images(images)
    if len(images) < 2:
        raise ScoreError(f"a comparison needs at least two images, got {len(images)}")
    scorer = load_scorer(model) if isinstance(model, str) else model
    if (logit_scale := scorer.logit_scale) is None:
        raise ScoreError(f"{scorer.spec.name} gives scores but no probabilities to compare by; rank with score instead")
    report = score(images, prompt, scorer, on_image=on_image)
    if report.failures:
        raise ImageError("; ".join(failure.error for failure in report.failures))
    scores = [result.score for result in report.results]
    matrix = metrics.pairwise_probabilities(scores, logit_scale)
    return Comparison(
        model=report.model,
        prompt=prompt,
        truncated=report.truncated,
        images=tuple(result.image for result in report.results),
        scores=tuple(scores),
        probabilities=tuple(tuple(float(p) for p in row) for row in matrix),
        notes=report.notes,
    )


def prompt_notes(scorer: Scorer, prompt: str, cut: bool) -> tuple[str, ...]:
    """Say what a person should know of a prompt's scores: not read, empty, or `cut` (as `scorer.truncated` tells)."""
    notes = []
    if not scorer.spec.reads_prompt:
        notes.append(unread_note(scorer.spec.name))
    elif not prompt.strip():
        notes.append("the prompt is empty: the scores say only how the pictures fit no words at all")
    if cut:
        n = scorer.spec.tokens
        notes.append(f"the prompt is longer than {n} tokens: only its first {n} were read")
    return tuple(notes)


def unread_note(scorer: str) -> str:
    """Say that a scorer does not read the prompt."""
    return f"{scorer} does not read the prompt: it judges the pictures alone"


def cut_notes(scorer: ScorerSpec, cut: int) -> list[str]:
    """Say whether a scorer reads prompts, of which `cut` are longer than it reads."""
    notes = [] if scorer.reads_prompt else [unread_note(scorer.name)]
    return [*notes, f"{scorer.name} reads only the beginning of {cut} prompts"] if cut else notes


def scorer_notes(scorers: Iterable[Scorer], prompts: Sequence[str]) -> list[str]:
    """Say which scorers do not read the prompts, or not all of them to the end."""
    return [note for scorer in scorers for note in cut_notes(scorer.spec, sum(map(scorer.truncated, prompts)))]
