"""Any scorer as the reward function that ddpo-pytorch, flow_grpo and their like call in their loops.

    reward = RewardFunction({"hps-v2.1": load_scorer("hps-v2.1"), "lite": load_scorer("lite")}, {"hps-v2.1": 10.0})
    scores, info = reward(images, prompts, metadata)

That is how kvablack/ddpo-pytorch (`ddpo_pytorch/rewards.py`) calls a reward, and how yifan123/flow_grpo
(`flow_grpo/rewards.py`, `multi_score`) calls each of those it adds up. What flow_grpo's loops call is their sum:

    reward_fn = as_flow_grpo(reward)
    rewards, _ = reward_fn(images, prompts, metadata, only_strict=True)    # {"avg": ..., "hps-v2.1": ..., "lite": ...}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from humanpref.errors import ScoreError, UnknownNameError
from humanpref.scorers import Scorer

RewardImages: TypeAlias = "Tensor | npt.NDArray[Any] | Sequence[Image.Image]"
Array: TypeAlias = npt.NDArray[np.float32]


class RewardFunction:
    """One scorer, or a weighted sum of several, as `(images, prompts, metadata) -> (scores, info)`.

    scorers: one, or several by name. weights: by name, 1 where none is given; flow_grpo's dictionary of scores. Scores
    are on each scorer's own scale, so weights are what makes them comparable. No gradients flow: policy-gradient
    methods need none. Raises `UnknownNameError` for a weight of no scorer, `ScoreError` for no scorer.
    """

    def __init__(self, scorers: Scorer | Mapping[str, Scorer], weights: Mapping[str, float] | None = None) -> None:
        self.scorers = dict(scorers) if isinstance(scorers, Mapping) else {scorers.spec.name: scorers}
        self.weights = dict.fromkeys(self.scorers, 1.0) | dict(weights or {})
        if not self.scorers:
            raise ScoreError("a reward needs at least one scorer")
        if unknown := self.weights.keys() - self.scorers.keys():
            raise UnknownNameError(
                f"there is no scorer {min(unknown)!r} to weigh; there are: {', '.join(self.scorers)}"
            )

    def __call__(
        self,
        images: RewardImages,
        prompts: str | Sequence[str],
        metadata: object = None,  # noqa: ARG002 - the signature's; no scorer reads it
    ) -> tuple[Array, dict[str, Array]]:
        """Score n images -> (float32 (n,), {name of scorer: its own scores, (n,)}); the more, the better.

        images: a tensor (n, 3, h, w), floats in [0, 1] or 8-bit; an array (n, h, w, 3), 8-bit or floats in [0, 1]; or
        PIL images. metadata is taken and not read. Every image is seen as the 8-bit picture it would be saved as.
        Raises `ScoreError` for anything else, `ImageError` for a picture that cannot be used.
        """
        pictures = as_pictures(images)
        texts = prompts if isinstance(prompts, str) else list(prompts)
        own = {}
        for name, scorer in self.scorers.items():
            with torch.no_grad():
                own[name] = scorer.score(pictures, texts).detach().cpu().float().numpy()
        total = np.zeros(len(pictures), dtype=np.float32)
        for name, scores in own.items():
            total += np.float32(self.weights[name]) * scores
        return total, own


class FlowGrpoReward(Protocol):
    """What the training loops of flow_grpo call."""

    def __call__(
        self,
        images: RewardImages,
        prompts: str | Sequence[str],
        metadata: object = None,
        ref_images: object = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Score n images -> ({"avg": the reward, (n,); name of scorer: its own scores, (n,)}, {})."""


def as_flow_grpo(reward: RewardFunction) -> FlowGrpoReward:
    """Make of a reward what `multi_score` of flow_grpo's `rewards.py` returns, to be used in its place.

    `ref_images` and `only_strict` are for rewards of other kinds and not read. "avg" is the weighted sum, as flow_grpo
    names it. Raises `ScoreError` where a scorer has that name.
    """
    if "avg" in reward.scorers:
        raise ScoreError("a scorer is named 'avg', as flow_grpo names the weighted sum; give it another name")

    def score(
        images: RewardImages,
        prompts: str | Sequence[str],
        metadata: object = None,
        ref_images: object = None,  # noqa: ARG001 - the signature's
        only_strict: bool = True,  # noqa: ARG001
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        total, own = reward(images, prompts, metadata)
        return {**own, "avg": total}, {}

    return score


def as_pictures(images: RewardImages) -> list[Image.Image]:
    """Turn a batch of images of any of the kinds above into PIL pictures. Raises `ScoreError`."""
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ScoreError(f"a tensor of images must be (n, 3, h, w), got {tuple(images.shape)}")
        images = images.detach().cpu().permute(0, 2, 3, 1)
        images = (images if images.dtype == torch.uint8 else images.float()).numpy()
    if isinstance(images, np.ndarray):
        if images.ndim != 4 or images.shape[3] != 3:
            raise ScoreError(f"an array of images must be (n, h, w, 3), got {images.shape}")
        return [Image.fromarray(image) for image in _to_8_bit(images)]
    if not all(isinstance(image, Image.Image) for image in images):
        raise ScoreError("images must be a tensor (n, 3, h, w), an array (n, h, w, 3) or PIL images")
    return list(images)


def _to_8_bit(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ScoreError(f"images must be 8-bit, or floats in [0, 1], got {images.dtype}")
    if images.size and not (images.min() >= -0.01 and images.max() <= 1.01):  # NaN fails too
        raise ScoreError("floats must lie in [0, 1]; give values of 0 to 255 as 8-bit integers")
    found: npt.NDArray[np.uint8] = (images * 255).round().clip(0, 255).astype(np.uint8)
    return found
