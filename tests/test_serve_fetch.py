"""Images by URL: only from public addresses, whatever names, redirects and resolvers say."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humanpref.serve.config import ServeConfig
from humanpref.serve.errors import RequestError
from humanpref.serve.fetch import Fetcher, check_url, is_public, resolve
from humanpref.serve.models import ServedModel
from tests.serving import b64, png, serving
from tests.test_serve import SlowScorer, error

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.5.4", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.0.1", "192.0.2.7", "198.18.0.1", "198.51.100.3", "203.0.113.9", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::a00:1",
    "2002:7f00:1::", "2001:0:0:0:0:0:0:1", "nonsense", "",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_mapped_into_ipv6_is_as_public_as_itself(address: ipaddress.IPv4Address) -> None:
    assert is_public(str(address)) == is_public(f"::ffff:{address}")
    if not address.is_global or address.is_multicast:
        assert not is_public(str(address))


@contextmanager
def website(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[int, list[str]]]:
    """A web server on this machine -> its port, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['host']} {self.path}")
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # a connection over it is tried again after a second

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


def give(handler: BaseHTTPRequestHandler, status: int, content: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def routes(handler: BaseHTTPRequestHandler) -> None:
    port = handler.server.server_port  # type: ignore[attr-defined]
    path = handler.path.partition("?")[0]
    if path == "/a.png":
        give(handler, 200, png(1))
    elif path == "/large":
        give(handler, 200, bytes(60_000))
    elif path == "/heavy":
        give(handler, 200, png(1) + bytes(40_000))  # what follows a PNG's end is not read
    elif path == "/second":
        time.sleep(1)
        give(handler, 200, png(1))
    elif path == "/gzip":
        give(handler, 200, b"x", Content_Encoding="gzip")
    elif path == "/here":
        give(handler, 302, Location="/a.png")
    elif path == "/inside":
        give(handler, 302, Location=f"http://inside.example:{port}/a.png")
    elif path == "/file":
        give(handler, 302, Location="file:///etc/passwd")
    elif path == "/odd":
        give(handler, 302, Location="http://[x")
    elif path == "/round":
        give(handler, 302, Location="/round")
    elif path == "/slow":
        time.sleep(3)
    else:
        give(handler, 404)


NAMES = {
    "public.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"], "both.example": ["127.0.0.1", "10.0.0.1"],
    "none.example": [],
}  # fmt: skip


async def lookup(host: str, port: int) -> list[str]:
    """Names of our own: for these tests 127.0.0.1 plays the public internet, 10.0.0.1 the inside."""
    if host not in NAMES:
        raise socket.gaierror("unknown")
    return NAMES[host]


def fetcher(**options: Any) -> Fetcher:
    settings = {"max_bytes": 50_000, "seconds": 1.0, "resolve": lookup, "allowed": lambda a: a == "127.0.0.1"}
    return Fetcher(**(settings | options))


def fetch(url: str, **options: Any) -> bytes:
    async def run() -> bytes:
        one = fetcher(**options)
        try:
            return await one.fetch(url)
        finally:
            await one.close()

    return asyncio.run(run())


def refused(url: str, **options: Any) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        fetch(url, **options)
    return caught.value.code, str(caught.value)


def test_what_is_public_is_fetched_under_its_own_name() -> None:
    with website(routes) as (port, asked):
        assert fetch(f"http://public.example:{port}/a.png?x=1#there") == png(1)
        assert fetch(f"http://public.example:{port}/here") == png(1)
        assert asked[0] == f"public.example:{port} /a.png?x=1"


def test_what_is_inside_is_not_connected_to() -> None:
    with website(routes) as (port, asked):
        assert refused(f"http://inside.example:{port}/a.png")[0] == "url_refused"
        assert refused(f"http://both.example:{port}/a.png")[0] == "url_refused"  # one bad address spoils a name
        assert refused(f"http://127.0.0.1:{port}/a.png", resolve=resolve, allowed=is_public)[0] == "url_refused"
        assert refused(f"http://localhost:{port}/a.png", resolve=resolve, allowed=is_public)[0] == "url_refused"
        for odd in ("2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"):
            assert refused(f"http://{odd}:{port}/a.png", resolve=resolve, allowed=is_public)[0] in {
                "url_refused",
                "url_failed",
            }
        assert asked == []
        assert refused(f"http://public.example:{port}/inside")[0] == "url_refused"
        assert refused(f"http://public.example:{port}/file")[0] == "url_refused"
        assert len(asked) == 2


def test_a_name_that_says_something_else_a_moment_later_gains_nothing() -> None:
    """DNS rebinding: the first look-up is public, all later ones are inside. There is only one, and it is used."""
    looked: list[str] = []

    async def rebind(host: str, port: int) -> list[str]:
        looked.append(host)
        return ["127.0.0.1"] if len(looked) == 1 else ["10.0.0.1"]

    with website(routes) as (port, asked):
        assert fetch(f"http://public.example:{port}/a.png", resolve=rebind) == png(1)
        assert looked == ["public.example"]
        assert refused(f"http://public.example:{port}/a.png", resolve=rebind)[0] == "url_refused"
        looked.clear()
        assert refused(f"http://public.example:{port}/here", resolve=rebind)[0] == "url_refused"  # looked up anew
        assert len(asked) == 2


def test_limits_of_size_time_and_redirects() -> None:
    with website(routes) as (port, asked):
        base = f"http://public.example:{port}"
        assert refused(f"{base}/large")[0] == "image_too_large"
        began = time.monotonic()
        assert refused(f"{base}/slow", seconds=0.3) == ("url_failed", "the URL gave no image in 0.3 seconds")
        assert time.monotonic() - began < 2
        assert "redirects more than 4" in refused(f"{base}/round")[1]
        assert sum("/round" in path for path in asked) == 5
        assert refused(f"{base}/odd") == ("url_failed", "the URL redirects to what is no URL")
        assert "404" in refused(f"{base}/none")[1]
        assert "encoding" in refused(f"{base}/gzip")[1]
        assert refused("http://unknown.example/")[0] == "url_failed"
        assert refused("http://none.example/")[0] == "url_failed"
        assert refused("http://public.example:1/a.png")[0] == "url_failed"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://a.b/c", "gopher://a.b/", "http://", "http:///x", "http://user:secret@a.b/", "http://a.b:99999/",
        "http://a.b/x y", "http://a.b/\r\nX: y", "http://ä.b/", "//a.b/c", "a.b/c", "http://[::1", "http://a.b:0/", "",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_url(url)
    assert caught.value.code == "url_refused"
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for url in (text, f"http://{text}"):
        with suppress(RequestError):
            check_url(url)
            assert url.lower().startswith(("http://", "https://"))
            assert urlsplit(url).hostname


def test_urls_in_requests() -> None:
    with website(routes) as (port, _):
        with serving(config=ServeConfig(allow_url=True), fetcher=fetcher()) as served:
            images = [
                {"url": f"http://public.example:{port}/a.png"}, {"data": b64(png(1))}, {"url": f"http://inside.example:{port}/a.png"},
                {"url": f"http://public.example:{port}/none"}, {"url": f"http://public.example:{port}/large"},
            ]  # fmt: skip
            rows = served.http.post("/v1/score", json={"prompt": "x", "images": images}).json()["results"]
            codes = [row["error"] and row["error"]["code"] for row in rows]
            assert codes == [None, None, "url_refused", "url_failed", "image_too_large"]
            assert rows[0]["score"] == pytest.approx(rows[1]["score"])
            assert served.http.get("/v1/models").json()["urls"] is True
        with serving(config=ServeConfig(allow_url=True)) as served:  # as the command line does it
            rows = served.http.post(
                "/v1/score", json={"prompt": "x", "images": [{"url": f"http://127.0.0.1:{port}/a.png"}]}
            ).json()
            assert rows["results"][0]["error"]["code"] == "url_refused"


def test_waiting_for_a_turn_takes_none_of_the_time_to_fetch() -> None:
    async def run(url: str) -> list[bytes]:
        one = fetcher(seconds=1.8)
        try:
            return await asyncio.gather(*(one.fetch(url) for _ in range(34)))  # 32 at once, a second each
        finally:
            await one.close()

    with website(routes) as (port, _):
        assert asyncio.run(run(f"http://public.example:{port}/second")) == [png(1)] * 34


def test_hosts_that_do_not_answer_leave_others_their_places() -> None:
    """As many images as may wait are at a host that is silent: what needs no fetching is scored as ever."""
    config = ServeConfig(allow_url=True, max_queue=64, fetch_seconds=5)
    with (
        website(routes) as (port, asked),
        serving(config=config, fetcher=fetcher(seconds=5.0)) as served,
        ThreadPoolExecutor(1) as pool,
    ):
        images = [{"url": f"http://public.example:{port}/slow"}] * 64
        job = pool.submit(served.http.post, "/v1/score", json={"prompt": "p", "images": images}, timeout=1)
        while not asked:
            time.sleep(0.01)
        assert served.score(*[png()] * 10).status_code == 200
        assert error(served.http.post("/v1/score", json={"prompt": "p", "images": images[:1]}))[:2] == (429, "busy")
        with suppress(httpx.ReadTimeout):
            job.result()


def test_a_request_fetches_few_images_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        give(handler, 200, png(1))

    with (
        website(answer) as (port, _),
        serving(config=ServeConfig(allow_url=True), fetcher=fetcher(seconds=5)) as served,
    ):
        images = [{"url": f"http://public.example:{port}/"}] * 12
        rows = served.http.post("/v1/score", json={"prompt": "x", "images": images}).json()["results"]
    assert [row["error"] for row in rows] == [None] * 12
    assert 2 <= most <= 4


class PatientScorer(SlowScorer):
    """Prepares when told."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare_now = threading.Event()

    def _prepare(self, image: Any) -> float:
        assert self.prepare_now.wait(20)
        return super()._prepare(image)


def test_bytes_of_urls_are_bounded_until_their_images_are_prepared() -> None:
    config = ServeConfig(allow_url=True, max_body_bytes=90_000, max_pending_bytes=100_000, threads=4)
    scorer = PatientScorer()
    models = {"slow": ServedModel("slow", (scorer,))}
    with (
        website(routes) as (port, _),
        serving(models, config, fetcher=fetcher(seconds=5)) as served,
        ThreadPoolExecutor(1) as pool,
    ):
        admission = served.service.admission

        def ask(count: int) -> Any:
            images = [{"url": f"http://public.example:{port}/heavy"}] * count
            return pool.submit(served.http.post, "/v1/score", json={"prompt": "x", "images": images})

        def until(true: Callable[[], bool]) -> None:
            end = time.monotonic() + 10
            while not true() and time.monotonic() < end:
                time.sleep(0.01)
            assert true()

        asked = ask(4)
        until(lambda: served.metric("images_total", model="slow", outcome="overloaded") == 2)
        assert 80_000 < admission.bytes <= 100_000
        scorer.prepare_now.set()
        assert error(asked.result())[:2] == (503, "overloaded")
        assert asked.result().headers["retry-after"] == "1"
        until(lambda: admission.bytes == 0)
        scorer.go.clear()
        scorer.batches.clear()
        asked = ask(1)
        until(lambda: bool(scorer.batches))  # prepared: only the request's own body is held
        assert admission.bytes < 1000
        scorer.go.set()
        assert asked.result().json()["results"][0]["error"] is None
        until(lambda: admission.bytes == 0)
