"""Validation while training: the model scores the validation groups, and `humanpref.metrics` judges the scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from humanpref import metrics
from humanpref.errors import ImageError, TrainingError
from humanpref.evaluation.evaluate import TestSet
from humanpref.scorers.base import map_ahead
from humanpref.training.batches import Inputs, Place

CHUNK = 32
"""Images per forward pass."""


@dataclass(frozen=True)
class Validation:
    """What validation found, in [0, 1]: `accuracy` by HPD v2's rule, `pair_accuracy` over pairs that people do not
    tie, as in `humanpref evaluate`; `loss` is the pair loss against the consensus, per untied pair."""

    accuracy: float
    pair_accuracy: float
    loss: float


@torch.no_grad()
def score_groups(
    model: nn.Module, data: TestSet, inputs: Inputs, device: torch.device, place: Place | None = None
) -> list[metrics.Array]:
    """Scores in logits of this process's share of the groups (every `world`-th), in order. `model` is not wrapped.

    Raises `TrainingError` for an image that cannot be read.
    """
    where = place or Place()
    instances = data.instances[where.rank :: where.world]
    images = [image.path for instance in instances for image in instance.consensus.images]
    prompts = [instance.consensus.prompt for instance in instances for _ in instance.consensus.images]
    was_training = model.training
    model.eval()
    found: list[Tensor] = []
    waiting: list[Tensor] = []

    def flush() -> None:
        begin = sum(map(len, found))
        texts = prompts[begin : begin + len(waiting)]
        unique = list(dict.fromkeys(texts))
        number = {text: i for i, text in enumerate(unique)}
        scores, _ = model(
            torch.stack(waiting).to(device),
            inputs.prompts(unique).to(device),
            torch.arange(len(waiting), device=device),
            torch.tensor([number[text] for text in texts], device=device),
        )
        found.append(scores.float().cpu())
        waiting.clear()

    def read(path: object) -> Tensor | ImageError:
        try:
            return inputs.image(path)  # type: ignore[arg-type]
        except ImageError as error:
            return error

    try:
        for tensor in map_ahead(read, images, ahead=2 * CHUNK):
            if isinstance(tensor, ImageError):
                raise TrainingError(f"an image of the validation data cannot be read: {tensor}")
            waiting.append(tensor)
            if len(waiting) == CHUNK:
                flush()
        if waiting:
            flush()
    finally:
        model.train(was_training)
    values = torch.cat(found).double().numpy() if found else np.zeros(0)
    ends = np.cumsum([len(instance.consensus.images) for instance in instances])[:-1]
    return list(np.split(values, ends)) if len(instances) else []


def judge_groups(data: TestSet, scores: Sequence[metrics.Array]) -> Validation:
    """Judge scores of all groups, in order."""
    official, right, untied, loss = [], 0.0, 0, 0.0
    for instance, own in zip(data.instances, scores, strict=True):
        ranks = instance.consensus.ranks
        official.append(metrics.official_accuracy(own, ranks))
        good, count, _ = metrics.pair_agreement(own, ranks)
        right, untied = right + good, untied + count
        gaps, preferred = metrics.pair_table(own, ranks)
        signed = np.where(preferred > 0.5, gaps, -gaps)[preferred != 0.5]
        loss += float(np.logaddexp(0.0, -signed).sum())
    return Validation(float(np.mean(official)), right / untied, loss / untied)


def validate(
    model: nn.Module,
    data: TestSet,
    inputs: Inputs,
    device: torch.device,
    place: Place,
    gather: Callable[[list[metrics.Array]], list[list[metrics.Array]]],
) -> Validation:
    """Score on all processes, bring the scores together (`gather`), judge; every process gets the same answer."""
    shares = gather(score_groups(model, data, inputs, device, place))
    scores: list[metrics.Array] = [np.zeros(0)] * len(data.instances)
    for rank, share in enumerate(shares):
        for k, own in enumerate(share):
            scores[rank + k * place.world] = own
    return judge_groups(data, scores)
