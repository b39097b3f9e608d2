"""What every scorer that is a network shares: device, number format, weights brought to both, and the scoring path."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from humanpref.errors import ImageError, ScoreError
from humanpref.images import EncodedImage, ImageSource, open_image, read_image
from humanpref.preprocess import PREPROCESS, Resize, check_pixels, prepare_picture, preprocess
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import BatchScorer, ScorerSpec, Scores, merge
from humanpref.scorers.device_decoding import decode_on_device, is_ordinary
from humanpref.scorers.devices import bring_back, stack_on_device

if TYPE_CHECKING:
    from humanpref.scorers import Decode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGE_CHECKPOINT = 200_000_000  # bytes; smaller networks are fast enough in fp32


NetworkInput: TypeAlias = Tensor | EncodedImage
"""What an image is prepared to: the network's input (3, size, size); with decode="device" a JPEG file as it is."""


@dataclass(frozen=True)
class Setup:
    """How a network runs: what became of `LoadOptions`. `origin`: what it was loaded from, None: no file."""

    resize: Resize
    precision: str
    device: torch.device
    decode: Decode = "exact"
    origin: weight_files.Origin | None = None


class NetworkScorer(BatchScorer[NetworkInput]):
    """Preprocesses images and hands them, with their prompts, to `_judge`. Differentiable with respect to pixels."""

    def __init__(self, spec: ScorerSpec, setup: Setup, image_size: int) -> None:
        super().__init__(spec)
        assert spec.preprocess is not None
        self.resize, self.decode = setup.resize, setup.decode
        self.precision, self.device = setup.precision, setup.device
        self._origin = setup.origin
        self.batch_size, self.in_flight = (8, 0) if self.device.type == "cpu" else (64, 1)
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
            **({"decode": self.decode} if self.decode != "exact" else {}),
        }

    @abstractmethod
    def _judge(self, inputs: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score preprocessed images (n, 3, size, size), on the device, with one prompt each -> (n,), float32."""

    def _prepare(self, image: ImageSource | Tensor) -> NetworkInput:
        if isinstance(image, Tensor):
            check_pixels(image[None])
            with torch.no_grad():
                return preprocess(image[None], self._preprocess, self.resize)[0]
        if self.decode == "device" and not isinstance(image, Image.Image):
            image = image if isinstance(image, EncodedImage) else read_image(image)
            if is_ordinary(image):
                return replace(image)  # without the picture, if another scorer has looked at it
        return prepare_picture(open_image(image), self._preprocess, self.resize)

    def begin(self, batch: Sequence[NetworkInput], prompts: Sequence[str]) -> Scores:
        """Begin to score a batch; see `BatchScorer.begin`. On a GPU it is queued, and nothing waited for."""
        inputs, errors = self.collate(batch)
        good = [prompt for n, prompt in enumerate(prompts) if n not in errors]
        if not good:
            return lambda: merge((), errors)
        with torch.no_grad(), self._own_precision():
            scores = bring_back(self._judge(inputs, good))
        return lambda: merge(scores().tolist(), errors)

    def collate(self, batch: Sequence[NetworkInput]) -> tuple[Tensor, dict[int, ImageError]]:
        """Make one input (n, 3, size, size) on the device of prepared images -> by place, too, the errors of what
        cannot be decoded after all and is not in it."""
        files = {n: one for n, one in enumerate(batch) if isinstance(one, EncodedImage)}
        ready: dict[int, Tensor | ImageError] = {n: one for n, one in enumerate(batch) if isinstance(one, Tensor)}
        if files:
            made = decode_on_device(list(files.values()), self._preprocess, self.resize, self.device)
            ready |= dict(zip(files, made, strict=True))
        errors = {n: one for n, one in ready.items() if isinstance(one, ImageError)}
        good = [one for n in range(len(batch)) if isinstance(one := ready[n], Tensor)]
        return (stack_on_device(good, self.device) if good else torch.empty(0)), errors

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
