"""Prompts in text: PartiPrompts (TSV), DrawBench (CSV), other tables with prompts, and plain text, one a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from humanpref.errors import DataError
from humanpref.prompts.chunks import CHUNK, Chunk, Source, unknown

_HEADERS = {
    ("prompt", "category", "challenge"): "partiprompts",
    ("prompts", "category"): "drawbench",
}


def text(path: Path) -> Source:
    """Recognise a table by its header; everything else is one prompt a line."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if b"\0" in head:
        raise unknown(path, "binary data")
    try:
        lines = head.decode("utf-8-sig", errors="strict" if len(head) < 1 << 16 else "ignore").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
    for between in ("\t", ","):
        header = [cell.strip().strip('"') for cell in lines[0].split(between)]
        low = tuple(cell.lower() for cell in header)
        for fields, name in _HEADERS.items():
            if set(fields) <= set(low):
                return Source(path, name, name, None, "line", _read_table, header[low.index(fields[0])])
        if len(header) > 1 and (column := next((c for c in header if c.lower() in {"prompt", "prompts"}), None)):
            return Source(path, "table", "table", None, "line", _read_table, column)
        if _is_table(lines, header, between):
            raise unknown(path, f"a table with the columns {', '.join(header)[:200]} and no Prompt")
    return Source(path, "text", "text", None, "line", _read_lines)


def _is_table(lines: list[str], header: list[str], between: str) -> bool:
    """Tell a table from prompts: a header of names, and as many cells in every line."""
    if len(header) < 2 or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,30}", cell) for cell in header):
        return False
    body = list(csv.reader(lines[1:30], delimiter=between))[:-1] or [[]]
    return len(lines) > 2 and all(len(cells) == len(header) for cells in body)


def _read_lines(source: Source) -> Iterator[Chunk]:
    try:
        with source.path.open(encoding="utf-8-sig", newline="\n") as file:  # only \n and \r\n end a line
            numbered = ((n, line.strip()) for n, line in enumerate(file, start=1))
            while batch := list(islice(numbered, CHUNK)):
                yield Chunk(source, [line for _, line in batch], [n for n, _ in batch], {})
    except UnicodeDecodeError:
        raise DataError(f"{source.path}: is not in UTF-8; save it as UTF-8") from None


def _read_table(source: Source) -> Iterator[Chunk]:
    with source.path.open(encoding="utf-8-sig", newline="") as file:
        between = "\t" if "\t" in file.readline() else ","
        file.seek(0)
        reader = csv.DictReader(file, delimiter=between, strict=between == ",",
                                quoting=csv.QUOTE_NONE if between == "\t" else csv.QUOTE_MINIMAL)  # fmt: skip
        try:
            while batch := [(reader.line_num, row) for row in islice(reader, CHUNK)]:
                for number, row in batch:
                    if None in row:
                        raise DataError(f"{source.path}: line {number}: more cells than the header has")
                names = [name for name in batch[0][1] if name != source.prompt_column]
                columns = {name.lower(): [row[name] or None for _, row in batch] for name in names}
                texts = [row[source.prompt_column] for _, row in batch]
                yield Chunk(source, texts, [n for n, _ in batch], columns)
        except UnicodeDecodeError:
            raise DataError(f"{source.path}: is not in UTF-8; save it as UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{source.path}: line {reader.line_num}: not readable as a table ({error})") from None
