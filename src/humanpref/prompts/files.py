"""Prompt files: our own JSON Lines (the default) and Parquet, and plain text; any known set can be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from humanpref.errors import DataError, MissingExtraError
from humanpref.prompts.records import Prompt
from humanpref.prompts.sources import open_source

_BATCH = 4096


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read the prompts of a file in any known layout; see `iter_prompts`."""
    return list(iter_prompts(path))


def iter_prompts(path: str | Path) -> Iterator[Prompt]:
    """Yield the prompts of a file in any known layout, found from its content (`humanpref.prompts.sources`).

    Raises `DataError` when the file is not there, has no prompts, or is not what its layout says.
    """
    for chunk in open_source(Path(path).expanduser()).chunks():
        for number, text in enumerate(chunk.texts):
            if text is None:
                raise DataError(f"{path}: {chunk.where(number)}: has no prompt")
            yield chunk.prompt(number)


def write_prompts(prompts: Iterable[Prompt], path: str | Path) -> int:
    """Write prompts, whole or not at all -> how many; .parquet, .txt (one a line, text only), else JSON Lines."""
    with PromptWriter(path) as writer:
        for prompt in prompts:
            writer.write(prompt)
    return writer.count


class PromptWriter(AbstractContextManager["PromptWriter"]):
    """Writes prompts as they come; the file appears under its name when all of them are written.

    `extra` columns go beside the prompt's own (JSON Lines and Parquet). Raises `DataError` where the disk is full, the
    folder is not there, or a prompt cannot be in one line of plain text.
    """

    def __init__(self, path: str | Path) -> None:
        import os

        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise DataError(f"{self.path}: is a folder; name a file to write")
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self.kind = {".parquet": "parquet", ".pq": "parquet", ".txt": "text"}.get(self.path.suffix.lower(), "jsonl")
        self.count = 0
        self._rows: list[dict[str, Any]] = []
        self._parquet: Any = None
        self._file: IO[str] | None = None

    def __enter__(self) -> PromptWriter:
        if self.kind == "parquet":
            pq = _pyarrow(self.path)[1]
            self._try(lambda: setattr(self, "_parquet", pq.ParquetWriter(self.part, _schema(self.path))))
        else:
            self._try(lambda: setattr(self, "_file", self.part.open("w", encoding="utf-8", newline="\n")))
        return self

    def write(self, prompt: Prompt, extra: Mapping[str, Any] | None = None) -> None:
        """Write one prompt."""
        self._rows.append({**to_row(prompt), **(extra or {})})
        self.count += 1
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand what was collected to the disk."""
        rows, self._rows = self._rows, []
        self._try(lambda: self._write(rows))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self._parquet is not None:
            pa = _pyarrow(self.path)[0]
            packed = [{**row, "meta": json.dumps(row.get("meta", {}), ensure_ascii=False)} for row in rows]
            self._parquet.write_table(pa.Table.from_pylist(packed, _schema(self.path)))
            return
        assert self._file is not None
        for row in rows:
            if self.kind == "text":
                if len(str(row["text"]).splitlines()) > 1:
                    raise DataError(f"{self.path}: a prompt has several lines ({row['text'][:40]!r}); write .jsonl")
                self._file.write(row["text"] + "\n")
            else:
                self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
            self._try(self._close)
            if kind is None:
                self._try(lambda: self.part.replace(self.path))
        except DataError:
            if kind is None:  # an error on the way to the disk must not hide the first one
                raise
        finally:
            self.part.unlink(missing_ok=True)

    def _close(self) -> None:
        for file in (self._parquet, self._file):
            if file is not None:
                file.close()

    def _try(self, action: Any) -> None:
        try:
            action()
        except OSError as error:  # pyarrow's too
            raise DataError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        except UnicodeEncodeError as error:
            raise DataError(f"{self.path}: a prompt cannot be written as UTF-8 ({error.reason})") from None


def to_row(prompt: Prompt) -> dict[str, Any]:
    """Return a prompt as a row of JSON, without what is not known."""
    row = {"text": prompt.text, "id": prompt.id}
    more = {
        "source": prompt.source,
        "style": prompt.style,
        "original": prompt.original,
        "meta": dict(prompt.meta) or None,
    }
    return {**row, **{key: value for key, value in more.items() if value is not None}}


def batched(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Cut a stream of prompts into lists."""
    remaining = iter(prompts)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError(f'{path}: Parquet files need pyarrow: pip install "humanpref[prompts]"') from None
    return pa, pq


def _schema(path: Path) -> Any:
    pa = _pyarrow(path)[0]
    words = ("text", "source", "id", "style", "original", "meta", "status", "reason")
    return pa.schema([*((name, pa.string()) for name in words), ("removed", pa.list_(pa.string()))])
