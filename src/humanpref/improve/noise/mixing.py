"""Initial noise that holds a trace of a reference image: pure functions on a scheduler's forward process.

Stable Diffusion's forward process never ends in pure noise: at its last training timestep T,
x_T = sqrt(abar_T) z + sqrt(1 - abar_T) eps with abar_T = 0.0047, so some of the image is always left, while sampling
starts from pure noise. The authors of HPS v2 (arXiv 2306.09341) report that mixing a reference image's latents into the
initial noise mends this mismatch and raises the score; Lin et al. (arXiv 2305.08891) describe the same mismatch, and
change the schedule instead (`humanpref.improve.noise.zero_snr`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from humanpref.improve.methods import ImproveError


@dataclass(frozen=True)
class Forward:
    """A forward process at one timestep: x = signal * z + noise * eps, z the latents of an image, eps normal noise.

    DDPM, DDIM, PNDM, DPM-Solver: signal = sqrt(abar), noise = sqrt(1 - abar). Euler, Heun, LMS and other schedulers in
    sigmas: signal = 1, noise = sigma. Flow matching: signal = 1 - sigma, noise = sigma.
    """

    signal: float
    noise: float

    @property
    def scale(self) -> float:
        """The standard deviation of x where z has 1: sqrt(signal^2 + noise^2)."""
        return math.hypot(self.signal, self.noise)

    @property
    def share(self) -> float:
        """The signal's share of that, in [0, 1]: sqrt(abar), whatever form the scheduler has."""
        return self.signal / self.scale


def at_start(scheduler: Any, steps: int) -> Any:
    """Return a copy of a scheduler of diffusers that is about to take the first of so many steps.

    Raises `ImproveError` for one that does not know its forward process.
    """
    if not hasattr(scheduler, "add_noise") and not hasattr(scheduler, "scale_noise"):
        known = sorted(kind.__name__ for kind in getattr(scheduler, "compatibles", ()) if hasattr(kind, "add_noise"))
        hint = f"choose another with scheduler=: {', '.join(known)}" if known else "choose another with scheduler="
        raise ImproveError(
            f"{type(scheduler).__name__} cannot add noise to an image (no add_noise, no scale_noise); {hint}"
        )
    started = copy.deepcopy(scheduler)
    # how far the sigmas are shifted depends on the resolution, but never what the first one is
    started.set_timesteps(steps, **({"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}))
    if hasattr(started, "set_begin_index"):
        started.set_begin_index(0)
    return started


def forward_at_start(started: Any) -> Forward:
    """Return the forward process at the timestep a scheduler of `at_start` begins with, by asking the scheduler."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    return Forward(*(float(add_noise(started, z, eps)) for z, eps in ((one, zero), (zero, one))))


def add_noise(started: Any, latents: Tensor, noise: Tensor) -> Tensor:
    """Take latents (n, ...) to the first timestep by the scheduler's own `add_noise` (flow matching: `scale_noise`)."""
    timesteps = started.timesteps[:1].expand(len(latents)).to(latents.device)
    if hasattr(started, "scale_noise"):
        return torch.as_tensor(started.scale_noise(latents, timesteps, noise))
    return torch.as_tensor(started.add_noise(latents, noise, timesteps))


def mix(latents: Tensor, noise: Tensor, forward: Forward, share: float | None = None) -> Tensor:
    """Mix latents and noise, of one shape -> x as the first step of sampling takes it, before any division.

    share None: only what training left there, x = signal * z + noise * eps, the scheduler's forward process.
    share in [0, 1]: as if z had been noised to the earlier timestep whose sqrt(abar) is `share`, at the scale of the
    first one: x = scale * (share * z + sqrt(1 - share^2) * eps), so that the SNR is share^2 / (1 - share^2).
    """
    if share is None:
        return forward.signal * latents + forward.noise * noise
    check_share(share)
    return forward.scale * (share * latents + math.sqrt(1.0 - share * share) * noise)


def check_share(share: float) -> None:
    """Raise `ImproveError` for a signal's share outside [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise ImproveError(
            f"strength is the signal's share of the initial noise, from 0 to 1, or mismatch; got {share}"
        )
