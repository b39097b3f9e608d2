"""Writing files so that what has a file's name is always whole; folders that one process at a time writes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


class HeldError(OSError):
    """A lock that another process holds; `str` of it says which, as far as is known."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a hidden place beside `path` to write to; it becomes `path` when the block ends, and is gone if that fails.

    What was at `path` stays until then. Raises `OSError`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold(path: Path) -> IO[bytes]:
    """Take the lock that a file stands for, until what is returned is closed or the process ends, however it ends.

    Raises `HeldError` naming the process that has it, and `OSError` where the file cannot be written.
    """
    file = path.open("ab+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(100).decode(errors="replace").strip()
        file.close()
        raise HeldError(holder or "an unknown process") from None
    with suppress(OSError):  # the name is for people; a full disk is no reason to stop here
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}".encode())
        file.flush()
    return file


def remove_parts(folder: Path) -> int:
    """Remove what `whole` was writing in a folder when a process was killed -> how many. Only under the lock."""
    parts = [part for part in folder.glob(".*.part") if part.is_file() or part.is_symlink()]
    for part in parts:
        part.unlink()
    return len(parts)
