"""Tiny random pipelines of three more families, real ones of diffusers: SDXL, Stable Diffusion 3 and Flux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.tiny_pipeline import IMAGE_SIZE, write_tokenizer

WIDTH = 32


def autoencoder(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        **more,
    )


def text(kind: type, words: int) -> Any:
    config = {"vocab_size": words, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2}
    ids = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    return kind(CLIPTextConfig(**config, **ids, num_attention_heads=4, projection_dim=WIDTH))


def write_sdxl(folder: Path) -> Path:
    torch.manual_seed(0)
    words, tokenizer = _words(folder)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=IMAGE_SIZE // 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=text(CLIPTextModel, words),
        text_encoder_2=text(CLIPTextModelWithProjection, words),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def write_sd3(folder: Path) -> Path:
    torch.manual_seed(0)
    words, tokenizer = _words(folder)
    t5 = _t5(2 * WIDTH)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=IMAGE_SIZE // 2, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
            attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
            joint_attention_dim=2 * WIDTH, pooled_projection_dim=2 * WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=text(CLIPTextModelWithProjection, words), tokenizer=tokenizer,
        text_encoder_2=text(CLIPTextModelWithProjection, words), tokenizer_2=tokenizer,
        text_encoder_3=t5[0], tokenizer_3=t5[1],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_flux(folder: Path) -> Path:
    torch.manual_seed(0)
    words, tokenizer = _words(folder)
    t5 = _t5(WIDTH)
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=text(CLIPTextModel, words), tokenizer=tokenizer,
        text_encoder_2=t5[0], tokenizer_2=t5[1],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _words(folder: Path) -> tuple[int, CLIPTokenizer]:
    words = write_tokenizer(folder / "words")
    return words, CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)


def _t5(width: int) -> tuple[T5EncoderModel, T5TokenizerFast]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789,."]
    config = T5Config(vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    return T5EncoderModel(config), T5TokenizerFast(vocab=pieces, extra_ids=0)
