"""Small made-up scorers and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from humanpref.errors import ImageError
from humanpref.records import ImageRef, Ranking
from humanpref.scorers import ScorerSpec


class TableScorer:
    """Scores images by file name from a table; what is missing counts as unreadable."""

    logit_scale = 1.0

    def __init__(self, table: Mapping[str, float], name: str = "table", published: float | None = None) -> None:
        self.table = table
        rates = {} if published is None else {"hpdv2-test": published}
        self.spec = ScorerSpec(name, "toy", "none", reads_prompt=True, published=rates)

    def score_each(self, images: Sequence[object], prompts: object) -> Iterator[float | ImageError]:
        for image in images:
            name = Path(str(image)).name
            yield self.table[name] if name in self.table else ImageError(f"{image}: not in the table")

    def score(self, images: Sequence[object], prompts: object) -> torch.Tensor:
        return torch.tensor([float(s) for s in self.score_each(images, prompts)])

    def truncated(self, prompt: str) -> bool:
        return len(prompt) > 300


def ranking(prompt: str, ranks: Sequence[int], annotator: str | None = None, folder: Path = Path()) -> Ranking:
    images = tuple(ImageRef(folder / f"{prompt}-{i}.png") for i in range(len(ranks)))
    return Ranking(prompt, images, tuple(ranks), annotator)


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A smooth random colour picture."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small, "RGB").resize((width, height), Image.Resampling.BICUBIC)
