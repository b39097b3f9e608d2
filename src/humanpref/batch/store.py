"""The output of a batch run: its lock, what it was made with, its parts. One run at a time writes it.

A part appears under its name whole or not at all: on a local file system it is written beside, brought to the disk and
renamed; an object store shows an object when all of it has arrived; elsewhere it is moved into place.
"""

from __future__ import annotations

import errno
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from humanpref.batch.parts import piece_name, read_counts
from humanpref.batch.places import failing_with_name, filesystem, is_local, kind_at, protocols, watched
from humanpref.batch.records import BatchError, Counts, Shard
from humanpref.errors import DataError
from humanpref.files import HeldError, hold, remove_parts, sync, whole

ABOUT, SUCCESS, LOCK = "_batch.json", "_SUCCESS", ".lock"
"""Names that readers of Parquet folders pass over."""

VERSION = 3
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oci", "hf", "memory"})
"""File systems on which a file is there when it is whole."""

READS_AT_ONCE = 16


def check_out(out: str) -> None:
    """Refuse an output in a repository of the Hub; keep its client from showing a bar for each part in a bucket."""
    system, path = filesystem(out)
    if "hf" not in protocols(system):
        return
    if not path.startswith("buckets/"):
        raise BatchError(
            f"{out}: a repository of the Hub keeps each part as a commit of its own; write to hf://buckets/OWNER/NAME/..."
            " or a local folder, and upload that (hf upload OWNER/NAME FOLDER --repo-type dataset)"
        )
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


class ScoreFolder:
    """The folder; a local one is held by a lock that the system lets go of when this process ends, however it ends."""

    def __init__(self, out: str) -> None:
        self.out = out
        self._system, self._path = filesystem(out)
        self.is_local = is_local(self._system)
        self._lock: IO[bytes] | None = None
        with self._writing():
            self._check_is_ours()
            if OBJECT_STORES.isdisjoint(protocols(self._system)):  # they have no folders; it would make a bucket
                self._system.makedirs(self._path, exist_ok=True)
            if self.is_local:
                self._lock = hold(Path(self._path) / LOCK)
                remove_parts(Path(self._path))

    def __enter__(self) -> ScoreFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def agree(self, settings: Mapping[str, Any], shards: Sequence[Shard]) -> None:
        """Check that this run goes on with what is here, and note it. Shards may be added.

        Raises `BatchError` naming what differs, or the shard that is gone or has changed.
        """
        about = self._read_about()
        now = {shard.name: shard.state for shard in shards}
        identities = None
        if about is not None:
            self._compare(about["settings"], settings)
            for name, state in about["shards"].items():
                if name not in now:
                    raise BatchError(f"{self.out}: was made with the shard {name}, too, which is not in the input now")
                if now[name] != state:
                    raise BatchError(
                        f"{name}: has changed since {self.out} was begun (from {state} to {now[name]}); "
                        "choose another OUT"
                    )
            identities = about["identities"]
        self.about: dict[str, Any] = {
            "version": VERSION,
            "settings": dict(settings),
            "identities": identities,
            "shards": now,
        }
        if self.about != about:
            self._write_about()

    def agree_on_scorers(self, identities: Sequence[str]) -> None:
        """Check that a part was scored as all others were, by the scorers' identities. Raises `BatchError`."""
        was = self.about["identities"]
        if was == list(identities):
            return
        if was is not None:
            raise BatchError(
                f"{self.out}: holds scores of other scorers: {_difference(was, identities)}; choose another OUT"
            )
        self.about["identities"] = list(identities)
        self._write_about()

    def finished(self) -> set[str]:
        """The names of the parts that are there."""
        return parts_in(self.out)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place, whole or not at all. Raises `DataError` where that fails."""
        path = posixpath.join(self._path, name)
        with self._writing():
            if self.is_local:
                with whole(Path(path)) as part:
                    part.write_bytes(content)
                    sync(part)
                sync(Path(self._path))
            elif not OBJECT_STORES.isdisjoint(protocols(self._system)):
                self._system.pipe_file(path, content)
            else:
                aside = posixpath.join(self._path, f".{name}.part")
                self._system.pipe_file(aside, content)
                self._system.mv(aside, path)

    def unfinish(self) -> None:
        """Take the mark of a complete output away: more is going to be made."""
        path = posixpath.join(self._path, SUCCESS)
        with failing_with_name(self.out, "cannot be written"):
            if kind_at(self._system, path) is not None:
                self._system.rm_file(path)

    def finish(self, totals: Mapping[str, Any]) -> None:
        """Mark the output as complete; the mark holds its totals."""
        self.put(SUCCESS, json.dumps(totals, indent=1, ensure_ascii=False).encode())

    def count(self, names: Iterable[str]) -> tuple[Counts, set[str]]:
        """Add up what parts count, with those that come before them -> it, and the names of all.

        Raises `DataError` naming one that is damaged or gone, or cannot be read now.
        """

        def footer(name: str) -> tuple[Counts, int]:
            shown = f"{self.out}/{name}"
            with watched(self._system, posixpath.join(self._path, name), shown) as file:
                return read_counts(file, shown)

        last, there = sorted(names), self.finished()
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            found = list(pool.map(footer, last))
            pieces = {
                piece_name(name, n): name for name, (_, before) in zip(last, found, strict=True) for n in range(before)
            }
            if gone := next((piece for piece in pieces if piece not in there), None):
                raise DataError(
                    f"{self.out}/{gone}: is gone; remove {pieces[gone]}, too, and run the same command again"
                )
            found += pool.map(footer, pieces)
        return sum((counts for counts, _ in found), Counts()), {*last, *pieces}

    def _check_is_ours(self) -> None:
        """Refuse a place that holds something else: a run never writes among files that it did not make."""
        there = kind_at(self._system, self._path)
        if there == "file":
            raise BatchError(f"{self.out}: is a file; OUT names a folder")
        if there is None:
            return
        found = {str(p).rstrip("/") for p in self._system.ls(self._path, detail=False)}
        names = {posixpath.basename(p) for p in found - {self._path.rstrip("/")}}  # a store may list the folder itself
        # the note of the run is written first, and a run may be killed while it is
        left = {name for name in names if name == LOCK or (name.startswith(f".{ABOUT}.") and name.endswith(".part"))}
        if names - left and ABOUT not in names:
            raise BatchError(f"{self.out}: holds other files and no {ABOUT}; choose an empty or new folder for OUT")

    def _read_about(self) -> dict[str, Any] | None:
        path = posixpath.join(self._path, ABOUT)
        with failing_with_name(f"{self.out}/{ABOUT}"):
            if kind_at(self._system, path) is None:
                return None
            content = self._system.cat_file(path)
        try:
            about = json.loads(content)
            if about["version"] != VERSION:
                raise BatchError(f"{self.out}: was made by another version of this program; choose another OUT")
            kept = {name: about[name] for name in ("version", "settings", "identities", "shards")}
            _check_kinds(kept)
            return kept
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{self.out}/{ABOUT}: is damaged; choose another OUT") from None

    def _write_about(self) -> None:
        self.put(ABOUT, json.dumps(self.about, indent=1, ensure_ascii=False).encode())

    def _compare(self, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name in dict.fromkeys((*was, *now)):
            if was.get(name) != now.get(name):
                what, old, new = _innermost(name.replace("_", " "), was.get(name), now.get(name))
                raise BatchError(
                    f"{self.out}: holds another run: {what} was {_short(old)}, is now {_short(new)}; choose another OUT"
                )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what fails when files are written into a line."""
        with failing_with_name(self.out, "cannot be written"):
            try:
                yield
            except HeldError as error:
                raise BatchError(
                    f"{self.out}: another run is writing there ({error}); wait for it, or end it"
                ) from None
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    raise
                raise DataError(
                    f"{self.out}: the disk is full; what was scored is kept: make room and run the same command again"
                ) from None


def parts_in(out: str) -> set[str]:
    """The names of the parts in an output, which need not be there."""
    system, path = filesystem(out)
    with failing_with_name(out):
        system.invalidate_cache()
        found = system.ls(path, detail=False) if kind_at(system, path) == "directory" else []
    names = (posixpath.basename(str(path).rstrip("/")) for path in found)
    return {name for name in names if name.endswith(".parquet") and not name.startswith((".", "_"))}


def _check_kinds(about: Mapping[str, Any]) -> None:
    """Raise `TypeError` where the file does not hold what `agree` wrote."""
    settings, identities, shards = about["settings"], about["identities"], about["shards"]
    strings = identities is None or (isinstance(identities, list) and all(isinstance(x, str) for x in identities))
    states = isinstance(shards, dict) and all(isinstance(state, str) for state in shards.values())
    if not (isinstance(settings, dict) and strings and states):
        raise TypeError("of another kind")
    if not all(isinstance(model, dict) for model in settings["models"]):
        raise TypeError("of another kind")


def _innermost(name: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Where two settings of a name differ: of models called the same, the option (`decode of hps-v2.1`)."""
    if name == "models" and isinstance(was, list):
        old, new = ([model.get("name") for model in models] for models in (was, now))
        if old != new:
            return name, old, new
        before, after = next(pair for pair in zip(was, now, strict=True) if pair[0] != pair[1])
        option = next(key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key))
        return f"{option} of {after['name']}", before.get(option), after.get(option)
    return name, was, now


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]


def _difference(was: Sequence[str], now: Sequence[str]) -> str:
    """What differs in the identities of two lists of scorers, as `device was cuda, is now cpu`."""
    for before, after in zip(was, now, strict=False):
        old, new = (dict(word.partition("=")[::2] for word in text.split()) for text in (before, after))
        for name in dict.fromkeys((*old, *new)):
            if old.get(name) != new.get(name):
                scorer = new.get("scorer", "")
                return f"{name} of {scorer} was {str(old.get(name))[:40]}, is now {str(new.get(name))[:40]}"
    return f"{len(was)} scorers then, {len(now)} now"
