"""The images API against a real server that is busy, broken, silent, offended, or lies."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from humanpref.generate import GenerateError, GenerateReport, Prompt, generate, make_backend
from tests.generating import command, contents, one_line, rows
from tests.toys import picture


def png() -> bytes:
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # with 5, the sixth of those that come at once is heard a second later

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.asked: list[tuple[float, dict[str, Any], str | None]] = []
        self.lock = threading.Lock()
        self.working = self.most_working = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Api(BaseHTTPRequestHandler):
    """Does what the prompt says; "busy 2" twice, then it works."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append((time.monotonic(), body, self.headers.get("Authorization")))
            times = sum(one["prompt"] == body["prompt"] for _, one, _ in server.asked)
            server.working += 1
            server.most_working = max(server.most_working, server.working)
        try:
            self.answer(body["prompt"], times)
        except BrokenPipeError:
            pass
        finally:
            with server.lock:
                server.working -= 1

    def answer(self, prompt: str, times: int) -> None:
        word, *rest = prompt.split()
        broken = not rest or not rest[0].isdigit() or times <= int(rest[0])
        good = {"data": [{"b64_json": base64.b64encode(png()).decode()}]}
        if word == "slow":
            time.sleep(0.2)
        if word == "url":
            host = self.headers["Host"] if rest[0] == "here" else rest[0]
            self.send({"data": [{"url": f"http://{host}/image.png"}]})
        elif word == "file":
            self.send({"data": [{"url": "file:///etc/passwd"}]})
        elif word == "refuse":
            self.fail(400, "Your request was rejected by our safety system.", "moderation_blocked")
        elif word == "invalid":
            self.fail(400, "Prompt is too long", "invalid_request")
        elif word == "key":
            self.fail(401, "Incorrect API key provided", "invalid_api_key")
        elif word == "quota":
            self.fail(429, "You exceeded your current quota", "insufficient_quota")
        elif not broken:
            self.send(good)
        elif word == "busy":
            self.fail(429, "Slow down", "rate_limit_exceeded", {"Retry-After": "1.4"})
        elif word == "later":
            self.fail(503, "Overloaded", "overloaded", {"Retry-After": formatdate(time.time() + 2, usegmt=True)})
        elif word == "fault":
            self.fail(500, "Oops", "server_error", {"Retry-After": "0"})
        elif word == "garbage":
            self.send(b"<html>nothing here</html>")
        elif word == "odd":
            self.send({"data": [{"revised_prompt": "?"}]})
        elif word == "text":
            self.send({"data": [{"b64_json": base64.b64encode(b"no image at all").decode()}]})
        elif word == "truncated":
            self.send({"data": [{"b64_json": base64.b64encode(png()[:-300]).decode()}]})
        elif word == "hang":
            time.sleep(6)
        elif word == "drip":
            self.start(200, 10_000)
            for _ in range(60):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        elif word == "drop":
            self.start(200, 10_000)
            self.connection.close()
        else:
            self.send(good)

    def do_GET(self) -> None:
        self.send(png())

    def fail(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        self.send({"error": {"message": message, "code": code, "type": "error"}}, status, headers)

    def send(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.start(status, len(body), headers)
        self.wfile.write(body)

    def start(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def ask(server: Server, out: Path, *texts: str, retries: int = 2, options: str = "") -> GenerateReport:
    backend = make_backend(f"openai:image-1,base_url={server.url}/v1,timeout=2,retries={retries}{options}")
    return generate([Prompt(text, str(n)) for n, text in enumerate(texts)], [backend], out)


def test_images_come_several_at_a_time(server: Server, tmp_path: Path) -> None:
    report = ask(server, tmp_path, *(f"slow 0 {n}" for n in range(12)), options=",concurrency=4,size=1024x1024")
    assert (report.made, server.most_working) == (12, 4)
    row = rows(tmp_path)[0]
    assert (row["width"], row["height"], row["model"], row["revision"]) == (64, 48, "image-1", "unknown")
    assert row["settings"]["base_url"] == f"{server.url}/v1"
    assert row["seconds"] >= 0.2
    _, body, key = server.asked[0]
    assert body == {"model": "image-1", "prompt": body["prompt"], "n": 1, "size": "1024x1024"}
    assert key == "Bearer sk-test"
    assert all(b"sk-test" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_passes_is_tried_again(server: Server, tmp_path: Path) -> None:
    asked = "busy 1", "fault 2", "later 1", "garbage 1", "odd 1", "text 1", "truncated 1", "hang 1", "drip 1", "drop 1"
    report = ask(server, tmp_path, *asked, options=",concurrency=10")
    assert report.made == 10, rows(tmp_path)
    for prompt in asked:
        times = [when for when, body, _ in server.asked if body["prompt"] == prompt]
        assert len(times) == 1 + int(prompt.split()[1]), prompt
        if prompt.startswith("busy"):
            assert times[1] - times[0] >= 1.4  # Retry-After; without it, 1.25 at most
        if prompt.startswith("later"):
            assert times[1] - times[0] >= 0.9  # as a date, which knows whole seconds
    contents(tmp_path)


def test_what_does_not_pass_fails_with_its_reason(server: Server, tmp_path: Path) -> None:
    asked = ["fault 9", "busy 9", "garbage 9", "truncated 9", "hang 9", "drop 9", "fine"]
    report = ask(server, tmp_path, *asked, retries=1, options=",concurrency=7")
    assert (report.made, report.failed, report.refused) == (1, 6, 0)
    reasons = {row["prompt"].split()[0]: row.get("reason", "") for row in rows(tmp_path)}
    assert reasons["fault"] == "500: Oops (2 tries)"
    assert reasons["busy"] == "429: Slow down (2 tries)"
    assert "not what an images API gives" in reasons["garbage"]
    assert "cannot be read" in reasons["truncated"]
    assert reasons["hang"] == "no answer in 2 s (2 tries)"
    assert "connection failed" in reasons["drop"]


def test_refusals_are_answers(server: Server, tmp_path: Path) -> None:
    report = ask(server, tmp_path, "refuse this", "fine", "invalid")
    assert (report.made, report.refused, report.failed) == (1, 1, 1)
    assert len(server.asked) == 3  # none was tried again
    found = {row["prompt"]: (row["status"], row.get("reason")) for row in rows(tmp_path)}
    assert found["refuse this"] == ("refused", "Your request was rejected by our safety system.")
    assert found["invalid"] == ("failed", "400: Prompt is too long")


def test_urls_of_the_api_alone(server: Server, tmp_path: Path) -> None:
    other = Server()
    threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
    there = other.url.removeprefix("http://")
    report = ask(server, tmp_path / "1", "url here", f"url {there}", "file")
    assert (report.made, report.failed) == (1, 2)
    reasons = [row["reason"] for row in rows(tmp_path / "1") if row["status"] == "failed"]
    assert any("allow it (--allow-url)" in reason for reason in reasons)
    assert any("only http and https" in reason for reason in reasons)
    assert ask(server, tmp_path / "2", f"url {there}", options=",allow_url=true").made == 1
    other.shutdown()
    other.server_close()


@pytest.mark.parametrize(("prompt", "said"), [("key", "the key is not accepted"), ("quota", "nothing left to spend")])
def test_what_stops_a_run(server: Server, tmp_path: Path, prompt: str, said: str) -> None:
    with pytest.raises(GenerateError, match=said):
        ask(server, tmp_path, prompt, *(f"slow 0 {n}" for n in range(40)))
    assert len(server.asked) < 20


@pytest.mark.slow
def test_stopping_does_not_wait_and_going_on_asks_only_for_the_rest(server: Server, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(["key", *(f"slow 0 {n}" for n in range(20))]))
    words = ["-b", "openai:image-1", "--base-url", f"{server.url}/v1", "--concurrency", 3, "--out", tmp_path / "out"]
    one_line(command(tmp_path / "p.txt", *words), "the key is not accepted (401: Incorrect API key provided)")
    made = len(rows(tmp_path / "out"))
    (tmp_path / "p.txt").write_text("\n".join(f"slow 0 {n}" for n in range(20)))
    server.asked.clear()
    done = command(tmp_path / "p.txt", *words)
    assert done.returncode == 0, done
    assert len(server.asked) == 20 - made
    assert len(contents(tmp_path / "out")) == 20


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = make_backend("openai:image-1,base_url=http://127.0.0.1:9/v1,retries=0")
    report = generate([Prompt("a cat", "1")], [backend], tmp_path)
    assert (report.made, report.failed) == (0, 1)
    assert rows(tmp_path)[0]["reason"] == "the connection failed (Connection error.) (1 tries)"
