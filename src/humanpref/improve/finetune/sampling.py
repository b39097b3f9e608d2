"""Images of a pipeline with gradients: the pipeline's own sampling, so what is trained on is what its users get.

The pipeline runs as always, without gradients, until the steps that are asked for; from there on they are recorded,
through the rest of the sampling and the decoder. So prompts, guidance, schedulers and decoding are diffusers' own, for
any pipeline whose call has `callback_on_step_end`: Stable Diffusion 1 to 3, SDXL, Flux, PixArt and their like.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from humanpref.generate.contract import Request
from humanpref.generate.diffusion import DiffusersBackend
from humanpref.improve.finetune.adapter import frozen
from humanpref.improve.methods import ImproveError
from humanpref.improve.pipelines import default_steps, denoiser_of


@dataclass(frozen=True)
class Sampled:
    """Images (n, 3, H, W) in [0, 1], with gradients; `distance`: how far the LoRA moved the predictions of the steps
    that gradients go through, as a mean square, () with gradients, None where it was not asked for."""

    pixels: Tensor
    distance: Tensor | None


def sampling_steps(backend: DiffusersBackend) -> int:
    """How many steps the backend samples with: its own option, or the pipeline's default."""
    return int(backend.config.steps or default_steps(backend.pipeline))


def check_pipeline(backend: DiffusersBackend) -> None:
    """Raise `ImproveError` for a pipeline that cannot be sampled with gradients; switch its safety checker off."""
    pipeline = backend.pipeline
    denoiser_of(pipeline)
    if "callback_on_step_end" not in inspect.signature(pipeline.__call__).parameters:
        raise ImproveError(f"{backend.name}: {type(pipeline).__name__} has no callback_on_step_end, which is needed")
    if not hasattr(type(pipeline).__call__, "__wrapped__"):
        raise ImproveError(f"{backend.name}: {type(pipeline).__name__} cannot be called with gradients")
    if getattr(pipeline.scheduler, "order", 1) > 1:
        raise ImproveError(
            f"{backend.name}: {type(pipeline.scheduler).__name__} takes more than one look a step, so steps cannot be "
            "counted; choose another, as scheduler=DDIMScheduler"
        )
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # it works on pictures that gradients cannot go through


def sample_last(
    backend: DiffusersBackend, requests: Sequence[Request], last_steps: int, *, distance: bool = False
) -> Sampled:
    """Sample one image per request with gradients through the last `last_steps` steps and the decoder.

    DRaFT-K, arXiv 2309.17400, section 4.2 (all steps: DRaFT). `distance`: measure it, which costs one more pass of the
    frozen denoiser for each of these steps.
    """
    taken = sampling_steps(backend)

    def on_end(pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step + 1 >= len(pipeline.scheduler.timesteps) - last_steps:
            torch.set_grad_enabled(True)
        return values

    return _run(backend, requests, on_end, at_once=last_steps >= taken, distance=distance)


def sample_early(backend: DiffusersBackend, requests: Sequence[Request], at: int, *, distance: bool = False) -> Sampled:
    """Sample without gradients up to step `at` (from 0), predict the clean image there with them, and decode that.

    ReFL, arXiv 2304.05977, section 3, algorithm 1. Raises `ImproveError` for a scheduler that tells no clean image.
    """
    pipeline = backend.pipeline
    if not isinstance(getattr(type(pipeline), "interrupt", None), property):
        raise ImproveError(f"{backend.name}: {type(pipeline).__name__} cannot be stopped early; use algorithm draft")

    def on_end(pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step + 1 == at:
            torch.set_grad_enabled(True)
        if step == at:
            pipeline._interrupt = True  # the steps that are left are passed over
        return values

    with _clean_at(pipeline.scheduler, at):
        return _run(backend, requests, on_end, at_once=at == 0, distance=distance)


def _run(
    backend: DiffusersBackend, requests: Sequence[Request], on_end: Any, *, at_once: bool, distance: bool
) -> Sampled:
    pipeline = backend.pipeline
    _, network = denoiser_of(pipeline)
    call: Any = type(pipeline).__call__
    found: list[Tensor] = []
    with ExitStack() as stack:
        if distance:
            stack.enter_context(_measured(network, found))
        stack.enter_context(torch.set_grad_enabled(at_once))
        images = call.__wrapped__(
            pipeline, **backend.arguments(requests), output_type="pt", callback_on_step_end=on_end
        ).images
    return Sampled(images.float(), torch.stack(found).mean() if distance else None)


@contextmanager
def _measured(network: Any, found: list[Tensor]) -> Iterator[None]:
    """Note the distance to the frozen model's prediction whenever the network predicts with gradients."""

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            with frozen(module):  # where this hook does nothing
                base = module(*args, **kwargs)[0]
            found.append((output[0].float() - base.float()).square().mean())

    handle = network.register_forward_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _clean_at(scheduler: Any, at: int) -> Iterator[None]:
    """Let the `at`-th step of a scheduler return the clean image it predicts, in place of the next noisy one."""
    original, count = scheduler.step, 0

    @functools.wraps(original)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 != at:
            return original(model_output, timestep, sample, *args, **options)
        if type(scheduler).__name__.startswith("FlowMatch"):
            if scheduler.step_index is None:
                scheduler._init_step_index(timestep)
            clean = sample - scheduler.sigmas[scheduler.step_index].to(sample) * model_output
        else:
            options["return_dict"] = True
            found = original(model_output, timestep, sample, *args, **options)
            clean = getattr(found, "pred_original_sample", None)
            clean = predicted_clean(scheduler, model_output, timestep, sample) if clean is None else clean
        return (clean,)

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


def predicted_clean(scheduler: Any, prediction: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """The clean image that a variance-preserving scheduler's model predicts of a noisy one, both (n, c, h, w).

    Raises `ImproveError` for schedulers of another kind.
    """
    if not hasattr(scheduler, "alphas_cumprod") or float(scheduler.init_noise_sigma) != 1.0:
        raise ImproveError(
            f"{type(scheduler).__name__} tells no clean image on the way, which refl needs; sample with "
            "scheduler=DDIMScheduler, or use algorithm draft"
        )
    kept = scheduler.alphas_cumprod[int(timestep)].to(sample.device, torch.float64)
    signal, noise = float(kept.sqrt()), float((1 - kept).sqrt())
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return (sample - noise * prediction) / signal
    return signal * sample - noise * prediction if kind == "v_prediction" else prediction
