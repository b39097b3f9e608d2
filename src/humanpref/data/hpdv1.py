"""HPD v1 (arXiv 2303.14420; preference_{train,test}.json of tgxs002/align_sd).

[{prompt, id, file_path: [2 to 4 names], human_preference: index of the chosen image, user_hash, contain_name}]. The
chosen image gets rank 1, the others share rank 2: nobody said which of them is better. `contain_name` (whether the
prompt names a person) is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Row, optional_text, text, whole_number
from humanpref.errors import DataError
from humanpref.records import Ranking


def _read(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    names, chosen = row["file_path"], row["human_preference"]
    if not isinstance(names, list):
        raise DataError("file_path must be a list")
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(names):
        raise DataError(f"human_preference must be the index of one of the {len(names)} images, got {chosen!r}")
    ranks = tuple(1 if i == chosen else 2 for i in range(len(names)))
    images = tuple(folder.ref(name) for name in names)
    yield Ranking(text(row, "prompt"), images, ranks, optional_text(row, "user_hash"), optional_text(row, "id"))


def _write(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for r in rankings:
        if sorted(r.ranks) != [1] + [2] * (len(r.ranks) - 1):
            raise DataError(f"ranking of {r.prompt[:60]!r}: this format holds one chosen image, not ranks {r.ranks}")
        row: dict[str, Any] = {"human_preference": r.ranks.index(1), "prompt": r.prompt}
        if r.id is not None:
            row["id"] = whole_number(r.id, "an id")
        row["file_path"] = [folder.name(image) for image in r.images]
        if r.annotator is not None:
            row["user_hash"] = r.annotator
        yield row


LAYOUT = Layout(
    name="hpdv1",
    title="HPD v1's preference_train.json",
    fields=("prompt", "file_path", "human_preference"),
    optional=("id", "user_hash"),
    containers=("json", "jsonl"),
    holds=frozenset({"id", "annotator", "groups", "ties"}),
    read=_read,
    write=_write,
    is_it=lambda row: isinstance(row["human_preference"], int),
)
