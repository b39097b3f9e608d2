"""The method `zero-snr`: the schedule is changed so that its last timestep has no signal left (arXiv 2305.08891).

Later work's answer to the mismatch that reference noise mends (`humanpref.improve.noise.method`): Lin et al. rescale
the betas (Algorithm 1), sample from the last timestep (trailing spacing, section 3.3) and rescale guidance
(section 3.4).
diffusers has all three; what is here checks that they fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from humanpref.generate.contract import Backend, Request, Settings
from humanpref.improve.methods import ImproveError, only_diffusers

OPTION = "rescale_betas_zero_snr"


@dataclass(frozen=True)
class ZeroSnrConfig:
    """Options: `spacing` of the timesteps; trailing begins with the last one, where the signal is gone.
    `guidance_rescale` from 0 (none) to 1; Lin et al. use 0.7."""

    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    guidance_rescale: float | None = None


@dataclass(frozen=True)
class ZeroSnr:
    """A schedule with a terminal signal-to-noise ratio of zero; it is its own change of a pipeline."""

    what: str
    config: ZeroSnrConfig

    def __post_init__(self) -> None:
        if (rescale := self.config.guidance_rescale) is not None and not 0.0 <= rescale <= 1.0:
            raise ImproveError(f"zero-snr: guidance_rescale must be from 0 to 1, got {rescale}")

    @property
    def settings(self) -> Settings:
        """What decides what this does to an image."""
        return {"method": "zero-snr", **vars(self.config)}

    def apply(self, backend: Backend) -> Backend:
        """Return a backend whose pipeline has such a schedule. Raises `ImproveError` for one that is no pipeline."""
        return only_diffusers(backend, "zero-snr").changed(self)

    def prepare(self, pipeline: Any) -> None:
        """Change the scheduler. Raises `ImproveError` for one that cannot, or a model that predicts the noise."""
        scheduler = pipeline.scheduler
        name = type(scheduler).__name__
        if OPTION not in inspect.signature(type(scheduler).__init__).parameters:
            raise ImproveError(f"zero-snr: {name} cannot rescale its betas; {_instead(scheduler)}")
        if scheduler.config.get("prediction_type", "epsilon") == "epsilon":
            raise ImproveError(
                f"zero-snr: this model predicts the noise (prediction_type of its {name} is epsilon), and of an image "
                "without signal the noise says nothing: take a model with v_prediction (Stable Diffusion 2.1), "
                "or mend the noise instead, with noise:FILE"
            )
        takes = inspect.signature(pipeline.__call__).parameters
        if self.config.guidance_rescale is not None and "guidance_rescale" not in takes:
            raise ImproveError(f"zero-snr: {type(pipeline).__name__} takes no guidance_rescale; leave it out")
        changes = {OPTION: True, "timestep_spacing": self.config.spacing}
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes)

    def options(self, pipeline: Any, requests: Sequence[Request], generators: Sequence[Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the rescaling of guidance, if any."""
        rescale = self.config.guidance_rescale
        return {} if rescale is None else {"guidance_rescale": rescale}


def _instead(scheduler: Any) -> str:
    able = [
        kind for kind in getattr(scheduler, "compatibles", ()) if OPTION in inspect.signature(kind.__init__).parameters
    ]
    if not able:
        return "flow matching has no betas, and its models are trained down to pure noise: there is nothing to mend"
    return f"choose one that can, with scheduler=: {', '.join(sorted(kind.__name__ for kind in able))}"
