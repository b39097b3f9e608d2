"""What every scorer that is a network shares: device, number format, weights brought to both, and the scoring path."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from humanpref.errors import ScoreError, UnknownNameError
from humanpref.images import ImageSource, open_image
from humanpref.preprocess import PREPROCESS, Resize, check_pixels, prepare_picture, preprocess
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import BatchScorer, ScorerSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGE_CHECKPOINT = 200_000_000  # bytes; smaller networks are fast enough in fp32


class NetworkScorer(BatchScorer[Tensor]):
    """Preprocesses images and hands them, with their prompts, to `_judge`. Differentiable with respect to pixels."""

    def __init__(
        self,
        spec: ScorerSpec,
        *,
        image_size: int,
        resize: Resize,
        precision: str,
        device: torch.device,
        origin: weight_files.Origin | None = None,
    ) -> None:
        super().__init__(spec)
        self._origin = origin
        assert spec.preprocess is not None
        self.resize: Resize = resize
        self.precision = precision
        self.device = device
        self.batch_size = 8 if device.type == "cpu" else 64
        self._preprocess = replace(PREPROCESS[spec.preprocess], size=image_size)

    def _settings(self) -> dict[str, str]:
        if self._origin is None:
            raise ScoreError(f"this {self._spec.name} was not loaded from a file, so its scores cannot be cached")
        return {
            "weights": "+".join(checksum() for checksum in self._origin.checksums),
            "arch": self._origin.arch,
            "preprocess": str(self._spec.preprocess),
            "resize": self.resize,
            "precision": self.precision,
            "device": self.device.type,
        }

    @abstractmethod
    def _judge(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score preprocessed images (n, 3, size, size), on the device, with one prompt each -> (n,), float32."""

    def _prepare(self, image: ImageSource | Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return prepare_picture(open_image(image), self._preprocess, self.resize)
        check_pixels(image[None])
        with torch.no_grad():
            return preprocess(image[None], self._preprocess, self.resize)[0]

    def _score_prepared(self, batch: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        with torch.no_grad(), self._own_precision():
            return self._judge(torch.stack(list(batch)).to(self.device), prompts).cpu()

    def _score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._judge(preprocess(pixels.to(self.device), self._preprocess, self.resize), prompts)

    def _own_precision(self) -> AbstractContextManager[object]:
        """This scorer's number format, whatever autocast the caller is in."""
        if self.precision == "fp32":
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def _image_precision(self) -> AbstractContextManager[object]:
        """The number format of what gradients flow through: in fp32 the caller's autocast, if any, applies."""
        return nullcontext() if self.precision == "fp32" else self._own_precision()


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
