"""Many images by several scorers at once: each file is hashed and decoded once, ahead of the models.

Threads look up what a cache holds, decode what it does not and make every scorer's input of it, while the models work
on what was prepared before; how long they waited for that is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from humanpref.cache import Key, ScoreCache
from humanpref.errors import ImageError
from humanpref.images import read_image
from humanpref.scorers.base import BatchScorer, Scorer, Scores, map_ahead, overlapped, usable
from humanpref.scorers.cached import ImageFile, fingerprint_image, score_key

BATCHES = 4
"""So many batches of the largest scorer are scored at a time; as many again are prepared ahead, twice."""


@dataclass(frozen=True)
class Judged:
    """An image file by its SHA-256 (None: it cannot be read) and, per scorer, its score or why there is none."""

    sha256: str | None
    outcomes: tuple[float | ImageError, ...]


@dataclass(frozen=True)
class _Prepared:
    prompt: str
    path: Path
    file: ImageFile | None
    keys: tuple[Key | None, ...]
    known: Mapping[int, float | ImageError]
    inputs: Mapping[int, Any]


class Together:
    """Several scorers that look at the same images. `computed` and `waited` grow as `score` goes on.

    `computed` counts scores that were not in the cache; `waited` is the seconds for which no model had work because
    images were not yet decoded, of `seconds` in all.
    """

    def __init__(self, scorers: Sequence[Scorer], cache: ScoreCache) -> None:
        self.scorers = tuple(scorers)
        self.identities = tuple(scorer.identity for scorer in scorers)
        self.computed = 0
        self.waited = 0.0
        self.seconds = 0.0
        self._cache = cache
        for scorer, identity in zip(self.scorers, self.identities, strict=True):
            cache.use(scorer.spec.name, identity)

    def score(self, images: Sequence[tuple[Path, str]]) -> Iterator[Judged]:
        """Score (file, prompt) pairs -> what every scorer says of each, in order, as they are done.

        Memory is bounded: a thread holds one decoded picture, and a few batches of the scorers' small inputs wait.
        What is computed is in the cache before the next batches begin. Raises `ScoreError` for a score that is no
        finite number.
        """
        size = BATCHES * max((s.batch_size for s in self.scorers if isinstance(s, BatchScorer)), default=8)
        prepared = map_ahead(self._prepare, images, ahead=2 * size)
        began = time.perf_counter()
        while True:
            start = time.perf_counter()
            chunk = list(islice(prepared, size))
            self.waited += time.perf_counter() - start
            if not chunk:
                break
            yield from self._judge(chunk)
            self.seconds += time.perf_counter() - began
            began = time.perf_counter()

    def _prepare(self, image: tuple[Path, str]) -> _Prepared:
        path, prompt = image
        file = fingerprint_image(path)
        keys = tuple(
            score_key(scorer.spec, identity, file, prompt)
            for scorer, identity in zip(self.scorers, self.identities, strict=True)
        )
        known: dict[int, float | ImageError] = {}
        for i, key in enumerate(keys):
            if key is not None and (score := self._cache.get(key)) is not None:
                known[i] = score
        inputs: dict[int, Any] = {}
        if missing := [i for i in range(len(self.scorers)) if i not in known]:
            try:
                picture = read_image(path)
            except ImageError as error:
                known |= dict.fromkeys(missing, error)
            else:
                for i in missing:
                    scorer = self.scorers[i]
                    made = scorer.prepare(picture) if isinstance(scorer, BatchScorer) else path
                    if isinstance(made, ImageError):
                        known[i] = made
                    else:
                        inputs[i] = made
        return _Prepared(prompt, path, file, keys, known, inputs)

    def _judge(self, chunk: Sequence[_Prepared]) -> Iterator[Judged]:
        outcomes = [dict(one.known) for one in chunk]
        for i, scorer in enumerate(self.scorers):
            todo = [n for n, one in enumerate(chunk) if i in one.inputs]
            size = scorer.batch_size if isinstance(scorer, BatchScorer) else 8
            batches = [todo[start : start + size] for start in range(0, len(todo), size)]
            begun = (_begin(scorer, [chunk[n] for n in batch], i) for batch in batches)
            in_flight = scorer.in_flight if isinstance(scorer, BatchScorer) else 0
            for batch, scores in zip(batches, overlapped(begun, in_flight), strict=True):
                for n, score in zip(batch, scores, strict=True):
                    self._keep(chunk[n], i, score)
                    outcomes[n][i] = (
                        score if isinstance(score, ImageError) else usable(score, chunk[n].path, scorer.spec)
                    )
                self._cache.flush()
        for one, found in zip(chunk, outcomes, strict=True):
            sha256 = None if one.file is None else one.file.sha256.hex()
            yield Judged(sha256, tuple(found[i] for i in range(len(self.scorers))))

    def _keep(self, one: _Prepared, i: int, score: float | ImageError) -> None:
        self.computed += 1
        key = one.keys[i]
        if key is not None and one.file is not None and not isinstance(score, ImageError) and one.file.unchanged():
            self._cache.put(key, score)


def _begin(scorer: Scorer, batch: Sequence[_Prepared], i: int) -> Scores:
    inputs, prompts = [one.inputs[i] for one in batch], [one.prompt for one in batch]
    if isinstance(scorer, BatchScorer):
        return scorer.begin(inputs, prompts)
    scores = list(scorer.score_each(inputs, prompts))
    return lambda: scores
