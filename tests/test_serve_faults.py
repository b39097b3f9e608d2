"""What goes wrong around a service, on real sockets and processes: stopping, dawdling, leaving, floods."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from humanpref.cli import main
from humanpref.serve.config import ServeConfig
from humanpref.serve.server import bind
from tests.commands import run
from tests.serving import Process, Served, body, png, process, serving, soon
from tests.test_serve import SlowScorer, error, slow

QUICK = ServeConfig(header_seconds=0.6, body_seconds=1.5, idle_seconds=0.6, keep_alive_seconds=1)


def until_closed(connection: socket.socket) -> bytes:
    """What is said until the other side closes."""
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionResetError:
        pass
    return found


def head(length: int, path: str = "/v1/score") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


def settled(served: Served) -> bool:
    """Nothing is held any more."""
    admission = served.service.admission
    return soon(lambda: (admission.images, admission.bytes, admission.requests) == (0, 0, 0))


def let_go(served: Served) -> bool:
    """No image waits any more."""
    return soon(lambda: served.service.admission.images == 0)


# ---- clients that dawdle


def test_half_a_body_is_given_up_and_holds_nothing() -> None:
    with serving(config=QUICK) as served, served.socket() as connection:
        content = json.dumps(body(png())).encode()
        connection.sendall(head(len(content)) + content[: len(content) // 2])
        began = time.monotonic()
        while not served.service.admission.bytes:
            time.sleep(0.01)
        assert served.service.admission.images == 0  # no place in the queue
        said = until_closed(connection)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"body_too_slow"' in said
        assert 0.4 < time.monotonic() - began < 5
        assert settled(served)


def test_a_body_byte_by_byte_is_given_up() -> None:
    with serving(config=QUICK) as served, served.socket() as connection:
        connection.sendall(head(10_000))
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
            while time.monotonic() - began < 10:
                connection.sendall(b"x")
                time.sleep(0.1)
        assert 1.0 < time.monotonic() - began < 6
        assert settled(served)


def test_a_client_that_leaves_in_the_middle_of_a_body_is_forgotten() -> None:
    with serving() as served:
        with served.socket() as connection:
            connection.sendall(head(10_000) + b"x" * 5000)
            while not served.service.admission.bytes:
                time.sleep(0.01)
        assert settled(served)
        assert served.metric("abandoned_total") == 1


@pytest.mark.parametrize("start", [b"", b"GET /", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(start: bytes) -> None:
    with serving(config=QUICK) as served, served.socket() as connection:
        began = time.monotonic()
        connection.sendall(start)
        said = b""
        try:
            connection.settimeout(0.2)
            while time.monotonic() - began < 10:
                try:
                    more = connection.recv(1000)
                except TimeoutError:
                    connection.sendall(b"a" if start.endswith(b"/") else b"")  # a byte now and then does not help
                    continue
                if not more:
                    break
                said += more
        except OSError:
            pass
        assert b"408" in said.split(b"\r\n")[0]
        assert 0.3 < time.monotonic() - began < 5


def test_a_kept_connection_may_not_dawdle_with_its_second_head_either() -> None:
    with serving(config=QUICK) as served, served.socket() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        began = time.monotonic()
        assert b"408" in until_closed(connection)
        assert time.monotonic() - began < 5


def test_many_dawdlers_leave_the_others_their_places() -> None:
    """More slow clients than places in the queue: requests of others are answered as ever."""
    config = ServeConfig(header_seconds=5, idle_seconds=5, max_queue=8, max_images=8)
    with serving(config=config) as served:
        sockets = [served.socket() for _ in range(80)]
        for i, connection in enumerate(sockets):
            connection.sendall(head(100_000) + b"x" * 1000 if i % 2 else b"POST /v1/sc")
        began = time.monotonic()
        assert [served.score(png()).status_code for _ in range(5)] == [200] * 5
        assert time.monotonic() - began < 3
        for connection in sockets:
            connection.close()
        assert settled(served)


def test_too_many_connections_are_told_so() -> None:
    with serving(config=ServeConfig(max_connections=5)) as served:
        sockets = [served.socket() for _ in range(5)]
        time.sleep(0.1)
        with served.socket() as one_more:
            said = until_closed(one_more)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        for connection in sockets:
            connection.close()
        time.sleep(0.1)
        assert served.score(png()).status_code == 200


def test_who_does_not_read_the_answer_is_let_go() -> None:
    """The answer to many images fills the socket's buffers; nothing waits for its reader for ever."""
    scorer = SlowScorer()
    with slow(scorer, idle_seconds=0.6, max_images=1000, max_body_bytes=2**25) as served:
        many = json.dumps({"prompt": "x " * 10_000, "images": [{"data": "", "name": "n" * 300}] * 1000}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", served.port))
            for _ in range(20):  # one after the other on one connection, none of the answers read
                try:
                    connection.settimeout(2)
                    connection.sendall(head(len(many)) + many)
                except OSError:
                    break
            assert settled(served)
        assert served.score(png()).status_code == 200


@pytest.mark.parametrize("last", [b"keep-alive", b"close"])
def test_who_does_not_read_a_little_keeps_no_connection(last: bytes) -> None:
    """The rest of an answer is too short for its writer to wait, and nobody ever reads it."""
    with slow(SlowScorer(), idle_seconds=0.6, keep_alive_seconds=1) as served, socket.socket() as connection:
        many = json.dumps({"prompt": "x", "images": [{"data": "", "name": "n" * 300}] * 24}).encode()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", served.port))
        connections = served.server.server_state.connections
        assert soon(lambda: bool(connections))
        (one,) = connections

        def ask(kind: bytes) -> None:
            answers = served.metric("requests_total", route="/v1/score", status="200")
            connection.sendall(head(len(many)).replace(b"Host: x", b"Host: x\r\nConnection: " + kind) + many)
            assert soon(lambda: served.metric("requests_total", route="/v1/score", status="200") > answers)

        while not one.transport.get_write_buffer_size():  # until the system's buffers are full
            ask(b"keep-alive")
        if last == b"close":
            ask(last)
        assert one._reader is None or last == b"close"  # the writer does not wait
        assert 0 < one.transport.get_write_buffer_size() < 2**16
        began = time.monotonic()
        while connections and time.monotonic() - began < 10:
            time.sleep(0.05)
        assert not connections


def test_a_client_that_has_gone_takes_its_images_with_it() -> None:
    scorer = SlowScorer()
    with slow(scorer, max_batch=1) as served:
        scorer.go.clear()
        content = json.dumps(body(*[png()] * 20)).encode()
        with served.socket() as connection:
            connection.sendall(head(len(content)) + content)
            while served.service.admission.images < 20 or not scorer.batches:
                time.sleep(0.01)
        while served.service.admission.images:
            time.sleep(0.01)
        assert len(served.service.engine.models["slow"].batcher) == 0  # nor does the queue keep what was prepared
        scorer.go.set()
        assert served.score(png()).status_code == 200
        assert len(scorer.batches) <= 3  # what was at the model when its client left, and the new one
        assert served.metric("abandoned_total") == 1


def test_a_client_that_has_gone_is_noticed_after_a_large_body_too() -> None:
    """One that came in one piece, after its head: reading was paused for it."""
    scorer = SlowScorer()
    with slow(scorer, max_batch=1) as served:
        scorer.go.clear()
        content = json.dumps(body(*[png()] * 3) | {"prompt": "x " * 9000}).encode() + b" " * 180_000
        with served.socket() as connection:
            connection.sendall(head(len(content)))
            time.sleep(0.2)
            connection.sendall(content)
            assert soon(lambda: bool(scorer.batches))
        assert let_go(served)
        assert served.metric("abandoned_total") == 1
        scorer.go.set()


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000]
)
def test_what_is_no_http_is_answered_in_the_same_shape(sent: bytes) -> None:
    with serving() as served, served.socket() as connection:
        connection.sendall(sent + b"\r\n\r\n")
        said = until_closed(connection)
        if said:  # a reset may overtake the answer to a flood
            assert said.startswith(b"HTTP/1.1 400 ")
            assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
        assert served.score(png()).status_code == 200


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


def poured(connection: socket.socket, start: bytes, more: bytes) -> tuple[int, bytes]:
    """Send `more` again and again, for ever -> how much of it went, and what was said before it was refused."""
    connection.sendall(start)
    sent = 0
    with suppress(OSError):
        while sent < 2**24:
            sent += connection.send(more)
    return sent, until_closed(connection)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET /", b"y" * 20_000),
        (HEAD + b"X: ", b"y" * 20_000),
        (HEAD, b"X: y\r\n" * 3000),
        (HEAD + b"\r\n" + HEAD + b"X: ", b"y" * 20_000),
        (CHUNKED + b"1;x=", b"y" * 20_000),
        (CHUNKED + b"1\r\n{\r\n0\r\nX: ", b"y" * 20_000),
    ],
    ids=["line", "header", "headers", "second head", "chunk", "trailer"],
)
def test_a_head_that_never_ends_is_not_kept(start: bytes, more: bytes) -> None:
    with serving() as served, served.socket() as connection:
        sent, said = poured(connection, start, more)
        assert sent < 2**24  # what a socket's buffers hold goes too
        assert not said or said.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))  # a reset may overtake it
        assert settled(served)
        assert served.score(png()).status_code == 200


def test_a_head_that_never_ends_is_not_kept_behind_a_request_either() -> None:
    scorer = SlowScorer()
    with slow(scorer) as served, served.socket() as connection:
        scorer.go.clear()
        content = json.dumps(body(png())).encode()
        sent, _ = poured(connection, head(len(content)) + content + HEAD + b"X: ", b"y" * 20_000)
        assert sent < 2**24
        scorer.go.set()
        assert settled(served)
        assert served.score(png()).status_code == 200


def test_long_heads_up_to_the_limit_are_read() -> None:
    with serving() as served:
        for headers in ({"X": "y" * 60_000}, {f"X-{i}": "y" * 50 for i in range(900)}):
            assert served.http.get("/healthz", headers=headers).status_code == 200
        assert error(served.http.get("/healthz", headers={"X": "y" * 66_000}))[:2] == (400, "bad_request")
        many = {f"X-{i}": "y" * 50 for i in range(1300)}
        assert error(served.http.get("/healthz", headers=many))[:2] == (400, "bad_request")


@pytest.mark.parametrize("ahead", [HEAD + b"\r\n", b"GARBAGE\r\n\r\n", b"GET /hea", head(60_000_000) + b"x" * 10_000])
def test_what_is_sent_ahead_is_not_read_and_costs_the_request_nothing(ahead: bytes) -> None:
    scorer = SlowScorer()
    content = json.dumps(body(png())).encode()
    with slow(scorer) as served:
        for cut in (0, len(ahead)):  # with the request, and after it
            scorer.go.clear()
            with served.socket() as connection:
                connection.sendall(head(len(content)) + content + ahead[:cut])
                while served.service.admission.images < 1:
                    time.sleep(0.01)
                connection.sendall(ahead[cut:] or b"\r\n")
                time.sleep(0.1)
                assert served.service.admission.bytes == len(content)
                scorer.go.set()
                said = until_closed(connection)
            assert said.count(b"HTTP/1.1 ") == 1
            assert b'"score":' in said
            assert b"connection: close" in said.lower()
            assert settled(served)


def test_a_flood_that_is_sent_ahead_ends_the_connection_and_its_request() -> None:
    scorer = SlowScorer()
    content = json.dumps(body(*[png()] * 16)).encode()
    with slow(scorer, max_batch=1) as served, served.socket() as connection:
        scorer.go.clear()
        connection.sendall(head(len(content)) + content)
        while served.service.admission.images < 16:
            time.sleep(0.01)
        with pytest.raises(OSError, match=r"reset|Broken"):
            for _ in range(1000):
                connection.sendall((HEAD + b"\r\n") * 1000)
        assert let_go(served)
        scorer.go.set()
        assert settled(served)
        assert len(scorer.batches) <= 3


@pytest.mark.parametrize("ahead", [b"", HEAD + b"\r\n"])
def test_who_goes_away_is_noticed_whatever_was_sent_ahead(ahead: bytes) -> None:
    scorer = SlowScorer()
    content = json.dumps(body(*[png()] * 16)).encode()
    with slow(scorer, max_batch=1) as served:
        scorer.go.clear()
        with served.socket() as connection:
            connection.sendall(head(len(content)) + content + ahead)
            while served.service.admission.images < 16:
                time.sleep(0.01)
        assert let_go(served)
        scorer.go.set()
        assert settled(served)
        assert len(scorer.batches) <= 3


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        CHUNKED.replace(b"chunked", b"gzip\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
        head(38)[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + HEAD + b"\r\n",
        CHUNKED[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + HEAD + b"\r\n",
    ],
    ids=["no host", "two codings", "a list of codings", "upgrade", "upgrade, chunked"],
)
def test_what_a_proxy_may_read_differently_is_refused(sent: bytes) -> None:
    with serving() as served, served.socket() as connection:
        connection.sendall(sent)
        said = until_closed(connection)
        assert said.count(b"HTTP/1.1 ") == 1
        assert said.startswith(b"HTTP/1.1 400 ")


def test_a_body_that_comes_after_an_upgrade_is_no_request() -> None:
    with serving() as served, served.socket() as connection:
        connection.sendall(head(38)[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        time.sleep(0.1)
        with suppress(OSError):
            connection.sendall(HEAD + b"\r\n")
        assert until_closed(connection).count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("path", ["/v1/score%0A", "/v1/models%0a", "/%00"])
def test_paths_with_odd_signs_are_not_found(path: str) -> None:
    with serving() as served, served.socket() as connection:
        connection.sendall(HEAD.replace(b"/healthz", path.encode()) + b"Connection: close\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 404 ")


def test_the_clock_of_a_head_spares_the_request_before_it() -> None:
    scorer = SlowScorer()
    with slow(scorer, header_seconds=0.4, keep_alive_seconds=1) as served, served.socket() as connection:
        scorer.go.clear()
        content = json.dumps(body(png())).encode()
        connection.sendall(head(len(content)) + content + b"GET /hea")
        time.sleep(0.3)
        connection.sendall(b"l")
        time.sleep(0.7)
        scorer.go.set()
        began = time.monotonic()
        said = until_closed(connection)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < 5


def test_who_asks_for_another_protocol_is_answered_in_this_one() -> None:
    more = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with serving() as served, served.socket() as connection:
        connection.sendall(HEAD + more + b"\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_where_none_is_wanted_does_not_keep_the_connection() -> None:
    with serving(config=QUICK) as served, served.socket() as connection:
        connection.sendall(head(10_000, "/healthz") + b"x" * 10)
        assert b"405" in until_closed(connection)


def test_a_body_that_waits_to_be_asked_for_is_refused_without_it() -> None:
    with (
        serving(config=ServeConfig(max_body_bytes=1000, max_image_bytes=1000)) as served,
        served.socket() as connection,
    ):
        connection.sendall(head(5000)[:-2] + b"Expect: 100-continue\r\n\r\n")
        began = time.monotonic()
        assert until_closed(connection).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - began < 1


# ---- starting


def test_a_port_that_is_taken_is_one_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--model", "lite", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"humanpref: port {port} on 127.0.0.1 is taken; choose another (--port)\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "nonsense"], "no scorer is called 'nonsense'"),
        (["--host", "no.such.host.invalid"], "cannot be listened on"),
        (["--api-keys", "/no/such/file"], "API keys cannot be read (No such file or directory)"),
        (["--device", "nonsense=cpu"], "--device nonsense=cpu: nonsense is no scorer"),
        (["--device", "cuda"], "lite has no arch, resize, precision, device, decode or compiled to choose"),
        (["--max-images", "0"], "max_images must be above 0"),
        (["--model", "lite", "--model", "lite"], "lite is named twice"),
    ],
)
def test_bad_starts_are_one_line(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [] if "--model" in options else ["--model", "lite"]
    monkeypatch.setattr(sys, "argv", ["humanpref", "serve", "--port", "0", *named, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert says in said.err.splitlines()[-1]
    assert len(said.err.splitlines()) == 1 + ("--host" in options)  # that nobody needs a key is said, too


def test_a_missing_extra_says_what_to_install() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from humanpref.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", "lite", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'humanpref: serving needs prometheus_client: pip install "humanpref[serve]"\n'


def test_stopping_does_not_wait_for_ever() -> None:
    """A body that never comes, when told to stop: it ends within `drain_seconds`."""
    with serving(config=ServeConfig(drain_seconds=0.7)) as served, served.socket() as connection:
        connection.sendall(head(10_000) + b"x")
        while not served.service.admission.bytes:
            time.sleep(0.01)
        began = time.monotonic()
        served.server.handle_exit(signal.SIGTERM, None)
        served.thread.join(20)
        assert not served.thread.is_alive()
        assert 0.6 < time.monotonic() - began < 6
        said = until_closed(connection)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"draining"' in said


def test_a_second_signal_ends_it_now() -> None:
    with serving(config=ServeConfig(drain_seconds=60)) as served, served.socket() as connection:
        connection.sendall(head(10_000) + b"x")
        while not served.service.admission.bytes:
            time.sleep(0.01)
        served.server.handle_exit(signal.SIGTERM, None)
        served.thread.join(1)
        assert served.thread.is_alive()
        served.server.handle_exit(signal.SIGTERM, None)
        served.thread.join(10)
        assert not served.thread.is_alive()


BUSY = """
from humanpref.cli import main
from humanpref.serve import server
from humanpref.serve.models import ServedModel
from tests.test_serve import SlowScorer
server.load_models = lambda _: {"lite": ServedModel("lite", (SlowScorer(15.0, "lite"),))}
main()
"""


@pytest.mark.parametrize(("drain", "signals"), [pytest.param("0.3", 1, marks=pytest.mark.slow), ("60", 2)])
def test_a_busy_model_does_not_keep_the_process(drain: str, signals: int) -> None:
    options = ("--model", "lite", "--drain-seconds", drain)
    with process(*options, program=("-c", BUSY)) as started, ThreadPoolExecutor(1) as pool:
        started.wait_ready()
        asked = pool.submit(httpx.post, f"{started.url}/v1/score", json=body(png()), timeout=30)
        while gauge(started, "humanpref_queue_images") < 1:
            time.sleep(0.02)
        time.sleep(0.3)  # prepared, and with the model
        began = time.monotonic()
        for _ in range(signals):
            started.terminate()
            time.sleep(0.3)
        assert started.end() == 0
        assert time.monotonic() - began < 8  # the model is busy for 15 seconds
        with suppress(httpx.TransportError):
            assert error(asked.result())[:2] == (503, "draining")


def test_told_to_stop_while_models_load_it_ends_at_once() -> None:
    code = "import time\nfrom humanpref.cli import main\nfrom humanpref.serve import server\n"
    code += "def load(_):\n    print('loading', flush=True)\n    time.sleep(15)\n"
    code += "server.load_models = load\nmain()"
    command = [sys.executable, "-c", code, "serve", "--model", "lite", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "loading\n"
        began = time.monotonic()
        started.terminate()
        said = started.communicate(timeout=20)
        assert (started.returncode, *said) == (0, "", "")
        assert time.monotonic() - began < 5


# ---- a process: many requests, keys, stopping


KEY = "a-key-of-the-environment"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    """`humanpref serve` with a key, which the last test of this file stops."""
    with process("--model", "lite", "--max-queue", "2000", HUMANPREF_API_KEYS=KEY) as started:
        started.wait_ready()
        yield started


def flood(started: Process, count: int, clients: int = 16) -> Counter[int]:
    content = json.dumps(body(png(0, 32, 32))).encode()

    def some(n: int) -> Counter[int]:
        with httpx.Client(base_url=started.url, timeout=60, headers=HEADERS) as client:
            return Counter(client.post("/v1/score", content=content).status_code for _ in range(n))

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(some, [count // clients] * clients), Counter())


def gauge(started: Process, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{started.url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_keys_in_the_environment_are_asked_for(running: Process) -> None:
    assert httpx.post(f"{running.url}/v1/score", json=body(png())).status_code == 401
    assert httpx.post(f"{running.url}/v1/score", json=body(png()), headers=HEADERS).status_code == 200


def test_hundreds_of_small_requests_are_all_answered(running: Process) -> None:
    name = 'humanpref_images_total{model="lite",outcome="scored"}'
    httpx.post(f"{running.url}/v1/score", json=body(png()), headers=HEADERS)
    before = gauge(running, name)
    assert flood(running, 640) == {200: 640}
    assert gauge(running, name) == before + 640


@pytest.mark.slow
def test_ten_thousand_small_requests_are_all_answered_and_memory_stays(running: Process) -> None:
    flood(running, 2000)
    before, files = gauge(running, "process_resident_memory_bytes"), gauge(running, "process_open_fds")
    assert flood(running, 10_000, 50) == {200: 10_000}
    assert gauge(running, "process_resident_memory_bytes") - before < 30 * 2**20
    assert gauge(running, "process_open_fds") <= files + 60


@pytest.mark.slow
def test_told_to_stop_in_the_middle_of_many_requests_none_is_lost(running: Process) -> None:
    """All that were taken in are answered, later ones are refused with 503 or not connected, and the status is 0."""
    started = running
    outcomes: Counter[str] = Counter()
    lock, stopped = threading.Lock(), threading.Event()
    content = json.dumps(body(*[png(i, 256, 256) for i in range(4)])).encode()

    def ask() -> None:
        with httpx.Client(base_url=started.url, timeout=30, headers=HEADERS) as client:
            while True:
                before = stopped.is_set()
                try:
                    reply = client.post("/v1/score", content=content)
                    said = str(reply.status_code)
                    if said == "200":
                        assert all(row["error"] is None for row in reply.json()["results"])
                    else:
                        assert reply.json()["error"]["code"] == "draining"
                        assert "retry-after" in reply.headers
                except httpx.ConnectError:
                    said = "not connected"
                except httpx.TransportError as fault:
                    said = f"{type(fault).__name__} {'after' if before else 'BEFORE'}"
                with lock:
                    outcomes[said] += 1
                if said != "200":
                    return

    with ThreadPoolExecutor(24) as pool:
        jobs = [pool.submit(ask) for _ in range(24)]
        time.sleep(1.5)
        assert httpx.get(f"{started.url}/readyz").status_code == 200
        started.terminate()
        stopped.set()
        time.sleep(0.15)
        late = httpx.get(f"{started.url}/readyz")
        assert error(late)[:2] == (503, "draining")
        assert httpx.get(f"{started.url}/healthz").status_code == 200
        for job in jobs:
            job.result()
    assert started.end() == 0
    assert KEY not in started.said
    assert outcomes["200"] > 24
    assert outcomes["503"] > 0
    assert set(outcomes) <= {"200", "503", "not connected"}, outcomes
