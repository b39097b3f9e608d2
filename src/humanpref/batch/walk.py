"""What lies below a folder, and what a pattern matches: links to folders followed, hidden names left out."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

from humanpref.batch.places import is_local

HIDDEN = (".", "_")
"""How names begin that a wildcard does not stand for, nor a folder of shards: `.ipynb_checkpoints`, `_temporary`."""


def is_hidden(name: str, signs: tuple[str, ...] = HIDDEN) -> bool:
    """Tell whether a path or a folder in it is hidden."""
    return any(part.startswith(signs) for part in name.split("/"))


def files_below(system: Any, root: str) -> Iterator[str]:
    """Yield the files of a folder and of the folders in it by their paths below it, without those hidden by a dot."""
    return (name for name, is_folder in walk(system, root) if not is_folder)


def walk(system: Any, root: str) -> Iterator[tuple[str, bool]]:
    """Yield what is below a folder, in no order: its path below it, and whether it is a folder.

    Links to folders are followed on this machine, after all else. Each folder is entered once: a link back is an end,
    and a second name of a folder doubles nothing.
    """
    if not is_local(system):
        names = (posixpath.relpath(found, root) for found in system.find(root))
        yield from ((name, False) for name in names if not is_hidden(name, (".",)))
        return
    entered: set[str] = set()  # by real paths: not every file system has numbers of its own for folders
    folders, links = [("", os.path.realpath(root))], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append((links[-1], os.path.realpath(posixpath.join(root, links.pop()))))
        folder, real = folders.pop()
        if real in entered:
            continue
        entered.add(real)
        if folder:
            yield folder, True
        with os.scandir(posixpath.join(root, folder)) as entries:
            for entry in entries:
                name = posixpath.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    yield name, False
                elif entry.is_symlink():
                    links.append(name)
                else:
                    folders.append((name, posixpath.join(real, entry.name)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_pattern(word: str) -> bool:
    """Tell whether a word has a wildcard."""
    return any(sign in word for sign in "*?[")


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a pattern matches a path. A wildcard stands for no hidden name unless the pattern has
    one that begins so, as `_*`. Raises `ValueError` for a pattern that is none: with ** beside other signs."""
    from fsspec.utils import glob_translate

    root, match = fixed_part(pattern), re.compile(glob_translate(pattern)).match
    signs = tuple(sign for sign in HIDDEN if f"/{sign}" not in pattern[len(root) :])
    return lambda path: match(path) is not None and not is_hidden(path[len(root) :].lstrip("/"), signs)


def matches(system: Any, pattern: str) -> dict[str, bool]:
    """Return what a pattern matches, in no order: paths, and whether each is a folder. A folder that others of them lie
    in is left out. Raises what the file system does and `matcher`."""
    is_match = matcher(pattern)
    found = {path: folder for path, folder in _candidates(system, pattern) if is_match(path)}
    opened: set[str] = set()
    for path in found:
        opened.update(folders_above(path))
    return {path: folder for path, folder in found.items() if path not in opened}


def folders_above(path: str) -> list[str]:
    """The folders that a path lies in, but for the root."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts) - 1, 1, -1)]


def fixed_part(pattern: str) -> str:
    """The folder that a pattern begins in."""
    return posixpath.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0])


def _candidates(system: Any, pattern: str) -> Iterator[tuple[str, bool]]:
    """Yield what a pattern may match, and more; here Python finds it, since fsspec does not follow links."""
    if not is_local(system):
        for path, info in system.glob(pattern, detail=True).items():
            yield str(path), info["type"] == "directory"
        return
    head, deep, _ = f"{pattern}/".partition("/**/")
    for path in glob.glob(head if deep else pattern):  # noqa: PTH207 - plain strings
        is_folder = os.path.isdir(path)  # noqa: PTH112
        if deep and is_folder:
            yield from ((posixpath.join(path, name), folder) for name, folder in walk(system, path))
        elif not deep:
            yield path, is_folder
