"""The LoRA of a pipeline: put on, switched off for the frozen model, read and written in diffusers' format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from humanpref.errors import MissingExtraError, reason_of
from humanpref.files import whole
from humanpref.improve.finetune.config import FinetuneConfig
from humanpref.improve.methods import ImproveError
from humanpref.improve.pipelines import denoiser_of

NAME = "humanpref"


def add_lora(pipeline: Any, config: FinetuneConfig) -> dict[str, nn.Parameter]:
    """Freeze a pipeline and put a LoRA that does nothing yet on its denoiser -> its parameters by name, fp32.

    Seeded by `config.seed`. Raises `ImproveError` where no layer has such a name, or the denoiser takes no LoRA.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise MissingExtraError('fine-tuning needs peft: pip install "humanpref[generate]"') from None
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
    _, network = denoiser_of(pipeline)
    if not hasattr(network, "add_adapter"):
        raise ImproveError(f"{type(network).__name__} takes no LoRA in diffusers")
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=config.layers, init_lora_weights="gaussian"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            network.add_adapter(lora, adapter_name=NAME)
        except ValueError as error:
            raise ImproveError(f"lora_layers: {reason_of(error)}") from None
    if config.checkpointing:
        part: Any
        for part in (network, getattr(pipeline, "vae", None)):
            if getattr(part, "_supports_gradient_checkpointing", False):
                part.enable_gradient_checkpointing()
    found = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for parameter in found.values():
        parameter.data = parameter.data.float()
    return found


@contextmanager
def frozen(network: Any) -> Iterator[None]:
    """Without the LoRA and without gradients: the model as it was."""
    network.disable_adapters()
    try:
        with torch.no_grad():
            yield
    finally:
        network.enable_adapters()


def set_lora(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Give the LoRA other values, by the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])


def write_lora(pipeline: Any, path: Path) -> None:
    """Write the LoRA, fp32, as `load_lora_weights` of diffusers and `--lora` take it, whole or not at all.

    Raises `ImproveError` for a pipeline that cannot load one.
    """
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    part, network = denoiser_of(pipeline)
    if not hasattr(pipeline, "save_lora_weights"):
        raise ImproveError(f"{type(pipeline).__name__} cannot load a LoRA, so there is no use in training one")
    layers = convert_state_dict_to_diffusers(  # type: ignore[no-untyped-call]
        get_peft_model_state_dict(network, adapter_name=NAME)
    )
    layers = {name: tensor.detach().cpu().contiguous() for name, tensor in layers.items()}
    with TemporaryDirectory() as folder:
        pipeline.save_lora_weights(
            folder, **{f"{part}_lora_layers": layers}, weight_name=path.name, safe_serialization=True
        )
        with whole(path) as target:
            copyfile(Path(folder) / path.name, target)
