"""Frozen embeddings, computed once and kept beside the run: what a head is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humanpref.errors import ImageError, TrainingError
from humanpref.evaluation.evaluate import TestSet
from humanpref.images import ImageSource
from humanpref.progress import Track
from humanpref.scorers import SPECS
from humanpref.scorers import weights as weight_files
from humanpref.scorers.base import map_ahead
from humanpref.scorers.embedding_store import EmbeddingStore
from humanpref.training.batches import PixelInputs
from humanpref.training.config import TrainConfig
from humanpref.training.examples import Example, ExampleTable

FILE = "embeddings.safetensors"
CHUNK = 64


@dataclass(frozen=True)
class EmbeddingInputs:
    """Unit vectors by image path and by prompt; `backbone` says whose they are. `failed`: images that cannot be
    read."""

    images: dict[str, Tensor]
    texts: dict[str, Tensor]
    failed: dict[str, str]
    width: int
    backbone: str
    base_sha256: str | None = None

    def image(self, image: ImageSource) -> Tensor:
        """The unit vector of an image (width,). Raises `ImageError`."""
        key = str(image)
        if key not in self.images:
            raise ImageError(self.failed.get(key, f"{key}: has no embedding"))
        return self.images[key]

    def prompts(self, prompts: list[str]) -> Tensor:
        """Unit vectors (prompts, width)."""
        return torch.stack([self.texts[prompt] for prompt in prompts])


def embed_data(
    clip: nn.Module,
    pixels: PixelInputs,
    table: Sequence[Example],
    held_out: TestSet | None,
    out: Path,
    accelerator: Any,
    config: TrainConfig,
    track: Track,
) -> EmbeddingInputs:
    """Embed every image and prompt of the data, but those that `out` has from before (by the content of the files)."""
    assert isinstance(table, ExampleTable)
    images, prompts = dict.fromkeys(table.images), dict.fromkeys(table.prompts)
    for instance in held_out.instances if held_out is not None else ():
        images.update(dict.fromkeys(str(image.path) for image in instance.consensus.images))
        prompts[instance.consensus.prompt] = None
    backbone = hashlib.sha256(_describe(clip, config).encode()).hexdigest()
    device = accelerator.device
    store = EmbeddingStore(out / FILE, backbone)
    by_file, failed = _digests(list(images))
    new = [(path, digest) for path, digest in by_file.items() if digest not in store.images]
    new = list({digest: (path, digest) for path, digest in new}.values())
    clip = clip.to(device).requires_grad_(False).eval()
    with track("Embedding images", len(new)) as advance, torch.no_grad():
        _embed_images(clip, pixels, new, store.images, failed, device, advance)
        for begin in range(0, len(missing := [p for p in prompts if p not in store.texts]), CHUNK):
            chunk = missing[begin : begin + CHUNK]
            found = clip.encode_text(pixels.prompts(chunk).to(device)).float().cpu()  # type: ignore[operator]
            store.texts.update(zip(chunk, F.normalize(found, dim=-1), strict=True))
    if (new or missing) and accelerator.is_main_process:
        _save(store)
    accelerator.wait_for_everyone()
    vectors = {path: store.images[digest] for path, digest in by_file.items() if digest in store.images}
    if failed and config.bad_images == "stop":
        raise TrainingError(
            f"{len(failed)} images of the data cannot be read (first: {next(iter(failed.values()))}); mend them, or "
            "leave them out with bad_images=skip"
        )
    if not store.texts:
        raise TrainingError("the data has no prompts to embed")
    width = len(next(iter(store.texts.values())))
    texts = {prompt: store.texts[prompt] for prompt in prompts}
    return EmbeddingInputs(vectors, texts, failed, width, backbone, _base_sha256(config))


def _save(store: EmbeddingStore) -> None:
    try:
        store.save()
    except Exception as error:  # a full disk has several errors
        raise TrainingError(f"{store.path}: the embeddings cannot be written ({error})") from error


def _digests(paths: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """SHA-256 of each file, and why those that cannot be read cannot."""
    found, failed = {}, {}

    def read(path: str) -> str | OSError:
        try:
            return weight_files.file_sha256(Path(path))
        except OSError as error:
            return error

    for path, digest in zip(paths, map_ahead(read, paths, ahead=32), strict=True):
        if isinstance(digest, OSError):
            failed[path] = f"{path}: {digest.strerror}"
        else:
            found[path] = digest
    return found, failed


def _embed_images(
    clip: nn.Module,
    pixels: PixelInputs,
    new: list[tuple[str, str]],
    found: dict[str, Tensor],
    failed: dict[str, str],
    device: torch.device,
    advance: Callable[[], None],
) -> None:
    def prepare(item: tuple[str, str]) -> Tensor | ImageError:
        try:
            return pixels.image(Path(item[0]))
        except ImageError as error:
            return error

    waiting: list[tuple[str, Tensor]] = []

    def flush() -> None:
        if waiting:
            stacked = torch.stack([tensor for _, tensor in waiting]).to(device)
            vectors = F.normalize(clip.encode_image(stacked).float(), dim=-1).cpu()  # type: ignore[operator]
            found.update(zip([digest for digest, _ in waiting], vectors, strict=True))
            waiting.clear()

    for item, tensor in zip(new, map_ahead(prepare, new, ahead=2 * CHUNK), strict=True):
        advance()
        if isinstance(tensor, ImageError):
            failed[item[0]] = str(tensor)
            continue
        waiting.append((item[1], tensor))
        if len(waiting) == CHUNK:
            flush()
    flush()


def _describe(clip: nn.Module, config: TrainConfig) -> str:
    """What embeddings depend on besides the image: weights, architecture, resize."""
    digest = hashlib.sha256()
    for name, value in sorted(clip.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"{digest.hexdigest()} {config.arch} {config.resize}"


def _base_sha256(config: TrainConfig) -> str | None:
    """The SHA-256 of the weights file the embeddings are made with; None for random weights from the seed."""
    if not config.base:
        return None
    spec = SPECS.get(config.base)
    path = weight_files.locate(spec, None) if spec is not None else Path(config.base).expanduser()
    return weight_files.file_sha256(path)
