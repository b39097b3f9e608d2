"""Unpacking archives from elsewhere: nothing leaves the folder, nothing but plain files, no more than was expected."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from humanpref.errors import DataError

MAX_RATIO = 20
"""An archive may unpack to this many times its own size (images hardly compress)."""

MAX_FILES = 1_000_000
_SLACK = 64 * 2**20  # what small archives may hold beyond the ratio
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".zip")


def is_archive(name: str) -> bool:
    """Tell by its name whether a published file is an archive."""
    return name.lower().endswith(ARCHIVES)


def stem(name: str) -> str:
    """Return an archive's name without its ending."""
    return next((name[: -len(ending)] for ending in ARCHIVES if name.lower().endswith(ending)), name)


def unpack(archive: Path, folder: Path, *, max_bytes: int | None = None) -> int:
    """Unpack a tar or zip archive into a new folder -> the number of files.

    A single folder in the archive with the name of `folder` is lifted, so that `test.tar.gz` with `test/1.jpg` in it
    becomes `test/1.jpg`. The folder appears whole or not at all. Raises `DataError`, and leaves nothing, for absolute
    names, `..`, links, devices, names that are there twice, and more bytes than `max_bytes` (default: `MAX_RATIO`
    times the archive) or more files than `MAX_FILES`.
    """
    if folder.exists():
        raise DataError(f"{folder}: is there already")
    budget = max_bytes if max_bytes is not None else MAX_RATIO * archive.stat().st_size + _SLACK
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        count = 0
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for name, content in members:
            count += 1
            if count > MAX_FILES:
                raise DataError(f"{archive}: holds more than {MAX_FILES:,} files; refused")
            budget -= _write(content, _inside(part, name, archive), budget, archive)
        inner = part / folder.name
        lift = inner.is_dir() and [p.name for p in part.iterdir()] == [folder.name]
        (inner if lift else part).replace(folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{archive}: damaged, truncated or not an archive ({error})") from None
    except FileExistsError as error:
        raise DataError(f"{archive}: holds the same name twice ({error.filename})") from None
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked ({error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count


def _inside(folder: Path, name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0] or "\0" in name:
        raise DataError(f"{archive}: holds {name[:80]!r}, which leads out of its folder; refused")
    return folder / path


def _write(content: IO[bytes], path: Path, budget: int, archive: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("xb") as file:
        while block := content.read(1 << 20):
            written += len(block)
            if written > budget:
                raise DataError(f"{archive}: unpacks to far more than its size allows (a bomb?); refused")
            file.write(block)
    return written


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as tar:  # a stream: nothing is read twice, nothing is looked up ahead
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"{archive}: {member.name[:80]!r} is a link, a device or the like; refused")
            content = tar.extractfile(member)
            assert content is not None
            yield member.name, content


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in {0, stat.S_IFREG}:
                raise DataError(f"{archive}: {member.filename[:80]!r} is a link, a device or the like; refused")
            with zipped.open(member) as content:
                yield member.filename, content
