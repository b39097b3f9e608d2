"""Reference images to the latents that a pipeline's denoiser works on, and that pipeline's own initial noise."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from humanpref.errors import reason_of
from humanpref.generate.diffusion import is_out_of_memory
from humanpref.improve.methods import ImproveError
from humanpref.improve.pipelines import denoiser_of

DRAWING = {"batch_size", "num_channels_latents", "height", "width", "dtype", "device", "generator"}
"""What `prepare_latents` of a pipeline that makes images of text takes."""


def check_pipeline(pipeline: Any) -> None:
    """Raise `ImproveError` for a pipeline whose initial noise cannot hold an image's latents."""
    name = type(pipeline).__name__
    if getattr(pipeline, "vae", None) is None:
        raise ImproveError(
            f"{name} has no VAE: it works on pixels or on latents of its own; noise: is for latent diffusion "
            "(Stable Diffusion, SDXL, SD3, Flux, PixArt)"
        )
    taken = inspect.signature(pipeline.__call__).parameters
    draws = inspect.signature(pipeline.prepare_latents).parameters if hasattr(pipeline, "prepare_latents") else {}
    images = hasattr(pipeline, "image_processor") and hasattr(pipeline.vae.config, "latent_channels")
    if "latents" not in taken or not draws.keys() >= DRAWING or not images:
        raise ImproveError(f"{name} takes no initial latents of images; noise: is for pipelines that do")


def default_size(pipeline: Any) -> tuple[int, int]:
    """Return the width and height in pixels that a pipeline makes where none is asked for."""
    sample = getattr(pipeline, "default_sample_size", None) or denoiser_of(pipeline)[1].config.sample_size
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


def draw_noise(pipeline: Any, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
    """Draw what the pipeline would begin with, from one generator an image -> (n, C, h, w) or packed (n, tokens, d).

    float32, of standard deviation 1, whatever the scheduler's `init_noise_sigma`.
    """
    drawn = pipeline.prepare_latents(
        batch_size=len(generators),
        num_channels_latents=latent_channels(pipeline),
        height=size[1],
        width=size[0],
        dtype=denoiser_of(pipeline)[1].dtype,
        device=pipeline._execution_device,
        generator=list(generators),
        latents=None,
    )
    latents = drawn[0] if isinstance(drawn, tuple) else drawn
    return torch.as_tensor(latents.float() / float(getattr(pipeline.scheduler, "init_noise_sigma", 1.0)))


def latent_channels(pipeline: Any) -> int:
    """Return the number of channels of a pipeline's latents."""
    return int(pipeline.vae.config.latent_channels)


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image until it covers width x height, and cut off evenly what stands out: nothing is distorted."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def encode(pipeline: Any, images: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """Encode RGB images -> latents (n, C, h, w), float32, scaled as the denoiser takes them.

    As diffusers' pipelines from image to image do it: the mode of AutoencoderKL's distribution, the latents of
    AutoencoderTiny; in float32 where the VAE overflows in float16. Raises `ImproveError` where the VAE cannot.
    """
    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess([cover(image, size) for image in images])  # (n, 3, H, W) in [-1, 1]
    dtype = vae.dtype
    upcast = bool(getattr(vae.config, "force_upcast", False)) and dtype == torch.float16
    try:
        if upcast:
            vae.to(dtype=torch.float32)
        with torch.no_grad():
            found = vae.encode(pixels.to(vae.device, torch.float32 if upcast else dtype))
    except Exception as error:  # of networks of all kinds
        if is_out_of_memory(error):
            raise
        raise ImproveError(f"{type(vae).__name__} cannot encode the reference image ({reason_of(error)})") from None
    finally:
        if upcast:
            vae.to(dtype=dtype)
    return scale(_latents_of(found).float(), vae.config)


def scale(latents: Tensor, config: Any) -> Tensor:
    """Scale what a VAE encodes (n, C, h, w) as the denoiser takes it: by mean and deviation where the VAE has them."""
    factor, shift = getattr(config, "scaling_factor", None), getattr(config, "shift_factor", None)
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and deviation is not None:
        across = (1, -1, 1, 1)
        latents = (latents - latents.new_tensor(mean).view(across)) / latents.new_tensor(deviation).view(across)
    elif shift is not None:
        latents = latents - shift
    return latents * (1.0 if factor is None else factor)


def pack(pipeline: Any, latents: Tensor, like: Tensor) -> Tensor:
    """Bring latents (n, C, h, w) into the form of a pipeline's noise: as they are, or, of Flux and its like, packed.

    Raises `ImproveError` where the two do not come to the same shape.
    """
    if like.ndim == 3 and hasattr(pipeline, "_pack_latents"):
        try:
            latents = pipeline._pack_latents(latents, *latents.shape)
        except TypeError:
            raise ImproveError(
                f"{type(pipeline).__name__} packs its latents in a way that noise: does not know"
            ) from None
    if latents.shape != like.shape:
        raise ImproveError(
            f"{type(pipeline).__name__}: the reference's latents {tuple(latents.shape)} are not like its noise "
            f"{tuple(like.shape)}; choose a size that is a multiple of {2 * pipeline.vae_scale_factor}"
        )
    return latents


def _latents_of(encoded: Any) -> Tensor:
    if hasattr(encoded, "latent_dist"):
        return torch.as_tensor(encoded.latent_dist.mode())
    return torch.as_tensor(encoded.latents if hasattr(encoded, "latents") else encoded.latent)
