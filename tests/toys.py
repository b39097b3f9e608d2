"""Small made-up scorers and data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from humanpref.errors import ImageError
from humanpref.records import ImageRef, Ranking
from humanpref.scorers import ScorerSpec
from humanpref.scorers.base import align_prompts, collect


class TableScorer:
    """Scores images by file name from a table; what is missing counts as unreadable."""

    def __init__(
        self,
        table: Mapping[str, float],
        name: str = "table",
        published: float | None = None,
        logit_scale: float | None = 1.0,
    ) -> None:
        self.table = table
        self.logit_scale = logit_scale
        self.identity = f"table of {len(table)}"
        rates = {} if published is None else {"hpdv2-test": published}
        self.identity = f"table {name} {sorted(table.items())}"
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


class ByteScorer:
    """Scores a file by its bytes and the prompt, counting; `BAD...` cannot be read and `nan` and `inf` score that."""

    logit_scale = 2.0

    def __init__(self, identity: str = "byte 1", *, reads_prompt: bool = True, seconds: float = 0.0) -> None:
        self.identity = identity
        self.spec = ScorerSpec(identity.split(maxsplit=1)[0], "toy", "none", reads_prompt=reads_prompt)
        self.seconds = seconds
        self.calls: list[list[tuple[str, str]]] = []  # what was asked for, call by call
        self.scored: list[tuple[str, str]] = []

    def score_each(self, images: Sequence[object], prompts: object) -> Iterator[float | ImageError]:
        texts = align_prompts(prompts, len(images))
        self.calls.append([(str(image), text) for image, text in zip(images, texts, strict=True)])
        for image, text in zip(images, texts, strict=True):
            self.scored.append((str(image), text))
            time.sleep(self.seconds)
            yield self.value(image, text)

    def value(self, image: object, text: str) -> float | ImageError:
        if not isinstance(image, (str, Path, ImageRef)) or not Path(str(image)).is_file():
            return ImageError(f"{str(image)[:300]}: no such file")
        content = Path(str(image)).read_bytes()
        if content.startswith(b"BAD"):
            return ImageError(f"{image}: bad")
        if content in {b"nan", b"inf"}:
            return float(content)
        seen = repr((self.identity, content, text if self.spec.reads_prompt else ""))
        return int.from_bytes(hashlib.sha256(seen.encode()).digest()[:8], "big") / 3**40

    def score(self, images: Sequence[object], prompts: object) -> torch.Tensor:
        return collect(self.score_each(images, prompts))

    def truncated(self, prompt: str) -> bool:
        return len(prompt) > 20


def damaged_jpeg(content: bytes) -> bytes:
    """A JPEG file whose header says what the image is, and whose end is there, but which no decoder gets through."""
    place = content.index(b"\xff\xc4") + 4  # a Huffman table
    return content[:place] + bytes(36) + content[place + 36 :]
