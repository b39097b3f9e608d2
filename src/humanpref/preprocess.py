"""What a network sees of an image: named preprocessing specs, one code path for scoring and for gradients.

HPS v2 resizes float tensors, so there the exact path (a decoded image) and the differentiable path (pixels from a
generator) are the same function. The other scorers' authors resize with PIL, on 8-bit values: decoded images are
treated so, and pixels, which need gradients, by the same filter on floats (about one 8-bit step from PIL's result).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from humanpref.errors import ScoreError
from humanpref.images import MAX_PIXELS

Resize: TypeAlias = Literal["antialias", "no-antialias"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

LARGE_RESIZE = 2**24
"""A resized picture of more pixels than this (a very elongated one) is resized only where it is kept."""


@dataclass(frozen=True)
class PreprocessSpec:
    """Make a square of `size` pixels, bicubic, and normalise it per channel.

    fit: "pad": the longest side becomes `size`, then zero-pad. "crop": the shortest does, then cut out the centre;
    where the rest is odd, the cut begins at its half rounded to even ("crop"), or rounded down ("crop-floor").
    """

    size: int
    fit: Literal["pad", "crop", "crop-floor"] = "pad"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


PREPROCESS: Mapping[str, PreprocessSpec] = MappingProxyType(
    {
        "hps-v2": PreprocessSpec(size=224),
        "clip": PreprocessSpec(size=224, fit="crop"),
        "clip-transformers": PreprocessSpec(size=224, fit="crop-floor"),
    }
)
"""`hps-v2`: official `hpsv2/src/open_clip/transform.py`, `ResizeMaxSize` then `Normalize`.

`clip`: OpenAI's `clip/clip.py`, open_clip's and ImageReward's `_transform`: torchvision's `Resize` and `CenterCrop` on
PIL images. `clip-transformers`: `CLIPImageProcessor` of transformers, on PIL images, which centres odd rests otherwise.
"""


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


def to_8_bit(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """Turn pixels (3, H, W) in [0, 1] into an 8-bit picture (H, W, 3)."""
    values = pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return values.permute(1, 2, 0).contiguous().cpu().numpy()


def preprocess(pixels: Tensor, spec: PreprocessSpec, resize: Resize) -> Tensor:
    """Resize, pad or crop, and normalise pixels (n, 3, H, W) in [0, 1] -> (n, 3, size, size), keeping gradients.

    `resize` says whether the bicubic resize filters before it shrinks. The official code did with torchvision
    >= 0.17 ("antialias") and did not before ("no-antialias"). Values are not clamped after it, as there; where the
    official code works on 8-bit values (the "crop" specs), it always filters, and what it resized ends within [0, 1].
    Always computed in float32 (under autocast too), because 16-bit resampling would move the scores.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        if spec.fit == "pad":
            square = _pad_centred(_fit(pixels.float(), spec.size, antialias=resize == "antialias"), spec.size)
        else:
            square = _crop_centre(_cover(pixels.float(), spec.size), spec)
        return _normalise(square, spec)


def prepare_picture(image: Image.Image, spec: PreprocessSpec, resize: Resize) -> Tensor:
    """Do the same to one RGB picture -> (3, size, size), the way the official code does: the "crop" specs with PIL."""
    if spec.fit == "pad":
        return preprocess(to_pixels(image)[None], spec, resize)[0]
    width, height = target = _covering(image.width, image.height, spec.size)
    left, top = _start(width, spec), _start(height, spec)
    if width * height > LARGE_RESIZE:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + spec.size) * across, (top + spec.size) * down)
        image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box)
    else:
        image = image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + spec.size, top + spec.size))
    return _normalise(to_pixels(image)[None], spec)[0]


def _normalise(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    mean, std = _channels(spec.mean, pixels.device), _channels(spec.std, pixels.device)
    return (pixels - mean) / std


@cache
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """One number a channel, sent to a device once: sending waits for all that the device has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _covering(width: int, height: int, size: int) -> tuple[int, int]:
    """The (width, height) at which the shortest side is `size`; the other is rounded down, as officially."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _cover(pixels: Tensor, size: int) -> Tensor:
    """Scale the shortest side to `size`, filtered. Raises `ScoreError` where that would fill the memory."""
    width, height = _covering(pixels.shape[3], pixels.shape[2], size)
    if (height, width) == tuple(pixels.shape[2:]):
        return pixels
    if width * height > MAX_PIXELS:
        raise ScoreError(f"pixels of {pixels.shape[3]}x{pixels.shape[2]} are too elongated for this scorer; crop them")
    for target in ((pixels.shape[2], width), (height, width)):  # as PIL does, which limits the values after each axis
        pixels = F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 1.0)
    return pixels


def _crop_centre(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    top, left = _start(pixels.shape[2], spec), _start(pixels.shape[3], spec)
    return pixels[:, :, top : top + spec.size, left : left + spec.size]


def _start(side: int, spec: PreprocessSpec) -> int:
    """Where the centred cut of `spec.size` begins in a side."""
    rest = side - spec.size
    return rest // 2 if spec.fit == "crop-floor" else round(rest / 2)


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
