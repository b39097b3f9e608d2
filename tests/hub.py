"""A local stand-in for the Hugging Face Hub, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


class FakeHub(BaseHTTPRequestHandler):
    """The Hub's file endpoint over real HTTP: metadata headers, ranges, and a connection that can break half-way."""

    content = b"0123456789" * 2_500_000  # the client writes 10 MB at a time
    commit = "697403c78157020a1ae59d23f111aa58ced35b0a"
    break_after: int | None = None
    stall_after: int | None = None
    ranges: list[str | None] = []

    def do_HEAD(self) -> None:
        self.headers_for(len(self.content), 200)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.headers_for(len(self.content) - start, 206 if asked else 200, start)
        body = self.content[start:]
        if self.break_after is not None and not asked:
            self.wfile.write(body[: self.break_after])
            self.connection.close()
            return
        if self.stall_after is not None:
            self.wfile.write(body[: self.stall_after])
            self.wfile.flush()
            time.sleep(4)
            return
        self.wfile.write(body)

    def headers_for(self, length: int, status: int, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if status == 206:
            total = len(self.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class FakeDatasetHub(FakeHub):
    """A dataset repository: the list of its files at a commit, and each of them."""

    files: ClassVar[dict[str, bytes]] = {}
    lies: ClassVar[dict[str, bytes]] = {}  # what is sent in place of what is listed
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            type(self).asked.append(self.path)
            super().do_GET()
        elif match := re.fullmatch(r"/api/datasets/(.+)/revision/([0-9a-f]{40})\?blobs=.*", self.path):
            type(self).asked.append(self.path)
            self.answer(json.dumps({"id": match[1], "sha": match[2], "siblings": [*map(self.entry, self.files)]}))
        else:
            self.send_error(404)

    def entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return {"rfilename": name, "size": len(content), "blobId": "0" * 40, "lfs": lfs}

    def answer(self, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    @property
    def commit(self) -> str:
        return self.path.split("/resolve/")[1].split("/")[0]

    @property
    def content(self) -> bytes:
        name = self.path.split("/resolve/")[1].split("/", 1)[1]
        return self.lies.get(name, self.files[name])


@contextmanager
def serving(handler: type[FakeHub], folder: Path) -> Iterator[dict[str, str]]:
    """Serve, and give the environment that sends the Hub client there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        }
        server.shutdown()
