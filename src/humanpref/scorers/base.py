"""What a scorer is: the `Scorer` contract, the row that describes one, and the scoring loop they all share."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from humanpref.errors import ImageError, ScoreError
from humanpref.records import ImageRef

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.images import ImageSource
    from humanpref.preprocess import Resize
    from humanpref.scorers import Decode, Precision

    Images: TypeAlias = "ImageSource | Tensor | Sequence[ImageSource | Tensor]"
    Prompts: TypeAlias = "str | Sequence[str]"

Prepared = TypeVar("Prepared")
Scores: TypeAlias = "Callable[[], list[float | ImageError]]"
"""Waits for the scores of a batch that was begun."""


@dataclass(frozen=True)
class Companion:
    """A second published file that a scorer needs. `beside`: its names when it is looked for beside --weights."""

    what: str
    repo: str
    file: str
    beside: tuple[str, ...]
    revision: str | None = None
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class ScorerSpec:
    """One row of the scorer table. `published` maps a test set to the accuracy its authors report, in [0, 1].

    `family` is the kind of code that loads it, `layout` a row of `humanpref.scorers.keys.LAYOUTS`, `preprocess` one of
    `humanpref.preprocess.PREPROCESS`, `tokens` how many of the prompt's tokens are read (with start and end marks).
    `page` is where a person finds the file; `sha256` and `revision` are None where none is known.
    `trained_on` is the test set it was trained on a part of, if any. `path` is the weights file of a model on this
    machine, which is in no table (`humanpref.scorers.local`).
    """

    name: str
    summary: str
    licence: str
    reads_prompt: bool
    arch: str | None = None
    repo: str | None = None
    file: str | None = None
    revision: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    preprocess: str | None = None
    scale: str = ""
    family: Literal["clip", "aesthetic", "imagereward", "lite", "head", "shapes"] = "clip"
    layout: str = "open_clip"
    tokens: int = 77
    page: str | None = None
    companions: tuple[Companion, ...] = ()
    trained_on: str | None = None
    path: str | None = None
    published: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def ships(self) -> bool:
        """Whether the weights come with the package."""
        return self.repo is None and self.page is None and self.path is None


@dataclass(frozen=True)
class LoadOptions:
    """What `load_scorer` was asked for besides the name; it says what each of them means."""

    weights: str | Path | None = None
    arch: str | Path | None = None
    resize: Resize = "antialias"
    precision: Precision = "auto"
    device: str = "auto"
    decode: Decode = "exact"
    compiled: bool = False


@runtime_checkable
class Scorer(Protocol):
    """What evaluation, benchmark, serving and fine-tuning call; none of them knows which model it is."""

    @property
    def spec(self) -> ScorerSpec:
        """The row this scorer was loaded from."""
        ...

    @property
    def logit_scale(self) -> float | None:
        """P(a preferred to b | prompt) = sigmoid(logit_scale * (score_a - score_b)); None: it says no probability."""
        ...

    @property
    def identity(self) -> str:
        """Canonical text of all that a score depends on besides image and prompt; equal text, equal scores.

        The first use may read the whole weights file.
        """
        ...

    def score(self, images: Images, prompts: Prompts) -> Tensor:
        """Score images -> float32 tensor (n,), aligned with `images`, on the published scale, never squeezed."""
        ...

    def score_each(self, images: Sequence[ImageSource | Tensor], prompts: Prompts) -> Iterator[float | ImageError]:
        """Yield a score, or the error of an image that cannot be read, per image, in order, as they are done."""
        ...

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt is longer than what the scorer reads."""
        ...


class BatchScorer(ABC, Generic[Prepared]):
    """The shared loop: images are opened and prepared by threads while the model works on the batch before."""

    batch_size: int = 8
    in_flight: int = 0
    """Batches that are begun before the scores of the one before are asked for, so that a GPU never waits for us."""

    def __init__(self, spec: ScorerSpec) -> None:
        self._spec = spec

    @property
    def spec(self) -> ScorerSpec:
        """The row this scorer was loaded from."""
        return self._spec

    @property
    def identity(self) -> str:
        """Canonical text of all that a score depends on besides image and prompt; equal text, equal scores.

        The first use may read the whole weights file. Raises `WeightsError` if that has changed since it was loaded.
        """
        from humanpref import __version__

        parts = {"scorer": self._spec.name, **self._settings(), "humanpref": __version__}
        return " ".join(f"{key}={value}" for key, value in parts.items())

    @abstractmethod
    def _settings(self) -> Mapping[str, str]:
        """What `identity` is made of, in a fixed order: weights (their SHA-256), arch, preprocess, precision ..."""

    @property
    @abstractmethod
    def logit_scale(self) -> float | None:
        """P(a preferred to b | prompt) = sigmoid(logit_scale * (score_a - score_b)); None: it says no probability."""

    @abstractmethod
    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt is longer than what the scorer reads."""

    @abstractmethod
    def _prepare(self, image: ImageSource | Tensor) -> Prepared:
        """Open one image and do its own share of the work; called from several threads."""

    @abstractmethod
    def begin(self, batch: Sequence[Prepared], prompts: Sequence[str]) -> Scores:
        """Begin to score what `prepare` made of images, at most about `batch_size` of them, each with its prompt.

        What is returned waits for the scores, in whatever thread it is called; an error is that of an image which could
        not be decoded after all (`decode="device"`).
        """

    @abstractmethod
    def _score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pixels (n, 3, H, W) in [0, 1] -> (n,)."""

    def score(self, images: Images, prompts: Prompts) -> Tensor:
        """Score images -> float32 tensor (n,), aligned with `images`, on the published scale, never squeezed.

        `images`: paths, `ImageRef`s, PIL images or float tensors (3, H, W) in [0, 1], or one of them; or a float
        tensor (n, 3, H, W) in [0, 1], through which a differentiable scorer lets gradients flow.
        `prompts`: one for all images, or one per image.
        Raises `ImageError` for the first image that cannot be read, `ScoreError` when the two do not fit together.
        """
        import torch

        if isinstance(images, torch.Tensor):
            from humanpref.preprocess import check_pixels

            pixels = images[None] if images.ndim == 3 else images
            check_pixels(pixels)
            texts = align_prompts(prompts, len(pixels))
            return self._score_pixels(pixels, texts) if len(pixels) else torch.zeros(0)
        sources = as_images(images)
        if any(isinstance(image, torch.Tensor) and image.requires_grad for image in sources):
            raise ScoreError("gradients flow through one tensor (n, 3, H, W), not through a list: use torch.stack")
        return collect(self.score_each(sources, prompts))

    def score_each(self, images: Sequence[ImageSource | Tensor], prompts: Prompts) -> Iterator[float | ImageError]:
        """Yield a score, or the error of an image that cannot be read, per image, in order, as they are done.

        Memory stays bounded: at most three batches of prepared images exist at a time.
        """
        texts = align_prompts(prompts, len(images))
        prepared = map_ahead(self.prepare, images, ahead=2 * self.batch_size)
        pairs = zip(prepared, texts, strict=True)
        chunks = iter(lambda: list(islice(pairs, self.batch_size)), [])
        for outcomes in overlapped(map(self._begin_good, chunks), self.in_flight):
            yield from outcomes

    def _begin_good(self, chunk: Sequence[tuple[Prepared | ImageError, str]]) -> Scores:
        """Begin to score the images that could be read; the others' errors stay in their places."""
        errors = {n: image for n, (image, _) in enumerate(chunk) if isinstance(image, ImageError)}
        good = [(image, text) for image, text in chunk if not isinstance(image, ImageError)]
        scores: Scores = self.begin([g[0] for g in good], [g[1] for g in good]) if good else list
        return lambda: merge(scores(), errors)

    def prepare(self, image: ImageSource | Tensor) -> Prepared | ImageError:
        """Open one image and make the scorer's input of it, or say why not; may be called from several threads."""
        try:
            return self._prepare(image)
        except ImageError as error:
            return error


def usable(score: float, image: object, spec: ScorerSpec) -> float:
    """Return a score that is a finite number. Raises `ScoreError` naming the image for any other."""
    if not math.isfinite(score):
        raise ScoreError(f"{image}: {spec.name} returned {score}; its weights may be damaged")
    return float(score)


def merge(scores: Sequence[float | ImageError], errors: Mapping[int, ImageError]) -> list[float | ImageError]:
    """Put scores in order around the places that have an error."""
    found = iter(scores)
    return [errors[n] if n in errors else next(found) for n in range(len(scores) + len(errors))]


def collect(outcomes: Iterable[float | ImageError]) -> Tensor:
    """Gather what `score_each` yields -> float32 tensor (n,). Raises the first `ImageError` among it."""
    import torch

    scores = []
    for outcome in outcomes:
        if isinstance(outcome, ImageError):
            raise outcome
        scores.append(outcome)
    return torch.tensor(scores, dtype=torch.float32)


def as_images(images: Images) -> list[ImageSource | Tensor]:
    """Return a list of images, of one image or of any iterable of them but a bare string."""
    from PIL import Image

    from humanpref.images import EncodedImage, RemoteImage

    if isinstance(images, (str, Path, ImageRef, RemoteImage, EncodedImage, Image.Image)) or not isinstance(
        images, Iterable
    ):
        return [images]  # what is no image is refused where it is opened
    return list(images)


def align_prompts(prompts: Prompts, n: int) -> list[str]:
    """Return one prompt per image. Raises `ScoreError` when there are neither one nor n of them."""
    if not isinstance(prompts, (str, Sequence)):
        raise ScoreError(f"prompts must be text or a list of texts, got {type(prompts).__name__}")
    texts = [prompts] * n if isinstance(prompts, str) else list(prompts)
    if len(texts) != n:
        raise ScoreError(f"{n} images but {len(texts)} prompts; give one prompt for all images, or one per image")
    for text in texts:
        if not isinstance(text, str):
            raise ScoreError(f"a prompt must be text, got {type(text).__name__}")
    return texts


In = TypeVar("In")
Out = TypeVar("Out")


def overlapped(begun: Iterable[Callable[[], Out]], in_flight: int) -> Iterator[Out]:
    """Wait for what was begun, in order, while up to `in_flight` more are begun. Taking one of `begun` begins it.

    Where beginning raises, what was begun before is waited for and yielded first.
    """
    waiting: deque[Callable[[], Out]] = deque()
    rest, failed = iter(begun), None
    while True:
        try:
            waiting.append(next(rest))
        except StopIteration:
            break
        except Exception as error:
            failed = error
            break
        if len(waiting) > in_flight:
            yield waiting.popleft()()
    while waiting:
        try:
            out = waiting.popleft()()
        except Exception as later:
            if failed is None:
                raise
            raise failed from later  # of a device that failed: what it failed on is the first
        yield out
    if failed is not None:
        raise failed


def map_ahead(
    function: Callable[[In], Out], items: Iterable[In], *, ahead: int, threads: int | None = None
) -> Iterator[Out]:
    """Apply `function` in threads (None: one a core, at most 8), at most `ahead` items before the one being used,
    yielding results in order. Where `items` raises, the results of those before come first."""
    workers = threads or min(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="humanpref-prepare")
    try:
        yield from overlapped((pool.submit(function, item).result for item in items), ahead)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
