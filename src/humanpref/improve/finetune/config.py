"""What a fine-tuning is: one frozen record. Unknown keys and bad values are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from humanpref.errors import TrainingError, UnknownNameError
from humanpref.improve.methods import ImproveError
from humanpref.training.config import with_options

CHOICES: Mapping[str, tuple[str, ...]] = {
    "algorithm": ("draft", "refl", "dpo"),
    "precision": ("fp32", "bf16", "fp16"),
}
"""The values that the fields with a closed set of them take."""


@dataclass(frozen=True)
class FinetuneConfig:
    """All that decides a fine-tuning, apart from model, data and scorers.

    `algorithm`: "draft" samples an image and lets the reward's gradient through the last `last_steps` steps (DRaFT-K,
    arXiv 2309.17400, section 4); "refl" stops at a random step of the part after `late` of them, predicts the clean
    image there and lets the gradient through that one step (ReFL, arXiv 2304.05977, section 3); "dpo" learns from
    pairs of images without a reward (Diffusion-DPO, arXiv 2311.12908, equation 14). How many steps, which guidance and
    which scheduler images are sampled with is the backend's to say, as everywhere.

    To stay near the model it starts from: `kl` > 0 adds kl * mean squared difference of the predictions with and
    without the LoRA, at every step that gradients go through (draft, refl; the reward is counted in logits of
    preference); `beta` is Diffusion-DPO's own.

    The LoRA: `lora_rank`, on the linear layers whose names end in one of `lora_layers` (separated by commas). Its alpha
    is its rank, so that files of any program that reads them mean the same.

    The optimiser: AdamW, a linear `warmup`, then constant. `batch`: images (dpo: pairs) at a time; `accumulate`:
    batches per step. `clip`: largest norm of the gradient, 0 for none; a gradient whose norm is above `max_gradient`
    (in units of the loss), or no number, ends the run. `checkpointing` computes activations twice to save memory.
    `precision`: what the frozen weights are held in; the LoRA is always fp32.

    The run: `held_out` prompts are kept for validation unless others are given, one image of each (`seed` and prompt
    decide its noise), at step 0 and every `validate_every` steps (0: at the end only); `shown` of them go into the
    picture. `patience`: validations without a better one until it stops early, 0 for never. `save_every`, `log_every`
    in steps; `keep`: how many last checkpoints, besides the best.

    Raises `ImproveError` for a value out of range, `UnknownNameError` for a choice that does not exist.
    """

    algorithm: str = "draft"
    last_steps: int = 1
    late: float = 0.75
    beta: float = 2000.0
    kl: float = 0.0
    lora_rank: int = 16
    lora_layers: str = "to_q,to_k,to_v,to_out.0"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    warmup: int = 0
    steps: int = 200
    batch: int = 4
    accumulate: int = 1
    clip: float = 1.0
    max_gradient: float = 1e6
    checkpointing: bool = False
    precision: str = "fp32"
    seed: int = 0
    held_out: int = 16
    shown: int = 8
    validate_every: int = 20
    save_every: int = 20
    log_every: int = 1
    patience: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UnknownNameError(f"no {name} is called {value!r}; choose from: {', '.join(allowed)}")
        for name in ("last_steps", "lora_rank", "steps", "batch", "accumulate", "held_out", "shown", "keep"):
            if getattr(self, name) < 1:
                raise ImproveError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ImproveError(f"{name} must be a number and not negative, got {getattr(self, name)}")
        for name in ("learning_rate", "max_gradient", "beta"):
            if not getattr(self, name) > 0:
                raise ImproveError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("late", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ImproveError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not all(self.layers):
            raise ImproveError(f"lora_layers must be names separated by commas, got {self.lora_layers!r}")
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        """Refuse what the algorithm would not use."""
        if self.algorithm == "dpo" and self.kl:
            raise ImproveError("dpo stays near the model by beta; leave kl out")
        for name, algorithm in (("last_steps", "draft"), ("late", "refl"), ("beta", "dpo")):
            if self.algorithm != algorithm and getattr(self, name) != getattr(FinetuneConfig, name):
                raise ImproveError(f"{name} is for {algorithm} only, which {self.algorithm} is not; leave it out")

    @property
    def layers(self) -> list[str]:
        """The ends of the names of the layers that get a LoRA."""
        return [name.strip() for name in self.lora_layers.split(",")]


_NOT_NEGATIVE = (
    *("kl", "learning_rate", "weight_decay", "epsilon", "warmup", "clip", "seed"),
    *("validate_every", "save_every", "log_every", "patience"),
)


def read_config(path: Path) -> FinetuneConfig:
    """Read a JSON file of options -> the configuration with these, the others as they are by default.

    Raises `ImproveError` for a file that cannot be read, `UnknownNameError` for a key that does not exist.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImproveError(f"{path}: not a JSON file of options ({error})") from None
    if not isinstance(found, dict):
        raise ImproveError(f'{path}: must hold one JSON object, as {{"algorithm": "refl"}}')
    try:
        return with_options(FinetuneConfig(), found)
    except (TrainingError, ImproveError, UnknownNameError) as error:
        raise type(error)(f"{path}: {error}") from None
