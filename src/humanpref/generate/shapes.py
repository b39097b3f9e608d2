"""Images of the closed toy world, `humanpref.shapes`: sources of graded quality that stand in for models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from humanpref.generate.contract import GenerateError, Outcome, Request, Settings
from humanpref.generate.options import parse_size
from humanpref.prompts.records import Prompt
from humanpref.shapes import sources


@dataclass(frozen=True)
class ShapesConfig:
    """Options: `size` in pixels, one number, as the pictures are square."""

    name: str | None = None
    size: str = "128"


@dataclass
class ShapesBackend:
    """One source of the toy world."""

    source: str
    config: ShapesConfig
    name: str = ""
    revision: str = "1"
    settings: Settings = field(default_factory=dict)
    chunk: int = 16
    local: bool = False
    made_with: str = "humanpref.shapes"

    def __post_init__(self) -> None:
        if self.source not in (known := list(sources.SOURCES)):
            raise GenerateError(f"shapes:{self.source}: no such source; there are {', '.join(map(str, known))}")
        size = parse_size(self.config.size)
        if size is None or size[0] != size[1]:
            raise GenerateError(f"shapes:{self.source}: pictures are square, size {self.config.size!r} is not")
        self.pixels = size[0]
        self.name = self.config.name or self.source
        self.settings = {"backend": "shapes", "model": self.source, "size": self.pixels}

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Nothing needs to be known of the prompts; one outside the grammar fails when it is drawn."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        """Yield pictures in order, each drawn by itself, so that one caption's fault is not the others'."""
        for request in requests:
            began = time.perf_counter()
            try:
                (image,) = sources.generate(self.source, [request.prompt.text], [request.seed], self.pixels)
            except Exception as error:  # captions that the toy world cannot draw
                yield Outcome(request, "failed", reason=" ".join(f"{error}".split()) or type(error).__name__)
            else:
                yield Outcome(request, "done", image=image, seconds=time.perf_counter() - began)
