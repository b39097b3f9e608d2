"""Methods side by side: the baseline and others on the same prompts and seeds, judged by several scorers.

Every method draws with the seeds of the baseline, so that images are compared in pairs and what differs between prompts
cancels out. A scorer that a method optimises is a poor judge of it: what it likes and people do not comes out best
(Goodhart's law; Gao et al. 2023, arXiv 2210.10760). So several scorers judge, and a gain that only one of them sees is
pointed out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from humanpref.cache import ScoreCache
from humanpref.engines import Engine
from humanpref.errors import ImageError
from humanpref.generate.contract import Backend
from humanpref.improve.compare.images import (
    BASELINE,
    Key,
    MethodImages,
    make_method_images,
    named_methods,
    prepare_methods,
    seeds,
)
from humanpref.improve.folder import IMAGES, check_out, held
from humanpref.improve.gains import Gain, corrected, doubts, paired_gain
from humanpref.improve.methods import ImproveError, Method
from humanpref.metrics import Array
from humanpref.progress import Track, no_note, no_track
from humanpref.prompts.records import Prompt
from humanpref.ranking import scorer_notes
from humanpref.resampling import MIN_CLUSTERS
from humanpref.scorers import Scorer
from humanpref.scorers.together import Together

REPORT = "compare.json"


@dataclass(frozen=True)
class MethodImage:
    """One image of a method: `scores` by every scorer (None: it is not there, or cannot be read), else the `reason`.

    `status` is done, refused, failed, or unreadable (it was made, and its file cannot be read now). `path` is absolute
    or as `out` was given.
    """

    status: str
    path: Path | None
    sha256: str | None
    scores: tuple[float | None, ...]
    seconds: float
    truncated: bool
    reason: str | None


@dataclass(frozen=True)
class ComparedPrompt:
    """The images of one prompt and seed, one of each method, in the order of the report's methods."""

    prompt: str
    id: str
    number: int
    seed: int
    images: tuple[MethodImage, ...]


@dataclass(frozen=True)
class MethodResult:
    """What a method made, and what it cost: seconds for each image that is there, and as a multiple of the baseline's
    (None where nothing was measured). Of `truncated` images the model read only the beginning of the prompt."""

    method: str
    done: int
    refused: int
    failed: int
    unreadable: int
    truncated: int
    seconds_per_image: float | None
    cost: float | None
    selected_by: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class CompareReport:
    """The comparison. `methods` begin with the baseline; `gains` are by method, then by scorer, for all but the
    baseline; `warnings` say which gains to doubt, `notes` what else a reader should know."""

    out: Path
    backend: str
    seed: int
    images_per_prompt: int
    prompts: int
    scorers: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    gains: tuple[Gain, ...]
    rows: tuple[ComparedPrompt, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def gain(self, method: str, scorer: str) -> Gain:
        """Return one gain. Raises `KeyError` where there is none."""
        for gain in self.gains:
            if (gain.method, gain.scorer) == (method, scorer):
                return gain
        raise KeyError(f"no gain of {method} by {scorer}")


def compare_methods(
    prompts: Sequence[Prompt],
    backend: Backend,
    methods: Sequence[str | tuple[str, Sequence[Method]]],
    scorers: Sequence[Scorer],
    out: str | Path,
    *,
    cache: ScoreCache,
    seed: int = 0,
    images_per_prompt: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    track: Track = no_track,
    on_note: Callable[[str], None] = no_note,
) -> CompareReport:
    """Draw with the baseline and each method, in `out`/images, and judge the images by every scorer.

    methods: specs as `make_methods` takes them, or pairs of a name and methods; the baseline `none` need not be among
        them. scorers: at least one; one alone cannot show that a gain is more than its own weakness. cache: where
        scores are looked up and kept. What was made and scored before is not done again, so a run that was stopped goes
        on with the same call.

    Raises `ImproveError` (a method twice, or that this backend cannot do, or `out` of another comparison, or where
    another run is writing), `ScoreError` for a score that is no finite number, and whatever `generate` raises.
    """
    out = Path(out).expanduser()
    named = named_methods(methods)
    check_scorers([scorer.spec.name for scorer in scorers])
    check_out(out, REPORT, IMAGES)
    prepared = prepare_methods(prompts, backend, named, out)
    with held(out):
        images = make_method_images(
            prompts, prepared, out, seed=seed, images_per_prompt=images_per_prompt, engine=engine,
            retry_failed=retry_failed, track=track, on_note=on_note,
        )  # fmt: skip
        return judge_images(
            prompts, images, scorers, out, backend=backend.name, cache=cache, seed=seed,
            images_per_prompt=images_per_prompt, track=track,
        )  # fmt: skip


def check_scorers(names: Sequence[str]) -> None:
    """Raise `ImproveError` for no scorer, or the same one twice."""
    if not names:
        raise ImproveError("no scorer to judge by; name two or more")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ImproveError(f"{twice[0]} is among the scorers twice; name each scorer once")


def judge_images(
    prompts: Sequence[Prompt],
    images: Sequence[MethodImages],
    scorers: Sequence[Scorer],
    out: Path,
    *,
    backend: str,
    cache: ScoreCache,
    seed: int = 0,
    images_per_prompt: int = 1,
    track: Track = no_track,
) -> CompareReport:
    """Judge the images of methods, the baseline's first, by every scorer -> the report. Raises `ScoreError`."""
    names = tuple(scorer.spec.name for scorer in scorers)
    texts = {prompt.id: prompt.text for prompt in prompts}
    found = _score(images, texts, scorers, cache, track)
    rows = _rows(images, texts, found, len(scorers), seeds(prompts, images_per_prompt, seed))
    gains = _gains(images, names, rows, seed)
    results = _results(images, rows)
    warnings = doubts(gains)
    notes = [*_notes(prompts, scorers, gains), *_shortcomings(results, len(rows))]
    return CompareReport(
        out, backend, seed, images_per_prompt, len(prompts), names, results, gains, rows, warnings, tuple(notes)
    )


def _score(
    images: Sequence[MethodImages],
    texts: Mapping[str, str],
    scorers: Sequence[Scorer],
    cache: ScoreCache,
    track: Track,
) -> dict[Path, tuple[float | ImageError, ...]]:
    """Score every image that is there by every scorer -> {its file: scores}."""
    files = {made.path: texts[key[0]] for own in images for key, made in own.images.items() if made.path is not None}
    together, found = Together(scorers, cache), dict[Path, tuple[float | ImageError, ...]]()
    with track("Scoring", len(files)) as advance:
        for path, judged in zip(files, together.score(list(files.items())), strict=True):
            found[path] = judged.outcomes
            advance()
    return found


def _rows(
    images: Sequence[MethodImages],
    texts: Mapping[str, str],
    found: Mapping[Path, tuple[float | ImageError, ...]],
    scorers: int,
    seed_by_key: Mapping[Key, int],
) -> tuple[ComparedPrompt, ...]:
    def image(own: MethodImages, key: Key) -> MethodImage:
        made = own.images[key]
        if made.path is None:
            return MethodImage(made.status, None, None, (None,) * scorers, made.seconds, made.truncated, made.reason)
        errors = [outcome for outcome in found[made.path] if isinstance(outcome, ImageError)]
        scores = tuple(None if isinstance(outcome, ImageError) else float(outcome) for outcome in found[made.path])
        status, reason = ("unreadable", str(errors[0])) if errors else ("done", None)
        return MethodImage(status, made.path, made.sha256, scores, made.seconds, made.truncated, reason)

    return tuple(
        ComparedPrompt(texts[key[0]], *key, seed, tuple(image(own, key) for own in images))
        for key, seed in seed_by_key.items()
    )


def scores_of(rows: Sequence[ComparedPrompt], method: int, scorer: int) -> Array:
    """The scores of a method by a scorer, by their places, (rows,); nan where there is none."""
    values = [row.images[method].scores[scorer] for row in rows]
    return np.asarray([math.nan if value is None else value for value in values])


def _gains(
    images: Sequence[MethodImages], scorers: Sequence[str], rows: Sequence[ComparedPrompt], seed: int
) -> tuple[Gain, ...]:
    ids = [row.id for row in rows]
    found = []
    for m, own in enumerate(images):
        for s, scorer in enumerate(scorers):
            if own.method == BASELINE:
                continue
            gain = paired_gain(
                own.method, scorer, scores_of(rows, 0, s), scores_of(rows, m, s), ids,
                selected=scorer in own.selectors, seed=seed,
            )  # fmt: skip
            if gain is None:
                raise ImproveError(
                    f"{own.method}: not one pair of images is left to compare with the baseline; see {own.folder}"
                )
            found.append(gain)
    return corrected(found)


def _results(images: Sequence[MethodImages], rows: Sequence[ComparedPrompt]) -> tuple[MethodResult, ...]:
    base = images[0].seconds_per_image
    results = []
    for m, own in enumerate(images):
        seconds = own.seconds_per_image
        results.append(
            MethodResult(
                method=own.method,
                done=sum(row.images[m].status == "done" for row in rows),
                refused=own.count("refused"),
                failed=own.count("failed"),
                unreadable=sum(row.images[m].status == "unreadable" for row in rows),
                truncated=sum(made.truncated for made in own.images.values()),
                seconds_per_image=seconds,
                cost=seconds / base if seconds is not None and base else None,
                selected_by=own.selectors,
                folder=own.folder,
            )
        )
    return tuple(results)


def _notes(prompts: Sequence[Prompt], scorers: Sequence[Scorer], gains: Sequence[Gain]) -> list[str]:
    notes = []
    if len(scorers) == 1:
        notes.append(
            f"{scorers[0].spec.name} alone judges: whether a gain is more than its own weakness cannot be seen; give a "
            "second --model"
        )
    fewest = min(gain.prompts for gain in gains)
    if fewest < MIN_CLUSTERS:
        few = "one prompt" if fewest == 1 else f"{fewest} prompts"
        notes.append(f"{few}: too few for an interval, which takes {MIN_CLUSTERS}")
    return [*notes, *scorer_notes(scorers, [prompt.text for prompt in prompts])]


def _shortcomings(results: Sequence[MethodResult], rows: int) -> list[str]:
    notes = []
    for result in results:
        gone = [f"{count} {what}" for what in ("refused", "failed", "unreadable") if (count := getattr(result, what))]
        if gone:
            notes.append(f"{result.method}: of {rows} images {', '.join(gone)}; their pairs are left out")
        if result.truncated:
            notes.append(
                f"{result.method}: of {result.truncated} images the model read only the beginning of the prompt"
            )
    return notes
