"""What a step of fine-tuning makes better: the reward of sampled images, or the order of given pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from humanpref.errors import ScoreError
from humanpref.generate.contract import Request, seed_of
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.dpo import pair_terms
from humanpref.improve.finetune.sampling import sample_early, sample_last, sampling_steps
from humanpref.improve.methods import ImproveError
from humanpref.prompts.records import Prompt
from humanpref.records import Pair
from humanpref.scorers import Scorer

TRAINING = 1_000_000
"""The numbers of images in training begin here, those of validation at 0: no noise is in both."""


class Objective(Protocol):
    """A loss of numbered draws: the same number, the same loss, so that a resumed run goes on exactly."""

    def loss(self, first: int) -> tuple[Tensor, Mapping[str, float]]:
        """The mean loss of the batch of draws that begins with number `first`, () with gradients, and what to log."""
        ...


def chosen(number: int, count: int, seed: int) -> int:
    """Which of `count` things is drawn `number`-th: all once, in random order, before any again."""
    round_, place = divmod(number, count)
    return int(np.random.default_rng([seed, round_]).permutation(count)[place])


@dataclass(frozen=True)
class Reward:
    """The reward of images sampled for the prompts, with gradients through the sampling (draft, refl)."""

    backend: DiffusersBackend
    prompts: Sequence[Prompt]
    scorer: Scorer
    config: FinetuneConfig

    def loss(self, first: int) -> tuple[Tensor, Mapping[str, float]]:
        """The mean reward in logits of preference, negative, plus what keeps the model near its beginning."""
        config = self.config
        requests: list[Request] = []
        for number in range(first, first + config.batch):
            prompt = self.prompts[chosen(number, len(self.prompts), config.seed)]
            seed = seed_of(config.seed, prompt.id, TRAINING + number)
            requests.append(Request(prompt, TRAINING + number, seed, len(requests)))
        if config.algorithm == "draft":
            sampled = sample_last(self.backend, requests, config.last_steps, distance=config.kl > 0)
        else:
            taken = sampling_steps(self.backend)
            at = int(np.random.default_rng([config.seed, first]).integers(int(config.late * taken), taken))
            sampled = sample_early(self.backend, requests, at, distance=config.kl > 0)
        if not bool(sampled.pixels.detach().isfinite().all()):
            return torch.tensor(float("nan")), {"reward": float("nan")}
        scores = self.scorer.score(sampled.pixels, [request.prompt.text for request in requests])
        loss = -scores.mean() * (self.scorer.logit_scale or 1.0)
        figures = {"reward": float(scores.detach().mean())}
        if sampled.distance is not None:
            loss = loss + config.kl * sampled.distance.to(loss.device)
            figures["distance"] = float(sampled.distance.detach())
        return loss, figures


@dataclass(frozen=True)
class Pairs:
    """The order of pairs of images, by Diffusion-DPO."""

    backend: DiffusersBackend
    prompts: Sequence[Prompt]  # one for each pair
    pairs: Sequence[Pair]
    config: FinetuneConfig

    def loss(self, first: int) -> tuple[Tensor, Mapping[str, float]]:
        """The mean Diffusion-DPO loss of the pairs, each with a time and a noise of its own."""
        config = self.config
        numbers = [chosen(n, len(self.pairs), config.seed) for n in range(first, first + config.batch)]
        requests = [Request(self.prompts[n], TRAINING, first + i, i) for i, n in enumerate(numbers)]
        drawn = [self.pairs[n] for n in numbers]
        terms = pair_terms(
            self.backend,
            requests,
            [(pair.first, pair.second) for pair in drawn],
            torch.tensor([pair.first_preferred for pair in drawn]),
            config.beta,
            torch.Generator().manual_seed(seed_of(config.seed, "pairs", first)),
        )
        figures = {
            "right": float(terms.right.mean()),
            "first_error": float(terms.better.detach().mean()),
            "second_error": float(terms.worse.detach().mean()),
        }
        return terms.loss.mean(), figures


def check_differentiable(scorer: Scorer) -> None:
    """Raise `ImproveError` for a scorer that lets no gradients through."""
    pixels = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    try:
        found = scorer.score(pixels, "a picture")
    except ScoreError:
        found = None
    if found is None or not found.requires_grad:
        raise ImproveError(
            f"{scorer.spec.name} is not differentiable, so no gradient can come from it; learn from pairs that it or "
            "people ranked (--algorithm dpo), take the best of several images (best-of), or choose a differentiable "
            "scorer (hps-v2.1, pickscore, imagereward, one that humanpref train made)"
        )
