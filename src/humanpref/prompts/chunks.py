"""A source of prompts, and the chunks of columns that it is read in.

A chunk is columns, not records: two million rows pass through the filters before a `Prompt` is made of a few.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from humanpref.errors import DataError
from humanpref.prompts.records import MetaValue, Prompt

CHUNK = 1 << 16
LOOKED_FOR = (
    "COCO captions (JSON with annotations), DiffusionDB metadata (Parquet with prompt), PartiPrompts (TSV with "
    "Prompt, Category, Challenge), DrawBench (CSV with Prompts, Category), HPS benchmark (JSON list of strings), "
    "humanpref prompts (JSON Lines or Parquet with text or prompt), plain text (one prompt a line)"
)
BOM = "\ufeff"


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source, as columns of one length; None where a row has no prompt."""

    source: Source
    texts: Sequence[str | None]
    rows: Sequence[int]
    columns: Mapping[str, Sequence[Any]]

    def where(self, number: int) -> str:
        """Say where a row is, for a message."""
        return f"{self.source.row_word} {self.rows[number]}"

    def prompt(self, number: int, text: str | None = None) -> Prompt:
        """Make the record of one row."""
        value = {name: column[number] for name, column in self.columns.items()}
        text = text if text is not None else self.texts[number] or ""
        meta: dict[str, MetaValue] = {"file": self.source.path.name, "row": self.rows[number]}
        given = value.pop("meta", None)
        if given:
            meta = {**meta, **(json.loads(given) if isinstance(given, str) else given)}
        given_sources = value.pop("source", None), value.pop("prompt_source", None)
        source = given_sources[0] or given_sources[1] or self.source.name
        name, style, original = value.pop("id", None), value.pop("style", None), value.pop("original", None)
        meta |= {
            key: item
            for key, item in value.items()
            if isinstance(item, (str, int)) or (isinstance(item, float) and isfinite(item))
        }
        # named by its text, so that it stays who it is when others come or go
        label = str(name) if name is not None else sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
        return Prompt(text, label, str(source), str(style) if style else self.source.style, original, meta)


@dataclass(frozen=True)
class Source:
    """A recognised file of prompts."""

    path: Path
    layout: str
    name: str
    style: str | None
    row_word: str
    read: Callable[[Source], Iterator[Chunk]]
    prompt_column: str = "prompt"

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows, streaming. Raises `DataError`, with the place, where the file is damaged."""
        return self.read(self)


def unknown(path: Path, what: str) -> DataError:
    """Make the error of a file that is no known layout."""
    return DataError(f"{path}: not a known prompt file: {what}; looked for {LOOKED_FOR}")
