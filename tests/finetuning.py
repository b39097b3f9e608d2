"""Small fine-tunings, in this process or in one of its own:  python -m tests.finetuning MODEL OUT STEPS DELAY"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from humanpref.generate import Prompt, make_backend
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.run import FinetuneReport, finetune
from humanpref.progress import no_note
from humanpref.scorers.base import ScorerSpec

PROMPTS = tuple(Prompt(f"a cat number {n}", f"p{n}") for n in range(10))


@dataclass
class Red:
    """How red pictures are, times `sign`: differentiable. From its `broken`-th call on with gradients it gives `bad`."""

    sign: float = 1.0
    name: str = "red"
    broken: int = 10**9
    bad: float = float("nan")
    delay: float = 0.0
    calls: int = 0
    logit_scale: float | None = 1.0
    identity: str = ""
    spec: ScorerSpec = field(init=False)

    def __post_init__(self) -> None:
        self.identity = self.identity or self.name
        self.spec = ScorerSpec(self.name, "redness", "none", reads_prompt=False)

    def score(self, images: Any, prompts: object) -> Tensor:
        from humanpref.preprocess import to_pixels

        pixels = images if isinstance(images, Tensor) else torch.stack([to_pixels(image) for image in images])
        scores = self.sign * (pixels[:, 0] - pixels[:, 1:].mean(1)).mean((1, 2))
        if pixels.requires_grad:
            time.sleep(self.delay)
            self.calls += 1
            if self.calls >= self.broken:
                return scores * self.bad
        return scores

    def score_each(self, images: Sequence[Any], prompts: object) -> Iterator[float]:
        yield from self.score(images, prompts).tolist()

    def truncated(self, prompt: str) -> bool:
        return False


def run(
    model: object,
    out: Path,
    *,
    scorer: Any = None,
    check: Any = None,
    data: Any = PROMPTS,
    options: str = "steps=2,scheduler=DDIMScheduler,guidance=2",
    say: Callable[[str], None] = no_note,
    **config: Any,
) -> FinetuneReport:
    given = {"steps": 4, "batch": 2, "learning_rate": 1e-2, "lora_rank": 2, "validate_every": 2, "save_every": 1}
    return finetune(
        data,
        out,
        FinetuneConfig(**{**given, **config}),
        backend=make_backend(f"diffusers:{model},{options}", {"device": "cpu"}),
        scorer=scorer or Red(),
        check_scorer=check,
        trackers=(),
        say=say,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], Path(sys.argv[2]), scorer=Red(delay=float(sys.argv[4])), steps=int(sys.argv[3]))
