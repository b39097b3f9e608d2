"""A backend that reads its prompts, and scorers that look at one colour: a search whose outcome is known."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from humanpref.cache import ScoreCache
from humanpref.generate import Outcome, Prompt, Request
from humanpref.images import open_image
from humanpref.improve.tokens.records import SearchReport
from humanpref.improve.tokens.search import search_tokens
from humanpref.improve.tokens.templates import Template
from humanpref.improve.tokens.vocabulary import place_token
from humanpref.scorers.base import BatchScorer, ScorerSpec, Scores

EFFECTS = {"good": (30, 30), "fool": (45, 0), "bad": (-30, -30)}
"""Words, and what they add to red and green."""


@dataclass
class Painter:
    """Paints red and green by the words it reads, the same noise for the same seed; "fail" fails, "refuse" is refused.

    Appends what it read to `log`, and stands still before the `pause_after`-th image.
    """

    log: list[str] = field(default_factory=list)
    pause_after: int | None = None
    noise: int = 10
    name: str = "painter"
    revision: str = "1"
    settings: Mapping[str, Any] = field(default_factory=dict)
    chunk: int = 4
    local: bool = False
    made_with: str = "numpy"

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        for request in requests:
            text = request.prompt.text
            self.log.append(text)
            if len(self.log) == self.pause_after:
                print("paused", flush=True)
                time.sleep(600)
            if "fail" in text or "refuse" in text:
                yield Outcome(request, "failed" if "fail" in text else "refused", reason="not that")
                continue
            noise = np.random.default_rng(request.seed)
            extra = np.random.default_rng([request.seed, len(text)])
            red, green = (
                100
                + int(noise.integers(40))
                + int(extra.integers(self.noise))
                + sum(EFFECTS.get(w, (0, 0))[i] for w in text.split())
                for i in range(2)
            )
            yield Outcome(request, "done", image=Image.new("RGB", (4, 4), (red, green, len(text) % 256)))


class Colour(BatchScorer[float]):
    """The mean of red or green, in [0, 255]; nan for the prompts in `broken`."""

    def __init__(self, channel: int, broken: str | None = None, weights: str | None = None) -> None:
        name = ("red", "green")[channel]
        super().__init__(ScorerSpec(name, "a colour", "none", reads_prompt=True, family="lite"))
        self.channel, self.broken, self.weights = channel, broken, weights

    def _settings(self) -> Mapping[str, str]:
        return {} if self.weights is None else {"weights": self.weights}

    @property
    def logit_scale(self) -> None:
        return

    def truncated(self, prompt: str) -> bool:
        return len(prompt) > 100

    def _prepare(self, image: Any) -> float:
        return float(np.asarray(open_image(image))[..., self.channel].mean())

    def begin(self, batch: Sequence[float], prompts: Sequence[str]) -> Scores:
        assert all(prompt.startswith("thing ") for prompt in prompts)  # a score is for what was asked for
        return lambda: [float("nan") if p == self.broken else one for one, p in zip(batch, prompts, strict=True)]

    def _score_pixels(self, pixels: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        raise NotImplementedError


def things(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"thing {n}", f"t{n}") for n in range(count))


def words(text: str) -> tuple[Template, ...]:
    return tuple(place_token(word, "prefix") for word in text.split())


def search(
    out: Path, count: int = 20, vocabulary: str | tuple[Template, ...] = "good fool bad plain other", **options: Any
) -> SearchReport:
    given = {"prompts": things(count), "backend": Painter(), "scorer": Colour(0), "check": Colour(1), "budget": 200}
    tokens = words(vocabulary) if isinstance(vocabulary, str) else vocabulary
    given |= {"vocabulary": tokens, "finalists": 2, **options}
    rest = {name: value for name, value in given.items() if name not in {"prompts", "backend", "vocabulary", "scorer"}}
    with ScoreCache() as cache:
        return search_tokens(
            given["prompts"], given["backend"], given["vocabulary"], given["scorer"], out, cache=cache, **rest
        )


if __name__ == "__main__":
    search(Path(sys.argv[1]), backend=Painter(pause_after=int(sys.argv[2])))
