"""The kinds of shards and how each is read; the check of all shards before anything is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from humanpref.batch import read_folder, read_parquet, read_tar, read_text
from humanpref.batch.columns import is_utf8
from humanpref.batch.records import Reading, Row, Shard, Span
from humanpref.errors import DataError

CHECKS_AT_ONCE = 16


class _Check(Protocol):
    def __call__(self, shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading: ...


@dataclass(frozen=True)
class Reader:
    """`check` refuses a shard that cannot be read and names the columns (a new `Reading`, without the prompt's column
    where the shard lacks it; the same one where there are none to name); `spans` divides it; `rows` reads a span."""

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

    The columns are guessed from the first shard that has any, the prompt's from the first that has one: shards may lack
    it where `reading` has a prompt for them. Raises `DataError` naming the shard that differs.
    """
    if reading.prompt is not None and not is_utf8(reading.prompt):
        raise DataError("--prompt: is not in UTF-8")
    chosen, rest = reading, iter(shards)
    prompts: dict[str | None, Shard] = {}  # the first shard with each column for the prompt, or without
    for shard in rest:
        chosen = READERS[shard.kind].check(shard, reading, reads_prompt=reads_prompt)
        if chosen is not reading:
            prompts[chosen.prompt_column] = shard
        if prompts or not READERS[shard.kind].has_columns:
            break
    wanted, left = replace(chosen, prompt_column=chosen.prompt_column or reading.prompt_column), list(rest)
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        checked = pool.map(lambda s: READERS[s.kind].check(s, wanted, reads_prompt=reads_prompt), left)
        for shard, found in zip(left, checked, strict=True):
            if found is not wanted:
                prompts.setdefault(found.prompt_column, shard)
    return replace(wanted, prompt_column=_one_prompt_column(prompts, reading))


def _one_prompt_column(prompts: Mapping[str | None, Shard], reading: Reading) -> str | None:
    """The column that all shards have the prompt in which have one. Raises `DataError`."""
    column = next((name for name in prompts if name is not None), reading.prompt_column)
    for name, shard in prompts.items():
        if column not in prompts:
            raise DataError(f"{shard.name}: has no column {column!r}, nor has any shard; choose one by --prompt-column")
        if name != column and (name is not None or reading.prompt is None):
            mend = "give the prompt of its rows by --prompt" if name is None else f"rename its {name!r}"
            raise DataError(f"{shard.name}: has no column {column!r} for prompts as {prompts[column].name} has; {mend}")
    return column
