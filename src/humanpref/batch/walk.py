"""What lies below a folder, and what a pattern matches: links to folders followed, hidden names left out."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterator
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
    entered: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        path = posixpath.join(root, folder)
        state = os.stat(path)  # noqa: PTH116 - plain strings: there may be millions
        if (state.st_dev, state.st_ino) in entered:
            continue
        entered.add((state.st_dev, state.st_ino))
        if folder:
            yield folder, True
        with os.scandir(path) as entries:
            for entry in entries:
                name = posixpath.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    yield name, False
                elif entry.is_symlink():
                    links.append(name)
                else:
                    folders.append(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def matches(system: Any, pattern: str) -> dict[str, bool]:
    """Return what a pattern matches, in no order: paths, and whether each is a folder. A folder that others of them lie
    in is left out. A wildcard stands for no hidden name unless the pattern has one that begins so, as `_*`.

    Raises what the file system does, and `ValueError` for a pattern that is none.
    """
    root = fixed_part(pattern)
    signs = tuple(sign for sign in HIDDEN if f"/{sign}" not in pattern[len(root) :])
    found = _matches_here(pattern) if is_local(system) else _matches_there(system, pattern)
    found = {path: folder for path, folder in found.items() if not is_hidden(path[len(root) :].lstrip("/"), signs)}
    opened: set[str] = set()
    for path in found:
        while len(path := posixpath.dirname(path)) > len(root) and path not in opened:
            opened.add(path)
    return {path: folder for path, folder in found.items() if path not in opened}


def fixed_part(pattern: str) -> str:
    """The folder that a pattern begins in."""
    return posixpath.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0])


def _matches_there(system: Any, pattern: str) -> dict[str, bool]:
    return {str(path): info["type"] == "directory" for path, info in system.glob(pattern, detail=True).items()}


def _matches_here(pattern: str) -> dict[str, bool]:
    """As fsspec matches, which follows no links."""
    from fsspec.utils import glob_translate

    glob_translate(pattern)  # refuses ** beside other signs
    head, deep, tail = f"{pattern}/".partition("/**/")
    if not deep:
        return {path: os.path.isdir(path) for path in glob.glob(pattern)}  # noqa: PTH112, PTH207 - plain strings
    import fsspec

    system, match = fsspec.filesystem("file"), re.compile(glob_translate(f"**/{tail}".rstrip("/"))).match
    bases = [base for base in glob.glob(head or "/") if os.path.isdir(base)]  # noqa: PTH112, PTH207
    return {posixpath.join(base, name): folder for base in bases for name, folder in walk(system, base) if match(name)}
