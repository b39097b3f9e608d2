"""Folders of images, subfolders too: the prompt of an image is in the .txt file of its name, or one serves all."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Set

from humanpref.batch.places import ReadStoppedError, failing_with_name, filesystem, is_passing, join, read_bytes
from humanpref.batch.records import Problem, Reading, Row, Shard, Span
from humanpref.batch.walk import files_below
from humanpref.errors import DataError
from humanpref.images import SUFFIXES, natural

MAX_PROMPT_BYTES = 1 << 20


def is_image(path: str) -> bool:
    """Tell whether a file of a folder is an image by its name; hidden ones are not."""
    return posixpath.splitext(path)[1].lower() in SUFFIXES and not posixpath.basename(path).startswith(".")


def digest(names: Set[str]) -> str:
    """What the rows of a folder with these files depend on: its images, and which of them have a .txt file."""
    found = hashlib.sha256()
    for name in sorted(filter(is_image, names)):
        found.update(f"{name}\0{_side(name, names) is not None}\0".encode(errors="surrogatepass"))
    return found.hexdigest()[:16]


def check(shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading:  # noqa: ARG001 - as the other kinds
    """A folder has no columns: refuse those that are named."""
    if reading.image_column or reading.prompt_column:
        raise DataError(
            f"{shard.name}: is a folder of images and has no columns; leave --image-column and --prompt-column out"
        )
    return reading


def spans(shard: Shard, reading: Reading, rows: int) -> Iterator[Span]:  # noqa: ARG001
    """Yield spans of at most `rows` images, in natural order, each with the .txt file beside it, if there is one."""
    system, path = filesystem(shard.url)
    with failing_with_name(shard.name):
        names = set(files_below(system, path))
    images = sorted(filter(is_image, names), key=natural)
    for number, first in enumerate(range(0, len(images), rows)):
        chunk = images[first : first + rows]
        items = tuple((name, _side(name, names)) for name in chunk)
        yield Span(shard, number, first, len(chunk), share=len(chunk), items=items)


def rows(span: Span, reading: Reading) -> Iterator[Row]:
    """Yield the images of a span."""
    for number, (name, side) in enumerate(span.items, start=span.first):
        prompt = reading.prompt
        if side is not None:
            try:
                prompt = read_bytes(join(span.shard.url, side), MAX_PROMPT_BYTES).decode("utf-8-sig").strip()
            except Exception as error:  # stores far away raise errors of their own
                if is_passing(error):
                    raise ReadStoppedError(f"{span.shard.name}: {side}", error) from None
                yield Row(number, name, None, Problem("bad-row", f"{side}: the prompt cannot be read ({error})"))
                continue
        yield Row(number, name, prompt, name)


def _side(image: str, names: Set[str]) -> str | None:
    side = posixpath.splitext(image)[0] + ".txt"
    return side if side in names else None
