"""Where things are: paths and URLs by fsspec, local ones by the same code. What a path on a remote store is called."""

from __future__ import annotations

import errno
import io
import logging
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

from humanpref.errors import DataError, HumanprefError, MissingExtraError, reason_of

_NO_FILE = (FileNotFoundError, NotADirectoryError)
_NO_FILE_ERRNOS = frozenset({errno.ENAMETOOLONG, errno.ELOOP})

_LASTING = (*_NO_FILE, IsADirectoryError, PermissionError, HumanprefError, ValueError, NotImplementedError)
"""What says that there is nothing to be read, now or later (`ValueError`: of a path that cannot be one)."""

_KEYS_OF_LATE = frozenset(
    {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
)
"""S3's refusals of a key that has run out, or of a clock: no row's fault."""

_UNHEARD = logging.NullHandler()
"""gcsfs and fsspec's reading ahead log the traceback of what they raise, gcsfs also a warning at each call without
credentials. Python prints what nobody handles, so this does; whoever sets up logging gets them all the same."""


class ReadStoppedError(DataError):
    """Reading failed for a reason that may pass (a lost connection, too many open files). It says nothing of what the
    file holds, so it ends the run and is never stored as a row's problem; the same command goes on."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(
            f"{name}: reading failed ({_why(error)}); what was scored is kept: run the same command again to go on"
        )


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a path or URL, and the path in it. Raises `DataError`, `MissingExtraError`."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError('batch needs fsspec: pip install "humanpref[batch]"') from None
    for name in ("fsspec", "gcsfs"):
        logging.getLogger(name).addHandler(_UNHEARD)
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the store's own client is not installed
        raise MissingExtraError(f"{url}: {reason_of(error)}") from None
    except ValueError as error:
        raise DataError(f"{url}: {reason_of(error)}") from None
    return system, str(path)


def protocols(system: Any) -> tuple[str, ...]:
    """The protocols of a file system, the first in its URLs."""
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def is_local(system: Any) -> bool:
    """Tell whether a file system is this machine's own."""
    return "file" in protocols(system)


def kind_at(system: Any, path: str) -> Literal["file", "directory"] | None:
    """What lies at a path, None for nothing. Raises what the file system does: its own `isfile`, `isdir` and `exists`
    take a connection that is lost for a file that is not there."""
    try:
        kind = system.info(path)["type"]
    except _NO_FILE:
        return None
    except OSError as error:
        if error.errno in _NO_FILE_ERRNOS:
            return None
        raise
    return kind if kind in ("file", "directory") else None


def join(root: str, name: str) -> str:
    """A path below a root, which is a path or a URL; an absolute path or URL stays as it is."""
    return name if "://" in name else posixpath.join(root, name)


def nothing_at(name: str) -> str:
    """What to say where a path or URL leads to nothing."""
    private = "; a private or gated repository asks for a login (hf auth login)" if name.startswith("hf://") else ""
    return f"{name}: no such file or folder{private}"


@contextmanager
def failing_with_name(name: str, what: str = "cannot be read") -> Iterator[None]:
    """Turn what a file system raises (almost anything, on remote ones) into a `DataError` that says where.

    Around calls of a file system and little else: a mistake of ours would be taken for one of its errors.
    """
    try:
        yield
    except HumanprefError:
        raise
    except FileNotFoundError:
        if what == "cannot be read":
            raise DataError(nothing_at(name)) from None
        raise DataError(f"{name}: {what} (no such bucket or folder)") from None
    except Exception as error:
        later = "; if that passes, run the same command again" if "://" in name and is_passing(error) else ""
        raise DataError(f"{name}: {what} ({_why(error)}){later}") from None


def is_passing(error: Exception) -> bool:
    """Tell whether an error of reading a file may pass, rather than that there is no such file, or none to be read.

    Clients of stores have errors of their own for lost connections, so what is none of the lasting ones may pass: a run
    that was ended goes on, while a row that was kept with an error is never scored. A client that is not installed, and
    a key that is no longer valid, may pass, too.
    """
    if isinstance(error, (MissingExtraError, ReadStoppedError)) or _code(error) in _KEYS_OF_LATE:
        return True
    return not isinstance(error, _LASTING) and not (isinstance(error, OSError) and error.errno in _NO_FILE_ERRNOS)


def _code(error: BaseException) -> str | None:
    """What S3 calls the error that s3fs made this one of."""
    answer = getattr(error.__cause__, "response", None)
    return answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None


def _why(error: BaseException) -> str:
    """What a file system's error says: the system's words, or those of the Hub (which say what to do), or its own."""
    words = getattr(error, "strerror", None) or getattr(error, "server_message", None)
    return " ".join(str(words).split())[:200] if words else reason_of(error)


def opened(url: str, name: str) -> AbstractContextManager[io.RawIOBase]:
    """Open a shard, as `watched` does."""
    return watched(*filesystem(url), name)


@contextmanager
def watched(system: Any, path: str, name: str) -> Iterator[io.RawIOBase]:
    """Open a file. What its file system raises, then and at every read, becomes a `ReadStoppedError`: any other error
    is of what the file holds, whatever its class (pyarrow and bz2 raise `OSError` for damaged files)."""
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
