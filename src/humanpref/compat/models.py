"""The published generators of the HPS v2 benchmark by the names of their image archives (repository zhwang/HPDv2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ARCHIVES: Mapping[str, str] = MappingProxyType(
    {
        "CM": "ChilloutMix",
        "Cog2": "CogView2",
        "DALLE": "DALL·E 2",
        "DALLE-mini": "DALL·E mini",
        "DF-IF": "DeepFloyd-XL",
        "DL": "Dreamlike Photoreal 2.0",
        "Deliberate": "Deliberate",
        "ED": "Epic Diffusion",
        "FD": "FuseDream",
        "LDM": "Latent Diffusion",
        "Laf": "LAFITE",
        "MM": "MajicMix Realistic",
        "OJ": "Openjourney",
        "RV": "Realistic Vision",
        "SDXL-base-0.9": "SDXL Base 0.9",
        "SDXL-base-1.0": "SDXL Base 1.0",
        "SDXL-refiner-0.9": "SDXL Refiner 0.9",
        "SDXL-refiner-1.0": "SDXL Refiner 1.0",
        "VD": "Versatile Diffusion",
        "VQD": "VQ-Diffusion",
        "VQGAN": "VQGAN + CLIP",
        "glide": "GLIDE",
        "sdv1": "Stable Diffusion v1.4",
        "sdv2": "Stable Diffusion v2.0",
    }
)
"""{archive name without .tar.gz: the model's name}. An archive that is not here goes by its own name."""
