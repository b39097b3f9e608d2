"""Prompts in JSON: COCO captions, the HPS benchmark's lists of strings, lists of objects, our own JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from humanpref.data.rows import read_rows
from humanpref.errors import DataError
from humanpref.prompts.chunks import BOM, CHUNK, Chunk, Source, unknown

KINDS: Mapping[str, tuple[type, ...]] = {"meta": (dict,), "original": (str,)}
_STYLES = frozenset({"anime", "concept-art", "paintings", "photo"})


def json_list(path: Path) -> Source:
    """Recognise a JSON list by its first item."""
    first: object = next(read_rows(path, "json"), (0, None))[1]
    if isinstance(first, str):
        style = path.stem if path.stem in _STYLES else None
        return Source(path, "hps-benchmark", "hps-benchmark", style, "instance", _read_strings)
    if isinstance(first, dict) and (column := _prompt_key(first)):
        return Source(path, "json", "json", None, "instance", _read_objects, column)
    has = f"a list of objects with {', '.join(map(str, first))}" if isinstance(first, dict) else "an empty list"
    raise unknown(path, has[:200] if isinstance(first, dict) or first is None else "a JSON list of other things")


def json_object(path: Path) -> Source:
    """Tell JSON Lines from one object, and recognise it by its keys."""
    with path.open("rb") as file:
        line = file.readline(1 << 20).removeprefix(BOM.encode())
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if isinstance(first, dict) and "annotations" not in first:
        if column := _prompt_key(first):
            return Source(path, "prompts", "prompts", None, "line", _read_jsonl, column)
        raise unknown(path, f"JSON Lines with {', '.join(first)[:200] or 'nothing'}")
    if "annotations" in _keys(path):
        return Source(path, "coco", "coco", None, "annotation", _read_coco)
    raise unknown(path, "a JSON object without annotations")


def _prompt_key(row: dict[str, Any]) -> str | None:
    return next((key for key in ("text", "prompt") if key in row), None)


def _keys(path: Path) -> list[str]:
    import ijson

    with path.open("rb") as file:
        try:
            return [value for prefix, event, value in ijson.parse(file, buf_size=1 << 20)
                    if prefix == "" and event == "map_key"]  # fmt: skip
        except ijson.JSONError as error:
            raise DataError(f"{path}: not readable as JSON ({str(error)[:100]}): truncated or damaged") from None


def _pieces(source: Source, rows: Iterator[tuple[int, Any]]) -> Iterator[Chunk]:
    names = ("source", "prompt_source", "id", "style", "original", "meta")
    while batch := list(islice(rows, CHUNK)):
        texts, numbers, more = [], [], []
        for number, row in batch:
            key = None
            if isinstance(row, dict):
                key = source.prompt_column if source.prompt_column in row else _prompt_key(row)
            if key is None:
                raise DataError(f"{source.path}: {source.row_word} {number}: has no {source.prompt_column!r}")
            text = row[key]
            if text is not None and not isinstance(text, str):
                raise DataError(f"{source.path}: {source.row_word} {number}: a prompt must be text, got {text!r:.40}")
            texts.append(text)
            numbers.append(number)
            more.append(row)
        columns = {name: [row.get(name) for row in more] for name in names if any(name in row for row in more)}
        for name, column in columns.items():
            kind = KINDS.get(name, (str, int))  # an id may be a number
            for number, value in zip(numbers, column, strict=True):
                if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                    raise DataError(f"{source.path}: {source.row_word} {number}: {name} is not {kind[0].__name__}")
        yield Chunk(source, texts, numbers, columns)


def _read_jsonl(source: Source) -> Iterator[Chunk]:
    return _pieces(source, iter(read_rows(source.path, "jsonl")))


def _read_objects(source: Source) -> Iterator[Chunk]:
    return _pieces(source, iter(read_rows(source.path, "json")))


def _read_strings(source: Source) -> Iterator[Chunk]:
    return _pieces(source, ((n, {"prompt": row}) for n, row in read_rows(source.path, "json")))


def _read_coco(source: Source) -> Iterator[Chunk]:
    import ijson

    with source.path.open("rb") as file:
        try:
            items = enumerate(ijson.items(file, "annotations.item", use_float=True, buf_size=1 << 20))
            while batch := list(islice(items, CHUNK)):
                for number, row in batch:
                    if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
                        raise DataError(
                            f"{source.path}: annotation {number}: has no caption (of COCO, take captions_*.json)"
                        )
                columns = {
                    "id": [f"coco-{row.get('id', n)}" for n, row in batch],
                    "image_id": [row.get("image_id") for _, row in batch],
                }
                yield Chunk(source, [row["caption"] for _, row in batch], [n for n, _ in batch], columns)
        except ijson.JSONError as error:
            raise DataError(f"{source.path}: not readable as JSON ({str(error)[:100]}): truncated?") from None
