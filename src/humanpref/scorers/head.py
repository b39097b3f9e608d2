"""The small head that turns an embedding into one number: LAION's aesthetic predictor has it, and ImageReward."""

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
