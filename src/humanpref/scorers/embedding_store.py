"""Embeddings kept in one safetensors file: of images by the SHA-256 of their files, of prompts by their text."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from humanpref.files import whole


class EmbeddingStore:
    """Vectors on disk, with a text that says whose they are; another model's are not used, nor is a damaged file."""

    def __init__(self, path: Path, backbone: str) -> None:
        self.path, self.backbone = path, backbone
        self.images: dict[str, Tensor] = {}
        self.texts: dict[str, Tensor] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                if about["backbone"] != self.backbone:
                    return
                self.images = dict(zip(about["images"], file.get_tensor("images"), strict=True))
                self.texts = dict(zip(about["texts"], file.get_tensor("texts"), strict=True))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            self.images, self.texts = {}, {}  # damaged: computed again

    def save(self) -> None:
        """Write the file, whole or not at all. Raises `OSError` or `SafetensorError`."""
        from safetensors.torch import save_file

        about = {"backbone": self.backbone, "images": list(self.images), "texts": list(self.texts)}
        tensors = {"images": _stack(self.images), "texts": _stack(self.texts)}
        with whole(self.path) as part:
            save_file(tensors, part, metadata={"about": json.dumps(about)})


def _stack(vectors: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(vectors.values())).contiguous() if vectors else torch.zeros(0, 1)
