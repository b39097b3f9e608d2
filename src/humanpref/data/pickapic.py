"""Pick-a-Pic v1 and v2 (arXiv 2305.01569; `yuvalkirstain/pickapic_v2` on the Hub): Parquet with the images inside.

Columns used: caption, jpg_0, jpg_1 (bytes), label_0, label_1 (1 and 0, or 0.5 and 0.5 for a tie), model_0, model_1,
user_id, ranking_id, has_label. Rows that say they have no label are no judgements and give no ranking, as in the
official training code. Reading writes the images to files named by their SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Row, first_share, optional_text, preferred, text, whole_number
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking


def _read(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    if row.get("has_label") is False:
        return
    share = first_share(row["label_0"], row["label_1"], "label_0 and label_1")
    first, second = (folder.store(row[f"jpg_{i}"], optional_text(row, f"model_{i}")) for i in (0, 1))
    who, name = optional_text(row, "user_id"), optional_text(row, "ranking_id")
    yield Ranking.of_pair(text(row, "caption"), first, second, share, annotator=who, id=name)


def _write(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for r in rankings:
        share, (first, second) = preferred(r), r.images
        yield {
            "caption": r.prompt,
            "jpg_0": _bytes(first),
            "jpg_1": _bytes(second),
            "label_0": share,
            "label_1": 1 - share,
            "model_0": first.source,
            "model_1": second.source,
            "user_id": None if r.annotator is None else whole_number(r.annotator, "an annotator"),
            "ranking_id": None if r.id is None else whole_number(r.id, "an id"),
            "has_label": True,
        }
    assert folder is not None  # the images go into the file: their names do not matter


def _bytes(image: ImageRef) -> bytes:
    try:
        return image.path.read_bytes()
    except OSError as error:
        raise DataError(f"{image}: cannot be put into the file ({error.strerror or error})") from None


LAYOUT = Layout(
    name="pickapic",
    title="Pick-a-Pic's Parquet files",
    fields=("caption", "jpg_0", "jpg_1", "label_0", "label_1"),
    optional=("model_0", "model_1", "user_id", "ranking_id", "has_label"),
    containers=("parquet",),
    holds=frozenset({"id", "annotator", "source", "soft", "ties"}),
    read=_read,
    write=_write,
    makes_images=True,
    columns={
        "caption": "string",
        **{f"jpg_{i}": "bytes" for i in (0, 1)},
        **{f"label_{i}": "float" for i in (0, 1)},
        **{f"model_{i}": "string" for i in (0, 1)},
        "user_id": "int",
        "ranking_id": "int",
        "has_label": "bool",
    },
)
