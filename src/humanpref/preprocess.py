"""What a network sees of an image: named preprocessing specs, one code path for scoring and for gradients.

Everything runs on float tensors in [0, 1], shape (n, 3, H, W), so the exact path (a decoded image) and the
differentiable path (pixels from a generator) are the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from humanpref.errors import ScoreError

Resize: TypeAlias = Literal["antialias", "no-antialias"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PreprocessSpec:
    """Resize the longest side to `size` (bicubic), zero-pad to a centred square, normalise per channel."""

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


PREPROCESS: Mapping[str, PreprocessSpec] = MappingProxyType({"hps-v2": PreprocessSpec(size=224)})
"""`hps-v2`: official `hpsv2/src/open_clip/transform.py`, `ResizeMaxSize` then `Normalize`."""


def to_pixels(image: Image.Image) -> Tensor:
    """Turn an RGB picture into a float tensor (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255.0)


def check_pixels(pixels: Tensor) -> None:
    """Raise `ScoreError` unless `pixels` is a float tensor (n, 3, H, W) that looks like [0, 1]."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise ScoreError(f"pixels must have shape (n, 3, H, W), got {tuple(pixels.shape)}")
    if not pixels.is_floating_point():
        raise ScoreError(f"pixels must be floating point in [0, 1], got {pixels.dtype}; divide 8-bit values by 255")
    if pixels.numel() and not bool(pixels.detach().abs().amax() <= 4.0):  # also catches NaN
        raise ScoreError("pixels must lie in [0, 1] and be finite; divide 8-bit values by 255")


def preprocess(pixels: Tensor, spec: PreprocessSpec, resize: Resize) -> Tensor:
    """Resize, pad and normalise pixels (n, 3, H, W) in [0, 1] -> (n, 3, size, size), keeping gradients.

    `resize` says whether the bicubic resize filters before it shrinks. The official code did with torchvision
    >= 0.17 ("antialias") and did not before ("no-antialias"). Values are not clamped after it, as there.
    Always computed in float32 (under autocast too), because 16-bit resampling would move the scores.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        pixels = _fit(pixels.float(), spec.size, antialias=resize == "antialias")
        mean = pixels.new_tensor(spec.mean).view(1, 3, 1, 1)
        std = pixels.new_tensor(spec.std).view(1, 3, 1, 1)
        return (_pad_centred(pixels, spec.size) - mean) / std


def _fit(pixels: Tensor, size: int, *, antialias: bool) -> Tensor:
    """Scale the longest side to `size`; a side never vanishes, however narrow the picture."""
    height, width = pixels.shape[2:]
    scale = size / float(max(height, width))
    if scale == 1.0:
        return pixels
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    if target[1] == 1:  # PyTorch's antialiased resize to a width of one pixel is wrong, to a height of one it is right
        turned = F.interpolate(
            pixels.transpose(2, 3).contiguous(), target[::-1], mode="bicubic", align_corners=False, antialias=antialias
        )
        return turned.transpose(2, 3)
    return F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=antialias)


def _pad_centred(pixels: Tensor, size: int) -> Tensor:
    """Zero-pad to a square; the left and top get the smaller half. Black before normalisation, as officially."""
    extra_height, extra_width = size - pixels.shape[2], size - pixels.shape[3]
    if not (extra_height or extra_width):
        return pixels
    left, top = extra_width // 2, extra_height // 2
    return F.pad(pixels, (left, extra_width - left, top, extra_height - top))
