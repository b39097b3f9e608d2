"""From words (files, globs, folders, URLs) to shards: which files are the input, and of which kind each is."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from humanpref.batch.places import failing_with_name, filesystem, is_local, kind_at, nothing_at
from humanpref.batch.read_folder import digest, is_image
from humanpref.batch.records import Reading, Shard
from humanpref.batch.walk import files_below, is_hidden, is_pattern, matches
from humanpref.errors import DataError
from humanpref.images import natural

KINDS = {
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv",
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar",
}  # fmt: skip
"""The kind of a shard by the ending of its name."""

PACKED = frozenset({".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip"})
"""Endings of shards that cannot be read as they are."""

MANIFEST, RUN = "manifest.jsonl", "run.json"  # what `humanpref generate` leaves beside its images


def kind_of(name: str) -> str | None:
    """The kind of a shard of this name, None for anything else."""
    lower = name.lower()
    return next((kind for suffix, kind in KINDS.items() if lower.endswith(suffix)), None)


def _is_packed_shard(name: str) -> bool:
    stem, ending = posixpath.splitext(name.lower())
    return ending in PACKED and kind_of(name) is None and kind_of(stem) is not None and not is_hidden(name)


def find_shards(words: Sequence[str], reading: Reading) -> list[Shard]:
    """Return the shards that words stand for, in the order given; those of a folder or glob in natural order.

    A folder stands for the shards in it and below it; without any, for the images in it and below it; a folder of
    `humanpref generate` for its manifest; a glob for the files and folders that it matches. Links to folders are
    followed; names that begin with . or _ are left out (images may begin with _). Raises `DataError` where there is
    nothing, shards of several kinds, or packed ones beside others.
    """
    shards: list[Shard] = []
    for word in words:
        with failing_with_name(word):
            shards += _expand(word, reading)
    if len(kinds := sorted({shard.kind for shard in shards})) > 1:
        raise DataError(
            f"the input is of several kinds ({', '.join(kinds)}); score each kind by itself, into its own OUT"
        )
    names = [shard.name for shard in shards]
    for name in names:
        if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
            raise DataError(f"{shown}: the name is not in UTF-8, as the output's must be; rename it")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{twice}: is named twice; name each file once")
    return shards


def _expand(word: str, reading: Reading) -> list[Shard]:
    if not word or "\0" in word:
        raise DataError(f"{word[:80]!r}: not a possible file name")
    system, path = filesystem(word)
    there = kind_at(system, path)
    if there == "file":
        if (kind := kind_of(path)) is None:
            raise DataError(f"{word}: unknown kind of file (known: {', '.join(KINDS)}, and folders)")
        return [_file(system, path, word, kind, reading)]
    if there == "directory":
        return _folder(system, path, word, reading)
    if is_pattern(word):
        found = matches(system, path)
        if not found:
            raise DataError(f"{word}: nothing matches this pattern")
        shards: list[Shard] = []
        for one in sorted(found, key=natural):
            name = _as_given(system, path, word, one)
            if found[one]:
                shards += _folder(system, one, name, reading)
            elif (kind := kind_of(one)) is None:
                raise DataError(f"{word}: matches {one}, which is none of {', '.join(KINDS)}; narrow the pattern")
            else:
                shards.append(_file(system, one, name, kind, reading))
        return shards
    raise DataError(nothing_at(word))


def _folder(system: Any, path: str, word: str, reading: Reading) -> list[Shard]:
    word = word.rstrip("/") or word
    manifest = posixpath.join(path, MANIFEST)
    if all(kind_at(system, p) == "file" for p in (manifest, posixpath.join(path, RUN))):
        return [_file(system, manifest, f"{word}/{MANIFEST}", "jsonl", reading)]
    names = set(files_below(system, path))
    shards = (posixpath.join(path, name) for name in names if kind_of(name) and not is_hidden(name))
    found = sorted(shards, key=natural)
    kinds = sorted({str(kind_of(p)) for p in found})
    if len(kinds) > 1:
        raise DataError(
            f"{word}: holds {' and '.join(kinds)} files; name those that are the input ({word}/*.{kinds[0]})"
        )
    if found:
        if packed := sorted(filter(_is_packed_shard, names), key=natural):
            raise DataError(
                f"{word}: holds {packed[0]}, which is packed; unpack it, or name the files that are the input "
                f"({word}/*{posixpath.splitext(found[0])[1]})"
            )
        return [_file(system, p, _as_given(system, path, word, p), kinds[0], reading) for p in found]
    if not (images := sum(map(is_image, names))):
        raise DataError(f"{word}: the folder holds neither shards ({', '.join(KINDS)}) nor images")
    url = path if is_local(system) else system.unstrip_protocol(path)
    return [Shard(word, url, "folder", images, url, digest(names))]


def _file(system: Any, path: str, name: str, kind: str, reading: Reading) -> Shard:
    url = path if is_local(system) else system.unstrip_protocol(path)
    with failing_with_name(name):
        about = system.info(path)
    if about["type"] != "file":
        raise DataError(f"{name}: is no regular file")
    return Shard(name, url, kind, int(about["size"] or 0), reading.image_root or posixpath.dirname(url))


def _as_given(system: Any, path: str, word: str, found: str) -> str:
    """The name of a file that was found, in the user's spelling: what he typed of the folder, and the rest."""
    if not is_local(system):
        return str(system.unstrip_protocol(found))
    fixed = path
    for sign in "*?[":
        fixed, word = fixed.split(sign, 1)[0], word.split(sign, 1)[0]
    folder, typed = (fixed, word) if fixed == path else (posixpath.dirname(fixed), posixpath.dirname(word))
    return posixpath.join(typed, posixpath.relpath(found, folder))
