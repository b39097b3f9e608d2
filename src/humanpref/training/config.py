"""What a training run is: one frozen record, and the presets it starts from. Unknown keys and bad values are
refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from humanpref.errors import TrainingError, UnknownNameError

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("clip", "head"),
        "loss": ("pair", "listwise", "margin", "uncertain"),
        "unit": ("pairs", "rankings", "groups"),
        "labels": ("each", "share"),
        "schedule": ("cosine", "constant"),
        "precision": ("fp32", "bf16"),
        "bad_images": ("stop", "skip"),
        "resize": ("antialias", "no-antialias"),
    }
)
"""The values that the fields with a closed set of them take."""

NEUTRAL = frozenset({"workers", "log_every", "keep"})
"""Fields that change neither batches nor weights: a resume may differ in them."""


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training run, apart from the data and the number of processes.

    The model. `model`: "clip" fine-tunes both towers, "head" trains a head on the frozen embeddings of a CLIP, computed
    once. `arch`: an open_clip name or a JSON config file. `base`: the weights to start from, a file or the name of a
    CLIP scorer (`clipscore` is LAION-2B ViT-H/14); "" starts from scratch. `vision_free`, `text_free`: how many of the
    last groups of the image tower and layers of the text tower are trained (HPS v2's counting), -1 for all.
    `lora_rank` above 0 freezes everything but low-rank additions (peft) to the linear layers that would be free.
    `hidden`: width of the head's hidden layer, 0 for a linear head. `text_head`: whether the head reads the prompt.
    `logit_scale`: where the temperature starts, in (0, `max_logit_scale`]; 0 keeps the base's.

    The loss (`humanpref.training.losses`). `unit`: "pairs" makes every pair an example, as HPS v2 does; "rankings"
    takes the images of a ranking together; "groups" takes all judgements that share images together, so that each image
    is encoded once per step (HPD v2's six pairs of four images cost a third of what they cost as pairs). `labels`:
    "each" trains on single annotators' judgements, "share" on the share of annotators who prefer an image, with
    `smoothing` added to both sides of it. `margin` in logits.

    The optimiser: AdamW; gains, biases, norms and the logit scale do not decay. `batch`: examples per process and
    forward pass; `accumulate`: forward passes per step. `clip`: largest norm of the gradient, 0 for none.

    The run. `validate_every`, `save_every`, `log_every`: in steps, 0 for the end only. `patience`: validations without
    a better one until it stops early, 0 for never. `keep`: how many last checkpoints, besides the best. `bad_images`:
    what an unreadable image does. Raises `TrainingError` for a value out of range, `UnknownNameError` for a choice that
    does not exist.
    """

    preset: str = "hps-v2"
    model: str = "clip"
    arch: str = "ViT-H-14"
    base: str = "clipscore"
    vision_free: int = 20
    text_free: int = 11
    lora_rank: int = 0
    lora_alpha: int = 16
    hidden: int = 0
    text_head: bool = True
    logit_scale: float = 0.0
    max_logit_scale: float = 100.0
    resize: str = "antialias"
    loss: str = "pair"
    unit: str = "pairs"
    labels: str = "each"
    smoothing: float = 0.0
    margin: float = 1.0
    learning_rate: float = 3.3e-6
    weight_decay: float = 0.35
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    schedule: str = "cosine"
    warmup: int = 500
    steps: int = 4000
    batch: int = 16
    accumulate: int = 1
    clip: float = 0.0
    precision: str = "fp32"
    checkpointing: bool = False
    seed: int = 0
    workers: int = 4
    shuffle_buffer: int = 1000
    bad_images: str = "stop"
    validate_every: int = 500
    save_every: int = 500
    log_every: int = 10
    patience: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise UnknownNameError(f"no {name} is called {value!r}; choose from: {', '.join(allowed)}")
        for name in ("steps", "batch", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("vision_free", "text_free"):
            if getattr(self, name) < -1:
                raise TrainingError(f"{name} must be a number of layers, or -1 for all, got {getattr(self, name)}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that do not go together."""
        if not 0 <= self.smoothing < 0.5:
            raise TrainingError(f"smoothing must be in [0, 0.5), got {self.smoothing}")
        if not 1 <= self.max_logit_scale <= 1e4 or self.logit_scale > self.max_logit_scale:
            raise TrainingError(
                f"logit_scale must be at most max_logit_scale, which is in [1, 10000]; got {self.logit_scale} "
                f"and {self.max_logit_scale}"
            )
        if self.loss == "listwise" and self.unit == "pairs":
            raise TrainingError("the listwise loss takes whole rankings: set unit=rankings or unit=groups")
        if self.loss == "listwise" and (self.labels == "share" or self.smoothing):
            raise TrainingError("the listwise loss has no soft labels: set labels=each and smoothing=0")
        if self.model == "head" and (self.lora_rank or self.checkpointing):
            raise TrainingError("a head on frozen embeddings has neither LoRA nor checkpointing; leave them out")
        for name, used, user in (
            ("margin", self.loss == "margin", "loss=margin"),
            ("hidden", self.model == "head", "model=head"),
            ("text_head", self.model == "head", "model=head"),
            ("lora_alpha", self.lora_rank > 0, "lora_rank above 0"),
            ("vision_free", self.model == "clip", "model=clip"),
            ("text_free", self.model == "clip", "model=clip"),
        ):
            if not used and getattr(self, name) != getattr(TrainConfig, name):
                raise TrainingError(f"{name} is for {user}, which this run is not; leave it out")

    @property
    def groups_per_step(self) -> int:
        """Examples that one process takes in one step."""
        return self.batch * self.accumulate


_NOT_NEGATIVE = (
    *(
        "lora_rank",
        "lora_alpha",
        "hidden",
        "logit_scale",
        "margin",
        "learning_rate",
        "weight_decay",
        "epsilon",
        "warmup",
    ),
    *("clip", "workers", "shuffle_buffer", "validate_every", "save_every", "log_every", "patience", "seed"),
)

PRESETS: Mapping[str, TrainConfig] = MappingProxyType(
    {
        "hps-v2": TrainConfig(),
        "hps-v2-lora": TrainConfig(
            preset="hps-v2-lora", lora_rank=16, learning_rate=1e-4, weight_decay=0.0, vision_free=-1, text_free=-1
        ),
        "listwise": TrainConfig(preset="listwise", loss="listwise", unit="rankings", batch=8),
        "head": TrainConfig(
            preset="head", model="head", learning_rate=1e-3, weight_decay=0.1, warmup=50, steps=1000, batch=64,
            unit="rankings", validate_every=100, save_every=500, workers=0, logit_scale=10.0,
        ),
        "head-mlp": TrainConfig(
            preset="head-mlp", model="head", hidden=256, learning_rate=1e-3, weight_decay=0.1, warmup=50, steps=1000,
            batch=64, unit="rankings", validate_every=100, save_every=500, workers=0, logit_scale=10.0,
        ),
    }
)  # fmt: skip
"""Where a run starts from, by name.

`hps-v2` is the recipe of arXiv 2306.09341 as its authors' training script has it (`hpsv2/configs/HPSv2.sh`,
`src/training/main.py`, `params.py` of tgxs002/HPSv2): ViT-H/14 from LAION-2B, the last 20 groups of the image tower
and 11 layers of the text tower free, AdamW with betas 0.9 and 0.98 and epsilon 1e-6, learning rate 3.3e-6, weight
decay 0.35, 500 steps of warm-up and a cosine, 16 pairs per GPU on 8 GPUs, no augmentation. The number of steps, 4000,
is not in the released script. Here the loss is the mean over pairs, there the sum: AdamW's step does not depend on a
constant factor of the loss, so the learning rate stays the same (`losses.pair_loss`)."""


def get_preset(name: str) -> TrainConfig:
    """Return a preset. Raises `UnknownNameError`, listing them."""
    if name not in PRESETS:
        raise UnknownNameError(f"no training preset is called {name!r}; choose from: {', '.join(PRESETS)}")
    return PRESETS[name]


Config = TypeVar("Config")
"""A frozen dataclass of numbers, texts and switches: `TrainConfig`, or that of another kind of training run."""


def with_options(config: Config, options: Mapping[str, object]) -> Config:
    """Return the config with some fields replaced; text is read as the field's type.

    Raises `UnknownNameError` for a field that does not exist, `TrainingError` for a value of another type.
    """
    kinds = get_type_hints(type(config))
    known = [name for name in kinds if name != "preset"]
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise UnknownNameError(f"no training option is called {name!r}; choose from: {', '.join(known)}")
        changes[name] = _read(name, value, kinds[name])
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def to_json(config: object) -> str:
    """Write a config down, for `from_json`."""
    return json.dumps(dataclasses.asdict(config), indent=1)  # type: ignore[call-overload]


def from_json(text: str, kind: type[Config]) -> Config:
    """Read a config of a kind that `to_json` wrote. Raises `TrainingError` for anything else."""
    try:
        found = json.loads(text)
        kinds = get_type_hints(kind)
        own: dict[str, Any] = {name: _read(name, value, kinds[name]) for name, value in found.items()}
        return kind(**own)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise TrainingError(f"not the configuration of a training run ({error})") from None


def differences(old: Config, new: Config) -> list[str]:
    """Say in which fields that matter two configs of a kind differ: ["learning_rate 1e-05 -> 2e-05", ...]."""
    return [
        f"{name} {getattr(old, name)} -> {getattr(new, name)}"
        for name in get_type_hints(type(old))
        if name not in NEUTRAL and getattr(old, name) != getattr(new, name)
    ]


def _read(name: str, value: object, kind: type) -> object:
    if kind is bool and isinstance(value, str) and value.lower() in {"true", "false", "1", "0", "yes", "no"}:
        return value.lower() in {"true", "1", "yes"}
    try:
        if kind is bool or isinstance(value, bool):
            if isinstance(value, kind):
                return value
            raise ValueError
        if kind is int and isinstance(value, float) and value != int(value):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise TrainingError(f"{name} must be {_KIND[kind]}, got {str(value)[:40]!r}") from None


_KIND = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
