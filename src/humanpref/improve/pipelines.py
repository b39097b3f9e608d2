"""What the methods ask of a pipeline of diffusers: its denoiser, its steps."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from humanpref.improve.methods import ImproveError


def denoiser_of(pipeline: Any) -> tuple[str, Any]:
    """Return the part that denoises: ("unet" or "transformer", the network). Raises `ImproveError`."""
    for part in ("unet", "transformer"):
        if isinstance(network := getattr(pipeline, part, None), nn.Module):
            return part, network
    raise ImproveError(f"{type(pipeline).__name__} has neither a unet nor a transformer to fine-tune")


def default_steps(pipeline: Any) -> int:
    """Return the steps that a pipeline takes where none are asked for. Raises `ImproveError` where it takes none."""
    taken = inspect.signature(pipeline.__call__).parameters.get("num_inference_steps")
    if taken is None:
        raise ImproveError(f"{type(pipeline).__name__} takes no number of steps")
    return int(taken.default)
