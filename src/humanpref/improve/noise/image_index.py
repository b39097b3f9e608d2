"""Searching images by text: embeddings of a CLIP scorer, kept on disk by the images' content, and FAISS over them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanpref.cache import default_path
from humanpref.errors import ImageError, MissingExtraError
from humanpref.improve.methods import ImproveError
from humanpref.scorers.base import Scorer, map_ahead

if TYPE_CHECKING:
    from torch import Tensor

    from humanpref.scorers.clip import ClipScorer


def check_faiss() -> Any:
    """Return the module. Raises `MissingExtraError`."""
    try:
        import faiss
    except ImportError:
        raise MissingExtraError('searching reference images needs faiss: pip install "humanpref[improve]"') from None
    return faiss


def nearest_images(
    scorer: Scorer, images: Mapping[str, Path], prompts: Sequence[str], k: int, *, of: str
) -> list[tuple[str, ...]]:
    """Return, for each prompt, the k images whose embeddings have the highest cosine with its own, nearest first.

    images: paths by the SHA-256 of the files, which is what is returned. `of` names them: one file of embeddings is
    kept for each name and model, beside the score cache. The search is exact (`faiss.IndexFlatIP` of unit vectors).
    Raises `ImproveError` for a scorer that is no CLIP, or naming the first image that cannot be read.
    """
    from humanpref.scorers.clip import ClipScorer

    faiss = check_faiss()
    if not isinstance(scorer, ClipScorer):
        raise ImproveError(f"{scorer.spec.name} embeds no prompts; by= is a CLIP scorer")
    vectors = embed_images(scorer, images, store_path(scorer, of))
    names = list(vectors)
    index = faiss.IndexFlatIP(len(vectors[names[0]]))
    index.add(_rows([vectors[name] for name in names]))
    _, places = index.search(scorer.embed_text(prompts).cpu().numpy(), min(k, len(names)))
    return [tuple(names[place] for place in row) for row in places]


def store_path(scorer: Scorer, of: str) -> Path:
    """Where the embeddings of images of that name by this scorer are kept."""
    name = hashlib.sha256(f"{scorer.identity}\0{of}".encode()).hexdigest()[:24]
    return default_path().parent / "references" / f"{name}.safetensors"


def embed_images(scorer: ClipScorer, images: Mapping[str, Path], path: Path) -> dict[str, Tensor]:
    """Return the unit vectors (d,) of images by SHA-256, in their order; those that `path` has are not computed again.

    Where `path` cannot be written they are all computed each time. Raises `ImproveError` naming the first image that
    cannot be read.
    """
    import torch

    from humanpref.scorers.embedding_store import EmbeddingStore

    store = EmbeddingStore(path, scorer.identity)
    new = [digest for digest in images if digest not in store.images]
    failed: list[ImageError] = []
    prepared = zip(new, map_ahead(scorer.prepare, [images[d] for d in new], ahead=2 * scorer.batch_size), strict=True)
    while chunk := list(islice(prepared, scorer.batch_size)):
        failed += [image for _, image in chunk if isinstance(image, ImageError)]
        good = [(digest, image) for digest, image in chunk if not isinstance(image, ImageError)]
        if good:
            with torch.no_grad():
                inputs, errors = scorer.collate([image for _, image in good])
                found = scorer.embed_pixels(inputs).cpu()
            failed += errors.values()
            read = [digest for n, (digest, _) in enumerate(good) if n not in errors]
            store.images.update(zip(read, found, strict=True))
    if failed:
        raise ImproveError(f"noise: {len(failed)} images cannot be read (first: {failed[0]}); mend or remove them")
    store.images = {digest: store.images[digest] for digest in images}  # what was removed is forgotten
    if new:
        _keep(store)
    return store.images


def _keep(store: Any) -> None:
    from safetensors import SafetensorError

    try:
        store.path.parent.mkdir(parents=True, exist_ok=True)
        store.save()
    except (OSError, SafetensorError):
        return  # embeddings can be had again: a cache that cannot be written stops nothing


def _rows(vectors: Sequence[Tensor]) -> Any:
    import torch

    return torch.stack(list(vectors)).float().numpy()
