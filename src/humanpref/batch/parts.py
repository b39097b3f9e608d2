"""A part of the output: one Parquet file with rows of a span, and what it counts in its footer.

A span with more rows than a part may have gives several. The last one has the span's name, is put in place last and
says in its footer how many come before it: a span is done when the part of its name is there. The name of a shard's
last span says that it is the last, so that a list of names tells which shards are done.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from humanpref.batch.records import Counts, Problem, Row, Shard, Span
from humanpref.errors import DataError, MissingExtraError, reason_of
from humanpref.generate.contract import file_name

FOOTER, BEFORE = b"humanpref", b"humanpref.before"

DIGITS = 16
"""Of the digest in a part's name, hexadecimal: among a million shards, two of one digest are a case in 10^7."""


END = "-end"
_LAST = re.compile(rf"(.+)-(\d+){END}\.parquet")


@dataclass(frozen=True)
class Judged:
    """A row with a score, or None, of each scorer, and the embeddings of those that make some."""

    row: Row
    scores: tuple[float | None, ...]
    truncated: bool
    problem: Problem | None
    embeddings: tuple[Any, ...] = ()


def part_name(span: Span, piece: int | None = None) -> str:
    """The file of a span's part: depends on the shard's name, the span's place in it and the piece's alone."""
    name = f"{_prefix(span.shard)}-{span.number:05d}{END if span.last else ''}.parquet"
    return name if piece is None else piece_name(name, piece)


def piece_name(name: str, piece: int) -> str:
    """The file of a piece, from 0, that comes before a span's last part, which has this name."""
    return f"{name.removesuffix('.parquet').removesuffix(END)}-{piece:05d}.parquet"


def finished_shards(shards: Sequence[Shard], names: Set[str]) -> dict[str, list[str]]:
    """Those of the shards all of whose spans are done by the names of parts -> these spans' names, by shard."""
    ends = {match[1]: int(match[2]) for name in names if (match := _LAST.fullmatch(name))}
    found = {}
    for shard in shards:
        if (end := ends.get(_prefix(shard))) is not None:
            parts = [part_name(Span(shard, number, 0, None, last=number == end)) for number in range(end + 1)]
            if names >= set(parts):
                found[shard.name] = parts
    return found


def _prefix(shard: Shard) -> str:
    stem = file_name(posixpath.basename(shard.name).split(".", 1)[0])[:60].lstrip("_.") or "shard"  # others are hidden
    digest = hashlib.sha256(shard.name.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    return f"{stem}-{digest}"


def encode_part(
    span: Span,
    judged: Sequence[Judged],
    names: Sequence[str],
    embeddings: Mapping[str, tuple[str, int]],
    *,
    prompts: bool,
    before: int = 0,
) -> tuple[bytes, Counts]:
    """Make the Parquet file of rows of a span -> its bytes, and what it counts.

    names: of the scorers, for the columns `score_NAME`; embeddings: name to number format (float16 or float32)
    and width, for the columns `embedding_NAME`. before: how many parts of the span come before its last one.
    """
    pa, pq = require_pyarrow()
    text = pa.dictionary(pa.int32(), pa.string())
    columns: dict[str, Any] = {
        "shard": pa.array([span.shard.name] * len(judged), pa.string()).cast(text),
        "row": pa.array([one.row.number for one in judged], pa.int64()),
        "key": pa.array([_text(one.row.key) for one in judged], pa.string()),
    }
    if prompts:
        columns["prompt"] = pa.array([_text(one.row.prompt) for one in judged], pa.string())
    for i, name in enumerate(names):
        columns[f"score_{name}"] = pa.array([one.scores[i] for one in judged], pa.float32())
    columns["truncated"] = pa.array([one.truncated for one in judged], pa.bool_())
    kinds = [None if one.problem is None else one.problem.kind for one in judged]
    columns["error_kind"] = pa.array(kinds, pa.string()).cast(text)
    columns["error"] = pa.array([_text(one.problem.message) if one.problem else None for one in judged], pa.string())
    for i, (name, (dtype, width)) in enumerate(embeddings.items()):
        columns[f"embedding_{name}"] = _vectors(pa, [one.embeddings[i] for one in judged], dtype, width)
    counts = Counts(
        len(judged),
        sum(None not in one.scores for one in judged),
        sum(one.truncated for one in judged),
        dict(sorted(Counter(kind for kind in kinds if kind is not None).items())),
    )
    table = pa.table(columns)
    table = table.replace_schema_metadata({FOOTER: json.dumps(asdict(counts)), BEFORE: str(before)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes(), counts


def read_counts(file: Any, name: str) -> tuple[Counts, int]:
    """What a part counts, and how many of its span come before it, of its footer. Raises `DataError` where it is no
    part, or damaged."""
    pa, pq = require_pyarrow()
    try:
        footer = pq.read_metadata(file).metadata
        return Counts(**json.loads(footer[FOOTER])), int(footer[BEFORE])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{name}: is damaged, or no part of a batch run ({reason_of(error)}); remove it and run the same command "
            "again"
        ) from None


def require_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow. Raises `MissingExtraError`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError('batch needs pyarrow: pip install "humanpref[batch]"') from None
    return pa, pq


def _text(value: str | None) -> str | None:
    """Text that Parquet can hold: half a surrogate pair, which names of files may have, becomes what says so."""
    return None if value is None else value.encode("utf-8", "backslashreplace").decode()


def _vectors(pa: Any, vectors: Sequence[Any], dtype: str, width: int) -> Any:
    import numpy as np

    values = np.zeros((len(vectors), width), dtype)
    for row, vector in zip(values, vectors, strict=True):
        if vector is not None:
            row[:] = vector
    missing = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=missing)
