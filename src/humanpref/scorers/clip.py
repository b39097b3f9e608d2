"""Scorers that are a CLIP: cosine of image and text embeddings. One class, several rows (`humanpref.scorers.SPECS`)."""

from __future__ import annotations

import hashlib
import json
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humanpref.errors import ImageError, UnknownNameError, WeightsError
from humanpref.scorers import keys
from humanpref.scorers import weights as weight_files
from humanpref.scorers.attention import use_fused_self_attention
from humanpref.scorers.base import LoadOptions, ScorerSpec, merge
from humanpref.scorers.compiled import Encode, compile_for_batches
from humanpref.scorers.devices import bring_back, resolve_device, to_device
from humanpref.scorers.network import (
    DTYPES,
    NetworkInput,
    NetworkScorer,
    Setup,
    convert_matrices,
    convert_rest,
    fp32_keys,
    resolve_precision,
)

Tokenizer: TypeAlias = Callable[[list[str]], Tensor]

TEXT_CACHE_SIZE = 4096

FACTORS: Mapping[str, float | None] = MappingProxyType(
    {"cosine": 1.0, "100 x cosine": 100.0, "logit scale x cosine": None}
)
"""What the cosine is multiplied by on each published scale; None: the checkpoint's own logit scale."""


class ClipScorer(NetworkScorer):
    """Cosine of CLIP embeddings, times the factor of the row's scale.

    HPS v2: arXiv 2306.09341 section 4, official `hpsv2/img_score.py`. HPS v1: `evaluate_hps.py` of tgxs002/align_sd.
    PickScore: the card of yuvalkirstain/PickScore_v1. Differentiable with respect to pixels. The weights are frozen.
    """

    def __init__(self, spec: ScorerSpec, model: nn.Module, tokenizer: Tokenizer, setup: Setup) -> None:
        super().__init__(spec, setup, image_size(model))
        self.model = model.requires_grad_(False).eval()
        self._compiled: Encode | None = None
        self.tokenizer = tokenizer
        self._text_lock = threading.Lock()
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()
        factor = FACTORS.get(spec.scale, 1.0)
        self._factor = self._temperature() if factor is None else factor

    @classmethod
    def load(cls, spec: ScorerSpec, options: LoadOptions) -> ClipScorer:
        """Build the network without initialising it and put the checkpoint's tensors in; see `load_scorer`."""
        place = resolve_device(options.device)
        path = weight_files.locate(spec, options.weights)
        name = str(options.arch or spec.arch)
        checksum = weight_files.fingerprint(path, spec.sha256 if options.weights is None else None)
        model, tokenizer, resolved = read_network(path, name, spec.layout, spec.name, options.precision, place)
        if spec.layout == "transformers-clip":
            tokenizer.clean_fn = transformers_clean  # type: ignore[attr-defined]  # SimpleTokenizer's own attribute
        origin = weight_files.Origin(architecture_name(name), (checksum,))
        return cls(spec, model, tokenizer, Setup(options.resize, resolved, place, options.decode, origin))

    def _settings(self) -> dict[str, str]:
        compiled = {} if self._compiled is None else {"compiled": torch.__version__}
        return {**super()._settings(), **compiled}

    @property
    def logit_scale(self) -> float | None:
        """exp of the checkpoint's own logit scale, clamped to at most 100 as in training, for the published scale.

        1 where the score is multiplied by it already.
        """
        if FACTORS.get(self.spec.scale, 1.0) is None:
            return 1.0
        return min(self._temperature(), 100.0) / self._factor

    def _temperature(self) -> float:
        return float(self.model.logit_scale.float().exp().reshape(()))  # type: ignore[operator]

    def truncated(self, prompt: str) -> bool:
        """Tell whether the prompt has more tokens than the text tower reads (77 with the start and end marks)."""
        encode = getattr(self.tokenizer, "encode", None)
        return encode is not None and len(encode(prompt)) + 2 > int(self.model.context_length)  # type: ignore[arg-type]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade compute for memory when gradients flow through `score(pixels, ...)`."""
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts -> unit vectors (n, d), float32. Each distinct prompt is encoded once and remembered.

        The caller's autocast does not apply, since what is remembered outlives it. Safe to call from several threads.
        """
        unique = dict.fromkeys(prompts)
        with self._text_lock:
            known = {prompt: self._text_cache[prompt] for prompt in unique if prompt in self._text_cache}
        new = [prompt for prompt in unique if prompt not in known]
        for start in range(0, len(new), 32):
            chunk = new[start : start + 32]
            with torch.no_grad(), self._own_precision():
                tokens = to_device(self.tokenizer(chunk), self.device)
                encoded = self.model.encode_text(tokens)  # type: ignore[operator]
            vectors = F.normalize(encoded.float(), dim=-1)
            known.update({prompt: vector.clone() for prompt, vector in zip(chunk, vectors, strict=True)})
        with self._text_lock:
            for prompt in unique:
                self._text_cache[prompt] = known[prompt]
                self._text_cache.move_to_end(prompt)
            while len(self._text_cache) > TEXT_CACHE_SIZE:
                self._text_cache.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])

    def embed_pixels(self, inputs: Tensor) -> Tensor:
        """Encode preprocessed images (n, 3, size, size) -> unit vectors (n, d), float32, keeping gradients.

        In fp32 the caller's autocast, if any, applies.
        """
        encode = self.model.encode_image if self._compiled is None or torch.is_grad_enabled() else self._compiled
        with self._image_precision():
            encoded = encode(inputs)  # type: ignore[operator]
        return F.normalize(encoded.float(), dim=-1)

    @property
    def embedding_width(self) -> int:
        """The length d of the vectors that images become."""
        return int(self.model.visual.output_dim)  # type: ignore[arg-type,union-attr]

    def begin_with_vectors(
        self, batch: Sequence[NetworkInput], prompts: Sequence[str]
    ) -> Callable[[], tuple[list[float | ImageError], Tensor]]:
        """As `begin`; also the unit vectors (m, d), float32 on the CPU, of the m images that have scores."""
        inputs, errors = self.collate(batch)
        good = [prompt for n, prompt in enumerate(prompts) if n not in errors]
        if not good:
            return lambda: (merge((), errors), torch.empty(0, self.embedding_width))
        with torch.no_grad(), self._own_precision():
            vectors = self.embed_pixels(inputs)
            scores, copied = bring_back(self._judge_vectors(vectors, good)), bring_back(vectors)
        return lambda: (merge(scores().tolist(), errors), copied())

    def compile(self) -> None:
        """Compile the image tower for whole batches (torch.compile); what gradients flow through stays as it is.

        Raises `ScoreError` where that does not work here.
        """
        shape = (self.batch_size, 3, self._preprocess.size, self._preprocess.size)
        with torch.no_grad(), self._image_precision():
            self._compiled = compile_for_batches(self.model.encode_image, shape, self.device)  # type: ignore[arg-type]

    def _judge(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._judge_vectors(self.embed_pixels(inputs), prompts)

    def _judge_vectors(self, vectors: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images by their unit vectors (n, d), float32, with one prompt each -> (n,), float32."""
        return (vectors * self.embed_text(prompts)).sum(dim=-1) * self._factor


def read_network(
    path: Path, arch: str, layout: str | None, scorer: str, precision: str, device: torch.device
) -> tuple[nn.Module, Tokenizer, str]:
    """Build a CLIP and put a checkpoint's tensors in -> (network on the device, its tokenizer, the precision it has).

    layout: a row of `keys.LAYOUTS`; None: whichever CLIP layout the file has. Raises `WeightsError`.
    """
    resolved = resolve_precision(precision, device, path.stat().st_size)
    dtype = DTYPES[resolved]

    def read() -> dict[str, Tensor]:
        found = weight_files.read_state_dict(path)
        kind = layout or ("transformers-clip" if keys.layout_of(found) == "transformers-clip" else "open_clip")
        keys.check_layout(found, kind, path, scorer)
        return keys.rename(convert_matrices(found, dtype, device), keys.LAYOUTS[kind].rules, path)

    with ThreadPoolExecutor(max_workers=1) as pool:
        # reading and converting release the interpreter; open_clip's import, which takes seconds, goes on meanwhile
        reading = pool.submit(read)
        model, tokenizer = build(architecture(arch))
        tensors = reading.result()
    weight_files.check_fit(tensors, model.state_dict(), path, arch)
    model.load_state_dict(convert_rest(tensors, fp32_keys(model), dtype, device), assign=True)
    _materialise_masks(model, device)
    if resolved != "fp32":
        _keep_residual_stream_fp32(model)
    return model, tokenizer, resolved


def transformers_clean(text: str) -> str:
    """Normalise a prompt as transformers' CLIP tokenizer does: NFC, single spaces, lower case letter by letter.

    open_clip's also mends broken encodings, unescapes HTML and straightens quotation marks.
    """
    return "".join(letter.lower() for letter in " ".join(unicodedata.normalize("NFC", text).split()))


def architecture(name: str) -> dict[str, Any]:
    """Read an open_clip architecture: the name of one, or a JSON config file -> the model's constructor arguments.

    Raises `UnknownNameError` for a name open_clip does not have, `WeightsError` for a file that is no config.
    """
    import open_clip

    if name.endswith(".json"):
        try:
            config = json.loads(Path(name).expanduser().read_text())
        except FileNotFoundError:
            raise WeightsError(f"{name}: no such architecture file") from None
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{name}: not a JSON architecture config ({error})") from None
        config = config.get("model_cfg", config) if isinstance(config, dict) else {}
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise WeightsError(f"{name}: an architecture config needs embed_dim, vision_cfg and text_cfg")
        return dict(config)
    if name not in open_clip.list_models():
        raise UnknownNameError(
            f"open_clip has no architecture {name!r}; see open_clip.list_models() (ViT-H-14, ViT-L-14, ViT-B-32 ...) "
            "or give a JSON config file"
        )
    return dict(open_clip.get_model_config(name))


def architecture_name(name: str) -> str:
    """The name of an architecture; of a config file, what its content comes to, wherever the file lies."""
    if not name.endswith(".json"):
        return name
    return "json-" + hashlib.sha256(json.dumps(architecture(name), sort_keys=True).encode()).hexdigest()


def build(config: dict[str, Any]) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Make the network of a config, without initialising it where that can be put off (meta device), and its tokenizer.

    Raises `WeightsError` for a config that open_clip cannot build, or whose text tower is not CLIP's own.
    """
    from open_clip import CLIP, CustomTextCLIP

    config = dict(config)
    text = _own_text_tower(config)
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    try:
        with torch.device("meta"):
            model = kind(**config)
        if any(name.rpartition(".")[2] != "attn_mask" for name in _computed_buffers(model)):
            model = kind(**config)  # some image towers compute tables at start, which no checkpoint holds
        use_fused_self_attention(model)
        return model, _tokenizer(text)
    except Exception as error:  # a config can be wrong in as many ways as open_clip has lines
        raise WeightsError(f"the architecture config is not one open_clip can build ({error})") from None


def fresh_network(config: dict[str, Any], seed: int) -> tuple[nn.Module, Tokenizer]:
    """Make the network of a config with random weights, the same for the same seed, and its tokenizer.

    Raises `WeightsError` as `build` does.
    """
    from open_clip import CLIP, CustomTextCLIP

    own = dict(config)
    text = _own_text_tower(own)
    kind = CustomTextCLIP if own.pop("custom_text", False) else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = kind(**own)
        except Exception as error:  # a config can be wrong in as many ways as open_clip has lines
            raise WeightsError(f"the architecture config is not one open_clip can build ({error})") from None
    use_fused_self_attention(model)
    return model, _tokenizer(text)


def _tokenizer(text: dict[str, Any]) -> Tokenizer:
    """CLIP's tokenizer, for the text tower of a config."""
    from humanpref.scorers.clip_tokens import ClipTokenizer

    return ClipTokenizer(int(text.get("context_length", 77)))


def _own_text_tower(config: dict[str, Any]) -> dict[str, Any]:
    """The text tower's config. Raises `WeightsError` where that is not CLIP's own."""
    text, vision = config["text_cfg"], config["vision_cfg"]
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise WeightsError(
            "the architecture config is not one open_clip can build (vision_cfg and text_cfg must be objects)"
        )
    if "multimodal_cfg" in config or "hf_tokenizer_name" in text or "hf_model_name" in text:
        raise WeightsError("only architectures with CLIP's own text tower and tokenizer can be loaded")
    return text


def image_size(model: nn.Module) -> int:
    """The side of the square that the image tower takes. Raises `WeightsError` where it takes no square."""
    size = getattr(model.visual, "image_size", 224)
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) != 1:
        raise WeightsError(f"the architecture takes images of {size}; only square ones are supported")
    return int(sides.pop())


def _computed_buffers(model: nn.Module) -> set[str]:
    """Names of the buffers that are not in the state dict."""
    return {name for name, _ in model.named_buffers()} - model.state_dict().keys()


def _materialise_masks(model: nn.Module, device: torch.device) -> None:
    """Give the causal mask, which no checkpoint holds, its values: -inf above the diagonal, 0 elsewhere."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name == "attn_mask" and buffer.ndim == 2:
                mask = torch.full(buffer.shape, float("-inf"), device=device).triu_(1)
                module.register_buffer(name, mask, persistent=False)
    model.to(device)  # tables that were computed, if any


def _keep_residual_stream_fp32(model: nn.Module) -> None:
    """Let matrix products run in 16 bits while the sum they add to, and the norms, stay in fp32."""

    def to_fp32(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].float(), *args[1:])

    for name, module in model.named_modules():
        if name.split(".")[-1] in {"ln_pre", "transformer"}:
            module.register_forward_pre_hook(to_fp32)
