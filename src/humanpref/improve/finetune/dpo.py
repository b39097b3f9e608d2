"""Diffusion-DPO (arXiv 2311.12908): from pairs of images, of which people or a scorer prefer one; no reward needed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humanpref.generate.contract import Request
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.images import open_image
from humanpref.improve.finetune.adapter import frozen
from humanpref.improve.methods import ImproveError
from humanpref.improve.noise.encoding import encode
from humanpref.improve.pipelines import denoiser_of
from humanpref.records import ImageRef


@dataclass(frozen=True)
class Terms:
    """What a batch of pairs gives, each (n,): the loss, how often the LoRA's implied preference is the given one (0 or
    1), and the two squared errors with the LoRA less those of the frozen model."""

    loss: Tensor
    right: Tensor
    better: Tensor
    worse: Tensor


def dpo_terms(own: Tensor, base: Tensor, preferred: Tensor, beta: float) -> Terms:
    """The loss of n pairs, arXiv 2311.12908, equation 14, with its constants in `beta` as in the official code.

    own, base: (2, n) mean squared errors of the denoiser with the LoRA and of the frozen one, of each pair's first and
    second image, noised alike. preferred: (n,), the probability that the first is preferred.
    """
    gain = own - base
    inside = -0.5 * beta * (gain[0] - gain[1])
    loss = -(preferred * F.logsigmoid(inside) + (1 - preferred) * F.logsigmoid(-inside))
    return Terms(loss, ((inside > 0) == (preferred > 0.5)).float(), gain[0], gain[1])


def pair_terms(
    backend: DiffusersBackend,
    requests: Sequence[Request],
    pairs: Sequence[tuple[ImageRef, ImageRef]],
    preferred: Tensor,
    beta: float,
    chance: torch.Generator,
) -> Terms:
    """Noise both images of every pair alike, denoise them with and without the LoRA -> the terms, with gradients.

    requests: one for each pair, for its prompt. chance: on the CPU; decides times and noises. Raises `ImageError`, and
    `ImproveError` for a pipeline whose latents or noise are of another kind.
    """
    pipeline = backend.pipeline
    _, network = denoiser_of(pipeline)
    given = conditions(backend, [*requests, *requests])
    first = next(iter(given))
    if given[first].ndim != 4:
        raise ImproveError(f"{backend.name}: dpo is for latents (n, c, h, w), not packed ones; use algorithm draft")
    factor = int(pipeline.vae_scale_factor)
    side = (given[first].shape[3] * factor, given[first].shape[2] * factor)
    with torch.no_grad():
        opened = [open_image(image) for pair in zip(*pairs, strict=True) for image in pair]
        clean = encode(pipeline, opened, side)
    n = len(pairs)
    noise = torch.randn(clean[:n].shape, generator=chance).to(clean).repeat(2, 1, 1, 1)
    noisy, time, target = noised(pipeline.scheduler, clean, noise, n, given["timestep"], chance)
    given |= {first: noisy.to(given[first].dtype), "timestep": time}

    def error() -> Tensor:
        prediction = network(**given)[0].float()
        errors: Tensor = (prediction[:, : target.shape[1]] - target).square().flatten(1).mean(1)
        return errors.view(2, n)

    own = error()
    with frozen(network):
        base = error()
    return dpo_terms(own, base, preferred.to(own.device), beta)


def conditions(backend: DiffusersBackend, requests: Sequence[Request]) -> dict[str, Any]:
    """What the denoiser is called with for these prompts, by argument, without guidance: the sample first, `timestep`
    among it. Found by letting the pipeline begin, so it holds for any."""
    pipeline = backend.pipeline
    _, network = denoiser_of(pipeline)
    found: dict[str, Any] = {}

    def take(module: Any, args: Any, kwargs: Any) -> None:
        found.update(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        raise _Begun

    options = {**backend.arguments(requests), "num_inference_steps": 1, "guidance_scale": 1.0}
    options.pop("negative_prompt", None)
    handle = network.register_forward_pre_hook(take, with_kwargs=True)
    try:
        pipeline(**options)
    except _Begun:
        return found
    finally:
        handle.remove()
    raise ImproveError(f"{backend.name}: its pipeline made images without its denoiser")


class _Begun(Exception):  # noqa: N818 - nothing went wrong
    """The pipeline has come to its denoiser."""


def noised(
    scheduler: Any, clean: Tensor, noise: Tensor, n: int, like: Tensor, chance: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise latents (k * n, c, h, w) at n random times, those n apart alike -> (noisy, times, what is predicted).

    like: times as the denoiser was given them. Raises `ImproveError` for a scheduler whose noise is not known.
    """
    k = len(clean) // n
    if type(scheduler).__name__.startswith("FlowMatch"):
        sigma = torch.sigmoid(torch.randn(n, generator=chance)).to(clean)  # arXiv 2403.03206, section 3.1
        level = sigma.repeat(k).view(-1, 1, 1, 1)
        most = float(scheduler.config.num_train_timesteps)
        scale = most if float(like.flatten()[0]) > 1 else 1.0  # some pipelines hand over times in [0, 1]
        return (1 - level) * clean + level * noise, (sigma * scale).repeat(k).to(like.dtype), noise - clean
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ImproveError(f"dpo does not know the noise of {type(scheduler).__name__}; choose scheduler=DDIMScheduler")
    kept = scheduler.alphas_cumprod.to(clean)
    time = torch.randint(len(kept), (n,), generator=chance).to(clean.device).repeat(k)
    signal, level = kept[time].sqrt().view(-1, 1, 1, 1), (1 - kept[time]).sqrt().view(-1, 1, 1, 1)
    kind = scheduler.config.prediction_type
    target = {"epsilon": noise, "v_prediction": signal * noise - level * clean, "sample": clean}.get(kind)
    if target is None:
        raise ImproveError(f"dpo does not know what a model of prediction type {kind} predicts")
    return signal * clean + level * noise, time, target
