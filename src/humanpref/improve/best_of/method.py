"""Best of n: draw an image n times, keep the one a scorer likes best. The plainest way to a higher score, for any
backend, and the one that others must beat at the same cost."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from humanpref.errors import ImageError, ScoreError
from humanpref.generate.contract import Backend, Outcome, Request, Settings
from humanpref.improve.methods import ImproveError
from humanpref.prompts.records import Prompt
from humanpref.scorers import DEFAULT_SCORER, LoadOptions, check_options, get_spec, load_scorer
from humanpref.scorers.base import usable
from humanpref.scorers.weights import file_sha256, given_file, locate_all

if TYPE_CHECKING:
    from humanpref.scorers import Scorer

MOST = 4096
"""More candidates than this for one image are taken for a mistake."""


@dataclass(frozen=True)
class BestOfConfig:
    """Options: the scorer that chooses, as `load_scorer` takes it."""

    model: str = DEFAULT_SCORER
    weights: Path | None = None
    arch: str | None = None
    resize: Literal["antialias", "no-antialias"] = "antialias"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"

    @property
    def load_options(self) -> LoadOptions:
        """All but the name."""
        return LoadOptions(self.weights, self.arch, self.resize, self.precision, self.device)


@dataclass(frozen=True)
class BestOf:
    """The method `best-of:N`. `scorer` chooses instead of the one that `config` names, where it is given.

    Raises `ImproveError` for an `n` that is no number from 1, `UnknownNameError` or `ScoreError` for a scorer or
    options that there are not.
    """

    n: str | int
    config: BestOfConfig = BestOfConfig()
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        if not f"{self.n}".isdecimal() or not 1 <= int(self.n) <= MOST:
            raise ImproveError(f"best-of:{self.n}: n is how many images to choose from, a number from 1 to {MOST}")
        if self.scorer is None:
            own = self.config
            check_options(get_spec(own.model), own.load_options)

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose: not for n = 1."""
        return int(self.n) > 1

    @property
    def selector(self) -> str:
        """The name of the scorer that chooses."""
        return get_spec(self.config.model).name if self.scorer is None else self.scorer.spec.name

    def apply(self, backend: Backend) -> Backend:
        """Return a backend that keeps the best of n images of `backend`; for n = 1 it is `backend` itself."""
        return BestOfBackend(backend, int(self.n), self) if self.chooses else backend


@dataclass
class BestOfBackend:
    """A backend that asks another n times for each image, and keeps the best.

    The first candidate is the request itself, so that the image is never worse by the scorer than without the method,
    and comparisons are paired. The seeds of the others are made from its seed; for backends without seeds, as a folder
    of images, they are the following numbers of the prompt. Of equals the first is kept. `seconds` are those of all
    candidates and of scoring. What was lost on the way is in the outcome's notes and `details`, with the candidate that
    was kept: {"best_of": {"candidates", "refused", "failed", "kept": place from 0, "seed", "score", "scorer"}}.
    The scorer reads the prompt of the request: that of the user, unless a method around this one has changed it.
    """

    inner: Backend
    n: int
    method: BestOf
    name: str = ""
    revision: str = ""
    settings: Settings = field(default_factory=dict)
    chunk: int = 1
    local: bool = False
    made_with: str = ""

    def __post_init__(self) -> None:
        self._chooser = _chooser(self.method)
        self._describe()

    def __getstate__(self) -> dict[str, Any]:
        """Travel unloaded, as every backend does."""
        return {key: value for key, value in self.__dict__.items() if key != "_scorer"}

    def _describe(self) -> None:
        inner = self.inner
        self.name, self.revision, self.local, self.made_with = inner.name, inner.revision, inner.local, inner.made_with
        self.chunk = max(1, inner.chunk // self.n)
        own = {"method": "best-of", "n": self.n, **self._chooser}
        self.settings = {**inner.settings, "methods": [*inner.settings.get("methods", ()), own]}

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Let the inner backend look at the prompts, and see that the scorer's weights can be had."""
        self.inner.prepare(prompts)
        self._describe()  # a folder's settings are known only now
        own = self.method
        if own.scorer is None and not (spec := get_spec(own.config.model)).ships:
            locate_all(spec, own.config.weights)

    @cached_property
    def _scorer(self) -> Scorer:
        if self.method.scorer is not None:
            return self.method.scorer
        own = self.method.config
        return load_scorer(own.model, **vars(own.load_options))

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield the best of each request's candidates, as soon as these are there."""
        _ = self._scorer  # loaded now: that is no image's cost
        asked = [(request, place) for request in requests for place in range(self.n)]
        waiting: dict[tuple[str, int, int], list[int]] = defaultdict(list)
        wanted = []
        for at, (request, place) in enumerate(asked):
            wanted.append(candidate(request, place))
            waiting[_key(wanted[-1])].append(at)
        found: list[dict[int, Outcome]] = [{} for _ in requests]
        for start in range(0, len(wanted), self.inner.chunk):
            for outcome in self.inner.generate(wanted[start : start + self.inner.chunk]):
                at = waiting[_key(outcome.request)].pop(0)
                own = found[at // self.n]
                own[at % self.n] = outcome
                if len(own) == self.n:
                    self.made_with = self.inner.made_with
                    yield self._best(requests[at // self.n], [own[place] for place in range(self.n)])
                    own.clear()

    def _best(self, request: Request, outcomes: Sequence[Outcome]) -> Outcome:
        began = time.perf_counter()
        scores, lost = self._score(request.prompt.text, outcomes)
        seconds = sum(outcome.seconds for outcome in outcomes) + time.perf_counter() - began
        notes = [note for outcome in outcomes for note in outcome.notes]
        counts = {
            "refused": sum(outcome.status == "refused" for outcome in outcomes),
            "failed": sum(outcome.status == "failed" for outcome in outcomes) + len(lost),
        }
        reasons = [o.reason or o.status for o in outcomes if o.status != "done"] + list(lost.values())
        if any(counts.values()):
            gone = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
            notes.append(f"{request.prompt.id}: of {self.n} candidates {gone} ({reasons[0]})")
        about: dict[str, Any] = {"candidates": self.n, **counts}
        if not scores:
            status: Literal["refused", "failed"] = "failed" if counts["failed"] else "refused"
            reason = f"none of {self.n} candidates is left: {reasons[0]}"
            details = {"best_of": about}
            return Outcome(request, status, reason=reason, seconds=seconds, notes=tuple(notes), details=details)
        kept = max(scores, key=lambda place: (scores[place], -place))
        best = outcomes[kept]
        about |= {"kept": kept, "seed": best.request.seed, "score": scores[kept], "scorer": self.method.selector}
        details = {**best.details, "best_of": about}
        return dataclasses.replace(best, request=request, seconds=seconds, notes=tuple(notes), details=details)

    def _score(self, prompt: str, outcomes: Sequence[Outcome]) -> tuple[dict[int, float], dict[int, str]]:
        """Score what was made -> the scores by place, and why others have none."""
        made = [(place, o.image if o.image is not None else o.file) for place, o in enumerate(outcomes)]
        images = [(place, image) for place, image in made if image is not None]
        try:
            found = list(self._scorer.score_each([image for _, image in images], prompt))
        except ScoreError as error:  # this prompt cannot be scored; the next one may
            return {}, {place: str(error) for place, _ in images}
        scores, lost = {}, {}
        for (place, _), score in zip(images, found, strict=True):
            if isinstance(score, ImageError):
                lost[place] = str(score)
                continue
            try:
                scores[place] = usable(score, f"candidate {place}", self._scorer.spec)
            except ScoreError as error:
                lost[place] = str(error)
        return scores, lost


def candidate(request: Request, place: int) -> Request:
    """Return what is asked for the candidate at a place; the first one, at 0, is the request itself."""
    if place == 0:
        return request
    digest = hashlib.sha256(f"best-of\0{request.seed}\0{place}".encode()).digest()
    return dataclasses.replace(request, seed=int.from_bytes(digest[:4], "big"), number=request.number + place)


def _key(request: Request) -> tuple[str, int, int]:
    return request.prompt.id, request.number, request.seed


def _chooser(method: BestOf) -> Mapping[str, Any]:
    """What decides which candidate is kept: the scorer, and what of its options is not the default."""
    if method.scorer is not None:
        return {"scorer": method.scorer.spec.name, "identity": method.scorer.identity}
    own = method.config
    spec = get_spec(own.model)
    chosen: dict[str, Any] = {"scorer": spec.name}
    if (file := own.weights or spec.path) is not None:
        chosen["weights_sha256"] = file_sha256(given_file(file))
    for name, usual in (("arch", None), ("resize", "antialias"), ("precision", "auto")):
        if (value := getattr(own, name)) != usual:
            chosen[name] = value
    return chosen
