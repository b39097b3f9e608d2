"""Plain pairs, one a row, in CSV or JSON Lines.

Columns: prompt, image_a, image_b, label; and, where known, annotator, source_a, source_b (the generators), id,
prompt_source, style. `label` is `a`, `b` or `tie`, or the probability in [0, 1] that a is preferred. An empty cell is a
field that is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Layout, Row, optional_text, preferred, text
from humanpref.errors import DataError
from humanpref.records import Ranking

FIELDS = ("prompt", "image_a", "image_b", "label")
OPTIONAL = ("annotator", "source_a", "source_b", "id", "prompt_source", "style")
_SHARES = {"a": 1.0, "b": 0.0, "tie": 0.5}
_LABELS = {share: label for label, share in _SHARES.items()}


def explode(ranking: Ranking) -> Iterator[Ranking]:
    """Yield the pairs of a ranking, each as a ranking of two images, ties included."""
    if len(ranking.images) == 2:
        yield ranking
        return
    for i, j in combinations(range(len(ranking.images)), 2):
        a, b = ranking.ranks[i], ranking.ranks[j]
        share = 0.5 if a == b else float(a < b)
        pair = Ranking.of_pair(ranking.prompt, ranking.images[i], ranking.images[j], share)
        yield replace(ranking, images=pair.images, ranks=pair.ranks)


def _read(row: Row, folder: ImageFolder) -> Iterator[Ranking]:
    first = folder.ref(row["image_a"], optional_text(row, "source_a"))
    second = folder.ref(row["image_b"], optional_text(row, "source_b"))
    prompt = "" if row["prompt"] is None else text(row, "prompt")  # an empty CSV cell
    known = {name: optional_text(row, name) for name in ("annotator", "id", "prompt_source", "style")}
    yield Ranking.of_pair(prompt, first, second, _share(row["label"]), **known)


def _share(label: object) -> float:
    if isinstance(label, str) and label.strip().lower() in _SHARES:
        return _SHARES[label.strip().lower()]
    try:
        if not isinstance(label, (str, int, float)) or isinstance(label, bool) or not 0 <= float(label) <= 1:
            raise ValueError
        return float(label)
    except ValueError:
        raise DataError(f"label must be a, b, tie or a probability from 0 to 1, got {str(label)[:40]!r}") from None


def _write(rankings: Iterable[Ranking], folder: ImageFolder) -> Iterator[dict[str, Any]]:
    for r in rankings:
        if "" in {r.annotator, r.id, r.prompt_source, r.style, *(image.source for image in r.images)}:
            raise DataError(
                f"ranking of {r.prompt[:60]!r}: this format cannot hold an empty annotator, id, source or style"
            )
        share, (first, second) = preferred(r), r.images
        row = {
            "prompt": r.prompt,
            "image_a": folder.name(first),
            "image_b": folder.name(second),
            "label": _LABELS.get(share, share),
            "annotator": r.annotator,
            "source_a": first.source,
            "source_b": second.source,
            "id": r.id,
            "prompt_source": r.prompt_source,
            "style": r.style,
        }
        yield {key: value for key, value in row.items() if value is not None}


LAYOUT = Layout(
    name="pairs",
    title="plain pairs",
    fields=FIELDS,
    optional=OPTIONAL,
    containers=("csv", "jsonl", "json"),
    holds=frozenset({"id", "annotator", "source", "soft", "ties", "prompt_source", "style"}),
    read=_read,
    write=_write,
    columns=dict.fromkeys((*FIELDS, *OPTIONAL), "string"),
)
