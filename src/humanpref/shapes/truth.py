"""The known truth of the shapes world as a scorer, for wherever a scorer is taken: is what another one says true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from humanpref.errors import DataError, ScoreError
from humanpref.images import ImageSource, open_image
from humanpref.preprocess import check_pixels, to_8_bit
from humanpref.scorers import get_spec
from humanpref.scorers.base import BatchScorer, ScorerSpec, Scores
from humanpref.shapes.quality import FULFILLED, quality

NAME = "shapes-truth"


class TruthScorer(BatchScorer[Image.Image]):
    """`humanpref.shapes.quality.quality` of each picture by its caption: `total`, in [0, 1], higher is better.

    For pictures of the shapes world alone; it looks at the picture and never asks where it comes from. Not
    differentiable, always on the CPU. Raises `ScoreError` for a prompt that is no caption of that world.
    """

    def __init__(self, spec: ScorerSpec | None = None) -> None:
        super().__init__(spec or get_spec(NAME))

    def _settings(self) -> Mapping[str, str]:
        return {"fulfilled": f"{FULFILLED:g}"}

    @property
    def logit_scale(self) -> None:
        """None: how sure people are of a difference in quality is not part of the truth."""
        return

    def truncated(self, prompt: str) -> bool:  # noqa: ARG002
        """Tell whether the prompt was cut: never."""
        return False

    def _prepare(self, image: ImageSource | Tensor) -> Image.Image:
        if isinstance(image, Tensor):
            check_pixels(image[None])
            return Image.fromarray(to_8_bit(image))
        return open_image(image)

    def begin(self, batch: Sequence[Image.Image], prompts: Sequence[str]) -> Scores:
        """Judge pictures at once; see `BatchScorer.begin`."""
        return self._judge(batch, prompts).tolist

    def _judge(self, batch: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        try:
            found = [quality(image, prompt).total for image, prompt in zip(batch, prompts, strict=True)]
        except DataError as error:
            raise ScoreError(f"{self.spec.name} knows only captions of the shapes world: {error}") from None
        return torch.tensor(found)

    def _score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        if pixels.requires_grad:
            raise ScoreError(f"{self.spec.name} is not differentiable")
        return self._judge([self._prepare(image) for image in pixels], prompts).to(pixels.device)
