"""python recipes/ddpo_with_reward.py --steps 30

DDPO (arXiv 2305.13301) in small: policy gradients on the steps of DDIM, driven by nothing but a reward function
`(images, prompts, metadata) -> (scores, info)`, the signature of ddpo-pytorch. The reward here is one of
this package's scorers (`humanpref.reward.RewardFunction`), so `lite`, which is not differentiable, will do; the
loop does not know. On the diffusion model of the shapes world, on a CPU; needs `pip install -e ".[generate]"`.

Each step samples --images images with DDIM's noise (eta 1), eight of each prompt, standardises their rewards within
the prompt, and takes --epochs passes over
random denoising steps with PPO's clipped ratio, as ddpo-pytorch does. Prints the mean reward of each step, and at the
end the reward of held-out captions before and after, with a paired interval.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from humanpref.generate import make_backend
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve.finetune.adapter import add_lora
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.finetune.validation import draw, gain
from humanpref.prompts.records import Prompt
from humanpref.reward import RewardFunction
from humanpref.scorers import load_scorer
from humanpref.shapes.grammar import captions

GROUP = 8
"""Images of one prompt at a time, whose rewards are compared with each other."""

Reward = Callable[[Tensor, Sequence[str], Sequence[dict]], tuple[Any, dict]]


def log_probability(
    pipeline: Any, noise: Tensor, time: int, z: Tensor, following: Tensor | None, chance: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One step of DDIM with eta 1 as a policy: draws what follows where it is not given -> (it, its log-probability,
    (n,), a mean over dimensions as in ddpo-pytorch)."""
    scheduler = pipeline.scheduler
    before = time - 1000 // scheduler.num_inference_steps
    kept = scheduler.alphas_cumprod[time]
    then = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
    clean, eps = (
        kept.sqrt() * z - (1 - kept).sqrt() * noise,
        kept.sqrt() * noise + (1 - kept).sqrt() * z,
    )  # v-prediction
    deviation = max(float(((1 - then) / (1 - kept) * (1 - kept / then)).clamp(min=0).sqrt()), 1e-3)
    mean = then.sqrt() * clean + (1 - then - deviation**2).clamp(min=0).sqrt() * eps
    if following is None:
        following = mean + deviation * torch.randn(mean.shape, generator=chance)
    off = (following.detach() - mean) / deviation
    return following, (-0.5 * off.square() - math.log(deviation)).flatten(1).mean(1)


class Policy:
    """The denoiser with guidance, for some prompts."""

    def __init__(self, backend: DiffusersBackend, texts: Sequence[str], guidance: float) -> None:
        self.pipeline, self.guidance = backend.pipeline, guidance
        with torch.no_grad():
            told, plain = self.pipeline.encode_prompt(list(texts), "cpu", 1, True)
        self.text = torch.cat([plain, told])

    def __call__(self, z: Tensor, time: int) -> Tensor:
        """Its prediction for states (n, c, h, w) at a time, with gradients."""
        both = self.pipeline.unet(torch.cat([z, z]), time, encoder_hidden_states=self.text).sample
        plain, told = both.chunk(2)
        return plain + self.guidance * (told - plain)


def sample(backend: DiffusersBackend, policy: Policy, n: int, chance: torch.Generator) -> tuple[Tensor, list, list]:
    """Sample n images -> (pixels (n, 3, h, w) in [0, 1], the states on the way, log-probabilities of the steps)."""
    pipeline = backend.pipeline
    z = torch.randn(n, pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2, generator=chance)
    states, chances = [z], []
    with torch.no_grad():
        for time in pipeline.scheduler.timesteps.tolist():
            z, logarithm = log_probability(pipeline, policy(z, time), time, z, None, chance)
            states.append(z)
            chances.append(logarithm)
        pixels = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1), states, chances


def train(
    backend: DiffusersBackend, reward: Reward, prompts: Sequence[str], options: argparse.Namespace
) -> list[float]:
    """The loop: it knows images, prompts and the reward's numbers -> the mean reward of every step."""
    parameters = list(add_lora(backend.pipeline, FinetuneConfig(lora_rank=8, seed=options.seed)).values())
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate)
    chance, rng, curve = torch.Generator().manual_seed(options.seed), np.random.default_rng(options.seed), []
    for step in range(options.steps):
        several = rng.integers(len(prompts), size=options.images // GROUP)
        texts = [prompts[i] for i in several for _ in range(GROUP)]
        policy = Policy(backend, texts, options.guidance)
        images, states, old = sample(backend, policy, len(texts), chance)
        rewards, _ = reward(images, texts, [{}] * len(texts))
        rewards = torch.as_tensor(rewards)
        groups = rewards.view(-1, GROUP)  # the prompt's own part of the reward says nothing about the policy
        advantage = ((groups - groups.mean(1, keepdim=True)) / (groups.std() + 1e-6)).flatten().clamp(-5, 5)
        times = backend.pipeline.scheduler.timesteps.tolist()
        for place in rng.permutation(len(times) - 1)[: options.epochs]:  # the last step draws nothing
            z, following = states[place], states[place + 1]
            _, new = log_probability(backend.pipeline, policy(z, times[place]), times[place], z, following, None)
            ratio = (new - old[place]).exp()
            clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
            loss = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        curve.append(float(rewards.mean()))
        print(f"step {step + 1}: mean reward {curve[-1]:.4f}", flush=True)
    return curve


def run(options: argparse.Namespace) -> Any:
    torch.set_num_threads(options.threads)
    backend = make_backend(f"diffusers:shapes,steps={options.sampling},batch_size=16", {"device": "cpu"})
    assert isinstance(backend, DiffusersBackend)
    backend.pipeline.scheduler.set_timesteps(options.sampling)
    reward = RewardFunction(load_scorer(options.model))
    texts = captions(200 + options.held_out, options.seed)
    held = [Prompt(text, text) for text in texts[200:]]

    def score() -> list[float]:
        return reward(draw(backend, held, 99), [prompt.text for prompt in held], None)[0].tolist()

    before = score()
    train(backend, reward, texts[:200], options)
    found = gain(before, score())
    print(f"{len(held)} held-out captions: {found.baseline:.4f} -> {found.mean:.4f}, 95 % interval {found.ci}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite", help="the scorer that is the reward")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--sampling", type=int, default=10, help="steps of DDIM")
    parser.add_argument("--epochs", type=int, default=4, help="denoising steps learned from, of each image")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--clip", type=float, default=1e-2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
