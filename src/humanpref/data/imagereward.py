"""ImageReward (arXiv 2304.05977).

data/test.json of its repository, and the train.json its training code reads: [{id, prompt, generations, ranking}], one
group each, ranking[i] belongs to generations[i], 1 = best, with ties and gaps.

ImageRewardDB on the Hub (train_1.json ... in its archives, and metadata-*.parquet): one row per image {image_path,
prompt_id, prompt, classification, image_amount_in_total, rank, overall_rating, image_text_alignment_rating,
fidelity_rating}; rows of one group share prompt_id. Class and ratings are not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Numbered, Row, optional_text, text, two_lists
from humanpref.errors import DataError
from humanpref.records import Ranking


def _read(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    names, ranks = two_lists(row, "generations", "ranking")
    images = tuple(folder.ref(name) for name in names)
    yield Ranking(text(row, "prompt"), images, tuple(ranks), id=optional_text(row, "id"))


def _write(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for r in rankings:
        row: dict[str, Any] = {} if r.id is None else {"id": r.id}
        names = [folder.name(image) for image in r.images]
        yield {**row, "prompt": r.prompt, "generations": names, "ranking": list(r.ranks)}


def _gather(rows: Iterable[Numbered]) -> Iterator[Numbered]:
    """Put the rows of one prompt_id together; they need not be neighbours (in memory: one entry per image)."""
    groups: dict[object, tuple[int, list[Row]]] = {}
    for number, row in rows:
        key = row.get("prompt_id") if isinstance(row, dict) else None
        groups.setdefault(key if isinstance(key, (str, int)) else number, (number, []))[1].append(row)
    for number, members in groups.values():
        yield number, {**members[0], "members": members}


def _read_db(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    members = [DB.check(member) for member in row["members"]]
    if len({text(member, "prompt") for member in members}) != 1:
        raise DataError(f"prompt_id {row['prompt_id']!r} has several prompts")
    images = tuple(folder.ref(member["image_path"]) for member in members)
    yield Ranking(row["prompt"], images, tuple(m["rank"] for m in members), id=optional_text(row, "prompt_id"))


def _write_db(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for r in rankings:
        if r.id is None or r.id in seen:
            raise DataError(f"ranking of {r.prompt[:60]!r}: this format needs an id of its own for every group")
        seen.add(r.id)
        for image, rank in zip(r.images, r.ranks, strict=True):
            row = {"image_path": folder.name(image), "prompt_id": r.id, "prompt": r.prompt}
            yield {**row, "image_amount_in_total": len(r.images), "rank": rank}


TEST = Layout(
    name="imagereward",
    title="ImageReward's test.json",
    fields=("prompt", "generations", "ranking"),
    optional=("id",),
    containers=("json", "jsonl"),
    holds=frozenset({"id", "groups", "ties"}),
    read=_read,
    write=_write,
)
DB = Layout(
    name="imagereward-db",
    title="ImageRewardDB's metadata",
    fields=("prompt_id", "prompt", "image_path", "rank"),
    containers=("json", "jsonl", "parquet"),
    holds=frozenset({"id", "groups", "ties"}),
    read=_read_db,
    write=_write_db,
    gather=_gather,
    columns={
        "image_path": "string",
        "prompt_id": "string",
        "prompt": "string",
        "image_amount_in_total": "int",
        "rank": "int",
    },
)
