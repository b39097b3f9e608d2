"""The kinds of shards and how each is read; the check of all shards before anything is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from humanpref.batch import read_folder, read_parquet, read_tar, read_text
from humanpref.batch.records import Reading, Row, Shard, Span

CHECKS_AT_ONCE = 16


class _Check(Protocol):
    def __call__(self, shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading: ...


@dataclass(frozen=True)
class Reader:
    """`check` refuses a shard that cannot be read and names the columns (a new `Reading`; the same one where there are
    none to name); `spans` divides it; `rows` reads a span."""

    check: _Check
    spans: Callable[[Shard, Reading, int], Iterator[Span]]
    rows: Callable[[Span, Reading], Iterator[Row]]
    has_columns: bool = True


_TEXT = Reader(read_text.check, read_text.spans, read_text.rows)
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "parquet": Reader(read_parquet.check, read_parquet.spans, read_parquet.rows),
        "jsonl": _TEXT,
        "csv": _TEXT,
        "tar": Reader(read_tar.check, read_tar.spans, read_tar.rows, has_columns=False),
        "folder": Reader(read_folder.check, read_folder.spans, read_folder.rows, has_columns=False),
    }
)
"""How each kind of shard is read."""


def check_shards(shards: Sequence[Shard], reading: Reading, *, reads_prompt: bool) -> Reading:
    """See that all shards can be read alike, before hours are spent -> the reading with its columns named.

    The columns are guessed from the first shard that has any. Raises `DataError` naming the shard that differs.
    """
    chosen, rest = reading, iter(shards)
    for shard in rest:
        chosen = READERS[shard.kind].check(shard, reading, reads_prompt=reads_prompt)
        if chosen is not reading or not READERS[shard.kind].has_columns:
            break
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        for _ in pool.map(lambda s: READERS[s.kind].check(s, chosen, reads_prompt=reads_prompt), rest):
            pass
    return chosen
