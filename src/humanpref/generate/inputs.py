"""Reading the prompts of a run: JSON Lines, a JSON list, Parquet, or plain text with one prompt a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from humanpref.data.layout import optional_text
from humanpref.data.rows import read_rows
from humanpref.errors import DataError
from humanpref.prompts.records import Prompt


def read_prompts(path: str | Path) -> tuple[tuple[Prompt, ...], int]:
    """Read a prompt file -> the prompts in order, and how many were there again (same id and text).

    A row has "prompt" or "text", and may have "id", "source" (or "prompt_source") and "style"; a JSON list may hold
    plain texts. A prompt without an id is named by its text, so that its images stay when others come or go. Raises
    `DataError`, with the place, for a file that cannot be read, is empty, or names two prompts alike.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError(f"{path}: the file is empty; it must hold prompts")
    if b"\0" in head and not head.startswith(b"PAR1"):
        raise DataError(f"{path}: is not a prompt file (text, JSON, JSON Lines or Parquet, in UTF-8)")
    if head.startswith(b"PAR1"):
        rows: Iterable[tuple[int, Any]] = read_rows(path, "parquet")
    elif start.startswith(b"["):
        rows = _json_list(path)
    elif start.startswith(b"{"):
        rows = read_rows(path, "jsonl")
    else:
        rows = _lines(path)
    return _unique(path, rows)


def _unique(path: Path, rows: Iterable[tuple[int, Any]]) -> tuple[tuple[Prompt, ...], int]:
    found: dict[str, Prompt] = {}
    again = 0
    for number, row in rows:
        try:
            prompt = _prompt(row)
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error}") from None
        if (same := found.get(prompt.id)) is None:
            found[prompt.id] = prompt
        elif same == prompt:
            again += 1
        else:
            raise DataError(f"{path}: row {number}: the id {prompt.id!r} is another prompt's too ({same.text[:40]!r})")
    if not found:
        raise DataError(f"{path}: holds no prompts")
    return tuple(found.values()), again


def _prompt(row: Any) -> Prompt:
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, Mapping):
        raise DataError(f"expected a text or an object with prompt or text, got {str(row)[:40]!r}")
    text = row.get("prompt", row.get("text"))
    if not isinstance(text, str):
        raise DataError(f'has no "prompt" or "text" (it has {", ".join(map(str, list(row)[:8])) or "nothing"})')
    if not text.strip():
        raise DataError("the prompt is empty")
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    except UnicodeEncodeError:
        raise DataError("the prompt cannot be written as UTF-8") from None
    source = optional_text(row, "source") or optional_text(row, "prompt_source")
    return Prompt(text, optional_text(row, "id") or digest, source, optional_text(row, "style"))


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    yield from enumerate(content)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield number, text
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
