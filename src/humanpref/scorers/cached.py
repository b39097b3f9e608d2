"""A scorer in front of a score cache: what was computed before is looked up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from humanpref.cache import Key, ScoreCache
from humanpref.errors import ImageError
from humanpref.images import is_url
from humanpref.records import ImageRef
from humanpref.scorers.base import Scorer, ScorerSpec, align_prompts, as_images, collect, map_ahead
from humanpref.scorers.weights import file_sha256, file_state

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.images import ImageSource
    from humanpref.scorers.base import Images, Prompts

HASH_AHEAD = 64
"""How many files are hashed ahead of the one being looked up."""

ROUND_IMAGES = 2048
ROUND_MISSES = 512
"""After so many images, or so many that are not in the cache, these are computed before more are looked up."""

FLUSH_SECONDS = 1.0
"""How much work may be lost when the process is killed."""


class CachedScorer:
    """A scorer that looks for its scores in a cache and computes what is not there. A `Scorer` like any other.

    Only local image files are looked up; PIL images, tensors and URLs go to the scorer, as do files that cannot be
    read, for it to say why. What cannot be scored is not kept.
    """

    def __init__(self, scorer: Scorer, cache: ScoreCache) -> None:
        self._scorer = scorer
        self._cache = cache

    @property
    def spec(self) -> ScorerSpec:
        """The row this scorer was loaded from."""
        return self._scorer.spec

    @property
    def identity(self) -> str:
        """That of the scorer itself."""
        return self._scorer.identity

    @property
    def logit_scale(self) -> float | None:
        """That of the scorer itself."""
        return self._scorer.logit_scale

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt is longer than what the scorer reads."""
        return self._scorer.truncated(prompt)

    def score(self, images: Images, prompts: Prompts) -> Tensor:
        """Score images -> float32 tensor (n,); tensors go to the scorer, with their gradients."""
        import torch

        if isinstance(images, torch.Tensor):
            return self._scorer.score(images, prompts)
        sources = as_images(images)
        if any(isinstance(image, torch.Tensor) for image in sources):
            return self._scorer.score(sources, prompts)
        return collect(self.score_each(sources, prompts))

    def score_each(self, images: Sequence[ImageSource | Tensor], prompts: Prompts) -> Iterator[float | ImageError]:
        """Yield a score, or the error of an image that cannot be read, per image, in order, as they are done.

        Works in rounds of at most `ROUND_IMAGES` images and `ROUND_MISSES` of them to compute; a round's misses are
        one call of the scorer. A second's worth of computed scores is on disk at the latest when the next is done.
        """
        texts = align_prompts(prompts, len(images))
        identity = self.identity
        self._cache.use(self.spec.name, identity)
        files = map_ahead(fingerprint_image, images, ahead=HASH_AHEAD)
        requests = (
            _Request(image, text, file, score_key(self.spec, identity, file, text))
            for image, text, file in zip(images, texts, files, strict=True)
        )
        try:
            while requested := self._gather(requests):
                yield from self._answer(requested)
        finally:
            self._cache.flush()

    def _gather(self, requests: Iterator[_Request]) -> list[tuple[_Request, float | None]]:
        """Take a round of requests, each with its score where that is known."""
        found: list[tuple[_Request, float | None]] = []
        misses = 0
        for request in islice(requests, ROUND_IMAGES):
            score = self._cache.get(request.key) if request.key is not None else None
            found.append((request, score))
            misses += score is None
            if misses == ROUND_MISSES:
                break
        return found

    def _answer(self, requested: Sequence[tuple[_Request, float | None]]) -> Iterator[float | ImageError]:
        """Yield the outcomes of a round; an image that occurs again with its prompt is computed once."""
        firsts: dict[Key | _Request, _Request] = {}
        for request, score in requested:
            if score is None:
                firsts.setdefault(request.key or request, request)
        misses = list(firsts.values())
        outcomes = iter(self._scorer.score_each([m.image for m in misses], [m.prompt for m in misses]))
        done: dict[Key | _Request, float | ImageError] = {}
        begin = time.monotonic()
        for request, score in requested:
            if score is not None:
                yield score
                continue
            name = request.key or request
            if firsts[name] is request:
                outcome = done[name] = next(outcomes)
                self._keep(request, outcome)
                if self._cache.pending * (time.monotonic() - begin) >= FLUSH_SECONDS * len(done):
                    self._cache.flush()
            elif isinstance(outcome := done[name], ImageError):  # it names the other file with these bytes
                outcome = next(iter(self._scorer.score_each([request.image], [request.prompt])))
            yield outcome
        self._cache.flush()

    def _keep(self, request: _Request, outcome: float | ImageError) -> None:
        """Put a score, unless the file has changed since its bytes were hashed: then it may be that of others."""
        if request.key is None or request.file is None or isinstance(outcome, ImageError):
            return
        if request.file.unchanged():
            self._cache.put(request.key, outcome)


@dataclass(frozen=True)
class ImageFile:
    """A local file, what its bytes hash to, and its state before they were read."""

    path: Path
    sha256: bytes
    state: tuple[int, ...]

    def unchanged(self) -> bool:
        """Tell whether the file is still the one that was hashed."""
        try:
            return file_state(self.path) == self.state
        except OSError:
            return False


@dataclass(frozen=True, eq=False)
class _Request:
    """One image and its prompt; `file` and `key` are None for what is not looked up."""

    image: ImageSource | Tensor
    prompt: str
    file: ImageFile | None
    key: Key | None


def score_key(spec: ScorerSpec, identity: str, file: ImageFile | None, prompt: str) -> Key | None:
    """What a score is kept under; None for what is no local file."""
    if file is None:
        return None
    text = prompt if spec.reads_prompt else ""
    return identity, file.sha256, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def fingerprint_image(image: object) -> ImageFile | None:
    """Hash a local image file; None for anything else, and for what cannot be read."""
    if not isinstance(image, (str, Path, ImageRef)) or (isinstance(image, str) and is_url(image)):
        return None
    path = Path(str(image))
    try:
        if not path.is_file():
            return None
        state = file_state(path)
        return ImageFile(path, bytes.fromhex(file_sha256(path)), state)
    except (OSError, ValueError):
        return None
