"""Trained models as files: HPS v2's own layout, safetensors that open_clip and the Hub know, and what loads them
here."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import humanpref
from humanpref.errors import TrainingError, reason_of
from humanpref.preprocess import CLIP_MEAN, CLIP_STD
from humanpref.training.config import TrainConfig
from humanpref.training.embeddings import EmbeddingInputs
from humanpref.training.model import Built, merged_clip

SPEC, CONFIG, WEIGHTS, CARD = "humanpref.json", "open_clip_config.json", "open_clip_model.safetensors", "README.md"
HEAD = "head.safetensors"


@dataclass(frozen=True)
class Exported:
    """The folder of an exported model; `official`: its file in HPS v2's layout, None for a head."""

    folder: Path
    official: Path | None
    name: str


def export_clip(model: nn.Module, built: Built, config: TrainConfig, folder: Path, name: str) -> Exported:
    """Write a trained CLIP: `HPS_<name>.pt` (fp16 under `state_dict`, the layout and number format of HPS v2's
    published files), `open_clip_model.safetensors` in fp32 with `open_clip_config.json`, and `humanpref.json`.

    Low-rank additions are merged. The spread of the uncertainty-aware loss, which scores do not use, is in
    `spread.safetensors`. Raises `TrainingError` when they cannot be written; then none of them is.
    """
    from safetensors.torch import save_file

    own = {k: v.detach().cpu().contiguous() for k, v in merged_clip(model).state_dict().items()}
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in own.items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    official = f"HPS_{_safe(name)}.pt"

    def write(part: Path) -> None:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        torch.save({"state_dict": half}, part / official)
        preprocess: dict[str, Any] = {
            "size": built.size,
            "mode": "RGB",
            "mean": CLIP_MEAN,
            "std": CLIP_STD,
            "interpolation": "bicubic",
        }
        preprocess |= {"resize_mode": "longest", "fill_color": 0}
        _write(part / CONFIG, {"model_cfg": built.arch, "preprocess_cfg": preprocess})
        _write(part / SPEC, _spec(config, name, "clip", built.size) | {"weights": WEIGHTS, "arch": CONFIG})
        spread = getattr(model, "spread", None)
        if spread is not None:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in spread.state_dict().items()}, part / "spread.safetensors"
            )

    _whole(folder, write)
    return Exported(folder, folder / official, name)


def export_head(
    model: nn.Module, built: Built, config: TrainConfig, folder: Path, name: str, inputs: EmbeddingInputs
) -> Exported:
    """Write a trained head: `head.safetensors` and `humanpref.json`, which names the frozen CLIP it reads by
    SHA-256."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().float() for k, v in model.state_dict().items()}

    def write(part: Path) -> None:
        save_file(tensors, part / HEAD, metadata={"format": "pt"})
        _write(part / CONFIG, {"model_cfg": built.arch})
        head: dict[str, Any] = {"width": inputs.width, "hidden": config.hidden, "reads_prompt": config.text_head}
        head |= {
            "uncertain": config.loss == "uncertain",
            "base": config.base,
            "base_sha256": inputs.base_sha256,
            "seed": config.seed,
        }
        _write(part / SPEC, _spec(config, name, "head", built.size) | {"weights": HEAD, "arch": CONFIG, "head": head})

    _whole(folder, write)
    return Exported(folder, None, name)


def _spec(config: TrainConfig, name: str, family: str, size: int) -> dict[str, Any]:
    return {
        "humanpref": humanpref.__version__,
        "name": name,
        "family": family,
        "preprocess": "hps-v2",
        "resize": config.resize,
        "size": size,
        "scale": "cosine" if family == "clip" else "logit",
        "training": asdict(config),
    }


def _whole(folder: Path, write: Any) -> None:
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except Exception as error:  # torch, safetensors and the system each have their own error for a full disk
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(
            f"{folder}: the trained model cannot be written ({reason_of(error)}); make room and run it again"
        ) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)
