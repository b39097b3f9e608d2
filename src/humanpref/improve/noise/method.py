"""The method `noise`: sampling starts from noise with a trace of a reference image in it (`improve.noise`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humanpref.generate.contract import Backend, Request, Settings
from humanpref.generate.options import parse_size
from humanpref.images import open_image
from humanpref.improve.methods import ImproveError, only_diffusers
from humanpref.improve.noise import encoding
from humanpref.improve.noise.mixing import at_start, check_share, forward_at_start, mix
from humanpref.improve.noise.references import Choice, References, find_references
from humanpref.improve.pipelines import default_steps, denoiser_of
from humanpref.prompts.records import Prompt

MISMATCH = "mismatch"
NO_SIGNAL = 1e-3
"""A signal's share below this is none (schedulers that cannot have 0 have 2^-12)."""


@dataclass(frozen=True)
class NoiseConfig:
    """Options. `strength`: mismatch (what training's last timestep left of an image, and no more) or the signal's share
    of the initial noise, from 0 (the baseline) to 1.

    Of several images: `by` is how one is found for each prompt: prompt (a folder of `humanpref generate` that has
    images of the same prompts; the default there) or a CLIP scorer (clipscore by default), of `weights` and `arch`;
    `best`, of `best_weights` and `best_arch`, a scorer that picks among the `k` nearest (8 by default).
    """

    strength: str = MISMATCH
    by: str | None = None
    weights: Path | None = None
    arch: str | None = None
    k: int | None = None
    best: str | None = None
    best_weights: Path | None = None
    best_arch: str | None = None
    device: str = "auto"


class ReferenceNoise:
    """Initial noise with a trace of an image: always the same, or one found for each prompt."""

    def __init__(self, what: str, config: NoiseConfig) -> None:
        """Check strength and references. Raises `ImproveError`."""
        self.share = parse_strength(config.strength)
        choice = Choice(
            config.by, config.weights, config.arch, config.k, config.best, config.best_weights, config.best_arch,
            config.device,
        )  # fmt: skip
        self.references = find_references(what, choice)

    def apply(self, backend: Backend) -> Backend:
        """Return a backend whose pipeline starts from such noise. Raises `ImproveError` for one that is no pipeline."""
        pipeline = only_diffusers(backend, "noise:")
        size, steps = parse_size(pipeline.config.size), pipeline.config.steps
        return pipeline.changed(NoiseChange(self.references, self.share, size, steps))


@dataclass(frozen=True)
class NoiseChange:
    """The change of a pipeline. `share` None: only the mismatch. `size` (width, height) and `steps` None: its own."""

    references: References
    share: float | None
    size: tuple[int, int] | None
    steps: int | None

    @property
    def settings(self) -> Settings:
        """What decides what this does to an image."""
        strength = MISMATCH if self.share is None else self.share
        return {"method": "noise", "strength": strength, "reference": dict(self.references.settings)}

    def look_at(self, prompts: Sequence[Prompt]) -> None:
        """Find the prompts' references. Raises `ImproveError` where there is none."""
        self.references.find(prompts)

    def details(self, request: Request) -> Mapping[str, Any]:
        """Return the request's reference."""
        found = self.references.of(request.prompt)
        return {"reference": found.name, "reference_sha256": found.sha256}

    def prepare(self, pipeline: Any) -> Sequence[str]:
        """Check that the pipeline can start from an image. Raises `ImproveError`."""
        encoding.check_pipeline(pipeline)
        forward = forward_at_start(at_start(pipeline.scheduler, self._steps(pipeline)))
        if self.share is None and forward.share < NO_SIGNAL:
            return (
                "noise: the model was trained to begin with pure noise, so there is no mismatch to mend and nothing "
                "changes; choose a strength, as strength=0.1",
            )
        return ()

    def options(self, pipeline: Any, requests: Sequence[Request], generators: Sequence[Any]) -> Mapping[str, Any]:
        """Return the initial latents: the pipeline's own noise of these generators, mixed with the references'."""
        started = at_start(pipeline.scheduler, self._steps(pipeline))
        forward = forward_at_start(started)
        if self.share == 0.0 or (self.share is None and forward.signal == 0.0):
            return {}  # the baseline, bit for bit
        size = self.size or encoding.default_size(pipeline)
        noise = encoding.draw_noise(pipeline, generators, size)
        latents = encoding.pack(pipeline, self._latents(pipeline, requests, _fitting(pipeline, noise, size)), noise)
        mixed = mix(latents.to(noise.device), noise, forward, self.share)
        # the pipeline multiplies what it is given by this, as it does what it draws
        mixed = mixed / float(getattr(started, "init_noise_sigma", 1.0))
        return {"latents": mixed.to(denoiser_of(pipeline)[1].dtype)}

    def _steps(self, pipeline: Any) -> int:
        return self.steps or default_steps(pipeline)

    def _latents(self, pipeline: Any, requests: Sequence[Request], size: tuple[int, int]) -> Any:
        import torch

        self.references.find([request.prompt for request in requests])  # those of other texts than were looked at
        found = [self.references.of(request.prompt) for request in requests]
        unique = list(dict.fromkeys(found))
        encoded = {one: encoding.encode(pipeline, [open_image(one.path)], size)[0] for one in unique}
        return torch.stack([encoded[one] for one in found])


def parse_strength(text: str) -> float | None:
    """Return the signal's share that a strength names, None for mismatch. Raises `ImproveError`."""
    if text == MISMATCH:
        return None
    try:
        share = float(text)
    except ValueError:
        raise ImproveError(f"strength is {MISMATCH} or a number from 0 to 1, got {text!r}") from None
    check_share(share)
    return share


def _fitting(pipeline: Any, noise: Any, size: tuple[int, int]) -> tuple[int, int]:
    """The pixels that the noise stands for: packed latents leave out what does not fill a patch."""
    if noise.ndim == 3:
        step = 2 * pipeline.vae_scale_factor
        return size[0] // step * step, size[1] // step * step
    return size
