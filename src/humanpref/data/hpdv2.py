"""HPD v2 (arXiv 2306.09341; `ymhao/HPDv2` on the Hub).

train.json: [{prompt, file_path: [a, b], human_preference: [1, 0]}], one pair each; labels may be soft ([0.7, 0.3]).
test.json: [{prompt, image_path: [...], rank: [...], raw_annotations: [{rank: [...], user_hash}]}]; rank[i] belongs to
image_path[i], 1 = best; `rank` is the consensus, the order of the mean rank over the annotators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Row, first_share, preferred, text, two_lists
from humanpref.errors import DataError
from humanpref.records import ImageRef, Ranking


def _read_train(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    names, shares = two_lists(row, "file_path", "human_preference")
    if len(names) != 2 or len(shares) != 2:
        raise DataError(f"a pair needs two images and two preferences, got {len(names)} and {len(shares)}")
    share = first_share(shares[0], shares[1], "human_preference")
    yield Ranking.of_pair(text(row, "prompt"), folder.ref(names[0]), folder.ref(names[1]), share)


def _write_train(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for ranking in rankings:
        share = preferred(ranking)
        label = [int(share), 1 - int(share)] if share in {0, 1} else [share, 1 - share]
        names = [folder.name(image) for image in ranking.images]
        yield {"prompt": ranking.prompt, "file_path": names, "human_preference": label}


def _read_test(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    names, ranks = two_lists(row, "image_path", "rank")
    images = tuple(folder.ref(name) for name in names)
    prompt = text(row, "prompt")
    judgements = [(ranks, None), *map(_annotation, row.get("raw_annotations") or [])]
    yield from [Ranking(prompt, images, tuple(own), who) for own, who in judgements]  # all of an instance, or none


def _annotation(raw: object) -> tuple[list[int], str]:
    if not isinstance(raw, dict) or not {"rank", "user_hash"} <= raw.keys() or not isinstance(raw["rank"], list):
        raise DataError("raw_annotations need rank and user_hash")
    return raw["rank"], str(raw["user_hash"])


def _write_test(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, tuple[ImageRef, ...]], list[Ranking]] = {}
    for ranking in rankings:
        groups.setdefault((ranking.prompt, ranking.images), []).append(ranking)
    for (prompt, images), members in groups.items():
        consensus = [r for r in members if r.annotator is None]
        if len(consensus) != 1:
            raise DataError(
                f"ranking of {prompt[:60]!r}: this format needs one consensus ranking (without an annotator) of each "
                f"group, found {len(consensus)}"
            )
        yield {
            "prompt": prompt,
            "image_path": [folder.name(image) for image in images],
            "rank": list(consensus[0].ranks),
            "raw_annotations": [
                {"rank": list(r.ranks), "user_hash": r.annotator} for r in members if r.annotator is not None
            ],
        }


TRAIN = Layout(
    name="hpdv2-train",
    title="HPD v2's train.json",
    fields=("prompt", "file_path", "human_preference"),
    containers=("json", "jsonl"),
    holds=frozenset({"soft", "ties"}),
    read=_read_train,
    write=_write_train,
    is_it=lambda row: not isinstance(row["human_preference"], int),
)
TEST = Layout(
    name="hpdv2-test",
    title="HPD v2's test.json",
    fields=("prompt", "image_path", "rank"),
    optional=("raw_annotations",),
    containers=("json", "jsonl"),
    holds=frozenset({"annotator", "groups", "ties"}),
    read=_read_test,
    write=_write_test,
    is_it=lambda row: "prompt_id" not in row,
)
