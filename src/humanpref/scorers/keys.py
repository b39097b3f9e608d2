"""The layouts of official checkpoints, as tables of key patterns, and the function that brings one to our own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from humanpref.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """What becomes of the keys that `pattern` matches whole.

    name: the new one, with groups as in `re.sub`; None: not needed. Several keys that get the same name are joined
    along their first axis in the order of `part` (a group that begins with q, k or v). `turned`: a matrix to transpose.
    """

    pattern: str
    name: str | None
    part: str | None = None
    turned: bool = False


@dataclass(frozen=True)
class Layout:
    """What a kind of checkpoint is called in messages, a key that tells it, and its rules (a key without one stays)."""

    what: str
    mark: str
    rules: tuple[Rule, ...] = ()


def _clip_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of one tower's residual blocks, transformers' names to open_clip's."""
    theirs, ours = theirs + r"\.encoder\.layers\.(\d+)\.", ours + r"transformer.resblocks.\1."
    return (
        Rule(theirs + r"self_attn\.([qkv])_proj\.(weight|bias)", ours + r"attn.in_proj_\3", part=r"\2"),
        Rule(theirs + r"self_attn\.out_proj\.(weight|bias)", ours + r"attn.out_proj.\2"),
        Rule(theirs + r"layer_norm([12])\.(weight|bias)", ours + r"ln_\2.\3"),
        Rule(theirs + r"mlp\.fc1\.(weight|bias)", ours + r"mlp.c_fc.\2"),
        Rule(theirs + r"mlp\.fc2\.(weight|bias)", ours + r"mlp.c_proj.\2"),
    )


_TEXT = r"blip\.text_encoder\.encoder\.layer\.(\d+)\."
_IMAGE = r"blip\.visual_encoder\."

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        # open_clip's names are OpenAI's; OpenAI's own files also hold three sizes
        "open_clip": Layout(
            "a CLIP in open_clip's or OpenAI's layout, as the HPS files and CLIPScore's are",
            r"(text\.)?transformer\.resblocks\.0\..*",
            (Rule(r"input_resolution|context_length|vocab_size", None),),
        ),
        "transformers-clip": Layout(
            "a CLIP in transformers' layout, as PickScore's model.safetensors is",
            r"vision_model\.embeddings\.patch_embedding\.weight",
            (
                Rule(r"(text|vision)_model\.embeddings\.position_ids", None),
                Rule(r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
                Rule(r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
                *_clip_block("text_model", ""),
                Rule(r"text_model\.final_layer_norm\.(weight|bias)", r"ln_final.\1"),
                Rule(r"text_projection\.weight", "text_projection", turned=True),
                Rule(r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
                Rule(r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
                Rule(r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
                Rule(r"vision_model\.pre_layrnorm\.(weight|bias)", r"visual.ln_pre.\1"),
                *_clip_block("vision_model", "visual."),
                Rule(r"vision_model\.post_layernorm\.(weight|bias)", r"visual.ln_post.\1"),
                Rule(r"visual_projection\.weight", "visual.proj", turned=True),
            ),
        ),
        "imagereward": Layout(
            "ImageReward.pt, a BLIP with a reward head",
            r"blip\.visual_encoder\.cls_token",
            (
                # what BLIP's pre-training used and the reward does not
                Rule(r"blip\.(vision|text)_proj\.(weight|bias)", None),
                Rule(r"blip\.text_encoder\.embeddings\.position_ids", None),
                Rule(_IMAGE + r"(cls_token|pos_embed)", r"image.\1"),
                Rule(_IMAGE + r"patch_embed\.proj\.(weight|bias)", r"image.patches.\1"),
                Rule(_IMAGE + r"blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)", r"image.blocks.\1.attention.\2.\3"),
                Rule(_IMAGE + r"blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"image.blocks.\1.\2.\3"),
                Rule(_IMAGE + r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"image.blocks.\1.\2.\3"),
                Rule(_IMAGE + r"norm\.(weight|bias)", r"image.norm.\1"),
                Rule(r"blip\.text_encoder\.embeddings\.word_embeddings\.weight", "text.words.weight"),
                Rule(r"blip\.text_encoder\.embeddings\.position_embeddings\.weight", "text.positions.weight"),
                Rule(r"blip\.text_encoder\.embeddings\.LayerNorm\.(weight|bias)", r"text.norm.\1"),
                Rule(
                    _TEXT + r"attention\.self\.(query|key|value)\.(weight|bias)",
                    r"text.layers.\1.attention.qkv.\3",
                    part=r"\2",
                ),
                Rule(_TEXT + r"attention\.output\.dense\.(weight|bias)", r"text.layers.\1.attention.proj.\2"),
                Rule(_TEXT + r"attention\.output\.LayerNorm\.(weight|bias)", r"text.layers.\1.norm1.\2"),
                Rule(_TEXT + r"crossattention\.self\.query\.(weight|bias)", r"text.layers.\1.cross.q.\2"),
                Rule(
                    _TEXT + r"crossattention\.self\.(key|value)\.(weight|bias)",
                    r"text.layers.\1.cross.kv.\3",
                    part=r"\2",
                ),
                Rule(_TEXT + r"crossattention\.output\.dense\.(weight|bias)", r"text.layers.\1.cross.proj.\2"),
                Rule(_TEXT + r"crossattention\.output\.LayerNorm\.(weight|bias)", r"text.layers.\1.norm2.\2"),
                Rule(_TEXT + r"intermediate\.dense\.(weight|bias)", r"text.layers.\1.fc1.\2"),
                Rule(_TEXT + r"output\.dense\.(weight|bias)", r"text.layers.\1.fc2.\2"),
                Rule(_TEXT + r"output\.LayerNorm\.(weight|bias)", r"text.layers.\1.norm3.\2"),
                Rule(r"mlp\.layers\.(\d)\.(weight|bias)", r"head.\1.\2"),
            ),
        ),
        "aesthetic": Layout(
            "the head of the LAION aesthetic predictor",
            r"layers\.7\.weight",
            (Rule(r"layers\.(\d)\.(weight|bias)", r"\1.\2"),),
        ),
    }
)


def layout_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the layout whose mark is among the keys, or None."""
    found = (name for name, layout in LAYOUTS.items() if any(re.fullmatch(layout.mark, key) for key in tensors))
    return next(found, None)


def check_layout(tensors: Mapping[str, Tensor], layout: str, path: Path, scorer: str) -> None:
    """Raise `WeightsError`, saying what the file looks like, when it plainly has another layout than `layout`."""
    found = layout_of(tensors)
    if found not in {None, layout}:
        raise WeightsError(f"{path}: this is {LAYOUTS[str(found)].what}; {scorer} needs {LAYOUTS[layout].what}")


def rename(tensors: Mapping[str, Tensor], rules: tuple[Rule, ...], path: Path) -> dict[str, Tensor]:
    """Apply `rules`: rename, drop, transpose, join tensors. Raises `WeightsError` for parts that cannot be joined."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        rule, match = next(((r, m) for r in rules if (m := re.fullmatch(r.pattern, key))), (None, None))
        if rule is None or match is None:
            renamed[key] = tensor
        elif rule.name is not None and rule.part is not None:
            parts.setdefault(match.expand(rule.name), {})[match.expand(rule.part)[0]] = tensor
        elif rule.name is not None:
            turned = rule.turned and tensor.ndim == 2
            renamed[match.expand(rule.name)] = tensor.T.contiguous() if turned else tensor
    for name, pieces in parts.items():
        renamed[name] = _join(pieces, name, path)
    return renamed


def _join(pieces: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    """Stack the parts of one matrix or bias, in the order q, k, v."""
    import torch

    ordered = [pieces[part] for part in "qkv" if part in pieces]
    try:
        return torch.cat(ordered)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: the parts of {name} do not fit together ({reason})") from None
