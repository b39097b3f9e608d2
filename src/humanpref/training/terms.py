"""The loss of a batch: the configured terms of its pairs or rankings, and how many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from humanpref.training import losses
from humanpref.training.batches import Batch
from humanpref.training.config import TrainConfig


def loss_terms(scores: Tensor, log_sigma: Tensor | None, batch: Batch, config: TrainConfig) -> Tensor:
    """Terms of the loss (pairs,), or (rankings,) for the listwise one; scores in logits (entries,)."""
    if config.loss == "listwise":
        if not len(batch.first):
            return scores[:0]
        parts = zip(torch.split(scores, list(batch.sizes)), torch.split(batch.ranks, list(batch.sizes)), strict=True)
        return torch.stack([losses.listwise_terms(own, ranks) for own, ranks in parts])
    first, second = scores[batch.first], scores[batch.second]
    preferred = losses.smooth(batch.preferred, config.smoothing)
    if config.loss == "margin":
        return losses.margin_loss(first, second, preferred, config.margin)
    if config.loss == "uncertain":
        assert log_sigma is not None
        return losses.uncertain_loss(first, second, preferred, log_sigma[batch.first], log_sigma[batch.second])
    return losses.pair_loss(first, second, preferred)


def count_terms(batch: Batch, config: TrainConfig) -> int:
    """How many terms `loss_terms` has."""
    if config.loss == "listwise":
        return len(batch.sizes) if len(batch.first) else 0
    return len(batch.first)


def right_pairs(scores: Tensor, batch: Batch) -> tuple[int, int]:
    """Untied pairs ordered as the label says -> (right, all)."""
    gap = (scores[batch.first] - scores[batch.second]).detach()
    wanted = batch.preferred - 0.5
    untied = wanted != 0
    return int(((gap * wanted) > 0)[untied].sum()), int(untied.sum())
