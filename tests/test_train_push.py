"""`humanpref push` against a local stand-in for the Hub, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.training import run

LARGE = ".safetensors"


class Hub(BaseHTTPRequestHandler):
    """What the client asks for when it makes a repository and commits to it: small files inside, large ones by LFS."""

    calls: list[str] = []
    repos: set[str] = set()
    files: dict[str, bytes] = {}
    blobs: dict[str, bytes] = {}

    def do_GET(self) -> None:
        self.calls.append(f"GET {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_test":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "ada", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        elif self.path.startswith("/api/models/"):
            known = self.path.split("/api/models/")[1].split("/revision")[0] in self.repos
            self.answer(
                {"id": "ada/model", "sha": "0" * 40, "siblings": []} if known else {"error": "none"},
                200 if known else 404,
            )
        else:
            self.answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.calls.append(f"POST {self.path}")
        host = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
            self.repos.add(name)
            self.answer({"url": f"{host}/{name}", "id": name, "private": asked.get("private", False)})
        elif "/preupload/" in self.path:
            rows = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((LARGE, ".pt")) else "regular", "shouldIgnore": False} for f in rows]})  # fmt: skip
        elif self.path.endswith("/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            upload = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{host}/lfs/{o['oid']}"}}}
                for o in rows
            ]
            self.answer({"transfer": "basic", "objects": upload}, kind="application/vnd.git-lfs+json")
        elif "/commit/" in self.path:
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                if row["key"] == "lfsFile":
                    self.files[row["value"]["path"]] = self.blobs[row["value"]["oid"]]
            self.answer({"commitUrl": f"{host}/ada/model/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.answer({})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.split("/")[-1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.blobs[oid] = body
        self.answer({})

    def answer(self, content: object, status: int = 200, kind: str = "application/json") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    for store in (Hub.calls, Hub.repos, Hub.files, Hub.blobs):
        store.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_test",
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        server.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "humanpref.json").write_text("{}")
    (folder / "README.md").write_text("# card")
    (folder / "open_clip_model.safetensors").write_bytes(bytes(range(256)) * 400)
    return folder


def test_a_dry_run_sends_nothing(hub: dict[str, str], model: Path) -> None:
    done = run("push", model, "--repo", "model", "--dry-run", env=hub)
    assert done.stdout.strip().endswith("/ada/model")
    assert "open_clip_model.safetensors: 102,400 bytes" in done.stderr
    assert "nothing was sent" in done.stderr
    assert Hub.calls
    assert all(call.startswith("GET") for call in Hub.calls)


def test_the_folder_goes_in_one_commit(hub: dict[str, str], model: Path) -> None:
    done = run("push", model, "--repo", "ada/model", "--private", env=hub)
    assert "sent to http://127.0.0.1" in done.stderr
    assert Hub.files == {f.name: f.read_bytes() for f in model.iterdir()}
    assert sum("/commit/" in call for call in Hub.calls) == 1


def test_what_cannot_be_pushed_is_said_in_one_line(hub: dict[str, str], model: Path, tmp_path: Path) -> None:
    refused = run("push", model, "--repo", "model", code=1, env={**hub, "HF_TOKEN": "wrong"})
    assert "the Hub did not take" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "no exported model" in run("push", tmp_path, "--repo", "model", code=1, env=hub).stderr
