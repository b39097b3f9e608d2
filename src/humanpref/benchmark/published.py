"""The published rows of the HPS v2 benchmark: reference data, shown beside measured rows and never mixed with them.

Source: the benchmark tables of v2.0 and v2.1 in the README of tgxs002/HPSv2 (v2.0 also in arXiv 2306.09341). Cosine x
100, the mean over each style's 800 prompts and over all 3,200. Which resize of the images
they were made with is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from humanpref.errors import UnknownNameError

SOURCE = "https://github.com/tgxs002/HPSv2, benchmark tables"


@dataclass(frozen=True)
class PublishedRow:
    """A model as published: {style: cosine x 100}, styles as the suite `hps-v2` calls them, and over all."""

    generator: str
    styles: Mapping[str, float]
    average: float


ARCHIVES: Mapping[str, str] = MappingProxyType(
    {
        "SDXL Refiner 0.9": "SDXL-refiner-0.9",
        "SDXL Base 0.9": "SDXL-base-0.9",
        "Deliberate": "Deliberate",
        "Realistic Vision": "RV",
        "Dreamlike Photoreal 2.0": "DL",
        "MajicMix Realistic": "MM",
        "ChilloutMix": "CM",
        "Openjourney": "OJ",
        "DeepFloyd-XL": "DF-IF",
        "Epic Diffusion": "ED",
        "Stable Diffusion v2.0": "sdv2",
        "Stable Diffusion v1.4": "sdv1",
        "DALL·E 2": "DALLE",
        "Versatile Diffusion": "VD",
        "CogView2": "Cog2",
        "VQGAN + CLIP": "VQGAN",
        "DALL·E mini": "DALLE-mini",
        "Latent Diffusion": "LDM",
        "FuseDream": "FD",
        "VQ-Diffusion": "VQD",
        "LAFITE": "Laf",
        "GLIDE": "glide",
    }
)
"""{model: what its archive of images is called in zhwang/HPDv2, below `benchmark/benchmark_imgs`}."""

_ROWS: Mapping[str, str] = MappingProxyType(
    {
        "hps-v2.1": """
            SDXL Refiner 0.9 | 33.26 32.07 31.63 28.38 31.34
            SDXL Base 0.9 | 32.84 31.36 30.86 27.48 30.63
            Deliberate | 31.46 30.48 30.17 28.83 30.23
            Realistic Vision | 31.01 29.95 30.00 28.61 29.89
            Dreamlike Photoreal 2.0 | 30.87 29.75 29.46 28.85 29.73
            MajicMix Realistic | 29.67 28.50 28.44 28.02 28.66
            ChilloutMix | 29.46 28.46 28.35 27.63 28.47
            Openjourney | 28.37 27.38 27.53 26.66 27.48
            DeepFloyd-XL | 27.71 26.07 25.79 27.96 26.88
            Epic Diffusion | 27.07 26.14 26.17 26.43 26.45
            Stable Diffusion v2.0 | 27.09 26.02 25.68 26.73 26.38
            Stable Diffusion v1.4 | 26.03 24.87 24.80 25.70 25.35
            DALL·E 2 | 26.38 24.51 24.93 25.55 25.34
            Versatile Diffusion | 23.69 23.39 24.02 24.64 23.93
            CogView2 | 23.64 24.86 23.40 22.68 23.64
            VQGAN + CLIP | 22.55 23.76 23.41 21.51 22.81
            DALL·E mini | 21.54 20.50 20.32 21.72 21.02
            Latent Diffusion | 20.63 19.65 19.79 21.26 20.34
            FuseDream | 19.16 19.37 19.07 20.07 19.42
            VQ-Diffusion | 18.44 18.31 19.24 20.62 19.15
            LAFITE | 17.79 17.55 17.61 20.88 18.46
            GLIDE | 13.90 13.50 13.94 16.72 14.51
        """,
        "hps-v2.0": """
            Dreamlike Photoreal 2.0 | 28.24 27.60 27.59 27.99 27.86
            SDXL Refiner 0.9 | 28.45 27.66 27.67 27.46 27.80
            Realistic Vision | 28.22 27.53 27.56 27.75 27.77
            SDXL Base 0.9 | 28.42 27.63 27.60 27.29 27.73
            Deliberate | 28.13 27.46 27.45 27.62 27.67
            ChilloutMix | 27.92 27.29 27.32 27.61 27.54
            MajicMix Realistic | 27.88 27.19 27.22 27.64 27.48
            Openjourney | 27.85 27.18 27.25 27.53 27.45
            DeepFloyd-XL | 27.64 26.83 26.86 27.75 27.27
            Epic Diffusion | 27.57 26.96 27.03 27.49 27.26
            Stable Diffusion v2.0 | 27.48 26.89 26.86 27.46 27.17
            Stable Diffusion v1.4 | 27.26 26.61 26.66 27.27 26.95
            DALL·E 2 | 27.34 26.54 26.68 27.24 26.95
            Versatile Diffusion | 26.59 26.28 26.43 27.05 26.59
            CogView2 | 26.50 26.59 26.33 26.44 26.47
            VQGAN + CLIP | 26.44 26.53 26.47 26.12 26.39
            DALL·E mini | 26.10 25.56 25.56 26.12 25.83
            Latent Diffusion | 25.73 25.15 25.25 26.97 25.78
            FuseDream | 25.26 25.15 25.13 25.57 25.28
            VQ-Diffusion | 24.97 24.70 25.01 25.71 25.10
            LAFITE | 24.63 24.38 24.43 25.81 24.81
            GLIDE | 23.34 23.08 23.27 24.50 23.55
        """,
    }
)
"""By scorer, best first: anime, concept-art, paintings, photo, average."""

STYLES = ("anime", "concept-art", "paintings", "photo")


def _read(table: str) -> tuple[PublishedRow, ...]:
    rows = []
    for line in table.strip().splitlines():
        name, figures = line.split("|")
        *styles, average = map(float, figures.split())
        rows.append(PublishedRow(name.strip(), MappingProxyType(dict(zip(STYLES, styles, strict=True))), average))
    return tuple(rows)


PUBLISHED: Mapping[str, tuple[PublishedRow, ...]] = MappingProxyType({name: _read(t) for name, t in _ROWS.items()})
"""{scorer: its 22 published models, best first}."""


def published_row(scorer: str, generator: str) -> PublishedRow:
    """A model's row by its name or its archive's. Raises `UnknownNameError`, listing what there is."""
    if scorer not in PUBLISHED:
        raise UnknownNameError(f"no table is published for {scorer!r}; there are: {', '.join(PUBLISHED)}")
    wanted = generator.casefold()
    for row in PUBLISHED[scorer]:
        if wanted in {row.generator.casefold(), ARCHIVES[row.generator].casefold()}:
            return row
    names = ", ".join(f"{ARCHIVES[row.generator]} ({row.generator})" for row in PUBLISHED[scorer])
    raise UnknownNameError(f"no published model is called {generator!r}; choose from: {names}")
