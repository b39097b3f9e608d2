"""Scores that were computed once: one SQLite file, keyed by the scorer's identity, the image's bytes and the prompt.

A cache that cannot be written never stops scoring: it stands aside and says why in `ScoreCache.trouble`.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeAlias

from humanpref.errors import CacheError

VERSION = 1
APPLICATION_ID = 0x68505343  # "hPSC", in the file's header: tells a score cache from any other SQLite file
BUSY_SECONDS = 30.0
"""How long another process is waited for."""

SCHEMA = (
    "CREATE TABLE scorers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, identity TEXT NOT NULL UNIQUE,"
    " first_used TEXT NOT NULL, last_used TEXT NOT NULL)",
    "CREATE TABLE scores (scorer INTEGER NOT NULL, image BLOB NOT NULL, prompt BLOB NOT NULL, score REAL NOT NULL,"
    " PRIMARY KEY (scorer, image, prompt)) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_MEND = "remove it with: humanpref cache clear; or go without: --no-cache"
_ELSEWHERE = "set HUMANPREF_CACHE to a place that can be written, or use --no-cache"

Key: TypeAlias = "tuple[str, bytes, bytes]"
"""Identity of the scorer, SHA-256 of the image's bytes, SHA-256 of the prompt."""


@dataclass(frozen=True)
class CachedCount:
    """The scores kept of one scorer as it was set up; dates are ISO 8601, UTC."""

    name: str
    identity: str
    scores: int
    first_used: str
    last_used: str


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds; `bytes` on disk."""

    path: Path
    bytes: int
    scores: int
    scorers: tuple[CachedCount, ...]


def default_path() -> Path:
    """`$HUMANPREF_CACHE`, else `humanpref/scores.sqlite` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if place := os.environ.get("HUMANPREF_CACHE"):
        return Path(os.path.expanduser(place))  # noqa: PTH111 - Path.expanduser raises where there is no home
    root = os.environ.get("XDG_CACHE_HOME", "")
    folder = root if os.path.isabs(root) else os.path.expanduser("~/.cache")  # noqa: PTH111, PTH117
    return Path(folder) / "humanpref" / "scores.sqlite"


class ScoreCache:
    """A file of scores. Several processes of one machine may use it at once, and any of them may be killed.

    Scores that were put are on disk after `flush`, which takes the write lock for a moment. Where the place cannot be
    read or written, nothing is found and nothing is kept, and `trouble` says why in one line.
    Raises `CacheError` for a file that is damaged, of another version, or no score cache.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self.trouble: str | None = None
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}  # of the identities that were used
        self._used: set[str] = set()  # since the last flush
        self._pending: dict[Key, float] = {}
        self._database: sqlite3.Connection | None = None
        with self._lending():
            self._database = _connect(self.path)

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """How many scores are not yet on disk."""
        return len(self._pending)

    def use(self, name: str, identity: str) -> None:
        """Note that a scorer is used now; to be called before scores of that identity are put."""
        with self._lock:
            self._names[identity] = name
            self._used.add(identity)

    def get(self, key: Key) -> float | None:
        """Return the score of a key, None where there is none. Raises `CacheError` for a damaged file."""
        with self._lock, self._lending():
            if key in self._pending:
                return self._pending[key]
            if self._database is not None:
                found = self._database.execute(
                    "SELECT score FROM scores WHERE scorer = (SELECT id FROM scorers WHERE identity = ?)"
                    " AND image = ? AND prompt = ?",
                    key,
                ).fetchall()  # to the end, or the read lock would be kept
                return float(found[0][0]) if found else None
        return None

    def put(self, key: Key, score: float) -> None:
        """Keep the score of a scorer in `use`: on disk with the next `flush`; one that is not finite is not kept."""
        with self._lock:
            if self._database is not None and math.isfinite(score):
                self._pending[key] = float(score)

    def flush(self) -> None:
        """Write what is pending, in one short transaction. Never raises: see `trouble`."""
        with self._lock:
            try:
                with self._lending():
                    self._write()
            except CacheError as error:  # damaged since it was opened: scoring goes on
                self._give_up(str(error))

    def info(self) -> CacheInfo:
        """Count what is kept. Raises `CacheError` where it cannot be read."""
        self.flush()
        counts: list[CachedCount] = []
        with self._lock, self._lending():
            if self._database is not None:
                rows = self._database.execute(
                    "SELECT name, identity, (SELECT COUNT(*) FROM scores WHERE scorer = id), first_used, last_used"
                    " FROM scorers ORDER BY name, first_used, identity"
                )
                counts = [CachedCount(*row) for row in rows]
        self._refuse_trouble()
        size = sum(file.stat().st_size for file in _files(self.path) if file.exists())
        return CacheInfo(self.path, size, sum(count.scores for count in counts), tuple(counts))

    def clear(self, scorer: str | None = None) -> int:
        """Remove the scores of the scorers of this name, or all -> how many. Raises `CacheError` where it cannot."""
        self.flush()
        removed = 0
        with self._lock, self._lending():
            if self._database is not None:
                with _transaction(self._database) as database:
                    removed = database.execute(
                        "DELETE FROM scores WHERE scorer IN (SELECT id FROM scorers WHERE name = coalesce(?, name))",
                        (scorer,),
                    ).rowcount
                    database.execute("DELETE FROM scorers WHERE name = coalesce(?, name)", (scorer,))
                with suppress(sqlite3.OperationalError):  # another process is at work: the space is used again later
                    self._database.execute("VACUUM")
                    self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._refuse_trouble()
        return removed

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        self.flush()
        with self._lock:
            self._release()

    def _write(self) -> None:
        identities = self._used | {key[0] for key in self._pending}
        if self._database is None or not identities:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with _transaction(self._database) as database:
            database.executemany(  # each time, because another process may have cleared the table
                "INSERT INTO scorers (identity, name, first_used, last_used) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (identity) DO UPDATE SET last_used = excluded.last_used",
                [(identity, self._names[identity], now, now) for identity in identities],
            )
            database.executemany(  # or have been first with this score: its own stays
                "INSERT OR IGNORE INTO scores SELECT id, ?, ?, ? FROM scorers WHERE identity = ?",
                [(image, prompt, score, identity) for (identity, image, prompt), score in self._pending.items()],
            )
        self._pending.clear()
        self._used.clear()

    @contextmanager
    def _lending(self) -> Iterator[None]:
        """Stand aside when the place does not work; name the error when the file is not what it should be."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            self._give_up(f"{self.path}: no scores are kept, because the cache cannot be used ({error}); {_ELSEWHERE}")
        except sqlite3.DatabaseError as error:
            raise CacheError(f"{self.path}: the score cache is damaged ({error}); {_MEND}") from None

    def _give_up(self, why: str) -> None:
        self.trouble = why
        self._pending.clear()
        self._release()

    def _release(self) -> None:
        with suppress(sqlite3.Error):
            if self._database is not None:
                self._database.close()
        self._database = None

    def _refuse_trouble(self) -> None:
        if self.trouble is not None:
            raise CacheError(self.trouble)


def discard(path: Path) -> Path | None:
    """Remove a cache that cannot be opened -> None, or where it was put if it may never have been one.

    Raises `CacheError` for a sound SQLite file of another program, which is left alone.
    """
    with path.open("rb") as file:
        head = file.read(72)
    ours = head[68:] == APPLICATION_ID.to_bytes(4, "big")
    aside = path.with_name(f"{path.name}.damaged")
    if not ours and (head.startswith(b"SQLite format 3\0") or aside.exists()):
        raise CacheError(
            f"{path}: may not be a score cache; remove it by hand, or set HUMANPREF_CACHE to another place"
        )
    for file_path, target in zip(_files(path), _files(aside), strict=True):
        with suppress(FileNotFoundError):  # a stale -wal beside a new database would be played back into it
            file_path.unlink() if ours else file_path.rename(target)
    return None if ours else aside


def _files(path: Path) -> list[Path]:
    """The files of a database: SQLite keeps two more beside it while it is in use."""
    return [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm")]


def _connect(path: Path) -> sqlite3.Connection:
    """Open a cache, making it if need be. Raises `CacheError` and what SQLite raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if _is_empty(database):
            with _transaction(database):
                for statement in SCHEMA if _is_empty(database) else ():  # another process may have been first
                    database.execute(statement)
        if _pragma(database, "application_id") != APPLICATION_ID:
            raise CacheError(f"{path}: is not a score cache; set HUMANPREF_CACHE to another place, or use --no-cache")
        if (version := _pragma(database, "user_version")) != VERSION:
            raise CacheError(f"{path}: the score cache is of version {version}, not {VERSION}; {_MEND}")
        with suppress(sqlite3.OperationalError):  # it may be read-only, or another process is doing this
            database.execute("PRAGMA journal_mode = WAL").fetchall()  # readers and a writer do not wait for each other
        database.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing
    except BaseException:
        database.close()
        raise
    return database


def _is_empty(database: sqlite3.Connection) -> bool:
    return not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchall()[0][0])


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has done so itself after some errors
            database.execute("ROLLBACK")
        raise
