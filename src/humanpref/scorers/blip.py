"""ImageReward's network: a BLIP, that is a vision transformer read by a BERT through cross-attention, and a head.

Plain PyTorch: its sizes come from the checkpoint, heads are 64 wide as in every BLIP and BERT of these families.
Sources: `models/vit.py` and `models/med.py` of salesforce/BLIP, `ImageReward/ImageReward.py` of THUDM/ImageReward.
The sums along the way stay in float32 whatever the number format of the matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from humanpref.errors import WeightsError
from humanpref.scorers.head import apply_head, reward_head

HEAD_WIDTH = 64


@dataclass(frozen=True)
class BlipSizes:
    """Widths, depths and counts of the network, as its tensors show them."""

    patch: int
    image_tokens: int
    image_width: int
    image_inner: int
    image_layers: int
    words: int
    text_tokens: int
    text_width: int
    text_inner: int
    text_layers: int

    @property
    def image_size(self) -> int:
        """The side of the square picture that gives `image_tokens` - 1 patches."""
        return isqrt(self.image_tokens - 1) * self.patch

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], path: Path) -> BlipSizes:
        """Read the sizes off a checkpoint under our names. Raises `WeightsError` where they cannot be."""

        def shape(key: str, ndim: int) -> tuple[int, ...]:
            if key not in tensors or tensors[key].ndim != ndim:
                raise WeightsError(f"{path}: not ImageReward's weights ({key} is missing or of another shape)")
            return tuple(tensors[key].shape)

        def depth(prefix: str) -> int:
            numbers = {key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)}
            return len(numbers)

        _, image_tokens, image_width = shape("image.pos_embed", 3)
        words, text_width = shape("text.words.weight", 2)
        if image_width % HEAD_WIDTH or text_width % HEAD_WIDTH:
            raise WeightsError(f"{path}: widths {image_width} and {text_width} are no multiples of {HEAD_WIDTH}")
        return cls(
            patch=shape("image.patches.weight", 4)[-1],
            image_tokens=image_tokens,
            image_width=image_width,
            image_inner=shape("image.blocks.0.fc1.weight", 2)[0],
            image_layers=depth("image.blocks."),
            words=words,
            text_tokens=shape("text.positions.weight", 2)[0],
            text_width=text_width,
            text_inner=shape("text.layers.0.fc1.weight", 2)[0],
            text_layers=depth("text.layers."),
        )


class SelfAttention(nn.Module):
    """Attention within x (n, tokens, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: bool (n, 1, 1, tokens), False where not to look. -> (n, tokens, width)."""
        q, k, v = (_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        return _mix(self.proj, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class CrossAttention(nn.Module):
    """Attention of x (n, tokens, width) to what it reads (n, others, other width)."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(other, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        """-> (n, tokens, width)."""
        k, v = (_heads(part) for part in self.kv(read).chunk(2, dim=-1))
        return _mix(self.proj, F.scaled_dot_product_attention(_heads(self.q(x)), k, v))


class ImageBlock(nn.Module):
    """A block of the vision transformer: normalised before each part."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        width = sizes.image_width
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width)
        self.fc1, self.fc2 = nn.Linear(width, sizes.image_inner), nn.Linear(sizes.image_inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same shape."""
        x = x + self.attention(self.norm1(x)).float()
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x)))).float()
        return out


class TextLayer(nn.Module):
    """A layer of BERT with cross-attention: normalised after each part."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        width = sizes.text_width
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-12) for _ in range(3))
        self.attention = SelfAttention(width)
        self.cross = CrossAttention(width, sizes.image_width)
        self.fc1, self.fc2 = nn.Linear(width, sizes.text_inner), nn.Linear(sizes.text_inner, width)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """(n, tokens, width) -> the same shape."""
        x = self.norm1(x + self.attention(x, mask).float())
        x = self.norm2(x + self.cross(x, image).float())
        out: Tensor = self.norm3(x + self.fc2(F.gelu(self.fc1(x))).float())
        return out


class ImageTower(nn.Module):
    """Pictures to one vector per patch, with the class token first."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        width = sizes.image_width
        self.patches = nn.Conv2d(3, width, kernel_size=sizes.patch, stride=sizes.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, sizes.image_tokens, width))
        self.blocks = nn.ModuleList(ImageBlock(sizes) for _ in range(sizes.image_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, inputs: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """(n, 3, size, size) -> (n, tokens, width)."""
        x = self.patches(inputs).flatten(2).transpose(1, 2).float()
        x = torch.cat([self.cls_token.float().expand(len(x), -1, -1), x], dim=1) + self.pos_embed.float()
        for block in self.blocks:
            x = run(block, x)
        out: Tensor = self.norm(x)
        return out


class TextTower(nn.Module):
    """Tokens, read with the picture in view, to one vector per token."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.words, sizes.text_width)
        self.positions = nn.Embedding(sizes.text_tokens, sizes.text_width)
        self.norm = nn.LayerNorm(sizes.text_width, eps=1e-12)
        self.layers = nn.ModuleList(TextLayer(sizes) for _ in range(sizes.text_layers))

    def forward(self, ids: Tensor, seen: Tensor, image: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """ids, seen (n, tokens), image (n, patches, width) -> (n, tokens, width)."""
        x: Tensor = self.norm(self.words(ids).float() + self.positions.weight[: ids.shape[1]].float())
        mask = seen.bool()[:, None, None, :]
        for layer in self.layers:
            x = run(layer, x, mask, image)
        return x


class RewardNetwork(nn.Module):
    """The raw reward of pictures for prompts."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        self.image = ImageTower(sizes)
        self.text = TextTower(sizes)
        self.head = reward_head(sizes.text_width)
        self.checkpointing = False

    def forward(self, inputs: Tensor, ids: Tensor, seen: Tensor) -> Tensor:
        """Inputs (n, 3, size, size), token ids and their mask (n, tokens) -> (n,), float32."""
        image = self.image(inputs, self._run)
        return apply_head(self.head, self.text(ids, seen, image, self._run)[:, 0])

    def _run(self, block: nn.Module, *args: Tensor) -> Tensor:
        """Run a block, and where memory is to be saved, again on the way back."""
        if self.checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, *args, use_reentrant=False)
        else:
            out = block(*args)
        return out


def _heads(x: Tensor) -> Tensor:
    """(n, tokens, width) -> (n, heads, tokens, 64)."""
    return x.view(*x.shape[:-1], -1, HEAD_WIDTH).transpose(1, 2)


def _mix(proj: nn.Module, x: Tensor) -> Tensor:
    """(n, heads, tokens, 64) -> (n, tokens, width), projected."""
    out: Tensor = proj(x.transpose(1, 2).flatten(2))
    return out
