"""The public prompt sets: which one a file is, from its content and never from its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from humanpref.data.rows import sniff
from humanpref.errors import DataError
from humanpref.prompts.chunks import BOM, Source
from humanpref.prompts.read_json import json_list, json_object
from humanpref.prompts.read_parquet import parquet
from humanpref.prompts.read_text import text


def open_source(path: str | Path, name: str | None = None) -> Source:
    """Recognise a file of prompts, from its first lines; `name` stands in for the name of the set.

    Raises `DataError` that says what was looked for where it is none of the known layouts.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file of prompts")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    container = _container(path)
    made = _RECOGNISE[container](path)
    return made if name is None else replace(made, name=name)


def _container(path: Path) -> str:
    try:
        found = sniff(path)
    except DataError as error:
        if "unknown format" not in str(error):
            raise
        found = "text"
    if found in {"json", "jsonl"}:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(BOM.encode()).lstrip()
        if not re.match(rb'[\[{]\s*(["{}\[\]]|-?\d+\s*[,\]]|$)', start):  # a prompt may begin with a bracket
            found = "text"
    return "text" if found == "csv" else found


_RECOGNISE: dict[str, Callable[[Path], Source]] = {
    "json": json_list,
    "jsonl": json_object,
    "parquet": parquet,
    "text": text,
}
