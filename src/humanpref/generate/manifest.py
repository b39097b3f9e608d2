"""The manifest of a run: one row an image, appended as it is made, safe against a process that dies at any moment.

A row follows its image to the disk, so a row means that the image is there and whole; an image without a row is made
again. A last line that was cut is removed when the folder is next opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from humanpref.data.folder import ImageFolder
from humanpref.data.layout import Row
from humanpref.errors import DataError

MANIFEST = "manifest.jsonl"

Key: TypeAlias = "tuple[str, str, int]"
"""Model, prompt id, number of the image."""

FIELDS = ("prompt", "prompt_id", "number", "model", "status")


@dataclass(frozen=True)
class MadeImage:
    """What a model made of a prompt, from a row of a manifest. `status` is done, refused or failed.

    `path` is where it is where it is done, inside the folder, else None; `sha256` is of the file as it was written;
    `reason` says why it is not done; `seconds` is what it took; of a `truncated` prompt only the beginning was read.
    """

    model: str
    prompt: str
    prompt_id: str
    number: int
    status: str
    path: Path | None = None
    sha256: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    truncated: bool = False


def key_of(row: Row) -> Key:
    """Return what a row is about."""
    return row["model"], row["prompt_id"], row["number"]


class Manifest:
    """An open manifest. Only the holder of the folder's lock makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repaired = _repair(path)
        self._file = path.open("ab", buffering=0)
        self._good = path.stat().st_size

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row and wait until it is on the disk. A row that does not fit is taken back; raises `OSError`."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part first
                written += self._file.write(line[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError:
            os.truncate(self.path, self._good)
            raise
        self._good += len(line)

    def keep(self, wanted: Callable[[Row], bool]) -> int:
        """Leave out the rows that are not wanted, all at once -> how many."""
        kept, dropped = self.path.with_name(f".{self.path.name}.part"), 0
        with kept.open("wb") as file:
            for row in read_manifest(self.path):
                if wanted(row):
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                else:
                    dropped += 1
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        kept.replace(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._good = self.path.stat().st_size
        return dropped

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows; a last line that is being written is left out. Raises `DataError` for any other damage."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{path}: line {number}: is damaged; remove it, and its image is made again") from None
            if not isinstance(row, dict) or not all(name in row for name in FIELDS):
                raise DataError(f"{path}: line {number}: is not a row of a manifest")
            yield row


def read_images(folder: Path, model: str | None = None) -> Iterator[MadeImage]:
    """Yield what the run in a folder made, or one model of it; nothing where there is no manifest.

    Raises `DataError` for a damaged manifest, and for a row whose image is not named, or leads out of the folder.
    """
    inside = ImageFolder(folder)
    for row in read_manifest(folder / MANIFEST):
        if model is not None and row["model"] != model:
            continue
        try:
            yield MadeImage(
                row["model"],
                row["prompt"],
                row["prompt_id"],
                int(row["number"]),
                row["status"],
                inside.ref(row.get("path")).path if row["status"] == "done" else None,
                row.get("sha256"),
                row.get("reason"),
                float(row.get("seconds", 0.0)),
                bool(row.get("truncated")),
            )
        except (DataError, TypeError, ValueError) as error:
            where = f"{folder / MANIFEST}: image {row['number']} of prompt {row['prompt_id']!r}"
            raise DataError(f"{where}: {error}; remove the line, and the image is made again") from None


def _repair(path: Path) -> bool:
    """Cut off a last line without its end -> whether there was one."""
    path.touch()
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        good = end
        while good:
            start = max(0, good - 65536)
            file.seek(start)
            block = file.read(good - start)
            if (found := block.rfind(b"\n")) >= 0:
                good = start + found + 1
                break
            good = start
        if good == end:
            return False
        file.truncate(good)
        os.fsync(file.fileno())
        return True
