"""A real PostgreSQL server for tests: made in a folder of its own, on a port of its own, gone afterwards."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import skip_or_fail


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if (on_path := shutil.which("initdb")) is not None:
        return Path(on_path).parent
    if not found:
        skip_or_fail("there is no PostgreSQL server (Debian: postgresql)")
    return found[-1]


class Server:
    """A cluster that can be stopped and started again."""

    def __init__(self, folder: Path, binaries: Path, port: int) -> None:
        self.folder, self.binaries, self.port = folder, binaries, port
        # the server refuses to run as root
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.user = "postgres" if self._as else getpass.getuser()

    def run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, str(self.binaries / name), *arguments],
            cwd=self.folder,
            text=True,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server runs
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{name} failed: {log.read_text()[-2000:] if log.exists() else done.returncode}")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += (
            " -c fsync=off"  # nobody pulls the plug of the machine, and a database for each test is much to write
        )
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def create(self, name: str) -> str:
        """Make an empty database -> its URL."""
        import psycopg

        where = f"host=127.0.0.1 port={self.port} user={self.user} dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgres() -> Iterator[Server]:
    """A running server."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="humanpref-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(folder, binaries, port)
    try:
        server.run("initdb", "-D", str(folder / "data"), "-A", "trust", "--no-sync")
        server.start()
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
