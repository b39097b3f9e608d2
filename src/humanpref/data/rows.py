"""Containers: JSON, JSON Lines, CSV and Parquet to rows and back, streaming. Knows no dataset.

JSON is parsed by ijson (its C backend reads a 120 MB file in about a second without holding it), Parquet by pyarrow.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from humanpref.data.layout import Numbered, Row
from humanpref.errors import DataError, MissingExtraError
from humanpref.files import whole

_BOM = b"\xef\xbb\xbf"
_HEAD = 1 << 16
ROW_WORD = {"json": "instance", "jsonl": "line", "csv": "line", "parquet": "row"}
"""What a row is called in messages; lines count from 1, the others from 0."""


def sniff(path: Path) -> str:
    """Tell a file's container from its first bytes. Raises `DataError` where it is none of them."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not head.strip():
        raise DataError(f"{path}: the file is empty")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is in UTF-16; save it as UTF-8")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"\xfd7zXZ", b"BZh")):
        raise DataError(f"{path}: is an archive; unpack it first")
    start = head.removeprefix(_BOM).lstrip()
    if start.startswith(b"["):
        return "json"
    if start.startswith(b"{"):
        return "jsonl"
    if b"," in start.split(b"\n", 1)[0] and b"\0" not in head:
        return "csv"
    raise DataError(f"{path}: unknown format (looked for JSON, JSON Lines, CSV with a header, and Parquet)")


def read_rows(path: Path, container: str, columns: Sequence[str] | None = None) -> Iterator[Numbered]:
    """Yield (number, row) for each row; `columns` limits what is read of a Parquet file.

    Raises `DataError`, with the place, for a truncated or damaged file, another encoding than UTF-8, a repeated key.
    """
    reader: Callable[[Path], Iterator[Numbered]] = {"json": _read_json, "jsonl": _read_jsonl, "csv": _read_csv}.get(
        container, lambda file: _read_parquet(file, columns)
    )
    try:
        yield from reader(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def write_rows(rows: Iterable[Row], path: Path, container: str, types: Mapping[str, str], batch: int = 1024) -> int:
    """Write rows, whole or not at all -> how many. `types` are the columns, for CSV and Parquet."""
    counted = _Counter(rows)
    try:
        with whole(path) as part:
            if container == "parquet":
                _write_parquet(counted, part, types, batch)
            else:
                with part.open("w", encoding="utf-8", newline="") as file:
                    {"json": _write_json, "jsonl": _write_jsonl}.get(container, _csv_writer(types))(counted, file)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a text cannot be written as UTF-8 ({error.reason})") from None
    return counted.count


class _Counter:
    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows, self.count = rows, 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.count += 1
            yield row


class _Object(dict[str, Any]):
    """A JSON object that remembers a repeated key: the parser cannot be stopped from within."""

    again: str | None = None

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.again = key
            _Object.seen = True
        super().__setitem__(key, value)

    seen = False


def _read_json(path: Path) -> Iterator[Numbered]:
    import ijson

    with path.open("rb") as file:
        if file.read(3) != _BOM:
            file.seek(0)
        try:
            for number, row in enumerate(ijson.items(file, "item", use_float=True, map_type=_Object, buf_size=1 << 20)):
                if _Object.seen and (key := _repeated(row)) is not None:
                    raise DataError(f"{path}: instance {number}: the key {key!r} is given twice")
                yield number, row
        except ijson.JSONError as error:
            raise DataError(f"{path}: not readable as JSON ({_why(str(error))})") from None


def _repeated(value: object) -> str | None:
    if isinstance(value, _Object):
        found = [value.again, *map(_repeated, value.values())]
    elif isinstance(value, list):
        found = [_repeated(item) for item in value]
    else:
        return None
    return next((key for key in found if key is not None), None)


def _why(message: str) -> str:
    if "EOF" in message:
        return "it ends in the middle: truncated or half-downloaded"
    if "UTF8" in message:
        return "it is not in UTF-8"
    lines = message.removeprefix("b'").replace("\\n", "\n").splitlines()
    return lines[0].strip() if lines else "damaged"


def _read_jsonl(path: Path) -> Iterator[Numbered]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(_BOM) if number == 1 else line
            if not content.strip():
                continue
            try:
                yield number, json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
            except UnicodeDecodeError:
                raise
            except ValueError as error:
                cut = "" if line.endswith(b"\n") else "; the file ends here: truncated?"
                raise DataError(f"{path}: line {number}: not readable as JSON ({error}{cut})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return row


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_csv(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = next(reader)
            if len(set(names)) != len(names):
                raise DataError(f"{path}: line 1: a column is named twice: {', '.join(names)}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}: line {reader.line_num}: {len(cells)} cells where the header has {len(names)}"
                    )
                yield reader.line_num, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: not readable as CSV ({error})") from None


@contextmanager
def _pyarrow(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError(f'{path}: Parquet files need pyarrow: pip install "humanpref[data]"') from None
    try:
        yield pa, pq
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: damaged, truncated or not Parquet ({reason[:160]})") from None


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Numbered]:
    with _pyarrow(path) as (_, pq), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) != len(names):
            raise DataError(f"{path}: a column is named twice: {', '.join(names)}")
        wanted = None if columns is None else [name for name in columns if name in names]
        batches = file.iter_batches(batch_size=256, columns=wanted)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches))


def parquet_columns(path: Path) -> list[str]:
    """Return the column names of a Parquet file."""
    with _pyarrow(path) as (_, pq):
        return list(pq.read_schema(path).names)


def _write_json(rows: Iterable[Row], file: IO[str]) -> None:
    between = "[\n"
    for row in rows:
        file.write(between + _dump(row))
        between = ",\n"
    file.write("[]\n" if between == "[\n" else "\n]\n")


def _write_jsonl(rows: Iterable[Row], file: IO[str]) -> None:
    for row in rows:
        file.write(_dump(row) + "\n")


def _dump(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _csv_writer(types: Mapping[str, str]) -> Callable[[Iterable[Row], IO[str]], None]:
    def write(rows: Iterable[Row], file: IO[str]) -> None:
        writer = csv.writer(file, lineterminator="\r\n")  # so that a lone \r or \n in a cell is quoted
        writer.writerow(types)
        writer.writerows(["" if row.get(name) is None else row[name] for name in types] for row in rows)

    return write


def _write_parquet(rows: Iterable[Row], path: Path, types: Mapping[str, str], batch: int) -> None:
    with _pyarrow(path) as (pa, pq):
        image = pa.struct([("path", pa.string()), ("source", pa.string())])
        kinds = {"string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bytes": pa.binary(),
                 "bool": pa.bool_(), "ints": pa.list_(pa.int64()), "images": pa.list_(image)}  # fmt: skip
        schema = pa.schema([(name, kinds[kind]) for name, kind in types.items()])
        remaining = iter(rows)
        with pq.ParquetWriter(path, schema) as writer:
            while chunk := list(islice(remaining, batch)):
                writer.write_table(pa.Table.from_pylist(chunk, schema))
