"""What is the best of k worth, and by whose judgement? The whole curve, k = 1 ... n, from one pool of n images a
prompt, by the scorer that chooses and by others that only look at what it chose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from humanpref.cache import ScoreCache
from humanpref.errors import DataError, ImageError
from humanpref.generate.manifest import MANIFEST, MadeImage, read_images
from humanpref.improve.best_of.expected import expected_best
from humanpref.improve.gains import Gain, corrected, doubts, paired_gain
from humanpref.improve.methods import ImproveError
from humanpref.metrics import Array
from humanpref.progress import Track, no_track
from humanpref.ranking import scorer_notes
from humanpref.resampling import MIN_CLUSTERS, bootstrap, interval
from humanpref.scorers import Scorer
from humanpref.scorers.together import Together


@dataclass(frozen=True)
class PoolPrompt:
    """The images of one prompt, by their numbers; `lost` were refused, failed, or cannot be read."""

    id: str
    prompt: str
    images: tuple[Path, ...]
    lost: int


@dataclass(frozen=True)
class Pool:
    """Images of one source, several a prompt. `seconds_per_image`: spent for each that is there; None: not measured."""

    folder: Path
    source: str
    prompts: tuple[PoolPrompt, ...]
    seconds_per_image: float | None

    @property
    def n(self) -> int:
        """The most images that any prompt has."""
        return max(len(prompt.images) for prompt in self.prompts)


@dataclass(frozen=True)
class Worth:
    """The expected score of the best of k by one scorer, on its scale; its gain over k = 1 and the 95 % interval of
    that, by a bootstrap over prompts."""

    scorer: str
    mean: float
    gain: float
    ci: tuple[float, float] | None


@dataclass(frozen=True)
class BestOfPoint:
    """The best of `k`, over the `prompts` that have k images or more; `seconds`: of drawing k images, None where that
    was not measured. `worth` is by the scorer that chooses, then by the others."""

    k: int
    prompts: int
    seconds: float | None
    worth: tuple[Worth, ...]


@dataclass(frozen=True)
class BestOfReport:
    """The curve. `scorers` begin with the one that chooses. `gains` are of the largest k: best against mean of each
    prompt's images. `lost` images of the pool were refused, failed or cannot be read."""

    folder: Path
    source: str
    n: int
    prompts: int
    images: int
    lost: int
    scorers: tuple[str, ...]
    points: tuple[BestOfPoint, ...]
    gains: tuple[Gain, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def read_pool(
    folder: str | Path, *, source: str | None = None, n: int | None = None, prompts: Sequence[str] | None = None
) -> Pool:
    """Read the images that `humanpref generate --images-per-prompt N` made -> the pool.

    source: which model's, needed where the folder has several. n: the first n of each prompt (default: all). prompts:
    ids of those wanted (default: all). Raises `DataError` for a folder without such a run, `ImproveError` where there
    are fewer than two images of every prompt, or it is not clear whose.
    """
    folder = Path(folder).expanduser()
    if not (manifest := folder / MANIFEST).is_file():
        raise DataError(f"{manifest}: no such file; a pool is a folder of humanpref generate --images-per-prompt N")
    rows = list(read_images(folder))
    sources = list(dict.fromkeys(row.model for row in rows))
    source = source or (sources[0] if len(sources) == 1 else "")
    if source not in sources:
        raise ImproveError(f"{folder}: holds images of {', '.join(sources) or 'no model'}; choose one with --source")
    wanted = None if prompts is None else set(prompts)
    own: dict[str, list[MadeImage]] = defaultdict(list)
    for row in rows:
        if row.model != source or (wanted is not None and row.prompt_id not in wanted):
            continue
        if n is None or row.number < n:
            own[row.prompt_id].append(row)
    found, seconds, done = [], 0.0, 0
    for name, of_prompt in own.items():
        of_prompt.sort(key=lambda row: row.number)
        images = tuple(row.path for row in of_prompt if row.path is not None)
        found.append(PoolPrompt(name, of_prompt[0].prompt, images, len(of_prompt) - len(images)))
        seconds += sum(row.seconds for row in of_prompt)
        done += len(images)
    pool = Pool(folder, source, tuple(found), seconds / done if done and seconds else None)
    if not found or pool.n < 2:
        raise ImproveError(f"{folder}: no prompt has two images of {source} to choose from; make some with --n")
    return pool


def best_of_curve(
    pool: Pool,
    scorers: Sequence[Scorer],
    *,
    cache: ScoreCache,
    seed: int = 0,
    track: Track = no_track,
) -> BestOfReport:
    """Judge a pool -> the curve. The first of the scorers chooses; the others say what its choice is worth to them.

    Each prompt's expected best of k is without bias (`expected_best`), and so is its mean over prompts. A prompt with
    m images counts for k = 1 ... m only, and gains are over the same prompts; intervals: a bootstrap over prompts.
    Raises `ScoreError` for a score that is no finite number, `ImproveError` where no prompt has two readable images.
    """
    names = tuple(scorer.spec.name for scorer in scorers)
    scores, unreadable = _score(pool, scorers, cache, track)  # a prompt each: (scorers, images)
    there = [(prompt, own) for prompt, own in zip(pool.prompts, scores, strict=True) if own.shape[1]]
    n = max((own.shape[1] for _, own in there), default=0)
    if n < 2:
        raise ImproveError(f"{pool.folder}: no prompt has two images that can be read")
    curves = np.full((len(there), len(scorers), n), np.nan)
    for p, (_, own) in enumerate(there):
        for s in range(len(scorers)):
            curves[p, s, : own.shape[1]] = expected_best(own[0], own[s])
    ids = [prompt.id for prompt, _ in there]
    gains = [
        paired_gain(f"best-of:{n}", name, curves[:, s, 0], curves[:, s, n - 1], ids, selected=s == 0, seed=seed)
        for s, name in enumerate(names)
    ]
    known = corrected([gain for gain in gains if gain is not None])
    lost = sum(prompt.lost for prompt in pool.prompts) + unreadable
    return BestOfReport(
        folder=pool.folder,
        source=pool.source,
        n=n,
        prompts=len(there),
        images=sum(own.shape[1] for _, own in there),
        lost=lost,
        scorers=names,
        points=_points(curves, names, pool.seconds_per_image, seed),
        gains=known,
        warnings=doubts(known),
        notes=_notes(pool, scorers, curves, lost),
    )


def _score(pool: Pool, scorers: Sequence[Scorer], cache: ScoreCache, track: Track) -> tuple[list[Array], int]:
    """Score a pool -> per prompt (scorers, readable images), and how many cannot be read by one scorer or more."""
    together = Together(scorers, cache)
    asked = [(path, prompt.prompt) for prompt in pool.prompts for path in prompt.images]
    found: list[list[float]] = []
    with track("Scoring", len(asked)) as advance:
        for judged in together.score(asked):
            own = [np.nan if isinstance(outcome, ImageError) else outcome for outcome in judged.outcomes]
            found.append([float(value) for value in own])
            advance()
    scores, unreadable, start = [], 0, 0
    for prompt in pool.prompts:
        own_scores = np.asarray(found[start : start + len(prompt.images)]).reshape(-1, len(scorers)).T
        readable = ~np.isnan(own_scores).any(axis=0)
        scores.append(own_scores[:, readable])
        unreadable += int((~readable).sum())
        start += len(prompt.images)
    return scores, unreadable


def _points(curves: Array, names: Sequence[str], seconds: float | None, seed: int) -> tuple[BestOfPoint, ...]:
    """Means, gains over k = 1 and their intervals, from each prompt's curve (prompts, scorers, k)."""
    there = ~np.isnan(curves)
    rises = np.where(there, curves - curves[:, :, :1], 0.0)
    sums = np.stack([rises, there], axis=-1).reshape(len(curves), -1, 2)
    draws = bootstrap(sums, seed=seed).reshape(-1, *curves.shape[1:])
    points = []
    for k in range(curves.shape[2]):
        prompts = int(there[:, 0, k].sum())
        worth = []
        for s, name in enumerate(names):
            gain = float(rises[:, s, k].sum() / prompts)
            ci = interval(draws[:, s, k], prompts) if k else None
            worth.append(Worth(name, float(np.nanmean(curves[:, s, k])), gain, ci))
        points.append(BestOfPoint(k + 1, prompts, None if seconds is None else seconds * (k + 1), tuple(worth)))
    return tuple(points)


def _notes(pool: Pool, scorers: Sequence[Scorer], curves: Array, lost: int) -> tuple[str, ...]:
    notes = []
    if len(scorers) == 1:
        notes.append(f"{scorers[0].spec.name} chooses and judges: that says little; give a --check-model")
    if (prompts := len(curves)) < MIN_CLUSTERS:
        few = "one prompt" if prompts == 1 else f"{prompts} prompts"
        notes.append(f"{few}: too few for an interval, which takes {MIN_CLUSTERS}")
    if lost:
        short = sum(np.isnan(curves[:, 0, -1]))
        what = f"; {short} prompts have fewer than {curves.shape[2]}, and count up to what they have" if short else ""
        notes.append(f"{lost} images were refused, failed or cannot be read{what}")
    if without := len(pool.prompts) - prompts:
        notes.append(f"{without} prompts have no image at all and are left out")
    return (*notes, *scorer_notes(scorers, [prompt.prompt for prompt in pool.prompts]))
