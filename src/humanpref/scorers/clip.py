"""Scorers that are a CLIP: cosine of image and text embeddings. One class, several rows (`humanpref.scorers.SPECS`)."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humanpref.errors import UnknownNameError, WeightsError
from humanpref.images import ImageSource, open_image
from humanpref.preprocess import PREPROCESS, Resize, check_pixels, preprocess, to_pixels
from humanpref.scorers import weights as weight_files
from humanpref.scorers.attention import use_fused_self_attention
from humanpref.scorers.base import BatchScorer, ScorerSpec

if TYPE_CHECKING:
    from humanpref.scorers import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_CACHE_SIZE = 4096
LARGE_CHECKPOINT = 200_000_000  # bytes; smaller networks are fast enough in fp32


class ClipScorer(BatchScorer[Tensor]):
    """Cosine of CLIP embeddings (HPS v2: arXiv 2306.09341 section 4; official `hpsv2/img_score.py`).

    Differentiable with respect to pixels. The weights are frozen.
    """

    def __init__(
        self,
        spec: ScorerSpec,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        resize: Resize,
        precision: str,
        device: torch.device,
    ) -> None:
        super().__init__(spec)
        assert spec.preprocess is not None
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.resize: Resize = resize
        self.precision = precision
        self.device = device
        self.batch_size = 8 if device.type == "cpu" else 64
        self._preprocess = replace(PREPROCESS[spec.preprocess], size=image_size(model))
        self._text_lock = threading.Lock()
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def load(
        cls,
        spec: ScorerSpec,
        *,
        weights: str | Path | None,
        arch: str | Path | None,
        resize: Resize,
        precision: Precision,
        device: str,
    ) -> ClipScorer:
        """Build the network without initialising it and put the checkpoint's tensors in; see `load_scorer`."""
        place = resolve_device(device)
        path = weight_files.locate(spec, weights)
        resolved = resolve_precision(precision, place, path.stat().st_size)
        name = str(arch or spec.arch)
        dtype = DTYPES[resolved]
        with ThreadPoolExecutor(max_workers=1) as pool:
            # reading and converting release the interpreter; open_clip's import, which takes seconds, goes on meanwhile
            reading = pool.submit(lambda: convert_matrices(weight_files.read_state_dict(path), dtype, place))
            model, tokenizer = build(architecture(name))
            tensors = reading.result()
        weight_files.check_fit(tensors, model.state_dict(), path, name)
        model.load_state_dict(convert_rest(tensors, fp32_keys(model), dtype, place), assign=True)
        _materialise_masks(model, place)
        if resolved != "fp32":
            _keep_residual_stream_fp32(model)
        return cls(spec, model, tokenizer, resize=resize, precision=resolved, device=place)

    @property
    def logit_scale(self) -> float:
        """exp of the checkpoint's own logit scale, clamped to at most 100 as in training."""
        return float(self.model.logit_scale.float().exp().clamp(max=100.0).reshape(()))  # type: ignore[operator]

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
                encoded = self.model.encode_text(self.tokenizer(chunk).to(self.device))  # type: ignore[operator]
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
        with nullcontext() if self.precision == "fp32" else self._own_precision():
            encoded = self.model.encode_image(inputs)  # type: ignore[operator]
        return F.normalize(encoded.float(), dim=-1)

    def _prepare(self, image: ImageSource | Tensor) -> Tensor:
        pixels = (image if isinstance(image, Tensor) else to_pixels(open_image(image)))[None]
        if isinstance(image, Tensor):
            check_pixels(pixels)
        with torch.no_grad():
            return preprocess(pixels, self._preprocess, self.resize)[0]

    def _score_prepared(self, batch: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        with torch.no_grad(), self._own_precision():
            return self._cosine(torch.stack(list(batch)).to(self.device), prompts).cpu()

    def _score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._cosine(preprocess(pixels.to(self.device), self._preprocess, self.resize), prompts)

    def _cosine(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        text = self.embed_text(prompts)
        return (self.embed_pixels(inputs) * text).sum(dim=-1)

    def _own_precision(self) -> AbstractContextManager[object]:
        """This scorer's number format, whatever autocast the caller is in."""
        if self.precision == "fp32":
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])


def resolve_device(device: str) -> torch.device:
    """Turn a device name into a device that is here: cpu, cuda or cuda:N. Raises `UnknownNameError` otherwise."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not (kind == "cuda" and index.isdecimal())):
        raise UnknownNameError(f"no device is called {device!r}; choose from: auto, cpu, cuda, cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnknownNameError(f"device {device} was asked for, but no CUDA device is available here; use cpu or auto")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UnknownNameError(f"device {device} was asked for, but there are only {torch.cuda.device_count()} here")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device, checkpoint_bytes: int) -> str:
    """Turn "auto" into a precision: fp16 on a GPU, as in the official code; on a CPU bf16 where it pays, else fp32.

    It pays for large networks on CPUs that multiply bf16 in hardware; docs/precision.md has the evidence.
    """
    if precision != "auto":
        return precision
    if device.type != "cpu":
        return "fp16"
    return "bf16" if checkpoint_bytes >= LARGE_CHECKPOINT and cpu_multiplies_bf16() else "fp32"


def cpu_multiplies_bf16() -> bool:
    """Tell whether this CPU has bf16 matrix (AMX) or dot-product (AVX-512 BF16) instructions."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


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


def build(config: dict[str, Any]) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Make the network of a config, without initialising it where that can be put off (meta device), and its tokenizer.

    Raises `WeightsError` for a config that open_clip cannot build, or whose text tower is not CLIP's own.
    """
    from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer

    config = dict(config)
    text, vision = config["text_cfg"], config["vision_cfg"]
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise WeightsError(
            "the architecture config is not one open_clip can build (vision_cfg and text_cfg must be objects)"
        )
    if "multimodal_cfg" in config or "hf_tokenizer_name" in text or "hf_model_name" in text:
        raise WeightsError("only architectures with CLIP's own text tower and tokenizer can be loaded")
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    try:
        with torch.device("meta"):
            model = kind(**config)
        if any(name.rpartition(".")[2] != "attn_mask" for name in _computed_buffers(model)):
            model = kind(**config)  # some image towers compute tables at start, which no checkpoint holds
        use_fused_self_attention(model)
        return model, SimpleTokenizer(context_length=int(text.get("context_length", 77)))
    except Exception as error:  # a config can be wrong in as many ways as open_clip has lines
        raise WeightsError(f"the architecture config is not one open_clip can build ({error})") from None


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


def fp32_keys(model: nn.Module) -> set[str]:
    """Names of the weights that stay in fp32 whatever the precision: scalars, and all that norms own."""
    keys = {key for key, value in model.state_dict().items() if value.ndim == 0}
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            keys |= {f"{name}.{key}" for key in module.state_dict()}
    return keys


def convert_matrices(tensors: dict[str, Tensor], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Bring matrices, nearly all of the weights, to where and what they are used as; leave the others as they are.

    One by one, so that no second copy of all ever exists, and copied out of the file, which may change afterwards.
    """
    return {
        key: tensor.to(device, dtype, copy=True) if tensor.ndim >= 2 and weight_files.is_dense(tensor) else tensor
        for key, tensor in tensors.items()
    }


def convert_rest(
    tensors: dict[str, Tensor], fp32: set[str], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Do the same for what `convert_matrices` left; the weights named in `fp32` stay in fp32 whatever the precision."""

    def kind(key: str, tensor: Tensor) -> torch.dtype:
        return (torch.float32 if key in fp32 else dtype) if tensor.is_floating_point() else tensor.dtype

    return {
        key: tensor if tensor.ndim >= 2 and key not in fp32 else tensor.to(device, kind(key, tensor), copy=True)
        for key, tensor in tensors.items()
    }


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
