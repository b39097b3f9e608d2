"""Reaching the database: SQLite in WAL mode or PostgreSQL by URL, short transactions, migrations by Alembic."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from humanpref.annotate.records import AnnotateError
from humanpref.errors import DataError, MissingExtraError

try:
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import exc
except ImportError as error:
    raise MissingExtraError(f'annotation needs {error.name}: pip install "humanpref[annotate]"') from None

BUSY_SECONDS = 20
ATTEMPTS = 12
_WAITED_IN_A_CIRCLE = ("40P01", "40001")  # PostgreSQL's deadlock and serialization failure
T = TypeVar("T")


class UnreachableError(AnnotateError):
    """The database cannot be reached, or is locked for too long: worth trying again."""

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message)


class ConflictError(Exception):
    """Another transaction was first; the same again finds another way. `Database.attempt` does it again."""


class Database:
    """An engine and its two kinds of transaction. Safe to use from several threads, and by several servers at once."""

    def __init__(self, url: str) -> None:
        self.url = database_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        # SQLite lets one write at a time and others ask again and again; threads of one server had better queue
        self._turn = threading.Lock() if self.is_sqlite else None
        options: dict[str, Any] = {"pool_size": 10, "max_overflow": 30, "pool_timeout": BUSY_SECONDS}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": BUSY_SECONDS}
        else:
            options |= {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
        try:
            self.engine = sa.create_engine(self.url, **options)
        except ImportError as error:
            raise MissingExtraError(f'{self} needs {error.name}: pip install "humanpref[postgres]"') from None
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _set_up_sqlite)

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._reached(), self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction on the disk when it ends; one writer at a time in SQLite, by row locks in PostgreSQL."""
        with self._waited(), self._reached(), self.engine.connect() as connection:
            if self.is_sqlite:
                # taken at once, because a reader that becomes a writer cannot wait for another one
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def attempt(self, work: Callable[[sa.Connection], T]) -> T:
        """Do work in a write transaction, again where another was first. Raises `UnreachableError` after many tries."""
        for _ in range(ATTEMPTS):
            try:
                with self.write() as connection:
                    return work(connection)
            except (exc.IntegrityError, ConflictError):
                continue
        raise UnreachableError("too many people at once; try again")

    @contextmanager
    def _waited(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise UnreachableError(f"{self}: is too busy")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError:
            raise UnreachableError(f"{self}: is too busy") from None
        except (exc.OperationalError, exc.InterfaceError) as error:
            if getattr(error.orig, "sqlstate", None) in _WAITED_IN_A_CIRCLE:
                raise ConflictError from None
            cause = " ".join(str(error.orig).split())[:160]
            raise UnreachableError(f"{self}: cannot be used now ({cause})") from None
        except exc.DatabaseError as error:
            if isinstance(error, exc.IntegrityError):
                raise
            cause = " ".join(str(error.orig).split())[:160]
            raise DataError(f"{self}: is not a database of this program, or is damaged ({cause})") from None

    def exists(self) -> bool:
        """Is there anything to connect to? (SQLite would make an empty file.) Of a server it is not known yet."""
        return not self.is_sqlite or Path(str(self.url.database)).is_file()

    def upgrade(self) -> None:
        """Make the tables, or bring those of an older version up to date; what is in them stays."""
        with self.write() as connection:
            config = _alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def version(self) -> tuple[str | None, str | None]:
        """Return the version of the tables (None: there are none) and the one this program knows."""
        with self.read() as connection:
            now = MigrationContext.configure(connection).get_current_revision()
        return now, ScriptDirectory.from_config(_alembic()).get_current_head()

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def database_url(url: str) -> sa.URL:
    """Read a URL (sqlite:///FILE, postgresql://USER@HOST/NAME), or the name of an SQLite file. Raises `DataError`."""
    if "://" not in url:
        return sa.URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        found = sa.make_url(url)
    except exc.ArgumentError:
        raise DataError("the database's URL cannot be read; it is like postgresql://USER@HOST/NAME") from None
    backend = found.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise DataError(
            f"{backend}: only SQLite and PostgreSQL are known (sqlite:///FILE, postgresql://USER@HOST/NAME)"
        )
    if backend == "sqlite" and not found.database:
        raise DataError("an SQLite database needs a file: sqlite:///FILE")
    return found.set(drivername="postgresql+psycopg") if backend == "postgresql" else found


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `read` and `write` say
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
