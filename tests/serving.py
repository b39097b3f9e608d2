"""Services over real HTTP, in a thread or in a process of their own, for the tests of `humanpref.serve`."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx

from humanpref.serve.app import create_app
from humanpref.serve.config import ServeConfig
from humanpref.serve.fetch import Fetcher
from humanpref.serve.keys import ApiKeys
from humanpref.serve.models import ModelOptions, ServedModel, load_models
from humanpref.serve.server import Server, bind, make_server
from tests.toys import picture


def png(seed: int = 0, width: int = 48, height: int = 40) -> bytes:
    buffer = BytesIO()
    picture(width, height, seed).save(buffer, "PNG")
    return buffer.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body(*contents: bytes, prompt: str = "a lighthouse", **more: Any) -> dict[str, Any]:
    """The JSON of a request."""
    return {"prompt": prompt, "images": [{"data": b64(content)} for content in contents], **more}


def soon(holds: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether it holds within so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Served:
    """A service and a plain client of it."""

    def __init__(self, url: str, app: Any, server: Server, thread: threading.Thread) -> None:
        self.url = url
        self.app, self.server, self.thread = app, server, thread
        self.service = app.state.service
        self.http = httpx.Client(base_url=url, timeout=30)
        self.port = int(url.rpartition(":")[2])

    def score(self, *contents: bytes, **more: Any) -> httpx.Response:
        return self.http.post("/v1/score", json=body(*contents, **more))

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def metric(self, name: str, **labels: str) -> float:
        found: float | None = self.service.metrics.registry.get_sample_value(f"humanpref_{name}", labels)
        return found or 0.0


@contextmanager
def serving(
    models: dict[str, ServedModel] | None = None,
    config: ServeConfig | None = None,
    keys: ApiKeys | None = None,
    fetcher: Fetcher | None = None,
    port: int = 0,
) -> Iterator[Served]:
    """Serve models (lite by default) on a port of this machine (0: a free one), in a thread."""
    app = create_app(models or load_models([ModelOptions("lite")]), config, keys, fetcher=fetcher)
    taken = bind("127.0.0.1", port)
    server = make_server(app, app.state.service.config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    served = Served(f"http://127.0.0.1:{taken.getsockname()[1]}", app, server, thread)
    try:
        yield served
    finally:
        served.http.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


COMMAND = ("-m", "humanpref.cli")


class Process:
    """`humanpref serve` as a user starts it."""

    def __init__(self, *options: str, program: Sequence[str] = COMMAND, **environment: str) -> None:
        run = [sys.executable, *program, "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            run, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self.process.stderr is not None
        self.said = ""
        self.url = ""
        while not self.url and (line := self.process.stderr.readline()):
            self.said += line
            if found := re.search(r"at (http://\S+);", line):
                self.url = found[1]
        self.port = int(self.url.rpartition(":")[2]) if self.url else 0

    def wait_ready(self) -> None:
        for _ in range(400):
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("not ready")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self, seconds: float = 20) -> int:
        """Wait for its end -> its exit status; what it said is in `said`."""
        out, err = self.process.communicate(timeout=seconds)
        self.said += err
        assert out == ""
        return self.process.returncode


@contextmanager
def process(*options: str, program: Sequence[str] = COMMAND, **environment: str) -> Iterator[Process]:
    started = Process(*options, program=program, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


def files_of(folder: Path, count: int) -> list[Path]:
    found = []
    for seed in range(count):
        path = folder / f"{seed}.png"
        path.write_bytes(png(seed, 60 + seed, 50))
        found.append(path)
    return found
