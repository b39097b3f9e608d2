"""Prompts in Parquet: DiffusionDB's metadata, our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from humanpref.data.rows import parquet_columns
from humanpref.errors import DataError
from humanpref.prompts.chunks import CHUNK, Chunk, Source, unknown

_EXTRA = (
    "id",
    "source",
    "prompt_source",
    "style",
    "original",
    "meta",
    "image_name",
    "seed",
    "image_nsfw",
    "prompt_nsfw",
)


def parquet(path: Path) -> Source:
    """Recognise a Parquet file by its columns."""
    names = parquet_columns(path)
    if not (column := next((name for name in ("text", "prompt", "caption") if name in names), None)):
        raise unknown(path, f"a Parquet file with the columns {', '.join(names)[:200]}")
    layout = "diffusiondb" if column == "prompt" and {"image_nsfw", "image_name", "seed"} & set(names) else "prompts"
    return Source(path, layout, layout, None, "row", _read_parquet, column)


def _read_parquet(source: Source) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    try:
        with pq.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            wanted = [source.prompt_column, *(name for name in _EXTRA if name in names)]
            for batch in file.iter_batches(CHUNK, columns=wanted):
                columns = {name: batch.column(name) for name in wanted}
                texts = columns.pop(source.prompt_column)
                if pa.types.is_dictionary(texts.type):
                    texts = texts.dictionary_decode()
                if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                    raise DataError(f"{source.path}: the column {source.prompt_column} holds no text ({texts.type})")
                rows = range(start, start + len(texts))
                yield Chunk(source, _Column(texts), rows, {name: _Column(column) for name, column in columns.items()})
                start += len(texts)
    except pa.ArrowException as error:
        raise DataError(f"{source.path}: damaged or truncated ({str(error).splitlines()[0][:160]})") from None


class _Column(Sequence[Any]):
    """An Arrow array read like a list, one value at a time."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        return self.array[index].as_py()
