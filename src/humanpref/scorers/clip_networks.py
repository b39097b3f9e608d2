"""CLIP networks of open_clip: architectures by name or config, built without initialising, with a checkpoint's tensors
put in or at random; their tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from humanpref.errors import UnknownNameError, WeightsError
from humanpref.scorers import keys
from humanpref.scorers import weights as weight_files
from humanpref.scorers.attention import use_fused_self_attention
from humanpref.scorers.network import DTYPES, convert_matrices, convert_rest, fp32_keys, resolve_precision

Tokenizer: TypeAlias = Callable[[list[str]], Tensor]


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
