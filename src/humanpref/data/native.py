"""Our own format: one `Ranking` a row, nothing lost, as JSON Lines or Parquet.

{"prompt", "images": [{"path", "source"}], "ranks", "annotator", "id", "first_preferred", "prompt_source", "style"};
paths below the image folder, fields that are not known left out. In place of {"path": p} a plain p will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Row, optional_text, share, text, two_lists
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking

OPTIONAL = ("annotator", "id", "first_preferred", "prompt_source", "style")


def _read(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    entries, ranks = two_lists(row, "images", "ranks")
    images = tuple(_image(entry, folder) for entry in entries)
    soft = row.get("first_preferred")
    yield Ranking(
        text(row, "prompt"),
        images,
        tuple(ranks),
        optional_text(row, "annotator"),
        optional_text(row, "id"),
        None if soft is None else share(soft, "first_preferred"),
        optional_text(row, "prompt_source"),
        optional_text(row, "style"),
    )


def _image(entry: object, folder: ImageFolder) -> ImageRef:
    if isinstance(entry, dict):
        if "path" not in entry:
            raise DataError("an image needs a path")
        return folder.ref(entry["path"], optional_text(entry, "source"))
    return folder.ref(entry if isinstance(entry, str) else str(entry))


def _write(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for r in rankings:
        images = [
            {"path": folder.name(image), **({} if image.source is None else {"source": image.source})}
            for image in r.images
        ]
        known = {name: getattr(r, name) for name in OPTIONAL}
        row = {"prompt": r.prompt, "images": images, "ranks": list(r.ranks)}
        yield {**row, **{key: value for key, value in known.items() if value is not None}}


LAYOUT = Layout(
    name="rankings",
    title="humanpref's own rankings",
    fields=("prompt", "images", "ranks"),
    optional=OPTIONAL,
    containers=("jsonl", "parquet", "json"),
    holds=frozenset({"id", "annotator", "source", "soft", "groups", "ties", "prompt_source", "style"}),
    read=_read,
    write=_write,
    columns={
        "prompt": "string",
        "images": "images",
        "ranks": "ints",
        "annotator": "string",
        "id": "string",
        "first_preferred": "float",
        "prompt_source": "string",
        "style": "string",
    },
)
