"""Held-out prompts, each drawn with a seed of its own: what the reward and a second scorer say of the images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from humanpref.errors import ScoreError
from humanpref.files import whole
from humanpref.generate.contract import Request, seed_of
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve.gains import Gain, paired_gain
from humanpref.improve.methods import ImproveError
from humanpref.prompts.records import Prompt
from humanpref.scorers import Scorer

CELL, TEXT = 192, 44


@dataclass(frozen=True)
class Validation:
    """What the scorers say of the images of the held-out prompts, in their order: `reward` by the one that is trained
    on, `check` by the second one, empty where there is none. On each scorer's own scale."""

    step: int
    reward: tuple[float, ...]
    check: tuple[float, ...]

    @property
    def decides(self) -> float:
        """The figure by which one is better than another: the second scorer's mean, or the reward's without one."""
        return float(np.mean(self.check or self.reward))


def gain(before: Sequence[float], after: Sequence[float], scorer: str = "") -> Gain:
    """Compare the scores of the same prompts, one image each, before and after, in pairs."""
    found = paired_gain("finetune", scorer, np.asarray(before), np.asarray(after), [str(i) for i in range(len(before))])
    assert found is not None
    return found


def draw(backend: DiffusersBackend, prompts: Sequence[Prompt], seed: int) -> list[Image.Image]:
    """Draw one image of each prompt, as `humanpref generate` would. Raises `ImproveError` for one that fails."""
    requests = [Request(p, 0, seed_of(seed, p.id, 0), i) for i, p in enumerate(prompts)]
    images = []
    for outcome in backend.generate(requests):
        if outcome.image is None:
            raise ImproveError(f"{outcome.request.prompt.text[:60]!r}: no image could be made ({outcome.reason})")
        images.append(outcome.image)
    return images


def validate(
    backend: DiffusersBackend, prompts: Sequence[Prompt], scorer: Scorer, check: Scorer | None, seed: int, step: int
) -> tuple[Validation, list[Image.Image]]:
    """Draw the held-out prompts and score the images -> the scores, and the images.

    Raises `ImproveError` for an image that fails or a score that is no number.
    """
    images, texts = draw(backend, prompts, seed), [p.text for p in prompts]
    scores = []
    for one in (scorer, check):
        try:
            found: Any = () if one is None else one.score(images, texts).tolist()
        except ScoreError as error:
            raise ImproveError(f"step {step}: the images cannot be scored ({error})") from None
        if not np.isfinite(found).all():
            raise ImproveError(f"step {step}: {one.spec.name if one else ''} gives no numbers for the images")
        scores.append(tuple(found))
    return Validation(step, *scores), images


def write_pictures(path: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> None:
    """Write a PNG of the images, four a row, each with its prompt below, whole or not at all."""
    across = min(4, len(images))
    down = -(-len(images) // across)
    canvas = Image.new("RGB", (across * (CELL + 8) + 8, down * (CELL + TEXT + 8) + 8), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = 8 + place % across * (CELL + 8), 8 + place // across * (CELL + TEXT + 8)
        scale = CELL / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
        canvas.paste(small, (x, y))
        label = textwrap.shorten(text, 84, placeholder=" ...")
        pen.multiline_text((x, y + CELL + 4), textwrap.fill(label, 31), fill="black", font=font, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        canvas.save(part, format="PNG", optimize=True)
