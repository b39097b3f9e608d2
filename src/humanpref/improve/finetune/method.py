"""The method `lora:FILE`: what a fine-tuning made, put on a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from humanpref.generate.contract import Backend
from humanpref.improve.methods import ImproveError, only_diffusers
from humanpref.improve.tokens.templates import join_negatives


@dataclass(frozen=True)
class LoraConfig:
    """Options: `scale`, how strongly the LoRA is applied; `negative`, a negative prompt that it was trained for."""

    scale: float = 1.0
    negative: str | None = None


@dataclass(frozen=True)
class LoraMethod:
    """A pipeline with a LoRA, in a `.safetensors` file of diffusers' format."""

    what: str
    config: LoraConfig

    def apply(self, backend: Backend) -> Backend:
        """Return the pipeline with the LoRA. Raises `ImproveError` for what is no pipeline, or has a LoRA already;
        `GenerateError` for a file that cannot be read."""
        own = only_diffusers(backend, "lora")
        if own.config.lora is not None:
            raise ImproveError(f"{own.name} has a LoRA already ({own.config.lora})")
        negative = join_negatives(own.config.negative_prompt, self.config.negative)
        options = {"negative_prompt": negative} if negative else {}
        return own.changed(lora=Path(self.what).expanduser(), lora_scale=self.config.scale, **options)
