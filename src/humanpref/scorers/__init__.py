"""The scorers: a table of rows, and `load_scorer`, the only way to get one. Importing this loads no model code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from humanpref.errors import ScoreError, UnknownNameError
from humanpref.scorers.base import Companion, LoadOptions, Scorer, ScorerSpec

if TYPE_CHECKING:
    from humanpref.preprocess import Resize
    from humanpref.scorers.clip import ClipScorer

__all__ = [
    "DEFAULT_SCORER",
    "SPECS",
    "Decode",
    "LoadOptions",
    "Precision",
    "Scorer",
    "ScorerSpec",
    "get_spec",
    "load_scorer",
]

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Decode: TypeAlias = Literal["exact", "device"]

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
        name="hps-v1",
        summary="Human Preference Score v1 (arXiv 2303.14420), CLIP ViT-L/14",
        licence="see its page",
        reads_prompt=True,
        arch="ViT-L-14-quickgelu",
        file="hpc.pt",  # on OneDrive only, behind a link that changes: no repo, no checksum
        page="https://github.com/tgxs002/align_sd",
        preprocess="clip",
        scale="100 x cosine",
        published=MappingProxyType({"hpdv2-test": 0.776, "imagereward-test": 0.612, "pickapic-test": 0.667}),
    ),
    ScorerSpec(
        name="pickscore",
        summary="PickScore v1 (arXiv 2305.01569), CLIP ViT-H/14",
        licence="see its page",
        reads_prompt=True,
        arch="ViT-H-14",
        repo="yuvalkirstain/PickScore_v1",
        file="model.safetensors",
        revision="a4e4367c6dfa7288a00c550414478f865b875800",  # no public page gives its SHA-256
        bytes=3_944_000_000,
        preprocess="clip-transformers",
        scale="logit scale x cosine",
        layout="transformers-clip",
        published=MappingProxyType({"hpdv2-test": 0.798, "imagereward-test": 0.629, "pickapic-test": 0.705}),
    ),
    ScorerSpec(
        name="imagereward",
        summary="ImageReward (arXiv 2304.05977), BLIP ViT-L/16 and BERT",
        licence="Apache-2.0",
        reads_prompt=True,
        repo="THUDM/ImageReward",
        file="ImageReward.pt",
        revision="5736be03b2652728fb87788c9797b0570450ab72",
        sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",  # as its Hub commit says
        bytes=1_786_880_927,
        preprocess="clip",
        scale="standardised reward",
        family="imagereward",
        layout="imagereward",
        tokens=35,
        companions=(
            Companion(
                what="the vocabulary of bert-base-uncased",
                repo="google-bert/bert-base-uncased",
                file="vocab.txt",
                beside=("vocab.txt",),
                revision="86b5e0934494bd15c9632b12f734a8a67f723594",
                sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                bytes=231_508,
            ),
        ),
        published=MappingProxyType({"hpdv2-test": 0.740, "imagereward-test": 0.651, "pickapic-test": 0.611}),
    ),
    ScorerSpec(
        name="clipscore",
        summary="similarity of text and image, any open_clip model (ViT-H/14 of LAION)",
        licence="MIT",
        reads_prompt=True,
        arch="ViT-H-14",
        repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        file="open_clip_model.safetensors",
        revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
        sha256="0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
        bytes=3_944_517_836,
        preprocess="clip",
        scale="100 x cosine",
        published=MappingProxyType({"hpdv2-test": 0.651, "imagereward-test": 0.571, "pickapic-test": 0.608}),
    ),
    ScorerSpec(
        name="laion-aesthetic",
        summary="LAION's aesthetic predictor v2, CLIP ViT-L/14; ignores the prompt",
        licence="see its page",
        reads_prompt=False,
        arch="ViT-L-14-quickgelu",
        # a copy on the Hub of the file in its authors' repository on GitHub (`page`): no revision of the copy is known,
        # the SHA-256 is that of the authors' file
        repo="camenduru/improved-aesthetic-predictor",
        file="sac+logos+ava1-l14-linearMSE.pth",
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        bytes=3_714_759,
        page="https://github.com/christophschuhmann/improved-aesthetic-predictor",
        preprocess="clip",
        scale="rating",
        family="aesthetic",
        layout="aesthetic",
        companions=(
            Companion(
                what="OpenAI's CLIP ViT-L/14",
                repo="openai/clip-vit-large-patch14",
                file="model.safetensors",
                beside=("clip-vit-large-patch14.safetensors", "model.safetensors"),
                revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
                sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
                bytes=1_710_540_580,
            ),
        ),
        published=MappingProxyType({"hpdv2-test": 0.768, "imagereward-test": 0.574, "pickapic-test": 0.568}),
    ),
    ScorerSpec(
        name="lite",
        summary="image statistics, ships with the package; for trying things out, ignores the prompt",
        licence="Apache-2.0",
        reads_prompt=False,
        file="lite.safetensors",
        scale="logit",
        family="lite",
        trained_on="hpdv2-test",
    ),
    ScorerSpec(
        name="shapes-truth",
        summary="the known truth of the shapes world; for pictures and captions of that world only",
        licence="Apache-2.0",
        reads_prompt=True,
        scale="quality in [0, 1]",
        family="shapes",
    ),
)

SPECS: Mapping[str, ScorerSpec] = MappingProxyType({row.name: row for row in _ROWS})
"""Every scorer by name, in the order `humanpref models` lists them."""


def get_spec(name: str) -> ScorerSpec:
    """Return the row of a scorer, or that of a trained model's folder or file.

    Raises `UnknownNameError`, listing the valid names; `WeightsError` for a folder that holds no trained model.
    """
    if name in SPECS:
        return SPECS[name]
    from humanpref.scorers.local import is_local, local_spec

    if is_local(name):
        return local_spec(name)
    raise UnknownNameError(
        f"no scorer is called {name!r}; choose from: {', '.join(SPECS)}; or give the folder of a trained model"
    )


def load_scorer(
    name: str = DEFAULT_SCORER,
    weights: str | Path | None = None,
    arch: str | Path | None = None,
    resize: Resize = "antialias",
    precision: Precision = "auto",
    device: str = "auto",
    decode: Decode = "exact",
    compiled: bool = False,
) -> Scorer:
    """Load a scorer once; every later call of it works from memory.

    name: a row of `SPECS`, or the path of a trained model: the folder that `humanpref train` exported, or a weights
        file in HPS v2's layout (with `arch`, unless it lies in such a folder or is a ViT-H/14).
    weights: a checkpoint file to use instead of the published one, in the official layout (`.pt`, `.safetensors`).
        A second file that a scorer needs (`ScorerSpec.companions`) is then looked for beside it first.
    arch: an open_clip architecture name or JSON config file, for weights of another size than the row's.
    resize: "antialias" (torchvision >= 0.17, the default) or "no-antialias" (what the official code did before);
        a choice for HPS v2 only, the others resize with PIL.
    precision: "fp32", "bf16", "fp16", or "auto": fp16 on CUDA as in the official HPS v2 code; on a CPU bf16 for large
        networks where the CPU multiplies bf16 in hardware, else fp32 (docs/precision.md).
    device: "cpu", "cuda", "cuda:1" ..., or "auto": CUDA where there is one.
    decode: "exact", as the scorer's authors do, or "device": JPEG files are decoded and resized on the scorer's device
        (nvJPEG on CUDA), which moves scores a little (docs/scale.md); needs the extra `gpu`.
    compiled: compile the image tower by torch.compile, which can take minutes when it is loaded; for many images.
    `lite` and `shapes-truth` have none of the last six to choose, `imagereward` no arch and nothing to compile.

    Raises `UnknownNameError`, `ScoreError` for an option that is not the scorer's to choose, `DownloadError` (weights
    not here and not to be had), `WeightsError`, or `MissingExtraError` (of `imagereward`, and of `decode`).
    """
    spec = get_spec(name)
    options = LoadOptions(weights, arch, resize, precision, device, decode, compiled)
    check_options(spec, options)
    if spec.family == "lite":
        from humanpref.scorers.lite import LiteScorer

        return LiteScorer.load(spec, weights)
    if spec.family == "shapes":
        from humanpref.shapes.truth import TruthScorer

        if weights is not None:
            raise ScoreError(f"{name} has no weights; leave --weights out")
        return TruthScorer(spec)
    if decode == "device":
        from humanpref.scorers.device_decoding import require_decoder
        from humanpref.scorers.devices import resolve_device

        require_decoder(resolve_device(device))
    if spec.family == "imagereward":
        from humanpref.scorers.imagereward import ImageRewardScorer

        return ImageRewardScorer.load(spec, options)
    scorer = _clip_class(spec).load(spec, options)
    if compiled:
        scorer.compile()
    return scorer


def _clip_class(spec: ScorerSpec) -> type[ClipScorer]:
    if spec.family == "aesthetic":
        from humanpref.scorers.aesthetic import AestheticScorer

        return AestheticScorer
    if spec.family == "head":
        from humanpref.scorers.trained_head import HeadScorer

        return HeadScorer
    from humanpref.scorers.clip import ClipScorer

    return ClipScorer


def check_options(spec: ScorerSpec, options: LoadOptions) -> None:
    """Raise `UnknownNameError` or `ScoreError` for options that are not the scorer's to choose. Nothing is loaded."""
    name = spec.name
    for option, kind in (
        ("resize", ("antialias", "no-antialias")),
        ("precision", get_args(Precision)),
        ("decode", get_args(Decode)),
    ):
        if (value := getattr(options, option)) not in kind:
            raise UnknownNameError(f"no {option} is called {value!r}; choose from: {', '.join(kind)}")
    if spec.ships and (
        options.arch is not None
        or (options.resize, options.decode, options.compiled) != ("antialias", "exact", False)
        or options.precision not in {"auto", "fp32"}
        or options.device not in {"auto", "cpu"}
    ):
        raise ScoreError(
            f"{name} has no arch, resize, precision, device, decode or compiled to choose; leave these options out"
        )
    if options.resize != "antialias" and spec.preprocess != "hps-v2":
        raise ScoreError(f"{name} resizes with PIL, as its authors do; --resize {options.resize} is for hps-v2.* only")
    if spec.family == "imagereward" and options.arch is not None:
        raise ScoreError(f"{name} takes its sizes from the weights; leave --arch out")
    if spec.family == "imagereward" and options.compiled:
        raise ScoreError(f"{name} has no image tower of its own to compile; leave --compiled out")
