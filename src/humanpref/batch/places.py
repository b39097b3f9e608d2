"""Where things are: paths and URLs by fsspec, local ones by the same code. What a path on a remote store is called."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from humanpref.errors import DataError, MissingExtraError, reason_of


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
    """Turn what a file system raises (almost anything, on remote ones) into a `DataError` that says where."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: {what} ({error.strerror or reason_of(error)})") from None


def read_bytes(url: str, limit: int) -> bytes:
    """Read a whole file. Raises `OSError` (`FileNotFoundError` where there is none, and for one over `limit`)."""
    if "://" not in url:
        if os.stat(url).st_size > limit:  # noqa: PTH116 - a Path for each image would cost as much as the call
            raise OSError(f"the file is over {limit // 2**20} MiB")
        with open(url, "rb") as file:  # noqa: PTH123
            return file.read()
    system, path = filesystem(url)
    if (size := system.size(path)) is not None and size > limit:
        raise OSError(f"the file is over {limit // 2**20} MiB")
    return bytes(system.cat_file(path))
