"""The embedded default: a small model on image statistics, trained on real human rankings (card: lite.md).

It judges the picture alone and does not read the prompt. For trying things out and as the floor to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from humanpref.errors import ScoreError, WeightsError
from humanpref.images import ImageSource, open_image
from humanpref.preprocess import check_pixels, to_8_bit
from humanpref.scorers.base import BatchScorer, ScorerSpec, Scores
from humanpref.scorers.lite_features import image_features
from humanpref.scorers.lite_model import LiteModel
from humanpref.scorers.weights import fingerprint

Features = npt.NDArray[np.float32]


class LiteScorer(BatchScorer[Features]):
    """Scores in logits: P(a preferred to b) = sigmoid(score_a - score_b). Always on the CPU; not differentiable."""

    def __init__(self, spec: ScorerSpec, model: LiteModel, sha256: Callable[[], str] | None = None) -> None:
        super().__init__(spec)
        self.model = model
        self._sha256 = sha256

    @classmethod
    def load(cls, spec: ScorerSpec, weights: str | Path | None = None) -> LiteScorer:
        """Read the packaged model, or one that `recipes/train_lite.py` wrote. Raises `WeightsError`."""
        path = Path(weights).expanduser() if weights is not None else Path(__file__).with_name(str(spec.file))
        if not path.is_file():
            raise WeightsError(f"{path}: no such file")
        try:
            sha256 = fingerprint(path)
            return cls(spec, LiteModel.load(path), sha256)
        except Exception as error:  # safetensors' own error type, or a tensor that is not there
            raise WeightsError(f"{path}: not a lite model ({error})") from None

    def _settings(self) -> dict[str, str]:
        if self._sha256 is None:
            raise ScoreError("this lite was not loaded from a file, so its scores cannot be cached")
        return {"weights": self._sha256()}

    @property
    def logit_scale(self) -> float:
        """1: the scores are logits already."""
        return 1.0

    def truncated(self, prompt: str) -> bool:  # noqa: ARG002
        """Tell whether the prompt was cut: never, since it is not read."""
        return False

    def _prepare(self, image: ImageSource | Tensor) -> Features:
        if isinstance(image, Tensor):
            check_pixels(image[None])
            return image_features(to_8_bit(image))
        return image_features(np.asarray(open_image(image)))

    def begin(self, batch: Sequence[Features], prompts: Sequence[str]) -> Scores:  # noqa: ARG002
        """Score prepared images at once; see `BatchScorer.begin`."""
        return self._judge(batch).tolist

    def _judge(self, batch: Sequence[Features]) -> Tensor:
        return torch.from_numpy(self.model.predict(np.stack(list(batch)))).float()

    def _score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        if pixels.requires_grad:
            raise ScoreError("lite is not differentiable; use an hps scorer where gradients are needed")
        return self._judge([self._prepare(image) for image in pixels]).to(pixels.device)
