"""The manifest of a run: one row an image, appended as it is made, safe against a process that dies at any moment.

A row follows its image to the disk, so a row means that the image is there and whole; an image without a row is made
again. A last line that was cut is removed when the folder is next opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from humanpref.data.layout import Row
from humanpref.errors import DataError

Key: TypeAlias = "tuple[str, str, int]"
"""Model, prompt id, number of the image."""

FIELDS = ("prompt", "prompt_id", "number", "model", "status")


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
