"""Small copies of many images: named by what they were made from, made once, by several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from humanpref.errors import DataError, ImageError
from humanpref.files import whole
from humanpref.images import open_image
from humanpref.scorers.weights import file_sha256

SIZE = 256
QUALITY = 82
CHUNK = 64
"""How many images a process takes at a time."""


@dataclass(frozen=True)
class Source:
    """An image and the SHA-256 it had when it was scored."""

    path: Path
    sha256: str


def thumbnail_name(sha256: str, size: int = SIZE) -> str:
    """Where the thumbnail of these bytes is, below the folder of thumbnails."""
    return f"{sha256[:2]}/{sha256[2:34]}-{size}.webp"


def make_thumbnails(
    sources: Iterable[Source],
    folder: Path,
    *,
    size: int = SIZE,
    workers: int | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Mapping[str, str]:
    """Make the thumbnails that are not there yet, longest side `size` pixels -> {SHA-256: why there is none}.

    An image whose bytes are not those that were scored gets none. `on_image` is told how many more are done. Raises
    `DataError` where thumbnails cannot be written.
    """
    wanted = {source.sha256: source for source in sources}
    there = _existing(folder, size)
    missing = [source for sha256, source in wanted.items() if thumbnail_name(sha256, size) not in there]
    if on_image is not None:
        on_image(len(wanted) - len(missing))
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    failed: dict[str, str] = {}
    try:
        for prefix in {source.sha256[:2] for source in missing}:
            (folder / prefix).mkdir(parents=True, exist_ok=True)
        count = min(workers or os.cpu_count() or 1, len(chunks))
        if count <= 1:
            for chunk in chunks:
                failed |= _make_chunk(chunk, folder, size)
                _tell(on_image, len(chunk))
            return failed
        # spawned, not forked: the caller may have threads (torch has), and a lock they hold would never be let go
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            done = pool.map(_make_chunk, chunks, [folder] * len(chunks), [size] * len(chunks))
            for chunk, own in zip(chunks, done, strict=True):
                failed |= own
                _tell(on_image, len(chunk))
    except OSError as error:
        raise DataError(f"{folder}: thumbnails cannot be written ({error.strerror or error})") from None
    return failed


def _tell(on_image: Callable[[int], None] | None, count: int) -> None:
    if on_image is not None:
        on_image(count)


def _existing(folder: Path, size: int) -> set[str]:
    ending = f"-{size}.webp"
    if not folder.is_dir():
        return set()
    return {
        f"{inner.name}/{entry.name}"
        for inner in os.scandir(folder)
        if inner.is_dir()
        for entry in os.scandir(inner.path)
        if entry.name.endswith(ending)
    }


def _make_chunk(chunk: list[Source], folder: Path, size: int) -> dict[str, str]:
    failed = {}
    for source in chunk:
        try:
            _make(source, folder / thumbnail_name(source.sha256, size), size)
        except ImageError as error:
            failed[source.sha256] = str(error)
    return failed


def _make(source: Source, target: Path, size: int) -> None:
    try:
        now = file_sha256(source.path)
    except OSError as error:
        raise ImageError(f"{source.path}: {error.strerror or error}") from None
    if now != source.sha256:
        raise ImageError(f"{source.path}: has changed since it was scored")
    picture = open_image(source.path)
    picture.thumbnail((size, size), reducing_gap=2.0)
    with whole(target) as part:
        picture.save(part, "WEBP", quality=QUALITY, method=0)
