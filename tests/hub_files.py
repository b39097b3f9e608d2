"""The Hugging Face Hub as a file system: the endpoints that `HfFileSystem` asks, over real HTTP, and faults on request.

As the Hub does it: a page of the tree links to the next, files lie behind a redirect to another address, errors carry
X-Error-Code and X-Error-Message. What is written to a bucket goes where the Hub says by the real hf_xet, in chunks that are
stored by their hash; here that is a folder, which hf_xet can write, too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

PAGE = 5  # the Hub's is 1,000
NOW = "2026-01-01T00:00:00.000Z"
MADE = {"oid": "0" * 40, "xetHash": None, "mtime": NOW, "lastCommit": {"id": "0" * 40, "title": "add", "date": NOW}}

MISSING = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
NO_ENTRY = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
GATED = {
    "X-Error-Code": "GatedRepo",
    "X-Error-Message": "Access to dataset o/gated is restricted. You must have access to it and be authenticated to "
    "access it. Please log in.",
}


@dataclass
class Fault:
    """What requests whose path matches get in place of their answer, so many times: a status, or half of the answer."""

    path: str
    status: int | None
    times: int = 1_000_000
    headers: dict[str, str] = field(default_factory=dict)


class HubFiles(BaseHTTPRequestHandler):
    """Dataset repositories and buckets by name, each its files by path."""

    protocol_version = "HTTP/1.1"
    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    buckets: ClassVar[dict[str, dict[str, bytes]]] = {}
    chunks: ClassVar[Path]
    faults: ClassVar[list[Fault]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        type(self).asked.append(url.path)
        self.half = False
        for fault in self.faults:
            if fault.times and re.search(fault.path, url.path):
                fault.times -= 1
                if fault.status is not None:
                    return self.answer(b"", fault.status, fault.headers)
                self.half = True
        for pattern, what in self.routes.items():
            if match := re.fullmatch(pattern, url.path):
                files = (self.buckets if "/buckets/" in url.path else self.repositories).get(match["repo"])
                if files is None:
                    return self.answer(b"", 401, MISSING)  # nobody is logged in
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                return what(self, files, {name: unquote(text or "") for name, text in match.groupdict().items()}, query)
        return self.answer(b"", 404)

    def do_POST(self) -> None:
        self.do_GET()

    def about(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        self.json({"id": path["repo"], "sha": "0" * 40, "private": False, "createdAt": NOW, "size": 0, "totalFiles": 0})

    def tree(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        prefix = f"{path['folder']}/" if path["folder"] else ""
        entries: dict[str, dict[str, object]] = {}
        for name, content in files.items():
            if name.startswith(prefix):
                parts = name.removeprefix(prefix).split("/")
                for depth in range(1, len(parts)):
                    folder = prefix + "/".join(parts[:depth])
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
                entries[name] = {"type": "file", "path": name, "size": len(content), **MADE}
        if not entries and "/buckets/" not in self.path:
            return self.answer(b"", 404, NO_ENTRY)
        deep = query.get("recursive", "").lower() == "true"
        found = [entry for name, entry in entries.items() if deep or "/" not in name.removeprefix(prefix)]
        start = int(query.get("cursor", 0))
        more = f"http://{self.headers['Host']}{urlsplit(self.path).path}?" + urlencode(
            {**query, "cursor": start + PAGE}
        )
        links = {"Link": f'<{more}>; rel="next"'} if start + PAGE < len(found) else {}
        return self.json(found[start : start + PAGE], links)

    def paths(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        asked = parse_qs(self.body.decode())["paths"]
        self.json([{"type": "file", "path": n, "size": len(files[n]), **MADE} for n in asked if n in files])

    def resolve(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        if path["file"] not in files:
            return self.answer(b"", 404, NO_ENTRY)
        return self.answer(b"", 302, {"Location": "/cdn" + urlsplit(self.path).path})

    def content(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        content = files[path["file"]]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            start, end = int(first), min(int(last or len(content)) + 1, len(content))
            if start >= len(content):
                return self.answer(b"", 416)
            return self.answer(
                content[start:end], 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            )
        return self.answer(content, 200, headers)

    def token(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        expires = int(time.time()) + 3600
        self.json({"casUrl": f"local://{self.chunks}", "accessToken": "token", "exp": expires})

    def batch(self, files: dict[str, bytes], path: dict[str, str], query: dict[str, str]) -> None:
        for operation in map(json.loads, self.body.splitlines()):
            if operation["type"] == "addFile":
                files[operation["path"]] = stored(self.chunks, operation["xetHash"])
            else:
                del files[operation["path"]]
        self.json({"success": True, "processed": 1, "succeeded": 1, "failed": []})

    routes: ClassVar[dict[str, Callable[..., None]]] = {
        r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?": about,
        r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?": tree,
        r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)": paths,
        r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)": resolve,
        r"/api/buckets/(?P<repo>[^/]+/[^/]+)": about,
        r"/api/buckets/(?P<repo>[^/]+/[^/]+)/tree(/(?P<folder>.*))?": tree,
        r"/api/buckets/(?P<repo>[^/]+/[^/]+)/xet-write-token": token,
        r"/api/buckets/(?P<repo>[^/]+/[^/]+)/batch": batch,
        r"/buckets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<file>.+)": resolve,
        r"/cdn/(datasets|buckets)/(?P<repo>[^/]+/[^/]+)/resolve/(main/)?(?P<file>.+)": content,
    }

    def json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json", **(headers or {})})

    def answer(self, body: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.half else body)
        if self.half:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def stored(chunks: Path, digest: str) -> bytes:
    """What hf_xet stored, put together again: of a copy, since the process that stored it keeps it locked."""
    import hf_xet

    with TemporaryDirectory() as folder:
        copy = shutil.copytree(chunks, Path(folder, "chunks"))
        group = hf_xet.XetSession().new_download_stream_group(
            endpoint=f"local://{copy}", token="token", token_expiry_unix_secs=int(time.time()) + 3600
        )
        return b"".join(group.download_stream(hf_xet.XetFileInfo(digest)))


@contextmanager
def serving_files(folder: Path) -> Iterator[tuple[type[HubFiles], str]]:
    """Serve -> the Hub's handler, whose class attributes are what it serves, and its address."""

    class Hub(HubFiles):
        repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
        buckets: ClassVar[dict[str, dict[str, bytes]]] = {}
        chunks = folder / "chunks"
        faults: ClassVar[list[Fault]] = []
        asked: ClassVar[list[str]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield Hub, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
