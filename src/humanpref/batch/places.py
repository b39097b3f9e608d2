"""Where things are: paths and URLs by fsspec, local ones by the same code. What a path on a remote store is called."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from humanpref.errors import DataError, HumanprefError, MissingExtraError, reason_of

_NO_FILE_ERRNOS = frozenset({errno.ENAMETOOLONG, errno.ELOOP})
_DROPPED = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.HTTPClientError",
    }
)
"""What clients of remote stores raise, and do not call an `OSError`, when a connection is lost."""


class ReadStoppedError(DataError):
    """Reading failed for a reason that may pass (a lost connection, too many open files). It says nothing of what the
    file holds, so it ends the run and is never stored as a row's problem; the same command goes on."""

    def __init__(self, name: str, error: BaseException) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or reason_of(error)
        super().__init__(
            f"{name}: reading failed ({reason}); what was scored is kept: run the same command again to go on"
        )


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a path or URL, and the path in it. Raises `DataError`, `MissingExtraError`."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError('batch needs fsspec: pip install "humanpref[batch]"') from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the store's own client is not installed
        raise MissingExtraError(f"{url}: {reason_of(error)}") from None
    except ValueError as error:
        raise DataError(f"{url}: {reason_of(error)}") from None
    return system, str(path)


def is_local(system: Any) -> bool:
    """Tell whether a file system is this machine's own."""
    protocol = system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def join(root: str, name: str) -> str:
    """A path below a root, which is a path or a URL; an absolute path or URL stays as it is."""
    return name if "://" in name else posixpath.join(root, name)


@contextmanager
def failing_with_name(name: str, what: str = "cannot be read") -> Iterator[None]:
    """Turn what a file system raises (almost anything, on remote ones) into a `DataError` that says where.

    Around calls of a file system and little else: a mistake of ours would be taken for one of its errors.
    """
    try:
        yield
    except HumanprefError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and what == "cannot be read":
            raise DataError(f"{name}: no such file") from None
        raise DataError(f"{name}: {what} ({getattr(error, 'strerror', None) or reason_of(error)})") from None


def is_passing(error: Exception) -> bool:
    """Tell whether an error of reading a file may pass, rather than that there is no such file, or none to be read."""
    if isinstance(error, OSError):
        lasting = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
        return not isinstance(error, lasting) and error.errno not in _NO_FILE_ERRNOS
    return any(f"{kind.__module__}.{kind.__qualname__}" in _DROPPED for kind in type(error).__mro__)


@contextmanager
def opened(url: str, name: str) -> Iterator[io.RawIOBase]:
    """Open a shard. What its file system raises, then and at every read, becomes a `ReadStoppedError`: any other error
    is of what the shard holds, whatever its class (pyarrow and bz2 raise `OSError` for damaged files)."""
    system, path = filesystem(url)
    try:
        raw = system.open(path, "rb")
    except Exception as error:  # stores far away raise errors of their own
        raise ReadStoppedError(name, error) from None
    with raw:
        yield _Watched(raw, name)


class _Watched(io.RawIOBase):
    """A file whose errors of reading are told apart from those of whoever reads it."""

    def __init__(self, raw: Any, name: str) -> None:
        self._raw, self._name = raw, name

    def read(self, size: int = -1) -> Any:
        try:
            return self._raw.read(size)
        except Exception as error:
            raise ReadStoppedError(self._name, error) from None

    def readinto(self, buffer: Any) -> Any:
        try:
            return self._raw.readinto(buffer)
        except Exception as error:
            raise ReadStoppedError(self._name, error) from None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def read_bytes(url: str, limit: int) -> bytes:
    """Read a whole file. Raises `DataError` for one over `limit`, or none at all (a pipe, a device), and what its file
    system does."""
    size: int | None
    if "://" in url:
        system, path = filesystem(url)
        size = system.size(path)
        if size is not None and size <= limit:
            return bytes(system.cat_file(path))
        opening: Callable[..., Any] = partial(system.open, path)
    else:
        state = os.stat(url)  # noqa: PTH116 - a Path for each image would cost as much as the call
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):  # opening a folder says that it is one
            raise DataError("it is no regular file")
        size, opening = state.st_size, partial(open, url)
    content, told = b"", size or 0
    if told <= limit:
        with opening(mode="rb") as file:
            content = file.read(told + 1)
            if len(content) > told:  # it grows, or does not say how long it is
                content += file.read(limit + 1 - len(content))
    if max(told, len(content)) > limit:
        raise DataError(f"the file is over {limit:,} bytes")
    return content
