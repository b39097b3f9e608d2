"""Heads that turn embeddings into a score: that of LAION's aesthetic predictor and ImageReward, and what we train."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def reward_head(width: int) -> nn.Sequential:
    """The five linear layers that turn an embedding (n, width) into a score (n, 1); officially nothing between them.

    `simple_inference.py` of christophschuhmann/improved-aesthetic-predictor, taken over by ImageReward; its dropouts,
    which do nothing here, keep their places in the numbering.
    """
    sizes = (width, 1024, 128, 64, 16, 1)
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    gap = nn.Identity()
    return nn.Sequential(linear[0], gap, linear[1], gap, linear[2], gap, linear[3], linear[4])


def apply_head(head: nn.Module, features: Tensor) -> Tensor:
    """Score features (n, width) -> (n,), in float32 whatever autocast the caller is in."""
    with torch.autocast(features.device.type, enabled=False):
        scores: Tensor = head(features.float())
    return scores.squeeze(-1)


START_LOG_SIGMA = -1.0
"""Where the logarithm of the spread starts, in logits, for the uncertainty-aware loss."""


class PreferenceHead(nn.Module):
    """A linear or one-hidden-layer head on frozen embeddings -> scores in logits.

    It reads the image's unit vector and, where the prompt is read, its product with the prompt's, element by element
    (of which the cosine is the sum).
    """

    def __init__(self, width: int, *, hidden: int, reads_prompt: bool, uncertain: bool) -> None:
        super().__init__()
        self.reads_prompt = reads_prompt
        inputs = 2 * width if self.reads_prompt else width
        outputs = 2 if uncertain else 1
        self.uncertain = uncertain
        if hidden:
            last = nn.Linear(hidden, outputs)
            self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), last)
        else:
            last = nn.Linear(inputs, outputs)
            self.layers = nn.Sequential(last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.uncertain:
            with torch.no_grad():
                last.bias[1] = START_LOG_SIGMA
        self._scale = width**0.5  # unit vectors have elements of about 1 / sqrt(width)

    def forward(
        self, images: Tensor, prompts: Tensor, image_of: Tensor, prompt_of: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Unit vectors (u, width) and (v, width); entries name one of each -> (entries,), (entries,) or None."""
        image = images.float()[image_of]
        features = image * self._scale
        if self.reads_prompt:
            product = image * prompts.float()[prompt_of] * self._scale**2
            features = torch.cat([features, product], dim=-1)
        out = self.layers(features)
        return out[:, 0], out[:, 1] if self.uncertain else None

    def clamp(self) -> None:
        """A head has no logit scale."""
