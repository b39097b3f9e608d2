"""Small random weights in the official layout of each scorer, with the reference networks that hold the same numbers."""

from __future__ import annotations

import gzip
import json
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

ARCH = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""The CLIP of these tests, in open_clip's terms; heads of the towers: 4 and 2."""

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "red", "square", "on", ",", "!", "cafe", "猫"]
WORDS += [chr(c) for c in range(ord("b"), ord("z") + 1)] + [f"##{chr(c)}" for c in range(ord("a"), ord("z") + 1)]
WORDS = list(dict.fromkeys(WORDS))


def spread(module: nn.Module, seed: int = 0, scale: float = 0.15) -> nn.Module:
    """Give every weight a size at which pictures and prompts matter (fresh networks give nearly equal scores)."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if value.ndim == 0:
            continue
        is_gain = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name or name.startswith("ln_"))
        offset = 1.0 if is_gain else 0.0
        value.data = offset + scale * torch.randn(value.shape, generator=generator)
    return module.eval()


def arch_file(folder: Path, *, quick_gelu: bool = False) -> Path:
    path = folder / "arch.json"
    path.write_text(json.dumps({**ARCH, "quick_gelu": quick_gelu}))
    return path


def open_clip_model(*, quick_gelu: bool = False, seed: int = 0) -> nn.Module:
    import open_clip

    model = spread(open_clip.CLIP(**ARCH, quick_gelu=quick_gelu), seed)
    model.logit_scale.data = torch.tensor(3.7)
    return model


def transformers_clip(*, quick_gelu: bool = False, seed: int = 0) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    act = "quick_gelu" if quick_gelu else "gelu"
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"hidden_act": act, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"hidden_act": act, "image_size": 224, "patch_size": 32}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=48, attn_implementation="eager")
    model = spread(CLIPModel(config), seed)
    model.logit_scale.data = torch.tensor(4.9)  # over 100, as no clamp applies
    return model


def clip_tokenizer() -> Any:
    """transformers' CLIP tokenizer, made from the byte pairs that come with open_clip."""
    import open_clip
    from transformers import CLIPTokenizer

    lines = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    vocab = dict(open_clip.SimpleTokenizer().encoder)
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = vocab.pop("<start_of_text>"), vocab.pop("<end_of_text>")
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m.split()) for m in merges])


def aesthetic_head(width: int, seed: int = 1) -> nn.Module:
    """The official module: Linear layers at 0, 2, 4, 6, 7 of `layers`, dropouts between."""
    head = nn.Module()
    head.layers = nn.Sequential(
        *(nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
        *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
    )
    return spread(head, seed, 0.1)


def blip_pieces(image_size: int = 224) -> tuple[nn.Module, nn.Module, nn.Module]:
    """transformers' BLIP image and text towers and the official head, small."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    vision = BlipVisionConfig(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2, image_size=image_size,
        patch_size=32, layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    text = BlipTextConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=1, encoder_hidden_size=128,
        vocab_size=len(WORDS) + 2, max_position_embeddings=50, is_decoder=True, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, layer_norm_eps=1e-12, attn_implementation="eager",
    )  # fmt: skip
    image_tower, text_tower = (
        spread(BlipVisionModel(vision), 2),
        spread(BlipTextModel(text, add_pooling_layer=False), 3),
    )
    return image_tower, text_tower, aesthetic_head(64, 4)


def imagereward_file(image_tower: nn.Module, text_tower: nn.Module, head: nn.Module) -> dict[str, torch.Tensor]:
    """ImageReward.pt: the names of `models/vit.py`, `models/med.py` and the reward's MLP, and what is not used."""
    found: dict[str, torch.Tensor] = {}
    names = (
        ("embeddings.class_embedding", "cls_token"), ("embeddings.position_embedding", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"), ("encoder.layers", "blocks"), ("self_attn.qkv", "attn.qkv"),
        ("self_attn.projection", "attn.proj"), ("layer_norm", "norm"), ("post_layernorm", "norm"),
    )  # fmt: skip
    for key, value in image_tower.state_dict().items():
        found[f"blip.visual_encoder.{reduce(lambda name, pair: name.replace(*pair), names, key)}"] = value
    for key, value in text_tower.state_dict().items():
        found[f"blip.text_encoder.{key}"] = value
    found["blip.text_encoder.embeddings.position_ids"] = torch.arange(50)[None]
    found |= {"blip.vision_proj.weight": torch.zeros(8, 128), "blip.vision_proj.bias": torch.zeros(8)}
    found |= {"blip.text_proj.weight": torch.zeros(8, 64), "blip.text_proj.bias": torch.zeros(8)}
    return found | {f"mlp.{key}": value for key, value in head.state_dict().items()}
