"""Parquet shards: images as bytes, as the struct of Hugging Face's `Image` feature, or as paths; read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from humanpref.batch.columns import choose_columns
from humanpref.batch.places import ReadStoppedError, opened
from humanpref.batch.records import Problem, Reading, Row, Shard, Span
from humanpref.errors import DataError, MissingExtraError, reason_of

AT_ONCE = 16
"""Rows that are decoded at a time: images can be megabytes each."""

TEXTS_AT_ONCE = 4096
"""Rows that are decoded at a time where images are paths: to reach a span means to decode its group of rows from its
beginning, which costs a tenth of a second for a million rows so, and two seconds a few rows at a time."""

BUFFER = 1 << 20


class DamagedError(DataError):
    """A shard whose content is damaged, or no Parquet."""


def check(shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading:
    """See that a shard has the columns, of types that can be read -> the reading with its columns named."""
    with _open(shard) as (pa, file):
        schema = file.schema_arrow
        if len(set(schema.names)) != len(schema.names):
            raise DataError(f"{shard.name}: a column is named twice: {', '.join(schema.names)[:300]}")
        chosen = choose_columns(reading, schema.names, shard.name, reads_prompt=reads_prompt)
        image = _plain(pa, schema.field(chosen.image_column).type)
        if not (_is_text(pa, image) or _is_bytes(pa, image) or _is_struct(pa, image) or pa.types.is_null(image)):
            raise DataError(
                f"{shard.name}: the column {chosen.image_column} holds {image}, neither the bytes of images, nor "
                "{bytes, path} as Hugging Face has it, nor paths"
            )
        if chosen.prompt_column is not None:
            prompt = _plain(pa, schema.field(chosen.prompt_column).type)
            if not (_is_text(pa, prompt) or pa.types.is_null(prompt)):
                raise DataError(f"{shard.name}: the column {chosen.prompt_column} holds no text ({prompt})")
        return chosen


def spans(shard: Shard, reading: Reading, rows: int) -> Iterator[Span]:
    """Yield spans of at most `rows` rows; a group of rows with images in it is never split, since reading its end means
    reading its beginning, too."""
    with _open(shard) as (pa, file):
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        whole = not _has_paths(pa, file, reading)
        total, per_row = sum(groups), shard.size / max(1, sum(groups))
    edges, last = [0], 0
    if whole:
        end = 0
        for size in groups:
            if end + size - last > rows and end > last:
                edges.append(end)
                last = end
            end += size
        edges.append(end)
    else:
        edges += [*range(rows, total, rows), total]
    pairs = [(a, b) for a, b in pairwise(edges) if b > a]
    for number, (first, end) in enumerate(pairs):
        yield Span(shard, number, first, end - first, share=(end - first) * per_row)


def rows(span: Span, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a span. Where the file is damaged, all rows that follow in the span are its problem."""
    assert span.count is not None
    assert reading.image_column is not None
    number, end = span.first, span.first + span.count
    try:
        with _open(span.shard) as (pa, file):
            at, groups = _groups(file.metadata, span.first, end)
            columns = [reading.image_column]
            if reading.prompt_column is not None and reading.prompt_column in file.schema_arrow.names:
                columns.append(reading.prompt_column)
            at_once = _texts_at_once(file.metadata, groups) if _has_paths(pa, file, reading) else AT_ONCE
            for batch in file.iter_batches(at_once, row_groups=groups, columns=columns, use_threads=False):
                images = batch.column(columns[0])
                prompts = batch.column(columns[1]) if len(columns) == 2 else None
                for i in range(max(0, number - at), min(len(batch), end - at)):
                    yield _row(at + i, images[i], None if prompts is None else prompts[i], reading)
                    number = at + i + 1
                at += len(batch)
                if at >= end:
                    return
    except DamagedError as error:
        for lost in range(number, end):
            yield Row(lost, None, None, Problem("damaged-shard", str(error)))


def _row(number: int, image: Any, text: Any, reading: Reading) -> Row:
    try:
        value, prompt = image.as_py(), None if text is None else text.as_py()
    except UnicodeDecodeError:  # Parquet's text is UTF-8, but not every writer sees to that
        return Row(number, None, None, Problem("bad-row", "the row has text that is not in UTF-8"))
    prompt, key = reading.prompt if prompt is None else prompt, None
    if isinstance(value, dict):
        key = value.get("path")
        value = value["bytes"] if value.get("bytes") is not None else key
    if isinstance(value, str) and value:
        return Row(number, value, prompt, value)
    if not value:
        return Row(number, key, prompt, Problem("no-image", "the row has no image"))
    return Row(number, key, prompt, value)


def _groups(metadata: Any, first: int, end: int) -> tuple[int, list[int]]:
    """Where the groups of rows start that hold these rows, and their numbers."""
    found: list[int] = []
    start = at = 0
    for i in range(metadata.num_row_groups):
        size = metadata.row_group(i).num_rows
        if at < end and at + size > first:
            if not found:
                start = at
            found.append(i)
        at += size
    return start, found


def _texts_at_once(metadata: Any, groups: list[int]) -> int:
    """Rows of text to decode at a time: fewer where they are large, as whole images in base64 would be."""
    found = [metadata.row_group(i) for i in groups]
    per_row: int = sum(group.total_byte_size for group in found) // max(1, sum(group.num_rows for group in found))
    return max(AT_ONCE, min(TEXTS_AT_ONCE, BUFFER // max(1, per_row)))


@contextmanager
def _open(shard: Shard) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError(f'{shard.name}: Parquet files need pyarrow: pip install "humanpref[batch]"') from None
    try:
        # with a buffer and without pre-buffering a column is read piece by piece, however large its groups of rows are
        with opened(shard.url, shard.name) as raw, pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as file:
            yield pa, file
    except pa.ArrowMemoryError as error:  # short of memory now, which the file need not be the cause of
        raise ReadStoppedError(shard.name, error) from None
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{shard.name}: damaged, truncated or not Parquet ({reason_of(error)})") from None


def _plain(pa: Any, kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _has_paths(pa: Any, file: Any, reading: Reading) -> bool:
    return _is_text(pa, _plain(pa, file.schema_arrow.field(reading.image_column).type))


def _is_text(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_struct(pa: Any, kind: Any) -> bool:
    if not pa.types.is_struct(kind):
        return False
    inside = {field.name: field.type for field in kind}
    return ("bytes" in inside and _is_bytes(pa, inside["bytes"])) and (
        "path" not in inside or _is_text(pa, inside["path"]) or pa.types.is_null(inside["path"])
    )
