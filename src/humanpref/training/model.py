"""The networks that are trained: a CLIP with some layers free, or a head on frozen embeddings; scores in logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humanpref.errors import DownloadError, MissingExtraError, TrainingError, UnknownNameError
from humanpref.scorers import SPECS
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import ScorerSpec
from humanpref.scorers.clip_networks import architecture, fresh_network, image_size, read_network
from humanpref.scorers.head import START_LOG_SIGMA, PreferenceHead
from humanpref.training.batches import Batch
from humanpref.training.config import TrainConfig


class ClipPreference(nn.Module):
    """CLIP's two towers -> the score of each entry of a batch, logit scale x cosine, and its log sigma if wanted."""

    def __init__(self, clip: nn.Module, config: TrainConfig) -> None:
        super().__init__()
        self.clip = clip
        self.max_log_scale = math.log(config.max_logit_scale)
        width = _embedding_width(clip)
        self.spread = nn.Linear(width, 1) if config.loss == "uncertain" else None
        if self.spread is not None:
            nn.init.zeros_(self.spread.weight)
            nn.init.constant_(self.spread.bias, START_LOG_SIGMA)
        if config.logit_scale:
            with torch.no_grad():
                self.clip.logit_scale.fill_(math.log(config.logit_scale))  # type: ignore[operator]

    def forward(
        self, images: Tensor, prompts: Tensor, image_of: Tensor, prompt_of: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Pixels (u, 3, size, size) and tokens (v, context); entries name one of each -> (entries,), (entries,) or
        None."""
        image = F.normalize(self.clip.encode_image(images).float(), dim=-1)[image_of]  # type: ignore[operator]
        text = F.normalize(self.clip.encode_text(prompts).float(), dim=-1)[prompt_of]  # type: ignore[operator]
        cosine = (image * text).sum(dim=-1)
        sigma = None if self.spread is None else self.spread(image * text).squeeze(-1)
        return self.clip.logit_scale.exp() * cosine, sigma  # type: ignore[operator]

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the logit scale in [1, max], as in the official loop after every step."""
        self.clip.logit_scale.clamp_(0, self.max_log_scale)  # type: ignore[operator]


@dataclass(frozen=True)
class Built:
    """A network to train, what makes its inputs, and the architecture it is of (open_clip's constructor arguments)."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    arch: dict[str, Any]
    size: int


def build_clip(config: TrainConfig) -> tuple[nn.Module, Callable[[list[str]], Tensor], dict[str, Any]]:
    """Make the CLIP that training starts from, in fp32 on the CPU -> (network, tokenizer, architecture).

    `base` is a weights file, the name of a CLIP scorer, or "" for random weights from the seed. Raises `WeightsError`,
    `DownloadError`, or `UnknownNameError`.
    """
    arch = architecture(config.arch)
    if not config.base:
        return *fresh_network(arch, config.seed), arch
    spec = SPECS.get(config.base)
    path = Path(config.base).expanduser()
    if spec is None and not path.is_file():
        clips = ", ".join(name for name, row in SPECS.items() if row.family == "clip")
        raise UnknownNameError(
            f"base {config.base!r} is neither a weights file nor a CLIP scorer ({clips}); base= (empty) "
            "starts from scratch"
        )
    if spec is not None:
        if spec.family != "clip":
            raise UnknownNameError(f"{spec.name} is no CLIP and cannot be trained on; give another base")
        path = _published(spec)
    layout = None if spec is None else spec.layout
    name = "training" if spec is None else spec.name
    model, tokenizer, _ = read_network(path, config.arch, layout, name, "fp32", torch.device("cpu"))
    return model, tokenizer, arch


def _published(spec: ScorerSpec) -> Path:
    """Where a scorer's published weights are. Raises `DownloadError` that says what `train` needs."""
    try:
        return weight_files.locate(spec, None)
    except DownloadError as error:
        raise DownloadError(
            f"training starts from {spec.name} ({spec.file} of {spec.repo or spec.page}), which is not here and could "
            "not be downloaded; give weights with --base FILE and their --arch, or start from scratch with --base none"
        ) from error


def build_head(width: int, config: TrainConfig) -> PreferenceHead:
    """Make the head that is trained on embeddings of this width; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PreferenceHead(
            width, hidden=config.hidden, reads_prompt=config.text_head, uncertain=config.loss == "uncertain"
        )


def build(config: TrainConfig) -> Built:
    """Make the CLIP to fine-tune, its layers free or frozen as configured, with LoRA if wanted."""
    clip, tokenizer, arch = build_clip(config)
    size = image_size(clip)
    clip.requires_grad_(True)
    free_layers(clip, config.vision_free, config.text_free)
    if config.checkpointing:
        clip.set_grad_checkpointing(True)  # type: ignore[operator]
    if config.lora_rank:
        clip = _with_lora(clip, config)
    model = ClipPreference(clip, config)
    return Built(model, tokenizer, arch, size)


def free_layers(clip: nn.Module, vision: int, text: int) -> None:
    """Freeze all but the last `vision` groups of the image tower and `text` layers of the text tower; -1 frees all.

    As HPS v2's own open_clip counts. The image tower's first group is its embeddings and first norm, its last is the
    projection, the one before is the last block with the last norm. A layer of the text tower is a block; the last
    norm and the projection are free where any block is (today's open_clip counts them as a layer). The logit scale is
    always free. Raises `TrainingError` for towers that cannot be frozen in part.
    """
    try:
        if vision >= 0:
            clip.lock_image_tower(unlocked_groups=vision)  # type: ignore[operator]
        if text >= 0:
            _lock_text(getattr(clip, "text", clip), text)
    except (AssertionError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"this architecture's towers cannot be frozen in part ({error}); set vision_free=-1 and text_free=-1"
        ) from None


def _lock_text(tower: Any, free: int) -> None:
    """`CLIP.lock_text_tower` of `src/open_clip/model.py` in tgxs002/HPSv2."""
    tower.token_embedding.requires_grad_(False)
    tower.positional_embedding.requires_grad_(False)
    if free:
        for block in list(tower.transformer.resblocks)[:-free]:
            block.requires_grad_(False)
    else:
        tower.transformer.requires_grad_(False)
        tower.ln_final.requires_grad_(False)
        if isinstance(tower.text_projection, nn.Parameter | nn.Module):
            tower.text_projection.requires_grad_(False)


def free_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are in all."""
    return (
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sum(p.numel() for p in model.parameters()),
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """The optimiser's two groups: gains, biases, norms and the logit scale do not decay (open_clip's and HPS v2's
    rule)."""
    free = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def plain(name: str, p: nn.Parameter) -> bool:
        return p.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    return [
        {"params": [p for name, p in free if plain(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in free if not plain(name, p)], "weight_decay": weight_decay},
    ]


def merged_clip(model: nn.Module) -> nn.Module:
    """The CLIP inside a trained model, low-rank additions merged into its weights."""
    clip = model.clip
    return clip.merge_and_unload() if hasattr(clip, "merge_and_unload") else clip  # type: ignore[operator,return-value]


def apply(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Score the entries of a batch, through whatever wraps the model."""
    scores: tuple[Tensor, Tensor | None] = model(batch.images, batch.prompts, batch.image_of, batch.prompt_of)
    return scores


def _with_lora(clip: nn.Module, config: TrainConfig) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError('LoRA needs peft: pip install "humanpref[train]"') from None
    free = [
        name
        for name, module in clip.named_modules()
        if isinstance(module, nn.Linear)
        and "NonDynamicallyQuantizable" not in type(module).__name__
        and module.weight.requires_grad
    ]
    if not free:
        raise TrainingError("no linear layer is free for LoRA; raise vision_free or text_free")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        lora = LoraConfig(r=config.lora_rank, lora_alpha=int(config.lora_alpha), target_modules=free, lora_dropout=0.0)
        wrapped = get_peft_model(clip, lora)
    wrapped.logit_scale.requires_grad_(True)
    return wrapped


def _embedding_width(clip: nn.Module) -> int:
    with torch.no_grad():
        tokens = torch.zeros((1, int(clip.context_length)), dtype=torch.long)  # type: ignore[arg-type]
        return int(clip.encode_text(tokens).shape[-1])  # type: ignore[operator]
