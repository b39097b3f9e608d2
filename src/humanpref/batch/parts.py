"""A part of the output: one Parquet file with a row for each row of a span, and what it counts in its footer."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from humanpref.batch.records import Counts, Problem, Row, Span
from humanpref.errors import DataError, MissingExtraError, reason_of
from humanpref.generate.contract import file_name

FOOTER = b"humanpref"

DIGITS = 16
"""Of the digest in a part's name, hexadecimal: among a million shards, two of one digest are a case in 10^7."""


@dataclass(frozen=True)
class Judged:
    """A row with a score, or None, of each scorer, and the embeddings of those that make some."""

    row: Row
    scores: tuple[float | None, ...]
    truncated: bool
    problem: Problem | None
    embeddings: tuple[Any, ...] = ()


def part_name(span: Span) -> str:
    """The file of a span's part: depends on the shard's name and the span's number alone."""
    stem = file_name(posixpath.basename(span.shard.name).split(".", 1)[0] or "shard")[:60]
    digest = hashlib.sha256(span.shard.name.encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    return f"{stem}-{digest}-{span.number:05d}.parquet"


def encode_part(
    span: Span,
    judged: Sequence[Judged],
    names: Sequence[str],
    embeddings: Mapping[str, tuple[str, int]],
    *,
    prompts: bool,
) -> tuple[bytes, Counts]:
    """Make the Parquet file of a span's rows -> its bytes, and what it counts.

    names: of the scorers, for the columns `score_NAME`; embeddings: name to number format (float16 or float32)
    and width, for the columns `embedding_NAME`.
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
    table = table.replace_schema_metadata({FOOTER: json.dumps(asdict(counts))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes(), counts


def read_counts(file: Any, name: str) -> Counts:
    """What a part counts, of its footer. Raises `DataError` where it is no part, or damaged."""
    pa, pq = require_pyarrow()
    try:
        return Counts(**json.loads(pq.read_metadata(file).metadata[FOOTER]))
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
