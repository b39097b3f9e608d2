"""Preference losses: pure functions of scores in logits. Each returns one term per pair (or per ranking), unreduced.

A score in logits is logit scale x cosine, so that P(a preferred to b) = sigmoid(score_a - score_b).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NODES = 32
"""Points of the Gauss-Hermite quadrature of `uncertain_loss`."""


def pair_loss(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """HPS v2's loss: cross-entropy of the softmax over two images -> (pairs,).

    first, second: scores in logits (pairs,). preferred: P(first preferred) in [0, 1] (pairs,), 0.5 for a tie.
    arXiv 2306.09341 section 4; `HPSLoss` in `src/open_clip/loss.py` of tgxs002/HPSv2, which *sums* over the batch of a
    GPU and lets DDP average over GPUs; here the terms are averaged over all pairs of a step. A sum over b pairs has b
    times the gradient of their mean. AdamW divides by the size of the gradient, so that its step is the same at the
    same learning rate (up to epsilon, which the sum makes b times smaller in effect: epsilon / b here is exactly the
    official update); with plain SGD the equivalent learning rate would be b times the official one.
    """
    return F.softplus(second - first) * preferred + F.softplus(first - second) * (1 - preferred)


def margin_loss(first: Tensor, second: Tensor, preferred: Tensor, margin: float) -> Tensor:
    """Margin ranking loss: what the difference of two scores lacks to `margin`, in logits -> (pairs,).

    With soft labels its expectation over them; a tie (0.5) pulls two scores together until they differ by `margin` at
    most.
    """
    gap = first - second
    return F.relu(margin - gap) * preferred + F.relu(margin + gap) * (1 - preferred)


def uncertain_loss(
    first: Tensor, second: Tensor, preferred: Tensor, first_log_sigma: Tensor, second_log_sigma: Tensor
) -> Tensor:
    """HPS v3's loss: scores are normal, not numbers, and the preference is expected over them -> (pairs,).

    P(first preferred) = E[sigmoid(r_1 - r_2)], r_i ~ N(score_i, sigma_i^2) (arXiv 2508.03789). The difference of the
    two is normal with variance sigma_1^2 + sigma_2^2, so that one integral is enough; it is taken by Gauss-Hermite
    quadrature with `NODES` points. With sigma = 0 it is `pair_loss`.
    """
    spread = torch.sqrt(torch.exp(2 * first_log_sigma) + torch.exp(2 * second_log_sigma))
    nodes, log_weights = _hermite(first.device, first.dtype)
    gap = (first - second)[:, None] + spread[:, None] * nodes
    won = torch.logsumexp(F.logsigmoid(gap) + log_weights, dim=-1)
    lost = torch.logsumexp(F.logsigmoid(-gap) + log_weights, dim=-1)
    return -(won * preferred + lost * (1 - preferred))


def listwise_terms(scores: Tensor, ranks: Tensor) -> Tensor:
    """Plackett-Luce: minus the log-likelihood of one ranking's order, per choice -> a scalar.

    scores: (images,) in logits. ranks: (images,), 1 = best, ties allowed. The best is chosen among all, the next among
    the rest, and so on: n - 1 choices, and the mean over them, so that two images give `pair_loss`. Of tied images each
    is chosen from all that are not better (Breslow's approximation), the last block with weight (d - 1) / d for d
    images, so that the weights always add to n - 1; two tied images give `pair_loss` with 0.5. Plackett 1975, Luce
    1959.
    """
    worse_or_equal = ranks[None, :] >= ranks[:, None]
    among = torch.logsumexp(scores[None, :].masked_fill(~worse_or_equal, -math.inf), dim=-1)
    last = ranks == ranks.max()
    d = last.sum()
    weights = torch.where(last, (d - 1) / d, torch.ones_like(scores))
    return ((among - scores) * weights).sum() / (len(scores) - 1)


def smooth(preferred: Tensor, smoothing: float) -> Tensor:
    """Move labels towards 0.5: p -> p (1 - 2 s) + s, for labels that nobody has judged twice."""
    return preferred * (1 - 2 * smoothing) + smoothing


@cache
def _hermite_numbers() -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes.tolist(), np.log(weights / math.sqrt(2 * math.pi)).tolist()


def _hermite(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Points, and logarithms of the weights, of an expectation over N(0, 1)."""
    nodes, log_weights = _hermite_numbers()
    return torch.tensor(nodes, device=device, dtype=dtype), torch.tensor(log_weights, device=device, dtype=dtype)
