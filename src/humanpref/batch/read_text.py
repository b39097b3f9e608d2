"""JSON Lines and CSV shards: one row a line, images as paths. A line that cannot be read is a row with a problem."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias

from humanpref.batch.columns import PROMPTS, choose_columns, is_utf8
from humanpref.batch.places import opened
from humanpref.batch.records import Problem, Reading, Row, Shard, Span
from humanpref.errors import DataError

_BOM = b"\xef\xbb\xbf"
GUESS_FROM = 100
"""Lines of JSON whose keys the columns are guessed from: a first row may lack what others have."""

MAX_CELL = 1 << 20
"""Characters of a cell of CSV at most. A quote that is not closed would make one cell of all that follows."""

Record: TypeAlias = "tuple[int, int, dict[str, Any] | str]"
"""Where a row starts and ends, in bytes, and its values or what is wrong with it."""


def check(shard: Shard, reading: Reading, *, reads_prompt: bool) -> Reading:
    """See that a shard has the columns -> the reading with its columns named; not the prompt's of JSON Lines, where
    each row has the keys that it has, and the first known one is its prompt."""
    with _open(shard) as file:
        if shard.kind == "csv":
            names = _header(file, shard)
        else:
            found = [values for _, _, values in islice(_json_lines(file, parse=True), GUESS_FROM)]
            names = list(dict.fromkeys(name for values in found if isinstance(values, dict) for name in values))
            if not found:
                return reading  # an empty shard has no columns to differ
            if not names:
                raise DataError(f"{shard.name}: not JSON Lines ({next(v for v in found if isinstance(v, str))})")
    chosen = choose_columns(reading, names, shard.name, reads_prompt=reads_prompt)
    return replace(chosen, prompt_column=None) if shard.kind == "jsonl" and reading.prompt_column is None else chosen


def spans(shard: Shard, reading: Reading, rows: int) -> Iterator[Span]:  # noqa: ARG001 - as the other kinds
    """Yield spans of at most `rows` rows; the file is read once for it."""
    with _open(shard) as file:
        records = _records(file, shard, parse=False)
        number = first = 0
        while chunk := list(islice(records, rows)):
            start, end = chunk[0][0], chunk[-1][1]
            yield Span(shard, number, first, len(chunk), start, share=end - start)
            number, first = number + 1, first + len(chunk)


def rows(span: Span, reading: Reading) -> Iterator[Row]:
    """Yield the rows of a span."""
    assert span.count is not None
    with _open(span.shard) as file:
        records = _records(file, span.shard, parse=True, offset=span.offset)
        number = span.first
        for _, _, values in islice(records, span.count):
            yield _row(number, values, reading)
            number += 1


def _row(number: int, values: dict[str, Any] | str, reading: Reading) -> Row:
    if isinstance(values, str):
        return Row(number, None, None, Problem("bad-row", values))
    image = values.get(reading.image_column or "")
    names = [name for name in PROMPTS if name != reading.image_column]
    if reading.prompt_column is not None:
        names = [reading.prompt_column]
    prompt = next((values[name] for name in names if values.get(name) is not None), reading.prompt)
    if prompt is not None and not isinstance(prompt, str):
        return Row(number, None, None, Problem("bad-row", f"the prompt is no text: {str(prompt)[:60]}"))
    if prompt is not None and not is_utf8(prompt):
        return Row(number, None, None, Problem("bad-row", "the prompt has half a surrogate pair"))
    if isinstance(image, dict) and isinstance(image.get("path"), str):
        image = image["path"]
    if not image:
        why = f": {values['reason']}" if isinstance(values.get("reason"), str) else ""  # of humanpref generate
        return Row(number, None, prompt, Problem("no-image", f"the row has no image{why}"))
    if not isinstance(image, str) or "\0" in image:
        return Row(number, None, prompt, Problem("bad-row", f"the image is no path: {str(image)[:60]!r}"))
    return Row(number, image, prompt, image)


@contextmanager
def _open(shard: Shard) -> Iterator[io.BufferedReader]:
    with opened(shard.url, shard.name) as raw:
        yield io.BufferedReader(raw, 1 << 20)


def _records(file: io.BufferedReader, shard: Shard, *, parse: bool, offset: int = 0) -> Iterator[Record]:
    if shard.kind == "csv":
        names = _header(file, shard)
        start = max(offset, file.tell())
        file.seek(start)
        return _csv_rows(file, start, names, _delimiter(shard))
    file.seek(offset)
    return _json_lines(file, parse=parse, start=offset)


def _json_lines(file: io.BufferedReader, *, parse: bool, start: int = 0) -> Iterator[Record]:
    end = start
    for line in file:
        start, end = end, end + len(line)
        content = line.removeprefix(_BOM) if start == 0 else line
        if content.strip():
            yield start, end, _parse(content) if parse else ""


def _parse(line: bytes) -> dict[str, Any] | str:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "the line is not in UTF-8"
    except (ValueError, RecursionError) as error:
        return f"the line is not readable as JSON ({str(error)[:100]})"
    return values if isinstance(values, dict) else f"the line holds no JSON object: {str(values)[:40]!r}"


def _delimiter(shard: Shard) -> str:
    return "\t" if shard.name.lower().endswith(".tsv") else ","


class _Lines:
    """Lines as text, and how many bytes they were. What is not UTF-8 becomes surrogates, which `_csv_rows` finds."""

    def __init__(self, file: io.BufferedReader, start: int) -> None:
        self.file, self.read = file, start

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        content = line.removeprefix(_BOM) if self.read == 0 else line
        self.read += len(line)
        return content.decode("utf-8", "surrogateescape")


def _header(file: io.BufferedReader, shard: Shard) -> list[str]:
    """Read the header; the file is left where the rows start."""
    file.seek(0)
    lines = _Lines(file, 0)
    try:
        names = next(_reader(lines, _delimiter(shard)), None)
    except csv.Error as error:
        raise DataError(f"{shard.name}: line 1: not readable as CSV ({error})") from None
    if not names:
        raise DataError(f"{shard.name}: is empty; a CSV file begins with the names of its columns")
    if len(set(names)) != len(names):
        raise DataError(f"{shard.name}: line 1: a column is named twice: {', '.join(names)[:300]}")
    file.seek(lines.read)
    return names


def _csv_rows(file: io.BufferedReader, start: int, names: list[str], delimiter: str) -> Iterator[Record]:
    lines = _Lines(file, start)
    reader = _reader(lines, delimiter)
    while True:
        begin = lines.read
        values: dict[str, Any] | str
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, values = None, f"the line is not readable as CSV ({error})"
        else:
            if not cells:
                continue
            if len(cells) != len(names):
                values = f"the line has {len(cells)} cells where the header has {len(names)}"
                cells = None
            elif any("\udc80" <= sign <= "\udcff" for cell in cells for sign in cell if sign > "\ud7ff"):
                values = "the line is not in UTF-8"
            else:
                values = {name: cell or None for name, cell in zip(names, cells, strict=True)}
        if cells is None:  # a stray quote may have swallowed rows that follow: they begin after the first line
            file.seek(begin)
            lines = _Lines(file, begin)
            next(lines)
            reader = _reader(lines, delimiter)
        yield begin, lines.read, values


def _reader(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL)  # Python's own is so low that prompts may be longer
    return csv.reader(lines, delimiter=delimiter, strict=True)
