"""The scorers: a table of rows, and `load_scorer`, the only way to get one. Importing this loads no model code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from humanpref.errors import ScoreError, UnknownNameError
from humanpref.scorers.base import Scorer, ScorerSpec

if TYPE_CHECKING:
    from humanpref.preprocess import Resize

__all__ = ["DEFAULT_SCORER", "SPECS", "Precision", "Scorer", "ScorerSpec", "get_spec", "load_scorer"]

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]

DEFAULT_SCORER = "hps-v2.1"

_HPS_REVISION = "697403c78157020a1ae59d23f111aa58ced35b0a"

_ROWS = (
    ScorerSpec(
        name="hps-v2.1",
        summary="Human Preference Score v2.1, CLIP ViT-H/14; the strongest here",
        licence="Apache-2.0",
        reads_prompt=True,
        arch="ViT-H-14",
        repo="xswu/HPSv2",
        file="HPS_v2.1_compressed.pt",
        revision=_HPS_REVISION,
        sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        bytes=1_972_490_005,
        preprocess="hps-v2",
        scale="cosine",
        published=MappingProxyType({"hpdv2-test": 0.841, "imagereward-test": 0.668}),
    ),
    ScorerSpec(
        name="hps-v2.0",
        summary="Human Preference Score v2 (arXiv 2306.09341), CLIP ViT-H/14",
        licence="Apache-2.0",
        reads_prompt=True,
        arch="ViT-H-14",
        repo="xswu/HPSv2",
        file="HPS_v2_compressed.pt",
        revision=_HPS_REVISION,
        bytes=1_972_000_000,
        preprocess="hps-v2",
        scale="cosine",
        published=MappingProxyType({"hpdv2-test": 0.833, "imagereward-test": 0.657, "pickapic-test": 0.638}),
    ),
    ScorerSpec(
        name="lite",
        summary="image statistics, ships with the package; for trying things out, ignores the prompt",
        licence="Apache-2.0",
        reads_prompt=False,
        file="lite.safetensors",
        scale="logit",
    ),
)

SPECS: Mapping[str, ScorerSpec] = MappingProxyType({row.name: row for row in _ROWS})
"""Every scorer by name, in the order `humanpref models` lists them."""


def get_spec(name: str) -> ScorerSpec:
    """Return the row of a scorer. Raises `UnknownNameError`, listing the valid names."""
    try:
        return SPECS[name]
    except KeyError:
        raise UnknownNameError(f"no scorer is called {name!r}; choose from: {', '.join(SPECS)}") from None


def load_scorer(
    name: str = DEFAULT_SCORER,
    weights: str | Path | None = None,
    arch: str | Path | None = None,
    resize: Resize = "antialias",
    precision: Precision = "auto",
    device: str = "auto",
) -> Scorer:
    """Load a scorer once; every later call of it works from memory.

    name: a row of `SPECS`.
    weights: a checkpoint file to use instead of the published one (official-layout `.pt`, or `.safetensors`).
    arch: an open_clip architecture name or JSON config file, for weights of another size than the row's.
    resize: "antialias" (torchvision >= 0.17, the default) or "no-antialias" (what the official code did before).
    precision: "fp32", "bf16", "fp16", or "auto": fp16 on CUDA as in the official code; on a CPU bf16 for large
        networks where the CPU multiplies bf16 in hardware, else fp32 (docs/precision.md).
    device: "cpu", "cuda", "cuda:1" ..., or "auto": CUDA where there is one.
    `lite` has none of the last four to choose.

    Raises `UnknownNameError`, `DownloadError` (weights not here and not to be had) or `WeightsError`.
    """
    spec = get_spec(name)
    for value, kind, option in (
        (resize, ("antialias", "no-antialias"), "resize"),
        (precision, get_args(Precision), "precision"),
    ):
        if value not in kind:
            raise UnknownNameError(f"no {option} is called {value!r}; choose from: {', '.join(kind)}")
    if spec.name == "lite":
        from humanpref.scorers.lite import LiteScorer

        if (
            arch is not None
            or resize != "antialias"
            or precision not in {"auto", "fp32"}
            or device not in {"auto", "cpu"}
        ):
            raise ScoreError("lite has no arch, resize, precision or device to choose; leave these options out")
        return LiteScorer.load(spec, weights)
    from humanpref.scorers.clip import ClipScorer

    return ClipScorer.load(spec, weights=weights, arch=arch, resize=resize, precision=precision, device=device)
